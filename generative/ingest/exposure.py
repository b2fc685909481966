"""One band's image, in maggies per pixel, with what is known of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from generative.ingest import IngestError
from generative.ingest.noise import LAG


@dataclass(frozen=True, eq=False)
class Exposure:
    """Image of a field in one band.

    Raises
    ------
    IngestError
        If shapes disagree, the PSF has no positive sum, or the correlation is not one.
    """

    band: str
    """Filter: sedpy's name, or a letter."""
    image: Float[np.ndarray, "_height _width"]
    """Maggies per pixel; nan where there is nothing."""
    good: Bool[np.ndarray, "_height _width"]
    """False for pixels without a usable measurement."""
    wcs: Any
    """`astropy.wcs.WCS` with two celestial axes."""
    error: Float[np.ndarray, "_height _width"] | None = None
    """Standard deviation of each pixel in maggies, if the survey gives it."""
    psf: Float[np.ndarray, "_rows _columns"] | None = None
    """Image of a point source on pixels of the same size, middle in the middle; any scale."""
    fwhm: float | None = None
    """arcsec: full width at half maximum of point sources in this image."""
    survey: str = "generic"
    """Where it comes from."""
    correlation: Float[np.ndarray, "_lag _lag"] | None = None
    """Of the noise of pixels (dy, dx) apart, where the field is too small to measure it and the survey's are
    known (`generative.ingest.noise.pooled_correlation`); None for noise that is independent."""

    def __post_init__(self) -> None:
        for name in ("good", "error"):
            array = getattr(self, name)
            if array is not None and array.shape != self.image.shape:
                raise IngestError(
                    f"`{name}` must have the shape of `image`, {self.image.shape}, got {array.shape}."
                )
        if self.correlation is not None and (
            self.correlation.shape != (2 * LAG + 1, 2 * LAG + 1)
            or not np.isclose(self.correlation[LAG, LAG], 1.0)
        ):
            raise IngestError(
                f"`correlation` must be of {2 * LAG + 1} by {2 * LAG + 1} lags, 1 in the middle, got shape "
                f"{self.correlation.shape}."
            )
        if self.psf is not None and (not np.isfinite(self.psf).all() or not self.psf.sum() > 0):
            raise IngestError("`psf` must be finite with a positive sum.")
        if self.fwhm is not None and not 0 < self.fwhm < 100:
            raise IngestError(f"`fwhm` must be positive (arcsec), got {self.fwhm}.")
        if not self.good.any():
            raise IngestError(f"`good` must have usable pixels; the image in {self.band} has none.")

    @property
    def pixel_scale(self) -> float:
        """Side of a pixel in arcsec: the square root of its area."""
        from astropy.wcs.utils import proj_plane_pixel_area

        return float(np.sqrt(proj_plane_pixel_area(self.wcs)) * 3600)


def plain_wcs(shape: tuple[int, int], scale: float, *, ra: float = 0.0, dec: float = 0.0) -> Any:
    """Tangential projection, north up and east left, with a position in the middle of an image.

    Parameters
    ----------
    shape
        (height, width) in pixels.
    scale
        arcsec per pixel.
    ra, dec
        Degrees, of the middle.
    """
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    wcs.wcs.set()
    return wcs
