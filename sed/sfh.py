r"""Star formation histories as weights on the ages of a grid of simple stellar populations.

A spectrum is linear in the weights: ``sum_a weight[a] * ssp[a]``, weights in Msun formed. Between
two ages of the grid the spectrum is interpolated linearly in log age, so a star formation rate
psi(t), t the lookback time, gives the age a the weight

.. math:: w_a = \int \psi(t)\, h_a(\log_{10} t)\, dt,

with h_a the triangular function that is one at age a and zero at its neighbours. Stars younger
than the first age take the first spectrum. This is what FSPS does (``sfh_weight.f90``).
"""

import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sed.parameters import BinnedSFH, DelayedTauSFH

N_OLD_DEFAULT = 5
"""Number of bins older than 100 Myr."""

LOG_AGE_RECENT = 8.0
"""log10 yr: `logssfr` is the average over this time."""

LOG_AGE_YOUNGEST = 7.0
"""log10 yr: upper edge of the youngest bin."""

_GAUSS_NODE, _GAUSS_WEIGHT = np.polynomial.legendre.leggauss(8)


def agebins(tmax_gyr: float, n_old: int = N_OLD_DEFAULT) -> Float[np.ndarray, "bin 2"]:
    """Edges of the age bins of `BinnedSFH`, log10 yr of lookback time.

    Two bins up to 10 and 100 Myr, then ``n_old - 1`` bins of equal log width up to 85 % of
    ``tmax_gyr`` and a last one up to it, as in Leja et al. (2019), section 2.1.

    Parameters
    ----------
    tmax_gyr : Gyr
        Oldest age: of the universe at the galaxy's redshift, or of the grid if that is less.
    n_old
        Number of bins older than 100 Myr, at least 2.

    Raises
    ------
    ValueError
        If ``n_old`` < 2, or ``tmax_gyr`` leaves no room for bins beyond 100 Myr.
    """
    if n_old < 2:
        raise ValueError(f"`n_old` must be at least 2, got {n_old}.")
    if not tmax_gyr > 0.2:
        raise ValueError(f"`tmax_gyr` must exceed 0.2 Gyr to hold bins older than 100 Myr, got {tmax_gyr}.")
    old = np.linspace(LOG_AGE_RECENT, np.log10(0.85 * tmax_gyr) + 9, n_old)
    edges = np.concatenate([[0.0, LOG_AGE_YOUNGEST], old, [np.log10(tmax_gyr) + 9]])
    return np.stack([edges[:-1], edges[1:]], axis=1)


def bin_masses(
    sfh: BinnedSFH, agebins: Float[np.ndarray, "bin 2"] | Float[Array, "bin 2"]
) -> Float[Array, " bin"]:
    """Stellar mass formed in each age bin, Msun, youngest first. One galaxy.

    Raises
    ------
    ValueError
        If ``sfh.logsfr_ratios`` does not have one entry fewer than there are bins older than 100 Myr.
    """
    n_old = agebins.shape[0] - 2
    ratios = jnp.asarray(sfh.logsfr_ratios)
    if ratios.shape != (n_old - 1,):
        raise ValueError(
            f"`logsfr_ratios` must have one entry between each pair of the {n_old} bins older than "
            f"100 Myr: expected ({n_old - 1},), got {ratios.shape}."
        )
    width = jnp.asarray(10.0 ** (agebins[:, 1] - 9) - 10.0 ** (agebins[:, 0] - 9), ratios.dtype)  # Gyr
    recent_fraction = 10.0 ** (jnp.asarray(sfh.logssfr) + LOG_AGE_RECENT)
    zero = jnp.zeros(1, ratios.dtype)
    recent = _split(jnp.append(jnp.asarray(sfh.logsfr_ratio_recent, ratios.dtype), zero), width[:2])
    old = _split(jnp.append(zero, -jnp.cumsum(ratios)), width[2:])
    fractions = jnp.append(recent_fraction * recent, (1 - recent_fraction) * old)
    return 10.0 ** jnp.asarray(sfh.logmass) * fractions


def _split(log_rate: Float[Array, " bin"], width: Float[Array, " bin"]) -> Float[Array, " bin"]:
    """Part of the mass in each bin; the largest rate is taken out first, so that none overflows."""
    mass = 10.0 ** (log_rate - jnp.max(log_rate)) * width
    return mass / jnp.sum(mass)


def _hat_integral(log_t: np.ndarray, log_age: np.ndarray) -> np.ndarray:
    """Integral over t of (log_age - log10 t) up to 10**log_t."""
    return np.asarray(10.0**log_t * (log_age - log_t + np.log10(np.e)))


def bin_weights(
    agebins: Float[np.ndarray, "bin 2"], log_age: Float[np.ndarray, " age"]
) -> Float[np.ndarray, "bin age"]:
    """Weights of the grid's ages for one Msun formed at a constant rate in each bin. Closed form.

    Parameters
    ----------
    agebins : log10 yr
        Lower and upper edge of each bin.
    log_age : log10 yr
        Ages of the grid, increasing.

    Returns
    -------
    dimensionless
        Each row sums to one. Mass beyond the last age is put on the last age.
    """
    n_age = len(log_age)
    weight = np.zeros((len(agebins), n_age))
    for row, (low, high) in zip(weight, agebins, strict=True):
        # Younger than the first age and older than the last: the nearest spectrum.
        row[0] += max(10.0 ** min(high, log_age[0]) - 10.0**low, 0.0)
        row[-1] += max(10.0**high - 10.0 ** max(low, log_age[-1]), 0.0)
        left = np.clip(log_age[:-1], low, high)
        right = np.clip(log_age[1:], low, high)
        step = np.diff(log_age)
        to_left = (_hat_integral(right, log_age[1:]) - _hat_integral(left, log_age[1:])) / step
        to_right = -(_hat_integral(right, log_age[:-1]) - _hat_integral(left, log_age[:-1])) / step
        row[:-1] += to_left
        row[1:] += to_right
    return weight / np.diff(10.0**agebins, axis=1)


def delayed_tau_weights(
    tage: Float[ArrayLike, ""], tau: Float[ArrayLike, ""], log_age: Float[Array, " age"]
) -> Float[Array, " age"]:
    """Weights of the grid's ages for one Msun formed by a delayed exponential. One galaxy, differentiable.

    The integral over each pair of neighbouring ages is an 8-point Gauss-Legendre rule; FSPS uses
    the closed form with exponential integrals, which overflows for small ``tau``.

    Parameters
    ----------
    tage, tau : Gyr
        Time since star formation began, e-folding time.
    log_age : log10 yr
        Ages of the grid, increasing.

    Returns
    -------
    dimensionless
        Sums to one.
    """
    tage, tau = jnp.asarray(tage), jnp.asarray(tau)
    age = 10.0 ** (jnp.asarray(log_age) - 9)  # Gyr
    left = jnp.minimum(age[:-1], tage)
    right = jnp.minimum(age[1:], tage)
    half = 0.5 * (right - left)[:, None]
    t = 0.5 * (right + left)[:, None] + half * jnp.asarray(_GAUSS_NODE, age.dtype)
    rate = _delayed_rate(t, tage, tau) * jnp.asarray(_GAUSS_WEIGHT, age.dtype) * half
    step = jnp.diff(log_age)[:, None]
    to_right = jnp.sum(rate * (jnp.log10(t) + 9 - log_age[:-1, None]) / step, axis=1)
    total = jnp.sum(rate, axis=1)
    weight = jnp.zeros_like(age).at[1:].add(to_right).at[:-1].add(total - to_right)
    first = 0.5 * jnp.minimum(age[0], tage)
    t0 = first * (1 + jnp.asarray(_GAUSS_NODE, age.dtype))
    young = jnp.sum(_delayed_rate(t0, tage, tau) * jnp.asarray(_GAUSS_WEIGHT, age.dtype)) * first
    last = jnp.maximum(tage - age[-1], 0.0) * 0.5
    t1 = age[-1] + last * (1 + jnp.asarray(_GAUSS_NODE, age.dtype))
    old = jnp.sum(_delayed_rate(t1, tage, tau) * jnp.asarray(_GAUSS_WEIGHT, age.dtype)) * last
    weight = weight.at[0].add(young).at[-1].add(old)
    return weight / jnp.sum(weight)


def _delayed_rate(t: Array, tage: Array, tau: Array) -> Array:
    """T exp(-T / tau) scaled by its value's exponent at the end of star formation, for no overflow."""
    since = jnp.maximum(tage - t, 0.0)
    peak = jnp.minimum(tau, tage)  # where T exp(-T / tau) is largest
    return since / peak * jnp.exp(-(since - peak) / tau)


def mean_age_gyr(weight: Float[Array, " age"], log_age: Float[Array, " age"]) -> Float[Array, ""]:
    """Mass-weighted age in Gyr of the weights on the grid's ages."""
    return jnp.sum(weight * 10.0 ** (log_age - 9)) / jnp.sum(weight)


def binned_mean_age(
    masses: Float[Array, " bin"], agebins: Float[np.ndarray, "bin 2"] | Float[Array, "bin 2"]
) -> Float[Array, ""]:
    """Mass-weighted age, Gyr: each bin forms stars at a constant rate, so its mean age is its middle."""
    middle = 0.5 * (10.0 ** (agebins[:, 0] - 9) + 10.0 ** (agebins[:, 1] - 9))
    return jnp.sum(masses * jnp.asarray(middle, masses.dtype)) / jnp.sum(masses)


def delayed_tau_logsfr(sfh: DelayedTauSFH, average_gyr: float) -> Float[Array, ""]:
    r"""log10 of the star formation rate averaged over the last ``average_gyr``, Msun/yr, in closed form.

    The part of the mass formed in the last D of a history of age T is

    .. math:: \frac{F(T/\tau) - F(a)}{F(T/\tau)} = \frac{e^{-a} [a (1 - e^{-d}) + F(d)]}{F(T/\tau)},
              \quad F(x) = 1 - (1 + x) e^{-x}, \; a = (T - D)/\tau, \; d = D/\tau,

    and 1 where T < D. The logarithm stays finite where the rate itself underflows (old, short ``tau``).

    Parameters
    ----------
    average_gyr : Gyr
        D, > 0. A younger history is averaged over D too.
    """
    tage, tau = jnp.asarray(sfh.tage), jnp.asarray(sfh.tau)
    a = jnp.maximum(tage - average_gyr, 0.0) / tau
    d = jnp.minimum(tage, average_gyr) / tau
    # Only sums of positive terms: no digits are lost.
    log_part = -a + jnp.log(-a * jnp.expm1(-d) + _formed(d)) - jnp.log(_formed(tage / tau))
    return jnp.asarray(sfh.logmass) + log_part / math.log(10.0) - math.log10(average_gyr * 1e9)


def delayed_tau_sfr(sfh: DelayedTauSFH, average_gyr: float) -> Float[Array, ""]:
    """Star formation rate averaged over the last ``average_gyr``, Msun/yr; see `delayed_tau_logsfr`."""
    return 10.0 ** delayed_tau_logsfr(sfh, average_gyr)


_SMALL = 0.3
_SERIES = [(-1.0) ** k * (k - 1) / math.factorial(k) for k in range(12, 1, -1)]


def _formed(x: Float[Array, ""]) -> Float[Array, ""]:
    """F(x) = 1 - (1 + x) exp(-x), by its series where the difference would lose digits."""
    small = jnp.minimum(x, _SMALL)
    series = small**2 * jnp.polyval(jnp.asarray(_SERIES, x.dtype), small)
    return jnp.where(x < _SMALL, series, -jnp.expm1(-x) - x * jnp.exp(-x))
