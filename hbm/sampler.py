"""NUTS for many galaxies side by side, in one vectorised program, with jumps between modes.

Each galaxy has its own chains, step size and mass matrix; `jax.vmap` runs all of them in step. A pilot
(`hbm.pilot`) finds the modes; chains start at draws from it, with its covariance as mass matrix. Every
NUTS transition is followed by a few Metropolis-Hastings steps with the pilot's mixture of Gaussians as
independent proposal: they leave the posterior as it is, whatever the mixture, and take chains from one
mode to another, which NUTS cannot.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from hbm.config import ModelConfig
from hbm.coordinates import build_posterior
from hbm.devices import over_devices
from hbm.galaxies import galaxy_axes
from hbm.mixture import Mixture
from hbm.model import GalaxyData
from hbm.pilot import Pilot, PilotConfig, PilotSampler
from hbm.terms import Term

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


class SamplerConfig(NamedTuple):
    """Lengths and switches of the sampler."""

    n_warmup: int = 150
    """Steps that adapt the step size and, from 50 on, show the proposal of the jumps what the pilot has
    missed."""
    n_draw: int = 600
    """Draws kept per chain."""
    n_chain: int = 4
    """Chains per galaxy."""
    n_jump: int = 10
    """Independent proposals after each NUTS transition."""
    target_accept: float = 0.85
    """Acceptance probability of NUTS that the step size aims at."""
    max_tree_depth: int = 3
    """NUTS doubles its path at most this often."""
    n_point: int = 2000
    """Points per round of the pilot."""
    n_round: int = 20
    """Rounds of the pilot at most: it ends some rounds after it has reached the posterior."""
    n_component: int = 6
    """Gaussians in the pilot's mixture."""


class Chains(NamedTuple):
    """Where chains stand, so that they can go on; leaves have a leading galaxy axis."""

    state: Any
    """State of NumPyro's kernel."""
    proposal: Mixture
    """Of the jumps; it does not change any more."""


@jax.jit
def _one_of(chains: Chains, row: Array | int) -> Chains:
    one: Chains = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, row, 1), chains)
    return one


@jax.jit
def side_by_side(parts: list[Chains]) -> Chains:
    """Chains of several galaxies together."""
    stacked: Chains = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    return stacked


class Draws(NamedTuple):
    """Raw output of the sampler."""

    sites: dict[str, np.ndarray]
    """Values of all sites, axes (galaxy, chain, draw, ...)."""
    potential: np.ndarray
    """Minus the log posterior density in unconstrained space, up to a constant; (galaxy, chain, draw)."""
    diverging: np.ndarray
    """True where the integrator diverged; (galaxy, chain, draw)."""
    accept: np.ndarray
    """Acceptance probability; (galaxy, chain, draw)."""
    n_step: np.ndarray
    """Leapfrog steps; (galaxy, chain, draw)."""
    n_jump: np.ndarray
    """Accepted jumps; (galaxy, chain, draw)."""
    pilot_beta: np.ndarray
    """Inverse temperature at which the pilot ended, 1 if it reached the posterior; (galaxy,)."""
    chains: Chains | None = None
    """Where the chains stand; None if they cannot go on."""

    def of(self, row: int) -> "Draws":
        """Those of one galaxy."""
        numbers = jax.tree.map(lambda leaf: leaf[row : row + 1], tuple(self._replace(chains=None)))
        return Draws(*numbers)._replace(chains=None if self.chains is None else _one_of(self.chains, row))

    def followed_by(self, more: "Draws") -> "Draws":
        """Together with later draws of the same chains."""

        def joined(old: Any, new: Any) -> Any:
            return jax.tree.map(lambda a, b: np.concatenate([a, b], axis=2), old, new)

        return Draws(
            joined(self.sites, more.sites), joined(self.potential, more.potential),
            joined(self.diverging, more.diverging), joined(self.accept, more.accept),
            joined(self.n_step, more.n_step), joined(self.n_jump, more.n_jump),
            self.pilot_beta, more.chains,
        )  # fmt: skip


class NutsSampler:
    """NUTS for catalogues of galaxies that share bands and model. Compiles once per number of galaxies.

    A galaxy's draws depend on its data and its key, and, through rounding alone, on how many there are.

    Parameters
    ----------
    config
        What is fitted.
    sampler
        Lengths and switches.
    example
        Data of one galaxy, for the shapes.
    terms
        Likelihoods besides the photometry.
    """

    def __init__(
        self,
        config: ModelConfig,
        sampler: SamplerConfig,
        example: GalaxyData,
        terms: tuple[Term, ...] = (),
    ) -> None:
        for name in ("n_draw", "n_chain", "n_point", "n_round", "n_component"):
            if getattr(sampler, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(sampler, name)}.")
        if sampler.n_warmup < 0 or sampler.n_jump < 0:
            raise ValueError(
                f"`n_warmup` and `n_jump` must be >= 0, got {sampler.n_warmup} and {sampler.n_jump}."
            )
        self.sampler = sampler
        self.posterior = build_posterior(config, example, terms)
        sizes = PilotConfig(sampler.n_point, sampler.n_round, sampler.n_component)
        self._pilot = PilotSampler(np.ones(self.posterior.dim), sizes)
        self._init, self._step = cast(Any, hmc)(
            potential_fn_gen=lambda data: lambda vector: self.posterior.potential(vector, data), algo="NUTS"
        )
        update, pilot = (0, None, 0, 0, 0, 0), self._pilot
        self._propose = over_devices(
            self._propose_points, lambda _proposal, data, _keys: (0, galaxy_axes(data), 0), 0
        )
        self._update = over_devices(jax.vmap(pilot.update, in_axes=update), lambda *_: update, 0)
        self._finish = over_devices(
            jax.vmap(lambda one, key: pilot.finish(one, key, sampler.n_chain)), lambda *_: (0, 0), 0
        )
        self._refit = over_devices(jax.vmap(pilot.refit), lambda *_: (0, 0, 0), 0)
        self._advance = over_devices(
            self._advance_galaxies,
            lambda _state, data, _proposal, _jumps: (0, galaxy_axes(data), 0, 1),
            (0, 1),
        )
        self._constrain_all = over_devices(
            self._constrain_galaxies, lambda _vectors, data: (0, galaxy_axes(data)), 0
        )

    def run(
        self, data: GalaxyData, keys: Array, progress: Progress | None = None, *, longer: bool = False
    ) -> Draws:
        """Sample the posteriors of galaxies stacked by `hbm.galaxies.stack_galaxies`.

        Parameters
        ----------
        data
            The galaxies.
        keys : (galaxy,)
            Source of randomness of each galaxy, which alone its draws depend on.
        progress
            Told how many steps are done.
        longer
            Twice the rounds of the pilot, for galaxies where it or the chains failed before.
        """
        setting = self.sampler
        key_pilot, key_run, key_jump, key_refit = jnp.unstack(_split(keys, 4), axis=1)
        n_round = setting.n_round * (_LONGER_PILOT if longer else 1)
        total = n_round + setting.n_warmup + setting.n_draw

        def tell(done: int) -> None:
            if progress is not None:
                progress(done, total)

        data = jax.device_put(data)
        pilot, explored = self._run_pilot(data, key_pilot, n_round, tell)
        proposal = pilot.proposal
        n_galaxy = pilot.start.shape[0]
        state = self._initial_state(pilot, _split(key_run, setting.n_chain))
        learnt: list[Any] = []
        for first in range(0, setting.n_warmup // _PIECE * _PIECE, _PIECE):
            jumps = self._jumps(proposal, data, _folded(key_jump, first))
            state, output = self._advance(state, data, proposal, jumps)
            learnt.append(jax.device_get(output[0]))
            tell(n_round + first + _PIECE)
        if learnt:  # the last change before draws are kept
            seen = jnp.moveaxis(jnp.asarray(np.concatenate(learnt)), 0, 2)
            seen = seen.reshape(n_galaxy, -1, seen.shape[-1])
            proposal = self._refit(explored, seen, key_refit)
        n_skip = setting.n_warmup % _PIECE
        done = n_round + setting.n_warmup - n_skip
        draws = self._draw(
            data, Chains(state, proposal), _folded(key_jump, 1), n_skip, lambda n: tell(done + n)
        )
        return draws._replace(pilot_beta=np.asarray(pilot.beta))

    def extend(
        self, data: GalaxyData, chains: Chains, keys: Array, progress: Progress | None = None
    ) -> Draws:
        """As many draws again from chains that stand where `run` or `extend` left them.

        Parameters
        ----------
        data
            The galaxies, in the order of the chains.
        chains
            Where they stand.
        keys, progress
            As for `run`.
        """
        total = self.sampler.n_draw

        def tell(done: int) -> None:
            if progress is not None:
                progress(done, total)

        return self._draw(jax.device_put(data), chains, keys, 0, tell)

    def _draw(
        self, data: GalaxyData, chains: Chains, keys: Array, n_skip: int, tell: Callable[[int], None]
    ) -> Draws:
        """Go on from chains, keep the draws after the first ones."""
        state, proposal = chains
        n_step = n_skip + self.sampler.n_draw
        kept: list[Any] = []
        for first in range(0, n_step, _PIECE):
            jumps = self._jumps(proposal, data, _folded(keys, first))
            state, output = self._advance(state, data, proposal, jumps)
            kept.append(jax.device_get(output))
            tell(min(first + _PIECE, n_step))
        vectors, potential, diverging, accept, n_leap, n_jump = (
            np.moveaxis(np.concatenate(parts)[n_skip:n_step], 0, 2) for parts in zip(*kept, strict=True)
        )
        sites = self._constrain_all(jnp.asarray(vectors), data)
        values = {name: np.asarray(value) for name, value in sites.items()}
        beta = np.ones(len(potential))
        return Draws(values, potential, diverging, accept, n_leap, n_jump, beta, Chains(state, proposal))

    def _run_pilot(
        self, data: GalaxyData, keys: Array, n_round: int, tell: Callable[[int], None]
    ) -> tuple[Pilot, Any]:
        """Pilot of all galaxies."""
        n_galaxy = int(np.shape(data.flux)[0])

        def for_all(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n_galaxy, *leaf.shape)), tree)

        state, proposal = for_all(self._pilot.empty()), for_all(self._pilot.reference)
        for i in range(n_round):
            key_points, key_fit = jnp.unstack(_split(_folded(keys, i), 2), axis=1)
            x, potential = self._propose(proposal, data, key_points)
            state, proposal = self._update(state, jnp.asarray(i), proposal, x, potential, key_fit)
            is_done = bool(np.all(jax.device_get(state.is_settled)))  # waits for the work
            tell(n_round if is_done else i + 1)
            if is_done:
                break
        pilot = self._finish(state, _folded(keys, n_round))
        return pilot, state

    def _propose_points(
        self, proposal: Mixture, data: GalaxyData, keys: Array
    ) -> tuple[Float[Array, "galaxy point dim"], Float[Array, "galaxy point"]]:
        """Draws of a proposal and their potential; one key per galaxy."""

        def one(mine: Mixture, galaxy: GalaxyData, key: Array) -> tuple[Array, Array]:
            x = mine.sample(key, self.sampler.n_point)
            return x, jax.vmap(self.posterior.potential, in_axes=(0, None))(x, galaxy)

        return jax.vmap(one, in_axes=(0, galaxy_axes(data), 0))(proposal, data, keys)

    def _jumps(
        self, proposal: Mixture, data: GalaxyData, keys: Array
    ) -> tuple[Float[Array, "step galaxy chain jump dim"], Float[Array, "step galaxy chain jump"]]:
        """Proposals for a piece of the chains and their potential: they do not depend on the chains."""
        setting = self.sampler
        shape = (_PIECE, setting.n_chain, setting.n_jump)
        n_galaxy, dim = proposal.mean.shape[0], proposal.mean.shape[-1]
        if setting.n_jump == 0:
            return jnp.zeros((_PIECE, n_galaxy, *shape[1:], dim)), jnp.zeros((_PIECE, n_galaxy, *shape[1:]))
        n_call = -(-int(np.prod(shape)) // setting.n_point)
        parts = [self._propose(proposal, data, _folded(keys, i)) for i in range(n_call)]
        x, potential = (
            jnp.concatenate(part, axis=1)[:, : np.prod(shape)] for part in zip(*parts, strict=True)
        )
        return (
            jnp.moveaxis(x.reshape(n_galaxy, *shape, dim), 0, 1),
            jnp.moveaxis(potential.reshape(n_galaxy, *shape), 0, 1),
        )

    def _initial_state(self, pilot: Pilot, keys: Array) -> Any:
        """State of NumPyro's kernel; not under jit, because the kernel keeps constants from this call.

        Energy and gradient are placeholders: every step begins by computing them.
        """
        setting = self.sampler

        def initial(vector: Array, covariance: Array, key: Array) -> Any:
            return self._init(
                ParamInfo(vector, jnp.zeros(()), jnp.zeros_like(vector)),
                setting.n_warmup,
                step_size=0.3,
                inverse_mass_matrix=covariance,
                dense_mass=True,
                adapt_mass_matrix=False,
                target_accept_prob=setting.target_accept,
                max_tree_depth=setting.max_tree_depth,
                model_args=(None,),
                rng_key=key,
            )

        by_chain = jax.vmap(initial, in_axes=(0, None, 0))
        return jax.vmap(by_chain)(pilot.start, pilot.covariance, keys)

    def _advance_galaxies(
        self, state: Any, data: GalaxyData, proposal: Mixture, jumps: tuple[Array, Array]
    ) -> tuple[Any, tuple[Array, ...]]:
        """Some steps of all chains; outputs have axes (step, galaxy, chain, ...)."""
        kernel: Any = self._step

        def one(
            state: Any, galaxy: GalaxyData, mine: Mixture, x: Array, potential: Array
        ) -> tuple[Any, tuple[Array, ...]]:
            energy, slope = jax.value_and_grad(self.posterior.potential)(state.z, galaxy)
            new = kernel(state._replace(potential_energy=energy, z_grad=slope), (galaxy,), {})
            key, key_jump = jax.random.split(new.rng_key)
            z, energy, n_jump = jumped(mine, new.z, new.potential_energy, x, potential, key_jump)
            new = new._replace(z=z, potential_energy=energy, rng_key=key)
            return new, (z, energy, new.diverging, new.accept_prob, new.num_steps, n_jump)

        by_chain = jax.vmap(one, in_axes=(0, None, None, 0, 0))
        step = jax.vmap(by_chain, in_axes=(0, galaxy_axes(data), 0, 0, 0))

        def body(carry: Any, jump: tuple[Array, Array]) -> tuple[Any, tuple[Array, ...]]:
            result: tuple[Any, tuple[Array, ...]] = step(carry, data, proposal, *jump)
            return result

        return jax.lax.scan(body, state, jumps)

    def _constrain_galaxies(
        self, vectors: Float[Array, "galaxy chain draw dim"], data: GalaxyData
    ) -> dict[str, Array]:
        by_draw = jax.vmap(jax.vmap(self.posterior.constrain, in_axes=(0, None)), in_axes=(0, None))
        return jax.vmap(by_draw, in_axes=(0, galaxy_axes(data)))(vectors, data)


def jumped(
    proposal: Mixture,
    z: Float[Array, " dim"],
    energy: Float[Array, ""],
    x: Float[Array, "jump dim"],
    potential: Float[Array, " jump"],
    key: Array,
) -> tuple[Float[Array, " dim"], Float[Array, ""], Array]:
    """Metropolis-Hastings steps with independent proposals (Tierney 1994, Ann. Statist. 22, 1701).

    Parameters
    ----------
    proposal
        Distribution of the proposals.
    z, energy
        Where the chain is, and its potential there.
    x, potential
        Draws of the proposal and their potential.
    key
        Source of randomness.

    Returns
    -------
    position, potential, number of accepted jumps
    """
    n_jump = x.shape[0]
    if n_jump == 0:
        return z, energy, jnp.zeros((), int)
    # The chain takes a proposal with probability exp(ratio - ratio here), at most 1.
    here = -energy - proposal.log_prob(z[None])[0]
    ratio = -potential - proposal.log_prob(x)
    threshold = jnp.log(jax.random.uniform(key, (n_jump,), minval=1e-30))

    def consider(current: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], Array]:
        best, value = current
        accept = threshold[i] < ratio[i] - value
        return (jnp.where(accept, i, best), jnp.where(accept, ratio[i], value)), accept

    (index, _), accepted = jax.lax.scan(consider, (jnp.asarray(-1), here), jnp.arange(n_jump))
    is_moved, index = index >= 0, jnp.maximum(index, 0)
    return (
        jnp.where(is_moved, x[index], z),
        jnp.where(is_moved, potential[index], energy),
        jnp.sum(accepted),
    )


@partial(jax.jit, static_argnums=1)
def _split(keys: Array, n: int) -> Array:
    """Keys (galaxy, n) from one key per galaxy."""
    result: Array = jax.vmap(lambda key: jax.random.split(key, n))(keys)
    return result


@jax.jit
def _folded(keys: Array, i: Array | int) -> Array:
    """Each galaxy's key with a number folded in."""
    result: Array = jax.vmap(lambda key: jax.random.fold_in(key, i))(keys)
    return result


_PIECE = 50
"""Steps between two reports of progress."""

_LONGER_PILOT = 2
"""A longer pilot has this many times the rounds."""
