"""Where a result came from: settings, grid, filters, seed, command, time and package versions."""

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import sys
from collections.abc import Sequence
from typing import Any

_PACKAGES = (
    "galaxy-hbm",
    "jax",
    "jaxlib",
    "numpyro",
    "numpy",
    "scipy",
    "astropy",
    "arviz",
    "xarray",
    "h5netcdf",
)


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a result came from; every field becomes JSON in the file."""

    model_config: dict[str, Any]
    """Settings from which the model is built again."""
    grid: dict[str, Any]
    """Provenance and hash of the SSP grid."""
    filters: tuple[str, ...]
    """Names of the filters."""
    seed: int
    """Seed of the sampler."""
    command: str
    """Command line, or the name of the function that was called."""
    created: str
    """Time of creation, ISO 8601, UTC."""
    versions: dict[str, str]
    """Package versions by name."""


def make_provenance(
    model_config: dict[str, Any],
    *,
    grid: dict[str, Any],
    filters: Sequence[str],
    seed: int,
    command: str | None = None,
) -> Provenance:
    """Provenance of a run that happens now, on this machine; `command` is ``sys.argv`` by default."""
    return Provenance(
        model_config=model_config,
        grid=grid,
        filters=tuple(filters),
        seed=seed,
        command=" ".join(sys.argv) if command is None else command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=package_versions(),
    )


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that shape a result."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def settings_that_differ(made: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Name what differs between two records of settings, as ``name: made, not wanted``.

    Records within a record are compared name by name; tuples equal lists, as JSON has no tuples.
    """
    texts: list[str] = []
    for name in sorted(made.keys() | wanted.keys()):
        old, new = made.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            texts += settings_that_differ(old, new)
        elif json.loads(json.dumps(old)) != json.loads(json.dumps(new)):
            texts.append(f"{name}: {old}, not {new}")
    return texts
