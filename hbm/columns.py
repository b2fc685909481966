"""Which column of a table means what: a small TOML file, or a preset of the package.

::

    id = "id"
    zred = "z_best"  # a column of the table, or of [zred_table]; `hbm photoz` does without
    zred_err = "z_err"  # optional; or zred_lower and zred_upper, the ends of a 68 % interval
    zred_max = 12.0  # optional: larger redshifts are mistakes
    unit = "zp=25"  # maggies | nanomaggies | nJy | uJy | mJy | Jy | ABmag | zp=<AB zero point>
    missing = [-99.0]  # optional: flux or error with this value means no measurement
    missing_rule = "err<=0"  # optional: so does an error that is not positive (default "none")
    missing_snr_below = 1e-3  # optional: so does |flux| < 1e-3 err, a fill value and no measurement
    missing_flux_above = 1e5  # optional: so does |flux| > 1e5, in this unit

    [[band]]
    filter = "sdss_u0"  # name in sedpy, or file of a curve, from the folder of this file
    flux = "f_u"
    err = "e_u"
    correction = 1.0  # optional: multiplies flux and error
    weight = "w_u"  # optional: no measurement where this is not positive
    limit = "lim_u"  # optional: true where flux is an upper limit, err its one sigma

    [zred_table]  # optional: redshifts are in a file beside the table
    suffix = ".dat"  # its name is the table's with this suffix
    id = "phot_id"  # the column in it that matches `id`
"""

import dataclasses
import difflib
import importlib.resources
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sed.filters import check_filter
from sed.units import MAGNITUDE_UNIT, check_unit

MissingRule = Literal["none", "err<=0"]


@dataclass(frozen=True)
class BandColumns:
    """Columns of one band."""

    filter: str
    """sedpy's name, or the path of a curve, as `sed.filters.load_filters` takes it."""
    flux: str
    """Flux, or magnitude, in the unit of the map."""
    err: str
    """Its standard deviation, same unit."""
    correction: float = 1.0
    """Factor on flux and error, dimensionless."""
    weight: str | None = None
    """Coverage: the band is missing where this is not positive."""
    limit: str | None = None
    """True where the flux is an upper limit."""


@dataclass(frozen=True)
class ZredTable:
    """A second table with the redshifts, joined by identifier."""

    suffix: str
    """Its name is the catalogue's with this suffix."""
    id: str
    """Column that matches the catalogue's identifiers."""


@dataclass(frozen=True)
class ColumnMap:
    """Meaning of a table's columns; the fields are those of the TOML file.

    Raises
    ------
    ValueError
        For an unknown unit or filter, two bands of one filter, a correction or limit that is no
        positive number, or half of a pair.
    """

    id: str
    """Column of identifiers."""
    zred: str | None
    """Column of redshifts; None if there is none, see `hbm.photoz`."""
    unit: str
    """Unit of all fluxes, see `sed.units`."""
    bands: tuple[BandColumns, ...]
    """One for each filter."""
    zred_err: str | None = None
    """Column of redshift errors."""
    zred_lower: str | None = None
    """Column with the lower end of the 68 % interval."""
    zred_upper: str | None = None
    """Column with the upper end."""
    zred_max: float | None = None
    """Largest redshift that can be right."""
    missing: tuple[float, ...] = ()
    """Values of flux or error that mean no measurement."""
    missing_rule: MissingRule = "none"
    """What else means no measurement."""
    missing_snr_below: float | None = None
    """No measurement where absolute flux over error is below this."""
    missing_flux_above: float | None = None
    """No measurement where the absolute flux is above this, in `unit`."""
    zred_table: ZredTable | None = None
    """Where the redshifts are, if not in the catalogue itself."""
    source: str = "settings"
    """Where this map comes from, for messages."""

    def __post_init__(self) -> None:
        check_unit(self.unit)
        if not self.bands:
            raise ValueError("`band` must list at least one band, got none. Add a [[band]] section.")
        filters = [band.filter for band in self.bands]
        for band in self.bands:
            if filters.count(band.filter) > 1:
                raise ValueError(
                    f"`filter` must differ between bands, got {band.filter!r} more than once. Keep the "
                    "better measurement, or copy the curve to a file of another name."
                )
            check_filter(band.filter)
            if not (math.isfinite(band.correction) and band.correction > 0):
                raise ValueError(
                    f"`correction` of band {band.filter!r} must be a positive factor, got {band.correction}."
                )
        if self.zred is None and (self.zred_err or self.zred_lower or self.zred_upper or self.zred_table):
            raise ValueError("`zred` must be given with errors or a table of redshifts.")
        if (self.zred_lower is None) != (self.zred_upper is None) or (self.zred_err and self.zred_lower):
            raise ValueError(
                "Give either `zred_err`, or both `zred_lower` and `zred_upper`, or none of them."
            )
        for name in ("zred_max", "missing_snr_below", "missing_flux_above"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
            if value is not None and name.startswith("missing") and self.unit == MAGNITUDE_UNIT:
                raise ValueError(f"`{name}` is about fluxes, and `unit` is magnitudes. Remove it.")

    @property
    def filter_names(self) -> tuple[str, ...]:
        """Filters in the order of the bands."""
        return tuple(band.filter for band in self.bands)


def list_presets() -> tuple[str, ...]:
    """Names that `read_preset` knows."""
    folder = importlib.resources.files("hbm") / "presets"
    return tuple(sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")))


def read_preset(name: str) -> ColumnMap:
    """Column map that comes with the package.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if name not in list_presets():
        raise ValueError(f"`preset` must be one of {', '.join(list_presets())}, got {name!r}.")
    text = (importlib.resources.files("hbm") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return _parse(text, f"preset {name!r}", folder=None)


def read_columns(path: str | Path) -> ColumnMap:
    """Column map from a TOML file, laid out as this module's docstring shows.

    Filters given by file are looked for in the folder of the TOML file.

    Raises
    ------
    FileNotFoundError
        If the file, or the file of a filter, does not exist.
    ValueError
        For TOML that cannot be read, an unknown or missing key, or a value that `ColumnMap` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`columns` must be the path of a TOML file, got {str(path)!r}: no such file."
        )
    return _parse(path.read_text(encoding="utf-8"), str(path), folder=path.parent)


def suggest(name: str, known: Iterable[str]) -> str:
    """Close names as a sentence, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(f'`{match}`' for match in close)}?" if close else ""


def _parse(text: str, source: str, *, folder: Path | None) -> ColumnMap:
    """Column map from the text of a TOML file."""
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"Column map {source} is not valid TOML: {error}") from error
    bands = settings.pop("band", [])
    if not isinstance(bands, list) or not all(isinstance(band, dict) for band in bands):
        raise ValueError(f"`band` in column map {source} must be written as [[band]] sections.")
    for number, band in enumerate(bands, 1):
        _check_keys(band, BandColumns, f"band {number} of column map {source}")
        curve = None if folder is None else folder / band["filter"]
        if curve is not None and curve.is_file():
            band["filter"] = str(curve.resolve())
    zred_table = settings.pop("zred_table", None)
    if zred_table is not None:
        _check_keys(zred_table, ZredTable, f"[zred_table] of column map {source}")
    _check_keys(settings, ColumnMap, f"column map {source}", besides=("bands", "zred_table", "source"))
    rule = settings.get("missing_rule", "none")
    if rule not in get_args(MissingRule):
        raise ValueError(f"`missing_rule` in column map {source} must be 'none' or 'err<=0', got {rule!r}.")
    settings["missing"] = tuple(float(value) for value in settings.get("missing", ()))
    settings.setdefault("zred", None)
    try:
        return ColumnMap(
            bands=tuple(BandColumns(**band) for band in bands),
            zred_table=None if zred_table is None else ZredTable(**zred_table),
            source=source,
            **settings,
        )
    except ValueError as error:
        raise ValueError(f"Column map {source}: {error}") from error


_NUMBER_KEYS = ("correction", "zred_max", "missing_snr_below", "missing_flux_above")


def _check_keys(settings: dict[str, Any], cls: type, where: str, besides: tuple[str, ...] = ()) -> None:
    """Raise ValueError for a key that is unknown, absent, or of the wrong type; make numbers floats."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.name not in besides}
    for key, value in settings.items():
        if key not in fields:
            raise ValueError(f"{where} has the unknown key `{key}`.{suggest(key, fields)}")
        if key in _NUMBER_KEYS:
            right, kind = _is_number(value), "a number"
        elif key == "missing":
            right, kind = isinstance(value, list) and all(map(_is_number, value)), "a list of numbers"
        else:
            right, kind = isinstance(value, str), "text"
        if not right:
            raise ValueError(f"`{key}` in {where} must be {kind}, got {value!r}.")
        if key in _NUMBER_KEYS:
            settings[key] = float(value)
    absent = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    absent = [name for name in absent if name not in settings and name != "zred"]
    if absent:
        raise ValueError(f"{where} must have the keys {', '.join(f'`{key}`' for key in absent)}.")


def _is_number(value: object) -> bool:
    """Whether TOML had an integer or a float."""
    return isinstance(value, int | float) and not isinstance(value, bool)
