"""``hbm check``: whether image and photometry belong together."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, progress_bar, stderr, stdout
from hbm.cli.programs import keep_programs

if TYPE_CHECKING:
    from astropy.table import Table

    from hbm.consistency import Checker
    from hbm.results import FitResult

_SAVE_EVERY = 20
_N_PRINTED = 15
_SETTINGS = "check_settings"


def check(
    results: Annotated[
        Path, typer.Argument(help="Folder of `hbm fit --use photometry`.", show_default=False)
    ],
    images: Annotated[Path, typer.Option(help="Statistics of the galaxies' images, from `hbm compile`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write: .ecsv or .parquet.")] = Path(
        "check.ecsv"
    ),
    catalog: Annotated[
        Path | None,
        typer.Option(
            help="The catalogue as it is now: refuses fits of other fluxes. The fits themselves hold what is "
            "checked.",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        Path | None,
        typer.Option(help="TOML file that says which column is what, for --catalog.", show_default=False),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Columns of a known catalogue, for --catalog.", show_default=False)
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option(help="Identifier of a galaxy to draw, as `<out>_<id>.png`; may be repeated."),
    ] = None,
    prior_bad: Annotated[
        float, typer.Option(help="Part of the catalogue whose photometry is corrupted, before the data.")
    ] = 0.05,
    image_model: Annotated[
        str | None,
        typer.Option(
            help="Image model that they were compiled with: shipped name or checkpoint.",
            show_default="that named in the file",
        ),
    ] = None,
    insist: Annotated[
        bool, typer.Option("--insist", help="Use an image model that is overconfident or untested.")
    ] = False,
    correction: Annotated[
        bool,
        typer.Option(
            "--correction/--no-correction", help="Use the image model's ratio correction, if it has one."
        ),
    ] = True,
    grid: Annotated[
        Path | None, typer.Option(help="Grid that was fitted with.", show_default="the shipped grid")
    ] = None,
    points: Annotated[
        int, typer.Option(min=64, help="Points per galaxy; more for less Monte Carlo error.")
    ] = 16384,
    max_points: Annotated[
        int, typer.Option(min=64, help="Most points of a galaxy for which those are too few.")
    ] = 131072,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older table.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip galaxies that the table has.")] = False,
) -> None:
    """Find galaxies whose photometry and image do not go together.

    For each galaxy: is the image likely under the posterior that the photometry allows, and the photometry
    under the image's? Bayes factors of one galaxy against a swapped match, a shred (light lost), a blend
    (light added) and one band off; p-values of the fluxes and of each band; the domain check of the image.

    Takes fits of photometry alone; those of `hbm fit ... --images FILE --use photometry` have the prior that
    the image model knows. Writes a table, the most suspicious galaxies first.

    **Examples**

    `hbm check photometry --images stamps.stats.h5 --out check.ecsv`

    `hbm check photometry --images stamps.stats.h5 --show 17 --overwrite`
    """
    with plain_errors():
        keep_programs()
        if overwrite and resume:
            raise ValueError("Give `--overwrite` or `--resume`, not both.")
        if out.suffix not in (".ecsv", ".parquet"):
            raise ValueError(f"`--out` must end in .ecsv or .parquet, got {out.name!r}.")
        if not 0 < prior_bad < 1:
            raise ValueError(f"`--prior-bad` must be between 0 and 1, got {prior_bad}.")
        if out.exists() and not (overwrite or resume):
            raise FileExistsError(
                f"`--out` {out} exists already. Give `--resume`, `--overwrite`, or another name."
            )
        every = _results(results)
        if catalog is not None:
            from hbm.catalog import read_catalog
            from hbm.consistency.inputs import refuse_other_fluxes

            refuse_other_fluxes(read_catalog(catalog, preset=preset, columns=columns, on_bad="drop"), every)

        from hbm.consistency import Checker
        from hbm.image import load_image_likelihood, model_of
        from sed.io import load_grid

        name = model_of(images) if image_model is None else image_model
        likelihood = load_image_likelihood(name, correction=correction)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            checker = Checker(
                every, images, likelihood, grid=None if grid is None else load_grid(grid), n_point=points,
                max_point=max(points, max_points), seed=seed, insist=insist,
            )  # fmt: skip
        for warning in caught:
            stderr().print(f"[yellow]Note:[/] {escape(str(warning.message))}", soft_wrap=True)
        settings = {
            "image_model": likelihood.hash, "correction": bool(likelihood.psi), "points": points,
            "max_points": max_points, "seed": seed, "prior_bad": prior_bad,
        }  # fmt: skip
        table = _checked(checker, out, settings, show or [], prior_bad, resume=resume)
        _report(table, out)


def _results(folder: Path) -> "list[FitResult]":
    """Fits in a folder."""
    from hbm.results import load_result

    found = [load_result(path) for path in sorted(folder.glob("*.nc"))] if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(f"`results` must be a folder with results of `hbm fit`, got {str(folder)!r}.")
    return found


def _checked(
    checker: "Checker",
    out: Path,
    settings: dict[str, Any],
    show: list[str],
    prior_bad: float,
    *,
    resume: bool,
) -> "Table":
    """Check all galaxies that the table does not have, saving it now and then, and draw those wanted."""
    from hbm.consistency.table import DESCRIPTIONS, check_table, row_of
    from hbm.results import write_table

    for name in show:
        if name not in checker.ids:
            raise ValueError(f"`--show` must be a galaxy with fit and image, got {name!r}.")
    rows: dict[str, dict[str, Any]] = {}
    if resume and out.exists():
        rows = {str(row["id"]): {name: row[name] for name in DESCRIPTIONS} for row in _older(out, settings)}
    meta = {_SETTINGS: json.dumps(settings)}
    with progress_bar("checking") as progress:
        for done, name in enumerate(checker.ids):
            progress(done, len(checker.ids), f"checking {name}")
            if name in rows and name not in show:
                continue
            found, detail = checker(name)
            rows[name] = row_of(found, prior_bad)
            if name in show:
                from hbm.plots.consistency import plot_check
                from hbm.results import result_path

                safe = result_path(out.parent, name).stem
                figure = out.with_name(f"{out.stem}_{safe}.png")
                plot_check(found, detail).savefig(figure, bbox_inches="tight", dpi=130)
                stdout().print(f"Figure: {escape(str(figure))}", soft_wrap=True)
            if done % _SAVE_EVERY == _SAVE_EVERY - 1:
                write_table(check_table(list(rows.values()), meta), out, overwrite=True)
    table = check_table(list(rows.values()), meta)
    write_table(table, out, overwrite=True)
    return table


def _older(out: Path, settings: dict[str, Any]) -> "Table":
    """Table of an interrupted run of the same settings."""
    from astropy.table import Table

    from hbm.results import settings_that_differ

    table = Table.read(out, format="ascii.ecsv" if out.suffix == ".ecsv" else "parquet")
    differences = settings_that_differ(json.loads(table.meta.get(_SETTINGS, "{}")), settings)
    if differences:
        raise ValueError(
            f"`--resume` needs the settings of {out}, which has {'; '.join(differences[:4])}. Give the same "
            "settings, `--overwrite`, or another name."
        )
    return table


def _report(table: "Table", out: Path) -> None:
    """Print the most suspicious galaxies, and how many there are."""
    from rich.table import Table as Printed

    doubtful = [row for row in table if row["verdict"] != "consistent"]
    console = stdout()
    console.print(f"{len(table)} galaxies, {len(doubtful)} not consistent.")
    if doubtful:
        printed = Printed()
        for heading in ("id", "P(bad)", "ln B", "p", "p image", "verdict"):
            printed.add_column(heading, justify="left" if heading in ("id", "verdict") else "right")
        for row in doubtful[:_N_PRINTED]:
            printed.add_row(
                escape(str(row["id"])), f"{row['probability_bad']:.2f}", f"{row['log_bayes_same']:.1f}",
                f"{row['p_photometry']:.2g}", f"{row['p_image']:.2g}", escape(str(row["verdict"])),
            )  # fmt: skip
        console.print(printed)
    console.print(f"Table: {escape(str(out))}", soft_wrap=True)
