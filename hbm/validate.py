"""What is wrong with a catalogue, row by row; redshifts and bands as the column map says."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
from astropy.table import Table
from jaxtyping import Bool, Float

from hbm.columns import BandColumns, ColumnMap
from hbm.tables import check_column_unit, check_columns, flag_column, id_column, number_column, read_table
from sed.units import (
    FLUX_UNITS,
    MAGNITUDE_UNIT,
    flux_err_to_maggies,
    from_maggies,
    magnitude_to_maggies,
    to_maggies,
)

BRIGHTEST_MAG, FAINTEST_MAG = 5.0, 40.0
"""AB magnitudes outside of which a galaxy's median flux must be a mistake of units."""

_PLAUSIBLE_MAG = (15.0, 30.0)
_MOST_ROWS_LISTED = 10


class RowProblems:
    """Which rows are wrong, and why."""

    def __init__(self, ids: tuple[str, ...], source: str) -> None:
        self._ids = ids
        self._source = source
        self._reasons: dict[int, list[str]] = {}

    def add(
        self,
        bad: Bool[np.ndarray, " galaxy"],
        column: str | None,
        reason: str,
        value: Float[np.ndarray, " galaxy"] | None = None,
    ) -> None:
        """Note a reason, followed by the row's value, for each row where `bad` is True."""
        for row in np.flatnonzero(bad):
            got = "" if value is None else f" {value[row]:g}"
            self.add_row(int(row), column, f"{reason}{got}")

    def add_row(self, row: int, column: str | None, reason: str) -> None:
        """Note a reason for one row; without a column it is about all of them."""
        self._reasons.setdefault(row, []).append(f"column `{column}`: {reason}" if column else reason)

    @property
    def good(self) -> Bool[np.ndarray, " galaxy"]:
        """Rows without a problem."""
        good = np.ones(len(self._ids), dtype=bool)
        good[list(self._reasons)] = False
        return good

    def by_id(self) -> dict[str, str]:
        """Reasons by identifier, or ``row N`` where that is missing."""
        return {
            self._ids[row] or f"row {row}": "; ".join(self._reasons[row]) for row in sorted(self._reasons)
        }

    def message(self) -> str:
        """All rows, the first ten with their reasons."""
        rows = sorted(self._reasons)
        lines = [f"{len(rows)} of {len(self._ids)} rows of {self._source} cannot be used:"]
        for row in rows[:_MOST_ROWS_LISTED]:
            reasons = self._reasons[row]
            more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
            lines.append(f"  id {self._ids[row] or 'missing'} (row {row}), {'; '.join(reasons[:3])}{more}")
        if len(rows) > _MOST_ROWS_LISTED:
            lines.append(f"  and {len(rows) - _MOST_ROWS_LISTED} more")
        return "\n".join(lines)


def check_ids(ids: tuple[str, ...], column: str, problems: RowProblems) -> None:
    """Note missing and repeated identifiers."""
    counts = Counter(ids)
    for row, name in enumerate(ids):
        if not name:
            problems.add_row(row, column, "identifier is missing")
        elif counts[name] > 1:
            problems.add_row(row, column, f"identifier appears {counts[name]} times")


def read_redshifts(
    table: Table, ids: tuple[str, ...], mapping: ColumnMap, path: Path, problems: RowProblems
) -> tuple[Float[np.ndarray, " galaxy"], Float[np.ndarray, " galaxy"]]:
    """Redshifts and their errors, joined by identifier where they are in a table of their own."""
    if mapping.zred is None:
        raise ValueError("`mapping` must name the column of redshifts, but has none.")
    source, rows, where = table, np.arange(len(ids)), repr(str(path))
    names = [mapping.zred, mapping.zred_err, mapping.zred_lower, mapping.zred_upper]
    found = np.ones(len(ids), dtype=bool)
    if mapping.zred_table is not None:
        # Not `with_suffix`: of galaxies.cat.gz it would take off the .gz only.
        stem = re.sub(r"\.[^.]+(\.gz)?$", "", path.name, flags=re.IGNORECASE)
        beside = path.with_name(stem + mapping.zred_table.suffix)
        where = repr(str(beside))
        if not beside.is_file():
            raise FileNotFoundError(f"`zred_table.suffix` of the column map asks for {where}: no such file.")
        source = read_table(beside)
        check_columns(source, [mapping.zred_table.id], where)
        others = id_column(source, mapping.zred_table.id)
        counts, position = Counter(others), {name: row for row, name in enumerate(others)}
        rows = np.array([position.get(name, 0) for name in ids])
        found = np.array([counts[name] == 1 for name in ids])
        problems.add(~found, mapping.zred_table.id, f"identifier must be exactly once in {where}")
    check_columns(source, names, where)
    zred = number_column(source, mapping.zred)[rows]
    problems.add(
        found & ~(np.isfinite(zred) & (zred > 0)), mapping.zred, "redshift must be positive, got", zred
    )
    if mapping.zred_max is not None:
        beyond = found & np.isfinite(zred) & (zred > mapping.zred_max)
        problems.add(beyond, mapping.zred, f"redshift is above {mapping.zred_max:g}, got", zred)
    if mapping.zred_lower is not None and mapping.zred_upper is not None:
        column = mapping.zred_upper
        zred_err = 0.5 * (number_column(source, column) - number_column(source, mapping.zred_lower))[rows]
    elif mapping.zred_err is not None:
        column = mapping.zred_err
        zred_err = number_column(source, column)[rows]
    else:
        return zred, np.zeros_like(zred)
    bad = found & ~(np.isfinite(zred_err) & (zred_err >= 0))
    problems.add(bad, column, "redshift error must be >= 0, got", zred_err)
    return zred, zred_err


def read_band(
    table: Table, band: BandColumns, mapping: ColumnMap, problems: RowProblems
) -> tuple[Float[np.ndarray, " galaxy"], Float[np.ndarray, " galaxy"], Bool[np.ndarray, " galaxy"]]:
    """Flux and error in maggies, NaN where missing or wrong, and whether it is a limit."""
    for name in (band.flux, band.err):
        check_column_unit(table, name, mapping.unit)
    value, err = number_column(table, band.flux), number_column(table, band.err)
    missing = np.isnan(value) & np.isnan(err)
    for code in mapping.missing:
        # Codes such as -99.9 are rounded in tables of single precision.
        missing |= np.isclose(value, code, rtol=1e-6, atol=0.0) | np.isclose(err, code, rtol=1e-6, atol=0.0)
    if mapping.missing_rule == "err<=0":
        missing |= err <= 0
    if mapping.missing_snr_below is not None:
        missing |= np.abs(value) < mapping.missing_snr_below * err
    if mapping.missing_flux_above is not None:
        missing |= np.abs(value) > mapping.missing_flux_above
    if band.weight is not None:
        missing |= ~(number_column(table, band.weight) > 0)
    if mapping.unit == MAGNITUDE_UNIT:
        missing |= np.isnan(to_maggies(value, MAGNITUDE_UNIT)) & ~np.isnan(value)
    present = ~missing
    for bad, column, reason, numbers in (
        (np.isnan(value), band.flux, "flux is missing, its error is", err),
        (np.isinf(value), band.flux, "flux must be finite, got", value),
        (np.isnan(err), band.err, "error is missing, the flux is", value),
        (np.isinf(err) | (err <= 0), band.err, "error must be finite and positive, got", err),
    ):
        problems.add(present & bad, column, reason, numbers)
    usable = present & np.isfinite(value) & np.isfinite(err) & (err > 0)
    value, err = np.where(usable, value, np.nan), np.where(usable, err, np.nan)
    if mapping.unit == MAGNITUDE_UNIT:
        flux, flux_err = magnitude_to_maggies(value, err)
        problems.add(usable & ~np.isfinite(flux_err), band.err, "error is a code, not a number of magnitudes")
        flux = np.where(np.isfinite(flux_err), flux, np.nan)
    else:
        flux, flux_err = to_maggies(value, mapping.unit), flux_err_to_maggies(err, mapping.unit)
    limit = np.zeros(len(table), dtype=bool) if band.limit is None else flag_column(table, band.limit)
    return flux * band.correction, flux_err * band.correction, limit & np.isfinite(flux)


def flux_scale_problems(
    flux: Float[np.ndarray, "galaxy band"], unit: str
) -> tuple[str | None, dict[int, str]]:
    """Compare median absolute fluxes with what galaxies have.

    Parameters
    ----------
    flux : maggies
        NaN where there is none.
    unit
        Unit that it was converted from.

    Returns
    -------
    tuple
        What is wrong with the catalogue as a whole, or None; what is wrong with single galaxies, by position.
    """
    rows = np.flatnonzero(np.isfinite(flux).any(axis=1))
    if rows.size == 0:
        return None, {}
    median = np.nanmedian(np.abs(flux[rows]), axis=1)
    reasons = {
        int(row): _flux_scale_reason(float(value), unit) for row, value in zip(rows, median, strict=True)
    }
    overall = _flux_scale_reason(float(np.median(median)), unit)
    return overall, {row: reason for row, reason in reasons.items() if reason is not None}


def _flux_scale_reason(flux: float, unit: str) -> str | None:
    """Say why a median flux cannot be right, and which unit it looks like; None where it can be.

    Parameters
    ----------
    flux : maggies
        Positive; NaN says nothing and passes.
    unit
        Unit that it was converted from.
    """
    if not flux > 0:
        return None
    mag = float(from_maggies(flux, MAGNITUDE_UNIT))
    if BRIGHTEST_MAG <= mag <= FAINTEST_MAG:
        return None
    value = float(from_maggies(flux, unit))
    looks = []
    for other in FLUX_UNITS:
        as_other = float(to_maggies(value, other))
        mag_as_other = float(from_maggies(as_other, MAGNITUDE_UNIT))
        if _PLAUSIBLE_MAG[0] <= mag_as_other <= _PLAUSIBLE_MAG[1]:
            factor = f", a factor of {max(flux / as_other, as_other / flux):.0e}"
            looks.append(
                f"{other} (magnitude {mag_as_other:.1f}{'' if MAGNITUDE_UNIT in (other, unit) else factor})"
            )
    hint = f" It looks like {' or '.join(looks)} given as {unit}." if looks else ""
    return (
        f"median flux {value:.3g} {unit} is AB magnitude {mag:.1f}, expected {BRIGHTEST_MAG:g} to "
        f"{FAINTEST_MAG:g}.{hint}"
    )
