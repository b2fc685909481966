r"""What one unit of a survey's pixels is in maggies (flux over 3631 Jy).

A zero point Z is the AB magnitude of one unit: factor :math:`10^{-0.4 Z}`.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from generative.ingest import IngestError

Survey = Literal["sdss", "legacy", "panstarrs", "des", "hsc", "hst", "jwst", "generic"]

SURVEYS: tuple[Survey, ...] = ("sdss", "legacy", "panstarrs", "des", "hsc", "hst", "jwst", "generic")

JANSKY_OF_MAGGY = 3631.0

LEGACY_SCALE = 0.262
"""arcsec: the pixels of the Legacy Surveys' coadds, to which their nanomaggies refer at any scale."""


def from_zero_point(zero_point: float) -> float:
    """Maggies of one unit whose AB magnitude is ``zero_point``."""
    return float(10 ** (-0.4 * zero_point))


def hst_zero_point(photflam: float, photplam: float) -> float:
    """AB zero point of HST pixels.

    Parameters
    ----------
    photflam
        Inverse sensitivity, erg/s/cm2/A for one unit.
    photplam
        Pivot wavelength, Angstrom.

    References
    ----------
    ACS Data Handbook, section 5.1: ZP_AB = -2.5 log10 PHOTFLAM - 5 log10 PHOTPLAM - 2.408.
    """
    return -2.5 * math.log10(photflam) - 5.0 * math.log10(photplam) - 2.408


def from_surface_brightness(pixel_steradian: float) -> float:
    """Maggies per pixel of one MJy/sr, for pixels of a solid angle in steradian."""
    return 1e6 * pixel_steradian / JANSKY_OF_MAGGY


def panstarrs_linear(
    pixels: Float[np.ndarray, "height width"], offset: float, softening: float
) -> Float[np.ndarray, "height width"]:
    """Linear pixels of a Pan-STARRS stack that was stored as asinh magnitudes.

    Stored is x = a asinh((v - offset) / (2 softening)) with a = 2.5 / ln 10; Waters et al. (2020,
    ApJS 251, 4), section 7; ``BOFFSET`` and ``BSOFTEN`` of the header.
    """
    return np.asarray(offset + 2 * softening * np.sinh(pixels * (math.log(10) / 2.5)))


def survey_of(header: Mapping[str, Any]) -> Survey:
    """Survey that wrote a FITS header.

    Raises
    ------
    IngestError
        If the header has marks of none.
    """
    text = {
        key: str(header.get(key, "")).lower()
        for key in ("SURVEY", "TELESCOP", "ORIGIN", "PIPELINE", "BUNIT", "DES_EXT", "PSCAMERA", "INSTRUME")
    }
    if text["SURVEY"].startswith(("legacysurvey", "decals", "mzls", "bass")):
        return "legacy"
    if text["DES_EXT"] or "TILENAME" in header:
        return "des"
    if text["TELESCOP"] == "jwst" or ("PIXAR_SR" in header and "mjy" in text["BUNIT"]):
        return "jwst"
    if "PHOTFLAM" in header and "PHOTPLAM" in header:
        return "hst"
    if "FLUXMAG0" in header:
        return "hsc"
    if "HIERARCH FPA.ZP" in header or "FPA.ZP" in header:
        return "panstarrs"
    if "nanomaggy" in text["BUNIT"] or "NMGY" in header:
        return "sdss"
    raise IngestError(
        "`survey` must be given: the header has no marks of SDSS (BUNIT nanomaggy), the Legacy Surveys "
        "(SURVEY), Pan-STARRS (FPA.ZP), DES (TILENAME), HSC (FLUXMAG0), HST (PHOTFLAM) or JWST (PIXAR_SR). "
        "For "
        "others: survey='generic' and a zero point."
    )


def maggies_per_unit(
    header: Mapping[str, Any], survey: Survey, *, pixel_scale: float, zero_point: float | None = None
) -> float:
    """Maggies per pixel of one unit of a survey's image.

    Parameters
    ----------
    header
        Of the image; for HST and JWST with the keywords of the primary one, if they are only there.
    survey
        One of `SURVEYS`.
    pixel_scale
        arcsec.
    zero_point
        AB magnitude of one unit; overrules the header.

    Raises
    ------
    IngestError
        If the header lacks what the survey's unit needs; the message names the keyword.
    """
    if zero_point is not None:
        if not -10 < zero_point < 45:
            raise IngestError(f"`zero_point` must be an AB magnitude between -10 and 45, got {zero_point}.")
        return from_zero_point(zero_point)
    if survey == "sdss":
        unit = str(header.get("BUNIT", "")).lower()
        if unit != "nanomaggy":
            raise IngestError(
                f"`BUNIT` must be 'nanomaggy' in an SDSS frame, got {unit!r}. Uncalibrated images (fpC, DR7 "
                "and "
                "older) must be calibrated first; or give their zero point."
            )
        return 1e-9
    if survey == "legacy":
        # The cutout service resamples without rescaling: nanomaggies per 0.262 arcsec pixel at any scale.
        return 1e-9 * (pixel_scale / LEGACY_SCALE) ** 2
    if survey == "panstarrs":
        zero = float(_needed(header, ("HIERARCH FPA.ZP", "FPA.ZP"), survey))
        return from_zero_point(zero + 2.5 * math.log10(float(_needed(header, ("EXPTIME",), survey))))
    if survey == "des":
        return from_zero_point(float(_needed(header, ("MAGZERO", "MAGZPT"), survey)))
    if survey == "hsc":
        return 1.0 / float(_needed(header, ("FLUXMAG0",), survey))
    if survey == "jwst":
        unit = str(header.get("BUNIT", "")).replace(" ", "").lower()
        if unit != "mjy/sr":
            raise IngestError(f"`BUNIT` must be 'MJy/sr' in a JWST mosaic, got {unit!r}.")
        return from_surface_brightness(_jwst_solid_angle(header, pixel_scale))
    if survey == "hst":
        flam, plam = (float(_needed(header, (name,), survey)) for name in ("PHOTFLAM", "PHOTPLAM"))
        factor = from_zero_point(hst_zero_point(flam, plam))
        unit = str(header.get("BUNIT", "")).replace(" ", "").lower()
        if unit in ("electrons", "counts", "dn"):  # not per second
            return factor / float(_needed(header, ("EXPTIME",), survey))
        if not unit.endswith(("/s", "/sec")):
            raise IngestError(
                "`BUNIT` must say whether HST pixels are per second (ELECTRONS/S) or not (ELECTRONS), got "
                f"{unit!r}. "
                "Mosaics of surveys often lack it: give their zero point."
            )
        return factor
    raise IngestError(f"`zero_point` must be given for images of {survey!r}.")


def _jwst_solid_angle(header: Mapping[str, Any], pixel_scale: float) -> float:
    """Steradian of a pixel; ``PIXAR_SR`` where it fits the pixels, as it does not in redrizzled mosaics."""
    geometric = (pixel_scale * math.pi / 648000) ** 2
    told = float(header.get("PIXAR_SR", geometric))
    if abs(told / geometric - 1) > 0.05:
        raise IngestError(
            f"`PIXAR_SR` must be the solid angle of a pixel: it says {told:.4g} sr, but pixels of "
            f"{pixel_scale:.4f} "
            f"arcsec have {geometric:.4g}. The mosaic was resampled; remove the keyword, or give a zero "
            "point."
        )
    return told


def _needed(header: Mapping[str, Any], names: tuple[str, ...], survey: str) -> Any:
    for name in names:
        if name in header:
            return header[name]
    raise IngestError(
        f"`{names[-1]}` must be in the header of an image of {survey}; give the zero point instead."
    )
