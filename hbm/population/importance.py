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
_WIDER = 4.0
"""Variance of the wide part of the first proposal, in units of that of the optimum."""


class ImportanceConfig(NamedTuple):
    """Sizes of the sampler."""

    n_point: int = 1000
    """Points of a round."""
    n_round: int = 12
    """Rounds of adaptation at most."""
    n_batch: int = 12
    """Rounds of draws at most."""
    effective: float = 1200.0
    """Enough effective draws."""


class ImportanceDraws(NamedTuple):
    """Draws of equal weight."""

    vectors: Float[np.ndarray, "draw dim"]
    effective: float
    """Effective number of draws."""
    k: float
    """Pareto k of the weights: below 0.7 they can be trusted."""
    n_evaluation: int
    """Vectors at which the density was evaluated."""


def optima(
    rough: ValueAndSlope, full: ValueAndSlope, starts: Float[np.ndarray, "start dim"]
) -> list[tuple[float, Float[np.ndarray, " dim"]]]:
    """Lowest energies found from some starts, the best first: by a rough version of it, then by itself."""
    found: list[tuple[float, np.ndarray]] = []
    for start in starts:
        first = scipy.optimize.minimize(rough, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
        if np.isfinite(first.fun):
            found.append((float(first.fun), np.asarray(first.x)))
    found.sort(key=lambda one: one[0])
    kept: list[tuple[float, np.ndarray]] = []
    for energy, x in found:
        if energy < found[0][0] + _NEAR and all(np.abs(x - other).max() > 0.1 for _, other in kept):
            kept.append((energy, x))
    polished = []
    for _, x in kept:
        last = scipy.optimize.minimize(full, x, jac=True, method="L-BFGS-B", options={"maxiter": 100})
        polished.append((float(last.fun), np.asarray(last.x)))
    polished.sort(key=lambda one: one[0])
    return [one for one in polished if one[0] < polished[0][0] + _NEAR]


def sample(
    log_density: Callable[[Float[np.ndarray, "point dim"]], Float[np.ndarray, " point"]],
    best: list[tuple[float, Float[np.ndarray, " dim"]]],
    rough: ValueAndSlope,
    n_draw: int,
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
    config
        Sizes.
    rng
        Source of randomness.
    largest_k
        Of weights that can be trusted.
    """
    weight, mean, scale = [], [], []
    for energy, x in best:
        covariance = _inverse(_curvature(rough, x))
        for width, share in ((1.0, 0.8), (_WIDER, 0.2)):
            weight.append(share * np.exp(best[0][0] - energy))
            mean.append(x)
            scale.append(width * covariance)
    first = StudentMixture(np.array(weight) / np.sum(weight), np.array(mean), np.array(scale))
    n_evaluation = 0

    def counted(x: Float[np.ndarray, "point dim"]) -> Float[np.ndarray, " point"]:
        nonlocal n_evaluation
        n_evaluation += len(x)
        return log_density(x)

    proposal = adapt(counted, first, rng, n_point=config.n_point, n_round=config.n_round)
    found = importance_sample(
        counted, proposal, rng,
        n_point=config.n_point, n_batch=config.n_batch, effective=config.effective, largest_k=largest_k,
    )  # fmt: skip
    effective = min(found.effective, float(n_draw))
    return ImportanceDraws(found.resampled(rng, n_draw), effective, found.k, n_evaluation)


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
    return np.asarray((vector / np.maximum(value, _LEAST_CURVATURE)) @ vector.T)
