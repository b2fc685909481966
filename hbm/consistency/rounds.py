"""Points of several rounds as one pool: more are drawn for galaxies whose odds are not known well enough."""

from collections.abc import Sequence

import jax
import numpy as np

from hbm.consistency.odds import Odds
from hbm.consistency.pool import Points
from hbm.consistency.report import MAX_ERROR, MIN_ESS


def is_enough(odds: Odds) -> bool:
    """Whether the Monte Carlo error of the odds is small, and rests on enough effective points."""
    return max(odds.corrupted_error, odds.same_error) <= MAX_ERROR and odds.ess >= MIN_ESS


def joined(rounds: Sequence[Points], counts: tuple[int, int, int]) -> tuple[Points, tuple[int, int, int]]:
    """One pool of the points of several rounds, and how many there are of each kind.

    Each round's points of the prior and of shapes count. Those of the fit are the same in all rounds and
    count once. The density of a pool is known by the numbers of points (`hbm.consistency.evidence`), so
    that more rounds are no more than a larger pool.

    Parameters
    ----------
    rounds
        Points of each, in the order of `hbm.consistency.pool.PoolMaker.points`.
    counts
        Points of the prior, of shapes and of the fit in each round.
    """
    n_prior, n_shape, n_stored = counts
    shapes = slice(n_prior, n_prior + n_shape)

    def put_together(*leaves: np.ndarray) -> np.ndarray:
        parts = [leaf[:n_prior] for leaf in leaves] + [leaf[shapes] for leaf in leaves]
        return np.concatenate([*parts, leaves[0][n_prior + n_shape :]])

    whole: Points = jax.tree.map(put_together, *rounds)
    return whole, (n_prior * len(rounds), n_shape * len(rounds), n_stored)
