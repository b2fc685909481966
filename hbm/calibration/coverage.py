r"""How often truths lie where posteriors say, and what chance alone would give.

Each quantity apart: ranks of the truth among posterior draws (Talts et al. 2018, arXiv:1804.06788;
`hbm.sbc`). The six properties together: TARP's expected coverage (Lemos et al. 2023, arXiv:2302.03026, by
sbi), averaged over several sets of random references. Both are compared with what exact posteriors would
give: for TARP, each galaxy's truth is replaced by one of its own draws, again and again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

from hbm.calibration.fits import PROPERTIES, Posteriors
from hbm.sbc import Calibration, calibrate, thinned_rank, value_of

GOAL = 0.03
"""Largest deviation of coverage that we aim at."""

N_RANK = 99
"""Posterior draws among which a truth is ranked."""

_N_REFERENCE = 10
_N_CHANCE = 100
_N_CHANCE_DRAW = 199


class QuantityCoverage(NamedTuple):
    """Coverage of one quantity's central intervals."""

    fraction: Float[np.ndarray, " galaxy"]
    """Rank of the truth on (0, 1)."""
    ranks: Calibration
    """Tests of their uniformity; coverage of the 68 and 95 % intervals."""
    deviation: float
    """Largest difference between the coverage of a central interval and its probability."""
    width: float
    """Median width of the 68 % interval."""
    bias: float
    """Mean of (posterior mean - truth) / standard deviation."""


class Coverage(NamedTuple):
    """Coverage of one kind of posterior."""

    n: int
    n_sampled: int
    """Galaxies by NUTS; the others by importance weights."""
    n_not_converged: int
    """They count like all others."""
    quantities: dict[str, QuantityCoverage]
    tarp: Float[np.ndarray, " level"]
    """Expected coverage at credibilities from 0 to 1."""
    deviation: float
    """Largest difference between expected coverage and credibility."""
    chance: float
    """What exact posteriors would give for it, in the mean."""
    chance_95: float
    """And in 95 of 100 cases at most."""
    deviation_converged: float
    """Without the galaxies that did not converge; nan if fewer than half are left."""

    @property
    def verdict(self) -> str:
        """In words, of the six properties together."""
        if self.deviation > max(GOAL, self.chance_95):
            return "misses the goal"
        if self.chance_95 > GOAL:
            return f"no more than chance, but too few galaxies to see {GOAL:g}"
        return "meets the goal"


def coverage_of(
    posteriors: Posteriors,
    names: Sequence[str],
    truth: dict[str, np.ndarray],
    *,
    seed: int,
    chance: bool = True,
) -> Coverage:
    """Coverage of posteriors of galaxies with known truths.

    Parameters
    ----------
    posteriors
        One for each galaxy.
    names
        Of the quantities of the draws, the six properties first.
    truth
        By site, (galaxy, ...).
    seed
        Of thinning, ties and references.
    chance
        Whether to find out what exact posteriors would give; nan without.

    Raises
    ------
    ImportError
        If sbi is not installed.
    """
    rng = np.random.default_rng((seed, 3))
    n = len(posteriors.draws)
    true = np.array([[value_of(truth, name, i) for name in names] for i in range(n)])
    found = {
        name: _of_quantity(posteriors.draws[..., column], true[:, column], rng, seed)
        for column, name in enumerate(names)
    }
    n_property = len(PROPERTIES)
    draws, six = posteriors.draws[..., :n_property].astype(np.float64), true[:, :n_property]
    references = rng.uniform(six.min(0), six.max(0), (_N_REFERENCE, n, n_property))
    curve = _tarp(draws, six, references)
    mean, limit = _by_chance(draws, references, rng) if chance else (np.nan, np.nan)
    good = posteriors.converged
    without = np.nan
    if good.all():
        without = _deviation(curve)
    elif good.mean() >= 0.5:
        without = _deviation(_tarp(draws[good], six[good], references[:, good]))
    return Coverage(
        n, int(posteriors.sampled.sum()), int((~good).sum()), found, curve, _deviation(curve), mean, limit,
        float(without),
    )  # fmt: skip


def part_of(posteriors: Posteriors, rows: Bool[np.ndarray, " galaxy"] | slice) -> Posteriors:
    """Posteriors of some galaxies."""
    return Posteriors(*(item[rows] for item in posteriors))


def central_deviation(fraction: Float[np.ndarray, " galaxy"]) -> float:
    """Largest difference between the coverage of central intervals and their probability."""
    return float(scipy.stats.kstest(np.abs(2 * fraction - 1), "uniform").statistic)


def chance_of_deviation(n: int, probability: float = 0.95) -> float:
    """What `central_deviation` is at most in 95 of 100 cases, of exact posteriors of ``n`` galaxies."""
    return float(scipy.stats.kstwo.ppf(probability, n))


def _of_quantity(
    draws: np.ndarray, truth: np.ndarray, rng: np.random.Generator, seed: int
) -> QuantityCoverage:
    ranks = np.array(
        [thinned_rank(d[None], float(t), N_RANK, rng) for d, t in zip(draws, truth, strict=True)]
    )
    fraction = (ranks + rng.uniform(size=len(ranks))) / (N_RANK + 1)
    low, high = np.quantile(draws, [0.16, 0.84], axis=1)
    spread = np.maximum(draws.std(axis=1), 1e-12)
    return QuantityCoverage(
        fraction,
        calibrate(ranks, N_RANK, seed=seed),
        central_deviation(fraction),
        float(np.median(high - low)),
        float(np.mean((draws.mean(axis=1) - truth) / spread)),
    )


def _tarp(draws: np.ndarray, truth: np.ndarray, references: np.ndarray) -> np.ndarray:
    from generative.coverage import expected_coverage

    return expected_coverage(draws, truth, references)


def _by_chance(draws: np.ndarray, references: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Deviation of exactly calibrated posteriors: truths are draws of the posteriors themselves."""
    n, n_draw = draws.shape[:2]
    few = draws[:, np.sort(rng.choice(n_draw, min(_N_CHANCE_DRAW, n_draw), replace=False))]
    found = []
    for _ in range(_N_CHANCE):
        truth = draws[np.arange(n), rng.integers(0, n_draw, n)]
        found.append(_deviation(_tarp(few, truth, references)))
    return float(np.mean(found)), float(np.quantile(found, 0.95))


def _deviation(curve: np.ndarray) -> float:
    return float(np.abs(curve - np.linspace(0, 1, len(curve))).max())
