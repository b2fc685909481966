r"""A first picture of a posterior: where its modes are, how they weigh, how wide they are.

Adaptive importance sampling through tempered targets: from a broad Gaussian r(x) at temperature 0 to the
posterior at 1,

.. math:: \pi_\beta(x) \propto r(x)^{1-\beta} e^{-\beta U(x)}.

Each round chooses the largest beta at which the points so far still have an effective sample size, fits a
mixture of Gaussians to them and draws new points from it. Points of several rounds are weighted against
the mean of their proposals (Cornuet et al. 2012, Scand. J. Stat. 39, 798; mixtures as in Cappe et al. 2008,
Stat. Comput. 18, 447). It needs no gradients, and the posterior's modes get starting points in proportion,
which chains started at optima do not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int

from hbm.mixture import FLOOR, Mixture, as_proposal, fit_mixture, moments, standard_mixture

_WINDOW = 5
"""Rounds whose points are kept."""

_TARGET = 0.2
"""Effective sample size that sets the next temperature, in points of a round."""

SETTLED = 5
"""Rounds at the posterior, counted from the one that reached it, after which a pilot changes no more."""

_HUGE = 1e10
_N_BISECT = 30


class PilotConfig(NamedTuple):
    """Size of the pilot."""

    n_point: int = 2000
    """Points per round."""
    n_round: int = 20
    """Rounds at most."""
    n_component: int = 6
    """Gaussians of the mixture, apart from the broad one."""


class PilotState(NamedTuple):
    """One galaxy's pilot between rounds."""

    x: Float[Array, "window point dim"]
    potential: Float[Array, "window point"]
    logq: Float[Array, "window window point"]
    """Log density of each kept proposal (first axis) at each kept point."""
    proposal: Mixture
    """Kept proposals, stacked."""
    filled: Bool[Array, " window"]
    beta: Float[Array, ""]
    n_full: Int[Array, ""]
    """Rounds at the posterior."""

    @property
    def is_settled(self) -> Bool[Array, "..."]:
        """Whether further rounds change nothing."""
        return self.n_full >= SETTLED


class Pilot(NamedTuple):
    """What is known of one galaxy's posterior before the chains start."""

    start: Float[Array, "chain dim"]
    """Points drawn from it."""
    covariance: Float[Array, "dim dim"]
    """Its covariance."""
    proposal: Mixture
    """Its approximation."""
    beta: Float[Array, ""]
    """1 if the target was reached."""
    ess: Float[Array, ""]
    """Effective sample size of the points kept."""


class PilotSampler:
    """Rounds of the pilot for one galaxy; the methods may be vmapped. The caller evaluates the potential.

    Parameters
    ----------
    scale
        Standard deviations of the Gaussian at temperature 0.
    config
        Sizes.
    """

    def __init__(self, scale: Float[np.ndarray, " dim"], config: PilotConfig) -> None:
        self.config = config
        self.reference = standard_mixture(jnp.asarray(scale, jnp.result_type(float)), config.n_component + 1)

    def empty(self) -> PilotState:
        """State before any points."""
        n, dim = self.config.n_point, self.reference.mean.shape[1]
        return PilotState(
            jnp.zeros((_WINDOW, n, dim)),
            jnp.full((_WINDOW, n), _HUGE),
            jnp.zeros((_WINDOW, _WINDOW, n)),
            jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (_WINDOW, *leaf.shape)), self.reference),
            jnp.zeros(_WINDOW, bool),
            jnp.zeros(()),
            jnp.zeros((), int),
        )

    def update(
        self,
        state: PilotState,
        i: Array,
        proposal: Mixture,
        x: Float[Array, "point dim"],
        potential: Float[Array, " point"],
        key: Array,
    ) -> tuple[PilotState, Mixture]:
        """Put the points of round ``i`` in place of the oldest ones, and make the next proposal.

        A galaxy that has settled stays as it is, whatever the others beside it still do.

        Parameters
        ----------
        state
            Before the round.
        i
            Number of the round, from 0.
        proposal
            Where the points come from: `reference` in round 0, then what the last call returned.
        x, potential
            Points and minus their log density, up to a constant; infinite where it is zero.
        key
            Source of randomness.
        """
        before, slot = state, i % _WINDOW
        potential = jnp.where(jnp.isfinite(potential), jnp.minimum(potential, _HUGE), _HUGE)
        points = state.x.at[slot].set(x)
        proposals = jax.tree.map(lambda kept, new: kept.at[slot].set(new), state.proposal, proposal)
        at_new = jax.vmap(lambda kept: kept.log_prob(x))(proposals)
        of_new = proposal.log_prob(points.reshape(-1, x.shape[-1])).reshape(points.shape[:2])
        state = PilotState(
            points,
            state.potential.at[slot].set(potential),
            state.logq.at[:, slot].set(at_new).at[slot].set(of_new),
            proposals,
            state.filled.at[slot].set(True),
            state.beta,
            state.n_full,
        )
        base, slope = self._terms(state)
        beta = self._next_beta(state.beta, base, slope)
        state = state._replace(beta=beta, n_full=state.n_full + (beta >= 1))
        following, _ = self._fit(state, base + state.beta * slope, key)
        kept: tuple[PilotState, Mixture] = jax.tree.map(
            lambda old, new: jnp.where(before.is_settled, old, new), (before, proposal), (state, following)
        )
        return kept

    def finish(self, state: PilotState, key: Array, n_chain: int) -> Pilot:
        """Starting points, covariance and proposal."""
        key_fit, key_start = jax.random.split(key)
        base, slope = self._terms(state)
        log_weight = base + state.beta * slope
        proposal, covariance = self._fit(state, log_weight, key_fit)
        start = _resampled(key_start, state.x, log_weight, n_chain)
        covariance = covariance + FLOOR * jnp.eye(covariance.shape[0])
        return Pilot(start, covariance, proposal, state.beta, _ess(log_weight))

    def refit(self, state: PilotState, points: Float[Array, "point dim"], key: Array) -> Mixture:
        """Proposal that also covers points which chains have reached: tails that the pilot has missed."""
        key_points, key_fit = jax.random.split(key)
        base, slope = self._terms(state)
        ours = _resampled(key_points, state.x, base + state.beta * slope, self.config.n_point)
        union = jnp.concatenate([ours, points])
        mixture = fit_mixture(key_fit, union, self.config.n_component)
        return as_proposal(mixture, *moments(union, jnp.full(len(union), 1.0 / len(union))))

    def _terms(self, state: PilotState) -> tuple[Array, Array]:
        """Log weights of the kept points are ``a + beta * b``, up to a constant: a and b."""
        every = jnp.where(state.filled[:, None, None], state.logq, -jnp.inf)
        mixed = logsumexp(every, axis=0)
        at_reference = self.reference.log_prob(state.x.reshape(-1, state.x.shape[-1])).reshape(mixed.shape)
        base = jnp.where(state.filled[:, None], at_reference - mixed, -jnp.inf)
        return base, -at_reference - state.potential

    def _next_beta(self, beta: Array, base: Array, slope: Array) -> Array:
        """Largest temperature with the wanted effective sample size, by bisection; never a lower one."""
        target = _TARGET * self.config.n_point

        def halve(ends: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            low, high = ends
            middle = 0.5 * (low + high)
            enough = _ess(base + middle * slope) >= target
            return (jnp.where(enough, middle, low), jnp.where(enough, high, middle)), None

        one = jnp.ones(())
        (low, _), _ = jax.lax.scan(halve, (beta, one), None, length=_N_BISECT)
        return jnp.where(_ess(base + slope) >= target, one, low)

    def _fit(self, state: PilotState, log_weight: Array, key: Array) -> tuple[Mixture, Array]:
        """Proposal and covariance from weighted points."""
        key_points, key_fit = jax.random.split(key)
        points = _resampled(key_points, state.x, log_weight, self.config.n_point)
        mixture = fit_mixture(key_fit, points, self.config.n_component)
        flat = state.x.reshape(-1, state.x.shape[-1])
        mean, covariance = moments(flat, jax.nn.softmax(log_weight.reshape(-1)))
        return as_proposal(mixture, mean, covariance), covariance


def _ess(log_weight: Float[Array, "..."]) -> Float[Array, ""]:
    """Effective sample size of weighted points (Kish)."""
    weight = jnp.exp(log_weight - jnp.max(log_weight))
    return jnp.sum(weight) ** 2 / jnp.sum(weight**2)


def _resampled(
    key: Array, x: Float[Array, "window point dim"], log_weight: Float[Array, "window point"], n: int
) -> Float[Array, "new dim"]:
    """Points of equal weight, by systematic resampling, in the order of the points given."""
    total = jnp.cumsum(jax.nn.softmax(log_weight.reshape(-1)))
    place = (jnp.arange(n) + jax.random.uniform(key)) / n * total[-1]
    index = jnp.clip(jnp.searchsorted(total, place), 0, total.shape[0] - 1)
    return x.reshape(-1, x.shape[-1])[index]
