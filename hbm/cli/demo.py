"""``hbm demo``: a first fit, of a simulated galaxy with an image, or of a real one."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, progress_bar, stderr, stdout
from hbm.cli.demo_joint import joint_demo
from hbm.cli.figures import save_figures
from hbm.cli.programs import keep_programs

if TYPE_CHECKING:
    from rich.console import Console

    from hbm.demo import DemoGalaxy
    from hbm.results import FitResult


class Lengths(NamedTuple):
    """Lengths of the chains."""

    chains: int
    """Chains."""
    warmup: int
    """Steps that tune the sampler."""
    draws: int
    """Draws kept per chain."""


FULL = Lengths(chains=4, warmup=150, draws=600)
"""The defaults of ``hbm fit``."""

QUICK = Lengths(chains=4, warmup=100, draws=150)
"""Long enough to look around."""

SHOWN = (
    *("logmstar", "logsfr_100", "logssfr", "mwa", "logzsol"),
    *("dust2", "dust_index", "av", "gas_logu", "uv", "vj"),
)
"""Rows of the table, where the posterior has them."""


def demo(
    outdir: Annotated[
        Path, typer.Option("--out", "-o", "--outdir", help="Folder for the result and its figures.")
    ] = Path("hbm_demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Short chains: a first look, not a result.")] = False,
    real: Annotated[
        bool, typer.Option("--real", help="The real galaxy, which has photometry alone.")
    ] = False,
) -> None:
    """Fit one galaxy and explain the result.

    A simulated galaxy, by its five fluxes alone and together with its image: what does the image add?
    With --real a star-forming galaxy of the 3D-HST survey at a spectroscopic redshift of 0.74, with published
    fluxes in 33 bands from the ultraviolet to 8 µm. The next demo in that folder replaces what it writes.

    **Examples**

    `hbm demo`

    `hbm demo --real --quick --out /tmp/demo`
    """
    with plain_errors():
        keep_programs()
        if not real:
            _use_two_cores()
        from hbm.demo import load_demo
        from hbm.fitting import fit
        from hbm.results import result_path, write_table
        from hbm.sampler import SamplerConfig

        lengths = QUICK if quick else FULL
        sampler = SamplerConfig(n_chain=lengths.chains, n_warmup=lengths.warmup, n_draw=lengths.draws)
        if not real:
            joint_demo(outdir, sampler, max_rerun=0 if quick else 3)
            return
        galaxy = load_demo()
        name = galaxy.catalog.id[0]
        console = stdout()
        console.print(
            f"[bold]{escape(name)}[/], z = {galaxy.catalog.zred[0]:g}, {galaxy.catalog.flux.shape[1]} bands. "
            "Photometry: 3D-HST (Skelton et al. 2014; Momcheva et al. 2016)."
        )
        with progress_bar(f"fitting {name}") as progress:
            result = fit(
                galaxy.catalog,
                sampler=sampler,
                outdir=outdir,
                overwrite=True,
                progress=progress,
                max_rerun=0 if quick else 3,
            )[0]
        table = write_table(galaxy.catalog.to_table(), outdir / "catalog.ecsv", overwrite=True)
        path = result_path(outdir, name)
        with stderr().status("drawing"):
            figures = save_figures(result, path.with_suffix(""))
        _show_posterior(console, result, galaxy)
        _show_verdict(console, result, quick=quick)
        for figure in figures.paths:
            console.print(f"Figure: {escape(str(figure))}", soft_wrap=True)
        for note in figures.notes:
            stderr().print(f"[yellow]Note:[/] {escape(note)}", soft_wrap=True)
        console.print(f"Result: {escape(str(path))}", soft_wrap=True)
        _show_next(console, table, path)


def _use_two_cores() -> None:
    """A core for each of the two fits, if there are two and JAX has not begun."""
    from hbm.devices import use_cpu_cores

    if (os.cpu_count() or 1) > 1:
        with contextlib.suppress(RuntimeError):
            use_cpu_cores(2)


def _show_posterior(console: "Console", result: "FitResult", galaxy: "DemoGalaxy") -> None:
    """Print medians and 68 % ranges, beside published values."""
    import numpy as np
    from rich.table import Table

    from hbm.labels import label_of

    published = {
        "logmstar": f"{galaxy.logmstar_fast:.2f} (FAST)",
        "logsfr_100": f"{np.log10(galaxy.sfr_uvir):.2f} (UV + IR)",
        "av": f"{galaxy.av_fast:.1f} (FAST)",
    }
    table = Table(title="Posterior", title_justify="left")
    headings = ["parameter", "median", "68 %", "unit", "published"]
    if console.width >= 110:  # in a narrow terminal the meaning would take most of the lines
        headings.append("meaning")
    for heading in headings:
        is_number = heading in ("median", "68 %")
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=heading != "meaning")
    for name in SHOWN:
        if name in result.components:
            low, median, high = np.quantile(result.draws(name), (0.16, 0.5, 0.84))
            label = label_of(name)
            row = (name, f"{median:.2f}", f"{low:.2f} to {high:.2f}", label.unit, published.get(name, ""))
            table.add_row(*(escape(text) for text in (*row, label.description)[: len(headings)]))
    console.print(table)
    console.print(
        "Published values rest on other models and data: agreement within 0.3 dex is what one expects.",
        style="dim",
    )


def _show_verdict(console: "Console", result: "FitResult", *, quick: bool) -> None:
    """Print whether the chains converged, and what that means."""
    verdict = result.convergence
    numbers = (
        f"largest R-hat {verdict.rhat_max:.3f}, smallest effective sample size "
        f"{min(verdict.ess_bulk_min, verdict.ess_tail_min):.0f}, {verdict.n_divergent} divergences"
    )
    if verdict.converged:
        console.print(f"[bold green]Converged[/]: {numbers}.")
        return
    console.print(f"[bold yellow]Not converged[/]: {escape(verdict.reason)} ({numbers}).", soft_wrap=True)
    if quick:
        console.print("That is what --quick costs. Without it the chains are long enough to be used.")


def _show_next(console: "Console", table: Path, path: Path) -> None:
    """Print what to do next."""
    from rich.panel import Panel
    from rich.table import Table

    steps = Table.grid(padding=(0, 2))
    steps.add_column(style="cyan", overflow="fold")
    steps.add_column()
    steps.add_row(f"hbm plot {escape(str(path))} --kind sed --format pdf", "draw a figure anew")
    steps.add_row(
        f"hbm fit {escape(str(table))} --out results", "fit a table: this one shows how yours may look"
    )
    steps.add_row("hbm fit my.fits --columns my.toml", "or say in a small file which of your columns is what")
    steps.add_row("hbm prior", "see what was assumed before the data")
    steps.add_row(
        f"hbm.results.load_result({str(path)!r}).posterior", "the draws in Python, as an xarray data set"
    )
    console.print(Panel(steps, title="next", title_align="left"))
