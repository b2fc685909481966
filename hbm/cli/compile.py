"""``hbm compile``: sufficient statistics of images."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, progress_bar, stdout


def compile_images(
    images: Annotated[Path, typer.Argument(help="HDF5 file of images, in the Multimodal Universe's layout.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of statistics to write, .h5.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Shipped model by name, or a file.")
    ] = "sdss-griz",
    target_error: Annotated[
        float, typer.Option(help="Monte Carlo error of log-likelihood differences to reach, nats.")
    ] = 0.05,
    max_draw: Annotated[int, typer.Option(help="Most noise draws per noise level; even.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the noise draws.")] = 0,
    chunk: Annotated[int, typer.Option(help="Images at a time.", min=1)] = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if there is one.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Compile images to the statistics that their likelihood depends on.

    The image model runs once for each image; fits then need neither it nor torch.

    `hbm compile stamps.h5 --model sdss-griz --out stamps.stats.h5`

    A run that was interrupted goes on where it was when the command is given again.
    """
    with plain_errors():
        from generative.commands import compile_survey

        with progress_bar("compiling") as report:
            done = compile_survey(
                images, out, model=model, target_error=target_error, max_draw=max_draw, seed=seed,
                chunk=chunk, overwrite=overwrite, device=device, progress=report,
            )  # fmt: skip
        stdout().print(f"{done.n} galaxies in [bold]{escape(str(out))}[/]")
        stdout().print(
            f"Monte Carlo error of log-likelihood differences: median {done.median_error:.3f} nats, largest "
            f"{done.largest_error:.3f}; {done.n_above} above {target_error:g} after {max_draw} draws."
        )
        if not done.is_checked:
            stdout().print(
                "[yellow]No domain check:[/] the model has no reference, or one of too few simulations."
            )
        if done.strange:
            names = ", ".join(done.strange[:8]) + (" ..." if len(done.strange) > 8 else "")
            stdout().print(
                f"[yellow]{len(done.strange)} of them are unlike the images that the model was trained on[/] "
                f"(p_typical < 0.002; chance alone gives 1 in 500), or were observed under other conditions: "
                f"{escape(names)}. Do not trust what the image says of them."
            )
