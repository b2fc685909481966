"""``hbm correct``: add what an image model's likelihood has not learnt."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, progress_bar, stdout


def correct(
    model: Annotated[str, typer.Argument(help="Shipped model by name, or a file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for state and the corrected model.")],
    simulations: Annotated[
        int, typer.Option(help="Simulated images that the encoder learns from.", min=1)
    ] = 126_000,
    steps: Annotated[int, typer.Option(help="Steps of the encoder.", min=1)] = 8000,
    numbers: Annotated[int, typer.Option(help="Numbers that an image gets more.", min=1)] = 64,
    images: Annotated[
        int, typer.Option(help="Further simulations that are compiled, for the fit.", min=40)
    ] = 4000,
    calibration: Annotated[
        int, typer.Option(help="Further ones that gain and coverage are measured on; 0 for none.", min=0)
    ] = 1000,
    folder: Annotated[
        Path | None, typer.Option("--simulated", help="Folder of the simulations; in --out if not given.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this time; the same command goes on.", min=0.0)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Add a ratio correction to an image model.

    A small encoder learns what the images say of the properties, directly; what that adds to the model's own
    likelihood is kept as a few more numbers per image (docs/likelihood.md). Fits use it from then on, unless
    they are told not to.

    `hbm correct runs/sdss/model.safetensors --out runs/sdss-corrected`

    A run that was interrupted goes on where it was when the command is given again.
    """
    with plain_errors():
        from generative.commands import correct_model

        with progress_bar("opening the model") as report:
            done = correct_model(
                model, out, simulations=simulations,
                options={"steps": steps, "numbers": numbers, "images": images},
                calibration=calibration, folder=folder, minutes=minutes, device=device, progress=report,
            )  # fmt: skip
        if done is None:
            stdout().print("Time is up; the state is saved. Go on with the same command.")
            return
        _show(done, out)


def _show(done: dict[str, Any], out: Path) -> None:
    console = stdout()
    console.print(
        f"Contrastive loss on images that nothing was chosen by: {done['before']:.2f} nats before, "
        f"{done['after']:.2f} after; the score model's likelihood counts {done['scale']:.2f} times."
    )
    for key, label in (("refitted", "information gain before"), ("corrected", "information gain")):
        info = (done["calibration"] or {}).get(key)
        if info:
            cover = ", ".join(f"{p} {c:.0%}" for p, c in info["cover_68"].items())
            console.print(
                f"{label}: {info['gain']:.2f} ± {info['error']:.2f} nats; 68 % intervals cover {cover}"
            )
    console.print(f"Model written to [bold]{escape(str(out / 'model.safetensors'))}[/]")
