"""``hbm plot``: figures of saved results."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, stderr, stdout
from hbm.cli.figures import Format, Kind, save_figures


def plot(
    results: Annotated[
        list[Path], typer.Argument(help="Results of `hbm fit`: .nc files.", show_default=False)
    ],
    kind: Annotated[
        Kind, typer.Option(help="Corner plot, photometry with residuals, star formation history, or all.")
    ] = Kind.all,
    outdir: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", "--outdir", help="Folder for the figures.", show_default="beside each result"
        ),
    ] = None,
    file_format: Annotated[Format, typer.Option("--format", help="File format.")] = Format.png,
    grid: Annotated[
        Path | None,
        typer.Option(help="Grid that was fitted with, for the spectrum.", show_default="the shipped grid"),
    ] = None,
    spectrum: Annotated[
        bool, typer.Option(help="Draw the model spectrum behind the photometry (takes some seconds).")
    ] = True,
) -> None:
    """Draw figures of results: corner plot, SED with residuals, star formation history.

    The figures are named `<result>_corner.png`, `<result>_sed.png` and `<result>_sfh.png`; older ones of the
    same name are replaced.

    **Examples**

    `hbm plot results/17.nc`

    `hbm plot results/*.nc --kind sed --format pdf --out figures`
    """
    with plain_errors():
        from hbm.results import load_result
        from sed.io import load_grid

        model_grid = None if grid is None else load_grid(grid)
        for path in results:
            stem = (path.parent if outdir is None else outdir) / path.name.removesuffix(".nc")
            figures = save_figures(
                load_result(path),
                stem,
                kind=kind,
                file_format=file_format,
                grid=model_grid,
                spectrum=spectrum,
            )
            for figure in figures.paths:
                stdout().print(escape(str(figure)), soft_wrap=True)
            for note in figures.notes:
                stderr().print(f"[yellow]Note:[/] {escape(note)}", soft_wrap=True)
