r"""Marginal likelihoods of many hypotheses from one pool of points, with errors.

The integral of any h over the prior, from points :math:`\theta_n` of which :math:`N_k` come from density
:math:`q_k` (balance heuristic, Veach & Guibas 1995; the same as Kong et al. 2003, JRSS B 65, 585):

.. math:: Z_h = \int p(\theta)\,h(\theta)\,d\theta \approx
          \sum_n \frac{p(\theta_n)\,h(\theta_n)}{\sum_k N_k\,q_k(\theta_n)}

One density is that of the stored fit, :math:`q_C = p(\theta)\,p(f|\theta)/Z_f`. Its constant solves the same
equation with h = p(f | theta), which is bridge sampling with the optimal bridge (Meng & Wong 1996,
Statistica Sinica 6, 831). Errors are by the jackknife over blocks of points, which keeps the correlation of
chains.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import logsumexp

_N_BLOCK = 16


class PoolDensity(NamedTuple):
    """Log densities of the points of a pool, nats; those of the fit up to its constant."""

    prior: Float[np.ndarray, " point"]
    shape: Float[np.ndarray, " point"]
    fit: Float[np.ndarray, " point"]
    """Log prior plus log-likelihood of the fluxes."""
    counts: tuple[int, int, int]
    """Points of the prior, of shapes, of the fit, which lie in this order."""


class Evidence(NamedTuple):
    """Logarithms of integrals, nats."""

    value: Float[np.ndarray, " hypothesis"]
    blocks: Float[np.ndarray, "block hypothesis"]
    """The same without each block of points: `error_of` makes errors of functions of them."""
    ess: Float[np.ndarray, " hypothesis"]
    """Effective number of points (Kish)."""


def log_weights(pool: PoolDensity, keep: np.ndarray | None = None) -> Float[np.ndarray, " point"]:
    """Log of one over the sum of ``N_k q_k``; minus infinity for points that are not kept.

    Raises
    ------
    ValueError
        If the points and their counts do not agree.
    """
    n = len(pool.prior)
    if sum(pool.counts) != n:
        raise ValueError(f"`pool` must have as many points as `counts` say, {sum(pool.counts)}, got {n}.")
    kept = np.ones(n, bool) if keep is None else keep
    starts = np.cumsum((0, *pool.counts))
    counts = [int(kept[a:b].sum()) for a, b in itertools.pairwise(starts)]
    with np.errstate(divide="ignore"):
        log_counts = np.log(counts)
    known = np.logaddexp(log_counts[0] + pool.prior, log_counts[1] + pool.shape)
    if counts[2]:
        fit = np.where(kept, pool.fit, -np.inf)
        known = np.logaddexp(known, log_counts[2] + pool.fit - _log_constant(fit, known, log_counts[2]))
    # Points that the prior rules out add to no integral.
    return np.where(kept & np.isfinite(pool.prior), -known, -np.inf)


def _log_constant(fit: np.ndarray, known: np.ndarray, log_count: float) -> float:
    """Constant of the fit's density: sum of ``fit / (Z known + N fit)`` is one."""
    use = np.isfinite(fit)
    ratio = known[use] - fit[use]  # ln (known / fit)

    def excess(log_z: float) -> float:
        return float(logsumexp(-np.logaddexp(log_z + ratio, log_count)))

    low, high = float(-ratio.max()) - 1.0, float(-ratio.min()) + 1.0
    while excess(low) < 0:
        low -= 10.0
    while excess(high) > 0:
        high += 10.0
    return float(brentq(excess, low, high, xtol=1e-6))


def integrate(pool: PoolDensity, log_h: Float[np.ndarray, "hypothesis point"]) -> Evidence:
    """Log of the integral of each h over the prior.

    Parameters
    ----------
    pool
        Where the points come from.
    log_h
        Log of each h at the points.
    """
    whole, ess = _integrals(pool, log_h, None)
    place = np.concatenate([np.arange(n) * _N_BLOCK // max(n, 1) for n in pool.counts])
    blocks = np.stack([_integrals(pool, log_h, place != block)[0] for block in range(_N_BLOCK)])
    return Evidence(whole, blocks, ess)


def _integrals(
    pool: PoolDensity, log_h: np.ndarray, keep: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    weight = log_weights(pool, keep) + np.where(np.isfinite(pool.prior), pool.prior, 0.0)
    terms = np.where(np.isfinite(weight), weight + log_h, -np.inf)
    total = logsumexp(terms, axis=1)
    with np.errstate(invalid="ignore"):
        ess = np.exp(2 * total - logsumexp(2 * terms, axis=1))
    return total, np.nan_to_num(ess, nan=0.0)


def error_of(blocks: Float[np.ndarray, " block"]) -> float:
    """Jackknife standard error of a number, from its values without each block."""
    n = len(blocks)
    if not np.isfinite(blocks).all():
        return float("inf")
    return float(np.sqrt((n - 1) / n * np.sum((blocks - blocks.mean()) ** 2)))
