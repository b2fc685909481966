"""Which galaxies are sampled together next: always as many, so that one compiled program serves all.

Galaxies are new, go on from where their chains stand, or start anew. A leg takes galaxies of one kind; those
that have not converged after it wait for a later leg with others of their kind.
"""

import math
from collections import deque
from collections.abc import Iterable
from typing import Literal

import jax

Kind = Literal["new", "onward", "anew"]

_PER_CORE, _PER_ACCELERATOR = 4, 64
"""Galaxies side by side on a device. On a processor more of them only wait for each other."""


class Queue:
    """Galaxies that wait.

    Parameters
    ----------
    rows
        New galaxies.
    width
        Places of a leg.
    """

    def __init__(self, rows: Iterable[int], width: int) -> None:
        self.width = width
        self._waiting: dict[Kind, deque[int]] = {"onward": deque(), "anew": deque(), "new": deque(rows)}

    def __bool__(self) -> bool:
        """Whether any galaxy waits."""
        return any(self._waiting.values())

    def put(self, kind: Kind, row: int) -> None:
        """Let a galaxy wait."""
        self._waiting[kind].append(row)

    def take(self) -> tuple[Kind, list[int]]:
        """Galaxies of the next leg.

        They are of a kind that fills all places, old galaxies before new ones so that results come early.
        When none does, new galaxies come first: some will go on together with those that wait.

        Raises
        ------
        IndexError
            If none waits.
        """
        full: list[Kind] = [kind for kind, rows in self._waiting.items() if len(rows) >= self.width]
        some: list[Kind] = [kind for kind in ("new", "anew", "onward") if self._waiting[kind]]
        kind = (full or some)[0]
        rows = self._waiting[kind]
        return kind, [rows.popleft() for _ in range(min(self.width, len(rows)))]


def default_batch_size() -> int:
    """Galaxies side by side that keep all devices busy."""
    per_device = _PER_CORE if jax.default_backend() == "cpu" else _PER_ACCELERATOR
    return per_device * len(jax.local_devices())


def leg_width(n_galaxy: int, batch_size: int) -> int:
    """Places of a leg: no more than there are galaxies, in equal shares for all devices."""
    width, n_device = min(n_galaxy, batch_size), len(jax.local_devices())
    return width if width < n_device else math.ceil(width / n_device) * n_device
