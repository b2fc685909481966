"""Figures of a calibration report."""

import base64
import io
from collections.abc import Mapping

import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from hbm.calibration.coverage import GOAL, Coverage
from hbm.calibration.fits import Use
from hbm.convergence import import_arviz
from hbm.labels import label_of
from hbm.plots.style import INK, style

COLOURS: dict[Use, str] = {"photometry": "#3a8f5c", "image": "#e69f00", "joint": "#1f6f9f"}
"""As in figures of joint fits."""

TITLES: dict[Use, str] = {
    "photometry": "photometry alone", "image": "image alone", "joint": "photometry and image",
}  # fmt: skip


def coverage_figure(coverage: Mapping[Use, Coverage]) -> Figure:
    """TARP's expected coverage minus credibility, with what chance gives and the goal."""
    with style():
        figure = Figure(figsize=(4.1 * len(coverage), 3.6), layout="constrained")
        axes = figure.subplots(1, len(coverage), sharey=True, squeeze=False)[0]
        for axis, (use, found) in zip(axes, coverage.items(), strict=True):
            level = np.linspace(0, 1, len(found.tarp))
            axis.axhspan(-found.chance_95, found.chance_95, color="0.9", lw=0)
            for goal in (-GOAL, GOAL):
                axis.axhline(goal, color=INK, lw=0.8, ls=":")
            axis.axhline(0, color=INK, lw=0.8)
            axis.plot(level, found.tarp - level, color=COLOURS[use], lw=2)
            axis.set_title(f"{TITLES[use]}: {found.deviation:.3f}")
            axis.set_xlabel("credibility")
            axis.set_xlim(0, 1)
        top = max(0.05, *(1.15 * max(found.deviation, found.chance_95) for found in coverage.values()))
        axes[0].set_ylim(-top, top)
        axes[0].set_ylabel("expected coverage $-$ credibility")
    return figure


def rank_figure(coverage: Mapping[Use, Coverage]) -> Figure:
    """Distribution function of the ranks of each quantity, minus the uniform one, with a 95 % band.

    The band holds the whole curve of exact posteriors in 95 of 100 cases (Saeilynoja et al. 2022, Stat.
    Comput. 32, 32; ArviZ's `plot_ecdf`).
    """
    az = import_arviz()
    names = list(next(iter(coverage.values())).quantities)
    n_column = 5
    n_row = -(-len(names) // n_column)
    points = np.linspace(0.02, 0.98, 49)
    with style():
        figure = Figure(figsize=(13.5, 2.6 * n_row), layout="constrained")
        axes = figure.subplots(n_row, n_column, sharex=True, sharey=True, squeeze=False).ravel()
        for axis, name in zip(axes, names, strict=False):
            for position, (use, found) in enumerate(coverage.items()):
                az.plot_ecdf(
                    found.quantities[name].fraction,
                    eval_points=points,
                    cdf=scipy.stats.uniform.cdf,
                    difference=True,
                    confidence_bands="simulated" if position == 0 else False,
                    ci_prob=0.95,
                    rvs=scipy.stats.uniform(0, 1).rvs,
                    random_state=0,
                    ax=axis,
                    plot_kwargs={"color": COLOURS[use], "label": TITLES[use], "lw": 1.6},
                    fill_kwargs={"color": "0.88", "alpha": 1.0, "zorder": 0},
                )
            axis.axhline(0, color=INK, lw=0.8)
            axis.set_title(label_of(name).symbol)
            axis.set_xlabel("")
            axis.set_ylabel("")
        for axis in axes[len(names) :]:
            axis.set_axis_off()
        figure.supxlabel("rank of the truth among posterior draws")
        figure.supylabel("distribution function $-$ uniform")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(coverage))
    return figure


def as_data(figure: Figure) -> str:
    """The figure as a data URI of a PNG, for an HTML page that needs no other file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")
