"""Posterior of a redshift that was not known."""

import numpy as np
from matplotlib.figure import Figure

from hbm.plots.style import INK, MODEL, TRUTH, heading, style
from hbm.redshifts.summary import Mode, redshift_summary
from hbm.results import FitResult


def plot_redshift(result: FitResult, truth: float | None = None) -> Figure:
    """Density of the redshift, with the median and probability of each mode and the central 68 %.

    Parameters
    ----------
    result
        With a free redshift.
    truth
        Known redshift, drawn if given.

    Raises
    ------
    ValueError
        If the redshift was fixed.
    """
    modes = redshift_summary(result).modes
    found = redshift_summary(result, width=_width(result, modes))
    top = float(found.density.max())
    with style():
        figure = Figure(figsize=(7.0, 3.8), layout="constrained")
        axes = figure.subplots()
        axes.stairs(found.density, found.edges, fill=True, color=MODEL, alpha=0.25, linewidth=0)
        axes.stairs(found.density, found.edges, baseline=None, color=MODEL, linewidth=1.6)
        axes.errorbar(
            [found.median], [1.12 * top],
            xerr=[[found.median - found.q16], [found.q84 - found.median]],
            fmt="o", color=INK, markersize=4, linewidth=1.2, capsize=2.5, label="median and 68 %",
        )  # fmt: skip
        if len(modes) > 1:
            for mode in modes:
                inside = (found.zred >= mode.low) & (found.zred <= mode.high)
                height = float(found.density[inside].max()) if inside.any() else 0.0
                axes.annotate(
                    f"{mode.weight:.0%} at {mode.zred:.2f}", (mode.zred, height), (0, 4),
                    textcoords="offset points", ha="center", fontsize=10,
                )  # fmt: skip
        if truth is not None:
            axes.axvline(truth, color=TRUTH, linewidth=1.4, label=f"known: {truth:.3f}")
        span = float(found.edges[-1] - found.edges[0])
        axes.set_xlim(max(0.0, found.edges[0] - 0.05 * span), found.edges[-1] + 0.05 * span)
        axes.set_ylim(0.0, 1.5 * top)
        axes.set_xlabel("Redshift")
        axes.set_ylabel("Probability density")
        axes.tick_params(which="both", right=True, top=True)
        axes.set_title(heading(result, ", "), loc="left", fontsize=12)
        axes.legend(loc="upper right", fontsize=10)
    return figure


def _width(result: FitResult, modes: tuple[Mode, ...]) -> float:
    """Width of bins in ln(1 + z) by the rule of Freedman & Diaconis (1981), for the narrowest mode."""
    zred = result.draws("zred")
    least = np.inf
    for mode in modes:
        place = np.log1p(zred[(zred >= mode.low) & (zred <= mode.high)])
        low, high = np.quantile(place, (0.25, 0.75))
        effective = max(mode.weight * result.convergence.ess_bulk_min, 10.0)
        least = min(least, 2 * (high - low) / effective ** (1 / 3))
    return float(max(least, 1e-3))


def has_free_redshift(result: FitResult) -> bool:
    """Whether there is anything to draw."""
    return "zred" in result.posterior and float(np.ptp(result.draws("zred"))) > 0
