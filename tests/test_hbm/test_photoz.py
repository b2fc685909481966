"""Redshifts from fluxes: against prior draws weighed one by one, and what runs leave on disk."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner

import hbm
from hbm.catalog import Catalog
from hbm.cli import app
from hbm.config import InterimPrior, ModelConfig
from hbm.convergence import ConvergenceRule
from hbm.galaxies import DataBuilder
from hbm.redshifts import PhotozConfig, ZredPrior
from hbm.results import FitResult, load_result, result_path
from hbm.sbc import draw_prior

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "twomass_Ks")
CONFIG = ModelConfig(
    n_node=2, n_old=3, nebular=False, dust_emission=False, prior=InterimPrior(logmass=(9.5, 11.5))
)
PRIOR = ZredPrior(0.05, 1.0)
SAMPLER = PhotozConfig(step=0.02, n_prior=128, n_point=1000)
RULE = ConvergenceRule(ess_bulk=200.0, ess_tail=200.0)
FLUX = np.array([0.6, 2.0, 4.0, 5.5, 9.0]) * 1e-9
ERROR = np.array([3.0, 4.0, 8.0, 12.0, 40.0]) * 1e-10


def make_catalog(*ids: str) -> Catalog:
    """Galaxies of the same fluxes without redshifts."""
    shape = (len(ids), len(BANDS))
    return Catalog(
        id=ids,
        zred=np.full(len(ids), np.nan),
        zred_err=np.zeros(len(ids)),
        flux=np.tile(FLUX, (len(ids), 1)),
        flux_err=np.tile(ERROR, (len(ids), 1)),
        observed=np.ones(shape, bool),
        upper_limit=np.zeros(shape, bool),
        filter_names=BANDS,
    )


def run(catalog: Catalog, grid: Any, **options: Any) -> list[FitResult]:
    settings = {"prior": PRIOR, "config": CONFIG, "sampler": SAMPLER, "rule": RULE, "seed": 3} | options
    return hbm.photoz(catalog, grid=grid, **settings)


class Survey(NamedTuple):
    """Three galaxies that were fitted together: one without a flux, one without a signal, and a plain one."""

    catalog: Catalog
    results: list[FitResult]
    told: dict[str, str]
    outdir: Path


@pytest.fixture(scope="module")
def survey(grid: Any, tmp_path_factory: pytest.TempPathFactory) -> Survey:
    catalog = make_catalog("blank", "faint", "a")
    observed, limit = catalog.observed.copy(), catalog.upper_limit.copy()
    observed[0] = False
    limit[1, 0] = True
    flux = np.where(observed, catalog.flux, np.nan)
    flux[1] *= 1e-3
    catalog = dataclasses.replace(catalog, observed=observed, upper_limit=limit, flux=flux)
    told: dict[str, str] = {}
    out = tmp_path_factory.mktemp("photoz")
    found = run(catalog, grid, outdir=out, on_error=lambda name, error: told.update({name: str(error)}))
    return Survey(catalog, found, told, out)


@pytest.fixture
def result(survey: Survey) -> FitResult:
    return survey.results[1]


def test_posterior_is_that_of_prior_draws_at_every_redshift(grid: Any, result: FitResult):
    """Photometry compiled at redshifts between the table's, the likelihood and the prior written out here."""
    n_zred, n_draw = 40, 4000
    log_zred = np.linspace(*np.log1p([PRIOR.low, PRIOR.high]), 2 * n_zred + 1)[1::2]
    builder = DataBuilder(grid, CONFIG, BANDS)
    catalog = make_catalog("a")
    draw = jax.jit(lambda galaxy, keys: draw_prior(galaxy, CONFIG, keys))
    mag = -2.5 * np.log10(FLUX[3])
    scale = 0.09 + 0.0417 * (mag - 20)
    weights, dust = np.empty((n_zred, n_draw)), np.empty((n_zred, n_draw))
    for k, place in enumerate(log_zred):
        zred = np.expm1(place)
        galaxy = builder(dataclasses.replace(catalog, zred=np.array([zred])), 0)
        found = draw(galaxy, jax.random.split(jax.random.key(k), n_draw))
        model = np.asarray(found["flux"], np.float64)
        variance = ERROR**2 + (0.05 * model) ** 2
        loglike = -0.5 * np.sum((FLUX - model) ** 2 / variance + np.log(variance), axis=1)
        prior = 0.98 * zred**2 * np.exp(-zred / scale) / _norm(scale) + 0.02 / (PRIOR.high - PRIOR.low)
        weights[k] = np.exp(loglike - 90.0) * prior * (1 + zred)
        dust[k] = found["dust2"]
    total = weights.sum()
    by_zred = weights.sum(axis=1) / total
    cdf = np.cumsum(by_zred)
    effective = total**2 / np.sum(weights**2)
    assert effective > 600
    assert result.flag == "ok"
    assert result.convergence.ess_bulk_min >= 400
    mine = np.log1p(result.draws("zred"))
    step = log_zred[1] - log_zred[0]
    for k in np.searchsorted(cdf, [0.1, 0.3, 0.5, 0.7, 0.9]):
        error = np.sqrt(cdf[k] * (1 - cdf[k]) * (1 / effective + 1 / result.convergence.ess_bulk_min))
        assert np.mean(mine < log_zred[k] + 0.5 * step) == pytest.approx(cdf[k], abs=4 * error)
    mean = np.sum(weights * dust) / total
    spread = np.sqrt(np.sum(weights * (dust - mean) ** 2) / total)
    error = spread * np.sqrt(1 / effective + 1 / result.convergence.ess_bulk_min)
    assert result.draws("dust2").mean() == pytest.approx(mean, abs=4 * error)


def _norm(scale: float) -> float:
    z = np.linspace(PRIOR.low, PRIOR.high, 20_001)
    return float(np.trapezoid(z**2 * np.exp(-z / scale), z))


def test_a_result_holds_what_fits_hold(result: FitResult):
    assert result.draws("zred").shape == (4, 500)
    for name in ("logmass", "logsfr_100", "mwa", "av", "logmstar", "zred"):
        assert np.all(np.isfinite(result.draws(name)))
    assert np.all((result.draws("zred") >= PRIOR.low) & (result.draws("zred") <= PRIOR.high))
    summary = hbm.redshift_summary(result)
    assert result.zred == pytest.approx(summary.modes[0].zred)
    assert summary.q16 < summary.median < summary.q84
    assert np.sum(summary.density * np.diff(summary.edges)) == pytest.approx(1.0)
    assert sum(mode.weight for mode in summary.modes) == pytest.approx(1.0, abs=0.03)
    model = np.median(result.idata.posterior_predictive["flux"], axis=(0, 1))
    np.testing.assert_allclose(model, FLUX, rtol=0.3)


def test_runs_go_on_with_what_is_there(grid: Any, survey: Survey):
    assert [one.galaxy_id for one in survey.results] == ["faint", "a"]
    assert list(survey.told) == ["blank"]
    assert "must have a measured flux" in survey.told["blank"]
    draws = survey.results[1].draws("zred")
    np.testing.assert_array_equal(load_result(result_path(survey.outdir, "a")).draws("zred"), draws)
    with pytest.raises(FileExistsError, match="already holds 2 of these results"):
        run(survey.catalog, grid, outdir=survey.outdir)
    again = run(make_catalog("a"), grid, outdir=survey.outdir, resume=True)
    np.testing.assert_array_equal(again[0].draws("zred"), draws)
    with pytest.raises(ValueError, match="that of a has seed: 3, not 4"):
        run(make_catalog("a"), grid, outdir=survey.outdir, resume=True, seed=4)
    other = dataclasses.replace(make_catalog("a"), flux=1.1 * make_catalog("a").flux)
    with pytest.raises(ValueError, match="that of a has other fluxes"):
        run(other, grid, outdir=survey.outdir, resume=True)


def test_a_galaxy_fainter_than_the_smallest_mass_nearby_is_far(survey: Survey):
    assert np.mean(survey.results[0].draws("zred") < 0.2) < 0.03
    table = hbm.photoz_table(survey.results)
    assert list(table["id"]) == ["faint", "a"]
    assert np.all(table["weight1"] > 0)


@pytest.mark.slow
def test_draws_depend_on_seed_and_galaxy_alone(grid: Any, survey: Survey):
    alone = run(make_catalog("a"), grid)[0]
    np.testing.assert_array_equal(alone.draws("zred"), survey.results[1].draws("zred"))
    other = run(make_catalog("b"), grid)[0]
    assert not np.array_equal(other.draws("zred"), alone.draws("zred"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
        ({"sampler": PhotozConfig(step=0.0)}, "`step` must be > 0"),
        ({"sampler": PhotozConfig(n_point=0)}, "`n_point` must be at least 1, got 0"),
        ({"overwrite": True, "resume": True, "outdir": "out"}, "Give `overwrite` or `resume`, not both"),
        ({"prior": ZredPrior(0.05, 50.0)}, r"`zred` must lie in \(0, 15\], got 50"),
    ],
)
def test_wrong_arguments_are_refused(grid: Any, options: dict[str, Any], text: str):
    with pytest.raises(ValueError, match=text):
        run(make_catalog("a"), grid, **options)
    with pytest.raises(ValueError, match="`catalog` is empty"):
        run(make_catalog("a").select([]), grid)


def test_fluxes_in_a_wrong_unit_are_refused(grid: Any):
    bright = make_catalog("a")
    with pytest.raises(ValueError, match="Fluxes of `catalog`"):
        run(dataclasses.replace(bright, flux=1e9 * bright.flux, flux_err=1e9 * bright.flux_err), grid)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: FitResult):
    table = Table({"id": ["a", "b"]})
    for band, flux, error in zip(BANDS, FLUX, ERROR, strict=True):
        table[band], table[f"{band}_err"] = [flux, flux], [error, error]
    path = tmp_path / "galaxies.ecsv"
    table.meta["flux_unit"] = "maggies"
    table.write(path)
    asked: dict[str, Any] = {}

    def fake(catalog: Catalog, **options: Any) -> list[FitResult]:
        asked.update(options, catalog=catalog)
        options["on_error"]("b", ValueError("no flux"))
        return [result]

    monkeypatch.setattr("hbm.redshifts.photoz", fake)
    words = ["photoz", str(path), "--out", str(tmp_path / "out"), "--z-max", "1.5", "--resume"]
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, words, catch_exceptions=False)
    text = " ".join(done.output.split())
    assert done.exit_code == 0, text
    assert asked["catalog"].id == ("a", "b")
    assert asked["prior"] == ZredPrior(high=1.5)
    assert asked["resume"]
    assert "Not fitted: b: no flux" in text
    assert "a: z = 0." in text
    assert "1 fitted, 0 flagged, 1 failed." in text
    assert list(Table.read(tmp_path / "out" / "photoz.ecsv")["id"]) == ["a"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, "--overwrite"])
    assert done.exit_code == 1
    assert "not both" in done.output


def test_spectra_of_a_broad_redshift_are_those_of_its_fluxes(grid: Any, result: FitResult):
    """The spectrum of each draw has the age bins of its own redshift: averaged over bands it is the flux."""
    from hbm.spectra import posterior_spectrum
    from sed.filters import load_filters
    from sed.photometry import band_matrix

    assert np.ptp(result.draws("zred")) > 0.1
    band = posterior_spectrum(result, grid, n_draw=300)
    matrix = band_matrix(band.wave_obs, load_filters(BANDS), 0.0)
    flux = np.median(result.predicted_flux(), axis=0)
    # Medians at each wavelength are not the median of a band; nodes and the two paths differ by a per cent.
    np.testing.assert_allclose(matrix @ band.flux_q50, flux, rtol=0.06)
