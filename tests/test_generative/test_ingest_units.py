import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits

from generative.ingest import IngestError
from generative.ingest import units as ingest_units
from generative.ingest.units import maggies_per_unit, survey_of

AB = 3631 * u.Jy


def of_magnitude(zero_point: float) -> float:
    return float(((zero_point * u.ABmag).to(u.Jy) / AB).value)


def test_hst_zero_point_is_that_of_the_sensitivity_by_astropy() -> None:
    flam, pivot = 7.033e-20, 8045.0  # ACS F814W
    density = flam * u.erg / u.s / u.cm**2 / u.AA
    expected = density.to(u.Jy, u.spectral_density(pivot * u.AA)) / AB
    header = {"PHOTFLAM": flam, "PHOTPLAM": pivot, "BUNIT": "ELECTRONS/S"}
    assert survey_of(header) == "hst"
    # The handbook's constant 2.408 is rounded to a thousandth of a magnitude.
    assert maggies_per_unit(header, "hst", pixel_scale=0.05) == pytest.approx(expected.value, rel=1e-3)
    counts = {**header, "BUNIT": "ELECTRONS", "EXPTIME": 500.0}
    assert maggies_per_unit(counts, "hst", pixel_scale=0.05) == pytest.approx(expected.value / 500, rel=1e-3)


def test_jwst_surface_brightness_by_astropy() -> None:
    solid = ((0.04 * u.arcsec) ** 2).to(u.sr)
    expected = (1 * u.MJy / u.sr * solid).to(u.Jy) / AB
    header = {"TELESCOP": "JWST", "BUNIT": "MJy/sr", "PIXAR_SR": solid.value}
    assert survey_of(header) == "jwst"
    assert maggies_per_unit(header, "jwst", pixel_scale=0.04) == pytest.approx(expected.value, rel=1e-9)
    with pytest.raises(IngestError, match="PIXAR_SR"):
        maggies_per_unit(header, "jwst", pixel_scale=0.02)


def test_zero_points_by_astropy() -> None:
    des = {"MAGZERO": 30.0, "TILENAME": "DES0151+0001"}
    assert survey_of(des) == "des"
    assert maggies_per_unit(des, "des", pixel_scale=0.263) == pytest.approx(
        ((30 * u.ABmag).to(u.Jy) / AB).value, rel=1e-4
    )
    hsc = {"FLUXMAG0": 63095734448.0194}
    assert survey_of(hsc) == "hsc"
    assert maggies_per_unit(hsc, "hsc", pixel_scale=0.168) == pytest.approx(
        ((27 * u.ABmag).to(u.Jy) / AB).value, rel=1e-4
    )
    ps1 = {"FPA.ZP": 25.0, "EXPTIME": 720.0}
    assert survey_of(ps1) == "panstarrs"
    assert maggies_per_unit(ps1, "panstarrs", pixel_scale=0.25) == pytest.approx(10 ** (-0.4 * 25) / 720)


def test_legacy_nanomaggies_are_per_pixel_of_the_coadd() -> None:
    header = {"SURVEY": "LegacySurvey"}
    assert survey_of(header) == "legacy"
    assert maggies_per_unit(header, "legacy", pixel_scale=0.262) == pytest.approx(1e-9)
    # Pixels half as large have the same values: surface brightness stays.
    assert maggies_per_unit(header, "legacy", pixel_scale=0.131) == pytest.approx(0.25e-9)


def test_panstarrs_stretch_is_undone() -> None:
    linear = np.array([[-30.0, 0.0, 12.0, 5e4]])
    a, offset, soften = 2.5 / np.log(10), 3.0, 40.0
    stored = a * np.arcsinh((linear - offset) / (2 * soften))
    assert np.allclose(ingest_units.panstarrs_linear(stored, offset, soften), linear)


@pytest.mark.parametrize(
    ("header", "survey", "match"),
    [
        ({"BUNIT": "counts"}, "sdss", "BUNIT"),
        ({}, "des", "MAGZPT"),
        ({"PHOTFLAM": 1e-19, "PHOTPLAM": 8000.0}, "hst", "per second"),
        ({"BUNIT": "DN/s"}, "jwst", "MJy/sr"),
        ({}, "generic", "zero_point"),
    ],
)
def test_what_is_missing_is_named(header: dict[str, object], survey: ingest_units.Survey, match: str) -> None:
    with pytest.raises(IngestError, match=match):
        maggies_per_unit(header, survey, pixel_scale=0.1)


def test_a_header_without_marks_is_refused() -> None:
    with pytest.raises(IngestError, match="survey='generic'"):
        survey_of(fits.Header())
    with pytest.raises(IngestError, match="zero_point"):
        maggies_per_unit({}, "generic", pixel_scale=0.1, zero_point=99.0)
