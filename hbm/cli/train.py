"""``hbm train``: train an image model."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hbm.cli.console import plain_errors, stderr, stdout

if TYPE_CHECKING:
    from generative.train import StepResult


def train(
    config: Annotated[
        str, typer.Argument(help="TOML file, or the name of a shipped configuration, e.g. sdss-griz.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for state, logs and model.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Take up the run in the folder, if there is one.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(help="Stop after this time with everything saved; --resume goes on.", min=0.01),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.")] = "auto",
    steps: Annotated[
        int | None, typer.Option(help="Number of steps, instead of the configuration's.", min=1)
    ] = None,
) -> None:
    """Train a conditional model of galaxy images.

    On this machine's processor or GPU:

    `hbm train sdss-griz --out runs/sdss`

    On several GPUs, through accelerate: `accelerate launch -m hbm.cli train sdss-griz-gpu --out runs/sdss`

    The folder gets `log.csv`, TensorBoard logs, `state.safetensors` (from which `--resume` goes on exactly as
    if it had not been interrupted) and at the end `model.safetensors` for `hbm sample` and `hbm evaluate`.

    Progress shows the denoising loss per pixel, the contrastive loss in nats (the logarithm of the batch size
    where nothing is learnt yet) and, at each validation, the information gain on held-out images.
    """
    with plain_errors():
        _train(config, out, resume, minutes, device, steps)


def _train(
    config: str, out: Path, resume: bool, minutes: float | None, device: str, steps: int | None
) -> None:
    from generative.commands import Training

    with stderr().status("opening the data"):
        training = Training(config, out, resume=resume, device=device, steps=steps)
    if training.is_main:
        for note in training.notes:
            stderr().print(f"[yellow]Note:[/] {escape(note)}", soft_wrap=True)
    with _progress(training.is_main) as bar:
        task = bar.add_task("training", total=training.settings.training.steps)
        second = bar.add_task("", total=None, visible=False)
        held: list[str] = [""]

        def on_step(r: "StepResult") -> None:
            if math.isfinite(r.held_denoise):
                gain = (
                    f", gain {r.held_gain:.2f} ± {r.held_gain_error:.2f} nats"
                    if math.isfinite(r.held_gain)
                    else ""
                )
                held[0] = f" | held out: {r.held_denoise:.4f}{gain}"
            contrast = f" contrast {r.contrast:.2f}" if math.isfinite(r.contrast) else ""
            text = f"denoise {r.denoise:.4f}{contrast} {r.images_per_s:.0f} images/s{held[0]}"
            bar.update(task, completed=r.step, description=text)

        def on_refit(done: int, total: int, text: str) -> None:
            bar.update(second, completed=done, total=total, description=text, visible=True)

        model = training(minutes, on_step, on_refit)
    if not training.is_main:
        return
    if model is None:
        stdout().print(f"Time is up; the state is saved. Go on with: hbm train {config} --out {out} --resume")
    else:
        stdout().print(f"Model written to [bold]{escape(str(model))}[/]. Look at it: hbm evaluate {model}")


def _progress(shown: bool) -> Progress:
    columns = (
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=stderr(), disable=not shown)
