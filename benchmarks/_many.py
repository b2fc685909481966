"""The fit of `benchmarks.catalog_scale` on workers: `hbm.fit`, with a diary, and one death on purpose."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from hbm.catalog import Catalog
from hbm.results import FitResult

BEGUN, ENDED, KILLED = "begun", "ended", "killed"
"""Files of the diary."""


def diary(folder: Path, name: str) -> list[list[str]]:
    """Words of each line of a file of the diary; none if it is not there."""
    path = folder / name
    return [line.split() for line in path.read_text().splitlines()] if path.is_file() else []


def fit_with_diary(catalog: Catalog, *, folder: str, kill_at: int, **options: Any) -> list[FitResult]:
    """Fit, and write down which galaxies were begun and ended, and how long they took.

    The process kills itself in the middle of the first batch that begins after ``kill_at`` galaxies have
    ended, as if its machine had failed.
    """
    from hbm.fitting import fit

    place = Path(folder)
    _note(place, BEGUN, list(catalog.id))
    n_ended = sum(len(line) - 1 for line in diary(place, ENDED))
    is_to_die = False
    if n_ended >= kill_at:
        try:
            os.close(os.open(place / KILLED, os.O_CREAT | os.O_EXCL))
            is_to_die = True
        except FileExistsError:
            pass

    def watch(done: int, total: int, text: str) -> None:
        if is_to_die and text.startswith("sampling") and 2 * done > total:
            _note(place, KILLED, list(catalog.id))
            os.kill(os.getpid(), signal.SIGKILL)

    start = time.perf_counter()
    results = fit(catalog, progress=watch, **options)
    _note(place, ENDED, [f"{time.perf_counter() - start:.2f}", *catalog.id])
    return results


def _note(folder: Path, name: str, words: list[str]) -> None:
    """Add a line, in one write: those of several processes do not mix."""
    with open(folder / name, "a") as file:
        file.write(" ".join(words) + "\n")
