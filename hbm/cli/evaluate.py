"""``hbm evaluate``: compare a model's galaxies with held-out ones."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from hbm.cli.console import plain_errors, progress_bar, stdout


def evaluate(
    model: Annotated[str, typer.Argument(help="Shipped model by name, or a file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for numbers and figures.")] = Path(
        "evaluation"
    ),
    n: Annotated[int, typer.Option("-n", help="Galaxies drawn and compared.", min=20)] = 400,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 3,
    config: Annotated[
        str | None,
        typer.Option(help="Configuration whose data are the reference; the model's own if not set."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure how good a model is, against images that training never saw.

    `hbm evaluate sdss-griz --out evaluation`

    Writes `evaluation.json` and figures: drawn and held-out galaxies, histograms of morphology (statmorph),
    Wasserstein distances in bins of each property, the denoising loss at each noise level. Prints the
    distances with what chance alone gives, the information gain with the coverage of its intervals, and
    whether training images are repeated.
    """
    with plain_errors():
        from generative.commands import evaluate_model

        with progress_bar("opening the data") as report:
            result = evaluate_model(model, out, n=n, seed=seed, config=config, device=device, progress=report)
    _show(result, out)


def _show(result: dict[str, Any], out: Path) -> None:
    console = stdout()
    table = Table("statistic", "distance", "chance", "95 % of chance", box=None)
    for d in result["distances"]:
        if d["where"] == "all":
            table.add_row(
                d["statistic"], f"{d['wasserstein']:.3f}", f"{d['floor']:.3f}", f"{d['floor_95']:.3f}"
            )
    console.print("Wasserstein distance of drawn from held-out images, in standard deviations")
    console.print(table)
    for key, label in (("information", "information gain"), ("information_before_refit", "before the refit")):
        info = result.get(key)
        if info:
            cover = ", ".join(f"{p} {c:.0%}" for p, c in info["cover_68"].items())
            console.print(
                f"{label}: {info['gain']:.2f} ± {info['error']:.2f} nats; 68 % intervals cover {cover}"
            )
    memory = result["memorisation"]
    console.print(
        f"nearest of {memory['of']} training images: {memory['generated']:.2f} from drawn, "
        f"{memory['held_out']:.2f} from "
        f"held-out ones; "
        f"{memory['closer']:.1%} of the drawn ones are nearer than 99 % of the held-out ones"
    )
    console.print(f"Numbers and figures in [bold]{escape(str(out))}[/]")
