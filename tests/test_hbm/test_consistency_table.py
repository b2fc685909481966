"""What the check says in words and tables, and ``hbm check`` with a stand-in for the check itself."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from matplotlib.figure import Figure
from typer.testing import CliRunner

from hbm.cli import app
from hbm.config import ModelConfig
from hbm.consistency.report import KINDS, Check, Detail
from hbm.consistency.table import DESCRIPTIONS, check_table, row_of
from hbm.convergence import Convergence
from hbm.plots.consistency import plot_check
from hbm.results import ObservedBands, Provenance, make_result, result_path, save_result

BANDS = ("sdss_g0", "sdss_r0", "sdss_i0")
GOOD = Convergence(1.001, "logmass", 900.0, 800.0, 0, True, "ok", "")


def made(name: str = "a", **changes: Any) -> Check:
    odds = dict.fromkeys(KINDS, -1.0)
    values: dict[str, Any] = {
        "galaxy_id": name, "log_bayes_same": 1.0, "log_bayes_same_error": 0.1, "p_photometry": 0.4,
        "p_image": 0.6, "log_corrupted": -1.0, "log_corrupted_error": 0.1, "log_kind": odds,
        "log_kind_photometry": odds | {"swap": 0.0}, "bands": BANDS,
        "log_band": np.array([-1.0, 0.5, np.nan]), "p_band": np.array([0.3, 0.1, np.nan]), "chi2": 2.0,
        "n_band": 3, "ess": 50.0, "n_point": 16384, "flag": "ok",
    }  # fmt: skip
    return Check(**(values | changes))


def worst(kind: str) -> dict[str, Any]:
    """Odds that name one kind."""
    return {"log_corrupted": 4.0, "log_kind": dict.fromkeys(KINDS, 1.0) | {kind: 5.0}}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "consistent"),
        (worst("swap"), "another galaxy"),
        (worst("shred"), "light is lost"),
        (worst("blend"), "is added"),
        (worst("band"), "sdss_r0 is off"),
        ({"p_photometry": 0.001}, "of no kind known"),
        ({"log_corrupted": 9.0, "flag": "few_points"}, "too few points"),
        ({"flag": "outside_training"}, "unclear: photometry allows little"),
        ({"flag": "rhat,image_untypical"}, "look at it"),
    ],
)
def test_verdicts(changes: dict[str, Any], verdict: str) -> None:
    assert verdict in made(**changes).verdict()


def test_probability_is_that_of_bayes() -> None:
    one = made(log_corrupted=np.log(19.0))
    assert one.probability_bad(0.05) == pytest.approx(0.5)
    assert one.probability_bad(0.5) == pytest.approx(0.95)
    assert made(log_corrupted=np.inf).probability_bad() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="`prior_bad` must be between 0 and 1"):
        one.probability_bad(1.0)


def test_table_is_sorted_by_suspicion_and_comes_back_from_disk(tmp_path: Path) -> None:
    rows = [
        row_of(made("fine")), row_of(made("bad", log_corrupted=3.0)),
        row_of(made("odd", flag="image_untypical")), row_of(made("none", log_corrupted=np.nan)),
    ]  # fmt: skip
    table = check_table(rows, {"a": 1})
    assert list(table["id"]) == ["odd", "bad", "fine", "none"]
    assert set(table.colnames) == set(DESCRIPTIONS)
    assert all(table[name].info.description for name in table.colnames)
    assert table["p_band"][0] == pytest.approx(1 - 0.9**2)
    table.write(tmp_path / "t.ecsv", format="ascii.ecsv")
    back = Table.read(tmp_path / "t.ecsv", format="ascii.ecsv")
    assert list(back["id"]) == list(table["id"])
    assert back.meta["a"] == 1
    blank = np.full(3, np.nan)
    assert np.isnan(row_of(made(p_band=blank, log_band=blank))["p_band"])
    with pytest.raises(ValueError, match="`rows` is empty"):
        check_table([])


def detail() -> Detail:
    rng = np.random.default_rng(0)
    draws = [rng.normal(size=(50, 2)) for _ in range(3)]
    flux = np.array([1.0, 2.0, np.nan])
    expected = np.outer([0.8, 1.0, 1.2], [1.0, 2.0, 3.0])
    return Detail(
        ("logmass", "dust2"), *draws, np.array([4700.0, 6200.0, 7500.0]), flux, 0.1 * np.ones(3), expected,
        1.1 * expected,
    )  # fmt: skip


def test_figure_says_what_was_found() -> None:
    figure = plot_check(made("a$b"), detail())
    assert isinstance(figure, Figure)
    assert figure.get_suptitle() == r"a\$b: consistent"
    figure.draw_without_rendering()
    assert plot_check(made(), detail(), title="mine").get_suptitle() == "mine: consistent"


class CheckerStandIn:
    """In place of `hbm.consistency.Checker`: "b" is bad; counts its calls."""

    calls: list[str]

    def __init__(self, results: Any, images: Any, model: Any, **settings: Any) -> None:
        del images, model
        type(self).settings = settings
        self.ids = tuple(result.galaxy_id for result in results)

    def __call__(self, name: str) -> tuple[Check, Detail]:
        type(self).calls.append(name)
        return made(name, log_corrupted=6.0 if name == "b" else -1.0), detail()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import hbm.consistency
    import hbm.image

    CheckerStandIn.calls = []
    monkeypatch.setattr(hbm.consistency, "Checker", CheckerStandIn)
    monkeypatch.setattr(hbm.image, "model_of", lambda path: "model" if path else "")

    class Likelihood:
        hash, psi = "abc", ()

    monkeypatch.setattr(hbm.image, "load_image_likelihood", lambda *_, **__: Likelihood())
    shape = (2, 10)
    bands = ObservedBands(
        BANDS, np.array([4700.0, 6200.0, 7500.0]), np.ones(3), 0.1 * np.ones(3), np.ones(3, bool),
        np.zeros(3, bool), np.zeros(3),
    )  # fmt: skip
    config = {"config": json.loads(ModelConfig().to_json())}
    source = Provenance(config, {}, (), 0, "test", "2026-01-01T00:00:00+00:00", {})
    for name in ("a", "b", "c"):
        one = make_result(
            name, 0.1, posterior={"logmass": np.full(shape, 10.0)},
            sample_stats={"diverging": np.zeros(shape, bool)}, flux=np.ones((*shape, 3)), bands=bands,
            convergence=GOOD, provenance=source,
        )  # fmt: skip
        save_result(one, result_path(tmp_path / "fits", name))
    return tmp_path


def run(*arguments: object, code: int = 0) -> Any:
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(
        app, ["check", *(str(word) for word in arguments)], catch_exceptions=False
    )
    assert done.exit_code == code, done.output
    return done


def test_command_writes_the_table_draws_and_resumes(folder: Path) -> None:
    out = folder / "check.ecsv"
    base = (folder / "fits", "--images", folder / "stats.h5", "--out", out)
    done = run(*base, "--show", "b", "--points", 1000, "--seed", 3)
    assert "1 not consistent" in done.stdout
    assert CheckerStandIn.calls == ["a", "b", "c"]
    assert CheckerStandIn.settings["n_point"] == 1000
    assert CheckerStandIn.settings["seed"] == 3
    table = Table.read(out, format="ascii.ecsv")
    assert list(table["id"]) == ["b", "a", "c"]
    assert (folder / "check_b.png").is_file()
    assert "exists already" in run(*base, code=1).stderr
    shorter = Table.read(out, format="ascii.ecsv")[:2]
    shorter.write(out, format="ascii.ecsv", overwrite=True)
    CheckerStandIn.calls = []
    run(*base, "--points", 1000, "--seed", 3, "--resume")
    assert CheckerStandIn.calls == ["c"]
    assert len(Table.read(out, format="ascii.ecsv")) == 3
    assert "points: 1000, not 2000" in run(*base, "--points", 2000, "--seed", 3, "--resume", code=1).stderr
    run(*base, "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--resume", "--overwrite"), "not both"),
        (("--out", "check.txt"), "must end in .ecsv or .parquet"),
        (("--prior-bad", "0"), "between 0 and 1"),
        (("--show", "z"), "`--show` must be a galaxy with fit and image"),
    ],
)
def test_command_refuses(folder: Path, arguments: tuple[str, ...], text: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(folder)
    done = run("fits", "--images", "stats.h5", *arguments, code=1)
    assert text in " ".join(done.stderr.split())


def test_command_refuses_an_empty_folder_and_a_catalogue_that_changed(folder: Path) -> None:
    done = run(folder / "nothing", "--images", "stats.h5", "--out", folder / "c.ecsv", code=1)
    assert "folder with results" in done.stderr
    table = Table({"id": ["a", "b", "c"], "zred": [0.1] * 3})
    for name in BANDS:
        table[name], table[f"{name}_err"] = np.full(3, 2e-8), np.full(3, 1e-9)
    table.write(folder / "catalog.ecsv", format="ascii.ecsv")
    done = run(
        folder / "fits", "--images", "stats.h5", "--out", folder / "c.ecsv", "--catalog",
        folder / "catalog.ecsv", code=1,
    )  # fmt: skip
    assert "those of a differ" in " ".join(done.stderr.split())


def test_the_command_line_does_not_load_jax_to_show_its_help() -> None:
    assert "hbm.cli.check" in sys.modules
    assert "--images" in run("--help").stdout
