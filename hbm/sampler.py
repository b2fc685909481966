"""NUTS for many galaxies side by side, in one vectorised program.

Each galaxy has its own chains, step size and mass matrix; `jax.vmap` runs all of them in step. Chains
start from the best of many prior draws after a short optimisation, apart from each other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from hbm.config import ModelConfig
from hbm.coordinates import build_posterior
from hbm.galaxies import galaxy_axes
from hbm.model import GalaxyData

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


class SamplerConfig(NamedTuple):
    """Lengths and switches of the sampler."""

    n_warmup: int = 500
    """Steps that adapt step size and mass matrix."""
    n_draw: int = 600
    """Draws kept per chain."""
    n_chain: int = 4
    """Chains per galaxy."""
    target_accept: float = 0.85
    """Acceptance probability that the step size aims at."""
    max_tree_depth: int = 8
    """NUTS doubles its path at most this often."""
    n_start: int = 128
    """Prior draws from which starting points are chosen."""
    n_optimise: int = 150
    """Steps of the optimiser from each starting point."""


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


class NutsSampler:
    """NUTS for catalogues of galaxies that share bands and model. Compiles once per number of galaxies.

    Parameters
    ----------
    config
        What is fitted.
    sampler
        Lengths and switches.
    example
        Data of one galaxy, for the shapes.
    """

    def __init__(
        self,
        config: ModelConfig,
        sampler: SamplerConfig,
        example: GalaxyData,
    ) -> None:
        if sampler.n_start < sampler.n_chain:
            raise ValueError(
                f"`n_start` must be at least `n_chain`, got {sampler.n_start} and {sampler.n_chain}."
            )
        self.sampler = sampler
        self.posterior = build_posterior(config, example)
        self._init, self._step = cast(Any, hmc)(
            potential_fn_gen=lambda data: lambda vector: self.posterior.potential(vector, data), algo="NUTS"
        )
        self._value_and_grad = jax.jit(self._values_and_gradients)
        self._advance = jax.jit(self._advance_galaxies, static_argnames="length")
        self._constrain_all = jax.jit(self._constrain_galaxies)

    def run(
        self, data: GalaxyData, key: Array, progress: Progress | None = None, *, factor: int = 1
    ) -> Draws:
        """Sample the posteriors of galaxies stacked by `hbm.galaxies.stack_galaxies`.

        Parameters
        ----------
        data
            The galaxies.
        key
            Source of randomness.
        progress
            Told how many steps are done.
        factor
            Multiplies the number of draws.
        """
        n_galaxy = int(np.shape(data.flux)[0])
        setting = self.sampler
        key_start, key_run = jax.random.split(key)
        keys = jax.random.split(key_run, (n_galaxy, setting.n_chain))
        data = jax.device_put(data)
        state = self._initial_state(self._start(data, key_start), keys)
        total = setting.n_warmup + factor * setting.n_draw
        kept: list[Any] = []
        done = 0
        while done < total:
            end = setting.n_warmup if done < setting.n_warmup else total
            length = min(_PIECE, end - done)
            state, output = self._advance(state, data, length=length)
            done += length
            if done > setting.n_warmup:
                kept.append(jax.device_get(output))
            if progress is not None:
                state.z.block_until_ready()
                progress(done, total)
        vectors, potential, diverging, accept, n_step = (
            np.moveaxis(np.concatenate(parts), 0, 2) for parts in zip(*kept, strict=True)
        )
        sites = self._constrain_all(jnp.asarray(vectors), data)
        return Draws({k: np.asarray(v) for k, v in sites.items()}, potential, diverging, accept, n_step)

    def _values_and_gradients(
        self, vectors: Float[Array, "galaxy chain dim"], data: GalaxyData
    ) -> tuple[Float[Array, "galaxy chain"], Float[Array, "galaxy chain dim"]]:
        by_chain = jax.vmap(jax.value_and_grad(self.posterior.potential), in_axes=(0, None))
        return jax.vmap(by_chain, in_axes=(0, galaxy_axes(data)))(vectors, data)

    def _start(self, data: GalaxyData, key: Array) -> tuple[Array, Array, Array, Array]:
        """Starting vectors, their potentials, gradients and rough covariances; (galaxy, chain, ...).

        Each chain takes the best of its own ``n_start / n_chain`` prior draws (the prior is standard
        normal in these coordinates) and improves it by Adam, so that chains begin apart.
        """
        setting, dim = self.sampler, self.posterior.dim
        n_galaxy = int(np.shape(data.flux)[0])
        rounds = max(1, setting.n_start // setting.n_chain)
        shape = (n_galaxy, setting.n_chain)
        best, best_energy = jnp.zeros((*shape, dim)), jnp.full(shape, jnp.inf)
        for round_key in jax.random.split(key, rounds):
            draw = jax.random.normal(round_key, best.shape)
            energy, _ = self._value_and_grad(draw, data)
            best = jnp.where((energy < best_energy)[..., None], draw, best)
            best_energy = jnp.minimum(energy, best_energy)
        vectors = self._optimise(best, data)
        energy, slope = self._value_and_grad(vectors, data)
        return vectors, energy, slope, self._covariance(vectors, data)

    def _optimise(self, vectors: Array, data: GalaxyData) -> Array:
        """Best point of each chain's path under Adam."""
        length = self.sampler.n_optimise
        first = second = jnp.zeros_like(vectors)
        best, best_energy = vectors, jnp.full(vectors.shape[:2], jnp.inf)
        for i in range(length):
            energy, slope = self._value_and_grad(vectors, data)
            better = energy < best_energy
            best = jnp.where(better[..., None], vectors, best)
            best_energy = jnp.where(better, energy, best_energy)
            slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
            first, second = 0.9 * first + 0.1 * slope, 0.98 * second + 0.02 * slope**2
            scale = 0.05 * (1 + np.cos(np.pi * i / length))
            step = (first / (1 - 0.9 ** (i + 1))) / (jnp.sqrt(second / (1 - 0.98 ** (i + 1))) + 1e-8)
            vectors = vectors - scale * step
        return best

    def _covariance(self, vectors: Array, data: GalaxyData) -> Array:
        """Inverse curvature at the vectors by central differences of the gradient.

        The prior is standard normal, so directions are held to that width and slightly beyond.
        """
        dim, step = self.posterior.dim, 0.02
        rows = []
        for unit in np.eye(dim, dtype=np.float32) * step:
            upper = self._value_and_grad(vectors + unit, data)[1]
            lower = self._value_and_grad(vectors - unit, data)[1]
            rows.append((upper - lower) / (2 * step))
        curvature = np.stack([np.asarray(row, np.float64) for row in rows], axis=-1)
        curvature = np.where(np.isfinite(curvature), curvature, 0.0)
        value, direction = np.linalg.eigh(0.5 * (curvature + np.swapaxes(curvature, -1, -2)))
        covariance = np.einsum("...ij,...j,...kj->...ik", direction, 1 / np.clip(value, 0.7, None), direction)
        return jnp.asarray(covariance, vectors.dtype)

    def _initial_state(self, start: tuple[Array, Array, Array, Array], keys: Array) -> Any:
        """State of NumPyro's kernel; not under jit, because the kernel keeps constants from this call."""
        setting = self.sampler

        def initial(vector: Array, energy: Array, slope: Array, covariance: Array, key: Array) -> Any:
            return self._init(
                ParamInfo(vector, energy, slope),
                setting.n_warmup,
                step_size=0.5,
                inverse_mass_matrix=covariance,
                dense_mass=True,
                target_accept_prob=setting.target_accept,
                max_tree_depth=(min(_WARMUP_DEPTH, setting.max_tree_depth), setting.max_tree_depth),
                model_args=(None,),
                rng_key=key,
            )

        return jax.vmap(jax.vmap(initial))(*start, keys)

    def _advance_galaxies(self, state: Any, data: GalaxyData, length: int) -> tuple[Any, tuple[Array, ...]]:
        """Some steps of all chains; outputs have axes (step, galaxy, chain, ...)."""
        kernel: Any = self._step
        by_chain = jax.vmap(lambda one, galaxy: kernel(one, (galaxy,), {}), in_axes=(0, None))
        step = jax.vmap(by_chain, in_axes=(0, galaxy_axes(data)))

        def body(carry: Any, _: None) -> tuple[Any, tuple[Array, ...]]:
            new = step(carry, data)  # type: ignore[no-untyped-call]
            return new, (new.z, new.potential_energy, new.diverging, new.accept_prob, new.num_steps)

        return jax.lax.scan(body, state, None, length=length)

    def _constrain_galaxies(
        self, vectors: Float[Array, "galaxy chain draw dim"], data: GalaxyData
    ) -> dict[str, Array]:
        by_draw = jax.vmap(jax.vmap(self.posterior.constrain, in_axes=(0, None)), in_axes=(0, None))
        return jax.vmap(by_draw, in_axes=(0, galaxy_axes(data)))(vectors, data)


_PIECE = 50
"""Steps between two reports of progress."""

_WARMUP_DEPTH = 6
"""Limit of the tree depth while step sizes are still being adapted."""
