import numpy as np
import pytest
import scipy.stats

import hbm
from hbm.config import InterimPrior, ModelConfig
from hbm.galaxies import DataBuilder
from hbm.sbc import Simulation, calibrate, prior_flux, simulate, thinned_rank, value_of
from sed.io import load_grid

FILTERS = ("sdss_u0", "sdss_r0", "twomass_J", "spitzer_irac_ch1")
CONFIG = ModelConfig(prior=InterimPrior(logmass=(9.0, 11.5)))


@pytest.fixture(scope="module")
def builder() -> DataBuilder:
    return DataBuilder(load_grid(), CONFIG, FILTERS)


@pytest.fixture(scope="module")
def simulation(builder: DataBuilder) -> Simulation:
    return _simulation(builder, 400)


def _simulation(builder: DataBuilder, n: int) -> Simulation:
    zred = np.array([0.3, 0.9])[np.arange(n) % 2]
    depth = {z: prior_flux(builder, z) / 20 for z in (0.3, 0.9)}
    return simulate(builder, zred, np.stack([depth[z] for z in zred]), seed=3)


def test_simulated_parameters_follow_the_prior(simulation: Simulation) -> None:
    truth, prior = simulation.truth, CONFIG.prior
    low, high = prior.logmass
    dust, width, end = prior.dust2
    exact = {
        "logmass": scipy.stats.uniform(low, high - low),
        "dust2": scipy.stats.truncnorm((0 - dust) / width, (end - dust) / width, dust, width),
    }
    for name, distribution in exact.items():
        assert scipy.stats.kstest(truth[name], distribution.cdf).pvalue > 1e-3, name
    scale, bound = prior.sfr_ratio
    student = scipy.stats.t(2, scale=scale)
    inside = student.cdf(bound) - student.cdf(-bound)
    ratios = truth["logsfr_ratios"].ravel()
    cdf = lambda x: (student.cdf(x) - student.cdf(-bound)) / inside  # noqa: E731
    assert scipy.stats.kstest(ratios, cdf).pvalue > 1e-3
    np.testing.assert_allclose(truth["logsfr_100"], truth["logmass"] + truth["logssfr"], atol=1e-4)


def test_simulated_noise_is_that_of_the_likelihood(simulation: Simulation) -> None:
    catalog, model = simulation.catalog, simulation.truth["flux"]
    chi = (catalog.flux - model) / np.hypot(catalog.flux_err, CONFIG.error_floor * model)
    assert scipy.stats.kstest(chi.ravel(), "norm").pvalue > 1e-3
    assert scipy.stats.kstest(((catalog.flux - model) / catalog.flux_err).ravel(), "norm").pvalue < 1e-6


def test_first_galaxies_do_not_depend_on_how_many(builder: DataBuilder, simulation: Simulation) -> None:
    few = _simulation(builder, 4)
    np.testing.assert_allclose(few.catalog.flux, simulation.catalog.flux[:4], rtol=1e-4)
    assert few.catalog.id == simulation.catalog.id[:4]
    assert value_of(few.truth, "logsfr_ratios[2]", 1) == few.truth["logsfr_ratios"][1, 2]


def test_simulate_refuses_bad_errors(builder: DataBuilder) -> None:
    with pytest.raises(ValueError, match="`flux_err` must be positive, of shape"):
        simulate(builder, np.array([0.5]), np.zeros((1, 4)))


def _gaussian_ranks(width: float, shift: float = 0.0) -> np.ndarray:
    """Ranks for a standard normal prior, unit noise, and posteriors of the wrong width or place."""
    rng = np.random.default_rng(5)
    ranks = []
    for truth in rng.standard_normal(2000):
        data = truth + rng.standard_normal()
        draws = data / 2 + shift + width * np.sqrt(0.5) * rng.standard_normal((4, 50))
        ranks.append(thinned_rank(draws, float(truth), 99, rng))
    return np.array(ranks)


def test_exact_posterior_is_calibrated() -> None:
    result = calibrate(_gaussian_ranks(1.0), 99)
    assert result.chi2_p > 1e-3
    assert result.ks_p > 1e-3
    np.testing.assert_allclose(result.coverage, (0.68, 0.95), atol=0.04)
    assert result.histogram.sum() == 2000


def test_wrong_posteriors_are_found() -> None:
    narrow, biased = calibrate(_gaussian_ranks(0.7), 99), calibrate(_gaussian_ranks(1.0, 0.2), 99)
    assert narrow.chi2_p < 1e-6
    assert narrow.coverage[0] < 0.58
    assert biased.ks_p < 1e-6


def test_rank_counts_draws_below() -> None:
    rng = np.random.default_rng(0)
    draws = np.arange(40.0).reshape(4, 10)
    assert thinned_rank(draws, 12.5, 40, rng) == 13
    assert thinned_rank(draws, -1.0, 19, rng) == 0
    ties = [thinned_rank(np.zeros((2, 5)), 0.0, 10, rng) for _ in range(500)]
    assert set(ties) == set(range(11))
    with pytest.raises(ValueError, match="`n_draw` must be from 1 to the number of draws, 40, got 41"):
        thinned_rank(draws, 0.0, 41, rng)


def test_calibrate_refuses() -> None:
    with pytest.raises(ValueError, match="must be a multiple of `n_bin` 20"):
        calibrate(np.array([1]), 100)
    with pytest.raises(ValueError, match="`ranks` must be numbers from 0 to `n_draw` 99"):
        calibrate(np.array([100]), 99)


@pytest.mark.slow
def test_fits_of_simulated_galaxies_are_calibrated(builder: DataBuilder) -> None:
    n = 40
    made = _simulation(builder, n)
    results = hbm.fit(made.catalog, config=CONFIG, seed=1)
    rng = np.random.default_rng(2)
    assert np.mean([result.convergence.converged for result in results]) > 0.8
    for name in ("logmass", "logssfr", "logzsol", "dust2", "dust_index", "logsfr_ratios[0]", "mwa"):
        ranks = [
            thinned_rank(result.draws(name), value_of(made.truth, name, i), 99, rng)
            for i, result in enumerate(results)
        ]
        result = calibrate(np.array(ranks), 99, n_bin=5)
        assert result.ks_p > 1e-3, name
        assert abs(result.coverage[0] - 0.68) < 4 * np.sqrt(0.68 * 0.32 / n), name
