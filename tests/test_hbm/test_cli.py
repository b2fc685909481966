import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from scipy import stats
from typer.testing import CliRunner

from hbm.catalog import Catalog
from hbm.cli import app
from hbm.cli.demo import FULL
from hbm.cli.grid import FSPS_IMF_TYPE
from hbm.config import ModelConfig
from hbm.convergence import Convergence
from hbm.demo import load_demo, load_joint_demo
from hbm.plots import SpectrumBand
from hbm.plots.prior import plot_prior, prior_draws
from hbm.results import (
    FitResult,
    ObservedBands,
    Provenance,
    load_result,
    make_result,
    result_path,
    save_result,
)
from sed.filters import load_filters
from sed.io import load_grid, save_grid
from sed.ssp import DustEmissionTable, NebularTable, SSPGrid

FILTERS = ("sdss_g0", "sdss_r0", "sdss_i0")
GOOD = Convergence(1.001, "logmass", 900.0, 800.0, 0, True, "ok", "")
BAD = Convergence(
    1.2, "dust2", 20.0, 30.0, 0, False, "rhat,ess_bulk", "R-hat of dust2 is 1.200: run longer chains"
)


def run(*arguments: object, code: int = 0) -> Any:
    """Run ``hbm``; an exception that is not an exit is raised."""
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(
        app, [str(word) for word in arguments], catch_exceptions=False
    )
    assert done.exit_code == code, done.output
    return done


def refused(*arguments: object) -> str:
    """Error message of ``hbm``: one paragraph on stderr."""
    done = run(*arguments, code=1)
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.output
    return " ".join(done.stderr.split())


def make_catalog(ids: tuple[str, ...] = ("a1", "b2", "c3")) -> Catalog:
    n = len(ids)
    return Catalog(
        id=ids,
        zred=np.linspace(0.1, 0.3, n),
        zred_err=np.zeros(n),
        flux=np.full((n, 3), 1e-8),
        flux_err=np.full((n, 3), 1e-10),
        observed=np.ones((n, 3), dtype=bool),
        upper_limit=np.zeros((n, 3), dtype=bool),
        filter_names=FILTERS,
    )


def make_fit(
    catalog: Catalog,
    row: int,
    convergence: Convergence,
    *,
    binned: bool = True,
    model_config: dict[str, Any] | None = None,
) -> FitResult:
    rng = np.random.default_rng(row)
    shape = (2, 60)
    n_band = len(catalog.filter_names)
    names = ("logmstar", "logsfr_100", "logssfr", "mwa", "dust2", "av", "logmass", "logzsol", "gas_logu")
    bands = ObservedBands(
        filter_names=catalog.filter_names,
        wave_pivot=np.linspace(4000.0, 20000.0, n_band),
        flux=catalog.flux[row],
        flux_err=catalog.flux_err[row],
        observed=catalog.observed[row],
        upper_limit=catalog.upper_limit[row],
        error_floor=np.full(n_band, 0.05),
    )
    history = {"sfr_bins": rng.lognormal(size=(*shape, 3))} if binned else {}
    return make_result(
        catalog.id[row],
        float(catalog.zred[row]),
        posterior={name: rng.normal(2.0, 0.1, size=shape) for name in names} | history,
        sample_stats={"diverging": np.zeros(shape, dtype=bool)},
        flux=catalog.flux[row] * rng.lognormal(0.0, 0.05, size=(*shape, n_band)),
        bands=bands,
        convergence=convergence,
        provenance=Provenance(model_config or {}, {}, (), 0, "test", "2026-01-01T00:00:00+00:00", {}),
        agebins=np.array([[0.0, 8.0], [8.0, 9.0], [9.0, 9.9]]) if binned else None,
    )


class FitStandIn:
    """In place of `hbm.fit`: results at once, "b2" not converged; keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, catalog: Catalog, **settings: Any) -> list[FitResult]:
        self.calls.append({"catalog": catalog, **settings})
        results = []
        for row, name in enumerate(catalog.id):
            settings["progress"](row + 1, len(catalog), f"[{name}]")
            model_config = {
                "config": json.loads(settings.get("config", ModelConfig()).to_json()),
                "sampler": settings["sampler"]._asdict(),
                "method": settings.get("method", "nuts"),
            }
            made = make_fit(catalog, row, BAD if name == "b2" else GOOD, model_config=model_config)
            results.append(made)
            path = result_path(settings["outdir"], name)
            save_result(results[-1], path, overwrite=settings["overwrite"])
        return results


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> FitStandIn:
    stand_in = FitStandIn()
    module = ModuleType("hbm.fitting")
    module.fit = stand_in  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hbm.fitting", module)
    return stand_in


@pytest.fixture
def spectra(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In place of `hbm.spectra`; returns the grids that were asked for."""
    grids: list[Any] = []

    def posterior_spectrum(result: FitResult, grid: Any = None, n_draw: int = 100) -> SpectrumBand:
        del result, n_draw
        grids.append(grid)
        if len(grids) > 1:
            raise ValueError("`grid` is another one")
        return SpectrumBand(np.array([3000.0, 30000.0]), *np.full((3, 2), 1e-8))

    module = ModuleType("hbm.spectra")
    module.posterior_spectrum = posterior_spectrum  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hbm.spectra", module)
    return grids


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "galaxies.ecsv"
    make_catalog().to_table().write(path)
    return path


def small_grid(*, full: bool) -> SSPGrid:
    wave = np.geomspace(100.0, 1e6, 30)
    nebular = NebularTable(
        gas_logz=np.array([-1.0, 0.0]),
        gas_logu=np.array([-4.0, -1.0]),
        line_wave=np.array([4863.0, 6565.0]),
        line_sigma=np.ones(2),
        line_loglum=np.zeros((2, 2, 3, 2), dtype=np.float32),
        line_name=("Hb", "Ha"),
    )
    dust = DustEmissionTable(
        qpah=np.array([0.47, 4.58]), umin=np.array([0.1, 25.0]), shape=np.ones((2, 2, 2, 30))
    )
    return SSPGrid(
        wave=wave,
        log_age=np.linspace(6.0, 10.0, 5),
        logzsol=np.array([-1.5, 0.25]),
        flux=np.ones((2, 5, 30), dtype=np.float32),
        mstar=np.ones((2, 5)) if full else None,
        nebular=nebular if full else None,
        dust_emission=dust if full else None,
        provenance_json='{"made_by": "a test [x]", "notes": ["a remark"]}',
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["hbm demo --quick", "fit", "plot", "grid", "filters", "prior"]),
        (["demo"], ["--quick", "--outdir", "3D-HST"]),
        (["fit"], ["--preset", "--error-floor", "--zero-points", "--resume", "--batch-size", "summary.ecsv"]),
        (["plot"], ["--kind", "corner", "--format", "--no-spectrum"]),
        (["grid"], ["build", "info"]),
        (["grid", "build"], ["--imf", "--note", "SPS_HOME", "--no-nebular"]),
        (["grid", "info"], ["lacks"]),
        (["filters"], ["subaru", "SVO"]),
        (["prior"], ["--zred", "--out"]),
    ],
)
def test_help(command: list[str], words: list[str]) -> None:
    text = run(*command, "--help").output
    for word in words:
        assert word in text
    assert command in ([], ["grid"]) or "Examples" in text
    assert run(*command, "-h").output == text


def test_version() -> None:
    from importlib.metadata import version

    assert run("--version").output.strip() == f"galaxy-hbm {version('galaxy-hbm')}"


def test_help_imports_nothing_slow() -> None:
    code = """
import sys
sys.argv = ["hbm", "--help"]
from hbm.cli import app
try:
    app()
except SystemExit:
    pass
slow = {"jax", "numpyro", "matplotlib", "astropy", "arviz", "scipy", "pandas", "fsps"} & set(sys.modules)
sys.exit(f"loaded: {sorted(slow)}" if slow else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_lengths_are_the_defaults_of_the_sampler() -> None:
    from hbm.cli.demo import FULL
    from hbm.cli.fit import N_CHAIN, N_DRAW, N_WARMUP
    from hbm.sampler import SamplerConfig

    default = SamplerConfig()
    assert (default.n_chain, default.n_warmup, default.n_draw) == (N_CHAIN, N_WARMUP, N_DRAW) == FULL


def test_the_real_fit_takes_what_the_commands_give(table: Path, tmp_path: Path, spectra: list[Any]) -> None:
    import importlib

    del spectra
    real = inspect.signature(importlib.import_module("hbm.fitting").fit)
    with pytest.MonkeyPatch.context() as patch:
        stand_in = FitStandIn()
        module = ModuleType("hbm.fitting")
        module.fit = stand_in  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "hbm.fitting", module)
        run("fit", table, "--out", tmp_path / "out")
        run("demo", "--outdir", tmp_path / "demo")
    for call in stand_in.calls:
        real.bind(**call)


def test_fit_writes_and_reports(fit: FitStandIn, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = run(
        *("fit", table, "--out", out, "--sfh", "delayed_tau", "--error-floor", "free", "--outliers"),
        *("--zero-points", "0.05", "--igm", "madau", "--method", "ess", "--chains", 2, "--warmup", 7),
        *("--draws", 9, "--seed", 3, "--batch-size", 5),
    ).output
    call = fit.calls[0]
    expected = ModelConfig(
        sfh="delayed_tau", error_floor="free", outliers=True, zero_point_sigma=0.05, igm="madau"
    )
    assert call["config"] == expected
    sampler = call["sampler"]
    assert (sampler.n_chain, sampler.n_warmup, sampler.n_draw) == (2, 7, 9)
    assert (call["method"], call["seed"], call["batch_size"], call["grid"]) == ("ess", 3, 5, None)
    assert "3 fitted, 2 of 3 converged, 1 flagged" in text
    assert "b2 rhat,ess_bulk: R-hat of dust2 is 1.200: run longer chains" in text
    assert list(Table.read(out / "summary.ecsv")["id"]) == ["a1", "b2", "c3"]
    assert load_result(out / "c3.nc").galaxy_id == "c3"


def test_fit_chooses_galaxies(fit: FitStandIn, table: Path, tmp_path: Path) -> None:
    run("fit", table, "-o", tmp_path / "x", "--id", "c3", "--id", "a1", "--id", "c3")
    run("fit", table, "-o", tmp_path / "y", "--limit", 2)
    run("fit", table, "-o", tmp_path / "z", "--part", "1/2")
    run("fit", table, "-o", tmp_path / "z", "--part", "2/2")
    assert [c["catalog"].id for c in fit.calls] == [("c3", "a1"), ("a1", "b2"), ("a1", "c3"), ("b2",)]
    assert list(Table.read(tmp_path / "z" / "summary.ecsv")["id"]) == ["b2", "a1", "c3"]
    for part in ("3/2", "0/2", "half", "1/"):
        assert "`--part` must be I/N" in refused("fit", table, "-o", tmp_path / "w", "--part", part)
    assert "leaves no galaxy" in refused("fit", table, "-o", tmp_path / "w", "--part", "9/9")


def test_fit_resumes(fit: FitStandIn, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("fit", table, "-o", out, "--id", "b2")
    before = (out / "b2.nc").read_bytes()
    text = run("fit", table, "-o", out, "--resume").output
    assert fit.calls[1]["catalog"].id == ("a1", "c3")
    assert "2 fitted, 1 were there already, 2 of 3 converged, 1 flagged" in text
    assert (out / "b2.nc").read_bytes() == before
    assert list(Table.read(out / "summary.ecsv")["id"]) == ["a1", "b2", "c3"]
    run("fit", table, "-o", out, "--resume")
    assert len(fit.calls) == 2
    text = run("fit", table, "-o", out, "--overwrite", "--id", "b2").output
    assert "The table also has 2 older results" in text
    assert set(Table.read(out / "summary.ecsv")["id"]) == {"a1", "b2", "c3"}


def test_fit_does_not_resume_with_other_settings(fit: FitStandIn, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("fit", table, "-o", out, "--id", "b2")
    message = refused("fit", table, "-o", out, "--resume", "--error-floor", "0.1", "--draws", 50)
    assert "`--resume`" in message
    assert "that of b2 has error_floor: 0.05, not 0.1; n_draw: 600, not 50" in message
    assert len(fit.calls) == 1


def test_fit_draws_figures(fit: FitStandIn, spectra: list[Any], table: Path, tmp_path: Path) -> None:
    done = run("fit", table, "-o", tmp_path / "out", "--plots", "--limit", 2)
    assert len(fit.calls) == 1
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        f"{name}_{kind}.png" for name in ("a1", "b2") for kind in ("corner", "sed", "sfh")
    ]
    assert spectra == [None, None]
    assert "no spectrum in the SED of b2: `grid` is another one" in done.stderr


@pytest.mark.filterwarnings("default")
def test_fit_drops_bad_rows_with_a_warning(fit: FitStandIn, tmp_path: Path) -> None:
    content = make_catalog().to_table()
    content["sdss_r0_err"][1] = -1.0
    content.write(tmp_path / "bad.ecsv")
    message = refused("fit", tmp_path / "bad.ecsv", "-o", tmp_path / "out")
    assert "b2" in message
    assert fit.calls == []
    done = run("fit", tmp_path / "bad.ecsv", "-o", tmp_path / "out", "--on-bad", "drop")
    assert done.stderr.startswith("Warning: ")
    assert fit.calls[0]["catalog"].id == ("a1", "c3")
    done = run("fit", tmp_path / "bad.ecsv", "--on-bad", "drop", "--id", "b2", code=1)
    assert "`--id` b2 was dropped when reading" in done.stderr


def test_fit_refuses(fit: FitStandIn, table: Path, tmp_path: Path) -> None:
    assert "no such file" in refused("fit", tmp_path / "none.fits")
    assert "`preset` must be one of" in refused("fit", table, "--preset", "nope")
    assert "none.toml" in refused("fit", table, "--columns", tmp_path / "none.toml")
    assert "Did you mean `a1`" in refused("fit", table, "--id", "a11")
    assert "not both" in refused("fit", table, "--overwrite", "--resume")
    assert "got '5%'" in refused("fit", table, "--error-floor", "5%")
    assert "[0, 1)" in refused("fit", table, "--error-floor", "1.5")
    assert "none.h5" in refused("fit", table, "--grid", tmp_path / "none.h5", "-o", tmp_path / "out")
    assert fit.calls == []
    run("fit", table, "-o", tmp_path / "out", "--id", "a1")
    message = refused("fit", table, "-o", tmp_path / "out")
    assert "results of 1 of these galaxies (a1)" in message
    assert "--resume" in message
    assert len(fit.calls) == 1
    assert "Invalid value" in run("fit", table, "--method", "magic", code=2).stderr


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, table: Path) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("hbm.catalog.read_catalog", broken)
    with pytest.raises(KeyError, match="ours"):
        run("fit", table)


def test_plot(spectra: list[Any], tmp_path: Path) -> None:
    save_result(make_fit(make_catalog(), 0, GOOD), tmp_path / "a1.nc")
    save_result(make_fit(make_catalog(), 1, GOOD, binned=False), tmp_path / "b2.nc")
    done = run("plot", tmp_path / "a1.nc", "--format", "pdf", "--out", tmp_path / "figures")
    expected = [tmp_path / "figures" / f"a1_{kind}.pdf" for kind in ("corner", "sed", "sfh")]
    assert done.stdout.split() == [str(path) for path in expected]
    assert all(path.read_bytes().startswith(b"%PDF") for path in expected)
    assert len(spectra) == 1
    done = run("plot", tmp_path / "b2.nc", "--no-spectrum")
    assert "no sfh figure of b2: `result` must have `sfr_bins`" in done.stderr
    assert (tmp_path / "b2_sed.png").is_file()
    assert len(spectra) == 1
    assert "`sfr_bins`" in refused("plot", tmp_path / "b2.nc", "--kind", "sfh")
    assert "there is no file" in refused("plot", tmp_path / "none.nc")


def test_demo(fit: FitStandIn, tmp_path: Path) -> None:
    """One galaxy twice: by its photometry, and with its image."""
    out = tmp_path / "demo"
    text = run("demo", "--quick", "--outdir", out).output
    (call,) = fit.calls
    catalog = call["catalog"]
    assert catalog.id == ("photometry", "both")
    np.testing.assert_array_equal(catalog.flux[0], catalog.flux[1])
    assert "both" in catalog.images
    assert "photometry" not in catalog.images
    assert call["max_rerun"] == 0
    for word in ("photometry alone: converged", "photometry and image: converged", "dust2", "narrower by"):
        assert word in text
    assert (out / "demo_comparison.png").is_file()
    assert load_result(out / "both.nc").galaxy_id == "both"


def test_joint_demo_galaxy() -> None:
    """What comes with the package fits together, and is dusty, as it says."""
    demo = load_joint_demo()
    assert demo.picture.ndim == 3
    assert demo.truth["dust2"] > 1
    images = demo.catalog.images
    assert images is not None
    assert images.compiled.p_typical[0] > 0.05
    assert 5 < np.median(demo.catalog.flux / demo.catalog.flux_err) < 200


def test_demo_of_a_real_galaxy(fit: FitStandIn, spectra: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "demo"
    text = run("demo", "--real", "--quick", "--outdir", out).output
    call = fit.calls[0]
    assert call["max_rerun"] == 0
    assert call["sampler"].n_draw < 500
    assert spectra == [None]
    for word in (
        "COSMOS-23416",
        "Skelton",
        "logmstar",
        "dex(Msun)",
        "9.81 (FAST)",
        "Converged",
        "largest R-hat 1.001",
    ):
        assert word in text
    for kind in ("corner", "sed", "sfh"):
        assert f"COSMOS-23416_{kind}.png" in text
        assert (out / f"COSMOS-23416_{kind}.png").is_file()
    run("demo", "--real", "--outdir", out)
    assert fit.calls[1]["sampler"].n_draw == FULL.draws
    run("fit", out / "catalog.ecsv", "-o", tmp_path / "again")  # what it says to do next
    np.testing.assert_allclose(fit.calls[2]["catalog"].flux, load_demo().catalog.flux)


def test_demo_galaxy() -> None:
    galaxy = load_demo()
    catalog = galaxy.catalog
    assert 25 <= len(catalog.filter_names) <= 35
    assert np.all(np.diff(load_filters(catalog.filter_names).wave_pivot) > 0)
    assert np.median(catalog.flux / catalog.flux_err) > 50
    # Skelton et al. 2014: f_F160W = 32.9907 at AB zero point 25; a magnitude of 21.2.
    f160w = catalog.flux[0, catalog.filter_names.index("wfc3_ir_f160w")]
    assert -2.5 * np.log10(f160w) == pytest.approx(25 - 2.5 * np.log10(32.9907), abs=1e-4)
    # The two published star formation rates are within 0.1 dex.
    assert np.log10(galaxy.sfr_uvir) == pytest.approx(galaxy.logsfr_fast, abs=0.1)
    assert any("Skelton" in line for line in galaxy.references)


def test_grid_info_tells_what_is_lacking(tmp_path: Path) -> None:
    save_grid(small_grid(full=False), tmp_path / "bare.h5")
    save_grid(small_grid(full=True), tmp_path / "full.h5")
    bare = run("grid", "info", tmp_path / "bare.h5").output
    for word in (
        "Emission of ionized gas",
        "Dust emission: do not fit",
        "Surviving mass",
        "a test [x]",
        "a remark",
    ):
        assert word in bare
    full = run("grid", "info", tmp_path / "full.h5").output
    for word in (
        "30 from 100 Å",
        "5 from 1 Myr to 10 Gyr",
        "2 from -1.50 to +0.25",
        "up to 100 Myr",
        "0.1 to 25",
    ):
        assert word in full
    assert "Nebular continuum (lines are there)" in full
    assert "Dust emission: do not fit" not in full
    assert "none.h5" in refused("grid", "info", tmp_path / "none.h5")


def test_grid_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []

    def build_grid(**settings: Any) -> SSPGrid:
        settings["report"]("stars: metallicity 1 of 2")
        calls.append(settings)
        return small_grid(full=True)

    monkeypatch.setattr("sed.build.build_grid", build_grid)
    out = tmp_path / "grid.h5"
    text = run(
        "grid", "build", out, "--imf", "kroupa", "--note", "one", "--note", "two", "--no-nebular"
    ).output
    assert (calls[0]["imf_type"], calls[0]["notes"]) == (2, ("one", "two"))
    assert (calls[0]["nebular"], calls[0]["dust_emission"]) == (False, True)
    assert "2 PAH fractions" in text
    assert load_grid(out).flux.shape == (2, 5, 30)
    assert "--overwrite" in refused("grid", "build", out)
    assert "folder that exists" in refused("grid", "build", tmp_path / "none" / "grid.h5")
    assert len(calls) == 1
    run("grid", "build", out, "--overwrite")
    assert len(calls) == 2


@pytest.mark.fsps
def test_imf_numbers_are_those_of_fsps() -> None:
    import fsps

    text = fsps.StellarPopulation.__doc__
    assert text is not None
    for imf, number in FSPS_IMF_TYPE.items():
        assert f"{number}: {imf.value.capitalize()}" in text


def test_filters() -> None:
    lines = run("filters", "SDSS").output.splitlines()
    rows = [line.split("│")[1:3] for line in lines if line.startswith("│")]
    assert [name.strip() for name, _ in rows] == ["sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0"]
    # Fukugita et al. 1996; the pivot of g is near 4700 A.
    assert float(rows[1][1]) == pytest.approx(4700, abs=30)
    medium = run("filters", "subaru*_ia4??").output
    assert "subaru_suprimecam_ia427" in medium
    assert "subaru_suprimecam_ia827" not in medium
    assert "Did you mean `sdss_" in refused("filters", "sdsss")


def test_prior_draws_follow_the_stated_prior() -> None:
    draws = prior_draws(ModelConfig(), 0.7, n_draw=4000, seed=1)
    dust2 = stats.truncnorm((0 - 0.3) / 1.0, (4 - 0.3) / 1.0, loc=0.3, scale=1.0)
    assert stats.kstest(draws["dust2"], dust2.cdf).pvalue > 1e-3
    t2 = stats.t(2, scale=0.3)  # truncated to two dex

    def ratio_cdf(x: np.ndarray) -> np.ndarray:
        return (t2.cdf(x) - t2.cdf(-2)) / (t2.cdf(2) - t2.cdf(-2))

    assert stats.kstest(draws["logsfr_ratios"][:, 1], ratio_cdf).pvalue > 1e-3
    assert np.abs(draws["logsfr_ratios"]).max() <= 2
    assert draws["logssfr"].max() < -8
    # The rates over their average, weighted by the widths of the bins, average to one.
    from sed.sfh import agebins

    bins = agebins(7.300, 5)
    width = np.diff(10.0**bins, axis=1)[:, 0]
    mean = (draws["relative_sfr"] * width).sum(axis=1) / width.sum()
    np.testing.assert_allclose(mean, 1.0, rtol=2e-3)


def test_prior_figure(tmp_path: Path) -> None:
    run("prior", "--out", tmp_path / "prior.png", "--draws", 300, "--zred", 2)
    assert (tmp_path / "prior.png").read_bytes().startswith(b"\x89PNG")
    figure = plot_prior(ModelConfig(sfh="delayed_tau", nebular=False), 1.0, n_draw=300)
    assert [axes.get_visible() for axes in figure.axes] == [True] * 5 + [False, True, True]
    assert "`--out` must end in" in refused("prior", "--out", tmp_path / "prior.txt")
    assert "`zred` must be a positive" in refused("prior", "--zred", "-1", "--out", tmp_path / "x.png")
