"""Star formation history: rate against lookback time."""

import numpy as np
from matplotlib.figure import Figure

from hbm.labels import LABELS
from hbm.plots.style import INK, MODEL, decades, heading, style
from hbm.results import FitResult

_SAME = 0.05
"""In ln(1 + z)."""


def plot_sfh(result: FitResult) -> Figure:
    """Star formation rate in each age bin: median (line), central 68 and 95 % (bands).

    The lookback time runs from the epoch of the galaxy, not from today. Its axis is logarithmic: recent
    bins are short. The first bin, which begins at zero, is cut at a third of its end. A diamond marks the
    mass-weighted age where the posterior has ``mwa``. Where the redshift was free, only draws within 5 % of
    1 + z of the result's redshift are shown: others have other bins.

    Parameters
    ----------
    result
        Result with ``sfr_bins``, Msun/yr, and ``agebins``.

    Raises
    ------
    ValueError
        If the result has no binned history, or its bins do not join.
    """
    constant = result.idata["constant_data"]
    if "agebins" not in constant or "sfr_bins" not in result.posterior:
        raise ValueError(
            "`result` must have `sfr_bins` in its posterior and `agebins` in its constant data: "
            "fit with a binned star formation history."
        )
    agebins = constant["agebins"].values
    if not np.allclose(agebins[1:, 0], agebins[:-1, 1]):
        raise ValueError(
            f"`agebins` must join, each bin beginning where the last one ends, got {agebins.tolist()}."
        )
    edges = 10.0 ** np.append(agebins[0, 0], agebins[:, 1]) / 1e9
    edges[0] = max(edges[0], edges[1] / 3.0)
    rate = result.draws("sfr_bins").reshape(-1, agebins.shape[0])[_same_ages(result)]
    low95, low68, median, high68, high95 = np.quantile(rate, (0.025, 0.16, 0.5, 0.84, 0.975), axis=0)
    # A rate that may be zero has no end on a logarithmic axis: it ends a little under the 16 % quantile.
    top = float(high95.max())
    floor = max(float(np.min(low68)) / 3.0, 1e-5 * top)
    with style():
        figure = Figure(figsize=(7.0, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        for low, high, alpha, label in ((low95, high95, 0.16, "95 %"), (low68, high68, 0.34, "68 %")):
            axes.stairs(
                np.maximum(high, floor),
                edges,
                baseline=np.maximum(low, floor),
                fill=True,
                color=MODEL,
                alpha=alpha,
                linewidth=0,
                label=label,
            )
        axes.stairs(
            np.maximum(median, floor), edges, baseline=None, color=MODEL, linewidth=2.0, label="median"
        )
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(floor, top * 3.0)
        if "mwa" in result.components:
            low, mid, high = np.quantile(result.draws("mwa").ravel()[_same_ages(result)], (0.16, 0.5, 0.84))
            axes.errorbar(
                [mid],
                [top * 1.7],
                xerr=[[mid - low], [high - mid]],
                fmt="D",
                color=INK,
                markersize=5,
                linewidth=1.2,
                label="mass-weighted age",
            )
        decades(axes, "x", n_decade_dense=3.0)
        decades(axes, "y", n_decade_dense=1.5)
        axes.set_xlabel(rf"Lookback time from $z = {result.zred:.3g}$ [Gyr]")
        axes.set_ylabel(f"Star formation rate [{LABELS['sfr_bins'].unit_text}]")
        axes.tick_params(which="both", right=True, top=True)
        axes.set_title(heading(result, ", "), loc="left", fontsize=12)
        axes.legend(loc="lower left", ncols=2)
    return figure


def _same_ages(result: FitResult) -> np.ndarray:
    """Draws whose age bins are about those of the result's redshift; all if there are none."""
    if "zred" not in result.posterior:
        return np.ones(result.draws("sfr_bins")[..., 0].size, bool)
    near = np.abs(np.log1p(result.draws("zred").ravel()) - np.log1p(result.zred)) < _SAME
    return near if near.any() else np.ones_like(near)
