"""Colour pictures of stamps, for models that were trained on pictures.

The stretch is that of Lupton et al. (2004, PASP 116, 133): colours are kept, brightness goes with arcsinh.
Pictures hold no fluxes: a model of pictures is no likelihood of a galaxy's properties.
"""

import io

import numpy as np
from jaxtyping import UInt8

from generative.ingest import IngestError
from generative.ingest.stamp import Stamp, plain_band

STRETCH_NANOMAGGIES = 0.5
"""Nanomaggies per pixel where brightness turns from linear to logarithmic."""

SOFTENING = 8.0
"""Q of the stretch."""


def colour_picture(
    stamp: Stamp,
    bands: tuple[str, str, str] = ("i", "r", "g"),
    *,
    stretch: float = STRETCH_NANOMAGGIES,
    softening: float = SOFTENING,
) -> UInt8[np.ndarray, "side side 3"]:
    """Picture in red, green and blue; the first row is the northernmost.

    Parameters
    ----------
    stamp
        With the three bands.
    bands
        For red, green and blue.
    stretch, softening
        Nanomaggies per pixel, and Q.

    Raises
    ------
    IngestError
        If a band is missing.
    """
    from astropy.visualization import make_lupton_rgb

    names = [plain_band(band) for band in stamp.bands]
    planes = []
    for band in bands:
        k = names.index(band) if band in names else -1
        if k < 0 or not np.isfinite(stamp.noise[k]):
            raise IngestError(
                f"`bands` must be in the stamp, but it has no {band!r}; it has {', '.join(names)}."
            )
        planes.append(np.where(stamp.observed[k], stamp.image[k], 0.0) * 1e9)
    picture = make_lupton_rgb(*planes, minimum=0.0, stretch=stretch, Q=softening)
    return np.ascontiguousarray(picture[::-1]).astype(np.uint8)


def png_bytes(picture: UInt8[np.ndarray, "side side 3"]) -> bytes:
    """PNG file of a picture."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, picture, format="png")
    return buffer.getvalue()
