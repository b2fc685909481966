"""What of `hbm.many` needs no cluster: batches, what is found on disk, failures, progress."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from hbm.many import Failure, ManyFits
from hbm.many.parts import find_parts, forget, part_path, read_rows, settings_of_part, write_part
from hbm.many.plan import (
    Batch,
    Waiting,
    automatic_size,
    digest,
    make_batches,
    refuse_other_settings,
)
from hbm.many.progress import Tally, duration
from hbm.many.report import failure_lines, read_failures, update_failures
from hbm.results import result_path

IDS = tuple(f"g{i}" for i in range(11))
SETTINGS = {"config": {"error_floor": 0.05}, "seed": 3}


def table(*ids: str, **columns: Any) -> Table:
    """Summary rows as they are kept."""
    n = len(ids)
    values = {"logmass_q50": np.arange(n, dtype=float), **columns}
    return Table({"id": list(ids), "zred": np.full(n, 0.1), **values, "flag": ["ok"] * n})


def batch(*ids: str) -> Batch:
    return Batch(tuple(range(len(ids))), ids)


def test_batches_are_a_partition_of_about_equal_sizes():
    free = np.zeros(11, bool)
    batches = make_batches(IDS, free, range(11), 4)
    assert [len(one.rows) for one in batches] == [3, 4, 4]
    assert [row for one in batches for row in one.rows] == list(range(11))
    assert all(one.ids == tuple(IDS[row] for row in one.rows) for one in batches)
    assert [one.rows for one in make_batches(IDS, free, [2, 5], 4)] == [(2, 5)]
    assert make_batches(IDS, free, [], 4) == []


def test_free_redshifts_and_earlier_failures_are_apart():
    free = np.arange(11) % 2 == 1
    batches = make_batches(IDS, free, range(11), 3, alone=["g4", "g1", "elsewhere"])
    assert [one.rows for one in batches] == [(0, 2), (6, 8, 10), (3, 5), (7, 9), (1,), (4,)]


def test_batches_of_nothing_are_refused():
    with pytest.raises(ValueError, match="`batch` must be at least 1, got 0"):
        make_batches(IDS, np.zeros(11, bool), range(11), 0)


def test_names_of_batches_are_those_of_their_galaxies():
    assert batch("a", "b").name == Batch((7, 9), ("a", "b")).name
    assert len({batch("a", "b").name, batch("ab").name, batch("b", "a").name}) == 3


def test_batches_that_fail_come_back_in_pieces_behind_the_others():
    waiting = Waiting([batch("a", "b", "c"), batch("d", "e")])
    first, second = waiting.take(), waiting.take()
    assert waiting.killed(first, "died") is None
    assert waiting.raised(second, "wrong") is None
    assert waiting.n_split == 2
    pieces = [waiting.take() for _ in range(len(waiting))]
    assert [one.ids for one in pieces] == [("a", "b"), ("c",), ("d",), ("e",)]
    assert [one.rows for one in pieces] == [(0, 1), (2,), (0,), (1,)]
    assert waiting.killed(pieces[1], "died") == Failure("c", "killed", "died")
    assert waiting.raised(pieces[2], "wrong") == Failure("d", "raised", "wrong")
    assert not waiting


def test_large_batches_that_raise_come_back_in_halves():
    waiting = Waiting([batch("a", "b", "c", "d"), batch("e", "f", "g")], width=2)
    assert waiting.raised(waiting.take(), "wrong") is None
    assert waiting.raised(waiting.take(), "wrong") is None
    assert [waiting.take().ids for _ in range(5)] == [("a", "b"), ("c", "d"), ("e",), ("f",), ("g",)]


@pytest.mark.parametrize(
    ("n_galaxy", "n_worker", "width", "size"),
    [(1000, 4, 4, 16), (20, 4, 4, 3), (3, 8, 4, 1), (10_000, 8, 64, 256), (5, 0, 4, 3)],
)
def test_automatic_sizes_are_some_legs_and_leave_no_worker_idle(n_galaxy, n_worker, width, size):
    assert automatic_size(n_galaxy, n_worker, width) == size


def test_other_settings_are_refused():
    wanted = {**SETTINGS, "draws": True}
    refuse_other_settings({"a": SETTINGS, "b": wanted}, wanted)
    with pytest.raises(ValueError, match=r"that of b has error_floor: 0.1, not 0.05\. Give the same"):
        refuse_other_settings({"a": SETTINGS, "b": {"config": {"error_floor": 0.1}, "seed": 3}}, wanted)
    with pytest.raises(ValueError, match="that of a has draws: False, not True"):
        refuse_other_settings({"a": {**SETTINGS, "draws": False}}, wanted)


def test_parts_keep_their_rows_and_settings(tmp_path: Path):
    path = part_path(tmp_path, SETTINGS, batch("a", "b"))
    write_part(table("a", "b"), path, SETTINGS)
    assert path.name.startswith(f"{digest(SETTINGS)}-")
    assert find_parts(tmp_path) == {path: ("a", "b")}
    assert settings_of_part(path) == SETTINGS
    assert part_path(tmp_path, {**SETTINGS, "seed": 4}, batch("a", "b")) != path
    assert find_parts(tmp_path / "nowhere") == {}


def test_half_written_parts_are_not_found(tmp_path: Path):
    path = part_path(tmp_path, SETTINGS, batch("a", "b"))
    write_part(table("a", "b"), path, SETTINGS)
    content = path.read_bytes()
    (path.parent / ".1234.tmp.parquet").write_bytes(content[:500])
    (path.parent / "cut-off.parquet").write_bytes(content[: len(content) // 2])
    (path.parent / "other.parquet").write_bytes(b"")
    assert find_parts(tmp_path) == {path: ("a", "b")}
    assert (path.parent / ".unreadable-cut-off.parquet").is_file()
    assert list(read_rows(tmp_path)["id"]) == ["a", "b"]


def test_parts_are_one_table_for_others_too(tmp_path: Path):
    import pandas as pd

    for ids in (("a", "b"), ("c",)):
        write_part(table(*ids), part_path(tmp_path, SETTINGS, batch(*ids)), SETTINGS)
    (tmp_path / "summary" / ".1234.tmp.parquet").write_bytes(b"half")
    assert sorted(pd.read_parquet(tmp_path / "summary")["id"]) == ["a", "b", "c"]


def test_columns_that_a_part_lacks_are_nan(tmp_path: Path):
    first, second = table("a", "b"), table("c", zred_q50=np.array([0.2]))
    second["logmass_q50"].unit = first["logmass_q50"].unit = "dex"
    for one in (first, second):
        write_part(one, part_path(tmp_path, SETTINGS, batch(*one["id"])), SETTINGS)
    rows = read_rows(tmp_path)
    rows.sort("id")
    assert rows.colnames == ["id", "zred", "logmass_q50", "zred_q50", "flag"]
    np.testing.assert_array_equal(rows["zred_q50"], [np.nan, np.nan, 0.2])
    assert rows["logmass_q50"].unit == "dex"
    assert not rows.has_masked_columns
    assert "settings" not in rows.meta


def test_a_galaxy_of_two_parts_is_one_row(tmp_path: Path):
    for ids in (("a", "b"), ("b", "c")):
        write_part(table(*ids), part_path(tmp_path, SETTINGS, batch(*ids)), SETTINGS)
    assert sorted(read_rows(tmp_path)["id"]) == ["a", "b", "c"]


def test_no_part_is_no_table(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="`outdir` must have a folder summary"):
        read_rows(tmp_path)


def test_what_is_forgotten_is_gone(tmp_path: Path):
    for ids in (("a", "b", "c"), ("d",)):
        write_part(table(*ids), part_path(tmp_path, SETTINGS, batch(*ids)), SETTINGS)
    for name in ("b", "c"):
        result_path(tmp_path, name).touch()
    forget(tmp_path, find_parts(tmp_path), ["b", "d"])
    assert find_parts(tmp_path) == {part_path(tmp_path, SETTINGS, batch("a", "c")): ("a", "c")}
    assert settings_of_part(next(iter(find_parts(tmp_path)))) == SETTINGS
    assert [path.name for path in tmp_path.glob("*.nc")] == ["c.nc"]


def test_failures_are_kept_until_they_are_solved(tmp_path: Path):
    assert read_failures(tmp_path) == {}
    one = Failure("a", "raised", 'ValueError: two\nlines, "quoted"')
    two = Failure("b", "killed", "each of 3 workers died")
    update_failures(tmp_path, new=[one])
    update_failures(tmp_path, new=[two])
    assert read_failures(tmp_path) == {"a": one, "b": two}
    update_failures(tmp_path, solved=["a", "c"])
    assert read_failures(tmp_path) == {"b": two}
    update_failures(tmp_path, solved=["b"])
    assert not (tmp_path / "failures.ecsv").exists()


def test_failures_are_told_by_their_cause():
    many = [Failure(f"g{i}", "raised", "ValueError: no") for i in range(7)]
    lines = list(failure_lines([Failure("x", "killed", "died"), *many]))
    assert lines == [
        "the fit raised, 7 (g0, g1, g2, g3, g4, ...): ValueError: no",
        "killed workers, 1 (x): died",
    ]
    others = [Failure(f"g{i}", "raised", f"error {i}") for i in range(12)]
    assert list(failure_lines(others))[-1] == "and 2 other reasons, see failures.ecsv"


def test_a_run_without_results_has_a_report(tmp_path: Path):
    failure = Failure("a", "raised", "no")
    assert list(ManyFits(tmp_path, ("a",), 0, 0, (failure,), 0, 1.0).lines()) == [
        "0 fitted, 1 failed.",
        "the fit raised, 1 (a): no",
    ]


def test_progress_in_words():
    now = 0.0
    tally = Tally(100, 10, clock=lambda: now)
    assert tally.text(0) == "waiting for workers, 90 left"
    assert tally.text(1) == "fitting on 1 worker, 90 left"
    now = 60.0
    tally.n_fitted, tally.n_failed = 29, 1
    assert tally.n_done == 40
    assert tally.text(2) == "fitting on 2 workers, 1 failed, 60 left, 30.0 a minute, 2 min to go"
    assert [duration(s) for s in (99.0, 101.0, 5999.0, 36_000.0)] == ["99 s", "2 min", "100 min", "10.0 h"]


def test_nothing_imports_dask(tmp_path: Path):
    code = """
import importlib, pkgutil, sys
import hbm.many
for module in pkgutil.walk_packages(hbm.many.__path__, "hbm.many."):
    importlib.import_module(module.name)
sys.exit(f"loaded: {found}" if (found := {"dask", "distributed", "torch"} & set(sys.modules)) else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    from hbm.many.cluster import open_client

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"galaxy-hbm\[many\]"), open_client(None, 1):
        pass
