"""``hbm photoz``: redshifts of a catalogue without them."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, progress_bar, stderr, stdout
from hbm.cli.fit import History, OnBad, choose, parse_error_floor
from hbm.cli.programs import keep_programs

if TYPE_CHECKING:
    from hbm.catalog import Catalog
    from hbm.redshifts import ZredPrior
    from hbm.results import FitResult

TABLE = "photoz.ecsv"
"""Table of all galaxies in the folder of results."""

_N_PRINTED = 12
_Z_MAX = 6.0


def photoz(
    catalog: Annotated[
        Path,
        typer.Argument(
            help="FITS, ECSV, CSV, Parquet, or text with # before its header.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("hbm_photoz"),
    preset: Annotated[
        str | None,
        typer.Option(help="Columns of a known catalogue, such as 3dhst_cosmos.", rich_help_panel="Catalogue"),
    ] = None,
    columns: Annotated[
        Path | None,
        typer.Option(help="TOML file that says which column is what.", rich_help_panel="Catalogue"),
    ] = None,
    galaxy: Annotated[
        list[str] | None,
        typer.Option("--id", help="Only this galaxy; may be repeated.", rich_help_panel="Catalogue"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many.", rich_help_panel="Catalogue")
    ] = None,
    on_bad: Annotated[
        OnBad,
        typer.Option(
            help="Rows that cannot be used: stop and name them, or drop them.", rich_help_panel="Catalogue"
        ),
    ] = OnBad.stop,
    z_max: Annotated[
        float, typer.Option(min=0.02, help="Largest redshift.", rich_help_panel="Prior on redshift")
    ] = _Z_MAX,
    flat: Annotated[
        bool,
        typer.Option(
            "--flat",
            help="The same density at all redshifts, in place of one that knows how faint the galaxy is.",
            rich_help_panel="Prior on redshift",
        ),
    ] = False,
    sfh: Annotated[
        History, typer.Option(help="Star formation history.", rich_help_panel="Model")
    ] = History.binned,
    error_floor: Annotated[
        str,
        typer.Option(help="Model error as a fraction of the model flux, or 'free'.", rich_help_panel="Model"),
    ] = "0.05",
    outliers: Annotated[
        bool, typer.Option("--outliers", help="Allow for bad bands.", rich_help_panel="Model")
    ] = False,
    grid: Annotated[
        Path | None,
        typer.Option(
            help="Grid of stellar populations, see `hbm grid`.",
            show_default="the shipped grid",
            rich_help_panel="Model",
        ),
    ] = None,
    plots: Annotated[bool, typer.Option(help="Save figures of every galaxy beside its result.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same draws.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace older results.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip galaxies whose result is there already.")
    ] = False,
) -> None:
    """Redshifts from photometry, with mass, history, dust and metallicity at each of them.

    Writes `<id>.nc` for each galaxy, as `hbm fit` does, and `photoz.ecsv` for all: quantiles of the redshift
    and its two most probable modes with their probabilities. Redshifts in the catalogue are not used.

    **Examples**

    `hbm photoz galaxies.ecsv --out redshifts`

    `hbm photoz survey.fits --columns survey.toml --z-max 1 --on-bad drop --resume`
    """
    with plain_errors():
        keep_programs()
        if overwrite and resume:
            raise ValueError("Give `--overwrite` or `--resume`, not both.")
        floor = parse_error_floor(error_floor)
        from hbm.config import ModelConfig
        from hbm.redshifts import photoz as run

        chosen = choose(_read(catalog, preset, columns, on_bad), galaxy, limit)
        failed: dict[str, str] = {}
        with progress_bar(f"redshifts of {len(chosen)} galaxies") as progress:
            results = run(
                chosen,
                prior=_prior(z_max, flat=flat),
                config=ModelConfig(sfh=sfh.value, error_floor=floor, outliers=outliers),
                grid=grid,
                seed=seed,
                outdir=out,
                overwrite=overwrite,
                resume=resume,
                on_error=lambda name, error: failed.update({name: str(error)}),
                progress=progress,
            )
        _report(results, failed, out)
        if plots:
            _draw(results, out, grid)


def _draw(results: "list[FitResult]", out: Path, grid: Path | None) -> None:
    from hbm.cli.figures import save_figures
    from hbm.results import result_path
    from sed.io import load_grid

    loaded = None if grid is None else load_grid(grid)
    for result in results:
        stem = result_path(out, result.galaxy_id).with_suffix("")
        for note in save_figures(result, stem, grid=loaded).notes:
            stderr().print(f"[yellow]Note:[/] {escape(note)}", soft_wrap=True)


def _read(path: Path, preset: str | None, columns: Path | None, on_bad: OnBad) -> "Catalog":
    from hbm.catalog import read_catalog

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_catalog(path, preset=preset, columns=columns, on_bad=on_bad.value, redshifts=False)
    for warning in caught:
        stderr().print(f"[yellow]Note:[/] {escape(str(warning.message))}", soft_wrap=True)
    return found


def _prior(z_max: float, *, flat: bool) -> "ZredPrior":
    from hbm.redshifts import ZredPrior

    return ZredPrior.uniform(high=z_max) if flat else ZredPrior(high=z_max)


def _report(results: "list[FitResult]", failed: dict[str, str], out: Path) -> None:
    """Write the table, print its first rows, and say what could not be fitted."""
    from hbm.redshifts import photoz_table
    from hbm.results import write_table

    console = stdout()
    for name, text in failed.items():
        stderr().print(f"[yellow]Not fitted:[/] {escape(name)}: {escape(text)}", soft_wrap=True)
    if not results:
        raise ValueError("None of the galaxies could be fitted.")
    table = photoz_table(results)
    path = write_table(table, out / TABLE, overwrite=True)
    for row in table[:_N_PRINTED]:
        low, high = row["zred_q50"] - row["zred_q16"], row["zred_q84"] - row["zred_q50"]
        modes = f"{row['weight1']:.0%} at {row['mode1']:.3f}"
        if row["n_mode"] > 1:
            modes += f", {row['weight2']:.0%} at {row['mode2']:.3f}"
        flag = "" if row["flag"] == "ok" else f"  [yellow]{row['flag']}[/]"
        console.print(
            f"{escape(str(row['id']))}: z = {row['zred_q50']:.3f} (-{low:.3f} +{high:.3f}), {modes}{flag}",
            highlight=False,
        )
    if len(table) > _N_PRINTED:
        console.print(f"and {len(table) - _N_PRINTED} more")
    n_bad = sum(str(flag) != "ok" for flag in table["flag"])
    words = f"{len(table)} fitted, {n_bad} flagged" + (f", {len(failed)} failed" if failed else "")
    console.print(f"[bold {'yellow' if n_bad or failed else 'green'}]{words}.[/]")
    console.print(f"Results: {escape(str(out))}  Table: {escape(str(path))}", soft_wrap=True)
