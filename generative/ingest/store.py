"""Stamps on disk: HDF5 that `hbm compile` reads, and a table of fluxes and flags.

The HDF5 file has the Multimodal Universe's layout (arXiv:2412.02527), in nanomaggies: ``image_array``,
``image_band``, ``image_ivar`` (of the sky's noise, the same for all pixels that count, 0 for the others),
``image_mask``, ``image_psf_fwhm``, ``image_scale``, ``object_id``, ``ra``, ``dec``, ``zred``, and total
fluxes in ``flux``.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generative.ingest import IngestError
from generative.ingest.stamp import Stamp
from generative.instrument import Instrument

NANOMAGGIES = 1e9


def stamp_columns(stamps: Sequence[Stamp], instrument: Instrument) -> dict[str, np.ndarray]:
    """Data sets of the HDF5 file, one row per stamp.

    Raises
    ------
    IngestError
        If there is none, or identifiers repeat.
    """
    if not stamps:
        raise IngestError("`stamps` must hold at least one stamp.")
    names = [stamp.id for stamp in stamps]
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise IngestError(f"`stamps` must have different identifiers, but {repeated!r} repeats.")
    observed = np.stack([stamp.observed for stamp in stamps])
    image = np.stack([stamp.image for stamp in stamps]) * NANOMAGGIES
    noise = np.stack([stamp.noise for stamp in stamps]) * NANOMAGGIES
    with np.errstate(invalid="ignore", divide="ignore"):
        ivar = np.where(observed, 1.0 / noise[..., None, None] ** 2, 0.0)
    fwhm = np.stack([stamp.fwhm for stamp in stamps])
    middle = np.mean(instrument.psf_fwhm, axis=1)  # of a band without an image: not used
    return {
        "object_id": np.asarray(names, dtype="S"),
        "ra": np.asarray([stamp.ra for stamp in stamps]),
        "dec": np.asarray([stamp.dec for stamp in stamps]),
        "zred": np.asarray([stamp.zred for stamp in stamps]),
        "image_array": np.where(observed, image, 0.0).astype(np.float32),
        "image_band": np.asarray([instrument.bands] * len(stamps), dtype="S"),
        "image_ivar": ivar.astype(np.float32),
        "image_mask": observed,
        "image_psf_fwhm": np.where(np.isfinite(fwhm), fwhm, middle).astype(np.float32),
        "image_scale": np.full((len(stamps), instrument.n_band), instrument.pixel_scale, np.float32),
        "flux": (np.stack([stamp.flux for stamp in stamps]) * NANOMAGGIES).astype(np.float32),
        "flux_err": (np.stack([stamp.flux_err for stamp in stamps]) * NANOMAGGIES).astype(np.float32),
        "flags": np.asarray([flag_names(stamp) for stamp in stamps], dtype="S"),
    }


def flag_names(stamp: Stamp) -> str:
    """Names of a stamp's flags, each once, with commas; a star marks what the model was not trained on."""
    names = dict.fromkeys(f.name + ("*" if f.outside else "") for f in stamp.flags)
    return ",".join(names)


def write_columns(
    columns: dict[str, np.ndarray], path: Path, attributes: dict[str, str] | None = None
) -> None:
    """Write data sets to an HDF5 file, whole or not at all."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, values in columns.items():
            large = values.ndim > 2
            file.create_dataset(
                name, data=values, compression="gzip" if large else None, shuffle=large or None
            )
        for name, value in (attributes or {}).items():
            file.attrs[name] = value
    write_whole(path, buffer.getvalue())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_stamps(stamps: Sequence[Stamp], instrument: Instrument, path: Path) -> None:
    """Write stamps to the HDF5 file that `hbm compile` and `hbm train` read."""
    write_columns(
        stamp_columns(stamps, instrument), path, {"instrument": instrument.name, "unit": "nanomaggies"}
    )


def flux_table(stamps: Sequence[Stamp], rejected: dict[str, str] | None = None) -> Any:
    """`astropy.table.Table` as `hbm.read_catalog` reads it, with positions, conditions and flags.

    Columns ``id``, ``zred``, and for each filter that images were taken with (`Stamp.filters`) the total flux
    and ``_err`` in maggies, nan for galaxies without; then ``ra``, ``dec``, and for the instrument's bands
    ``<band>_in_stamp`` (the flux that is in the stamp), ``<band>_fwhm`` (arcsec), ``<band>_noise`` (maggies
    per pixel), ``flags`` and their text. Galaxies that were refused are in ``meta["rejected"]``.
    """
    from astropy.table import Table

    table = Table({"id": [s.id for s in stamps], "zred": [s.zred for s in stamps]})
    by_band = zip(*(s.filters for s in stamps), strict=True)
    for name in dict.fromkeys(name for names in by_band for name in names):
        place = [s.filters.index(name) if name in s.filters else None for s in stamps]
        for column, values in ((name, "flux_field"), (f"{name}_err", "flux_err")):
            table[column] = [
                np.nan if i is None else getattr(s, values)[i] for s, i in zip(stamps, place, strict=True)
            ]
    table["ra"], table["dec"] = [s.ra for s in stamps], [s.dec for s in stamps]
    for i, band in enumerate(stamps[0].bands if stamps else ()):
        table[f"{band}_in_stamp"] = [s.flux[i] for s in stamps]
        table[f"{band}_fwhm"] = [s.fwhm[i] for s in stamps]
        table[f"{band}_noise"] = [s.noise[i] for s in stamps]
    table["flags"] = [flag_names(s) for s in stamps]
    table["why"] = ["; ".join(flag.text for flag in s.flags) for s in stamps]
    table.meta["FLUXUNIT"] = "maggies"
    table.meta["rejected"] = dict(rejected or {})
    return table


def write_flux_table(stamps: Sequence[Stamp], path: Path, rejected: dict[str, str] | None = None) -> None:
    """Write `flux_table` as ECSV, whole or not at all."""
    text = io.StringIO()
    flux_table(stamps, rejected).write(text, format="ascii.ecsv")
    write_whole(path, text.getvalue().encode())
