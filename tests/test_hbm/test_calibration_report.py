"""The report of a calibration run, and `hbm calibrate` with a stand-in for the run."""

import dataclasses
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from hbm.calibration import run as run_module
from hbm.calibration.coverage import Coverage, coverage_of
from hbm.calibration.faults import Faults
from hbm.calibration.fits import PROPERTIES, Agreement, Posteriors, TimeUpError, Use
from hbm.calibration.report import Case, Report, broken, render, write_report
from hbm.calibration.run import CalibrationRun, CaseResult, Settings
from hbm.cli import app

N_DRAW = 199


def coverage(scale: float, n: int = 60) -> Coverage:
    """Of a standard normal prior and noise of the same size, posteriors too narrow by a factor."""
    rng = np.random.default_rng(1)
    truth = {name: rng.normal(size=n) for name in PROPERTIES}
    draws = np.stack(
        [
            (v + rng.normal(size=n))[:, None] / 2 + scale * np.sqrt(0.5) * rng.normal(size=(n, N_DRAW))
            for v in truth.values()
        ],
        axis=-1,
    )
    everywhere = np.ones(n, bool)
    posteriors = Posteriors(draws, everywhere, ~everywhere, np.full(n, 199.0))
    return coverage_of(posteriors, PROPERTIES, truth, seed=1, chance=False)


@pytest.fixture(scope="module")
def found() -> dict[str, Coverage]:
    pytest.importorskip("sbi", reason="needs the extra [calibrate]")
    return {
        "good": coverage(1.0)._replace(chance=0.05, chance_95=0.07),
        "bad": coverage(0.4)._replace(chance=0.05, chance_95=0.07),
    }


def make_report(found: dict[str, Coverage], uses: Sequence[Use] = ("photometry", "joint")) -> Report:
    plain: dict[Use, Coverage] = dict.fromkeys(uses, found["good"])
    after: dict[Use, Coverage] = dict.fromkeys(uses, found["bad"])
    return Report(
        dataclasses.asdict(Settings("sdss-griz", n=60, n_wrong=60)), plain,
        {"joint": Agreement(8, 0.04, 0.05, 0.11, 1.01)}, 0.02, 1, plain, [Case(Faults(psf=1.1), after, 12)],
    )  # fmt: skip


class Page(HTMLParser):
    """Tags that are open, and addresses that the page needs."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_needs_no_other_file_and_holds_the_numbers(found: dict[str, Coverage], tmp_path: Path) -> None:
    report = make_report(found)
    path = write_report(report, tmp_path)
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert f"{found['good'].deviation:.3f}" in text
    assert f'<span class="bad">{found["bad"].deviation:.3f}</span>' in text
    assert "the true PSF is wider" in text
    assert "20%" in text  # 12 of 60 images are named untypical
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["coverage"]["joint"]["deviation"] == pytest.approx(found["good"].deviation)
    assert numbers["cases"][0]["wrong"] == "psf=1.1"
    assert set(numbers["cases"][0]["broken"]["joint"]) == {"all", *PROPERTIES}
    assert numbers["settings"]["n"] == 60


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds; once is enough."""
    for name in ("coverage_figure", "rank_figure"):
        monkeypatch.setattr(f"hbm.calibration.report.{name}", lambda _: Figure(figsize=(1, 1)))


@pytest.mark.usefixtures("no_figures")
def test_page_without_cases_or_weights(found: dict[str, Coverage]) -> None:
    report = make_report(found)._replace(cases=[], agreement={}, compared={})
    text = render(report)
    assert "Not asked for" in text
    assert "Not compared" in text
    by_nuts = report._replace(settings={**report.settings, "method": "nuts"})
    assert "All posteriors are draws of NUTS" in render(by_nuts)


def test_what_breaks(found: dict[str, Coverage]) -> None:
    assert broken(found["good"], found["good"]) == ()
    assert broken(found["good"], found["bad"]) == ("all", *PROPERTIES)
    # What was as bad before is not the fault's doing.
    assert broken(found["bad"], found["bad"]) == ()


class RunStandIn:
    """In place of a run: coverage at once; the second case runs out of time if asked to."""

    settings: Settings
    times_up = False
    found: dict[str, Coverage]
    made: list[dict[str, Any]]

    def __init__(self, settings: Settings, folder: Path, **options: Any) -> None:
        self.settings = settings
        folder.mkdir(exist_ok=True)
        type(self).made.append({"settings": settings, "folder": folder, **options})

    def case(self, faults: Faults, uses: Sequence[Use]) -> CaseResult:
        if self.times_up:
            raise TimeUpError
        which = self.found["good" if faults == Faults() else "bad"]
        return CaseResult(faults, dict.fromkeys(uses, which), {}, 0.02, 3, 1.0)

    def first_of(self, uses: Sequence[Use], n: int) -> dict[Use, Coverage]:
        del n
        return dict.fromkeys(uses, self.found["good"])


@pytest.fixture
def stand_in(found: dict[str, Coverage], monkeypatch: pytest.MonkeyPatch) -> type[RunStandIn]:
    class Stand(RunStandIn):
        made: list[dict[str, Any]] = []  # noqa: RUF012

    Stand.found = found
    monkeypatch.setattr(run_module, "CalibrationRun", Stand)
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    return Stand


def hbm(*words: object, code: int = 0) -> str:
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(
        app, ["calibrate", *(str(word) for word in words)], catch_exceptions=False
    )
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


@pytest.mark.usefixtures("no_figures")
def test_command_writes_report_and_prints_the_verdict(stand_in: type[RunStandIn], tmp_path: Path) -> None:
    out = tmp_path / "c"
    text = hbm(
        "sdss-griz", "--n", 60, "--out", out, "--wrong", "psf=1.1", "--wrong", "zred=0.01", "--use",
        "joint,photometry", "--bands", "sdss_g0, sdss_r0", "--minutes", 5, "--method", "nuts",
    )  # fmt: skip
    assert f"{stand_in.found['good'].deviation:.3f}" in text
    assert "psf=1.1, joint: deviation" in text
    assert "breaks all, logmass" in text
    assert (out / "report.html").is_file()
    made = stand_in.made[0]
    assert made["settings"] == Settings(
        "sdss-griz", n=60, n_wrong=60, bands=("sdss_g0", "sdss_r0"), method="nuts"
    )
    assert (made["minutes"], made["resume"], made["overwrite"]) == (5.0, False, False)
    numbers = json.loads((out / "report.json").read_text())
    assert list(numbers["coverage"]) == ["photometry", "joint"]
    assert [case["wrong"] for case in numbers["cases"]] == ["psf=1.1", "zred=0.01"]


def test_command_says_when_time_is_up(stand_in: type[RunStandIn], tmp_path: Path) -> None:
    stand_in.times_up = True
    assert "Go on with --resume" in hbm("--n", 60, "--out", tmp_path / "c", "--minutes", 0)
    assert not (tmp_path / "c" / "report.html").exists()


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--use", "image,spectrum"), "`--use` must be some of photometry,image,joint"),
        (("--wrong", "seeing=2"), "`wrong` must be a name and a number"),
        (("--resume", "--overwrite"), "Give `--overwrite` or `--resume`"),
    ],
)
def test_command_refuses(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert message in hbm("--out", tmp_path / "c", *words, code=1)


def test_a_folder_is_gone_on_with_under_the_same_settings_alone(tmp_path: Path, grid: Any) -> None:
    settings = Settings("sdss-griz", n=16, n_wrong=16)
    CalibrationRun(settings, tmp_path, grid=grid)
    with pytest.raises(FileExistsError, match="Give `--resume` to go on with it"):
        CalibrationRun(settings, tmp_path, grid=grid)
    CalibrationRun(settings, tmp_path, grid=grid, resume=True)
    other = dataclasses.replace(settings, seed=1)
    with pytest.raises(ValueError, match="holds a run with seed 0, not 1"):
        CalibrationRun(other, tmp_path, grid=grid, resume=True)
    (tmp_path / "pieces").mkdir()
    (tmp_path / "mine").mkdir()
    CalibrationRun(other, tmp_path, grid=grid, overwrite=True)
    assert not (tmp_path / "pieces").exists()
    assert (tmp_path / "mine").exists()
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n": 4}, "`n` and `n_wrong` must be at least 8"), ({"depth": 0.0}, "`depth` must be positive")],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings("sdss-griz", **change)


@pytest.mark.slow
def test_a_real_run(tmp_path: Path) -> None:
    """Eight galaxies from simulation to report, interrupted once."""
    pytest.importorskip("sbi", reason="needs the extra [calibrate]")
    words = ("sdss-griz", "--n", 8, "--n-wrong", 8, "--check", 2, "--out", tmp_path / "c")
    assert "Go on with --resume" in hbm(*words, "--minutes", 0)
    text = hbm(*words, "--resume", "--wrong", "mask=0.2")
    assert "mask=0.2, joint" in text
    numbers = json.loads((tmp_path / "c" / "report.json").read_text())
    for use in ("photometry", "image", "joint"):
        assert numbers["coverage"][use]["n"] == 8
        assert numbers["coverage"][use]["deviation"] < 0.8
    assert numbers["agreement"]["joint"]["mean"] < 0.3
    # The image adds to what photometry knows.
    widths = {
        use: numbers["coverage"][use]["quantities"]["dust2"]["width"] for use in ("photometry", "joint")
    }
    assert widths["joint"] < widths["photometry"]
