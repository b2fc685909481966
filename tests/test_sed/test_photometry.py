import jax.numpy as jnp
import numpy as np
import pytest

from sed.constants import AB_FNU_CGS, LSUN_CGS, PARSEC_CM
from sed.filters import Filter, FilterSet, load_filters
from sed.igm import igm_transmission_inoue
from sed.photometry import band_matrix, maggies_per_luminosity
from sed.reference import spectrum_maggies

WAVE = np.geomspace(200.0, 2e5, 700)
SPECTRUM = (WAVE / 5000) ** 1.2 * (1 + 0.3 * np.sin(np.arange(WAVE.size) / 2))


@pytest.fixture(scope="module")
def filters() -> FilterSet:
    return load_filters(["galex_NUV", "sdss_g0", "sdss_i0", "twomass_J", "wise_w1"])


@pytest.mark.parametrize("zred", [0.0, 0.4, 1.5])
def test_flat_spectrum_is_its_own_mean(filters: FilterSet, zred: float) -> None:
    np.testing.assert_allclose(band_matrix(WAVE, filters, zred) @ np.ones(WAVE.size), 1, rtol=1e-12)


@pytest.mark.parametrize("zred", [0.0, 0.7])
def test_agrees_with_sedpy(filters: FilterSet, zred: float) -> None:
    expected = spectrum_maggies(WAVE * (1 + zred), SPECTRUM, filters)
    # sedpy's zero point is a trapezoid on the filter's own points: 2e-5.
    np.testing.assert_allclose(band_matrix(WAVE, filters, zred) @ SPECTRUM, expected, rtol=5e-5)


def test_agrees_with_a_fine_sum(filters: FilterSet) -> None:
    zred, result = 0.3, []
    for band in filters.filters:
        step = (band.wave[-1] - band.wave[0]) / 400_000
        fine = band.wave[0] + (np.arange(400_000) + 0.5) * step
        weight = np.interp(fine, band.wave, band.transmission) / fine
        result.append(np.sum(weight * np.interp(fine, WAVE * (1 + zred), SPECTRUM)) / np.sum(weight))
    np.testing.assert_allclose(band_matrix(WAVE, filters, zred) @ SPECTRUM, result, rtol=1e-7)


def test_normalisation_of_the_filter_does_not_matter(filters: FilterSet) -> None:
    scaled = FilterSet(tuple(Filter(f.name, f.wave, 7.0 * f.transmission) for f in filters.filters))
    expected = band_matrix(WAVE, filters, 0.2)
    np.testing.assert_allclose(band_matrix(WAVE, scaled, 0.2), expected, rtol=1e-12)


def test_igm_multiplies_the_spectrum(filters: FilterSet) -> None:
    zred = 1.8

    def igm(wave: np.ndarray, zred: float) -> np.ndarray:
        return np.asarray(igm_transmission_inoue(jnp.asarray(wave), zred))

    absorbed = SPECTRUM * igm(WAVE, zred)
    expected = spectrum_maggies(WAVE * (1 + zred), absorbed, filters)
    result = band_matrix(WAVE, filters, zred, igm=igm) @ SPECTRUM
    np.testing.assert_allclose(result, expected, rtol=5e-5)
    assert result[0] < 0.9 * (band_matrix(WAVE, filters, zred) @ SPECTRUM)[0]


def test_refuses(filters: FilterSet) -> None:
    with pytest.raises(
        ValueError, match=r"filter 'galex_NUV' covers .* at zred = 0\.5 the grid covers 4500 "
    ):
        band_matrix(np.geomspace(3000.0, 1e5, 100), filters, 0.5)
    with pytest.raises(ValueError, match="filter 'wise_w1' covers"):
        band_matrix(np.geomspace(500.0, 3e4, 100), filters, 0.0)
    for bad in (-0.1, np.nan):
        with pytest.raises(ValueError, match="`zred` must be >= 0"):
            band_matrix(WAVE, filters, bad)


def test_maggies_of_a_known_source() -> None:
    # The definition of absolute AB magnitude: 10 pc away, a source of M_AB = -2.5 log10(f / 3631 Jy).
    sun = LSUN_CGS * 1e-15 / (4 * np.pi * (10 * PARSEC_CM) ** 2)  # erg/s/cm2/Hz
    assert maggies_per_luminosity(0.0, 1e-5) * 1e-15 == pytest.approx(sun / AB_FNU_CGS, rel=1e-12)
    assert maggies_per_luminosity(1.0, 2e-5) == pytest.approx(0.5 * maggies_per_luminosity(0.0, 1e-5))
