"""What is in a field: the galaxy, its neighbours, and the sky between them; and the galaxy's flux.

Detection is image segmentation with photutils. Total fluxes are of an elliptical aperture of 2.5 Kron radii
(Kron 1980, ApJS 43, 305), the same in all bands. It holds 94 to 99 % of the light of discs, less of
de Vaucouleurs profiles.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from generative.ingest import IngestError

_SURE = 5.0
"""Standard deviations of the smoothed image that a galaxy's brightest pixel must have."""


class Field(NamedTuple):
    """Pixels of a field by what they show."""

    target: Bool[np.ndarray, "height width"]
    """The galaxy in the middle."""
    neighbours: Bool[np.ndarray, "height width"]
    """Other sources and what is around them."""
    sky: Bool[np.ndarray, "height width"]
    """Far from any source."""
    x: float
    """Middle of the galaxy, pixels; the first pixel's middle is 0."""
    y: float
    n_neighbour: int
    """Other sources in the field."""


class Aperture(NamedTuple):
    """Ellipse that holds a galaxy."""

    x: float
    y: float
    a: float
    """Semi-major axis, pixels."""
    b: float
    theta: float
    """Radian from the x axis."""


def find_sources(
    significance: Float[np.ndarray, "height width"],
    good: Bool[np.ndarray, "height width"],
    *,
    fwhm: float,
    threshold: float = 2.0,
    grow: float = 1.5,
) -> Field:
    """Galaxy in the middle, neighbours and sky.

    Parameters
    ----------
    significance
        Image over noise, bands added up; sky about zero.
    good
        False where there is no measurement.
    fwhm
        Pixels, of point sources.
    threshold
        In standard deviations of the image smoothed with that width.
    grow
        Widths by which the regions of neighbours are widened. Those of the sky are widened by 2.5 times as
        much.

    Raises
    ------
    IngestError
        If nothing is detected in the middle.
    """
    from astropy.convolution import Gaussian2DKernel, convolve
    from scipy.ndimage import binary_dilation

    height, width = significance.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smooth = convolve(np.where(good, significance, np.nan), Gaussian2DKernel(max(fwhm / 2.355, 0.6)))
    smooth = np.nan_to_num(np.asarray(smooth))
    level, spread = _clipped(smooth[good])
    segments = _segments(smooth, level, spread * threshold, ~good, fwhm)
    label = _label_of_middle(segments, smooth, fwhm)
    if label == 0 or float((smooth[segments == label] - level).max()) < _SURE * spread:
        raise IngestError(
            f"`image` must show a galaxy in its middle, but nothing within {2 * fwhm:.1f} pixels of it is "
            f"{_SURE:g} sigma above the sky. Check `ra` and `dec`."
        )
    segments = _together(segments, label, smooth - level)
    target = segments == label
    others = (segments > 0) & ~target
    radius = max(1, round(grow * fwhm / 2.355))
    neighbours = binary_dilation(others, _disc(radius)) & ~target
    sky = ~binary_dilation(segments > 0, _disc(round(2.5 * radius))) & good
    weight = np.where(target, np.clip(smooth - level, 0, None), 0)
    rows, columns = np.mgrid[:height, :width]
    top_row, top_column = np.unravel_index(int(np.argmax(weight)), weight.shape)
    near = np.hypot(rows - top_row, columns - top_column) <= 2 * fwhm
    core = np.where(near & (weight > 0.3 * weight.max()), weight, 0)
    x, y = float((core * columns).sum() / core.sum()), float((core * rows).sum() / core.sum())
    return Field(target, neighbours, sky, x, y, len(np.unique(segments[others])))


def _segments(smooth: np.ndarray, level: float, above: float, mask: np.ndarray, fwhm: float) -> np.ndarray:
    """Labels of sources, deblended."""
    from photutils.segmentation import deblend_sources, detect_sources

    n_least = max(5, round(fwhm**2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing found: said by the caller, with numbers
        found = detect_sources(smooth - level, above, n_least, mask=mask)
        if found is None:
            return np.zeros(smooth.shape, int)
        found = deblend_sources(
            smooth - level, found, 2 * n_least, n_levels=32, contrast=0.05, progress_bar=False
        )
    return np.asarray(found.data)


def _together(segments: np.ndarray, label: int, light: np.ndarray, least: float = 0.5) -> np.ndarray:
    """Segments with the pieces of the galaxy put together.

    A piece that touches it is its own (an arm, a clump) if on the way to it the light never falls below a
    part ``least`` of the fainter of the two peaks.
    """
    segments = segments.copy()
    while True:
        saddle: dict[int, float] = {}
        for a, b, p, q in (
            (segments[:-1], segments[1:], light[:-1], light[1:]),
            (segments[:, :-1], segments[:, 1:], light[:, :-1], light[:, 1:]),
        ):
            height = np.minimum(p, q)
            for mine, other in ((a, b), (b, a)):
                touch = (mine == label) & (other > 0) & (other != label)
                for name, value in zip(other[touch], height[touch], strict=True):
                    saddle[int(name)] = max(saddle.get(int(name), -np.inf), float(value))
        peak = float(light[segments == label].max())
        joined = [
            name for name, value in saddle.items() if value > least * min(peak, light[segments == name].max())
        ]
        if not joined:
            return segments
        segments[np.isin(segments, joined)] = label


def _label_of_middle(segments: np.ndarray, smooth: np.ndarray, fwhm: float) -> int:
    """Label of the brightest detected pixel within two widths of the middle; 0 if there is none."""
    rows, columns = np.mgrid[: smooth.shape[0], : smooth.shape[1]]
    near = np.hypot(rows - (smooth.shape[0] - 1) / 2, columns - (smooth.shape[1] - 1) / 2) <= 2 * fwhm + 1
    candidates = np.where(near & (segments > 0), smooth, -np.inf)
    best = int(np.argmax(candidates))
    return int(segments.flat[best]) if np.isfinite(candidates.flat[best]) else 0


def _disc(radius: int) -> np.ndarray:
    line = np.arange(-radius, radius + 1)
    return np.asarray(line[:, None] ** 2 + line[None, :] ** 2 <= radius**2)


def _clipped(values: np.ndarray) -> tuple[float, float]:
    """Median and standard deviation, sources clipped."""
    from astropy.stats import sigma_clipped_stats

    _, median, spread = sigma_clipped_stats(values, sigma=3.0, maxiters=10)
    return float(median), float(spread)


class Sky(NamedTuple):
    """Level of the sky in a band."""

    level: float
    """0 if it was not measured."""
    error: float
    """From how much it differs between the sides of the field; nan if it was not measured."""
    n_pixel: int


def sky_level(
    image: Float[np.ndarray, "height width"], sky: Bool[np.ndarray, "height width"], least: float = 0.1
) -> Sky:
    """Level of the sky, if at least a part ``least`` of the field is sky, in no fewer than 400 pixels.

    In a small cutout what looks like sky is the galaxy's own outskirts: there the file's sky is kept.
    """
    n_pixel = int(sky.sum())
    if n_pixel < max(400, least * sky.size):
        return Sky(0.0, math.nan, 0)
    from astropy.stats import sigma_clipped_stats

    mean, _, spread = sigma_clipped_stats(image[sky], sigma=3.0, maxiters=10)
    rows, columns = np.nonzero(sky)
    side = np.arctan2(rows - sky.shape[0] / 2, columns - sky.shape[1] / 2)
    sector = np.clip(((side + math.pi) / (2 * math.pi) * 8).astype(int), 0, 7)
    values = image[rows, columns]
    means = [
        sigma_clipped_stats(values[sector == k], sigma=3.0)[0] for k in range(8) if (sector == k).sum() > 20
    ]
    error = float(np.std(means, ddof=1) / math.sqrt(len(means))) if len(means) > 3 else float(spread)
    return Sky(float(mean), error, n_pixel)


def filled(
    image: Float[np.ndarray, "height width"],
    usable: Bool[np.ndarray, "height width"],
    x: float,
    y: float,
) -> Float[np.ndarray, "height width"]:
    """Image whose other pixels are those opposite of the galaxy's middle, or zero if these are no better."""
    height, width = image.shape
    rows, columns = np.mgrid[:height, :width]
    opposite_y, opposite_x = np.rint(2 * y - rows).astype(int), np.rint(2 * x - columns).astype(int)
    inside = (opposite_y >= 0) & (opposite_y < height) & (opposite_x >= 0) & (opposite_x < width)
    opposite_y, opposite_x = np.where(inside, opposite_y, 0), np.where(inside, opposite_x, 0)
    can = inside & usable[opposite_y, opposite_x]
    return np.where(usable, image, np.where(can, image[opposite_y, opposite_x], 0.0))


def light_beyond(
    image: Float[np.ndarray, "height width"],
    usable: Bool[np.ndarray, "height width"],
    reached: Bool[np.ndarray, "height width"],
    x: float,
    y: float,
) -> float:
    r"""Part of a galaxy's light that an image does not reach, if it falls exponentially beyond the edge.

    With the surface brightness I of the outermost pixels, at a radius R, and the scale length h (half-light
    radius over 1.678) it is :math:`2 \pi I (R h + h^2)`, the integral of an exponential disc from there on.

    Parameters
    ----------
    image
        Without neighbours (`filled`), sky subtracted.
    usable
        Good pixels of no neighbour.
    reached
        Pixels that the image covers.
    x, y
        Middle of the galaxy.
    """
    from scipy.ndimage import binary_erosion

    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    ring = reached & ~binary_erosion(reached, _disc(2)) & usable
    inside = float(image[reached].sum())
    if not ring.any() or not inside > 0:
        return 1.0
    distance = np.hypot(rows - y, columns - x)
    order = np.argsort(distance[reached])
    grown = np.cumsum(image[reached][order])
    half = float(distance[reached][order][int(np.argmax(grown > 0.5 * inside))])
    scale, edge = max(half, 0.5) / 1.678, math.sqrt(reached.sum() / math.pi)
    beyond = 2 * math.pi * max(float(image[ring].mean()), 0.0) * (edge * scale + scale**2)
    return beyond / (inside + beyond)


def kron_aperture(
    image: Float[np.ndarray, "height width"],
    target: Bool[np.ndarray, "height width"],
    *,
    fwhm: float,
    factor: float = 2.5,
) -> Aperture:
    """Ellipse of ``factor`` Kron radii around a galaxy.

    Shape and orientation are from second moments within the galaxy's pixels; the Kron radius is the mean
    elliptical radius weighted with light out to 6 times those (Bertin & Arnouts 1996, A&AS 117, 393).

    Parameters
    ----------
    image
        Without neighbours (`filled`), sky subtracted.
    target
        The galaxy's pixels.
    fwhm
        Pixels, of point sources; the aperture's semi-axes are at least 1.5 times that.
    """
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    weight = np.where(target, np.clip(image, 0, None), 0.0)
    total = weight.sum()
    x, y = float((weight * columns).sum() / total), float((weight * rows).sum() / total)
    dx, dy = columns - x, rows - y
    xx, yy, xy = (float((weight * v).sum() / total) for v in (dx * dx, dy * dy, dx * dy))
    theta = 0.5 * math.atan2(2 * xy, xx - yy)
    root = math.hypot(0.5 * (xx - yy), xy)
    a = math.sqrt(max(0.5 * (xx + yy) + root, 0.1))
    b = math.sqrt(max(0.5 * (xx + yy) - root, 0.1))
    along = (dx * math.cos(theta) + dy * math.sin(theta)) / a
    across = (-dx * math.sin(theta) + dy * math.cos(theta)) / b
    radius = np.hypot(along, across)
    within = radius < 6.0
    light = float(image[within].sum())
    kron = float((radius * image)[within].sum()) / light if light > 0 else 2.0
    kron = min(max(kron, 1.0), 4.0)
    least = 1.5 * fwhm
    return Aperture(x, y, max(factor * kron * a, least), max(factor * kron * b, least), theta)


def aperture_flux(image: Float[np.ndarray, "height width"], aperture: Aperture) -> tuple[float, float]:
    """Sum over an aperture, with parts of pixels, and its area in pixels inside of the image."""
    from photutils.aperture import EllipticalAperture

    shape = EllipticalAperture((aperture.x, aperture.y), aperture.a, aperture.b, theta=aperture.theta)
    weights = shape.to_mask(method="exact").to_image(image.shape)
    if weights is None:
        return 0.0, 0.0
    return float((weights * image).sum()), float(weights.sum())
