"""The default of ``hbm demo``: one galaxy by its photometry, and by photometry and image."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from hbm.cli.console import progress_bar, stderr, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from hbm.demo import JointDemo
    from hbm.results import FitResult
    from hbm.sampler import SamplerConfig

TITLES = {"photometry": "photometry alone", "both": "photometry and image"}


def joint_demo(outdir: Path, sampler: "SamplerConfig", *, max_rerun: int) -> None:
    """Fit the simulated galaxy twice, side by side, and show what the image adds."""
    from hbm.demo import load_joint_demo
    from hbm.fitting import fit
    from hbm.results import result_path

    demo = load_joint_demo()
    console = stdout()
    n_band = demo.catalog.flux.shape[1]
    zred = demo.catalog.zred[0]
    console.print(
        f"A galaxy at z = {zred:.2f}: {n_band} fluxes, and an image. {escape(demo.note)}", soft_wrap=True
    )
    with progress_bar("fitting") as progress:
        found = fit(
            demo.catalog,
            sampler=sampler,
            outdir=outdir,
            overwrite=True,
            progress=progress,
            max_rerun=max_rerun,
        )
    results = {TITLES[one.galaxy_id]: one for one in found}
    _show_table(console, results, demo)
    for title, one in results.items():
        verdict = one.convergence
        state = "converged" if verdict.converged else f"[yellow]not converged[/]: {escape(verdict.reason)}"
        console.print(
            f"{title}: {state} (R-hat {verdict.rhat_max:.3f}, "
            f"effective sample size {verdict.ess_bulk_min:.0f})",
            soft_wrap=True,
        )
    figure = outdir / "demo_comparison.png"
    with stderr().status("drawing"):
        _draw(results, demo, figure)
    console.print(f"Figure: {escape(str(figure))}", soft_wrap=True)
    for one in found:
        console.print(f"Result: {escape(str(result_path(outdir, one.galaxy_id)))}", soft_wrap=True)
    console.print(
        "Next: [cyan]hbm demo --real[/] fits a real galaxy; [cyan]hbm compile --help[/] and [cyan]hbm fit "
        "--help[/] say how to bring your images."
    )


def _show_table(console: "Console", results: "dict[str, FitResult]", demo: "JointDemo") -> None:
    import numpy as np
    from rich.table import Table

    from hbm.labels import label_of

    table = Table(title="Posterior: median and 68 %", title_justify="left")
    table.add_column("parameter")
    for heading in ("truth", *results, "narrower by"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    for name, true in demo.truth.items():
        quantiles = [np.quantile(one.draws(name), (0.16, 0.5, 0.84)) for one in results.values()]
        cells = [f"{median:.2f} ({low:.2f} to {high:.2f})" for low, median, high in quantiles]
        width = [float(high - low) for low, _, high in quantiles]
        table.add_row(name, f"{true:.2f}", *cells, f"{width[0] / width[-1]:.1f}", escape(label_of(name).unit))
    console.print(table)


def _draw(results: "dict[str, FitResult]", demo: "JointDemo", path: Path) -> None:
    from hbm.plots import plot_comparison

    named = {title: one.renamed("demo") for title, one in results.items()}
    plot_comparison(named, truths=demo.truth, picture=demo.picture).savefig(path, dpi=110)
