"""How far a run is: galaxies done, failed and left, the rate, and when it will end."""

import time
from collections.abc import Callable


class Tally:
    """Counts of a run.

    Parameters
    ----------
    n_galaxy
        Galaxies in all.
    n_there
        Those that an earlier run had fitted.
    clock
        Gives seconds.
    """

    def __init__(self, n_galaxy: int, n_there: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.n_galaxy, self.n_there = n_galaxy, n_there
        self.n_fitted = self.n_failed = 0
        self._clock, self._start = clock, clock()

    @property
    def n_done(self) -> int:
        """Galaxies that need nothing more."""
        return self.n_there + self.n_fitted + self.n_failed

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self._clock() - self._start

    def text(self, n_worker: int) -> str:
        """Counts in words: ``fitting on 4 workers, 2 failed, 88 left, 6.1 a minute, 14 min to go``."""
        left = self.n_galaxy - self.n_done
        on = f"{n_worker} worker" if n_worker == 1 else f"{n_worker} workers"
        words = ["waiting for workers" if n_worker == 0 else f"fitting on {on}"]
        if self.n_failed:
            words.append(f"{self.n_failed} failed")
        words.append(f"{left} left")
        n_new = self.n_fitted + self.n_failed
        if n_new and self.seconds > 0:
            rate = n_new / self.seconds
            words += [f"{60 * rate:.1f} a minute", f"{duration(left / rate)} to go"]
        return ", ".join(words)


def duration(seconds: float) -> str:
    """Time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
