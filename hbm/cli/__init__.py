"""The command line program ``hbm``.

Commands import what they need when they run, so that ``hbm --help`` answers at once.
"""

import importlib.metadata
from typing import Annotated

import typer

from hbm.cli.calibrate import calibrate
from hbm.cli.check import check
from hbm.cli.compile import compile_images
from hbm.cli.correct import correct
from hbm.cli.dataset import dataset
from hbm.cli.demo import demo
from hbm.cli.download import download
from hbm.cli.evaluate import evaluate
from hbm.cli.filters import filters
from hbm.cli.fit import fit
from hbm.cli.grid import grid_app
from hbm.cli.image import image
from hbm.cli.photoz import photoz
from hbm.cli.plot import plot
from hbm.cli.population import population
from hbm.cli.prior import prior
from hbm.cli.sample import sample
from hbm.cli.train import train

app = typer.Typer(
    name="hbm",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> bool:
    if value:
        typer.echo(f"galaxy-hbm {importlib.metadata.version('galaxy-hbm')}")
        raise typer.Exit
    return value


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Infer stellar masses, star formation histories, metallicities and dust of galaxies.

    New here? Fit a simulated galaxy by photometry and by photometry and image, in a minute or two:

    `hbm demo --quick`

    Then fit your own catalogue and look at the result:

    `hbm fit my_catalog.fits --columns my_columns.toml --out results`

    `hbm plot results/17.nc`

    No redshifts? They come from photometry, all modes of them:

    `hbm photoz my_catalog.fits --columns my_columns.toml --out redshifts`

    Image models draw galaxies with given properties, and train on your own survey:

    `hbm sample --logmass 10.8 --logssfr -12`

    They are also likelihoods; compile your images to what a fit needs of them:

    `hbm compile stamps.h5 --model sdss-griz --out stamps.stats.h5`

    Does the photometry go with the image?

    `hbm check photometry --images stamps.stats.h5`

    Are the posteriors calibrated? On simulated galaxies:

    `hbm calibrate sdss-griz --n 500 --out calibration`

    Many galaxies tell of their population:

    `hbm population --example mock`

    Each command explains itself: `hbm fit --help`.
    """
    del version


app.command()(demo)
app.command()(fit)
app.command()(photoz)
app.command()(plot)
app.add_typer(grid_app, name="grid")
app.command()(filters)
app.command()(prior)
app.command()(population)
app.command()(download)
app.command()(image)
app.command()(dataset)
app.command()(train)
app.command()(correct)
app.command()(sample)
app.command()(evaluate)
app.command(name="compile")(compile_images)
app.command()(check)
app.command()(calibrate)
