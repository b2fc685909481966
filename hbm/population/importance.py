"""Hyperparameters by adaptive importance sampling: no chains, no gradients but for where it begins.

About twenty hyperparameters of hundreds of galaxies have a posterior that a mixture of Student t
distributions resembles closely. Then draws from the mixture with weights need far fewer evaluations of the
density than chains, and none of its slope. How good that is the weights tell: their effective number and
Pareto k.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float

from hbm.adaptive import StudentMixture, adapt, importance_sample

ValueAndSlope = Callable[[Float[np.ndarray, " dim"]], tuple[float, Float[np.ndarray, " dim"]]]

_LEAST_CURVATURE = 0.3
"""Of an energy whose prior alone has about one."""
_STEP = 0.02
"""Of differences: unknowns are in units of the widths of their priors."""
_NEAR = 10.0
"""nats above the best beyond which another optimum is left out."""
_APART = 0.1
"""Optima that are nearer in all unknowns are one."""
EXCLUDED = 1e9
"""Energies from here on stand for infinity."""
_PARTS = ((0.8, 0.4), (1.5, 0.3), (4.0, 0.2), (10.0, 0.1))
"""Variances of the parts of the first proposal, in units of that of the optimum, and their weights."""
_HOPELESS = 0.003
"""Part of the draws that must be effective after adaptation, or it is given up."""


class ImportanceConfig(NamedTuple):
    """Sizes of the sampler."""

    n_point: int | None = None
    """Points of a round; by default 1,000 to 4,000, more where a density costs less."""
    n_round: int = 12
    """Rounds of adaptation at most."""
    n_batch: int = 12
    """Rounds of draws at most."""
    effective: float = 1200.0
    """Enough effective draws."""
    n_start: int = 10
    """Points from which optima are sought: draws from the hyperpriors."""


class ImportanceDraws(NamedTuple):
    """Draws of equal weight."""

    vectors: Float[np.ndarray, "draw dim"]
    effective: float
    """Effective number of draws: of the weights, with what resampling costs."""
    k: float
    """Pareto k of the weights: below 0.7 they can be trusted."""
    n_evaluation: int
    """Vectors at which the density was evaluated."""
    kish: float
    """Effective number of draws by the weights alone."""


def optima(
    rough: ValueAndSlope, full: ValueAndSlope, starts: Float[np.ndarray, "start dim"]
) -> list[tuple[float, Float[np.ndarray, " dim"]]]:
    """Lowest energies found from some starts, the best first: by a rough version of it, then by itself.

    Where the energy is not finite at an optimum of the rough one, it is sought from the start.
    """
    begun: list[tuple[np.ndarray, np.ndarray]] = []
    for start in starts:
        x = _descended(rough, start, 300)[1]
        if all(np.abs(x - other).max() > _APART for other, _ in begun):
            begun.append((x, start))
    found: list[tuple[float, np.ndarray]] = []
    for x, start in begun:
        energy, there = _descended(full, x if full(x)[0] < EXCLUDED else start, 100)
        if energy < EXCLUDED:
            found.append((energy, there))
    found.sort(key=lambda one: one[0])
    kept: list[tuple[float, np.ndarray]] = []
    for energy, x in found:
        if energy < found[0][0] + _NEAR and all(np.abs(x - other).max() > _APART for _, other in kept):
            kept.append((energy, x))
    return kept


def _descended(function: ValueAndSlope, x: np.ndarray, n_step: int) -> tuple[float, np.ndarray]:
    found = scipy.optimize.minimize(function, x, jac=True, method="L-BFGS-B", options={"maxiter": n_step})
    return float(found.fun), np.asarray(found.x)


def sample(
    log_density: Callable[[Float[np.ndarray, "point dim"]], Float[np.ndarray, " point"]],
    best: list[tuple[float, Float[np.ndarray, " dim"]]],
    rough: ValueAndSlope,
    n_draw: int,
    n_point: int,
    config: ImportanceConfig,
    rng: np.random.Generator,
    *,
    largest_k: float,
) -> ImportanceDraws:
    """Draws of hyperparameters.

    Parameters
    ----------
    log_density
        Of many vectors, nats.
    best
        Lowest energies and their places, of `optima`.
    rough
        The energy or a rough version of it, for the curvature there.
    n_draw
        Draws wanted.
    n_point
        Points of a round.
    config
        Sizes.
    rng
        Source of randomness.
    largest_k
        Of weights that can be trusted.

    Raises
    ------
    ValueError
        If there is no optimum, or the density is zero at all draws.
    """
    if not best:
        raise ValueError("`best` must hold an optimum.")
    weight, mean, scale = [], [], []
    for energy, x in best:
        covariance = _inverse(_curvature(rough, x))
        for width, share in _PARTS:
            weight.append(share * np.exp(best[0][0] - energy))
            mean.append(x)
            scale.append(width * covariance)
    first = StudentMixture(np.array(weight) / np.sum(weight), np.array(mean), np.array(scale))
    n_evaluation = 0

    def counted(x: Float[np.ndarray, "point dim"]) -> Float[np.ndarray, " point"]:
        nonlocal n_evaluation
        n_evaluation += len(x)
        return log_density(x)

    proposal = adapt(counted, first, rng, n_point=n_point, n_round=config.n_round)
    found = importance_sample(
        counted, proposal, rng,
        n_point=n_point, n_batch=config.n_batch, effective=config.effective, largest_k=largest_k,
        hopeless=_HOPELESS,
    )  # fmt: skip
    effective = found.effective_resampled(n_draw)
    return ImportanceDraws(found.resampled(rng, n_draw), effective, found.k, n_evaluation, found.effective)


def _curvature(rough: ValueAndSlope, x: Float[np.ndarray, " dim"]) -> Float[np.ndarray, "dim dim"]:
    """Second derivatives, by differences of slopes."""
    rows = []
    for step in _STEP * np.eye(len(x)):
        rows.append((rough(x + step)[1] - rough(x - step)[1]) / (2 * _STEP))
    return np.array(rows)


def _inverse(curvature: Float[np.ndarray, "dim dim"]) -> Float[np.ndarray, "dim dim"]:
    """Covariance of a curvature that may be wrong: what is flat or bent the other way becomes wide."""
    symmetric = 0.5 * (curvature + curvature.T)
    value, vector = np.linalg.eigh(np.where(np.isfinite(symmetric), symmetric, 0.0))
    return np.asarray((vector / np.clip(value, _LEAST_CURVATURE, 1e8 * _LEAST_CURVATURE)) @ vector.T)
