"""Results and tables to and from disk: written whole or not at all, never overwritten unasked."""

import hashlib
import json
import os
import urllib.parse
import uuid
from collections.abc import Callable
from pathlib import Path

from astropy.table import Table

from hbm.convergence import import_arviz
from hbm.results.result import FORMAT, FitResult

_GROUPS = ("posterior", "sample_stats", "posterior_predictive", "observed_data", "constant_data")


def result_path(outdir: str | os.PathLike[str], galaxy_id: str) -> Path:
    """File of a galaxy in `outdir`: ``<id>.nc``; different ids never share a file name.

    Characters other than letters, digits and ``_ . -`` are percent-encoded (RFC 3986), as is a leading dot;
    an id too long for a file name keeps its start and ends in ``~`` and a hash.
    """
    if not galaxy_id:
        raise ValueError("`galaxy_id` must not be empty: it names the file.")
    name = urllib.parse.quote(galaxy_id, safe="").replace("~", "%7E")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > 200:
        name = f"{name[:150]}~{hashlib.sha256(galaxy_id.encode()).hexdigest()[:32]}"
    return Path(outdir) / f"{name}.nc"


def save_result(result: FitResult, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a result to netCDF; FileExistsError if `path` exists and `overwrite` is False."""
    return write_atomically(
        path, lambda temporary: result.idata.to_netcdf(str(temporary)), overwrite=overwrite
    )


def load_result(path: str | os.PathLike[str]) -> FitResult:
    """Read a result into memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a result that this version can read.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(
            f"`path` must be a result written by `save_result`, but there is no file {source}."
        )
    az = import_arviz()
    try:
        with az.rc_context({"data.load": "eager"}):
            idata = az.from_netcdf(str(source))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"`path` must be a netCDF file written by `save_result`; {source} cannot be read: {error}"
        ) from error
    found = idata.attrs.get("format")
    missing = [group for group in _GROUPS if group not in idata.groups()]
    if found != json.dumps(FORMAT) or missing:
        raise ValueError(
            f"`path` must be {FORMAT!r} with groups {', '.join(_GROUPS)}; {source} has format "
            f"{found} and lacks {', '.join(missing) or 'no group'}. Fit again, or use its version."
        )
    return FitResult(idata)


def write_table(table: Table, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a table as ECSV (``.ecsv``) or Parquet (``.parquet``), whole or not at all.

    Raises
    ------
    ValueError
        If the name ends otherwise.
    FileExistsError
        If `path` exists and `overwrite` is False.
    """
    formats = {".ecsv": "ascii.ecsv", ".parquet": "parquet"}
    form = formats.get(Path(path).suffix)
    if form is None:
        raise ValueError(f"`path` must end in {' or '.join(formats)}, got {str(path)!r}.")
    return write_atomically(path, lambda temporary: table.write(temporary, format=form), overwrite=overwrite)


def write_atomically(
    path: str | os.PathLike[str], write: Callable[[Path], object], *, overwrite: bool
) -> Path:
    """Write beside the target under a temporary name, then rename: there is never half a file."""
    target = Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"`path` must not exist yet, got {target}. Choose another name or set `overwrite=True`."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{uuid.uuid4().hex}.tmp{target.suffix}"
    try:
        write(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
