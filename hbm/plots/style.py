"""Colours and settings of all figures; the colours stay apart for colour-blind readers and in grey."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hbm.results import FitResult

INK = "#22262b"
"""Data, text and axes."""
MODEL = "#1f6f9f"
"""Posterior."""
TRUTH = "#d55e00"
"""Known true values."""
CHAINS = ("#1f6f9f", "#e69f00", "#3a8f5c", "#b0568f", "#56b4e9", "#8c5a3c", "#777777", "#22262b")
"""One per chain, in turn."""

_SETTINGS: Any = {
    "font.size": 12.0,
    # By name: a family such as "serif" would be looked up when the figure is saved, outside these settings.
    "font.family": ["STIXGeneral", "DejaVu Sans"],
    "mathtext.fontset": "stix",
    "axes.labelsize": 14.0,
    "axes.titlesize": 13.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.formatter.use_mathtext": True,
    "axes.axisbelow": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "xtick.major.size": 5.0,
    "ytick.major.size": 5.0,
    "xtick.minor.size": 2.5,
    "ytick.minor.size": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 11.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 200.0,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the settings of our figures for the duration of a ``with`` block."""
    with mpl.rc_context(_SETTINGS):
        yield


def decades(axes: Axes, which: str, *, n_decade_dense: float) -> None:
    """Label a logarithmic axis at each decade; at 1, 2 and 5 of it if the axis spans few decades.

    Parameters
    ----------
    axes, which
        Axes, and ``"x"`` or ``"y"``; its limits are set.
    n_decade_dense
        Number of decades up to which 1, 2 and 5 have labels.
    """
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    dense = high < 10.0**n_decade_dense * low
    plain = low > 1e-4 and high < 1e5
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if dense else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if plain else _power(value)))
    axis.set_minor_locator(LogLocator(subs=tuple(range(2, 10))))
    axis.set_minor_formatter(NullFormatter())


def heading(result: FitResult, separator: str) -> str:
    """Return identifier and redshift, and the flag if all is not well."""
    parts = [_plain(result.galaxy_id), f"$z = {result.zred:.4g}$"]
    if result.flag != "ok":
        parts.append(_plain("flag: " + result.flag.replace(",", ", ")))
    return separator.join(parts)


def _plain(text: str) -> str:
    """Escape dollars: Matplotlib would read what stands between them as mathematics."""
    return text.replace("$", r"\$")


def _power(value: float) -> str:
    """Write a number of one digit as mathtext."""
    mantissa, exponent = f"{value:.0e}".split("e")
    head = "" if mantissa == "1" else rf"{mantissa}\times"
    return rf"${head}10^{{{int(exponent)}}}$"
