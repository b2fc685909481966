"""Observed images: what the likelihood of a galaxy's image needs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from generative.conditions import Observing


class Stamps(NamedTuple):
    """Images of galaxies in the bands of an instrument."""

    id: Shaped[np.ndarray, " image"]
    """Names."""
    image: Float[Tensor, "image band height width"]
    """Pixels, in any unit of flux."""
    noise: Float[Tensor, "image band"]
    """Standard deviation of a pixel in the same unit."""
    observed: Bool[Tensor, "image band height width"]
    """False for pixels without a measurement."""
    u: Observing
    """Redshift, PSF, and total flux over the noise of a pixel."""
