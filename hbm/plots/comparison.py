"""Posteriors of one galaxy from different data, over each other: what photometry and image each know."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hbm.convergence import import_arviz
from hbm.labels import axis_label, label_of
from hbm.plots.style import INK, TRUTH, heading, style
from hbm.results import FitResult

PROPERTIES = ("logmass", "logssfr", "mwa", "logzsol", "dust2", "gas_logu")
"""What an image and photometry both depend on: shown by default."""

_COLOURS = ("#e69f00", "#3a8f5c", "#1f6f9f", "#b0568f")
_LEVELS = (1.0 - np.exp(-0.5), 1.0 - np.exp(-2.0))


def plot_comparison(
    results: Mapping[str, FitResult],
    params: Sequence[str] = PROPERTIES,
    truths: Mapping[str, float] | None = None,
    picture: Float[np.ndarray, "height width 3"] | None = None,
) -> Figure:
    """Corner plot of several posteriors of one galaxy.

    Parameters
    ----------
    results
        By what they are called in the legend, such as ``{"photometry": ..., "image": ..., "both": ...}``; the
        last one is filled.
    params
        Variables or components that all of them have.
    truths
        Known true values by name.
    picture
        The galaxy in colours on the scale (0, 1), drawn in the empty corner.

    Returns
    -------
    Figure
        Contours hold 39 and 86 % of the draws: one and two standard deviations of a Gaussian.

    Raises
    ------
    ValueError
        If there is no result or more than four, they are of different galaxies, or one lacks a parameter.
    """
    if not 1 <= len(results) <= len(_COLOURS):
        raise ValueError(f"`results` must be one to {len(_COLOURS)} posteriors, got {len(results)}.")
    names = {result.galaxy_id for result in results.values()}
    if len(names) != 1:
        raise ValueError(f"`results` must be of one galaxy, got {', '.join(sorted(names))}.")
    for title, result in results.items():
        missing = [name for name in params if name not in result.components]
        if missing:
            raise ValueError(f"`params` must be in every posterior, but {title!r} has no {missing[0]!r}.")
    import_arviz()  # corner imports it: let that be quiet
    import corner

    columns = {title: np.column_stack([r.draws(n).ravel() for n in params]) for title, r in results.items()}
    every = np.concatenate(list(columns.values()))
    low, high = np.quantile(every, [0.001, 0.999], axis=0)
    if truths is not None:
        known = np.array([truths.get(name, np.nan) for name in params], float)
        low, high = np.fmin(low, known), np.fmax(high, known)
    margin = 0.03 * (high - low) + 1e-6
    colours = _COLOURS[-len(results) - 1 : -1] if len(results) < len(_COLOURS) else _COLOURS
    with style():
        size = 1.2 + 1.75 * len(params)
        figure = Figure(figsize=(size, size))
        for position, values in enumerate(columns.values()):
            last = position == len(columns) - 1
            corner.corner(
                values,
                fig=figure,
                labels=[axis_label(name) for name in params],
                titles=[label_of(name).symbol for name in params],
                range=list(zip(low - margin, high + margin, strict=True)),
                color=colours[position],
                bins=40,
                smooth=1.2,
                smooth1d=1.0,
                levels=_LEVELS,
                plot_datapoints=False,
                plot_density=False,
                no_fill_contours=True,
                fill_contours=last,
                contour_kwargs={"linewidths": 1.3},
                hist_kwargs={"linewidth": 1.5},
                weights=np.full(len(values), 1 / len(values)),
                label_kwargs={"fontsize": 14},
                max_n_ticks=4,
                labelpad=0.03,
            )
        if truths is not None:
            corner.overplot_lines(figure, [truths.get(n) for n in params], color=TRUTH, linewidth=1.0)
        # Each histogram was drawn to the top of its own scale; the labels on the left are no probabilities.
        n = len(params)
        for axis in figure.axes[: n * n : n + 1]:
            tops = [float(np.max(np.asarray(line.get_ydata()))) for line in axis.get_lines()]
            axis.set_ylim(0, 1.15 * max(top for top in tops if top < 1))  # lines of truths go to 1
        handles = [Line2D([], [], color=c, linewidth=2) for c in colours[: len(columns)]]
        titles = list(columns)
        if truths is not None:
            handles.append(Line2D([], [], color=TRUTH))
            titles.append("truth")
        figure.legend(handles, titles, loc="upper right", bbox_to_anchor=(0.96, 0.96), fontsize=16)
        if picture is not None and n > 2:
            side = (n // 2) / n * 0.5
            axis = figure.add_axes((0.96 - side, 0.82 - side, side, side))
            axis.imshow(picture, origin="lower", interpolation="nearest")
            axis.set_axis_off()
        text = heading(list(results.values())[-1], ", ")
        figure.text(0.96, 0.98, text, ha="right", va="bottom", fontsize=15, color=INK)
    return figure
