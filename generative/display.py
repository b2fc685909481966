"""Pictures of stamps: colour composites, grids, strips, a film of the denoising."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from generative.checkpoint import write_atomically
from generative.instrument import Instrument

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import LayoutEngine


def _tight() -> "LayoutEngine":
    """Pictures close to each other."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)


def to_rgb(
    image: Float[Tensor, "batch band height width"], instrument: Instrument | None
) -> Float[np.ndarray, "batch height width 3"]:
    """Colours on the scale (0, 1).

    Parameters
    ----------
    image
        In units of the noise of a pixel; pictures as 0 to 255.
    instrument
        Whose bands they are; None for pictures.

    Returns
    -------
        Pictures as they are; one band in grey, stretched by asinh; more bands by Lupton et al. (2004, PASP
        116, 133), red to blue the third, second and first band.
    """
    stamps = image.detach().cpu().double().numpy()
    if instrument is None:
        return np.asarray(np.clip(np.moveaxis(stamps, 1, -1) / 255, 0, 1))
    if stamps.shape[1] < 3:
        grey = np.arcsinh(np.clip(stamps[:, 0] + 1, 0, None))
        top = np.quantile(grey.reshape(len(grey), -1), 0.999, axis=1)[:, None, None]
        return np.repeat(np.clip(grey / np.maximum(top, 1.5), 0, 1)[..., None], 3, axis=-1)
    from astropy.visualization import make_lupton_rgb

    noise = np.array(instrument.noise)[:, None, None]
    flux = stamps * noise / noise[instrument.reference_band]
    # About white for a flat spectrum in log wavelength times a red galaxy's slope.
    balance = (1.0, 1.2, 1.8)
    result = []
    for stamp in flux:
        red, green, blue = (stamp[i] / f for i, f in zip((2, 1, 0), balance[::-1], strict=True))
        stretch = max(float(np.quantile(stamp[1], 0.99)) / 2, 5.0)
        result.append(make_lupton_rgb(red, green, blue, minimum=-1.0, stretch=stretch, Q=6))
    return np.asarray(np.stack(result), float) / 255


def image_grid(
    rgb: Float[np.ndarray, "batch height width 3"], *, n_column: int = 8, labels: Sequence[str] | None = None
) -> "Figure":
    """Figure of pictures in rows, with an optional line of text above each."""
    from matplotlib.figure import Figure

    n_row = -(-len(rgb) // n_column)
    extra = 0.0 if labels is None else 0.17
    figure = Figure(figsize=(1.25 * n_column, (1.25 + extra) * n_row), layout=_tight())
    axes = figure.subplots(n_row, n_column, squeeze=False)
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(rgb):
            axis.imshow(rgb[i], origin="lower", interpolation="nearest")
            if labels is not None:
                axis.set_title(labels[i], fontsize=7, pad=1)
    return figure


def strip_figure(
    rows: Sequence[tuple[str, Sequence[float], Float[np.ndarray, "step height width 3"]]],
) -> "Figure":
    """Figure with a row for each property that is varied: its name, its values, its pictures."""
    from matplotlib.figure import Figure

    n_column = max(len(values) for _, values, _ in rows)
    figure = Figure(figsize=(1.25 * n_column + 1.0, 1.5 * len(rows)), layout=_tight())
    axes = figure.subplots(len(rows), n_column, squeeze=False)
    for line, (name, values, rgb) in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
        for axis, value, picture in zip(line, values, rgb, strict=False):
            axis.imshow(picture, origin="lower", interpolation="nearest")
            axis.set_title(f"{value:.3g}", fontsize=8, pad=1)
        line[0].set_ylabel(name, fontsize=9)
    return figure


def write_gif(
    frames: Sequence[Float[np.ndarray, "height width 3"]], path: Path, *, seconds: float = 0.12
) -> None:
    """Write an animated GIF of pictures on the scale (0, 1), enlarged four times."""
    from PIL import Image

    pictures = [
        Image.fromarray((np.clip(frame[::-1], 0, 1) * 255).astype(np.uint8)).resize(
            (4 * frame.shape[1], 4 * frame.shape[0]), Image.Resampling.NEAREST
        )
        for frame in frames
    ]
    content = io.BytesIO()
    pictures[0].save(
        content, "GIF", save_all=True, append_images=pictures[1:], duration=int(1000 * seconds), loop=0
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
