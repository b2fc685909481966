"""What a run leaves on disk: a Parquet file of summary rows per batch, and what is found of it later.

``<outdir>/summary/<settings>-<galaxies>.parquet``, the two words being hashes, is written under a name that
begins with a dot and then renamed. pandas and pyarrow read the folder as one table, and skip such names.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from astropy.table import Table, vstack

from hbm.many.plan import Batch, digest
from hbm.results import FitResult, load_result, result_path, write_table

FOLDER = "summary"
"""Folder of the parts, in that of the results."""

_SETTINGS = "settings"
"""Entry of a part's metadata, JSON."""


def part_path(outdir: Path, settings: Mapping[str, Any], batch: Batch) -> Path:
    """File of a batch: the same galaxies fitted with the same settings have the same."""
    return outdir / FOLDER / f"{digest(settings)}-{batch.name}.parquet"


def write_part(table: Table, path: Path, settings: Mapping[str, Any]) -> Path:
    """Write summary rows with the settings that they were made with, whole or not at all."""
    table.meta[_SETTINGS] = json.dumps(settings)
    return write_table(table, path, overwrite=True)


def find_parts(outdir: Path) -> dict[Path, tuple[str, ...]]:
    """Identifiers in each part; files that cannot be read are renamed, so that they count no more."""
    found = {}
    for path in sorted((outdir / FOLDER).glob("[!.]*.parquet")):
        try:
            found[path] = tuple(str(name) for name in pyarrow.parquet.read_table(path, columns=["id"])["id"])
        except (ValueError, KeyError):  # an OSError says nothing about the file
            os.replace(path, path.with_name(f".unreadable-{path.name}"))
    return found


def settings_of_part(path: Path) -> dict[str, Any]:
    """Settings that a part was made with."""
    settings: dict[str, Any] = json.loads(Table.read(path, format="parquet").meta[_SETTINGS])
    return settings


def settings_of_result(result: FitResult) -> dict[str, Any]:
    """Settings that are known of a result that no part has."""
    origin = result.provenance
    return {
        **origin.model_config,
        "use": origin.model_config.get("use"),
        "seed": origin.seed,
        "grid": origin.grid,
    }


def find_results(outdir: Path, ids: Iterable[str]) -> dict[str, FitResult]:
    """Results of some galaxies that can be read."""
    found = {}
    for name in ids:
        path = result_path(outdir, name)
        if path.is_file():
            try:
                found[name] = load_result(path)
            except ValueError:  # not one of ours, or not readable: it is fitted again
                continue
    return found


def forget(outdir: Path, parts: Mapping[Path, tuple[str, ...]], ids: Iterable[str]) -> None:
    """Remove what is there of some galaxies: rows of parts, and result files."""
    gone = set(ids)
    for path, names in parts.items():
        kept = tuple(name for name in names if name not in gone)
        if kept == names:
            continue
        if kept:
            table = Table.read(path, format="parquet")[[name not in gone for name in names]]
            first, _, _ = path.name.partition("-")
            write_table(table, path.with_name(f"{first}-{Batch((), kept).name}.parquet"), overwrite=True)
        path.unlink()
    for name in gone:
        result_path(outdir, name).unlink(missing_ok=True)


def read_rows(outdir: Path, more: Iterable[Table] = ()) -> Table:
    """Rows of all parts, each galaxy once; of columns that a part lacks they have NaN.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    tables = [Table.read(path, format="parquet") for path in find_parts(outdir)] + list(more)
    if not tables:
        raise FileNotFoundError(f"`outdir` must have a folder {FOLDER} with parts of a table, got {outdir}.")
    order = max(tables, key=lambda table: len(table.colnames)).colnames
    names = [*order, *{name for table in tables for name in table.colnames if name not in order}]
    whole = vstack(tables, metadata_conflicts="silent")[names]
    if whole.has_masked_columns:
        whole = _filled(whole)
    _, first = np.unique(np.asarray(whole["id"]), return_index=True)
    whole = whole[np.sort(first)]
    whole.meta = {name: value for name, value in tables[0].meta.items() if name != _SETTINGS}
    return whole


def _filled(table: Table) -> Table:
    """Numbers that are missing become NaN."""
    filled: Callable[[Any], Table] = table.filled
    return filled(np.nan)
