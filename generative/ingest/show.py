"""Figure of what was done to an image, step by step."""

from typing import Any

import numpy as np

from generative.ingest.stamp import Stamp


def stamp_figure(stamp: Stamp) -> Any:
    """`matplotlib` figure: a row per band, a column per step, with fluxes and flags written below.

    Each picture is stretched between the sky and the galaxy with arcsinh; what is masked is red.

    Raises
    ------
    ValueError
        If the stamp has no steps.
    """
    from matplotlib.figure import Figure

    bands = [band for band in stamp.bands if band in stamp.steps[0].images] if stamp.steps else []
    if not bands:
        raise ValueError("`stamp` must have steps.")
    n_row, n_column = len(bands), len(stamp.steps)
    lines = [f.name + (" (outside of training): " if f.outside else ": ") + f.text for f in stamp.flags]
    pictures, words = 2.4 * n_row + 0.3, 0.16 * (len(lines) + 2)
    figure = Figure(figsize=(2.4 * n_column + 0.5, pictures + words), layout="constrained")
    above, below = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=(pictures, words))))
    axes = above.subplots(n_row, n_column, squeeze=False)
    for i, band in enumerate(bands):
        k = stamp.bands.index(band)
        for j, step in enumerate(stamp.steps):
            _draw(axes[i, j], step.images[band])
            if i == 0:
                axes[i, j].set_title(step.title, fontsize=9)
        magnitude = -2.5 * np.log10(stamp.flux[k]) if stamp.flux[k] > 0 else np.nan
        axes[i, 0].set_ylabel(f"{band}\n{magnitude:.2f} mag, PSF {stamp.fwhm[k]:.3g}″", fontsize=8)
    text = f"{stamp.id}, redshift {stamp.zred:.4g}\n" + ("\n".join(lines) or "no flags")
    below.text(0.01, 0.98, text, fontsize=7, va="top")
    return figure


def _draw(axis: Any, image: np.ndarray) -> None:
    values = image[np.isfinite(image)]
    middle = float(np.median(values)) if values.size else 0.0
    spread = 1.4826 * float(np.median(np.abs(values - middle))) if values.size else 0.0
    stretched = np.arcsinh((image - middle) / (2 * (spread or 1.0)))
    top = float(np.nanmax(stretched)) if values.size else 1.0
    axis.set_facecolor("#b2182b")
    axis.imshow(
        np.ma.masked_invalid(stretched), origin="lower", cmap="gray_r", vmin=-1.0, vmax=max(top, 1.0),
        interpolation="nearest",
    )  # fmt: skip
    axis.set_xticks([])
    axis.set_yticks([])
