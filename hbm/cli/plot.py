"""``hbm plot``: figures of saved results."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, stderr, stdout
from hbm.cli.figures import Format, Kind, save_figures

if TYPE_CHECKING:
    from hbm.results import FitResult


def plot(
    results: Annotated[
        list[Path], typer.Argument(help="Results of `hbm fit`: .nc files.", show_default=False)
    ],
    kind: Annotated[
        Kind,
        typer.Option(
            help="Corner plot, photometry with residuals, star formation history, redshift, or all."
        ),
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
    stamps: Annotated[
        Path | None,
        typer.Option(
            help="HDF5 file with the galaxies' images: also draw `<result>_images.png`, the observed image "
            "beside ones that the image model draws at the posterior.",
            show_default=False,
        ),
    ] = None,
    image_model: Annotated[str, typer.Option(help="Image model for --stamps.")] = "sdss-griz",
    compare: Annotated[
        Path | None,
        typer.Option(
            help="Folder of results of the same galaxies from other data: also draw `<result>_compared`, "
            "both posteriors over each other.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw figures of results: corner plot, SED with residuals, star formation history, redshift if free.

    The figures are named `<result>_corner.png`, `<result>_sed.png`, `<result>_sfh.png` and
    `<result>_redshift.png`; older ones of the same name are replaced.

    **Examples**

    `hbm plot results/17.nc`

    `hbm plot results/*.nc --kind sed --format pdf --out figures`

    `hbm plot joint/*.nc --compare photometry --stamps stamps.h5`
    """
    with plain_errors():
        from hbm.results import load_result
        from sed.io import load_grid

        model_grid = None if grid is None else load_grid(grid)
        for path in results:
            result = load_result(path)
            stem = (path.parent if outdir is None else outdir) / path.name.removesuffix(".nc")
            figures = save_figures(
                result,
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
            if compare is not None:
                _print_path(_compared(result, path, compare, stem, file_format))
            if stamps is not None:
                _print_path(_pictured(result, stamps, image_model, stem))


def _print_path(path: Path) -> None:
    """Say that a figure was written."""
    stdout().print(escape(str(path)), soft_wrap=True)


def _compared(result: "FitResult", path: Path, folder: Path, stem: Path, file_format: Format) -> Path:
    """Posterior over that of the same name in another folder."""
    from hbm.plots import plot_comparison
    from hbm.results import load_result

    figure = plot_comparison({folder.name: load_result(folder / path.name), path.parent.name: result})
    out = stem.with_name(f"{stem.name}_compared.{file_format.value}")
    figure.savefig(out, bbox_inches="tight")
    return out


def _pictured(result: "FitResult", stamps: Path, model: str, stem: Path) -> Path:
    """Observed image beside images of the posterior."""
    import numpy as np

    from generative.commands import picture_posterior
    from hbm.plots.comparison import PROPERTIES

    theta = np.stack([result.draws(name).ravel() for name in PROPERTIES], axis=1)
    out = stem.with_name(f"{stem.name}_images.png")
    picture_posterior(stamps, result.galaxy_id, theta, out, model=model)
    return out
