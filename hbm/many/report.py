"""What came of a run: the table of failures, the table of all results, and the report of both."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.table import Table

from hbm.many.parts import read_rows
from hbm.many.plan import Failure as Failure
from hbm.results import write_table

FAILURES = "failures.ecsv"
"""Table of galaxies that could not be fitted, in the folder of results."""

_MOST_LISTED = 10

_WORDS = {"raised": "the fit raised", "killed": "killed workers"}


class ManyFits(NamedTuple):
    """What came of `fit_many`."""

    outdir: Path
    """Folder of the results."""
    ids: tuple[str, ...]
    """Galaxies that were asked for."""
    n_fitted: int
    """Galaxies that this run fitted."""
    n_there: int
    """Galaxies that an earlier run had fitted."""
    failures: tuple[Failure, ...]
    """Galaxies that could not be fitted."""
    n_split: int
    """Batches that failed and were tried in pieces."""
    seconds: float
    """Wall time."""

    def table(self) -> Table:
        """Summary rows of all galaxies that have a result, in the order of the catalogue."""
        whole = load_summary(self.outdir)
        place = {str(name): row for row, name in enumerate(whole["id"])}
        return whole[[place[name] for name in self.ids if name in place]]

    def lines(self) -> Iterator[str]:
        """Report in words: what was fitted, how many converged, what failed and why."""
        counts = [f"{self.n_fitted} fitted"]
        if self.n_there:
            counts.append(f"{self.n_there} were there already")
        if self.failures:
            counts.append(f"{len(self.failures)} failed")
        if self.n_fitted + self.n_there:
            table = self.table()
            n_flagged = int(np.sum(np.asarray(table["flag"]) != "ok"))
            counts.append(f"{int(np.sum(table['converged']))} of {len(table)} converged")
            counts.append(f"{n_flagged} flagged")
        yield f"{', '.join(counts)}."
        yield from failure_lines(self.failures)


def load_summary(outdir: str | os.PathLike[str]) -> Table:
    """Table of all galaxies that `fit_many` fitted in a folder, as of `hbm.summary_table`.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    """
    return read_rows(Path(outdir))


def failure_lines(failures: Iterable[Failure]) -> Iterator[str]:
    """Failures by what was wrong, the most frequent first."""
    every = list(failures)
    causes = Counter((failure.reason, failure.error) for failure in every)
    for (reason, error), n in causes.most_common(_MOST_LISTED):
        names = [failure.galaxy_id for failure in every if (failure.reason, failure.error) == (reason, error)]
        some = ", ".join(names[:5]) + (", ..." if n > 5 else "")
        yield f"{_WORDS[reason]}, {n} ({some}): {error}"
    if len(causes) > _MOST_LISTED:
        yield f"and {len(causes) - _MOST_LISTED} other reasons, see {FAILURES}"


def read_failures(outdir: Path) -> dict[str, Failure]:
    """Galaxies that could not be fitted, by identifier; none if there is no such table."""
    path = outdir / FAILURES
    if not path.is_file():
        return {}
    table = Table.read(path, format="ascii.ecsv")
    rows = zip(*(table[name] for name in ("id", "reason", "error")), strict=True)
    return {str(name): Failure(str(name), str(reason), str(error)) for name, reason, error in rows}


def update_failures(outdir: Path, new: Iterable[Failure] = (), solved: Iterable[str] = ()) -> None:
    """Add failures to the table, and take galaxies out that have a result by now; no table if none is left.

    The table is read again each time: runs of other shares of the catalogue may have added to it.
    """
    kept = read_failures(outdir) | {failure.galaxy_id: failure for failure in new}
    for name in solved:
        kept.pop(name, None)
    path = outdir / FAILURES
    if not kept:
        path.unlink(missing_ok=True)
        return
    columns = list(zip(*kept.values(), strict=True))
    table = Table([list(column) for column in columns], names=("id", "reason", "error"))
    write_table(table, path, overwrite=True)
