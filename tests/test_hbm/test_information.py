"""Information from weighted draws, against scipy's entropies."""

import numpy as np
import pytest
import scipy.stats

from hbm.information import Marginal, weighted_quantile


def test_weighted_quantiles() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=4000)
    # Draws of N(0, 1), weighted to N(1, 1).
    weight = np.exp(values - 0.5)
    found = weighted_quantile(values, weight, np.array([0.16, 0.5, 0.84]))
    np.testing.assert_allclose(found, scipy.stats.norm(1).ppf([0.16, 0.5, 0.84]), atol=0.12)
    levels = np.array([0.1, 0.5, 0.7])
    np.testing.assert_allclose(
        weighted_quantile(values, np.ones(4000), levels),
        np.quantile(values, levels, method="hazen"),
        atol=1e-12,
    )


@pytest.mark.parametrize("low", [-9.0, -0.3])
def test_entropy_of_a_truncated_normal(low: float) -> None:
    exact = scipy.stats.truncnorm((low - 0.2) / 0.5, (9 - 0.2) / 0.5, 0.2, 0.5)
    values = exact.rvs(6000, random_state=1)
    weight = np.random.default_rng(2).exponential(size=6000)  # says nothing of the values
    found = Marginal(values, weight, (low, 9.0))
    assert found.entropy == pytest.approx(exact.entropy(), abs=0.04)
    assert found.width_68 == pytest.approx(exact.ppf(0.84) - exact.ppf(0.16), rel=0.06)
    for value in (-0.2, 0.2, 1.0):
        assert found.log_density(value) == pytest.approx(exact.logpdf(value), abs=0.12)
    assert np.sum(found.density) * (found.high - found.low) / len(found.density) == pytest.approx(1)


def test_weights_narrow() -> None:
    """N(0, 1) times the likelihood N(0.5; x, 0.5): entropy lost 0.5 ln 5, and the score."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=40_000)
    weight = np.exp(-0.5 * ((values - 0.5) / 0.5) ** 2)
    bounds = (-8.0, 8.0)
    before, after = Marginal(values, np.ones(40_000), bounds), Marginal(values, weight, bounds)
    assert before.entropy - after.entropy == pytest.approx(0.5 * np.log(5), abs=0.03)
    assert np.log(before.width_68 / after.width_68) == pytest.approx(0.5 * np.log(5), abs=0.03)
    exact = scipy.stats.norm(0.4, 0.2**0.5).logpdf(0.4) - scipy.stats.norm.logpdf(0.4)
    assert after.log_density(0.4) - before.log_density(0.4) == pytest.approx(exact, abs=0.05)


def test_far_values_have_a_least_density_and_wrong_ones_are_refused() -> None:
    values = np.random.default_rng(4).normal(size=100)
    found = Marginal(values, np.ones(100), (-20.0, 20.0))
    assert found.log_density(19.9) == pytest.approx(np.log(1e-4 / (found.high - found.low)))
    with pytest.raises(ValueError, match="`values` must be within"):
        Marginal(values, np.ones(100), (0.0, 1.0))
