"""Units against astropy."""

import math

import astropy.units as u
import numpy as np
import pytest

from sed.units import (
    FLUX_UNITS,
    check_unit,
    flux_err_to_maggies,
    from_maggies,
    magnitude_to_maggies,
    to_maggies,
    unit_scale,
)

LINEAR_ASTROPY = {"nJy": u.nJy, "uJy": u.uJy, "mJy": u.mJy, "Jy": u.Jy}
# astropy's AB zero point is 48.6 (3630.78 Jy), the maggie is 3631 Jy.
AB_RTOL = 7e-5


@pytest.mark.parametrize("unit", LINEAR_ASTROPY)
def test_linear_units_agree_with_astropy(unit: str) -> None:
    value = np.array([1.0, 36.31, 1e4])
    reference = (value * LINEAR_ASTROPY[unit] / (3631 * u.Jy)).to_value(u.dimensionless_unscaled)
    np.testing.assert_allclose(to_maggies(value, unit), reference, rtol=1e-12)
    np.testing.assert_allclose(flux_err_to_maggies(value, unit), reference, rtol=1e-12)


@pytest.mark.parametrize("unit", LINEAR_ASTROPY)
def test_flux_of_a_magnitude_agrees_with_astropy(unit: str) -> None:
    mag = np.array([15.0, 22.5, 31.4])
    reference = (mag * u.ABmag).to_value(LINEAR_ASTROPY[unit])
    np.testing.assert_allclose(from_maggies(to_maggies(mag, "ABmag"), unit), reference, rtol=AB_RTOL)


def test_nanomaggies_are_zero_point_22p5_and_agree_with_astropy() -> None:
    value = np.array([0.5, 100.0])
    np.testing.assert_allclose(to_maggies(value, "nanomaggies"), to_maggies(value, "zp=22.5"), rtol=1e-12)
    reference = (value * u.nmgy).to_value(u.mgy)
    np.testing.assert_allclose(to_maggies(value, "nanomaggies"), reference, rtol=1e-12)


def test_zero_point_25_is_one_at_magnitude_25() -> None:
    assert float(from_maggies(to_maggies(1.0, "zp=25"), "ABmag")) == pytest.approx(25.0, abs=1e-12)
    assert float(to_maggies(1, "zp = 25.0")) == pytest.approx(1e-10, rel=1e-12)
    # one count at 23.9 is a microjansky, at 31.4 a nanojansky (to the rounding of the zero point)
    assert float(to_maggies(1.0, "zp=23.9")) == pytest.approx(float(to_maggies(1.0, "uJy")), rel=1e-3)
    assert float(to_maggies(1.0, "zp=31.4")) == pytest.approx(float(to_maggies(1.0, "nJy")), rel=1e-3)


@pytest.mark.parametrize("unit", [*FLUX_UNITS, "zp=25"])
def test_round_trip_keeps_shape_and_value(unit: str) -> None:
    flux = np.array([[1e-12, 3e-9, 2e-6]])
    there = from_maggies(flux, unit)
    assert there.shape == flux.shape
    np.testing.assert_allclose(to_maggies(there, unit), flux, rtol=1e-12)


def test_single_precision_input_gives_double() -> None:
    assert to_maggies(np.float32(2.0) * np.ones(3, np.float32), "nJy").dtype == np.float64


def test_magnitude_of_no_flux_is_nan_and_sentinels_are_missing() -> None:
    assert np.isnan(from_maggies(np.array([0.0, -1e-9]), "ABmag")).all()
    assert np.isnan(to_maggies(np.array([99.0, -99.0, 99.99, np.nan]), "ABmag")).all()
    flux, err = magnitude_to_maggies(np.array([99.0, 20.0, 20.0]), np.array([0.1, -99.0, 0.0]))
    np.testing.assert_array_equal(np.isnan(flux), [True, False, False])
    np.testing.assert_array_equal(np.isnan(err), [True, True, False])
    assert err[2] == 0.0


def test_first_order_error_is_the_derivative() -> None:
    mag, step, sigma = 21.3, 1e-5, 0.07
    slope = (10 ** (-0.4 * (mag - step)) - 10 ** (-0.4 * (mag + step))) / (2 * step)
    flux, err = magnitude_to_maggies(mag, sigma)
    assert float(err) == pytest.approx(slope * sigma, rel=1e-8)
    # and undoes sigma_m = 1.0857 sigma_f / f
    assert 2.5 / math.log(10) * float(err / flux) == pytest.approx(sigma, rel=1e-12)


def test_mean_error_is_half_the_distance_between_the_sides() -> None:
    mag, sigma = np.array([18.0, 24.0, 26.0]), np.array([0.1, 0.5, 1.0])
    _, err = magnitude_to_maggies(mag, sigma, method="mean")
    half = (10 ** (-0.4 * (mag - sigma)) - 10 ** (-0.4 * (mag + sigma))) / 2
    np.testing.assert_allclose(err, half, rtol=1e-12)
    excess = err / magnitude_to_maggies(mag, sigma)[1] - 1
    np.testing.assert_allclose(excess, [0.0014, 0.036, 0.148], atol=6e-4)


@pytest.mark.parametrize(
    ("unit", "match"),
    [
        ("njy", "Did you mean 'nJy'"),
        ("erg", "must be one of"),
        ("zp=abc", "as a number"),
        ("zp=inf", "as a number"),
    ],
)
def test_unknown_units_are_refused(unit: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        to_maggies(1.0, unit)
    with pytest.raises(ValueError, match=match):
        check_unit(unit)


def test_magnitudes_are_refused_where_a_scale_is_needed() -> None:
    check_unit("ABmag")
    with pytest.raises(ValueError, match="magnitude_to_maggies"):
        unit_scale("ABmag")
    with pytest.raises(ValueError, match="magnitude_to_maggies"):
        flux_err_to_maggies(0.1, "ABmag")


def test_negative_magnitude_error_is_refused() -> None:
    with pytest.raises(ValueError, match="`mag_err` must be >= 0"):
        magnitude_to_maggies(np.array([20.0]), np.array([-0.1]))
