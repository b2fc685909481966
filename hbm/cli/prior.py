"""``hbm prior``: look at the interim prior."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, stdout
from hbm.cli.fit import History


def prior(
    zred: Annotated[float, typer.Option(help="Redshift, which sets the age of the universe.")] = 0.7,
    out: Annotated[Path, typer.Option("--out", "-o", help="Figure to write: .png or .pdf.")] = Path(
        "prior.png"
    ),
    sfh: Annotated[History, typer.Option(help="Star formation history.")] = History.binned,
    grid: Annotated[
        Path | None,
        typer.Option(help="Grid, whose oldest age limits the age bins.", show_default="the shipped grid"),
    ] = None,
    draws: Annotated[int, typer.Option(min=100, help="Number of draws.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same figure.")] = 0,
) -> None:
    """Draw what a fit believes before it sees any light.

    The panels show draws from the prior on one galaxy's parameters. A figure of the same name is replaced.

    **Examples**

    `hbm prior`

    `hbm prior --zred 2 --out prior_z2.pdf`
    """
    with plain_errors():
        if out.suffix not in (".png", ".pdf"):
            raise ValueError(f"`--out` must end in .png or .pdf, got {out.name!r}.")

        from hbm.config import ModelConfig
        from hbm.plots.prior import plot_prior
        from sed.io import load_grid

        model_grid = None if grid is None else load_grid(grid)
        figure = plot_prior(ModelConfig(sfh=sfh.value), zred, grid=model_grid, n_draw=draws, seed=seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out)
        stdout().print(escape(str(out)), soft_wrap=True)
