"""Corner plot: every parameter against every other."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from hbm.convergence import import_arviz
from hbm.labels import axis_label, label_of
from hbm.plots.style import INK, MODEL, TRUTH, heading, style
from hbm.results import FitResult

DEFAULT_PARAMS = (
    "zred",
    "logmass",
    "logmstar",
    "logssfr",
    "logsfr_100",
    "mwa",
    "logzsol",
    "dust2",
    "dust_index",
    "gas_logu",
)
"""Shown where the posterior has them; ``logmstar`` displaces ``logmass``, ``logssfr`` ``logsfr_100``."""

_SHADES = ("white", "#cfe1ee", "#86b4d2")  # outside, within two and within one standard deviation


def plot_corner(
    result: FitResult,
    params: Sequence[str] | None = None,
    truths: Mapping[str, float] | None = None,
) -> Figure:
    """Corner plot of a posterior.

    Parameters
    ----------
    result
        Result of one galaxy.
    params
        Variables or components, such as ``logsfr_ratios[0]``; by default those of ``DEFAULT_PARAMS`` in the
        posterior that vary.
    truths
        Known true values by name, drawn as lines; names that are not shown are ignored.

    Returns
    -------
    Figure
        Histograms are titled by median and 16 and 84 % quantiles; contours hold 39 and 86 % of the draws,
        one and two standard deviations of a Gaussian in two dimensions.

    Raises
    ------
    ValueError
        If a parameter is not a scalar of the posterior or does not vary, or there is none to show.
    """
    import_arviz()  # corner imports it: let that be quiet
    import corner

    names = _default_params(result) if params is None else list(params)
    if not names:
        raise ValueError(
            "`params` must name at least one parameter; none of the default ones is in the posterior."
        )
    columns = [_column(result, name) for name in names]
    true_values = [None if truths is None else truths.get(name) for name in names]
    with style():
        size = 1.2 + 1.75 * len(names)
        figure = Figure(figsize=(size, size))
        corner.corner(
            np.column_stack(columns),
            fig=figure,
            labels=[axis_label(name) for name in names],
            titles=[label_of(name).symbol for name in names],
            truths=true_values if any(value is not None for value in true_values) else None,
            truth_color=TRUTH,
            color=MODEL,
            bins=30,
            smooth=1.0,
            levels=(1.0 - np.exp(-0.5), 1.0 - np.exp(-2.0)),
            quantiles=(0.16, 0.5, 0.84),
            show_titles=True,
            title_fmt=".2f",
            title_kwargs={"fontsize": 12},
            label_kwargs={"fontsize": 14},
            plot_datapoints=False,
            fill_contours=True,
            contourf_kwargs={"colors": _SHADES},
            max_n_ticks=4,
            labelpad=0.03,
            hist_kwargs={"linewidth": 1.3},
        )
        if len(names) > 1:
            text = heading(result, "\n")
            figure.text(0.97, 0.97, text, ha="right", va="top", fontsize=15, color=INK, linespacing=1.4)
    return figure


def _default_params(result: FitResult) -> list[str]:
    """Default parameters that the posterior has and that vary, without near copies of each other."""
    names = [name for name in DEFAULT_PARAMS if name in result.components and np.ptp(result.draws(name)) > 0]
    for preferred, copy in (("logmstar", "logmass"), ("logssfr", "logsfr_100")):
        if preferred in names and copy in names:
            names.remove(copy)
    return names


def _column(result: FitResult, name: str) -> Float[np.ndarray, " sample"]:
    """Draws of one scalar, all chains together."""
    if name not in result.components:
        raise ValueError(
            f"`params` must be scalars of the posterior ({', '.join(result.components)}), got {name!r}."
        )
    values = result.draws(name).ravel()
    if not np.ptp(values) > 0:
        raise ValueError(
            f"`params` must vary to be drawn, but all draws of {name!r} are {values[0]:g}. Leave it out."
        )
    return values
