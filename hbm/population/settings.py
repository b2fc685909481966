"""The TOML file of ``hbm population``, read and checked; keys as in `PopulationSettings` and its tables.

Example::

    results = "results"  # folder of `hbm fit`
    out = "population.nc"

    [sampler]
    method = "joint"  # reweight, joint or gibbs

    [calibration]
    zero_point_sigma = 0.02

    [relations.schechter]
    low = 9.0

    [relations.mass_metallicity]

    [selection]
    band = "sdss_r0"
    limit = 17.77
    scatter = 0.05
    zred_low = 0.02
    zred_high = 0.2
"""

import dataclasses
import importlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hbm.columns import suggest


@dataclass(frozen=True)
class SamplerSettings:
    """Table ``[sampler]``."""

    method: Literal["reweight", "joint", "gibbs"] = "reweight"
    warmup: int = 500
    draws: int = 500
    chains: int = 4
    seed: int = 0
    draws_per_galaxy: int = 400


@dataclass(frozen=True)
class CatalogSettings:
    """Table ``[catalog]``: where images are, for methods that sample galaxies that were fitted with them."""

    path: str
    images: str
    preset: str | None = None
    columns: str | None = None
    image_model: str | None = None
    insist: bool = False
    correction: bool = True


@dataclass(frozen=True)
class CalibrationSettings:
    """Table ``[calibration]``: what galaxies share, where they are sampled; as fitted if not given."""

    share: bool = True
    error_floor: float | str | None = None
    outliers: bool | None = None
    zero_point_sigma: float | None = None


@dataclass(frozen=True)
class SelectionSettings:
    """Table ``[selection]``: which galaxies are measured.

    Those below a limit in a band's magnitude, those above a limit in a property, or by a probability that a
    function ``module:name`` gives.
    """

    band: str | None = None
    property: str | None = None
    function: str | None = None
    limit: float | None = None
    scatter: float | None = None
    draws: int = 20_000
    zred_low: float | None = None
    zred_high: float | None = None


@dataclass(frozen=True)
class PopulationSettings:
    """All of the file. Paths are relative to it."""

    results: str
    out: str = "population.nc"
    grid: str | None = None
    sampler: SamplerSettings = dataclasses.field(default_factory=SamplerSettings)
    catalog: CatalogSettings | None = None
    calibration: CalibrationSettings | None = None
    selection: SelectionSettings | None = None
    relations: Mapping[str, Mapping[str, Any]] | None = None
    folder: Path = Path()


_TABLES = {
    "sampler": SamplerSettings,
    "catalog": CatalogSettings,
    "calibration": CalibrationSettings,
    "selection": SelectionSettings,
}


def read_settings(path: Path) -> PopulationSettings:
    """Settings from a TOML file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For TOML that cannot be read, an unknown or missing key, or a value of the wrong kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`config` must be the path of a TOML file, got {str(path)!r}: no such file.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key in (*_TABLES, "relations") and not isinstance(value, dict):
            raise ValueError(f"`{key}` in {path} must be a table, [{key}], got {value!r}.")
        values[key] = _table(_TABLES[key], value, f"[{key}] of {path}") if key in _TABLES else value
    for name, options in values.get("relations", {}).items():
        if not isinstance(options, dict):
            raise ValueError(f"`{name}` in [relations] of {path} must be a table, got {options!r}.")
    settings: PopulationSettings = _table(PopulationSettings, values, str(path), besides=("folder",))
    _check_selection(settings.selection, path)
    return dataclasses.replace(settings, folder=path.parent)


def _table(cls: Any, values: dict[str, Any], where: str, besides: tuple[str, ...] = ()) -> Any:
    """Object of a table, its keys and kinds checked."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in besides}
    hints = get_type_hints(cls)
    for key, value in values.items():
        if key not in fields:
            raise ValueError(
                f"{where} has the unknown key `{key}`; known are {', '.join(fields)}.{suggest(key, fields)}"
            )
        if not _fits(value, hints[key]):
            raise ValueError(f"`{key}` in {where} must be {_words(hints[key])}, got {value!r}.")
    absent = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and name not in values
    ]
    if absent:
        raise ValueError(f"{where} must have the keys {', '.join(f'`{name}`' for name in absent)}.")
    return cls(**{key: _number(value, hints[key]) for key, value in values.items()})


def _number(value: Any, kind: Any) -> Any:
    """Whole numbers as floats where those are meant."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and float in (kind, *get_args(kind)) else value


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of TOML, or a table read already, is of a kind."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    plain = get_origin(kind) or kind
    return isinstance(value, plain)


def _words(kind: Any) -> str:
    """Name of a kind for a message."""
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false", type(None): ""}
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(value) for value in get_args(kind))
    if isinstance(kind, UnionType):
        return " or ".join(filter(None, (_words(one) for one in get_args(kind))))
    return names.get(kind, "a table")


def _check_selection(selection: SelectionSettings | None, path: Path) -> None:
    if selection is None:
        return
    kinds = [n for n in ("band", "property", "function") if getattr(selection, n) is not None]
    if len(kinds) != 1:
        raise ValueError(
            f"[selection] of {path} must have one of `band`, `property`, `function`, got "
            f"{' and '.join(kinds) or 'none'}."
        )
    needed = () if kinds == ["function"] else ("limit", "scatter")
    for name in ("limit", "scatter"):
        if (getattr(selection, name) is None) == (name in needed):
            must = "must" if name in needed else "must not"
            raise ValueError(f"[selection] of {path} {must} have `{name}` beside `{kinds[0]}`.")
    if (selection.zred_low is None) != (selection.zred_high is None):
        raise ValueError(f"[selection] of {path} must have both `zred_low` and `zred_high`, or neither.")


def load_object(text: str, key: str) -> Any:
    """What ``module:name`` names.

    Raises
    ------
    ValueError
        If the text is not of that form, or there is no such thing.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise ValueError(f"`{key}` must be 'module:name', got {text!r}.")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`{key}` {text!r} cannot be imported: {error}.") from error
