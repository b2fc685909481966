"""An exposure on an instrument's pixels: blurred where it is sharper than the model knows, and resampled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from generative.ingest import IngestError
from generative.ingest.exposure import Exposure
from generative.ingest.noise import NoiseModel, after, independent, measured_noise
from generative.ingest.overlap import Grid, overlap_matrix
from generative.ingest.psf import blur_sigma, fitted_fwhm, gaussian_kernel, point_source, profile_beta
from generative.instrument import Instrument

_SPOILT = 0.02
"""A new pixel of which more than this part comes from bad pixels, or from outside of the image, is bad."""


class NoPixelsError(IngestError):
    """A band has no usable pixel around the galaxy."""


class Resampled(NamedTuple):
    """A band on a grid."""

    image: Float[np.ndarray, "height width"]
    """Maggies per pixel; nan where not good."""
    good: Bool[np.ndarray, "height width"]
    noise: NoiseModel | None
    """What the survey's error image becomes, if there is one; as if its pixels were independent, unless the
    exposure says otherwise."""
    fwhm: float
    """arcsec, of point sources on the grid, with the pixel left out."""
    operation: Callable[[np.ndarray], np.ndarray]
    """Blurs and resamples an image like `before`."""
    before: Float[np.ndarray, "rows columns"]
    """The exposure around the field."""
    lies_under: Callable[[np.ndarray], np.ndarray]
    """Pixels of `before` that are wholly under pixels of the grid."""
    reached: Bool[np.ndarray, "height width"]
    """Whether the exposure covers a pixel, good or bad."""

    def noise_before(self, sky: Bool[np.ndarray, "height width"], seed: int) -> NoiseModel | None:
        """What becomes of the noise of the exposure's own pixels of sky; None if there are too few."""
        own = measured_noise(np.nan_to_num(self.before), self.lies_under(sky) & np.isfinite(self.before), 250)
        if own is None:
            return None
        inside = self.good if self.good.any() else None
        return after(own, self.before.shape, self.operation, inside=inside, n_draw=8, seed=seed)


def resample_exposure(
    exposure: Exposure, instrument: Instrument, wide: Grid, *, band: int, seed: int, known: dict[Any, Any]
) -> Resampled:
    """Band on the instrument's pixels, its point sources at least as wide as the model knows.

    Parameters
    ----------
    exposure
        The band's image.
    instrument
        Of the image model.
    wide
        Pixels to make.
    band
        Number of the band.
    seed
        Of simulated noise.
    known
        Matrices of other bands on the same pixels; this one's is added.

    Raises
    ------
    IngestError
        If the width of point sources is not known, or more than the model knows; if the image does not reach
        the field. `NoPixelsError` if nothing there is usable.
    """
    cut, old = _cut_out(exposure, wide)
    key = (old.shape, old.wcs.to_header_string())
    if key not in known:
        known[key] = overlap_matrix(wide, old)
    matrix = known[key]
    low, high = instrument.psf_fwhm[band]
    beta = profile_beta(instrument)
    operation, width = _matched(exposure, instrument, wide, old, matrix, low, beta)
    if width > high * 1.02:
        raise IngestError(
            f"`fwhm`: point sources are {width:.3f} arcsec wide in {exposure.band} on pixels of "
            f"{instrument.pixel_scale} arcsec, and {instrument.name} was trained on {low} to {high}. An "
            "image can "
            "be blurred to a wider PSF, not sharpened: choose another instrument, or train on wider ones."
        )
    image = operation(_without_holes(cut.image, cut.good))
    good = operation(cut.good.astype(float)) / _old_per_new(matrix) > 1 - _SPOILT
    reached = operation(np.ones(cut.good.shape)) / _old_per_new(matrix) > 1 - _SPOILT
    if not good.any():
        raise NoPixelsError(f"`good` must have usable pixels around `ra` and `dec` in {exposure.band}.")
    noise = None
    if cut.error is not None:
        usable = cut.good & np.isfinite(cut.error)
        level = float(np.median(cut.error[usable])) if usable.any() else np.nan
        if np.isfinite(level) and level > 0:
            own = independent(level)
            if cut.correlation is not None:
                own = own._replace(correlation=cut.correlation)
            noise = after(own, old.shape, operation, inside=good, n_draw=8, seed=seed)

    def lies_under(new: np.ndarray) -> np.ndarray:
        return np.asarray((matrix.T @ new.ravel().astype(float)).reshape(old.shape) > 0.99)

    return Resampled(
        np.where(good, image, np.nan), good, noise, width, operation,
        np.where(cut.good, cut.image, np.nan), lies_under, reached,
    )  # fmt: skip


def _old_per_new(matrix: Any) -> float:
    """Old pixels under one new pixel, where the old image reaches."""
    rows = np.asarray(matrix.sum(axis=1)).ravel()
    return float(np.median(rows[rows > 0.5 * rows.max()]))


def _cut_out(exposure: Exposure, wide: Grid) -> tuple[Exposure, Grid]:
    """The part of an exposure that the field needs, with room for blurring."""
    from astropy.wcs import NoConvergence

    side = wide.shape[0]
    edge = np.array([-0.5, side / 2, side - 0.5])
    x, y = np.meshgrid(edge, edge)
    try:
        old_x, old_y = exposure.wcs.all_world2pix(*wide.wcs.all_pix2world(x, y, 0), 0)
    except NoConvergence as failed:
        raise IngestError(f"`ra` and `dec` have no place in the image in {exposure.band}.") from failed
    if not (np.isfinite(old_x).all() and np.isfinite(old_y).all()):
        raise IngestError(f"`ra` and `dec` have no place on the sky that the image in {exposure.band} shows.")
    height, width = exposure.image.shape
    x0, x1 = max(int(old_x.min()) - 12, 0), min(int(old_x.max()) + 13, width)
    y0, y1 = max(int(old_y.min()) - 12, 0), min(int(old_y.max()) + 13, height)
    if x1 - x0 < 8 or y1 - y0 < 8:
        middle = (float(old_x[1, 1]), float(old_y[1, 1]))
        raise IngestError(
            f"`ra` and `dec` must be in the image: they are at pixel ({middle[0]:.0f}, {middle[1]:.0f}) of "
            "an image of "
            f"{width} by {height} in {exposure.band}."
        )
    rows = (slice(y0, y1), slice(x0, x1))
    wcs = exposure.wcs.slice(rows)
    error = None if exposure.error is None else exposure.error[rows]
    if not exposure.good[rows].any():
        raise NoPixelsError(f"`good` must have usable pixels around `ra` and `dec` in {exposure.band}.")
    cut = Exposure(
        exposure.band, exposure.image[rows], exposure.good[rows], wcs, error, exposure.psf, exposure.fwhm,
        exposure.survey, exposure.correlation,
    )  # fmt: skip
    return cut, Grid(wcs, cut.image.shape)


def _without_holes(image: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Bad pixels filled from those around them."""
    from scipy.ndimage import gaussian_filter

    if good.all():
        return image
    clean, weight = np.where(good, image, 0.0), good.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        around = gaussian_filter(clean, 1.5) / gaussian_filter(weight, 1.5)
    return np.where(good, image, np.nan_to_num(around, posinf=0.0, neginf=0.0))


def _matched(
    exposure: Exposure, instrument: Instrument, wide: Grid, old: Grid, matrix: Any, low: float, beta: float
) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """Blurring and resampling as one function, and the width in arcsec of what it makes of a point source."""
    from scipy.signal import fftconvolve

    scale = exposure.pixel_scale
    own = _own_width(exposure, beta)
    x, y = (float(v) for v in old.wcs.all_world2pix(*wide.wcs.all_pix2world(*_middle(wide), 0), 0))
    star = point_source(old.shape, x, y, psf=exposure.psf, fwhm=own / scale, beta=beta)

    def blurred(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
        kernel = gaussian_kernel(sigma / scale)

        def operation(image: np.ndarray) -> np.ndarray:
            smooth = image if kernel.size == 1 else fftconvolve(image, kernel, mode="same")
            return np.asarray((matrix @ smooth.ravel()).reshape(wide.shape))

        return operation

    def width(operation: Callable[[np.ndarray], np.ndarray]) -> float:
        side, middle = 25, wide.shape[0] // 2
        rows = slice(max(middle - side // 2, 0), middle + side // 2 + 1)
        return fitted_fwhm(operation(star)[rows, rows], beta) * instrument.pixel_scale

    sigma = 0.0
    operation = blurred(sigma)
    now = width(operation)
    for _ in range(8):
        if now >= low * 0.999:
            break
        # Widths add in quadrature, nearly; what is left is added again.
        sigma = float(np.hypot(sigma, max(blur_sigma(now, low * 1.002), 0.02 * low)))
        operation = blurred(sigma)
        now = width(operation)
    return operation, now


def _middle(grid: Grid) -> tuple[float, float]:
    return (grid.shape[1] - 1) / 2, (grid.shape[0] - 1) / 2


def _own_width(exposure: Exposure, beta: float) -> float:
    """Width of an exposure's point sources in arcsec, from its PSF or as given."""
    if exposure.psf is not None:
        return fitted_fwhm(exposure.psf, beta) * exposure.pixel_scale
    if exposure.fwhm is None:
        raise IngestError(
            f"`fwhm` or `psf` must be known in {exposure.band}: give the width of point sources in arcsec, a "
            "PSF image, "
            "or measure it from stars of a larger image (generative.ingest.stars)."
        )
    return exposure.fwhm
