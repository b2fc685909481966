"""Spectral energy distribution: photometry, its posterior prediction, residuals."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MultipleLocator, NullLocator, ScalarFormatter
from numpy.typing import ArrayLike

from hbm.plots.style import INK, MODEL, decades, heading, style
from hbm.results import FitResult

NJY_PER_MAGGY = 3.631e12
"""A source of 1 maggy has AB magnitude 0: 3631 Jy (Oke & Gunn 1983)."""

_MICRON = 1e-4  # per Angstrom
_N_SIGMA_NEGATIVE = 2.0  # a flux that is not positive is drawn as a limit this far above it


class SpectrumBand(NamedTuple):
    """Posterior quantiles of the observed spectrum."""

    wave_obs: Float[np.ndarray, " wave"]
    """Observed vacuum wavelength, Angstrom."""
    flux_q16: Float[np.ndarray, " wave"]
    """16 % quantile of the flux density, maggies."""
    flux_q50: Float[np.ndarray, " wave"]
    """Median, maggies."""
    flux_q84: Float[np.ndarray, " wave"]
    """84 % quantile, maggies."""


class Residuals(NamedTuple):
    """Data against the median prediction."""

    chi: Float[np.ndarray, " band"]
    """(flux - median prediction) / sigma, with the error floor inside sigma."""
    used: Bool[np.ndarray, " band"]
    """True for measurements; limits and missing bands have no residual."""

    @property
    def chi2(self) -> float:
        """Sum of squares over the measurements."""
        return float(np.sum(self.chi[self.used] ** 2))


def residuals(result: FitResult) -> Residuals:
    """Residuals of the photometry from the median posterior prediction, in standard deviations."""
    bands = result.bands
    used = bands.observed & ~bands.upper_limit
    model = np.median(result.predicted_flux(), axis=0)
    sigma = np.hypot(bands.flux_err, bands.error_floor * model)
    chi = np.divide(bands.flux - model, sigma, out=np.full(model.shape, np.nan), where=used & (sigma > 0))
    return Residuals(chi, used)


def plot_sed(result: FitResult, spectrum: SpectrumBand | None = None) -> Figure:
    """Photometry with its posterior prediction over residuals.

    Upper panel: measured fluxes (points), limits (arrows) and the central 68 and 95 % of the predicted flux
    in every band, unobserved ones too. A measurement that is not positive has no place on a logarithmic
    axis: it becomes a pale arrow from two standard deviations above it, if that is positive. Lower panel:
    see :func:`residuals`.

    Parameters
    ----------
    result
        Result of one galaxy.
    spectrum
        Quantiles of the model spectrum, drawn behind the photometry.

    Returns
    -------
    Figure
        Axes in order: flux in nJy, residuals; the right-hand scale is the AB magnitude.
    """
    with style():
        figure = Figure(figsize=(8.0, 5.6), layout=ConstrainedLayoutEngine(hspace=0.0, h_pad=0.02))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1.0))
        if spectrum is not None:
            _draw_spectrum(upper, spectrum)
        _draw_prediction(upper, result)
        _draw_data(upper, result)
        _frame(upper, lower, result)
        _draw_residuals(lower, result)
    return figure


def _draw_spectrum(axes: Axes, spectrum: SpectrumBand) -> None:
    """Median and 68 % band of the spectrum."""
    wave = spectrum.wave_obs * _MICRON
    low, mid, high = (q * NJY_PER_MAGGY for q in (spectrum.flux_q16, spectrum.flux_q50, spectrum.flux_q84))
    axes.fill_between(wave, low, high, color=MODEL, alpha=0.22, linewidth=0, zorder=1)
    axes.plot(wave, mid, color=MODEL, linewidth=0.8, alpha=0.75, zorder=2, label="model spectrum, 68 %")


def _draw_prediction(axes: Axes, result: FitResult) -> None:
    """Bars for the central 68 and 95 % of the predicted flux, squares at the median."""
    wave = result.bands.wave_pivot * _MICRON
    q = np.quantile(result.predicted_flux(), (0.025, 0.16, 0.5, 0.84, 0.975), axis=0) * NJY_PER_MAGGY
    axes.vlines(wave, q[0], q[4], color=MODEL, linewidth=7.0, alpha=0.28, zorder=3)
    axes.vlines(wave, q[1], q[3], color=MODEL, linewidth=7.0, alpha=0.55, zorder=4)
    axes.plot(
        wave,
        q[2],
        linestyle="none",
        marker="s",
        markersize=8,
        markerfacecolor="none",
        markeredgecolor=MODEL,
        markeredgewidth=1.3,
        zorder=5,
        label="model photometry, 68 and 95 %",
    )


def _draw_data(axes: Axes, result: FitResult) -> None:
    """Points with error bars, arrows for limits."""
    bands = result.bands
    wave, flux, error = bands.wave_pivot * _MICRON, bands.flux * NJY_PER_MAGGY, bands.flux_err * NJY_PER_MAGGY
    measured = bands.observed & ~bands.upper_limit
    point = measured & (flux > 0)
    axes.errorbar(
        wave[point],
        flux[point],
        error[point],
        fmt="o",
        color=INK,
        markersize=5,
        linewidth=1.2,
        capsize=0,
        zorder=7,
        label="measured" if point.any() else "_measured",
    )
    limit = bands.observed & bands.upper_limit & (flux > 0)
    _arrows(axes, wave[limit], flux[limit], filled=True, label="upper limit")
    negative = measured & ~point
    top = flux[negative] + _N_SIGMA_NEGATIVE * error[negative]
    _arrows(
        axes, wave[negative][top > 0], top[top > 0], filled=False, label=r"flux $\leq 0$: flux $+\,2\sigma$"
    )


def _arrows(
    axes: Axes, wave: Float[np.ndarray, " n"], top: Float[np.ndarray, " n"], *, filled: bool, label: str
) -> None:
    """Downward arrows; none if there is nothing to draw."""
    if wave.size == 0:
        return
    alpha = 1.0 if filled else 0.55
    axes.errorbar(
        wave,
        top,
        yerr=0.35 * top,
        uplims=True,
        fmt="_",
        color=INK,
        markersize=9,
        linewidth=1.2,
        markeredgewidth=1.5,
        linestyle="none",
        alpha=alpha,
        zorder=6,
        label=f"_{label}",
    )
    # The legend would show a bar with two caps.
    axes.plot([], [], linestyle="none", marker=r"$\downarrow$", ms=10, color=INK, alpha=alpha, label=label)


def _frame(upper: Axes, lower: Axes, result: FitResult) -> None:
    """Limits, scales, labels, legend and text."""
    bands = result.bands
    wave = bands.wave_pivot * _MICRON
    upper.set_xscale("log")
    upper.set_yscale("log", nonpositive="clip")
    upper.set_xlim(wave.min() / 1.35, wave.max() * 1.35)
    decades(upper, "x", n_decade_dense=3.0)
    model = np.quantile(result.predicted_flux(), (0.025, 0.975), axis=0)
    shown = np.concatenate([model.ravel(), bands.flux[bands.observed]]) * NJY_PER_MAGGY
    shown = shown[np.isfinite(shown) & (shown > 0)]
    # Far below the data nothing is learned: a band beyond the Lyman limit would flatten all others.
    low, high = max(shown.min(), 1e-5 * shown.max()), shown.max()
    span = max(np.log10(high / low), 0.5)
    upper.set_ylim(low / 10 ** (0.10 * span + 0.1), high * 10 ** (0.20 * span + 0.1))
    decades(upper, "y", n_decade_dense=1.5)
    upper.set_ylabel(r"$f_\nu$ [nJy]")
    magnitude = upper.secondary_yaxis("right", functions=(_to_magnitude, _to_njy))
    magnitude.set_ylabel("AB magnitude")
    _magnitude_ticks(magnitude.yaxis, upper.get_ylim())
    upper.tick_params(which="both", right=False, top=True)
    upper.legend(loc="lower right")
    chi2 = residuals(result)
    n_used = int(chi2.used.sum())
    fits = rf"$\chi^2 = {chi2.chi2:.1f}$, {n_used} measured bands"
    if not bands.observed.any():
        fits = "no fluxes were fitted"
    lines = heading(result, "\n") + "\n" + fits
    upper.text(0.025, 0.96, lines, transform=upper.transAxes, va="top", linespacing=1.35)
    lower.set_xlabel(r"Observed wavelength [$\mu$m]")


def _to_magnitude(flux: ArrayLike) -> Float[np.ndarray, "..."]:
    """AB magnitude of a flux density in nJy; Matplotlib also asks for values that are not positive."""
    return np.asarray(-2.5 * np.log10(np.maximum(flux, 1e-300) / NJY_PER_MAGGY))


def _to_njy(magnitude: ArrayLike) -> Float[np.ndarray, "..."]:
    """Flux density in nJy of an AB magnitude."""
    return np.asarray(NJY_PER_MAGGY * 10.0 ** (-0.4 * np.asarray(magnitude)))


def _magnitude_ticks(axis: Axis, limits: tuple[float, float]) -> None:
    """Whole magnitudes, few enough to read."""
    low, high = limits
    n_magnitude = 2.5 * np.log10(high / low)
    axis.set_major_locator(MultipleLocator(1.0 if n_magnitude < 8.0 else 2.0))
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_locator(NullLocator())


def _draw_residuals(axes: Axes, result: FitResult) -> None:
    """Residuals in standard deviations, with one and two of them shaded."""
    chi, used = residuals(result)
    axes.axhspan(-2.0, 2.0, color=INK, alpha=0.06, linewidth=0)
    axes.axhspan(-1.0, 1.0, color=INK, alpha=0.08, linewidth=0)
    axes.axhline(0.0, color=MODEL, linewidth=1.0)
    axes.errorbar(
        result.bands.wave_pivot[used] * _MICRON,
        chi[used],
        1.0,
        fmt="o",
        color=INK,
        markersize=5,
        linewidth=1.2,
    )
    bound = max(3.2, 1.15 * float(np.max(np.abs(chi[used]), initial=0.0)) + 0.8)
    axes.set_ylim(-bound, bound)
    axes.set_ylabel(r"$\chi$")
    axes.tick_params(which="both", right=True, top=True)
