"""Training sets: stamps joined with the properties of a catalogue, split by region of the sky.

Galaxies near each other share sky, calibration and neighbours; were some in the training and some in the test
set, the test would be too kind. So whole cells of the sky go to one of the three.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from hbm.properties.catalogs import PropertyTable
from hbm.properties.crossmatch import match_ids, match_positions
from hbm.tables import CatalogError

SPLITS = ("train", "validation", "test")


class Joined(NamedTuple):
    """Which stamps have which properties."""

    rows: Int[np.ndarray, " galaxy"]
    """Rows of the file of stamps."""
    labels: dict[str, Float[np.ndarray, "galaxy 3"]]
    """16th percentile, median, 84th; all nan where not known or outside of the range of training."""
    n_unmatched: int
    n_redshift: int
    """Matched, but of another redshift: other galaxies."""
    n_unlabelled: int
    """Matched, but without any property."""
    n_outside: dict[str, int]
    """Labels outside of the range of training, which were taken away."""


def sky_cells(
    ra: Float[np.ndarray, " galaxy"], dec: Float[np.ndarray, " galaxy"], size: float
) -> Int[np.ndarray, " galaxy"]:
    """Number of the cell of the sky that each galaxy is in.

    Bands of equal height in sin(dec) and, in each, cells of equal width in right ascension, of about ``size``
    by ``size`` degrees.

    Raises
    ------
    ValueError
        If the size is not between 0.01 and 60 degrees, or a position is not finite.
    """
    if not 0.01 <= size <= 60:
        raise ValueError(f"`size` must be between 0.01 and 60 degrees, got {size}.")
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        raise ValueError("`ra` and `dec` must be finite: positions decide the split.")
    n_band = max(round(180 / size), 1)
    edges = np.linspace(-90, 90, n_band + 1)
    band = np.clip(np.searchsorted(edges, dec, side="right") - 1, 0, n_band - 1)
    middle = np.deg2rad(0.5 * (edges[band] + edges[band + 1]))
    n_cell = np.maximum(np.round(360 * np.cos(middle) / size), 1).astype(int)
    cell = np.floor((ra % 360) / 360 * n_cell).astype(int) % n_cell
    return np.asarray(band * 100_000 + cell)


def split_by_sky(
    ra: Float[np.ndarray, " galaxy"],
    dec: Float[np.ndarray, " galaxy"],
    *,
    size: float = 3.0,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> Int[np.ndarray, " galaxy"]:
    """Split of each galaxy, 0 to 2 as in `SPLITS`; all of a cell are in one.

    Cells are dealt out at random, each to the split that lacks most galaxies, the fullest first.

    Raises
    ------
    ValueError
        If fractions are negative or do not add up to 1, or there are fewer cells than splits.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"`fractions` must not be negative and add up to 1, got {fractions}.")
    cells = sky_cells(ra, dec, size)
    names, which, count = np.unique(cells, return_inverse=True, return_counts=True)
    n_split = sum(f > 0 for f in fractions)
    if len(names) < n_split:
        raise ValueError(
            f"`size` must be smaller: {len(names)} cells of {size:g} degrees hold all galaxies, too few for "
            f"{n_split} splits."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-count[order], kind="stable")]
    lacking = np.asarray(fractions) * len(ra)
    split = np.zeros(len(names), int)
    for cell in order:
        best = int(np.argmax(np.where(np.asarray(fractions) > 0, lacking, -np.inf)))
        split[cell] = best
        lacking[best] -= count[cell]
    return np.asarray(split[which])


def join(
    names: list[str],
    ra: Float[np.ndarray, " galaxy"],
    dec: Float[np.ndarray, " galaxy"],
    zred: Float[np.ndarray, " galaxy"],
    table: PropertyTable,
    *,
    by: Literal["id", "position"] = "position",
    radius: float = 1.5,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    age_gyr: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Joined:
    """Stamps with a catalogue's properties.

    Parameters
    ----------
    names, ra, dec, zred
        Of the stamps.
    table
        Properties.
    by
        Match identifiers, or positions.
    radius
        arcsec.
    ranges
        What training covers, by property; for ``mwa_fraction`` of the age of the universe.
    age_gyr
        Age of the universe in Gyr at redshifts.

    Raises
    ------
    CatalogError
        If nothing matches.
    """
    if by == "id":
        row = match_ids(names, table.id)
    else:
        row = match_positions(ra, dec, table.ra, table.dec, radius=radius)
    matched = row >= 0
    with np.errstate(invalid="ignore"):
        same = ~(np.abs(table.zred[row] - zred) > 0.005 * (1 + zred))
    labels = {name: value[row].copy() for name, value in table.values.items()}
    n_outside = {}
    for name, value in labels.items():
        low, high = (ranges or {}).get("mwa_fraction" if name == "mwa" else name, (-np.inf, np.inf))
        scale = age_gyr(zred) if name == "mwa" and age_gyr is not None else np.ones(len(zred))
        with np.errstate(invalid="ignore"):
            outside = (value[:, 1] < low * scale) | (value[:, 1] > high * scale)
        n_outside[name] = int((outside & matched & same).sum())
        value[outside] = np.nan
    known = np.logical_or.reduce([np.isfinite(value[:, 1]) for value in labels.values()])
    rows = np.flatnonzero(matched & same & known)
    if rows.size == 0:
        raise CatalogError(
            f"no stamp has properties: {int((~matched).sum())} of {len(names)} are not in the catalogue, "
            f"{int((matched & ~same).sum())} have another redshift there, "
            f"{int((matched & same & ~known).sum())} no usable value. Match by the other of id and position?"
        )
    return Joined(
        rows, {name: value[rows] for name, value in labels.items()}, int((~matched).sum()),
        int((matched & ~same).sum()), int((matched & same & ~known).sum()), n_outside,
    )  # fmt: skip


def read_stamps(path: Path) -> dict[str, np.ndarray]:
    """Data sets of an HDF5 file of stamps.

    Raises
    ------
    FileNotFoundError, CatalogError
        If it is not there, or lacks images, positions or redshifts.
    """
    import h5py

    if not path.is_file():
        raise FileNotFoundError(f"`stamps` names no file: {path}.")
    try:
        with h5py.File(path, "r") as file:
            content = {name: file[name][()] for name in file if isinstance(file[name], h5py.Dataset)}
    except OSError as error:
        raise CatalogError(f"{path} is truncated or not an HDF5 file: {error}") from error
    if "zred" not in content:
        content["zred"] = next((content[name] for name in ("Z", "z") if name in content), None)
    missing = [n for n in ("image_array", "object_id", "ra", "dec", "zred") if content.get(n) is None]
    if missing:
        raise CatalogError(f"{path} lacks {', '.join(missing)}; it has {', '.join(sorted(content))}.")
    return content


def split_columns(
    stamps: Mapping[str, np.ndarray], joined: Joined, split: Int[np.ndarray, " galaxy"], which: int
) -> dict[str, np.ndarray]:
    """Data sets of one split: the stamps', and for each property its median, ``_p16`` and ``_p84``."""
    n = len(stamps["image_array"])
    chosen = split == which
    rows = joined.rows[chosen]
    columns = {name: v[rows] if v.ndim > 0 and len(v) == n else v for name, v in stamps.items()}
    for name, value in joined.labels.items():
        columns[name] = value[chosen, 1]
        columns[f"{name}_p16"], columns[f"{name}_p84"] = value[chosen, 0], value[chosen, 2]
    return columns
