"""Figures of results as files: what ``fit --plots``, ``plot`` and ``demo`` share."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hbm.plots import SpectrumBand
    from hbm.results import FitResult
    from sed.ssp import SSPGrid


class Kind(StrEnum):
    """Which figure."""

    corner = "corner"
    sed = "sed"
    sfh = "sfh"
    redshift = "redshift"
    all = "all"


class Format(StrEnum):
    """File format of figures."""

    png = "png"
    pdf = "pdf"


class Figures(NamedTuple):
    """What `save_figures` did."""

    paths: list[Path]
    """Files written."""
    notes: list[str]
    """What could not be drawn, and why."""


def save_figures(
    result: "FitResult",
    stem: Path,
    *,
    kind: Kind = Kind.all,
    file_format: Format = Format.png,
    grid: "SSPGrid | None" = None,
    spectrum: bool = True,
) -> Figures:
    """Save figures of one result as ``<stem>_<kind>.<format>``; existing ones are replaced.

    Parameters
    ----------
    result
        Result of one galaxy.
    stem
        Folder and beginning of the names.
    kind, file_format
        Which figures, and as what.
    grid
        Grid for the spectrum in the figure of the SED; the shipped one by default.
    spectrum
        Whether to draw the spectrum behind the photometry.

    Raises
    ------
    ValueError
        If the one figure asked for cannot be drawn. Of ``Kind.all``, a figure that cannot is left out.
    """
    from hbm.plots import plot_corner, plot_redshift, plot_sed, plot_sfh
    from hbm.plots.redshift import has_free_redshift

    notes: list[str] = []
    paths: list[Path] = []
    stem.parent.mkdir(parents=True, exist_ok=True)
    for each in (Kind.corner, Kind.sed, Kind.sfh, Kind.redshift):
        if kind not in (each, Kind.all):
            continue
        if each is Kind.redshift and kind is Kind.all and not has_free_redshift(result):
            continue
        try:
            if each is Kind.corner:
                figure = plot_corner(result)
            elif each is Kind.sed:
                figure = plot_sed(result, _spectrum(result, grid, notes) if spectrum else None)
            elif each is Kind.sfh:
                figure = plot_sfh(result)
            else:
                figure = plot_redshift(result)
        except ValueError as error:
            if kind is not Kind.all:
                raise
            notes.append(f"no {each.value} figure of {result.galaxy_id}: {error}")
            continue
        path = stem.with_name(f"{stem.name}_{each.value}.{file_format.value}")
        figure.savefig(path, bbox_inches="tight")
        paths.append(path)
    return Figures(paths, notes)


def _spectrum(result: "FitResult", grid: "SSPGrid | None", notes: list[str]) -> "SpectrumBand | None":
    """Posterior spectrum, or None with a note where the grid is not there or another one."""
    from hbm.spectra import posterior_spectrum

    try:
        spectrum: SpectrumBand = posterior_spectrum(result, grid=grid)
    except (ValueError, FileNotFoundError) as error:
        notes.append(f"no spectrum in the SED of {result.galaxy_id}: {error}")
        return None
    return spectrum
