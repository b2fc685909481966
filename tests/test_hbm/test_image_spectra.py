"""Relative spectra, against band fluxes and against the spectra of plots."""

import json
from typing import Any

import numpy as np
import pytest

from hbm.config import ModelConfig
from hbm.convergence import diagnose
from hbm.image_spectra import WINDOW, image_spectrum, relative_spectra, spectrum_quantiles
from hbm.results import FitResult, ObservedBands, Provenance, make_result
from hbm.spectra import posterior_spectrum
from sed.compile import compile_photometry
from sed.filters import load_filters
from sed.parameters import BinnedSFH, SEDParams

CONFIG = ModelConfig(igm="none", dust_emission=False)


@pytest.fixture(scope="module")
def many(sites: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Eight draws that differ in mass and dust."""
    rows = {name: np.repeat(value[None], 8, axis=0) for name, value in sites.items()}
    rows["logmass"] = np.linspace(9, 11.8, 8).astype(np.float32)
    rows["dust2"] = np.array([0.6, 0.6, 0.0, 0.3, 1.0, 2.0, 0.1, 0.2], np.float32)
    rows["dust1"] = 1.2 * rows["dust2"]
    return rows


def result_of(many: dict[str, np.ndarray], **more: np.ndarray) -> FitResult:
    posterior = {name: value.reshape(2, 4, *value.shape[1:]) for name, value in {**many, **more}.items()}
    one, none = np.ones(1), np.zeros(1, bool)
    return make_result(
        "one", 0.1, posterior=posterior, sample_stats={"diverging": np.zeros((2, 4), bool)},
        flux=np.ones((2, 4, 1)), bands=ObservedBands(("sdss_r0",), 6180 * one, one, one, none, none, 0 * one),
        convergence=diagnose({"logmass": posterior["logmass"]}, 0),
        provenance=Provenance(
            {"config": json.loads(CONFIG.to_json())}, {}, (), 0, "test", "2026-01-01T00:00:00+00:00", {}
        ),
    )  # fmt: skip


def test_shape_and_scale(many: dict[str, np.ndarray], grid: Any) -> None:
    found = relative_spectra(many, CONFIG, 0.1, grid)
    inside = (found.wave_rest >= WINDOW[0]) & (found.wave_rest <= WINDOW[1])
    np.testing.assert_allclose(found.shape[:, inside].mean(axis=1), 1)
    # Mass alone: the same shape, 0.4 dex more light.
    np.testing.assert_allclose(found.shape[1], found.shape[0], rtol=1e-3, atol=1e-12)
    assert found.scale[1] - found.scale[0] == pytest.approx(0.4, abs=1e-3)
    # A colour from photometry, which goes another way: g - r at z = 0 from F_lambda averages.
    filters = load_filters(["sdss_g0", "sdss_i0"])
    photometry = compile_photometry(grid, filters, 0.01, dust_emission=False)
    for row in (2, 5):
        one = {name: value[row] for name, value in many.items()}
        history = BinnedSFH(*(one[n] for n in ("logmass", "logssfr", "logsfr_ratio_recent", "logsfr_ratios")))
        params = SEDParams(
            history, one["logzsol"], one["dust2"], dust1=one["dust1"], dust_index=one["dust_index"],
            gas_logu=one["gas_logu"],
        )  # fmt: skip
        flux = np.asarray(photometry.flux(params))
        wide = [
            np.mean(found.shape[row][np.abs(found.wave_rest - w) < 0.08 * w]) * w**2
            for w in filters.wave_pivot
        ]
        assert np.log(wide[1] / wide[0]) == pytest.approx(np.log(flux[1] / flux[0]), abs=0.08)


def test_bins(many: dict[str, np.ndarray], grid: Any) -> None:
    edges = np.array([3000.0, 4000.0, 6000.0])
    binned, whole = (relative_spectra(many, CONFIG, 0.1, grid, edges=each) for each in (edges, None))
    inside = (whole.wave_rest >= 3000) & (whole.wave_rest < 4000)
    np.testing.assert_allclose(binned.shape[:, 0], whole.shape[:, inside].mean(axis=1))
    np.testing.assert_allclose(binned.wave_rest, [3500, 5000])
    with pytest.raises(ValueError, match="`edges` must hold wavelengths"):
        relative_spectra(many, CONFIG, 0.1, grid, edges=np.array([5000.0, 5000.01, 5100.0]))


def test_result_of_an_image(many: dict[str, np.ndarray], grid: Any) -> None:
    one = result_of(many)
    found = image_spectrum(one, grid, n_draw=8)
    spectra = relative_spectra(many, CONFIG, 0.1, grid)
    exact = spectrum_quantiles(spectra)
    np.testing.assert_allclose(found.shape, exact.shape, rtol=1e-3, atol=1e-12)
    np.testing.assert_allclose(found.scale[2], np.median(spectra.scale), atol=1e-3)
    # The spectrum of plots is the same, in maggies at observed wavelengths; the draws differ in mass there.
    same = {name: np.repeat(value[3:4], 8, axis=0) for name, value in many.items()}
    band = posterior_spectrum(result_of(same), grid, n_draw=8)
    inside = (band.wave_obs > 3000) & (band.wave_obs < 10_000)
    ratio = (band.flux_q50 / band.wave_obs**2)[inside] / spectra.shape[3, inside]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-3)
    with pytest.raises(ValueError, match="fixed redshift"):
        image_spectrum(result_of(many, zred=np.full(8, 0.1)), grid)
