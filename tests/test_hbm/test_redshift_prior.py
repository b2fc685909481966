"""The prior on redshift, and the magnitude that it depends on."""

import math

import jax
import numpy as np
import pytest
import scipy.integrate

from hbm.redshifts.prior import ZredPrior, prior_magnitude


@pytest.mark.parametrize("mag", [15.0, 20.0, 25.0, np.nan])
@pytest.mark.parametrize(
    "prior", [ZredPrior(), ZredPrior(0.05, 1.5), ZredPrior(flat=0.3), ZredPrior(beta=1.7)]
)
def test_density_is_normalised_and_has_its_form(prior: ZredPrior, mag: float):
    density = prior.at(mag)
    z = np.geomspace(prior.low * (1 + 1e-6), prior.high * (1 - 1e-6), 4001)
    value = np.exp(np.asarray(density.log_prob(z), np.float64))
    assert scipy.integrate.simpson(value * z, x=np.log(z)) == pytest.approx(1.0, abs=1e-4)
    scale = max(0.09 + 0.0417 * (mag - 20), 0.03) if np.isfinite(mag) else 0.09
    shape = z**2 * np.exp(-((z / scale) ** prior.beta))
    shape /= scipy.integrate.simpson(shape * z, x=np.log(z))
    expected = (1 - prior.flat) * shape + prior.flat / (prior.high - prior.low)
    np.testing.assert_allclose(value, expected, rtol=2e-4)
    outside = density.log_prob(np.array([0.5 * prior.low, 1.01 * prior.high]))
    assert np.all(np.isneginf(outside))


def test_lsst_numbers():
    """z_m = 0.0417 i - 0.744 of the LSST Science Book: its mode, twice that, at i = 24."""
    z = np.linspace(0.01, 2, 2000)
    best = z[np.argmax(ZredPrior().at(24.0).log_prob(z))]
    assert best == pytest.approx(2 * (0.0417 * 24 - 0.744), abs=2e-3)


def test_uniform_density():
    density = ZredPrior.uniform(0.1, 2.1).at(22.0)
    np.testing.assert_allclose(density.log_prob(np.array([0.11, 1.0, 2.09])), -math.log(2.0), rtol=1e-5)


def test_densities_of_galaxies_share_a_program():
    n_trace = 0

    @jax.jit
    def run(density, z):
        nonlocal n_trace
        n_trace += 1
        return density.log_prob(z)

    for mag in (18.0, 22.5, np.nan):
        run(ZredPrior().at(mag), 0.3)
    assert n_trace == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"low": 0.0}, "0 < low < high, got 0.0"),
        ({"high": np.inf}, "0 < low < high"),
        ({"beta": 0.0}, "`beta` must be > 0"),
        ({"z0": -1.0}, "`z0` must be > 0"),
        ({"alpha": -1.0}, "`alpha` must be above -1"),
        ({"slope": np.nan}, "`slope` must be finite"),
        ({"flat": 1.0}, "`flat` must be at least 0 and below 1"),
    ],
)
def test_wrong_numbers_are_refused(wrong: dict[str, float], text: str):
    with pytest.raises(ValueError, match=text):
        ZredPrior(**wrong)


def test_magnitude_is_that_of_the_clear_band_nearest_to_i():
    wave = np.array([3600.0, 4700.0, 6200.0, 7500.0, 8900.0])
    flux = np.array([1e-9, 2e-9, 3e-9, 4e-9, 5e-9])
    err = np.full(5, 1e-10)
    assert prior_magnitude(flux, err, wave) == pytest.approx(-2.5 * np.log10(4e-9))
    noisy = np.where(np.arange(5) == 3, 2e-9, err)
    assert prior_magnitude(flux, noisy, wave) == pytest.approx(-2.5 * np.log10(5e-9))
    missing = np.where(np.arange(5) >= 3, np.nan, flux)
    assert prior_magnitude(missing, err, wave) == pytest.approx(-2.5 * np.log10(3e-9))
    assert prior_magnitude(np.full(5, -1e-9), err, wave) == pytest.approx(25.0)
    assert math.isnan(prior_magnitude(np.full(5, np.nan), err, wave))
