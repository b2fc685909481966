"""Files of surveys to exposures.

What a file holds is told from its header (`generative.ingest.units.survey_of`) or by the caller. Error images
are read where a survey has them in the same file: ``invvar`` and ``maskbits`` of the Legacy Surveys,
weights of DES, variance and mask of HSC, ``ERR`` and ``DQ`` of JWST and HST.
"""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from generative.ingest import IngestError
from generative.ingest.exposure import Exposure, plain_wcs
from generative.ingest.units import Survey, from_zero_point, maggies_per_unit, panstarrs_linear, survey_of

LEGACY_BRIGHT = 1 << 1
"""Bit of the Legacy Surveys' maskbits that spoils a pixel in all bands: bright star."""

LEGACY_BAD_BITS = {
    "g": 1 << 2 | 1 << 5,
    "r": 1 << 3 | 1 << 6,
    "z": 1 << 4 | 1 << 7,
    "i": 1 << 14 | 1 << 15,
}
"""Bits that spoil it in one band: saturated, all masked (legacysurvey.org/dr10/bitmasks; i from DR10 on)."""

HST_GOOD_BITS = 32 | 64
"""Flags of HST's ``DQ`` that spoil nothing: tails of charge transfer or unstable pixels, and warm ones
(flags of the ACS and WFC3 Data Handbooks; AstroDrizzle's ``final_bits`` = 64, 32). Any other bit is bad."""

JWST_BAD_BITS = 1
"""``DO_NOT_USE`` of JWST's ``DQ``, which sums up the others."""

_QUALITY = (
    "ERR", "DQ", "WHT", "CON", "CTX", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT", "WGT", "WEIGHT", "MSK", "MASK",
    "VARIANCE", "VAR", "IVAR", "INVVAR", "MASKBITS", "PSF", "EXP", "EXPTIME", "SAMP", "TIME", "AREA",
)  # fmt: skip
"""Names of HDUs that hold no science image."""

HSC_BAD_PLANES = ("BAD", "SAT", "CR", "EDGE", "NO_DATA", "BRIGHT_OBJECT", "UNMASKEDNAN")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """HDUs of a FITS file.

    Raises
    ------
    FileNotFoundError, IngestError
        If there is no such file, or it is truncated or not FITS.
    """
    from astropy.io import fits

    if not path.is_file():
        raise FileNotFoundError(f"`path` names no file: {path}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keywords that break the standard, in many surveys
        content = io.BytesIO(path.read_bytes())
        try:
            hdus = fits.open(content, memmap=False)
            hdus.verify("silentfix")
            for hdu in hdus:
                _ = hdu.data  # a truncated file fails here
        except (OSError, TypeError, EOFError, ValueError) as error:
            raise IngestError(f"{path} is truncated or not a FITS file: {error}") from error
    with hdus:
        yield hdus


def read_exposures(
    path: Path,
    *,
    survey: Survey | None = None,
    band: str | None = None,
    zero_point: float | None = None,
    fwhm: float | Mapping[str, float] | None = None,
    psf: Path | Mapping[str, Path] | None = None,
    pixel_scale: float | None = None,
    hdu: int | None = None,
    default_band: str | None = None,
    position: tuple[float, float] | None = None,
) -> list[Exposure]:
    """Exposures of a FITS file: one, or one for each band of a Legacy Surveys cube.

    Parameters
    ----------
    path
        The file.
    survey
        Told from the header if not given; with a zero point, ``generic`` if the header has marks of none.
    band
        Name of the filter; the header's if not given.
    zero_point
        AB magnitude of one unit of the pixels; overrules the header.
    fwhm
        arcsec: width of point sources, for all bands or by band.
    psf
        FITS file with an image of a point source on the same pixels, for all bands or by band.
    pixel_scale
        arcsec, for images without coordinates; north is then taken to be up.
    hdu
        Number of the image's HDU; the only science image of the file if not given.
    default_band
        Name of the filter where neither ``band`` nor the header names it.
    position
        ra and dec (degrees) of the middle of an image without coordinates; (0, 0) if not given.

    Raises
    ------
    FileNotFoundError, IngestError
        If the file is not there, lacks what is needed or holds several science images; the message names it.

    Notes
    -----
    Planes of a cube without a usable pixel are left out. Where nothing else says what is no data, zeros of
    cutouts of the Legacy Surveys, of HST and of generic images are.
    """
    with _opened(path) as hdus:
        science = _science(hdus, path, hdu)
        header = hdus[0].header.copy()
        header.extend(science.header, update=True, strip=False)
        kind = survey or _survey_of(header, zero_point)
        data = np.asarray(science.data, float)
        wcs = _celestial(science.header, data.shape[-2:], pixel_scale, path, position)
        scale = _scale(wcs)
        factor = maggies_per_unit(header, kind, pixel_scale=scale, zero_point=zero_point)
        if data.ndim == 3:
            names = _cube_bands(header, data.shape[0], path)
        else:
            names = [band or _band_of(header, path, default_band)]
            data = data[None]
        if band is not None and data.shape[0] > 1:
            keep = names.index(band) if band in names else -1
            if keep < 0:
                raise IngestError(f"`band` must be one of {', '.join(names)} in {path}, got {band!r}.")
            data, names = data[keep : keep + 1], [band]
        if kind == "panstarrs" and "BSOFTEN" in header:
            offset, soften = float(header.get("BOFFSET", 0.0)), float(header["BSOFTEN"])
            data = np.stack([panstarrs_linear(plane, offset, soften) for plane in data])
        result = []
        for i, name in enumerate(names):
            variance, bad = _quality(hdus, science, kind, i, name)
            image = data[i] * factor
            good = np.isfinite(image)
            if bad is not None:
                good &= ~bad
            error = None
            if variance is not None:
                with np.errstate(invalid="ignore", divide="ignore"):
                    error = np.sqrt(variance) * factor
                good &= np.isfinite(error) & (error > 0)
                error = np.where(good, error, np.nan)
            if (kind == "legacy" and variance is None) or (kind in ("hst", "generic") and bad is None):
                good &= image != 0.0  # cutout services and drizzling fill what they have no data for
            if not good.any():
                continue
            result.append(
                Exposure(
                    name,
                    np.where(good, image, np.nan),
                    good,
                    wcs,
                    error,
                    read_psf(_of_band(psf, name)),
                    _width_of(fwhm, name),
                    kind,
                )
            )
        if not result:
            raise IngestError(f"{path} has no usable pixel in {', '.join(names)}.")
    return result


def _survey_of(header: Mapping[str, Any], zero_point: float | None) -> Survey:
    try:
        return survey_of(header)
    except IngestError:
        if zero_point is None:
            raise
        return "generic"


def read_record(
    path: Path, row: int, *, default_scale: float | None = None, zero_point: float | None = None
) -> list[Exposure]:
    """Exposures of one galaxy in an HDF5 file of the Multimodal Universe (arXiv:2412.02527).

    Read are ``image_array``, ``image_band``, ``image_ivar``, and, if there, ``image_mask``, ``bit_mask``,
    ``image_psf_fwhm`` and ``image_scale``. Pixels of ugrizy are nanomaggies, as the Legacy Surveys' are; of
    HSC's, whose zero point is 27, the bands' names say so; of other bands ``zero_point`` must (JWST's are
    10 nJy, 28.9).

    Parameters
    ----------
    path
        The file.
    row
        Number of the galaxy.
    default_scale
        arcsec per pixel, if the file has no ``image_scale``.
    zero_point
        AB magnitude of one unit of the pixels, if the bands' names do not tell.

    Raises
    ------
    FileNotFoundError, IngestError
        If the file is not there or lacks a data set, there is no such row, or the unit is not known.
    """
    import h5py

    if not path.is_file():
        raise FileNotFoundError(f"`path` names no file: {path}.")
    try:
        with h5py.File(path, "r") as file:
            names = ("image_array", "image_band", "image_ivar")
            missing = [name for name in names if name not in file]
            if missing:
                raise IngestError(f"{path} has no {missing[0]!r}; it holds {', '.join(sorted(file))}.")
            if not 0 <= row < len(file["image_array"]):
                raise IngestError(f"`row` must be below {len(file['image_array'])}, got {row}.")
            content = {
                name: file[name][row]
                for name in (*names, *_RECORD)
                if name in file and len(file[name].shape) > 0
            }
    except OSError as error:
        raise IngestError(f"{path} is truncated or not an HDF5 file: {error}") from error
    array, ivar = np.asarray(content["image_array"], float), np.asarray(content["image_ivar"], float)
    scale = float(np.mean(content["image_scale"])) if "image_scale" in content else default_scale
    if scale is None or not scale > 0:
        raise IngestError(f"{path} has no `image_scale`: give the arcsec per pixel.")
    bands = [b.decode() if isinstance(b, bytes) else str(b) for b in np.atleast_1d(content["image_band"])]
    factor = _record_unit(bands, zero_point, path)
    position = {name: float(content[name]) for name in ("ra", "dec") if name in content}
    result = []
    for i, name in enumerate(bands):
        good = np.isfinite(array[i]) & (ivar[i] > 0)
        for key, is_good in (("image_mask", True), ("bit_mask", False)):
            if key in content:
                mask = np.asarray(content[key])
                mask = mask if mask.ndim == 2 else mask[i]  # one for all bands, or one for each
                good &= mask.astype(bool) == is_good
        if not good.any():
            continue
        error_image = np.where(good, factor / np.sqrt(np.where(ivar[i] > 0, ivar[i], 1.0)), np.nan)
        fwhm = content.get("image_psf_fwhm")
        width = float(np.atleast_1d(fwhm)[i]) if fwhm is not None else None
        result.append(
            Exposure(
                name,
                np.where(good, array[i] * factor, np.nan),
                good,
                plain_wcs(array[i].shape, scale, **position),
                error_image,
                None,
                width if width and np.isfinite(width) and width > 0 else None,
                "generic",
            )
        )
    if not result:
        raise IngestError(f"{path} has no usable pixel in row {row}.")
    return result


_RECORD = ("image_mask", "bit_mask", "image_psf_fwhm", "image_scale", "ra", "dec")
"""What a record may have besides."""


def _record_unit(bands: list[str], zero_point: float | None, path: Path) -> float:
    """Maggies per unit of a record's pixels."""
    if zero_point is not None:
        return from_zero_point(zero_point)
    if all(b.lower().startswith("hsc") for b in bands):
        return from_zero_point(27.0)
    other = [
        b for b in bands if b.lower().replace("-", "_").rstrip("0").split("_")[-1] not in tuple("ugrizy")
    ]
    if other:
        raise IngestError(
            f"`zero_point` must be given for {path}: the unit of {other[0]} is not known. JWST's records are "
            "in 10 nJy: 28.9."
        )
    return 1e-9


def _science(hdus: Any, path: Path, hdu: int | None) -> Any:
    if hdu is not None:
        if not 0 <= hdu < len(hdus) or hdus[hdu].data is None or np.ndim(hdus[hdu].data) not in (2, 3):
            raise IngestError(f"`hdu` must be the number of an image in {path}, got {hdu} of {len(hdus)}.")
        return hdus[hdu]
    images = [
        (i, one)
        for i, one in enumerate(hdus)
        if getattr(one, "is_image", False) and one.data is not None and one.data.ndim in (2, 3)
    ]
    if not images:
        raise IngestError(f"{path} holds no image with two or three axes.")
    named = [(i, one) for i, one in images if str(one.name).upper() in ("SCI", "IMAGE")]
    science = named or [(i, one) for i, one in images if not _is_quality(one)] or images[:1]
    if len(science) > 1:
        there = ", ".join(f"{i} ({one.name or 'no name'})" for i, one in science)
        raise IngestError(f"`hdu` must be given: {path} holds {len(science)} science images, {there}.")
    return science[0][1]


def _is_quality(hdu: Any) -> bool:
    kind = str(hdu.header.get("IMAGETYP", "")).strip().lower()
    return str(hdu.name).upper() in _QUALITY or kind in ("invvar", "maskbits")


def _celestial(
    header: Any,
    shape: tuple[int, ...],
    pixel_scale: float | None,
    path: Path,
    position: tuple[float, float] | None,
) -> Any:
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs = WCS(header, naxis=2) if header.get("NAXIS", 2) != 3 else WCS(header).celestial
    if wcs.has_celestial:
        return wcs
    if pixel_scale is None:
        raise IngestError(f"{path} has no celestial coordinates: give `pixel_scale`, arcsec per pixel.")
    ra, dec = position or (0.0, 0.0)
    return plain_wcs((int(shape[0]), int(shape[1])), pixel_scale, ra=ra, dec=dec)


def _scale(wcs: Any) -> float:
    from astropy.wcs.utils import proj_plane_pixel_area

    return float(np.sqrt(proj_plane_pixel_area(wcs)) * 3600)


def _cube_bands(header: Mapping[str, Any], n: int, path: Path) -> list[str]:
    bands = str(header.get("BANDS", "")).strip()
    names = [str(header.get(f"BAND{i}", bands[i] if i < len(bands) else "")).strip() for i in range(n)]
    if "" in names:
        raise IngestError(f"{path} has {n} planes, and `BANDS` of its header does not name them: {bands!r}.")
    return names


def _band_of(header: Mapping[str, Any], path: Path, default: str | None) -> str:
    for key in ("BAND", "FILTER", "HIERARCH FPA.FILTER", "FPA.FILTER", "FILTER1", "FILTER2"):
        value = str(header.get(key, "")).strip()
        if value and not value.upper().startswith("CLEAR"):
            return value.split()[0].split(".")[0]
    if default is not None:
        return default
    raise IngestError(f"`band` must be given: the header of {path} does not name a filter.")


def _named(hdus: Any, science: Any, *names: str) -> Any:
    """HDU with one of these names; of several, that with the version (``EXTVER``) of the science image."""
    found = [hdu for hdu in hdus if str(hdu.name).upper() in names and hdu.data is not None]
    same = [hdu for hdu in found if hdu.ver == science.ver]
    if len(found) > 1:
        return same[0] if same else None
    return found[0] if found else None


def _quality(
    hdus: Any, science: Any, kind: Survey, plane: int, band: str
) -> tuple[Float[np.ndarray, "height width"] | None, Any]:
    """Variance in the file's units, and bad pixels, where the file has them."""
    shape = science.data.shape[-2:]

    def data_of(hdu: Any) -> Any:
        if hdu is None:
            return None
        array = np.asarray(hdu.data)
        array = array[plane] if array.ndim == 3 and plane < array.shape[0] else array
        return array if array.shape == shape else None

    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "legacy":
            inverse, bits = data_of(_typed(hdus, "invvar")), data_of(_typed(hdus, "maskbits"))
            variance = None if inverse is None else np.where(inverse > 0, 1 / inverse.astype(float), np.nan)
            return variance, None if bits is None else _legacy_bad(bits, band)
        if kind == "des":
            weight = data_of(_named(hdus, science, "WGT", "WEIGHT"))
            bits = data_of(_named(hdus, science, "MSK", "MASK"))
            variance = None if weight is None else np.where(weight > 0, 1 / weight.astype(float), np.nan)
            return variance, None if bits is None else bits != 0
        if kind == "hsc":
            variance, mask = data_of(_named(hdus, science, "VARIANCE")), _named(hdus, science, "MASK")
            bits = data_of(mask)
            return (
                None if variance is None else variance.astype(float),
                None if bits is None else _hsc_bad(bits, mask.header),
            )
        if kind in ("jwst", "hst", "generic"):
            error, flags = data_of(_named(hdus, science, "ERR")), data_of(_named(hdus, science, "DQ"))
            weight = data_of(_named(hdus, science, "WHT"))
            bad = None if weight is None else ~(weight > 0)
            if flags is not None and kind != "generic":
                wrong = flags.astype(int) & (JWST_BAD_BITS if kind == "jwst" else ~HST_GOOD_BITS) != 0
                bad = wrong if bad is None else bad | wrong
            told = kind != "generic" and error is not None
            return error.astype(float) ** 2 if told else None, bad
    return None, None


def _typed(hdus: Any, kind: str) -> Any:
    """HDU of a Legacy Surveys cutout by what its ``IMAGETYP`` says."""
    for hdu in hdus:
        if hdu.data is not None and str(hdu.header.get("IMAGETYP", hdu.name)).strip().lower() == kind:
            return hdu
    return None


def _legacy_bad(bits: np.ndarray, band: str) -> np.ndarray:
    """Bad pixels of the Legacy Surveys in a band; in one without bits of its own, those of every band."""
    every = 0
    for value in LEGACY_BAD_BITS.values():
        every |= value
    return np.asarray((bits.astype(int) & (LEGACY_BRIGHT | LEGACY_BAD_BITS.get(band.lower(), every))) != 0)


def _hsc_bad(bits: np.ndarray, header: Mapping[str, Any]) -> np.ndarray:
    """Bad pixels of HSC: the mask planes have their numbers in the header, ``MP_SAT`` and so on."""
    value = 0
    for plane in HSC_BAD_PLANES:
        if f"MP_{plane}" in header:
            value |= 1 << int(header[f"MP_{plane}"])
    return np.asarray((bits.astype(int) & value) != 0)


def _of_band(psf: Path | Mapping[str, Path] | None, band: str) -> Path | None:
    return psf.get(band) if isinstance(psf, Mapping) else psf


def _width_of(fwhm: float | Mapping[str, float] | None, band: str) -> float | None:
    value = fwhm.get(band) if isinstance(fwhm, Mapping) else fwhm
    return None if value is None else float(value)


def read_psf(path: Path | None) -> Float[np.ndarray, "side side"] | None:
    """Image of a point source, from a FITS file; None for None.

    Raises
    ------
    FileNotFoundError, IngestError
        If there is no such file, or it holds no single image.
    """
    if path is None:
        return None
    with _opened(path) as hdus:
        numbers = [i for i, one in enumerate(hdus) if one.is_image and np.ndim(one.data) in (2, 3)]
        data = np.asarray(_science(hdus, path, numbers[0] if numbers else None).data, float)
    if data.ndim != 2:
        raise IngestError(f"`psf` must be one image, got {data.shape} in {path}.")
    return np.asarray(np.nan_to_num(data))
