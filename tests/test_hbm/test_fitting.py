"""Fits of simulated galaxies: short chains, few bands."""

import dataclasses

import jax
import numpy as np
import pytest

import hbm.fitting
from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.fitting import config_of, fit
from hbm.galaxies import DataBuilder
from hbm.results import load_result, result_path, summary_table
from hbm.sampler import NutsSampler, SamplerConfig
from sed.parameters import BinnedSFH, SEDParams

FILTERS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0", "twomass_J", "twomass_Ks")
CONFIG = ModelConfig(n_node=2, n_old=3, nebular=False, dust_emission=False)
SHORT = SamplerConfig(n_warmup=50, n_draw=50, n_chain=2, n_point=1000)
TRUTH = {"logmass": (10.3, 9.6), "logssfr": (-9.6, -9.0), "dust2": (0.5, 0.2)}


@pytest.fixture(scope="module")
def catalog(grid):
    """Two galaxies without noise at z = 0.1: what is measured is the model at `TRUTH`."""
    zred = np.array([0.1, 0.1])
    empty = np.ones((2, len(FILTERS)))
    blank = Catalog(
        id=("one", "two"),
        zred=zred,
        zred_err=np.zeros(2),
        flux=1e-8 * empty,
        flux_err=1e-9 * empty,
        observed=empty.astype(bool),
        upper_limit=np.zeros_like(empty, bool),
        filter_names=FILTERS,
        meta={},
    )
    build = DataBuilder(grid, CONFIG, FILTERS)
    predict = jax.jit(lambda photometry, params: photometry.flux(params))
    flux = []
    for row in range(2):
        logmass, logssfr, dust2 = (TRUTH[name][row] for name in ("logmass", "logssfr", "dust2"))
        sfh = BinnedSFH(logmass, logssfr, 0.0, np.zeros(2, np.float32))
        params = SEDParams(sfh, 0.0, dust2, dust1=dust2, dust_index=-0.2, gas_logu=-2.7)
        flux.append(np.asarray(predict(build(blank, row).photometry, params), float))
    flux = np.array(flux)
    return Catalog(
        id=blank.id,
        zred=zred,
        zred_err=np.zeros(2),
        flux=flux,
        flux_err=0.02 * flux,
        observed=blank.observed,
        upper_limit=blank.upper_limit,
        filter_names=FILTERS,
        meta={},
    )


@pytest.fixture(scope="module")
def fitted(catalog, grid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fits")
    told, stood = [], []
    extend = NutsSampler.extend

    def spy(self, data, chains, key, progress):
        stood.append(np.asarray(chains.state.potential_energy))
        return extend(self, data, chains, key, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NutsSampler, "extend", spy)
        patch.setattr(hbm.fitting._Sampled, "can_go_on", lambda _: True)
        results = fit(
            catalog,
            config=CONFIG,
            sampler=SHORT,
            grid=grid,
            seed=3,
            outdir=folder,
            max_rerun=1,
            progress=lambda done, total, text: told.append((done, total, text)),
        )
    return folder, results, told, stood


def test_truth_is_within_the_posterior(fitted):
    for row, result in enumerate(fitted[1]):
        for name, truth in TRUTH.items():
            draws = result.draws(name)
            assert abs(draws.mean() - truth[row]) < 3 * draws.std(), name
        assert result.draws("logmass").std() < 0.3
        flux = result.predicted_flux()
        chi = (np.median(flux, axis=0) - result.bands.flux) / (0.05 * result.bands.flux)
        assert np.all(np.abs(chi) < 1.5)


def test_derived_quantities_belong_to_the_parameters(fitted):
    result = fitted[1][0]
    np.testing.assert_allclose(
        result.draws("logsfr_100"), result.draws("logmass") + result.draws("logssfr"), atol=1e-4
    )
    years = np.array([1e7, 9e7])
    recent = result.draws("sfr_bins")[..., :2] @ years / 1e8
    np.testing.assert_allclose(np.log10(recent), result.draws("logsfr_100"), atol=1e-3)
    assert np.all(result.draws("logmstar") < result.draws("logmass"))
    assert np.all(result.draws("av") > 0)


def test_results_are_on_disk_and_reload(fitted):
    folder, results, *_ = fitted
    loaded = load_result(result_path(folder, "two"))
    assert loaded.galaxy_id == "two"
    assert config_of(loaded) == CONFIG
    np.testing.assert_array_equal(loaded.draws("logmass"), results[1].draws("logmass"))
    assert len(summary_table(results)) == 2


def test_short_chains_are_not_called_converged(fitted):
    assert not any(result.convergence.converged for result in fitted[1])
    assert all(result.flag != "ok" for result in fitted[1])


def test_progress_is_told_to_the_end(fitted):
    total = SHORT.n_round + SHORT.n_warmup + SHORT.n_draw
    assert (total, total, "sampling") in fitted[2]
    assert fitted[2][-1] == (SHORT.n_draw, SHORT.n_draw, "2 going on")


def test_chains_go_on_from_where_they_stand(fitted):
    _, results, _, (stood,) = fitted
    for row, result in enumerate(results):
        lp = result.idata.sample_stats["lp"].values
        assert lp.shape == (SHORT.n_chain, 2 * SHORT.n_draw)
        np.testing.assert_allclose(-lp[:, SHORT.n_draw - 1], stood[row], rtol=1e-6)
        assert result.draws("logmass").size == 2 * SHORT.n_draw * SHORT.n_chain
        assert len(result.predicted_flux()) == 2 * SHORT.n_draw * SHORT.n_chain


def test_draws_of_a_galaxy_do_not_depend_on_the_others(fitted, catalog, grid):
    brighter = dataclasses.replace(catalog, flux=2 * catalog.flux, flux_err=3 * catalog.flux_err)
    other = dataclasses.replace(
        catalog,
        id=("three", "two"),
        flux=np.stack([brighter.flux[0], catalog.flux[1]]),
        flux_err=np.stack([brighter.flux_err[0], catalog.flux_err[1]]),
    )
    for survey, row in ((catalog.select([1, 0]), 0), (other, 1)):
        result = fit(survey, config=CONFIG, sampler=SHORT, grid=grid, seed=3, max_rerun=0)[row]
        reference = fitted[1][1].posterior["logmass"].values[:, : SHORT.n_draw]
        np.testing.assert_array_equal(result.posterior["logmass"].values, reference)


def test_galaxies_of_many_legs_come_in_their_order(catalog, grid):
    rows = [0, 1, 0, 1, 0]
    arrays = ("zred", "zred_err", "flux", "flux_err", "observed", "upper_limit")
    every = Catalog(
        id=tuple("abcde"),
        **{name: getattr(catalog, name)[rows] for name in arrays},
        filter_names=FILTERS,
    )
    told = []
    results = fit(
        every, config=CONFIG, sampler=SHORT, grid=grid, batch_size=2, max_rerun=0,
        progress=lambda *step: told.append(step[2]),
    )  # fmt: skip
    assert [result.galaxy_id for result in results] == list("abcde")
    for row, result in enumerate(results):
        draws = result.draws("logmass")
        assert abs(draws.mean() - TRUTH["logmass"][row % 2]) < 3 * draws.std()
    assert not np.array_equal(results[0].draws("logmass"), results[2].draws("logmass"))
    assert [text for text in dict.fromkeys(told) if text.startswith("sampling")] == [
        f"sampling ({done} of 5 galaxies done)" for done in (0, 2, 4)
    ]


def test_existing_results_are_not_replaced(fitted, catalog, grid):
    with pytest.raises(FileExistsError, match="already holds 2 of these results"):
        fit(catalog, config=CONFIG, sampler=SHORT, grid=grid, outdir=fitted[0])


def test_galaxies_without_a_measured_flux_are_refused(catalog, grid):
    limits = dataclasses.replace(catalog, upper_limit=catalog.observed)
    with pytest.raises(ValueError, match=f"id {catalog.id[0]} has none, or upper limits alone"):
        fit(limits, config=CONFIG, grid=grid)


def test_a_negative_number_of_reruns_is_refused(catalog, grid):
    with pytest.raises(ValueError, match="`max_rerun` must be at least 0, got -1"):
        fit(catalog, config=CONFIG, grid=grid, max_rerun=-1)


def test_empty_batches_are_refused(catalog, grid):
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        fit(catalog, config=CONFIG, grid=grid, batch_size=0)


@pytest.mark.slow
def test_ensemble_sampler_agrees(fitted, catalog, grid):
    one = catalog.select(np.array([0]))
    settings = SamplerConfig(n_draw=500)
    result = fit(one, config=CONFIG, sampler=settings, grid=grid, method="aies", max_rerun=0)[0]
    reference = fitted[1][0]
    for name in ("logmass", "dust2"):
        difference = abs(result.draws(name).mean() - reference.draws(name).mean())
        assert difference < 0.5 * reference.draws(name).std(), name
