"""``hbm grid``: build and inspect grids of stellar populations."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, stderr, stdout

if TYPE_CHECKING:
    from sed.ssp import SSPGrid

grid_app = typer.Typer(
    help="Build and inspect grids of stellar populations.", no_args_is_help=True, rich_markup_mode="markdown"
)


class Imf(StrEnum):
    """Initial mass function."""

    chabrier = "chabrier"
    kroupa = "kroupa"
    salpeter = "salpeter"


FSPS_IMF_TYPE = {Imf.salpeter: 0, Imf.chabrier: 1, Imf.kroupa: 2}
"""Numbers of FSPS (its parameter ``imf_type``)."""


@grid_app.command()
def build(
    out: Annotated[Path, typer.Argument(help="File to write, such as my_grid.h5.", show_default=False)],
    imf: Annotated[Imf, typer.Option(help="Initial mass function.")] = Imf.chabrier,
    note: Annotated[
        list[str] | None, typer.Option(help="Sentence kept in the file; may be repeated.", show_default=False)
    ] = None,
    nebular: Annotated[bool, typer.Option(help="Emission of ionized gas.")] = True,
    dust_emission: Annotated[bool, typer.Option(help="Infrared emission of dust.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Make a grid by running your own FSPS; this takes some minutes.

    Needs python-fsps (`pip install "galaxy-hbm[fsps]"`) and `SPS_HOME`, the folder of the FSPS data.
    Isochrones and stellar spectra are those that python-fsps was compiled with.

    **Examples**

    `hbm grid build my_grid.h5`

    `hbm grid build kroupa.h5 --imf kroupa --no-dust-emission --note "for comparison"`

    `hbm fit galaxies.ecsv --grid my_grid.h5` fits with it.
    """
    with plain_errors():
        if out.exists() and not overwrite:  # now, not after minutes of work
            raise FileExistsError(f"`out` {out} exists. Choose another name or give `--overwrite`.")
        if not out.absolute().parent.is_dir():
            raise FileNotFoundError(f"`out` must be in a folder that exists, got {out}.")

        from sed.build import build_grid
        from sed.io import save_grid

        with stderr().status("starting FSPS") as status:
            grid = build_grid(
                imf_type=FSPS_IMF_TYPE[imf],
                nebular=nebular,
                dust_emission=dust_emission,
                notes=tuple(note or ()),
                report=lambda message: status.update(escape(message)),
            )
        save_grid(grid, out, overwrite=overwrite)
        _show(grid, out)


@grid_app.command()
def info(
    file: Annotated[
        Path | None, typer.Argument(help="A grid of ours or of DSPS.", show_default="the shipped grid")
    ] = None,
) -> None:
    """Tell what is in a grid, where it comes from, and what it lacks.

    **Examples**

    `hbm grid info`

    `hbm grid info my_grid.h5`
    """
    with plain_errors():
        from sed.io import default_grid_path, load_grid

        path = default_grid_path() if file is None else file
        _show(load_grid(path), path)


def _show(grid: "SSPGrid", path: Path) -> None:
    """Print what is in the grid, what it lacks, and its provenance."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table

    content = Table.grid(padding=(0, 2))
    content.add_column(no_wrap=True, style="bold")
    content.add_column()
    for name, value in _content(grid).items():
        content.add_row(name, escape(value))
    origin = Table.grid(padding=(0, 2))
    origin.add_column(no_wrap=True, style="bold")
    origin.add_column(overflow="fold")
    for key, fact in grid.provenance.items():
        if key != "notes" and fact not in ("", [], {}):
            origin.add_row(escape(key.replace("_", " ")), escape(_plain(fact)))
    sentences = grid.provenance.get("notes")
    for sentence in sentences if isinstance(sentences, list) else []:
        origin.add_row("note", escape(str(sentence)))
    lacking = [f"[yellow]•[/] {text}" for text in _lacking(grid)] or ["[green]nothing[/]"]
    console = stdout()
    console.print(f"[bold]{escape(str(path))}[/]", soft_wrap=True)
    console.print(Panel(content, title="content", title_align="left"))
    console.print(Panel(Group(*lacking), title="lacking", title_align="left"))
    console.print(Panel(origin, title="provenance", title_align="left"))


def _content(grid: "SSPGrid") -> dict[str, str]:
    """Sizes and ranges in words."""
    n_met, n_age, n_wave = grid.flux.shape
    ages = 10.0 ** (grid.log_age - 6)
    rows = {
        "wavelength": f"{n_wave} from {grid.wave[0]:.4g} Å to {grid.wave[-1] / 1e4:.4g} µm, vacuum",
        "age": f"{n_age} from {ages[0]:.3g} Myr to {ages[-1] / 1e3:.3g} Gyr",
        "metallicity": f"{n_met} from {grid.logzsol[0]:+.2f} to {grid.logzsol[-1]:+.2f}, log10 solar",
        "surviving mass": "yes" if grid.mstar is not None else "no",
        "nebular lines": "no",
        "nebular continuum": "no",
        "dust emission": "no",
    }
    if grid.nebular is not None:
        neb = grid.nebular
        rows["nebular lines"] = (
            f"{len(neb.line_wave)}; {len(neb.gas_logz)} gas metallicities from {neb.gas_logz[0]:+.2f} to "
            f"{neb.gas_logz[-1]:+.2f}, {len(neb.gas_logu)} log U from {neb.gas_logu[0]:.1f} to "
            f"{neb.gas_logu[-1]:.1f}, up to {ages[neb.n_age - 1]:.3g} Myr"
        )
        rows["nebular continuum"] = "yes" if neb.continuum is not None else "no"
    if grid.dust_emission is not None:
        dust = grid.dust_emission
        rows["dust emission"] = (
            f"{len(dust.qpah)} PAH fractions from {dust.qpah[0]:g} to {dust.qpah[-1]:g} %, {len(dust.umin)} "
            f"minimum radiation fields from {dust.umin[0]:g} to {dust.umin[-1]:g}"
        )
    return rows


def _lacking(grid: "SSPGrid") -> list[str]:
    """Tell what a fit with this grid goes without, in sentences."""
    missing = []
    if grid.nebular is None:
        missing.append("Emission of ionized gas: young galaxies have neither lines nor nebular continuum.")
    elif grid.nebular.continuum is None:
        missing.append(
            "Nebular continuum (lines are there): the light of stars younger than about 10 Myr is too faint "
            "and too blue."
        )
    if grid.dust_emission is None:
        missing.append("Dust emission: do not fit bands redward of about 3 µm in the rest frame.")
    if grid.mstar is None:
        missing.append("Surviving mass: only the mass formed can be given.")
    return missing


def _plain(value: object) -> str:
    """Provenance as text: lists by commas, booleans as yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} = {part}" for key, part in value.items())
    return f"{value:.5g}" if isinstance(value, float) else str(value)
