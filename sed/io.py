"""Grids from and to disk: our HDF5 layout, and that of DSPS."""

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sed.ssp import DustEmissionTable, NebularTable, SSPGrid

FORMAT = "galaxy-hbm SSP grid 1"
"""Value of the file attribute ``format``."""

_DSPS_KEYS = ("ssp_lgmet", "ssp_lg_age_gyr", "ssp_wave", "ssp_flux")


def default_grid_path() -> Path:
    """Path of the grid that ships with the package."""
    return Path(str(resources.files("sed") / "data" / "grid_parsec_ck04_chabrier.h5"))


def load_grid(path: str | Path | None = None, *, zsun: float = 0.0142) -> SSPGrid:
    """Read a grid of simple stellar populations.

    Parameters
    ----------
    path
        A file written by `save_grid`, or one in the layout of DSPS (``ssp_lgmet``, ``ssp_lg_age_gyr``,
        ``ssp_wave``, ``ssp_flux``); the shipped grid if None.
    zsun
        Solar metallicity, used for DSPS files only, whose metallicities are absolute.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a grid.
    """
    path = default_grid_path() if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must name a grid file, there is none at {path}.")
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") == FORMAT:
                return _read(file)
            if all(key in file for key in _DSPS_KEYS):
                return _read_dsps(file, zsun)
            keys = sorted(file)
    except OSError as error:
        raise ValueError(f"`path` must be an HDF5 file, {path} cannot be read: {error}.") from error
    raise ValueError(
        f"`path` must hold a grid written by `hbm grid build` or in DSPS's layout {_DSPS_KEYS}; "
        f"{path} holds {keys}."
    )


def save_grid(grid: SSPGrid, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a grid: to a temporary name first, so that no half-written file is left.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is False.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"`path` {path} exists; give overwrite=True to replace it.")
    temporary = path.with_name(path.name + ".partial")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["format"] = FORMAT
            file.attrs["provenance"] = grid.provenance_json
            _write(file, "wave", grid.wave, "Angstrom, vacuum, rest frame")
            _write(file, "log_age", grid.log_age, "log10 yr")
            _write(file, "logzsol", grid.logzsol, "log10 Zsun")
            _write(file, "flux", grid.flux, "Lsun/Hz per Msun formed; axes met, age, wave")
            if grid.mstar is not None:
                _write(file, "mstar", grid.mstar, "surviving mass per mass formed; axes met, age")
            if grid.nebular is not None:
                _write_nebular(file.create_group("nebular"), grid.nebular)
            if grid.dust_emission is not None:
                group = file.create_group("dust_emission")
                _write(group, "qpah", grid.dust_emission.qpah, "percent")
                _write(group, "umin", grid.dust_emission.umin, "")
                _write(group, "shape", grid.dust_emission.shape, "per Hz, one common factor")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(group: Any, name: str, value: Any, units: str) -> None:
    value = np.asarray(value)
    data = group.create_dataset(name, data=value, compression="gzip", compression_opts=9, shuffle=True)
    data.attrs["units"] = units


def _write_nebular(group: Any, table: NebularTable) -> None:
    _write(group, "gas_logz", table.gas_logz, "log10 Zsun")
    _write(group, "gas_logu", table.gas_logu, "")
    _write(group, "line_wave", table.line_wave, "Angstrom, vacuum")
    _write(group, "line_sigma", table.line_sigma, "Angstrom")
    _write(group, "line_loglum", table.line_loglum, "log10 Lsun per 1e46 ionizing photons/s")
    group.attrs["line_name"] = json.dumps(table.line_name)
    if table.continuum is not None:
        _write(group, "continuum", table.continuum, "log10 Lsun/Hz per 1e46 ionizing photons/s")


def _read(file: Any) -> SSPGrid:
    nebular = dust = None
    if "nebular" in file:
        group = file["nebular"]
        nebular = NebularTable(
            gas_logz=group["gas_logz"][:],
            gas_logu=group["gas_logu"][:],
            line_wave=group["line_wave"][:],
            line_sigma=group["line_sigma"][:],
            line_loglum=group["line_loglum"][:],
            line_name=tuple(json.loads(group.attrs["line_name"])),
            continuum=group["continuum"][:] if "continuum" in group else None,
        )
    if "dust_emission" in file:
        group = file["dust_emission"]
        dust = DustEmissionTable(qpah=group["qpah"][:], umin=group["umin"][:], shape=group["shape"][:])
    return SSPGrid(
        wave=file["wave"][:],
        log_age=file["log_age"][:],
        logzsol=file["logzsol"][:],
        flux=file["flux"][:],
        mstar=file["mstar"][:] if "mstar" in file else None,
        nebular=nebular,
        dust_emission=dust,
        provenance_json=str(file.attrs["provenance"]),
    )


def _read_dsps(file: Any, zsun: float) -> SSPGrid:
    """DSPS: log10 absolute metallicity, log10 Gyr, Angstrom, Lsun/Hz/Msun with axes (met, age, wave)."""
    note = {"made_by": "DSPS layout", "zsun": zsun, "nebular_lines": False, "surviving_mass": False}
    return SSPGrid(
        wave=np.asarray(file["ssp_wave"][:], np.float64),
        log_age=np.asarray(file["ssp_lg_age_gyr"][:], np.float64) + 9,
        logzsol=np.asarray(file["ssp_lgmet"][:], np.float64) - np.log10(zsun),
        flux=np.asarray(file["ssp_flux"][:]),
        mstar=None,
        nebular=None,
        dust_emission=None,
        provenance_json=json.dumps(note),
    )
