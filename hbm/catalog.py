"""Catalogues of galaxies with photometry: read from tables, checked, converted to maggies."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy.table import Table
from jaxtyping import Bool, Float, Int

from hbm.columns import BandColumns, ColumnMap, read_columns, read_preset
from hbm.tables import CatalogError, check_columns, id_column, read_table
from hbm.validate import RowProblems, check_ids, flux_scale_problems, read_band, read_redshifts

if TYPE_CHECKING:
    from hbm.catalog_images import CatalogImages
    from hbm.galaxy import Galaxy
    from hbm.image import ImageLikelihood


@dataclass(frozen=True, eq=False)
class Catalog:
    """Photometry and redshifts of galaxies.

    Raises
    ------
    ValueError
        If shapes disagree, identifiers or filters repeat, or a measurement has no finite flux and
        positive error.
    """

    id: tuple[str, ...]
    """Identifiers, all different."""
    zred: Float[np.ndarray, " _galaxy"]
    """Redshift; NaN where it is not known, which only `hbm.photoz` takes."""
    zred_err: Float[np.ndarray, " _galaxy"]
    """One standard deviation of the redshift; 0 where it is taken as exact."""
    flux: Float[np.ndarray, "_galaxy _band"]
    """Flux in maggies, NaN where not observed. A flux of zero or below is a measurement like any other."""
    flux_err: Float[np.ndarray, "_galaxy _band"]
    """One standard deviation of the flux in maggies, NaN where not observed."""
    observed: Bool[np.ndarray, "_galaxy _band"]
    """True where there is a measurement or an upper limit."""
    upper_limit: Bool[np.ndarray, "_galaxy _band"]
    """True where `flux` is an upper limit, softened by one standard deviation `flux_err`."""
    filter_names: tuple[str, ...]
    """Filters as `sed.filters.load_filters` takes them, one for each band."""
    meta: dict[str, str] = field(default_factory=dict)
    """Where the catalogue comes from: ``path``, ``columns``, ``unit``."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Rows left out when reading, with the reasons."""
    images: "CatalogImages | None" = None
    """Images of some or all galaxies (`hbm.with_images`)."""

    def __post_init__(self) -> None:
        shape = (len(self.id), len(self.filter_names))
        for name in ("zred", "zred_err", "flux", "flux_err", "observed", "upper_limit"):
            expected = shape[:1] if name.startswith("zred") else shape
            if getattr(self, name).shape != expected:
                raise ValueError(
                    f"`{name}` must have shape {expected}, (galaxy, band) as `id` and `filter_names` say, "
                    f"got {getattr(self, name).shape}."
                )
        if len(set(self.id)) != len(self.id) or len(set(self.filter_names)) != len(self.filter_names):
            raise ValueError("`id` and `filter_names` must not repeat.")
        with np.errstate(invalid="ignore"):
            usable = np.isfinite(self.flux) & np.isfinite(self.flux_err) & (self.flux_err > 0)
        if np.any(self.observed & ~usable):
            row, band = np.argwhere(self.observed & ~usable)[0]
            raise ValueError(
                f"`flux` must be finite and `flux_err` positive where `observed`, got "
                f"{self.flux[row, band]} and {self.flux_err[row, band]} for id {self.id[row]}, "
                f"{self.filter_names[band]}."
            )
        if np.any(self.upper_limit & ~self.observed):
            raise ValueError("`upper_limit` must be False where `observed` is False.")

    def __len__(self) -> int:
        """Return the number of galaxies."""
        return len(self.id)

    def select(self, which: Bool[np.ndarray, " _"] | Int[np.ndarray, " _"] | list[int] | slice) -> "Catalog":
        """Galaxies by mask, positions or slice, in that order."""
        if isinstance(which, np.ndarray) and which.dtype == np.bool_ and which.size != len(self):
            raise ValueError(f"`which` must have one entry per galaxy, ({len(self)},), got ({which.size},).")
        rows = np.arange(len(self))[which]
        arrays = ("zred", "zred_err", "flux", "flux_err", "observed", "upper_limit")
        return replace(
            self,
            id=tuple(self.id[row] for row in rows),
            **{name: getattr(self, name)[rows] for name in arrays},
        )

    @staticmethod
    def from_galaxies(
        galaxies: "Sequence[Galaxy]",
        image_model: "ImageLikelihood | str | Path | None" = None,
        *,
        insist: bool = False,
    ) -> "Catalog":
        """Catalogue of `hbm.Galaxy` objects; see `hbm.galaxy_catalog.catalog_of`."""
        from hbm.galaxy_catalog import catalog_of

        return catalog_of(galaxies, image_model, insist=insist)

    def to_table(self) -> Table:
        """Table of `id`, `zred`, `zred_err` and, for each filter, flux, ``_err`` and ``_limit``.

        Fluxes are in maggies. `read_catalog` reads it back without a column map.
        """
        table = Table({"id": list(self.id), "zred": self.zred, "zred_err": self.zred_err})
        for band, name in enumerate(self.filter_names):
            table[name] = self.flux[:, band]
            table[f"{name}_err"] = self.flux_err[:, band]
            table[f"{name}_limit"] = self.upper_limit[:, band]
        table.meta["FLUXUNIT"] = "maggies"
        return table


def read_catalog(
    path: str | Path,
    *,
    preset: str | None = None,
    columns: str | Path | ColumnMap | None = None,
    on_bad: Literal["raise", "drop"] = "raise",
    redshifts: bool = True,
) -> Catalog:
    """Read a catalogue from FITS, ECSV, CSV, Parquet or a text table with ``#`` before its header.

    Parameters
    ----------
    path
        The table; its suffix says its format.
    preset
        Name of a column map of the package, see `hbm.columns.list_presets`.
    columns
        A column map: a TOML file as `hbm.columns` describes, or a `ColumnMap`. Without it and
        without a preset the table must be laid out as `Catalog.to_table` does.
    on_bad
        ``"raise"`` refuses a table with rows that cannot be used, and names them; ``"drop"`` leaves
        them out with a warning, and lists them in `Catalog.rejected`.
    redshifts
        False reads none, for `hbm.photoz`: the table need not have any.

    Raises
    ------
    CatalogError
        (a ValueError) for a table that cannot be read, is empty, lacks columns, or has fluxes that
        no galaxy has; for rows with a redshift that is not positive, an error that is not positive,
        a flux without an error or an error without a flux, no band, or an identifier that others
        have (all of them are refused: which one is right is not known here).
    FileNotFoundError
        If there is no such table, or no table of redshifts beside it.
    ValueError
        For a bad column map, or both `preset` and `columns`.

    Notes
    -----
    A band is missing where flux and error are both NaN or empty, or as the column map says.
    """
    path = Path(path)
    if preset is not None and columns is not None:
        raise ValueError("Give `preset` or `columns`, not both.")
    if on_bad not in ("raise", "drop"):
        raise ValueError(f"`on_bad` must be 'raise' or 'drop', got {on_bad!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be the path of a table, got {str(path)!r}: no such file.")
    table = read_table(path)
    if preset is not None:
        mapping = read_preset(preset)
    elif isinstance(columns, ColumnMap):
        mapping = columns
    else:
        mapping = _own_layout(table, path, redshifts) if columns is None else read_columns(columns)
    if redshifts and mapping.zred is None:
        raise CatalogError(
            f"Column map {mapping.source} has no `zred`: name the column of redshifts, or fit them with "
            "`hbm photoz`."
        )
    wanted = [column for band in mapping.bands for column in (band.flux, band.err, band.weight, band.limit)]
    check_columns(table, [mapping.id, *wanted], repr(str(path)))

    ids = id_column(table, mapping.id)
    problems = RowProblems(ids, repr(str(path)))
    check_ids(ids, mapping.id, problems)
    if redshifts:
        zred, zred_err = read_redshifts(table, ids, mapping, path, problems)
    else:
        zred, zred_err = np.full(len(ids), np.nan), np.zeros(len(ids))
    photometry = [read_band(table, band, mapping, problems) for band in mapping.bands]
    flux, flux_err, limit = (np.stack(parts, axis=1) for parts in zip(*photometry, strict=True))
    observed = np.isfinite(flux)
    problems.add(~observed.any(axis=1) & problems.good, None, "no band of this row is observed")
    only_limits = ~(observed & ~limit).any(axis=1)
    problems.add(only_limits & problems.good, None, "all bands of this row are upper limits")

    rows = np.flatnonzero(problems.good)
    overall, reasons = flux_scale_problems(flux[rows], mapping.unit)
    if overall is not None:
        raise CatalogError(f"Fluxes of {str(path)!r}: {overall} Set `unit` of the column map.")
    for position, reason in reasons.items():
        problems.add_row(int(rows[position]), None, reason)
    rows = np.flatnonzero(problems.good)
    if rows.size < len(ids):
        if on_bad == "raise" or rows.size == 0:
            hint = "Mend them, or leave them out with on_bad='drop'." if rows.size else "No row is left."
            raise CatalogError(f"{problems.message()}\n{hint}")
        warnings.warn(problems.message(), stacklevel=2)
    return Catalog(
        id=tuple(ids[row] for row in rows),
        zred=zred[rows],
        zred_err=zred_err[rows],
        flux=flux[rows],
        flux_err=flux_err[rows],
        observed=observed[rows],
        upper_limit=limit[rows],
        filter_names=mapping.filter_names,
        meta={"path": str(path), "columns": mapping.source, "unit": mapping.unit},
        rejected=problems.by_id(),
    )


def check_flux_scale(catalog: Catalog) -> None:
    """Raise CatalogError, naming the likely unit, for fluxes that no galaxy has.

    The median absolute flux of the measured bands, of each galaxy and of all, must be between AB
    magnitudes 5 and 40: a mistake of maggies for nanomaggies is 22.5 magnitudes.
    """
    unit = catalog.meta.get("unit", "maggies")
    overall, reasons = flux_scale_problems(catalog.flux, unit)
    if overall is not None:
        raise CatalogError(f"Fluxes of the catalogue: {overall}")
    if reasons:
        listed = "; ".join(f"id {catalog.id[row]}: {reason}" for row, reason in list(reasons.items())[:10])
        raise CatalogError(f"Fluxes of {len(reasons)} of {len(catalog)} galaxies: {listed}")


def _own_layout(table: Table, path: Path, redshifts: bool) -> ColumnMap:
    """Column map of the tables that `Catalog.to_table` makes."""
    bands = tuple(
        BandColumns(
            name, name, f"{name}_err", limit=f"{name}_limit" if f"{name}_limit" in table.colnames else None
        )
        for name in table.colnames
        if f"{name}_err" in table.colnames and name != "zred"
    )
    if not ({"id", "zred"} if redshifts else {"id"}) <= set(table.colnames) or not bands:
        raise CatalogError(
            f"{str(path)!r} is not laid out as `Catalog.to_table` does: id, zred, and for each filter "
            "a flux in maggies and its error, <filter> and <filter>_err. Give `columns`, or `preset`."
        )
    zred = "zred" if "zred" in table.colnames else None
    zred_err = "zred_err" if zred and "zred_err" in table.colnames else None
    return ColumnMap("id", zred, "maggies", bands, zred_err=zred_err, source="own layout")
