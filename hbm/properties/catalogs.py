"""Readers of property catalogues: columns, units, codes for "missing", IMF and masses to this package's.

Masses are brought to the package's Hubble constant where the catalogue's is known to differ (``mpa-jhu``, by
0.03 dex, and ``fastspecfit``); those of ``gswlc``, ``provabgs`` and ``3dhst`` are taken as they are.

Each gives the median and the 16th and 84th percentile of what it knows; the percentiles are the labels'
errors. What a catalogue averages over another time, or means otherwise, is left out rather than renamed.

==============  ========================================================================================
``mpa-jhu``     galSpecExtra with galSpecInfo (Brinchmann et al. 2004; Kauffmann et al. 2003), Kroupa
``gswlc``       GSWLC-2 (Salim et al. 2018), text without a header, Chabrier
``fastspecfit`` FastSpecFit of DESI (Moustakas et al.), Chabrier, H0 = 100
``provabgs``    PROVABGS of DESI (Hahn et al. 2023), Multimodal Universe HDF5; masses formed
``3dhst``       3D-HST (Skelton et al. 2014; Momcheva et al. 2016): .fout of FAST, .dat, .cat beside it
==============  ========================================================================================
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from jaxtyping import Float

from hbm.properties.conventions import (
    FORMED_OVER_SURVIVING,
    FORMED_SCATTER,
    HUBBLE,
    HUBBLE_OF_MPA_JHU,
    MASS_TO_CHABRIER,
    SFR_TO_CHABRIER,
    SOLAR_METALLICITY,
)
from hbm.tables import CatalogError, read_table

NAMES = ("logmass", "logssfr", "mwa", "logzsol", "dust2")
"""Properties that a catalogue may have, as image models name them."""


@dataclass(frozen=True, eq=False)
class PropertyTable:
    """Properties of galaxies with their errors.

    Raises
    ------
    CatalogError
        If lengths disagree.
    """

    id: tuple[str, ...]
    ra: Float[np.ndarray, " _galaxy"]
    """Degrees; nan where the catalogue has none."""
    dec: Float[np.ndarray, " _galaxy"]
    zred: Float[np.ndarray, " _galaxy"]
    values: dict[str, Float[np.ndarray, "_galaxy 3"]]
    """By name: 16th percentile, median, 84th; nan where not known. The outer two alone are nan where the
    catalogue has no errors."""
    source: str = ""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        n = len(self.id)
        lengths = {"ra": len(self.ra), "dec": len(self.dec), "zred": len(self.zred)}
        lengths |= {name: len(value) for name, value in self.values.items()}
        for name, length in lengths.items():
            if length != n:
                raise CatalogError(f"`{name}` must have one entry per galaxy, {n}, got {length}.")

    def __len__(self) -> int:
        """Return the number of galaxies."""
        return len(self.id)


def read_properties(path: str | Path, kind: str, *, info: str | Path | None = None) -> PropertyTable:
    """Property catalogue.

    Parameters
    ----------
    path
        The catalogue; of 3D-HST the ``.fout`` file.
    kind
        One of `CATALOGS`.
    info
        ``mpa-jhu``: galSpecInfo, if it is not joined to the table already.

    Raises
    ------
    FileNotFoundError, CatalogError
        If a file is not there, is not such a catalogue, or no row is usable.
    """
    if kind not in CATALOGS:
        raise CatalogError(f"`kind` must be one of {', '.join(CATALOGS)}, got {kind!r}.")
    if info is not None and kind != "mpa-jhu":
        raise CatalogError(f"`info` is for mpa-jhu alone, got it with {kind!r}.")
    for file in (path, info):
        if file is not None and not Path(file).is_file():
            raise FileNotFoundError(f"no such file: {file}.")
    table = CATALOGS[kind](Path(path), Path(info) if info is not None else None)
    if not any(np.isfinite(value[:, 1]).any() for value in table.values.values()):
        raise CatalogError(f"{path} has no usable value of {', '.join(table.values)}.")
    return table


def column(table: Table, name: str, where: Path) -> Float[np.ndarray, " row"]:
    """Numbers of a column, upper and lower case being the same; codes for "missing" are nan.

    Codes are masked entries, infinities, and -90 or less: -99, -999, -9999.
    """
    known = {key.lower(): key for key in table.colnames}
    if name.lower() not in known:
        raise CatalogError(f"{where} has no column {name!r}; it has {', '.join(table.colnames[:40])}.")
    values: np.ndarray = np.ma.filled(np.ma.asarray(table[known[name.lower()]], float), np.nan)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(np.isfinite(values) & (values > -90), values, np.nan))


def has(table: Table, name: str) -> bool:
    """Whether a table has a column, upper and lower case being the same."""
    return name.lower() in {key.lower() for key in table.colnames}


def identifiers(table: Table, name: str) -> tuple[str, ...]:
    """Identifiers as text, whole numbers without a point."""
    known = {key.lower(): key for key in table.colnames}
    return tuple(
        str(int(v)) if isinstance(v, (int, np.integer)) else str(v).strip()
        for v in table[known[name.lower()]]
    )


def formed(surviving: Float[np.ndarray, "row 3"]) -> Float[np.ndarray, "row 3"]:
    """Masses formed, log10, from surviving ones; the scatter of the fraction joins the error."""
    return widened(surviving + FORMED_OVER_SURVIVING, FORMED_SCATTER)


def widened(value: Float[np.ndarray, "row 3"], scatter: float) -> Float[np.ndarray, "row 3"]:
    """Percentiles with a further scatter in quadrature."""
    low, high = value[:, 1] - value[:, 0], value[:, 2] - value[:, 1]
    return np.stack(
        [value[:, 1] - np.hypot(low, scatter), value[:, 1], value[:, 1] + np.hypot(high, scatter)], axis=1
    )


def gaussian(value: np.ndarray, error: np.ndarray) -> Float[np.ndarray, "row 3"]:
    """Percentiles from a value and its standard deviation; errors that are not positive are not known."""
    with np.errstate(invalid="ignore"):
        error = np.where(error > 0, error, np.nan)
    return np.stack([value - error, value, value + error], axis=1)


def _percentiles(table: Table, name: str, where: Path) -> Float[np.ndarray, "row 3"]:
    return np.stack([column(table, f"{name}_{p}", where) for p in ("p16", "p50", "p84")], axis=1)


def _mpa_jhu(path: Path, info: Path | None) -> PropertyTable:
    """MPA-JHU. Masses are surviving ones, Kroupa, H0 = 70; the rates are total, over some 10 to 100 Myr.

    ``specsfr_tot`` is log10 of 1/yr, whatever its declared unit says. ``reliable`` = 0 rows are left out.
    """
    table = read_table(path)
    if info is not None:
        other = read_table(info)
        row_of = {name: row for row, name in enumerate(identifiers(other, "specObjID"))}
        rows = [row_of.get(name, -1) for name in identifiers(table, "specObjID")]
        there = np.asarray(rows) >= 0
        table, other = table[there], other[[row for row in rows if row >= 0]]
        for name in other.colnames:
            if not has(table, name):
                table[name] = other[name]
    if not has(table, "z"):
        raise CatalogError(f"{path} has no redshift `z`: give galSpecInfo as `info`.")
    mass = _percentiles(table, "lgm_tot", path)
    mass[mass[:, 1] <= 0] = np.nan  # -1 is another code for "missing"
    specific = _percentiles(table, "specsfr_tot", path)
    if has(table, "reliable"):
        unusable = np.asarray(column(table, "reliable", path) == 0)
        mass[unusable], specific[unusable] = np.nan, np.nan
    to_mass, to_rate = MASS_TO_CHABRIER["kroupa"], SFR_TO_CHABRIER["kroupa"]
    position = [
        column(table, name, path) if has(table, name) else np.full(len(table), np.nan)
        for name in ("ra", "dec")
    ]
    return PropertyTable(
        identifiers(table, "specObjID"), position[0], position[1], column(table, "z", path),
        {
            "logmass": formed(mass + to_mass + 2 * math.log10(HUBBLE_OF_MPA_JHU / HUBBLE)),
            "logssfr": widened(specific + to_rate - to_mass - FORMED_OVER_SURVIVING, FORMED_SCATTER),
        },
        "mpa-jhu",
        ("Rates are from emission lines (some 10 Myr) or the 4000 A break, taken as 100 Myr averages.",),
    )  # fmt: skip


GSWLC_COLUMNS = (
    "ObjID", "GLXID", "plate", "MJD", "fiber", "RA", "Dec", "z", "chi2", "logM", "logM_err", "logSFR",
    "logSFR_err", "AFUV", "AFUV_err", "AB", "AB_err", "AV", "AV_err", "flag_sed", "UV", "flag_uv", "flag_ir",
    "flag_mgs",
)  # fmt: skip
"""GSWLC-2 (salims.pages.iu.edu/gswlc), whose files have no header."""


def _gswlc(path: Path, info: Path | None) -> PropertyTable:
    """GSWLC-2. Surviving masses, Chabrier; rates over 100 Myr. ``flag_sed`` other than 0 is left out.

    A_V is of all stars; over 1.086 it stands for the optical depth of the diffuse dust, which it exceeds
    where birth clouds count.
    """
    del info
    table = Table.read(path, format="ascii.no_header")
    if len(table.colnames) != len(GSWLC_COLUMNS):
        raise CatalogError(
            f"{path} must have the {len(GSWLC_COLUMNS)} columns of GSWLC-2, got {len(table.colnames)} "
            "(GSWLC-1 is laid out otherwise)."
        )
    table.rename_columns(table.colnames, list(GSWLC_COLUMNS))
    mass = gaussian(column(table, "logM", path), column(table, "logM_err", path))
    rate, rate_err = column(table, "logSFR", path), column(table, "logSFR_err", path)
    dust = gaussian(column(table, "AV", path) / 1.086, column(table, "AV_err", path) / 1.086)
    bad = column(table, "flag_sed", path) != 0
    mass[bad], rate[bad], dust[bad] = np.nan, np.nan, np.nan
    made = formed(mass)
    specific = gaussian(rate - made[:, 1], np.hypot(rate_err, made[:, 1] - made[:, 0]))
    return PropertyTable(
        identifiers(table, "ObjID"), column(table, "RA", path), column(table, "Dec", path),
        column(table, "z", path), {"logmass": made, "logssfr": specific, "dust2": dust}, "gswlc",
    )  # fmt: skip


def _fastspecfit(path: Path, info: Path | None) -> PropertyTable:
    """FastSpecFit. Surviving masses and rates, Chabrier, for H0 = 100: both over h squared here.

    Errors are from inverse variances; a variance or rate of zero is "missing". ``AGE`` is weighted with light
    and left out.
    """
    del info
    from astropy.io import fits

    with fits.open(path) as hdus:
        names = [hdu.name.upper() for hdu in hdus]
    parts = [name for name in ("METADATA", "SPECPHOT", "FASTPHOT", "FASTSPEC") if name in names]
    if "METADATA" not in parts or len(parts) < 2:
        raise CatalogError(f"{path} must have the HDUs METADATA and SPECPHOT, got {', '.join(names)}.")
    meta, fit = Table.read(path, hdu="METADATA"), Table.read(path, hdu=parts[1])
    if len(meta) != len(fit):
        raise CatalogError(f"{path}: METADATA has {len(meta)} rows, {parts[1]} has {len(fit)}.")

    def error_of(name: str) -> np.ndarray:
        inverse = column(fit, f"{name}_IVAR", path) if has(fit, f"{name}_IVAR") else np.full(len(fit), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(inverse > 0, 1 / np.sqrt(inverse), np.nan)

    mass = column(fit, "LOGMSTAR", path)
    mass[~(mass > 0)] = np.nan
    rate, rate_err = column(fit, "SFR", path), error_of("SFR")
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(rate > 0, rate, np.nan)
        log_rate, log_err = np.log10(rate), rate_err / rate / math.log(10)
    mass_err = error_of("LOGMSTAR")
    specific = gaussian(log_rate - mass - FORMED_OVER_SURVIVING, np.hypot(log_err, mass_err))

    def measured(name: str) -> np.ndarray:
        """Values, but for fits that failed: those have zeros, or no inverse variance."""
        good = np.isfinite(mass)
        if has(fit, f"{name}_IVAR"):
            good &= column(fit, f"{name}_IVAR", path) > 0
        return np.where(good, column(fit, name, path), np.nan)

    values = {
        "logmass": formed(gaussian(mass - 2 * math.log10(HUBBLE), mass_err)),
        "logssfr": widened(specific, FORMED_SCATTER),  # the Hubble constant drops out
        "logzsol": gaussian(measured("ZZSUN"), error_of("ZZSUN")),
        "dust2": gaussian(measured("TAUV"), error_of("TAUV")),
    }
    where = meta if has(meta, "Z") else fit
    return PropertyTable(
        identifiers(meta, "TARGETID"), column(meta, "RA", path), column(meta, "DEC", path),
        column(where, "Z", path), values, "fastspecfit",
    )  # fmt: skip


def _provabgs(path: Path, info: Path | None) -> PropertyTable:
    """PROVABGS in the Multimodal Universe's HDF5: the first number of each draw is log10 of the mass formed.

    ``LOG_MSTAR`` is the surviving mass, and not used where there are draws. ``AVG_SFR`` is over 1 Gyr, no
    100 Myr average, and left out. Z_MW is a mass fraction.
    """
    del info
    import h5py

    try:
        with h5py.File(path, "r") as file:
            wanted = ("PROVABGS_MCMC", "LOG_MSTAR", "Z_MW", "TAGE_MW", "Z_HP", "ra", "dec", "object_id")
            data: dict[str, Any] = {name: file[name][()] for name in wanted if name in file}
    except OSError as error:
        raise CatalogError(f"{path} is truncated or not an HDF5 file: {error}") from error
    missing = [name for name in ("object_id", "ra", "dec", "Z_HP") if name not in data]
    if missing or not ({"PROVABGS_MCMC", "LOG_MSTAR"} & set(data)):
        raise CatalogError(f"{path} lacks {', '.join(missing) or 'PROVABGS_MCMC'}; it has {', '.join(data)}.")
    n = len(data["object_id"])
    if "PROVABGS_MCMC" in data:
        draws = np.asarray(data["PROVABGS_MCMC"], float)[..., 0]
        usable = np.isfinite(draws).all(axis=1) & (draws > 0).all(axis=1)
        mass = np.full((n, 3), np.nan)
        mass[usable] = np.percentile(draws[usable], [16, 50, 84], axis=1).T
    else:
        survived = np.where(np.asarray(data["LOG_MSTAR"]) > 0, np.asarray(data["LOG_MSTAR"], float), np.nan)
        mass = formed(gaussian(survived, np.full(n, np.nan)))
    unknown = np.full(n, np.nan)

    def positive(name: str) -> np.ndarray:
        values = np.asarray(data.get(name, unknown), float)
        return np.where(values > 0, values, np.nan)

    values = {
        "logmass": mass,
        "logzsol": gaussian(np.log10(positive("Z_MW") / SOLAR_METALLICITY), unknown),
        "mwa": gaussian(positive("TAGE_MW"), unknown),
    }
    names = tuple(v.decode().strip() if isinstance(v, bytes) else str(v) for v in data["object_id"])
    ra, dec, zred = (np.asarray(data[name], float) for name in ("ra", "dec", "Z_HP"))
    return PropertyTable(names, ra, dec, zred, values, "provabgs")


def _threedhst(path: Path, info: Path | None) -> PropertyTable:
    """3D-HST: masses of FAST (surviving), rates of UV and infrared light (100 Myr) of the ``.dat``; Chabrier.

    Rows with ``use_phot`` 0 are left out, and rates without infrared light (``sfr_IR``). FAST's masses have
    errors only where ``l68_lmass`` is there.
    """
    del info
    fast = read_table(path.with_suffix(".fout")) if path.suffix != ".fout" else _commented(path)
    beside = {suffix: path.with_suffix(suffix) for suffix in (".dat", ".cat")}
    for file in beside.values():
        if not file.is_file():
            raise FileNotFoundError(f"{file} must be beside {path.name}: redshifts, rates and positions.")
    rates, sky = (_commented(file) for file in beside.values())
    ids = identifiers(fast, "id")
    row = {name: i for i, name in enumerate(identifiers(rates, "phot_id"))}
    place = {name: i for i, name in enumerate(identifiers(sky, "id"))}
    absent = [name for name in ids if name not in row or name not in place]
    if absent:
        raise CatalogError(
            f"{path}: id {absent[0]} and {len(absent) - 1} others are not in the files beside it."
        )
    rates, sky = rates[[row[name] for name in ids]], sky[[place[name] for name in ids]]
    mass = column(fast, "lmass", path)
    mass[~(mass > 0)] = np.nan
    if has(fast, "l68_lmass") and has(fast, "u68_lmass"):
        made = formed(
            np.stack([column(fast, "l68_lmass", path), mass, column(fast, "u68_lmass", path)], axis=1)
        )
    else:
        made = formed(gaussian(mass, np.full(len(mass), np.nan)))
    rate = column(rates, "sfr", path)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_rate = np.where(rate > 0, np.log10(rate), np.nan)
    if has(rates, "sfr_IR"):
        # Without infrared light the rate is that of the ultraviolet as it is, without what dust absorbs.
        log_rate = np.where(column(rates, "sfr_IR", path) > 0, log_rate, np.nan)
    if has(rates, "use_phot"):
        unusable = column(rates, "use_phot", path) != 1
        made[unusable], log_rate[unusable] = np.nan, np.nan
    specific = gaussian(log_rate - made[:, 1], np.full(len(mass), np.nan))
    return PropertyTable(
        ids, column(sky, "ra", path), column(sky, "dec", path), column(rates, "z_best", path),
        {"logmass": made, "logssfr": specific}, "3dhst",
    )  # fmt: skip


def _commented(path: Path) -> Table:
    """Text table whose first comment is its header; further comments are not."""
    return Table.read(path, format="ascii.commented_header", header_start=0)


CATALOGS: dict[str, Callable[[Path, Path | None], PropertyTable]] = {
    "mpa-jhu": _mpa_jhu,
    "gswlc": _gswlc,
    "fastspecfit": _fastspecfit,
    "provabgs": _provabgs,
    "3dhst": _threedhst,
}
"""Readers by name."""
