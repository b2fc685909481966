r"""Truncated normals whose centre may be anywhere: far outside of the ends too.

A relation's hyperparameters can put its centre many widths outside of the range of a property, as that of
dust for galaxies that have none. The probability between the ends,

.. math:: \Phi(b) - \Phi(a)

is then a difference of numbers that are 1 to all digits; here it is taken in the lower tail, by its
logarithm. Fits of populations spend most of their time on it: its slope is given in closed form.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfc, erfinv
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

_TAIL = -9.0
"""Below, the logarithm of the distribution function is its asymptotic series; in single precision the
function itself vanishes below -13."""
_LOG_ROOT_TWO_PI = 0.5 * float(np.log(2 * np.pi))


def log_phi(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Logarithm of the distribution function of the standard normal.

    The series below `_TAIL` is formula 26.2.12 of Abramowitz & Stegun (1964), to 1e-5.
    """
    near = jnp.maximum(x, _TAIL)
    far = jnp.minimum(x, _TAIL)
    inverse = 1.0 / far**2
    series = jnp.log1p(-inverse * (1.0 - 3.0 * inverse * (1.0 - 5.0 * inverse)))
    tail = -0.5 * far**2 - jnp.log(-far) - _LOG_ROOT_TWO_PI + series
    return jnp.where(x < _TAIL, tail, jnp.log(0.5 * erfc(-near * float(np.sqrt(0.5)))))


_ERFC = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587,
    -0.82215223, 0.17087277,
)  # fmt: skip
"""Of exp(x^2) erfc(x) = t exp(polynomial of t), t = 1 / (1 + x / 2), to 1.2e-7 for all x >= 0 (Press et al.
1992, Numerical Recipes in C, section 6.2)."""
_LEAST_PART = 1e-6
"""Of the larger tail: below, single precision has no digits of a difference."""


def _scaled_erfc(x: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """For x >= 0, factors t and p of exp(x^2) erfc(x) = t exp(p)."""
    t = 1.0 / (1.0 + 0.5 * x)
    p = jnp.full_like(x, _ERFC[-1])
    for coefficient in _ERFC[-2::-1]:
        p = p * t + coefficient
    return t, p


def _between(
    a: Float[Array, "..."], b: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Probability of a standard normal between a and b as exp(first) times second."""
    root_half = float(np.sqrt(0.5))
    t_a, p_a = _scaled_erfc(-a * root_half)
    t_b, p_b = _scaled_erfc(jnp.abs(b) * root_half)
    is_tail = b < 0
    shift = jnp.where(is_tail, -0.5 * b**2, 0.0)
    beyond_a = 0.5 * t_a * jnp.exp(p_a + (-0.5 * a**2 - shift))
    beyond_b = 0.5 * t_b * jnp.exp(p_b + (-0.5 * b**2 - shift))
    upper = jnp.where(is_tail, beyond_b, 1.0 - beyond_b)
    return shift, jnp.maximum(upper - beyond_a, _LEAST_PART * upper)


@jax.custom_jvp
def _log_between(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log of the probability of a standard normal between a and b, for a < b and a + b <= 0."""
    shift, part = _between(a, b)
    return shift + jnp.log(part)


@_log_between.defjvp
def _slope_of_log_between(
    at: tuple[Array, Array], change: tuple[Array, Array]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    (a, b), (change_a, change_b) = at, change
    shift, part = _between(a, b)
    # The shift is taken out before the exponential: far in a tail it has most of the digits.
    density_a, density_b = (jnp.exp(-0.5 * x**2 - shift - _LOG_ROOT_TWO_PI) / part for x in (a, b))
    return shift + jnp.log(part), density_b * change_b - density_a * change_a


def _mirrored(
    centre: Float[ArrayLike, "..."], width: Float[ArrayLike, "..."], low: float, high: float
) -> tuple[Float[Array, "..."], Float[Array, "..."], Bool[Array, "..."]]:
    """Ends in units of the width about the centre, mirrored so that their mean is below it; and whether."""
    centre, width = jnp.asarray(centre), jnp.asarray(width)
    a, b = (low - centre) / width, (high - centre) / width
    above = a + b > 0
    return jnp.where(above, -b, a), jnp.where(above, -a, b), above


def log_density(
    value: Float[ArrayLike, "..."],
    centre: Float[ArrayLike, "..."],
    width: Float[ArrayLike, "..."],
    low: float,
    high: float,
) -> Float[Array, "..."]:
    """Log density of the truncated normal at values between its ends.

    Parameters
    ----------
    value
        Between ``low`` and ``high``; this is not checked.
    centre, width
        Of the normal before truncation.
    low, high
        The ends.
    """
    centre, width = jnp.asarray(centre), jnp.asarray(width)
    a, b, _ = _mirrored(centre, width, low, high)
    offset = (jnp.asarray(value) - centre) / width
    return -0.5 * offset**2 - _LOG_ROOT_TWO_PI - jnp.log(width) - _log_between(a, b)


def draw(
    key: Array, centre: Float[ArrayLike, "..."], width: Float[ArrayLike, "..."], low: float, high: float
) -> Float[Array, "..."]:
    """Draw from the truncated normal, by its distribution function.

    Far in a tail the first guess, an exponential, is mended by steps of Newton on the logarithm.
    """
    centre, width = jnp.broadcast_arrays(jnp.asarray(centre), jnp.asarray(width))
    a, b, above = _mirrored(centre, width, low, high)
    log_b = log_phi(b)
    ratio = jnp.exp(jnp.minimum(log_phi(a) - log_b, 0.0))
    u = jax.random.uniform(key, centre.shape, minval=1e-7)
    log_q = log_b + jnp.log(ratio + u * (1.0 - ratio))
    # Phi(x) = q: by the inverse error function where q has digits, else about x = -sqrt(-2 ln q).
    plain = float(np.sqrt(2.0)) * erfinv(jnp.clip(2.0 * jnp.exp(log_q) - 1.0, -1 + 1e-5, 1 - 1.2e-7))
    x = jnp.where(log_q > np.log(1e-4), plain, -jnp.sqrt(-2.0 * jnp.minimum(log_q, -1.0)))
    for _ in range(4):
        log_at = log_phi(x)
        slope = jnp.exp(-0.5 * x**2 - _LOG_ROOT_TWO_PI - log_at)
        x = jnp.where(log_q > np.log(1e-4), x, x - (log_at - log_q) / slope)
    x = jnp.clip(x, a, b)
    return jnp.clip(centre + width * jnp.where(above, -x, x), low, high)
