"""``hbm calibrate``: are posteriors from photometry, image and both calibrated? A report."""

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, progress_bar, stdout
from hbm.cli.programs import keep_programs

if TYPE_CHECKING:
    from hbm.calibration.fits import Use
    from hbm.calibration.report import Report
    from hbm.calibration.run import CalibrationRun


class CalibrationMethod(StrEnum):
    """How posteriors with images are found."""

    importance = "importance"
    nuts = "nuts"


def calibrate(
    model: Annotated[str, typer.Argument(help="Image model: shipped name or checkpoint.")] = "sdss-griz",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path("calibration"),
    n: Annotated[int, typer.Option("-n", "--n", min=8, help="Galaxies.")] = 500,
    use: Annotated[
        str, typer.Option(help="Posteriors to look at, some of photometry,image,joint.")
    ] = "photometry,image,joint",
    wrong: Annotated[
        list[str] | None,
        typer.Option(
            help="Tell the model something wrong, such as psf=1.1; may be repeated. One of psf, depth, zred, "
            "mask, bad_pixels, prior.",
            rich_help_panel="Sensitivity",
        ),
    ] = None,
    n_wrong: Annotated[
        int, typer.Option(min=8, help="Galaxies for that.", rich_help_panel="Sensitivity")
    ] = 200,
    bands: Annotated[
        str, typer.Option(help="Filters of the photometry.", rich_help_panel="Survey")
    ] = "sdss_u0,sdss_g0,sdss_r0,sdss_i0,sdss_z0",
    depth: Annotated[
        float,
        typer.Option(help="Median flux of the prior over its error, each band.", rich_help_panel="Survey"),
    ] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything.")] = 0,
    correction: Annotated[
        bool,
        typer.Option(
            "--correction/--no-correction", help="Use the image model's ratio correction, if it has one."
        ),
    ] = True,
    method: Annotated[
        CalibrationMethod,
        typer.Option(
            help="Posteriors with images: by importance weights where those are good and NUTS elsewhere, or "
            "all by NUTS.",
            rich_help_panel="Sampler",
        ),
    ] = CalibrationMethod.importance,
    check: Annotated[
        int,
        typer.Option(
            min=0, help="Galaxies for which weights and NUTS are compared.", rich_help_panel="Sampler"
        ),
    ] = 8,
    cores: Annotated[
        int, typer.Option(min=1, help="Cores to divide the galaxies over.", rich_help_panel="Sampler")
    ] = 1,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Begin nothing new after these; --resume goes on.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the run in that folder.")] = False,
) -> None:
    """Check on simulated galaxies whether posteriors hold the truth as often as they say.

    Galaxies are drawn from the interim prior, get photometry and an image of the same properties, and are
    fitted by their photometry, their image, and both. Writes `report.html`, which needs no other file, and
    `report.json`: simulation-based calibration of every quantity, expected coverage (TARP) of the six
    properties together, and what chance alone gives. With --wrong, what breaks when the model is told a wrong
    PSF, depth, redshift, and so on. Needs the extras `torch` and `calibrate`.

    **Examples**

    `hbm calibrate sdss-griz --n 500 --out calibration --minutes 60`

    `hbm calibrate sdss-griz --n 500 --out calibration --resume --wrong psf=1.1 --wrong depth=1.1`
    """
    with plain_errors():
        if overwrite and resume:
            raise ValueError("Give `--overwrite` or `--resume`, not both.")
        if cores > 1:  # before anything that wakes JAX up
            from hbm.devices import use_cpu_cores

            use_cpu_cores(cores)
        from hbm.calibration.faults import parse_faults
        from hbm.calibration.fits import TimeUpError
        from hbm.calibration.report import write_report
        from hbm.calibration.run import CalibrationRun, Settings

        cases = parse_faults(wrong or [])
        uses = _uses(use)
        _require_sbi()
        settings = Settings(
            model=model, n=n, n_wrong=min(n_wrong, n), bands=tuple(b.strip() for b in bands.split(",")),
            depth=depth, method=method.value, n_check=check, correction=correction, seed=seed,
        )  # fmt: skip
        keep_programs()
        with progress_bar("opening the model") as progress:
            run = CalibrationRun(
                settings, out, resume=resume, overwrite=overwrite, minutes=minutes, progress=progress
            )
            try:
                report = _work(run, uses, cases)
            except TimeUpError:
                stdout().print("Time is up; what is done is saved. Go on with --resume.")
                return
            progress(0, 1, "drawing")
            path = write_report(report, out)
        _show(report)
        stdout().print(f"Report: {escape(str(path))}", soft_wrap=True)


def _work(run: "CalibrationRun", uses: "tuple[Use, ...]", cases: "tuple[object, ...]") -> "Report":
    from hbm.calibration.faults import Faults
    from hbm.calibration.report import Case, Report

    plain = run.case(Faults(), uses)
    found = []
    for faults in cases:
        one = run.case(cast(Faults, faults), uses)
        found.append(Case(one.faults, one.coverage, one.n_untypical))
    compared = run.first_of(uses, run.settings.n_wrong) if cases else {}
    return Report(
        dataclasses.asdict(run.settings), plain.coverage, plain.agreement, plain.outside, plain.n_untypical,
        compared, found,
    )  # fmt: skip


def _uses(text: str) -> "tuple[Use, ...]":
    from hbm.calibration.fits import USES

    words = [word.strip() for word in text.split(",")]
    if not words or set(words) - set(USES):
        raise ValueError(f"`--use` must be some of {','.join(USES)}, got {text!r}.")
    return tuple(use for use in USES if use in words)


def _require_sbi() -> None:
    """Refuse early what would fail after hours."""
    from importlib.util import find_spec

    if find_spec("sbi") is None:
        raise ImportError('TARP needs sbi, which is not installed: pip install "galaxy-hbm[calibrate]".')


def _show(report: "Report") -> None:
    """Print the numbers."""
    from hbm.calibration.report import broken

    console = stdout()
    n = next(iter(report.coverage.values())).n
    console.print(
        f"Largest deviation of coverage, {n} galaxies; six properties together, then the worst alone:",
        soft_wrap=True,
    )
    for use, c in report.coverage.items():
        worst = max(c.quantities, key=lambda name: c.quantities[name].deviation)
        console.print(
            f"[bold]{use}[/]: {c.deviation:.3f}, by chance {c.chance:.3f} in the mean and up "
            f"to {c.chance_95:.3f} in 95 of 100 cases: {c.verdict}. Worst alone: {worst} "
            f"{c.quantities[worst].deviation:.3f}. {c.n_sampled} posteriors by NUTS, the others by weights; "
            f"{c.n_not_converged} not converged, and counted.",
            soft_wrap=True,
        )
    for use, a in report.agreement.items():
        console.print(
            f"{use}: weights against NUTS in {a.n} galaxies: means differ by {a.mean:.2f} sigma (rms; "
            f"{a.expected:.2f} expected of so few draws), widths by a factor {a.width:.2f}",
            soft_wrap=True,
        )
    for case in report.cases:
        for use, c in case.coverage.items():
            names = ", ".join(broken(report.compared[use], c)) or "nothing"
            console.print(
                f"{case.faults.name}, {use}: deviation {c.deviation:.3f} (before "
                f"{report.compared[use].deviation:.3f}); breaks {escape(names)}",
                soft_wrap=True,
            )
