"""What a posterior says of the redshift: density, modes with weights, a table of many galaxies."""

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from astropy.table import Column, Table
from jaxtyping import Float

from hbm.results import FitResult

_BIN = 0.01
_VALLEY = 0.5
"""Two peaks are two modes where the density between them is below this part of the lower one."""
_LEAST = 0.01
"""Weight below which a mode is not listed."""
_CLEAR = 2.0
"""Peaks must be so many standard deviations above the valley between them."""


class Mode(NamedTuple):
    """One mode of the redshift."""

    zred: float
    """Median of the draws in it."""
    weight: float
    """Probability that the redshift is in it."""
    low: float
    """Its lower end."""
    high: float
    """Its upper end."""


class RedshiftSummary(NamedTuple):
    """Posterior of the redshift of one galaxy."""

    median: float
    q16: float
    q84: float
    modes: tuple[Mode, ...]
    """The heaviest first; those below 1 % of the draws are left out."""
    zred: Float[np.ndarray, " bin"]
    """Centres of bins of equal width in ln(1 + z)."""
    density: Float[np.ndarray, " bin"]
    """Probability density per unit redshift in the bins; its sum times their width is 1."""
    edges: Float[np.ndarray, " edge"]
    """Ends of the bins."""


def redshift_summary(result: FitResult, *, width: float = _BIN) -> RedshiftSummary:
    """Median, 68 % interval, density and modes of a galaxy's redshift.

    Parameters
    ----------
    result
        Of `hbm.photoz`, or of any fit with a free redshift.
    width
        Of the bins, in ln(1 + z).

    Raises
    ------
    ValueError
        If the redshift was not free, or ``width`` is not positive.
    """
    if "zred" not in result.posterior:
        raise ValueError(f"`result` of {result.galaxy_id} must have a free redshift, but it was fixed.")
    if not width > 0:
        raise ValueError(f"`width` must be > 0, got {width}.")
    zred = result.draws("zred").ravel()
    edges, count = _histogram(zred, width)
    density = count / (len(zred) * np.diff(edges))
    q16, median, q84 = (float(q) for q in np.quantile(zred, [0.16, 0.5, 0.84]))
    centre = np.sqrt((1 + edges[1:]) * (1 + edges[:-1])) - 1
    modes = modes_of(zred, result.convergence.ess_bulk_min, width=width)
    return RedshiftSummary(median, q16, q84, modes, centre, density, edges)


def modes_of(zred: Float[np.ndarray, " draw"], effective: float, *, width: float = _BIN) -> tuple[Mode, ...]:
    """Modes of draws of a redshift, the heaviest first.

    Parameters
    ----------
    zred
        Draws of equal weight.
    effective
        How many independent ones they are worth.
    width
        Of bins in ln(1 + z); modes that are nearer than some of them are not told apart.
    """
    edges, count = _histogram(zred, width)
    repeats = max(1.0, len(zred) / effective) if effective > 0 else 1.0
    bounds = np.concatenate([[edges[0]], edges[_valleys(count, repeats)], [edges[-1]]])
    modes = []
    for first, last in itertools.pairwise(bounds):
        mine = zred[(zred >= first) & (zred < last)]
        if len(mine) >= _LEAST * len(zred):
            modes.append(
                Mode(float(np.median(mine)), len(mine) / len(zred), float(mine.min()), float(mine.max()))
            )
    return tuple(sorted(modes, key=lambda mode: -mode.weight))


def _histogram(zred: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges of bins of equal width in ln(1 + z), and how many draws each has."""
    low, high = np.floor(np.log1p(zred.min()) / width) - 2, np.ceil(np.log1p(zred.max()) / width) + 2
    edges = np.expm1(np.arange(low, high + 1) * width)
    return edges, np.histogram(zred, edges)[0]


def _valleys(count: np.ndarray, repeats: float) -> list[int]:
    """Bins at which modes end, from counts: noise of few draws makes no modes.

    Each draw is there ``repeats`` times, so that a count n has a variance of n times that.
    """
    smooth = np.convolve(count, [0.25, 0.5, 0.25], mode="same")

    def is_clear(peak: float, valley: float) -> bool:
        return bool(peak - valley > _CLEAR * math.sqrt(repeats * max(peak + valley, repeats)))

    cuts: list[int] = []
    top, valley, at = 0.0, np.inf, 0
    for i, value in enumerate(smooth):
        if value < valley:
            valley, at = value, i
        if valley < _VALLEY * min(top, value) and is_clear(value, valley) and is_clear(top, valley):
            cuts.append(at)
            top = valley = value
        elif value >= top:
            top = valley = value
    return cuts


def photoz_table(results: Iterable[FitResult]) -> Table:
    """One row per galaxy: quantiles of the redshift, its two heaviest modes, and the verdict.

    Raises
    ------
    ValueError
        If there is no result, or one with a fixed redshift.
    """
    rows = list(results)
    if not rows:
        raise ValueError("`results` must hold at least one result, got none.")
    found = [redshift_summary(row) for row in rows]
    nothing = Mode(np.nan, 0.0, np.nan, np.nan)
    two = [(*each.modes, nothing, nothing)[:2] for each in found]
    table = Table()
    table["id"] = Column([row.galaxy_id for row in rows], description="identifier in the catalogue")
    for name, text in (("median", "median"), ("q16", "16 % quantile"), ("q84", "84 % quantile")):
        column = "zred_q50" if name == "median" else f"zred_{name}"
        table[column] = Column([getattr(each, name) for each in found], description=f"redshift, {text}")
    table["n_mode"] = Column([len(each.modes) for each in found], description="modes of 1 % or more")
    for i in (0, 1):
        table[f"mode{i + 1}"] = Column([pair[i].zred for pair in two], description="redshift of a mode")
        table[f"weight{i + 1}"] = Column([pair[i].weight for pair in two], description="its probability")
    table["ess"] = Column([row.convergence.ess_bulk_min for row in rows], description="effective draws")
    table["flag"] = Column([row.flag for row in rows], description="ok, or what is wrong")
    return table
