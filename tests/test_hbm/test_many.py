"""Many galaxies on a Dask cluster of two processes: errors, deaths of workers, resumed runs."""

import contextlib
import dataclasses
import functools
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner

import hbm
from hbm.cli import app
from hbm.config import ModelConfig
from hbm.counted import fit_settings
from hbm.many import Failure, ManyFits, load_summary
from hbm.many.cluster import fit_batches
from hbm.many.parts import find_parts
from hbm.many.plan import Batch, Waiting
from hbm.many.report import read_failures
from hbm.many.work import Inputs, fit_batch
from hbm.results import load_result, result_path, save_result, summary_table
from hbm.sampler import SamplerConfig
from sed.io import load_grid

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")  # Dask needs it

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))  # workers are told where we look for modules
fakes: Any = importlib.import_module("many_fakes")

SECONDS = 120


def processes() -> set[int]:
    """Processes that this one has started, but for the one by which multiprocessing cleans up at the end."""
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())}


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """End a test that hangs."""

    def stop(*_: object) -> None:
        raise RuntimeError(f"not done in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Give a cluster of two processes that runs a batch again once when its worker dies."""
    from hbm.many.cluster import open_client

    before = processes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hbm.many.cluster.REDONE", 1)
        with open_client(None, 2) as client:
            client.wait_for_workers(2, timeout=60)
            yield client.scheduler.address
    assert processes() <= before


@contextlib.contextmanager
def allowed_failures(address: str, n: int) -> Iterator[None]:
    """Let the scheduler run a batch again so often when its worker has died."""
    from distributed import Client

    def put(value: int, dask_scheduler: Any = None) -> int:
        before: int = dask_scheduler.allowed_failures
        dask_scheduler.allowed_failures = value
        return before

    with Client(address, set_as_default=False) as client:
        before = client.run_on_scheduler(put, n)
        yield
        client.run_on_scheduler(put, before)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@pytest.fixture
def run(cluster: str, log: Path, tmp_path: Path) -> Any:
    """Give a function that fits galaxies by their identifiers."""

    def fit(*ids: str, outdir: Path = tmp_path / "out", zred_err: float = 0.0, **options: Any) -> ManyFits:
        catalog = fakes.make_catalog(ids, log, zred_err)
        settings = {"address": cluster, "batch": 2, "fit_fn": fakes.fit} | options
        return hbm.fit_many(catalog, outdir, **settings)

    return fit


def fitted(log: Path) -> list[str]:
    """Batches that workers began with."""
    return sorted((log / "fitted").read_text().splitlines())


def test_all_galaxies_are_fitted(run, log: Path, tmp_path: Path):
    told = []
    found = run("a", "rough b", "c", "d", "e", seed=4, progress=lambda *step: told.append(step))
    assert (found.n_fitted, found.n_there, found.failures, found.n_split) == (5, 0, (), 0)
    assert fitted(log) == ["a", "d e", "rough b c"]
    table = found.table()
    assert list(table["id"]) == ["a", "rough b", "c", "d", "e"]
    expected = summary_table([fakes.result(str(row["id"]), float(row["zred"]), 4) for row in table])
    for name in expected.colnames:
        np.testing.assert_array_equal(table[name], expected[name])
        assert table[name].unit == expected[name].unit
    assert len(find_parts(tmp_path / "out")) == 3
    loaded = load_result(result_path(tmp_path / "out", "rough b"))
    np.testing.assert_array_equal(loaded.draws("logmass"), fakes.result("rough b", 0.15, 4).draws("logmass"))
    assert not (tmp_path / "out" / "failures.ecsv").exists()
    assert [step[0] for step in told] == sorted(step[0] for step in told)
    assert told[-1][:2] == (5, 5)
    assert "fitting on 2 workers, 0 left" in told[-1][2]
    assert next(found.lines()) == "5 fitted, 4 of 5 converged, 1 flagged."


def test_rows_alone_without_draws(run, tmp_path: Path):
    found = run("a", "b", keep_draws=False)
    assert list(found.table()["id"]) == ["a", "b"]
    assert not list((tmp_path / "out").glob("*.nc"))
    with pytest.raises(ValueError, match="that of a has draws: False, not True"):
        run("a", "b", "c", resume=True)


def test_a_batch_that_raises_is_tried_galaxy_by_galaxy(run, log: Path, tmp_path: Path):
    found = run("a", "bad", "c", "d")
    assert found.failures == (Failure("bad", "raised", "ValueError: nothing fits bad"),)
    assert (found.n_fitted, found.n_split) == (3, 1)
    assert fitted(log) == ["a", "a bad", "bad", "c d"]
    assert list(found.table()["id"]) == ["a", "c", "d"]
    assert read_failures(tmp_path / "out") == {"bad": found.failures[0]}
    assert list(found.lines()) == [
        "3 fitted, 1 failed, 3 of 3 converged, 0 flagged.",
        "the fit raised, 1 (bad): ValueError: nothing fits bad",
    ]


def test_the_batch_of_a_worker_that_dies_is_done_by_another(run, log: Path):
    found = run("a", "once", "c", "d")
    assert (found.n_fitted, found.failures, found.n_split) == (4, (), 0)
    assert (log / "died-once").read_text() == "x"
    assert fitted(log) == ["a once", "a once", "c d"]
    assert list(found.table()["id"]) == ["a", "once", "c", "d"]


def test_a_galaxy_that_kills_its_workers_is_found(run, cluster: str, log: Path, tmp_path: Path):
    with allowed_failures(cluster, 0):
        found = run("a", "killer", "c", "d")
    failure = Failure("killer", "killed", "its worker died")
    assert found.failures == (failure,)
    assert (found.n_fitted, found.n_split) == (3, 1)
    assert (log / "died-killer").read_text() == "xx"
    assert list(found.table()["id"]) == ["a", "c", "d"]
    assert read_failures(tmp_path / "out") == {"killer": failure}


def test_a_resumed_run_fits_what_is_not_there(run, log: Path, tmp_path: Path):
    out = tmp_path / "out"
    run("a", "b", "bad")
    stored = {path: path.read_bytes() for path in [*find_parts(out), result_path(out, "a")]}
    (out / ".1234.tmp.nc").write_bytes(b"half")
    (out / "summary" / "cut-off.parquet").write_bytes(next(iter(stored.values()))[:100])
    result_path(out, "c").write_bytes(b"half")
    (log / "fitted").unlink()
    found = run("bad", "a", "b", "c", "d", "e", resume=True)
    assert (found.n_fitted, found.n_there, len(found.failures)) == (3, 2, 1)
    assert fitted(log) == ["bad", "c", "d e"]
    assert list(found.table()["id"]) == ["a", "b", "c", "d", "e"]
    assert all(path.read_bytes() == content for path, content in stored.items())
    assert load_result(result_path(out, "c")).galaxy_id == "c"
    assert next(found.lines()).startswith("3 fitted, 2 were there already, 1 failed, 5 of 5 converged")
    (log / "fitted").unlink()
    again = run("a", "b", "c", resume=True)
    assert (again.n_fitted, again.n_there) == (0, 3)
    assert not (log / "fitted").exists()
    assert set(read_failures(out)) == {"bad"}  # it was not asked for this time


def test_failures_that_are_solved_leave_the_table(run, tmp_path: Path):
    out = tmp_path / "out"
    run("bad 1", "a")
    assert set(read_failures(out)) == {"bad 1"}
    found = run("bad 1", "a", resume=True, fit_fn=fakes.fit_anything)
    assert (found.n_fitted, found.failures) == (1, ())
    assert not (out / "failures.ecsv").exists()


def test_results_of_a_plain_fit_are_not_fitted_again(run, log: Path, tmp_path: Path):
    out = tmp_path / "out"
    settings = fit_settings(fakes.make_catalog(("a",), log), ModelConfig(), SamplerConfig())
    grid = load_grid().provenance
    for name in ("a", "z"):
        save_result(fakes.result(name, 0.1, 0, settings, grid), result_path(out, name))
    found = run("a", "b", resume=True)
    assert (found.n_fitted, found.n_there) == (1, 1)
    assert fitted(log) == ["b"]
    assert list(found.table()["id"]) == ["a", "b"]
    save_result(fakes.result("c", 0.1, 5, settings, grid), result_path(out, "c"))
    with pytest.raises(ValueError, match="that of c has seed: 5, not 0"):
        run("a", "b", "c", resume=True)


def test_what_is_there_is_kept_unless_told_otherwise(run, log: Path, tmp_path: Path):
    run("a", "b", "c")
    with pytest.raises(FileExistsError, match=r"results of 2 of these galaxies \(a, b\)"):
        run("a", "b", "d")
    with pytest.raises(ValueError, match="that of a has n_draw: 600, not 50"):
        run("a", "d", resume=True, sampler=SamplerConfig(n_draw=50))
    with pytest.raises(ValueError, match="that of a has seed: 0, not 1"):
        run("a", "d", resume=True, seed=1)
    (log / "fitted").unlink()
    found = run("a", "b", overwrite=True, seed=1)
    assert fitted(log) == ["a b"]
    expected = fakes.result("a", 0.1, 1).draws("logmass")
    np.testing.assert_array_equal(load_result(result_path(tmp_path / "out", "a")).draws("logmass"), expected)
    assert found.table()["logmass_mean"][0] == pytest.approx(expected.mean())
    assert sorted(load_summary(tmp_path / "out")["id"]) == ["a", "b", "c"]


def test_free_redshifts_are_fitted_apart_and_make_one_table(run, log: Path):
    run("a", "b")
    found = run("free c", "d", zred_err=0.01)
    assert fitted(log) == ["a b", "free c d"]
    table = found.table()
    assert np.isfinite(table["zred_q50"]).tolist() == [True, False]
    assert np.isnan(load_summary(found.outdir)["zred_q50"]).sum() == 3


def test_galaxies_without_a_flux_do_not_stop_the_others(cluster: str, log: Path, tmp_path: Path):
    catalog = fakes.make_catalog(("a", "bad", "c"), log)
    observed = np.array(catalog.observed)
    observed[1] = False
    blank = dataclasses.replace(catalog, observed=observed, flux=np.where(observed, catalog.flux, np.nan))
    found = hbm.fit_many(blank, tmp_path / "out", address=cluster, batch=3, fit_fn=fakes.fit)
    assert [failure.galaxy_id for failure in found.failures] == ["bad"]
    assert found.n_fitted == 2


def test_a_run_that_is_interrupted_goes_on(run, tmp_path: Path):
    def stop(done: int, _total: int, _text: str) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("a", "b", "c", "d", "e", "f", "g", "h", progress=stop)
    n = sum(len(names) for names in find_parts(tmp_path / "out").values())
    assert 2 <= n < 8
    found = run("a", "b", "c", "d", "e", "f", "g", "h", resume=True)
    assert found.n_there + found.n_fitted == 8
    assert list(found.table()["id"]) == list("abcdefgh")


def test_what_cannot_be_written_is_no_galaxys_fault(run, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary").write_text("in the way")
    with pytest.raises(OSError, match="summary"):
        run("a", "b")
    assert not (tmp_path / "out" / "failures.ecsv").exists()


def test_results_stay_until_there_is_a_cluster_to_replace_them(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run("a", "b")
    monkeypatch.setattr("hbm.many.cluster._CONNECT_S", 0.5)
    with pytest.raises(ConnectionError, match="none answers"):
        run("a", "b", overwrite=True, address="tcp://127.0.0.1:9")
    assert list(load_summary(tmp_path / "out")["id"]) == ["a", "b"]
    assert result_path(tmp_path / "out", "b").exists()


def test_a_cluster_without_workers_is_given_up(log: Path, tmp_path: Path):
    from distributed import Client, LocalCluster

    inputs = Inputs(fakes.make_catalog(("a",), log), tmp_path, True, {}, None, {"seed": 0}, fakes.fit)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
        pytest.raises(ConnectionError, match="No worker for 1 s"),
    ):
        list(fit_batches(client, inputs, Waiting([Batch((0,), ("a",))]), lambda _: None, 1.0))


def test_workers_must_see_the_folder(log: Path, tmp_path: Path):
    inputs = Inputs(
        fakes.make_catalog(("a",), log), tmp_path / "nowhere", True, {}, None, {"seed": 0}, fakes.fit
    )
    with pytest.raises(FileNotFoundError, match="`outdir` must be a folder that all workers see"):
        fit_batch(inputs, Batch((0,), ("a",)))


def test_a_batch_that_an_earlier_attempt_has_written_is_not_fitted_again(log: Path, tmp_path: Path):
    inputs = Inputs(fakes.make_catalog(("a",), log), tmp_path, True, {}, None, {"seed": 0}, fakes.fit)
    for _ in range(2):
        assert fit_batch(inputs, Batch((0,), ("a",))).n_fitted == 1
    assert fitted(log) == ["a"]


def test_wrong_arguments_are_refused(run, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="Give `address` of a cluster, or `n_worker`"):
        run("a", n_worker=2)
    for name in ("batch", "batch_size"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
            run("a", **{name: 0})
    with pytest.raises(ValueError, match="Give `resume` or `overwrite`"):
        run("a", resume=True, overwrite=True)
    with pytest.raises(ValueError, match="`catalog` is empty"):
        run()
    catalog = fakes.make_catalog(("a", "b"), log)
    dim = dataclasses.replace(catalog, flux=1e-9 * catalog.flux)
    with pytest.raises(ValueError, match="Fluxes of the catalogue"):
        hbm.fit_many(dim, tmp_path / "out", address="tcp://127.0.0.1:9")
    monkeypatch.setattr("hbm.many.cluster._CONNECT_S", 0.5)
    with pytest.raises(ConnectionError, match=r"none answers at 'tcp://127\.0\.0\.1:9'"):
        hbm.fit_many(catalog, tmp_path / "out", address="tcp://127.0.0.1:9")


def test_the_command_starts_workers_and_ends_them(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    fakes.make_catalog(("a", "bad", "c"), log).to_table().write(tmp_path / "galaxies.ecsv")
    fit = functools.partial(hbm.fit_many, fit_fn=functools.partial(fakes.fit, log=str(log)))
    monkeypatch.setattr("hbm.many.fit_many", fit)
    before = processes()

    def command(*words: object, code: int = 0) -> str:
        done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(
            app,
            ["fit", str(tmp_path / "galaxies.ecsv"), "--out", str(out), *map(str, words)],
            catch_exceptions=False,
        )
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    text = command("--workers", 2, "--per-task", 2, "--draws", 50)
    assert "2 fitted, 1 failed, 2 of 2 converged, 0 flagged." in text
    assert "the fit raised, 1 (bad): ValueError: nothing fits bad" in text
    assert "failures.ecsv. `--resume` tries them again" in text
    assert set(Table.read(out / "summary.ecsv")["id"]) == {"a", "c"}
    assert processes() <= before
    assert "Give `resume` to keep them" in command("--workers", 1, "--draws", 50, code=1)
    assert "that of a has n_draw: 50, not 60" in command("--workers", 1, "--draws", 60, "--resume", code=1)
    assert "not both" in command("--workers", 1, "--cores", 2, code=1)
    assert "`--plots` needs a fit without workers" in command("--workers", 1, "--plots", code=1)
    assert "need `--workers` or `--scheduler`" in command("--no-draws", code=1)


def test_an_interrupted_run_leaves_no_process(log: Path, tmp_path: Path):
    before, threads = processes(), os.environ.get("OMP_NUM_THREADS")

    def stop(_done: int, _total: int, _text: str) -> None:
        if (log / "fitted").exists():
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hbm.fit_many(
            fakes.make_catalog(("slow",), log),
            tmp_path / "out",
            n_worker=1,
            batch=1,
            fit_fn=fakes.fit,
            progress=stop,
        )
    assert processes() <= before
    assert time.monotonic() - start < 50
    assert os.environ.get("OMP_NUM_THREADS") == threads


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import many_fakes
import hbm
if __name__ == "__main__":
    catalog = many_fakes.make_catalog(("a", "b", "slow"), Path({log!r}))
    hbm.fit_many(catalog, {out!r}, n_worker=1, batch=1, fit_fn=many_fakes.fit)
"""


def test_a_run_that_is_killed_loses_what_was_in_flight(run, log: Path, tmp_path: Path):
    out, script = tmp_path / "out", tmp_path / "script.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent), log=str(log), out=str(out)))
    with subprocess.Popen([sys.executable, str(script)]) as process:
        while not ((log / "fitted").exists() and "slow" in fitted(log)):
            assert process.poll() is None
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert psutil.wait_procs(workers, timeout=30)[1] == []
    (log / "fitted").unlink()
    found = run("a", "b", "c", resume=True)
    assert (found.n_fitted, found.n_there) == (1, 2)
    assert fitted(log) == ["c"]


@pytest.mark.slow
def test_real_fits_are_those_of_a_plain_call(tmp_path: Path, grid: Any, monkeypatch: pytest.MonkeyPatch):
    """Same galaxies, same number side by side: same draws, whichever process and batch they come from."""
    from hbm.galaxies import DataBuilder
    from hbm.sbc import simulate

    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 1500)
    signal.alarm(1500)
    filters = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
    config = ModelConfig(n_node=2, n_old=3, nebular=False, dust_emission=False)
    sampler = SamplerConfig(n_warmup=50, n_draw=50, n_chain=2, n_point=1000)
    builder = DataBuilder(grid, config, filters)
    catalog = simulate(builder, np.full(4, 0.1), np.full((4, 5), 1e-9), seed=2).catalog
    shared: dict[str, Any] = {
        "config": config, "sampler": sampler, "seed": 3, "batch_size": 2, "max_rerun": 1,
    }  # fmt: skip
    plain = hbm.fit(catalog, **shared)
    found = hbm.fit_many(catalog, tmp_path / "out", n_worker=2, batch=2, **shared)
    assert (found.n_fitted, found.failures) == (4, ())
    for one in plain:
        other = load_result(result_path(tmp_path / "out", one.galaxy_id))
        assert other.flag == one.flag
        assert other.provenance.model_config == one.provenance.model_config
        for name in one.components:
            np.testing.assert_array_equal(other.draws(name), one.draws(name))
    expected = summary_table(plain)
    for name in expected.colnames:
        np.testing.assert_array_equal(found.table()[name], expected[name])
    more = hbm.fit_many(catalog, tmp_path / "out", n_worker=1, resume=True, **shared)
    assert (more.n_fitted, more.n_there) == (0, 4)
