"""Archives and their interfaces: what is asked, and what comes back as files.

Each function writes FITS files to a folder, named by galaxy and band, and returns what it wrote; `hbm image`
reads them.

- SDSS: SkyServer's SQL search (skyserver.sdss.org, SqlSearch) for field and PSF, frames of the Science
  Archive Server (data.sdss.org/sas), cut to size.
- Legacy Surveys: the viewer's fits-cutout (legacysurvey.org/viewer), with inverse variance and mask bits.
- Deep fields of HST (CANDELS, 3D-DASH and others): MAST's Zcut (mast.stsci.edu/zcut).
"""

import bz2
import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from generative.ingest.download import DownloadError
from generative.ingest.download.transport import Fetcher
from generative.ingest.store import write_whole

SKYSERVER = "https://skyserver.sdss.org/dr17/SkyServerWS/SearchTools/SqlSearch"
FRAMES = "https://data.sdss.org/sas/dr17/eboss/photoObj/frames"
LEGACY = "https://www.legacysurvey.org/viewer/fits-cutout"
ZCUT = "https://mast.stsci.edu/zcut/api/v0.1/astrocut"

SDSS_SCALE, LEGACY_SCALE = 0.396, 0.262


class Downloaded(NamedTuple):
    """What was written for a galaxy."""

    files: dict[str, Path]
    """By band, or by name."""
    fwhm: dict[str, float]
    """arcsec by band, where the archive knows the width of point sources."""
    notes: dict[str, Any]
    """Further things the archive said, such as a redshift."""


def check_request(ra: float, dec: float, size: float) -> None:
    """Refuse positions and sizes that make no sense.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if not (0 <= ra < 360 and -90 <= dec <= 90):
        raise ValueError(f"`ra` must be in [0, 360) and `dec` in [-90, 90] degrees, got {ra} and {dec}.")
    if not 5 <= size <= 600:
        raise ValueError(f"`size` must be between 5 and 600 arcsec, got {size}.")


def fetch_legacy(
    fetch: Fetcher, name: str, ra: float, dec: float, folder: Path, *, size: float = 60.0,
    bands: str = "griz", layer: str = "ls-dr10",
) -> Downloaded:  # fmt: skip
    """Cutout of the Legacy Surveys: one cube, with inverse variance and mask bits.

    Parameters
    ----------
    fetch
        Transport.
    name
        Of the galaxy, for the file.
    ra, dec
        Degrees.
    folder
        Where to write.
    size
        arcsec along a side. Pixels are those of the coadds, 0.262 arcsec: others would be resampled.
    bands
        Letters.
    layer
        ``ls-dr10``, ``ls-dr9``, ``ls-dr9-north`` and so on.

    Raises
    ------
    DownloadError
        If there is no image, or one that is empty (outside of the survey).
    ValueError
        If position or size make no sense.
    """
    from astropy.io import fits

    check_request(ra, dec, size)
    parameters = {
        "ra": f"{ra:.6f}", "dec": f"{dec:.6f}", "layer": layer, "pixscale": LEGACY_SCALE, "bands": bands,
        "size": round(size / LEGACY_SCALE), "invvar": 1, "maskbits": 1,
    }  # fmt: skip
    content = fetch(LEGACY, parameters)
    if not content.startswith(b"SIMPLE"):
        fetch.forget(LEGACY, parameters)
        raise DownloadError(f"{LEGACY} has no image of {layer} at {ra:.5f} {dec:.5f}: {content[:120]!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of truncated files, which fail at their data
            with fits.open(io.BytesIO(content)) as hdus:
                filled = [bool(np.any(hdu.data)) for hdu in hdus]
    except (OSError, ValueError, TypeError, EOFError) as error:
        fetch.forget(LEGACY, parameters)
        raise DownloadError(f"{LEGACY} answers with a truncated FITS file: {error}") from error
    if not filled[0]:
        raise DownloadError(f"{layer} does not cover {ra:.5f} {dec:.5f}: the image is empty.")
    path = folder / f"{name}.fits"
    write_whole(path, content)
    return Downloaded({bands: path}, {}, {})


def sdss_query(ra: float, dec: float, radius: float) -> str:
    """SQL for the nearest photometric object: field, widths of the PSF, and the redshift of its spectrum."""
    widths = ", ".join(f"f.psfWidth_{band}" for band in "ugriz")
    return (
        f"SELECT TOP 1 p.objID, p.ra, p.dec, p.run, p.rerun, p.camcol, p.field, {widths}, s.z, s.specObjID "
        f"FROM dbo.fGetNearestObjEq({ra:.6f}, {dec:.6f}, {radius / 60:.4f}) AS n "
        "JOIN PhotoObj AS p ON p.objID = n.objID JOIN Field AS f ON f.fieldID = p.fieldID "
        "LEFT JOIN SpecObj AS s ON s.bestObjID = p.objID"
    )


def fetch_sdss(
    fetch: Fetcher, name: str, ra: float, dec: float, folder: Path, *, size: float = 60.0,
    bands: str = "griz", radius: float = 3.0,
) -> Downloaded:  # fmt: skip
    """Cutouts of the calibrated, sky-subtracted frame that an SDSS object was measured on.

    Parameters
    ----------
    fetch, name, ra, dec, folder, size, bands
        As in `fetch_legacy`.
    radius
        arcsec within which the object must be.

    Returns
    -------
    Downloaded
        Files by band, the field's width of the PSF, and ``objID``, ``z``, ``specObjID`` where there are.

    Raises
    ------
    DownloadError
        If there is no object there, or the frame does not reach the position.
    ValueError
        If position or size make no sense.
    """
    check_request(ra, dec, size)
    query = {"cmd": sdss_query(ra, dec, radius), "format": "csv"}
    try:
        row = _first_row(fetch(SKYSERVER, query), ra, dec)
        run, camcol, number = int(row["run"]), int(row["camcol"]), int(row["field"])
    except (DownloadError, ValueError, KeyError) as error:
        fetch.forget(SKYSERVER, query)
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(f"{SKYSERVER} answers with an incomplete row: {error}") from error
    files, fwhm = {}, {}
    for band in bands:
        address = (
            f"{FRAMES}/{row['rerun']}/{run}/{camcol}/frame-{band}-{run:06d}-{camcol}-{number:04d}.fits.bz2"
        )
        try:
            cut = cut_frame(bz2.decompress(fetch(address)), ra, dec, size, band)
        except (OSError, ValueError, TypeError, EOFError) as error:
            if isinstance(error, DownloadError):
                raise
            fetch.forget(address)
            raise DownloadError(f"{address} is no bzip2 file of a FITS image: {error}") from error
        path = folder / f"{name}_{band}.fits"
        write_whole(path, cut)
        files[band] = path
        width = float(row.get(f"psfWidth_{band}") or "nan")
        if width > 0:
            fwhm[band] = width
    notes = {key: row[key] for key in ("objID", "specObjID", "z") if row.get(key) not in (None, "", "null")}
    return Downloaded(files, fwhm, notes)


def _first_row(content: bytes, ra: float, dec: float) -> dict[str, str]:
    """Row of SkyServer's CSV, whose first line is ``#Table1``."""
    lines = [
        line for line in content.decode(errors="replace").splitlines() if line and not line.startswith("#")
    ]
    if not lines or "," not in lines[0] or "objID" not in lines[0]:
        raise DownloadError(f"{SKYSERVER} answers: {content[:200].decode(errors='replace').strip()!r}")
    if len(lines) < 2:
        raise DownloadError(f"SDSS has no object at {ra:.5f} {dec:.5f}.")
    return dict(zip(lines[0].split(","), lines[1].split(","), strict=True))


def cut_frame(frame: bytes, ra: float, dec: float, size: float, band: str) -> bytes:
    """Part of an SDSS frame around a position, as a FITS file.

    Raises
    ------
    DownloadError
        If the frame does not hold the position.
    """
    import warnings

    from astropy.coordinates import SkyCoord
    from astropy.io import fits
    from astropy.nddata import Cutout2D, NoOverlapError
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old keywords
        with fits.open(io.BytesIO(frame)) as hdus:
            header = hdus[0].header
            side = round(size / SDSS_SCALE)
            try:
                part = Cutout2D(
                    hdus[0].data,
                    SkyCoord(ra, dec, unit="deg"),
                    side,
                    WCS(header),
                    mode="partial",
                    fill_value=np.nan,
                )
            except NoOverlapError as error:
                raise DownloadError(f"the frame in {band} does not hold {ra:.5f} {dec:.5f}.") from error
            cut = part.wcs.to_header()
            for key in ("BUNIT", "NMGY", "RUN", "CAMCOL", "FRAME", "MJD-OBS"):
                if key in header:
                    cut[key] = header[key]
            cut["BAND"] = band
            result = io.BytesIO()
            fits.PrimaryHDU(np.asarray(part.data, np.float32), cut).writeto(result)
    return result.getvalue()


def fetch_zcut(
    fetch: Fetcher,
    name: str,
    ra: float,
    dec: float,
    folder: Path,
    *,
    size: float = 6.0,
    survey: str | None = None,
) -> Downloaded:
    """Cutouts of deep fields of HST at MAST, all filters and fields that hold the position.

    Parameters
    ----------
    fetch, name, ra, dec, folder
        As in `fetch_legacy`.
    size
        arcsec along a side.
    survey
        Of Zcut, such as ``candels_gn_30mas``; all by default.

    Returns
    -------
    Downloaded
        Files by name. A mosaic's zero point is in its documentation if the header has no PHOTFLAM.

    Raises
    ------
    DownloadError
        If no field holds the position.
    ValueError
        If position or size make no sense.
    """
    check_request(ra, dec, size)
    parameters: dict[str, Any] = {
        "ra": f"{ra:.6f}", "dec": f"{dec:.6f}", "x": size / 3600, "y": size / 3600, "units": "d",
        "cutout_format": "fits",
    }  # fmt: skip
    if survey is not None:
        parameters["survey"] = survey
    content = fetch(ZCUT, parameters)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {
                n: archive.read(n) for n in archive.namelist() if n.lower().endswith((".fits", ".fits.gz"))
            }
    except zipfile.BadZipFile as error:
        fetch.forget(ZCUT, parameters)
        raise DownloadError(f"{ZCUT} answers: {content[:200].decode(errors='replace').strip()!r}") from error
    if not members:
        raise DownloadError(f"no deep field at MAST holds {ra:.5f} {dec:.5f}.")
    files = {}
    for member, data in members.items():
        plain = re.sub(r"[^A-Za-z0-9_.+-]", "_", Path(member).name)  # no folders out of an archive
        files[plain] = folder / f"{name}_{plain}"
        write_whole(files[plain], data)
    return Downloaded(files, {}, {})
