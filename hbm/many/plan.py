"""Which galaxies are fitted together, what is left of a catalogue, what becomes of a batch that fails.

Nothing here reads files or knows of Dask.
"""

import hashlib
import itertools
import json
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from hbm.results import settings_that_differ

LEGS = 4
"""Legs of a batch: long enough that starting a task costs nothing, short enough that little is lost."""


class Batch(NamedTuple):
    """Galaxies that one task fits."""

    rows: tuple[int, ...]
    """Positions in the catalogue."""
    ids: tuple[str, ...]
    """Their identifiers."""

    @property
    def name(self) -> str:
        """Short name: the same galaxies have the same one, in every run."""
        return digest(self.ids)

    def halves(self) -> tuple["Batch", "Batch"]:
        """First and second half."""
        middle = (len(self.rows) + 1) // 2
        return Batch(self.rows[:middle], self.ids[:middle]), Batch(self.rows[middle:], self.ids[middle:])

    def singles(self) -> tuple["Batch", ...]:
        """Each galaxy by itself."""
        return tuple(Batch((row,), (name,)) for row, name in zip(self.rows, self.ids, strict=True))


def digest(content: object) -> str:
    """Short hash of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def make_batches(
    ids: Sequence[str],
    is_free: Bool[np.ndarray, " galaxy"],
    rows: Sequence[int],
    size: int,
    alone: Iterable[str] = (),
) -> list[Batch]:
    """Batches of about equal size, at most ``size``, in the order of the catalogue.

    Galaxies of fixed and of free redshift are kept apart: they run in different programs. Sizes are equal:
    a last batch that is smaller than the places of a leg would be compiled by itself.

    Parameters
    ----------
    ids
        Identifiers of the whole catalogue.
    is_free
        Whether a galaxy's redshift is a parameter.
    rows
        Galaxies to fit.
    size
        Galaxies of a batch.
    alone
        Galaxies that failed before: each by itself, after all others.

    Raises
    ------
    ValueError
        If ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"`batch` must be at least 1, got {size}.")
    apart = set(alone)
    batches: list[Batch] = []
    for kind in (False, True):
        some = [row for row in rows if bool(is_free[row]) is kind and ids[row] not in apart]
        n_batch = math.ceil(len(some) / size)
        bounds = [len(some) * i // n_batch for i in range(n_batch + 1)] if some else []
        parts = [tuple(some[start:stop]) for start, stop in itertools.pairwise(bounds)]
        batches += [Batch(part, tuple(ids[row] for row in part)) for part in parts]
    return batches + [Batch((row,), (ids[row],)) for row in rows if ids[row] in apart]


def automatic_size(n_galaxy: int, n_worker: int, width: int) -> int:
    """Galaxies of a batch: some legs of ``width`` each, fewer where workers would have nothing to do."""
    return max(1, min(LEGS * width, math.ceil(n_galaxy / (2 * max(n_worker, 1)))))


def refuse_other_settings(there: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with galaxies that were fitted with other settings.

    Parameters
    ----------
    there
        Settings that are known of each galaxy's result; those that are not known are not compared.
    wanted
        Settings of this run.

    Raises
    ------
    ValueError
        That names a galaxy and what differs.
    """
    for name, made in there.items():
        differences = settings_that_differ(dict(made), {k: v for k, v in wanted.items() if k in made})
        if differences:
            raise ValueError(
                f"`resume` needs the settings of the results that are there, but that of {name} has "
                f"{'; '.join(differences[:4])}. Give the same settings, `overwrite`, or another folder."
            )


class Failure(NamedTuple):
    """A galaxy that could not be fitted."""

    galaxy_id: str
    reason: str
    """``raised``: the fit raised an error. ``killed``: its worker died each time."""
    error: str
    """Text of the error."""


class Waiting:
    """Batches that wait for a worker; those that fail come back in pieces, behind all others.

    Parameters
    ----------
    batches
        In their order.
    width
        Galaxies that a worker fits side by side. Smaller batches need a program of their own.
    """

    def __init__(self, batches: Iterable[Batch], width: int = 1) -> None:
        self._batches = deque(batches)
        self._width = width
        self.n_split = 0
        """Batches that came back in pieces."""

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def take(self) -> Batch:
        """Next batch; IndexError if none waits."""
        return self._batches.popleft()

    def raised(self, batch: Batch, error: str) -> Failure | None:
        """A batch raised an error: halves are tried, small ones galaxy by galaxy; a single one is lost."""
        if len(batch.rows) == 1:
            return Failure(batch.ids[0], "raised", error)
        self._split(batch.halves() if len(batch.rows) >= 2 * self._width else batch.singles())
        return None

    def killed(self, batch: Batch, error: str) -> Failure | None:
        """A batch killed its workers: its halves are tried; a single galaxy is lost.

        Halves, since what kills a worker is often too little memory for a whole batch.
        """
        if len(batch.rows) == 1:
            return Failure(batch.ids[0], "killed", error)
        self._split(batch.halves())
        return None

    def _split(self, pieces: Iterable[Batch]) -> None:
        self._batches.extend(pieces)
        self.n_split += 1
