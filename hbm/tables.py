"""Tables from disk, and their columns as arrays."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from astropy.table import Table
from jaxtyping import Bool, Float

from hbm.columns import suggest
from sed.units import MAGNITUDE_UNIT

_LARGEST_EXACT = 2.0**53
_TEXT_MISSING = ("", "nan", "null", "none", "--", "n/a", "na")
_COLUMN_UNITS = {
    "nJy": "nJy",
    "uJy": "uJy",
    "mJy": "mJy",
    "Jy": "Jy",
    "mgy": "maggies",
    "maggy": "maggies",
    "maggies": "maggies",
    "nmgy": "nanomaggies",
    "nanomaggy": "nanomaggies",
    "nanomaggies": "nanomaggies",
    "mag(AB)": MAGNITUDE_UNIT,
    "ABmag": MAGNITUDE_UNIT,
}


class CatalogError(ValueError):
    """A catalogue that cannot be used, or rows of it."""


def read_table(path: Path) -> Table:
    """Table in a format known from the suffix, through astropy.

    Raises
    ------
    CatalogError
        If the suffix is unknown or the file is not what its suffix says.
    """
    suffix = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    formats = {
        **dict.fromkeys(("fits", "fit"), "fits"),
        "ecsv": "ascii.ecsv",
        "csv": "ascii.csv",
        **dict.fromkeys(("parquet", "pq"), "parquet"),
        **dict.fromkeys(("cat", "dat", "txt"), "ascii.commented_header"),
    }
    if suffix not in formats:
        raise CatalogError(
            f"`path` must end in .fits, .ecsv, .csv, .parquet, or .cat (names of the columns after #), "
            f"got {path.name!r}."
        )
    try:
        with warnings.catch_warnings():
            # Parquet files that astropy did not write lack the lengths of strings, which are not needed.
            warnings.filterwarnings("ignore", message="No table::len::")
            table = Table.read(path, format=formats[suffix])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CatalogError(f"{str(path)!r} could not be read as {formats[suffix]}: {error}") from error
    table.convert_bytestring_to_unicode()
    if len(table) == 0:
        raise CatalogError(f"{str(path)!r} has no rows.")
    return table


def check_columns(table: Table, names: Iterable[str | None], where: str) -> None:
    """Raise CatalogError, with close names, for each column that `table` lacks."""
    absent = [name for name in names if name is not None and name not in table.colnames]
    if absent:
        hints = "; ".join(f"`{name}`.{suggest(name, table.colnames)}" for name in absent[:10])
        raise CatalogError(f"{where} lacks {len(absent)} of the columns asked for: {hints}")


def check_column_unit(table: Table, name: str, unit: str) -> None:
    """Raise CatalogError if the table itself gives the column another unit than the column map."""
    said = _COLUMN_UNITS.get(str(table[name].unit))
    if said is not None and said != unit:
        raise CatalogError(
            f"Column `{name}` is in {said} as the table says, but `unit` of the column map is {unit!r}. "
            "One of the two is wrong."
        )


def number_column(table: Table, name: str) -> Float[np.ndarray, " galaxy"]:
    """Column of numbers, NaN where it is masked or empty.

    Raises
    ------
    CatalogError
        If it holds text that is no number, or several numbers a row.
    """
    column = np.ma.asarray(table[name])
    if column.ndim != 1:
        raise CatalogError(
            f"Column `{name}` must have one number per row, got shape "
            f"{column.shape[1:]}. Split it into one column per band."
        )
    if column.dtype.kind in "fiub":
        return np.asarray(np.ma.filled(column.astype(np.float64), np.nan))
    values = np.full(column.size, np.nan)
    for row, item in enumerate(column.tolist()):
        if item is None or str(item).strip().lower() in _TEXT_MISSING:
            continue
        try:
            values[row] = float(item)
        except (TypeError, ValueError):
            raise CatalogError(f"Column `{name}` must hold numbers, got {item!r} in row {row}.") from None
    return values


def flag_column(table: Table, name: str) -> Bool[np.ndarray, " galaxy"]:
    """Column of true and false (or 1 and 0), False where it is masked or empty."""
    column = np.ma.asarray(table[name])
    known = {
        "true": True,
        "t": True,
        "1": True,
        "1.0": True,
        "false": False,
        "f": False,
        "0": False,
        "0.0": False,
    }
    flags = np.zeros(len(table), dtype=bool)
    for row, item in enumerate(column.tolist()):
        text = "" if item is None else str(item).strip().lower()
        if text not in known and text not in _TEXT_MISSING:
            raise CatalogError(f"Column `{name}` must hold true or false, got {item!r} in row {row}.")
        flags[row] = known.get(text, False)
    return flags


def id_column(table: Table, name: str) -> tuple[str, ...]:
    """Return identifiers as text, empty where there is none.

    Raises
    ------
    CatalogError
        If they are numbers in floating point that cannot be exact.
    """
    column = np.ma.asarray(table[name])
    if column.dtype.kind == "f":
        numbers = np.ma.filled(column.astype(np.float64), np.nan)
        inexact = np.isfinite(numbers) & (
            (numbers != np.round(numbers)) | (np.abs(numbers) >= _LARGEST_EXACT)
        )
        if inexact.any():
            raise CatalogError(
                f"Column `{name}` must hold whole numbers or text, got {numbers[inexact][0]!r}: digits of an "
                "identifier are lost in floating point. Store it as an integer or as text."
            )
        return tuple("" if np.isnan(number) else str(int(number)) for number in numbers)
    return tuple("" if item is None else str(item).strip() for item in column.tolist())
