"""Rounds of points as one pool, on an integral that is known."""

import numpy as np
import pytest
from scipy.stats import norm

from hbm.consistency.corruption import FluxLogLike
from hbm.consistency.evidence import PoolDensity, error_of, integrate
from hbm.consistency.odds import Odds
from hbm.consistency.pool import Points
from hbm.consistency.rounds import is_enough, joined

N_PRIOR, N_SHAPE, N_FIT = 60, 140, 50
CENTRE, WIDTH = 2.5, 0.05
"""Of the likelihood exp(-((x - centre) / width)^2 / 2); the prior is normal."""


def a_round(rng: np.random.Generator, fit: np.ndarray) -> Points:
    """Draws of the prior, of a broader density, and of the fit; ``theta`` is x."""
    x = np.concatenate([rng.normal(size=N_PRIOR), rng.normal(0, 2, N_SHAPE), fit])
    good = -0.5 * ((x - CENTRE) / WIDTH) ** 2
    zero = np.zeros_like(x)
    fluxes = FluxLogLike(good, zero, zero, zero[:, None], zero[:, None])
    return Points(
        norm.logpdf(x), norm.logpdf(x, 0, 2), zero, zero == 0, x[:, None], zero[:, None], zero, zero, fluxes
    )


def integral(rounds: list[Points]) -> tuple[float, float]:
    """Log of the integral of prior times likelihood, and its error."""
    points, counts = joined(rounds, (N_PRIOR, N_SHAPE, N_FIT))
    good = np.asarray(points.fluxes.good)
    pool = PoolDensity(points.log_prior, points.log_shape, points.log_prior + good, counts)
    found = integrate(pool, good[None])
    return float(found.value[0]), error_of(found.blocks[:, 0])


def test_rounds_are_a_larger_pool_whose_integrals_are_right() -> None:
    # The fit is normal with the precisions of prior and likelihood added.
    variance = 1 / (1 + WIDTH**-2)
    exact = norm.logpdf(CENTRE, 0, np.hypot(1, WIDTH)) + np.log(WIDTH * np.sqrt(2 * np.pi))
    pulls, errors = [], {1: [], 8: []}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        fit = rng.normal(variance * CENTRE / WIDTH**2, np.sqrt(variance), N_FIT)
        rounds = [a_round(rng, fit) for _ in range(8)]
        for n in errors:
            value, error = integral(rounds[:n])
            errors[n].append(value - exact)
        pulls.append((value - exact) / error)
    assert np.std(errors[8]) < np.std(errors[1])
    assert abs(np.mean(errors[8])) < 4 * np.std(errors[8]) / np.sqrt(40)
    assert 0.6 < np.std(pulls) < 1.6


def test_kinds_of_points_stay_together() -> None:
    rng = np.random.default_rng(0)
    fit = rng.normal(size=N_FIT)
    rounds = [a_round(rng, fit) for _ in range(3)]
    points, counts = joined(rounds, (N_PRIOR, N_SHAPE, N_FIT))
    assert counts == (3 * N_PRIOR, 3 * N_SHAPE, N_FIT)
    x = points.theta[:, 0]
    assert np.array_equal(x[: 2 * N_PRIOR], np.concatenate([r.theta[:N_PRIOR, 0] for r in rounds[:2]]))
    assert np.array_equal(x[-N_FIT:], fit)
    assert x.shape == points.fluxes.good.shape == (3 * (N_PRIOR + N_SHAPE) + N_FIT,)


@pytest.mark.parametrize(
    ("changes", "enough"),
    [({}, True), ({"same_error": 1.1}, False), ({"corrupted_error": np.inf}, False), ({"ess": 9.0}, False)],
)
def test_what_is_enough(changes: dict[str, float], enough: bool) -> None:
    odds = Odds(1.0, 0.2, -1.0, 0.3, {}, {}, np.zeros(1), 30.0)
    assert is_enough(odds._replace(**changes)) is enough
