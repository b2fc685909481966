"""Posteriors from different data in chosen planes of parameters: contours of weighted draws."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from scipy.ndimage import gaussian_filter

from hbm.labels import axis_label
from hbm.plots.style import TRUTH

COLOURS = {"image": "#e69f00", "photometry": "#3a8f5c", "both": "#1f6f9f"}
"""What a posterior is from."""

LEVELS = (0.95, 0.68)
"""Parts of the draws that contours hold."""

_N_CELL = 90


class PlaneDraws(NamedTuple):
    """Weighted draws of one posterior."""

    values: dict[str, Float[np.ndarray, " draw"]]
    """By parameter."""
    weight: Float[np.ndarray, " draw"]
    """Need not add up to 1."""


def contour_levels(density: Float[np.ndarray, "y x"], parts: Sequence[float]) -> list[float]:
    """Densities at whose contours the given parts lie inside, rising; parts must fall."""
    flat = np.sort(density.ravel())[::-1]
    cumulative = np.cumsum(flat) / flat.sum()
    found = [float(flat[min(int(np.searchsorted(cumulative, part)), len(flat) - 1)]) for part in parts]
    return list(np.maximum.accumulate(np.asarray(found) + np.arange(len(found)) * 1e-12 * flat[0]))


def draw_plane(
    axes: Axes,
    draws: PlaneDraws,
    plane: tuple[str, str],
    limits: tuple[tuple[float, float], tuple[float, float]],
    *,
    colour: str,
    filled: bool = False,
    smooth: float | None = None,
) -> None:
    """Contours of 68 and 95 % of the draws.

    Parameters
    ----------
    axes
        To draw on.
    draws
        Posterior.
    plane
        Parameters on the horizontal and vertical axis.
    limits
        Of both axes. Draws beyond are left out; where a limit is a bound of the prior, density ends there.
    colour
        Of the contours.
    filled
        Fill them.
    smooth
        Width of the smoothing kernel over the posterior's; by default Scott's rule for the effective number
        of draws, n^(-1/6).
    """
    x, y = (np.asarray(draws.values[name], np.float64) for name in plane)
    weight = draws.weight / draws.weight.sum()
    edges = [np.linspace(low, high, _N_CELL + 1) for low, high in limits]
    counts, _, _ = np.histogram2d(x, y, bins=edges, weights=weight)
    factor = float(np.sum(weight**2)) ** (1 / 6) if smooth is None else smooth
    width = []
    for values, edge in zip((x, y), edges, strict=True):
        mean = np.sum(weight * values)
        spread = float(np.sqrt(np.sum(weight * (values - mean) ** 2)))
        width.append(max(0.7 * factor * spread / (edge[1] - edge[0]), 0.7))
    density = gaussian_filter(counts, width, mode="reflect").T
    # A frame of empty cells, so that filled contours close at the bounds.
    density = np.pad(density, 1)
    middle = []
    for edge in edges:
        centres = 0.5 * (edge[1:] + edge[:-1])
        middle.append(np.concatenate([[edge[0]], centres, [edge[-1]]]))
    levels = contour_levels(density, LEVELS)
    if filled:
        shades = [to_rgba(colour, 0.22), to_rgba(colour, 0.50)]
        axes.contourf(*middle, density, levels=[*levels, density.max() * 1.001], colors=shades)
    axes.contour(*middle, density, levels=levels, colors=[colour], linewidths=[1.0, 1.7])


def frame_plane(
    axes: Axes,
    plane: tuple[str, str],
    limits: tuple[tuple[float, float], tuple[float, float]],
    truth: dict[str, float],
) -> None:
    """Labels, limits, and the true values as a cross."""
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    axes.set_xlabel(axis_label(plane[0]))
    axes.set_ylabel(axis_label(plane[1]))
    x, y = (truth[name] for name in plane)
    axes.axvline(x, color=TRUTH, linewidth=0.7, alpha=0.7)
    axes.axhline(y, color=TRUTH, linewidth=0.7, alpha=0.7)
    axes.plot([x], [y], marker="s", color=TRUTH, markersize=5, markeredgecolor="white", zorder=9)
