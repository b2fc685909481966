r"""Point spread functions: their widths, and blurring to a wider one.

The width that an image model is told is that of the optics and the air, with the pixel that integrates them
left out, as in the simulator: a Moffat profile of the instrument's slope, averaged over the pixels, is
fitted to the image of a point source. The Kolmogorov profile of the simulator is close to a Moffat profile
of slope 4.765 (Trujillo et al. 2001, MNRAS 328, 977).
"""

import math

import numpy as np
from jaxtyping import Float

from generative.ingest import IngestError
from generative.instrument import Instrument

KOLMOGOROV_BETA = 4.765

_OVERSAMPLE = 5
_GAUSS = math.sqrt(8 * math.log(2))


def profile_beta(instrument: Instrument) -> float:
    """Slope of the Moffat profile that stands for an instrument's point spread function."""
    return KOLMOGOROV_BETA if instrument.psf == "kolmogorov" else instrument.psf_beta


def moffat_image(
    side: int, fwhm: float, beta: float, *, x: float = 0.0, y: float = 0.0, oversample: int = _OVERSAMPLE
) -> Float[np.ndarray, "side side"]:
    """Moffat profile averaged over pixels; its total is 1 in the plane.

    Parameters
    ----------
    side
        Pixels.
    fwhm, x, y
        Pixels; the middle is at (x, y) from the middle of the image.
    beta
        Slope; above 1.
    oversample
        Samples along a pixel.
    """
    scale = fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))
    fine = (np.arange(side * oversample) + 0.5) / oversample - side / 2
    radius2 = (fine[None, :] - x) ** 2 + (fine[:, None] - y) ** 2
    profile = (beta - 1) / (math.pi * scale**2) * (1 + radius2 / scale**2) ** -beta
    return np.asarray(profile.reshape(side, oversample, side, oversample).mean(axis=(1, 3)))


def fitted_fwhm(image: Float[np.ndarray, "height width"], beta: float) -> float:
    """Width in pixels of the Moffat profile, averaged over pixels, that is nearest to a point source's image.

    Free are width, position and height; the wings far out have little say.

    Raises
    ------
    IngestError
        If the image is not of a single peak near its middle, or of one narrower than half a pixel.
    """
    from scipy.optimize import least_squares

    middle = _middle(image, 25)
    middle = middle / middle.max() if middle.max() > 0 else middle
    side = middle.shape[0]
    row, column = np.unravel_index(int(np.argmax(middle)), middle.shape)
    half_area = float((middle > 0.5).sum())
    start = [math.log(max(1.13 * math.sqrt(half_area), 1.0)), column - (side - 1) / 2, row - (side - 1) / 2]

    def residual(values: np.ndarray) -> np.ndarray:
        model = moffat_image(side, float(np.exp(values[0])), beta, x=float(values[1]), y=float(values[2]))
        height = float((model * middle).sum() / (model**2).sum())
        return np.asarray((height * model - middle).ravel())

    low, high = [math.log(0.3), -side / 2, -side / 2], [math.log(2.0 * side), side / 2, side / 2]
    start = list(np.clip(start, np.asarray(low) + 1e-3, np.asarray(high) - 1e-3))
    found = least_squares(residual, start, bounds=(low, high), x_scale=[0.1, 0.3, 0.3], xtol=1e-6, ftol=1e-8)
    fwhm, offset = float(np.exp(found.x[0])), float(np.hypot(found.x[1], found.x[2]))
    # The root mean square of the residuals against the peak: that of a galaxy or of noise is large.
    if offset > 0.25 * side or not 0.5 < fwhm < side or np.sqrt(np.mean(found.fun**2)) > 0.1:
        raise IngestError(
            "`psf` must be one point source in the middle of an image, at least half a pixel wide; the fit "
            "gives "
            f"a width of {fwhm:.2f} pixels, {offset:.1f} pixels off the middle of {side}."
        )
    return fwhm


def _middle(image: np.ndarray, most: int) -> np.ndarray:
    """Square middle of an image, of at most so many pixels a side, of the image's parity."""
    side = min(image.shape)
    side -= (max(image.shape) - side) % 2  # one parity, so that the middle stays
    keep = side if side <= most else most - (most - side) % 2
    top, left = (image.shape[0] - keep) // 2, (image.shape[1] - keep) // 2
    return np.asarray(image[top : top + keep, left : left + keep], float)


def gaussian_kernel(sigma: float) -> Float[np.ndarray, "side side"]:
    """Gaussian of a standard deviation in pixels, averaged over pixels, of sum 1; one pixel for 0."""
    if sigma < 0.05:
        return np.ones((1, 1))
    from scipy.special import erf

    reach = math.ceil(4 * sigma)
    edges = np.arange(-reach, reach + 2) - 0.5
    one = np.diff(erf(edges / (sigma * math.sqrt(2))))
    kernel = np.outer(one, one)
    return np.asarray(kernel / kernel.sum())


def point_source(
    shape: tuple[int, int],
    x: float,
    y: float,
    *,
    psf: Float[np.ndarray, "height width"] | None,
    fwhm: float,
    beta: float,
) -> Float[np.ndarray, "rows columns"]:
    """Image of a point source of flux 1.

    Parameters
    ----------
    shape
        (height, width).
    x, y
        Pixels, where it is; the first pixel's middle is 0.
    psf
        Its image, moved by cubic splines; without one a Moffat profile.
    fwhm
        Pixels, of that profile with the pixel left out.
    beta
        Slope of that profile.
    """
    if psf is None:
        side = 2 * math.ceil(4 * fwhm) + 11
        column, row = round(x), round(y)
        small = moffat_image(side, fwhm, beta, x=x - column, y=y - row)
        return _pasted(small / small.sum(), shape, column, row)
    from scipy.ndimage import shift

    column, row = math.floor(x), math.floor(y)
    # An even side has its middle between pixels.
    even = 0.5 * np.array([(psf.shape[0] + 1) % 2, (psf.shape[1] + 1) % 2])
    padded = np.pad(psf / psf.sum(), 3)
    moved = shift(padded, (y - row - even[0], x - column - even[1]), order=3)
    return _pasted(moved, shape, column + int(2 * even[1]), row + int(2 * even[0]))


def _pasted(small: np.ndarray, shape: tuple[int, int], column: int, row: int) -> np.ndarray:
    """Small image, its middle pixel at (row, column) of an empty one; that of an even side is the later."""
    canvas = np.zeros(shape)
    top, left = row - small.shape[0] // 2, column - small.shape[1] // 2
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + small.shape[0], shape[0]), min(left + small.shape[1], shape[1])
    if y0 < y1 and x0 < x1:
        canvas[y0:y1, x0:x1] = small[y0 - top : y1 - top, x0 - left : x1 - left]
    return canvas


def blur_sigma(fwhm_from: float, fwhm_to: float) -> float:
    """Standard deviation of the Gaussian that widens one width to another, as if both were Gaussian.

    In the unit of the widths; 0 if there is nothing to widen.
    """
    return math.sqrt(max(fwhm_to**2 - fwhm_from**2, 0.0)) / _GAUSS
