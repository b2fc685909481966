import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sed.constants import AB_FNU_CGS
from sed.cosmology import default_cosmology
from sed.filters import FilterSet, load_filters
from sed.parameters import BinnedSFH, DelayedTauSFH, SEDParams
from sed.prospector import PROSPECTOR_LSUN_RATIO, predict_with_prospector, prospector_model
from sed.prospector_import import read_prospector_obs, rebin_sfh, translate_parameters
from sed.reference import (
    FSPSReference,
    reference_agebins,
    sedpy_filters,
    spectrum_maggies,
    stellar_population,
    step_table,
)
from sed.sfh import agebins as make_agebins
from sed.sfh import bin_masses

ZRED = 0.1
REST = {"logzsol": -0.3, "dust2": 0.4, "dust1": 0.5, "dust_index": -0.3, "gas_logu": -2.5}
TAU = SEDParams(DelayedTauSFH(10.5, 5.0, 2.0), **REST)
BINNED = SEDParams(BinnedSFH(10.5, -9.7, 0.3, np.array([0.2, -0.1, 0.3, 0.0])), **REST)


@pytest.fixture(scope="module")
def filters() -> FilterSet:
    return load_filters(["galex_NUV", "sdss_g0", "sdss_i0", "twomass_J", "twomass_Ks", "wise_w1"])


# ---- sedpy's integrals


def coarse_spectrum() -> tuple[np.ndarray, np.ndarray]:
    wave = np.geomspace(1e3, 1e5, 461)  # R = 100
    return wave, (wave / 5000) ** 1.5 * (1 + 0.2 * np.sin(np.arange(wave.size) / 2))


def test_flat_spectrum_is_flat(filters: FilterSet) -> None:
    wave, _ = coarse_spectrum()
    # sedpy's zero point is a trapezoid on the filter's own points: 2e-5 for the coarsest curve.
    np.testing.assert_allclose(spectrum_maggies(wave, np.ones_like(wave), filters), 1, rtol=5e-5)
    coarse = spectrum_maggies(wave, np.ones_like(wave), filters, union_grid=False)
    assert np.max(np.abs(coarse - 1)) > 1e-3  # why `union_grid` is there


def test_union_grid_integrates_piecewise_linear_spectrum(filters: FilterSet) -> None:
    wave, flux = coarse_spectrum()
    expected = []
    for filt in filters.filters:
        fine = np.linspace(filt.wave[0], filt.wave[-1], 400_001)
        weight = np.interp(fine, filt.wave, filt.transmission) / fine
        expected.append(np.sum(weight * np.interp(fine, wave, flux)) / np.sum(weight))
    np.testing.assert_allclose(spectrum_maggies(wave, flux, filters), expected, rtol=5e-5)


def test_without_union_grid_is_plain_sedpy(filters: FilterSet) -> None:
    from sedpy.observate import getSED, lightspeed
    from sedpy.observate import load_filters as sedpy_load

    wave, flux = coarse_spectrum()
    flambda = flux * AB_FNU_CGS * lightspeed / wave**2
    expected = getSED(wave, flambda, sedpy_load(list(filters.names)), linear_flux=True)
    np.testing.assert_allclose(spectrum_maggies(wave, flux, filters, union_grid=False), expected, rtol=1e-12)


# ---- settings and refusals


def test_step_table_forms_the_masses() -> None:
    bins = make_agebins(10.0)
    masses = np.array([1.0, 2.0, 0.0, 4.0, 5.0, 6.0, 70.0]) * 1e8
    table = step_table(bins, masses)
    assert table.tage == pytest.approx(10.0)
    assert np.all(np.diff(table.time) > 0)
    # Up to the oldest 1e-4 of time, a share of 1e-4 / 0.15 of the last bin.
    assert np.trapezoid(table.sfr, table.time * 1e9) == pytest.approx(masses.sum(), rel=1e-3)
    young = table.time > table.tage - 0.01
    assert table.sfr[young][-1] == pytest.approx(masses[0] / (1e7 - 1))


def test_gas_metallicity_is_tied_unless_given() -> None:
    assert FSPSReference().fsps_parameters(TAU)["gas_logz"] == pytest.approx(-0.3)
    free = SEDParams(TAU.sfh, logzsol=-0.3, dust2=0.1, gas_logz=0.1)
    assert FSPSReference().fsps_parameters(free)["gas_logz"] == pytest.approx(0.1)


def test_unknown_dust_type_is_refused() -> None:
    with pytest.raises(ValueError, match="`dust_type` must be 4"):
        FSPSReference(dust_type=0)


def test_missing_data_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPS_HOME", raising=False)
    with pytest.raises(FileNotFoundError, match="SPS_HOME"):
        stellar_population.__wrapped__()


def test_zero_redshift_is_refused(filters: FilterSet) -> None:
    with pytest.raises(ValueError, match="zred"):
        FSPSReference().band_flux(TAU, filters, 0.0)
    with pytest.raises(ValueError, match="zred"):
        prospector_model(TAU, 0.0)


# ---- observations of a Prospector script


def prospector_obs(filters: FilterSet) -> dict[str, Any]:
    n_band = len(filters)
    return {
        "filters": sedpy_filters(filters),
        "maggies": np.linspace(1, 2, n_band) * 1e-9,
        "maggies_unc": np.full(n_band, 1e-10),
        "phot_mask": np.array([True] * (n_band - 1) + [False]),
        "wavelength": None,
        "spectrum": None,
        "redshift": 0.3,
    }


def test_obs_is_read(filters: FilterSet) -> None:
    obs = prospector_obs(filters)
    obs["maggies"][1] = np.nan
    obs["maggies_unc"][2] = 0.0
    read = read_prospector_obs(obs)
    assert read.filter_names == filters.names
    assert read.observed.tolist() == [True, False, False, True, True, False]
    assert read.flux[0] == 1e-9
    assert read.flux_err[0] == 1e-10
    assert read.zred == 0.3
    assert read.not_brought == ()


def test_obs_with_names_scalar_error_and_spectrum() -> None:
    read = read_prospector_obs(
        {"filters": ["sdss_g0", "sdss_r0"], "maggies": [1e-9, 2e-9], "maggies_unc": 1e-10, "spectrum": [1.0]}
    )
    assert read.filter_names == ("sdss_g0", "sdss_r0")
    assert read.flux_err.tolist() == [1e-10, 1e-10]
    assert read.observed.all()
    assert read.zred is None
    assert read.not_brought == ("spectrum",)


def test_obs_refusals(filters: FilterSet) -> None:
    with pytest.raises(ValueError, match=r"must hold photometry.*maggies"):
        read_prospector_obs({"spectrum": [1.0]})
    with pytest.raises(ValueError, match="one entry per band"):
        read_prospector_obs(prospector_obs(filters) | {"maggies": [1e-9]})
    with pytest.raises(ValueError, match="phot_mask"):
        read_prospector_obs(prospector_obs(filters) | {"phot_mask": [0, 1, 2, 3, 4, 5]})


# ---- parameters of a Prospector script


class Range:
    def __init__(self, low: float, high: float) -> None:
        self.edges = (low, high)

    def bounds(self) -> tuple[float, float]:
        return self.edges


def test_delayed_tau_model_is_translated() -> None:
    model = translate_parameters(
        {
            "sfh": {"init": 4},
            "zred": {"init": 0.1},
            "mass": {"init": 1e10, "isfree": True, "prior": Range(1e8, 1e12)},
            "tage": {"init": 5.0, "isfree": True, "prior": Range(0.1, 12)},
            "tau": {"init": 2.0, "isfree": True},
            "logzsol": {"init": -0.5, "isfree": True},
            "gas_logz": {"init": 0.0, "depends_on": lambda logzsol, **_: logzsol},
            "dust2": {"init": 0.6, "isfree": True},
            "dust_ratio": {"init": 0.5},
            "dust1": {"init": 0.0, "depends_on": lambda dust2, dust_ratio, **_: dust2 * dust_ratio},
            "dust_type": {"init": 0},
            "imf_type": {"init": 2},
            "igm_factor": {"init": 1.0},
            "fagn": {"init": 0.1, "isfree": True},
            "polyorder": {"init": 12},
            "warp_factor": {"init": 9},
        }
    )
    expected = {
        "zred": 0.1,
        "logmass": 10.0,
        "tage": 5.0,
        "tau": 2.0,
        "logzsol": -0.5,
        "dust2": 0.6,
        "dust1": 0.3,
    }
    assert model.values == pytest.approx(expected)
    assert model.free == ("dust1", "dust2", "logmass", "logzsol", "tage", "tau")
    assert model.bounds == {"logmass": pytest.approx((8, 12)), "tage": (0.1, 12.0)}
    assert model.settings == {"dust_type": 0.0, "imf_type": 2.0}
    assert set(model.not_brought) == {"dust_type", "imf_type", "fagn", "polyorder", "warp_factor"}
    assert "spectra" in model.not_brought["polyorder"]


def test_binned_model_keeps_its_masses() -> None:
    bins = make_agebins(12.0)
    masses = np.asarray(bin_masses(BINNED.sfh, bins), float)
    model = translate_parameters(
        [
            {"name": "sfh", "init": 3},
            {"name": "logmass", "init": 10.5, "isfree": True},
            {"name": "agebins", "init": bins, "N": 7},
            {"name": "mass", "init": 1.0, "N": 7, "depends_on": lambda **_: masses},
        ]
    )
    for name in ("logmass", "logssfr", "logsfr_ratio_recent", "logsfr_ratios"):
        np.testing.assert_allclose(model.values[name], getattr(BINNED.sfh, name), atol=1e-5)
    assert model.free == ("logmass", "logsfr_ratio_recent", "logsfr_ratios", "logssfr")
    assert set(model.not_brought) == {"imf_type", "dust_type"}  # python-fsps's defaults are not ours


def test_defaults_of_fsps_are_said() -> None:
    ours = {name: {"init": value} for name, value in {"imf_type": 1, "dust_type": 4, "sfh": 4}.items()}
    slope = {"dust_index": {"init": -0.3, "isfree": True}}
    assert translate_parameters(ours | slope).not_brought == {}
    assert translate_parameters(ours | slope).values == pytest.approx({"dust_index": -0.3})
    assert "takes -0.7" in translate_parameters(ours).not_brought["dust_index"]
    power_law = translate_parameters({"imf_type": {"init": 1}, "sfh": {"init": 4}} | slope)
    assert set(power_law.not_brought) == {"dust_type", "dust_index"}
    assert "dust_type=0" in power_law.not_brought["dust_type"]
    assert power_law.values == {}
    assert power_law.free == ()
    gas = {"add_neb_emission": {"init": True}}
    assert set(translate_parameters(ours | slope | gas).not_brought) == {"add_neb_continuum"}
    without = gas | {"add_neb_continuum": {"init": False}}
    assert translate_parameters(ours | slope | without).not_brought == {}


def test_rebinned_history_forms_the_same_stars() -> None:
    bins = np.array([[0.0, 7.5], [7.5, 8.5], [8.5, 9.0], [9.0, 10.0]])
    masses = np.array([1e8, 3e8, 0.0, 1e10])
    ours = make_agebins(10.0)
    ages = 10 ** np.append(ours[:, 0], ours[-1, 1])
    formed = np.append(0.0, np.cumsum(bin_masses(rebin_sfh(bins, masses), ours)))
    expected = [
        sum(
            m * np.clip((age - 10**lo) / (10**hi - 10**lo), 0, 1)
            for m, (lo, hi) in zip(masses, bins, strict=True)
        )
        for age in ages
    ]
    np.testing.assert_allclose(formed, expected, rtol=2e-5)


def test_what_cannot_be_translated_is_said() -> None:
    burst = translate_parameters({"mass": {"init": 1e9}, "sfh": {"init": 0}, "tage": {"init": 1.0}})
    assert "sfh=0" in burst.not_brought["sfh"]
    assert burst.values == pytest.approx({"logmass": 9.0})
    saved = translate_parameters({"dust1": {"init": 0.0, "depends_on": ["dustratio_to_dust1", "prospect"]}})
    assert "pass the function" in saved.not_brought["dust1"]
    assert "dust1" not in saved.values


def test_translation_refusals() -> None:
    with pytest.raises(ValueError, match="'name'"):
        translate_parameters([{"init": 1.0}])
    with pytest.raises(ValueError, match="'init'"):
        translate_parameters({"dust2": {"isfree": True}})
    with pytest.raises(ValueError, match="`agebins` must begin"):
        rebin_sfh(np.array([[0.0, 8.0], [8.5, 10.0]]), np.ones(2))
    with pytest.raises(ValueError, match="`masses` must be"):
        rebin_sfh(np.array([[0.0, 8.0], [8.0, 10.0]]), np.zeros(2))


# ---- FSPS and Prospector themselves; one pair of metallicities, half a minute in all


@pytest.fixture
def stirred() -> Iterator[None]:
    """Leave the shared FSPS in another galaxy's state, which a forgotten parameter would keep."""
    params = stellar_population().params
    other = {"dust1": 2.0, "dust2": 3.0, "dust_index": 0.4, "gas_logu": -1.0, "gas_logz": 0.3, "zred": 3.0}
    other |= {"dust_type": 0, "dust_tesc": 9.0, "add_dust_emission": True, "add_igm_absorption": True}
    other |= {"add_neb_emission": False, "add_neb_continuum": True, "dust1_index": -0.5, "tau": 9.0, "sfh": 1}
    for name, value in other.items():
        params[name] = value
    yield
    params.dirtiness = max(1, params.dirtiness)


@pytest.mark.fsps
@pytest.mark.usefixtures("stirred")
class TestFSPS:
    @pytest.mark.parametrize("params", [TAU, BINNED], ids=["delayed_tau", "binned"])
    def test_prospector_agrees(self, params: SEDParams, filters: FilterSet) -> None:
        theirs = predict_with_prospector(params, filters, ZRED) / PROSPECTOR_LSUN_RATIO
        TestFSPS.stir()
        ours = FSPSReference().band_flux(params, filters, ZRED, union_grid=False)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        assert np.all((ours > 1e-9) & (ours < 1e-3))

    @staticmethod
    def stir() -> None:
        stellar_population().params["dust2"] = 3.0
        stellar_population().get_spectrum(tage=1.0)

    def test_prospector_agrees_with_igm_and_dust_emission(self) -> None:
        bands = load_filters(["galex_NUV", "sdss_g0", "wise_w3"])
        reference = FSPSReference(dust_type=2, dust_emission=True)
        theirs = (
            predict_with_prospector(TAU, bands, 3.0, reference=reference, igm=True) / PROSPECTOR_LSUN_RATIO
        )
        ours = reference.band_flux(TAU, bands, 3.0, igm=True, union_grid=False)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        clear = reference.band_flux(TAU, bands, 3.0, union_grid=False)
        assert ours[0] < 0.5 * clear[0]  # galex_NUV is at 580 A at rest
        np.testing.assert_allclose(ours[2], clear[2], rtol=1e-6)

    def test_theta_is_the_galaxy(self, filters: FilterSet) -> None:
        galaxy = prospector_model(BINNED, ZRED, fixed=["gas_logu"])
        assert "gas_logu" not in galaxy.model.free_params
        assert galaxy.theta[galaxy.model.theta_index["logssfr"]] == pytest.approx(-9.7)
        obs = {"filters": sedpy_filters(filters), "wavelength": None, "spectrum": None}
        _, flux, mfrac = galaxy.model.predict(galaxy.theta, obs, sps=galaxy.sps)
        theta = galaxy.theta.copy()
        theta[galaxy.model.theta_index["logmass"]] += 1
        _, ten_times, _ = galaxy.model.predict(theta, obs, sps=galaxy.sps)
        np.testing.assert_allclose(ten_times, 10 * flux, rtol=1e-5)
        assert FSPSReference().rest_spectrum(BINNED, zred=ZRED).mfrac == pytest.approx(float(mfrac), rel=1e-6)
        with pytest.raises(ValueError, match=r"`fixed`.*tau"):
            prospector_model(BINNED, ZRED, fixed=["tau"])

    def test_step_table_is_that_of_prospector(self) -> None:
        galaxy = prospector_model(BINNED, ZRED)
        bins = reference_agebins(BINNED.sfh, ZRED)
        masses = np.asarray(bin_masses(BINNED.sfh, bins), float)
        for mine, theirs in zip(step_table(bins, masses), galaxy.sps.convert_sfh(bins, masses), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9)

    def test_bins_end_at_the_age_of_the_universe(self) -> None:
        bins = reference_agebins(BINNED.sfh, 2.0)
        assert 10 ** (bins[-1, 1] - 9) == pytest.approx(float(default_cosmology().age(2.0)), rel=1e-5)
        assert 10 ** reference_agebins(BINNED.sfh, 0.01)[-1, 1] <= 1.26e10

    def test_too_old_is_refused(self) -> None:
        old = SEDParams(DelayedTauSFH(10.0, 30.0, 1.0), **REST)
        with pytest.raises(ValueError, match="`tage` must be within"):
            FSPSReference().rest_spectrum(old)

    def test_templates_of_prospector_are_translated(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in its docstrings, when first compiled
            from prospect.models.templates import TemplateLibrary

        tau = translate_parameters(TemplateLibrary["parametric_sfh"] | TemplateLibrary["nebular"])
        assert {"logmass", "tage", "tau", "dust2", "logzsol"} == set(tau.free)
        assert set(tau.not_brought) == {"imf_type", "dust_type", "add_neb_continuum"}  # Kroupa, a power law
        assert tau.bounds["logmass"] == pytest.approx((8, 12))
        binned = translate_parameters(TemplateLibrary["continuity_sfh"])
        assert {"logssfr", "logsfr_ratios", "logmass"} <= set(binned.free)
        assert binned.values["logssfr"] == pytest.approx(-10.0, abs=1e-6)  # constant over 10 Gyr
        alpha = translate_parameters(TemplateLibrary["alpha"])
        assert {"fagn", "agn_tau"} <= set(alpha.not_brought)
        assert {"duste_umin", "dust1", "dust_index", "logssfr"} <= set(alpha.free)
