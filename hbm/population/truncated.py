r"""Truncated normals whose centre may be anywhere: far outside of the ends too.

A relation's hyperparameters can put its centre many widths outside of the range of a property, as that of
dust for galaxies that have none. The probability between the ends,

.. math:: \Phi(b) - \Phi(a)

is then a difference of numbers that are 1 to all digits; here it is taken in the lower tail, by its
logarithm.
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
    log_b = log_phi(b)
    between = log_b + jnp.log(-jnp.expm1(jnp.minimum(log_phi(a) - log_b, -1e-6)))
    offset = (jnp.asarray(value) - centre) / width
    return -0.5 * offset**2 - _LOG_ROOT_TWO_PI - jnp.log(width) - between


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
