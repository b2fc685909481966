"""Instruments: what a stamp of a survey looks like. Small descriptions, no code.

S/N here is *flux over noise*: the galaxy's total flux in a band divided by the standard deviation of one
pixel. It is what the image model is told of depth, because pixels reach it in units of their noise.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Instrument:
    """Bands, pixels, point spread function, depth and redshifts of a survey's stamps.

    Raises
    ------
    ValueError
        If the fields do not fit together; the message names the field.
    """

    name: str
    """Name, for files and messages."""
    bands: tuple[str, ...]
    """Filters by their sedpy names."""
    pixel_scale: float
    """arcsec per pixel."""
    n_pixel: int
    """Pixels along a side of the square stamp."""
    psf: Literal["moffat", "kolmogorov"]
    """Profile of the point spread function."""
    psf_fwhm: tuple[tuple[float, float], ...]
    """arcsec: range of the PSF's full width at half maximum in each band."""
    depth: tuple[float, ...]
    """AB magnitude of a point source at 5 sigma in each band."""
    snr_log10: tuple[float, float]
    """log10 of flux over noise in the deepest band: the range that training covers."""
    zred: tuple[float, float]
    """Range of redshifts that training covers."""
    psf_beta: float = 3.0
    """Slope of the Moffat profile."""
    oversample: int = 3
    """Samples per pixel along a side when galaxies are drawn."""

    def __post_init__(self) -> None:
        n = len(self.bands)
        if n == 0 or len(set(self.bands)) != n:
            raise ValueError(f"`bands` must name each band once and at least one, got {self.bands}.")
        for name in ("psf_fwhm", "depth"):
            if len(getattr(self, name)) != n:
                raise ValueError(
                    f"`{name}` must have one entry per band: expected {n}, got {len(getattr(self, name))}."
                )
        if not (self.pixel_scale > 0 and self.n_pixel >= 8 and self.oversample >= 1):
            raise ValueError(
                "`pixel_scale` must be positive (arcsec), `n_pixel` at least 8 and `oversample` at least 1, "
                f"got {self.pixel_scale}, {self.n_pixel} and {self.oversample}."
            )
        if self.psf not in ("moffat", "kolmogorov"):
            raise ValueError(f"`psf` must be 'moffat' or 'kolmogorov', got {self.psf!r}.")
        if self.psf == "moffat" and not self.psf_beta > 1:
            raise ValueError(f"`psf_beta` must exceed 1, else the PSF has no total, got {self.psf_beta}.")
        ranges = {"snr_log10": self.snr_log10, "zred": self.zred}
        ranges |= {f"psf_fwhm[{i}]": pair for i, pair in enumerate(self.psf_fwhm)}
        for name, (low, high) in ranges.items():
            if not (math.isfinite(low) and low <= high < math.inf):
                raise ValueError(f"`{name}` must be a range (low, high), got ({low}, {high}).")
        if not self.zred[0] > 0:
            raise ValueError(f"`zred` must be positive, got {self.zred}.")

    @property
    def n_band(self) -> int:
        """Number of bands."""
        return len(self.bands)

    @property
    def reference_band(self) -> int:
        """Index of the band with the lowest noise."""
        noise = self.noise
        return noise.index(min(noise))

    @property
    def noise(self) -> tuple[float, ...]:
        r"""Noise of a pixel in maggies, from the depth at the middle of the range of the PSF.

        A point source of flux f in a Gaussian PSF of standard deviation s pixels has at best
        :math:`f / (\sigma \sqrt{4 \pi s^2})` as its S/N.
        """
        result = []
        for (low, high), depth in zip(self.psf_fwhm, self.depth, strict=True):
            width = 0.5 * (low + high) / 2.3548 / self.pixel_scale
            result.append(10 ** (-0.4 * depth) / 5 / math.sqrt(4 * math.pi * width**2))
        return tuple(result)


SDSS_GRIZ = Instrument(
    name="sdss-griz",
    bands=("sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0"),
    pixel_scale=0.396,
    n_pixel=32,
    psf="kolmogorov",
    psf_fwhm=((1.1, 1.8), (1.0, 1.7), (0.9, 1.6), (0.9, 1.6)),
    depth=(23.13, 22.70, 22.20, 20.71),
    snr_log10=(2.8, 4.2),
    zred=(0.05, 0.25),
    oversample=2,
)
"""Sloan Digital Sky Survey: pixels and seeing of York et al. (2000, AJ 120, 1579); median 5-sigma depths of
point sources as the survey's imaging pages give them."""

HST_F814W = Instrument(
    name="hst-f814w",
    bands=("acs_wfc_f814w",),
    pixel_scale=0.06,
    n_pixel=64,
    psf="moffat",
    psf_beta=3.0,
    psf_fwhm=((0.09, 0.12),),
    depth=(27.2,),
    snr_log10=(2.6, 4.2),
    zred=(0.2, 1.2),
    oversample=2,
)
"""HST/ACS F814W as in COSMOS (Koekemoer et al. 2007, ApJS 172, 196): its 5-sigma depth for point sources;
two by two of its 0.03 arcsec pixels are one here. A Moffat profile stands for the PSF's core."""

INSTRUMENTS = {instrument.name: instrument for instrument in (SDSS_GRIZ, HST_F814W)}
"""Instruments by name."""


def instrument(name: str) -> Instrument:
    """Instrument of a name.

    Raises
    ------
    ValueError
        If there is none; the message lists the names.
    """
    if name not in INSTRUMENTS:
        raise ValueError(f"`instrument` must be one of {', '.join(INSTRUMENTS)}, got {name!r}.")
    return INSTRUMENTS[name]
