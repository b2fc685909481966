"""What one galaxy's image and photometry say of each other."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hbm.consistency.report import KINDS, Check, Detail
from hbm.labels import axis_label
from hbm.plots.style import INK, MODEL, style

_IMAGE, _FIT = "#3a8f5c", "#e69f00"
_NAMES = {"swap": "other galaxy", "shred": "light lost", "blend": "light added", "band": "one band off"}


def plot_check(found: Check, detail: Detail, *, title: str = "") -> Figure:
    """Draw the check of one galaxy.

    Above: the measured fluxes over what the image lets expect, and each band over what the image and the
    other bands do; the odds of each error. Below: the properties by prior, image and photometry.

    Parameters
    ----------
    found, detail
        From `hbm.consistency.Checker`.
    title
        Text before the verdict; the identifier by default.

    Returns
    -------
    Figure
    """
    n = len(detail.names)
    with style():
        figure = Figure(figsize=(2.35 * n, 6.6), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(1.25, 1))
        above, below = parts
        left, right = above.subplots(1, 2, width_ratios=(1.6, 1))
        _draw_fluxes(left, found, detail)
        _draw_odds(right, found)
        for axis, name, column in zip(below.subplots(1, n), detail.names, range(n), strict=True):
            _draw_property(axis, name, *(part[:, column] for part in detail[1:4]), with_legend=column == 0)
        head = title or found.galaxy_id.replace("$", r"\$")
        figure.suptitle(f"{head}: {found.verdict()}", fontsize=15, color=INK)
    return figure


def _draw_fluxes(axis: Axes, found: Check, detail: Detail) -> None:
    """Measured and predicted fluxes over the median that the image lets expect."""
    order = np.argsort(detail.wave)
    place = np.arange(len(order))
    scale = np.maximum(detail.from_image[1], 1e-3 * detail.from_image[2])
    for values, offset, colour, label in (
        (detail.from_image, -0.16, _IMAGE, "given the image (68 %)"),
        (detail.from_others, 0.16, MODEL, "given the image and the other bands"),
    ):
        low, middle, high = (values / scale)[:, order]
        axis.vlines(place + offset, low, high, color=colour, linewidth=7, alpha=0.45, label=label)
        axis.plot(place + offset, middle, "_", color=colour, markersize=12)
    flux, err = (detail.flux / scale)[order], (detail.flux_err / scale)[order]
    axis.errorbar(place, flux, err, fmt="o", color=INK, markersize=6, label="measured")
    axis.set_yscale("log")
    names = [f"{found.bands[i]}\n$p$ = {found.p_band[i]:.2g}" for i in order]
    axis.set_xticks(place, names, fontsize=10)
    axis.tick_params(axis="x", which="minor", bottom=False, top=False)
    axis.set_ylabel("flux / expected from the image")
    axis.legend(fontsize=10)
    axis.set_title(f"$p$ of the photometry, given the image: {found.p_photometry:.2g}")


def _draw_odds(axis: Axes, found: Check) -> None:
    """Odds of each error against none, with and without the image."""
    place = np.arange(len(KINDS))[::-1]
    axis.barh(place + 0.18, [found.log_kind[k] for k in KINDS], 0.34, color=MODEL, label="with the image")
    alone = [found.log_kind_photometry[kind] for kind in KINDS]
    axis.barh(place - 0.18, alone, 0.34, color=_FIT, label="photometry alone")
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_yticks(place, [_NAMES[kind] for kind in KINDS])
    axis.tick_params(axis="y", which="minor", left=False, right=False)
    axis.set_xlabel("ln odds against nothing wrong")
    axis.legend(fontsize=10)
    worst = f", worst {found.worst_band}" if found.worst_band else ""
    axis.set_title(f"image among simulations: $p$ = {found.p_image:.2g}{worst}", fontsize=11)


def _draw_property(
    axis: Axes, name: str, prior: np.ndarray, image: np.ndarray, photometry: np.ndarray, *, with_legend: bool
) -> None:
    """Histograms of one property."""
    low, high = np.quantile(np.concatenate([prior, image, photometry]), (0.002, 0.998))
    edges = np.linspace(low, high + 1e-6, 26).tolist()
    axis.hist(prior, edges, density=True, color="0.85", label="prior")
    axis.hist(image, edges, density=True, histtype="step", color=_IMAGE, linewidth=1.8, label="image")
    axis.hist(photometry, edges, density=True, histtype="step", color=_FIT, linewidth=1.8, label="photometry")
    axis.set_xlabel(axis_label(name))
    axis.set_yticks([])
    if with_legend:
        axis.legend(fontsize=9)
