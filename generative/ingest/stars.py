"""The width of point sources, measured from the stars of an image."""

import numpy as np

from generative.ingest import IngestError
from generative.ingest.exposure import Exposure
from generative.ingest.psf import fitted_fwhm


def measured_fwhm(exposure: Exposure, *, beta: float = 4.765, least: int = 3) -> float:
    """Width in arcsec of the stars in an image: that which the most compact bright sources agree on.

    Each bright source that stands alone is fitted with a Moffat profile. Stars are the narrowest, and all of
    one width: the median of the narrowest group of ``least`` and more that agree within 8 %, with at most one
    narrower source, which may be a flaw.

    Parameters
    ----------
    exposure
        A field with stars; an arcminute or more away from the galactic plane.
    beta
        Slope of the profile.
    least
        Stars that have to agree.

    Raises
    ------
    IngestError
        If fewer sources agree; the message has the widths found.
    """
    widths = np.sort(np.asarray(_widths(exposure, beta)))
    for first in range(min(2, len(widths))):
        group = widths[first:][widths[first:] <= 1.08 * widths[first]]
        if len(group) >= least:
            return float(np.median(group))
    found = ", ".join(f"{w:.2f}" for w in widths[:8]) or "none"
    raise IngestError(
        f"`fwhm` in {exposure.band} cannot be measured: {least} stars must agree within 8 %, and the bright "
        "compact "
        f"sources are {found} arcsec wide. Give `fwhm` or `psf`, or a larger image."
    )


def _widths(exposure: Exposure, beta: float, snr: float = 30.0) -> list[float]:
    """arcsec, of bright sources that stand alone."""
    from astropy.stats import sigma_clipped_stats
    from scipy.ndimage import gaussian_filter, maximum_filter

    image = np.where(exposure.good, np.nan_to_num(exposure.image), 0.0)
    _, level, spread = sigma_clipped_stats(image[exposure.good], sigma=3.0, maxiters=10)
    image = np.where(exposure.good, image - level, 0.0)
    smooth = gaussian_filter(image, 1.0)
    reach = 8
    is_peak = (smooth == maximum_filter(smooth, size=2 * reach + 1)) & (smooth > snr * spread)
    widths = []
    for row, column in np.argwhere(is_peak):
        rows, columns = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
        stamp = image[rows, columns] if row >= reach and column >= reach else np.empty((0, 0))
        if stamp.shape != (2 * reach + 1, 2 * reach + 1) or not exposure.good[rows, columns].all():
            continue
        try:
            widths.append(fitted_fwhm(stamp, beta) * exposure.pixel_scale)
        except IngestError:
            continue
    return widths
