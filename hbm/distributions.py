r"""Prior distributions with closed-form quantile functions, and sampling through a standard normal.

A parameter x with quantile function Q is sampled as x = Q(Phi(n)), n standard normal. The prior is the
same; the sampler sees directions that the data do not constrain as standard normals, whatever bounds
and tails the prior has.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import erfc, erfinv
from jax.scipy.stats import norm
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.util import promote_shapes
from numpyro.infer.reparam import Reparam

_NORMAL_RANGE = 8.0
"""Standard normals are clipped here: in single precision the tail beyond has no digits; probability 1e-15."""


class SplitNormal(dist.Distribution):  # type: ignore[misc]
    r"""Normal with different widths below and above its mode, truncated to an interval.

    .. math:: p(x) \propto \exp[-(x - m)^2 / 2 s^2], \quad s = s_- (x < m),\; s_+ (x \ge m)

    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real,
        "scale_low": constraints.positive,
        "scale_high": constraints.positive,
        "low": constraints.real,
        "high": constraints.real,
    }
    reparametrized_params = ["loc", "scale_low", "scale_high", "low", "high"]  # noqa: RUF012

    def __init__(
        self,
        loc: ArrayLike,
        scale_low: ArrayLike,
        scale_high: ArrayLike,
        *,
        low: ArrayLike,
        high: ArrayLike,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale_low, self.scale_high, self.low, self.high = promote_shapes(
            *(jnp.asarray(value, jnp.result_type(float)) for value in (loc, scale_low, scale_high, low, high))
        )
        shape = jax.lax.broadcast_shapes(jnp.shape(self.loc), jnp.shape(self.low))
        self._support = constraints.interval(low, high)
        super().__init__(batch_shape=shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The interval."""
        return self._support

    def _below(self) -> Array:
        """Probability below the mode without truncation."""
        return jnp.asarray(self.scale_low / (self.scale_low + self.scale_high))

    def _cdf_full(self, value: ArrayLike) -> Array:
        below = self._below()
        offset = value - self.loc
        phi = _phi(offset / jnp.where(offset < 0, self.scale_low, self.scale_high))
        return jnp.where(offset < 0, 2 * below * phi, below + (1 - below) * (2 * phi - 1))

    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> Array:
        """Normalised log density."""
        del intermediates
        scale = jnp.where(value < self.loc, self.scale_low, self.scale_high)
        full = norm.logpdf((value - self.loc) / scale) + jnp.log(2 / (self.scale_low + self.scale_high))
        return full - jnp.log(self._cdf_full(self.high) - self._cdf_full(self.low))

    def cdf(self, value: ArrayLike) -> Array:
        """Distribution function."""
        low = self._cdf_full(self.low)
        return (self._cdf_full(value) - low) / (self._cdf_full(self.high) - low)

    def icdf(self, q: ArrayLike) -> Array:
        """Quantile function."""
        low, below = self._cdf_full(self.low), self._below()
        full = low + q * (self._cdf_full(self.high) - low)
        is_left = full < below
        inner = jnp.where(is_left, full / (2 * below), 0.5 + (full - below) / (2 * (1 - below)))
        scale = jnp.where(is_left, self.scale_low, self.scale_high)
        value = self.loc + scale * _phi_inverse(inner)
        return jnp.clip(value, self.low, self.high)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws by the quantile function."""
        return self.icdf(jax.random.uniform(key, sample_shape + self.batch_shape))


class TruncatedNormal(dist.Distribution):  # type: ignore[misc]
    """Normal truncated to an interval, by few operations: NumPyro's own takes seconds longer to compile."""

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.real,
        "high": constraints.real,
    }
    reparametrized_params = ["loc", "scale", "low", "high"]  # noqa: RUF012

    def __init__(
        self,
        loc: ArrayLike,
        scale: ArrayLike,
        low: ArrayLike,
        high: ArrayLike,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.low, self.high = promote_shapes(
            *(jnp.asarray(value, jnp.result_type(float)) for value in (loc, scale, low, high))
        )
        self._support = constraints.interval(low, high)
        super().__init__(batch_shape=jnp.shape(self.loc), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The interval."""
        return self._support

    def _ends(self) -> tuple[Array, Array]:
        """Probabilities below the ends without truncation."""
        ends = _phi((jnp.stack([self.low, self.high]) - self.loc) / self.scale)
        return ends[0], ends[1]

    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> Array:
        """Normalised log density."""
        del intermediates
        low, high = self._ends()
        return norm.logpdf((value - self.loc) / self.scale) - jnp.log(self.scale * (high - low))

    def cdf(self, value: ArrayLike) -> Array:
        """Distribution function."""
        low, high = self._ends()
        return (_phi((value - self.loc) / self.scale) - low) / (high - low)

    def icdf(self, q: ArrayLike) -> Array:
        """Quantile function."""
        low, high = self._ends()
        value = self.loc + self.scale * _phi_inverse(low + q * (high - low))
        return jnp.clip(value, self.low, self.high)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws by the quantile function."""
        return self.icdf(jax.random.uniform(key, sample_shape + self.batch_shape))


def _phi(x: Float[Array, "..."]) -> Array:
    """Distribution function of the standard normal, accurate in its lower tail."""
    return 0.5 * erfc(-x * float(np.sqrt(0.5)))


def _phi_inverse(q: Float[Array, "..."]) -> Array:
    """Quantile function of the standard normal, to the digits that ``q`` has near 1/2.

    That is enough between the ends of a truncated normal, and one operation where
    `jax.scipy.special.ndtri` is a hundred.
    """
    return float(np.sqrt(2.0)) * erfinv(jnp.clip(2 * q - 1, -1 + 1.2e-7, 1 - 1.2e-7))


class StudentT2(dist.Distribution):  # type: ignore[misc]
    r"""Student t with 2 degrees of freedom, truncated to (-bound, bound); closed forms throughout.

    .. math:: p(t) \propto (2 + t^2)^{-3/2}, \quad F(t) = \tfrac12 [1 + t / \sqrt{2 + t^2}]

    with t = x / scale.
    """

    arg_constraints = {"scale": constraints.positive, "bound": constraints.positive}  # noqa: RUF012
    reparametrized_params = ["scale", "bound"]  # noqa: RUF012

    def __init__(self, scale: ArrayLike, bound: ArrayLike, *, validate_args: bool | None = None) -> None:
        self.scale, self.bound = promote_shapes(
            *(jnp.asarray(value, jnp.result_type(float)) for value in (scale, bound))
        )
        self._support = constraints.interval(-self.bound, self.bound)
        super().__init__(batch_shape=jnp.shape(self.scale), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The interval."""
        return self._support

    def _inside(self) -> Array:
        """Probability between the bounds without truncation."""
        edge = self.bound / self.scale
        return jnp.asarray(edge / jnp.sqrt(2 + edge**2))

    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> Array:
        """Normalised log density."""
        del intermediates
        return -1.5 * jnp.log(2 + (value / self.scale) ** 2) - jnp.log(self.scale * self._inside())

    def cdf(self, value: ArrayLike) -> Array:
        """Distribution function."""
        t = value / self.scale
        return jnp.asarray(0.5 * (1 + t / jnp.sqrt(2 + t**2) / self._inside()))

    def icdf(self, q: ArrayLike) -> Array:
        """Quantile function: with c = 2 q - 1 scaled to the bounds, t = c sqrt(2 / (1 - c^2))."""
        c = (2 * q - 1) * self._inside()
        return jnp.clip(self.scale * c * jnp.sqrt(2 / (1 - c**2)), -self.bound, self.bound)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws by the quantile function."""
        return self.icdf(jax.random.uniform(key, sample_shape + self.batch_shape))


class BetaOne(dist.Distribution):  # type: ignore[misc]
    """Beta(1, b), whose quantile function is closed: Q(q) = 1 - (1 - q)^(1 / b)."""

    arg_constraints = {"b": constraints.positive}  # noqa: RUF012
    support = constraints.unit_interval
    reparametrized_params = ["b"]  # noqa: RUF012

    def __init__(self, b: ArrayLike, *, validate_args: bool | None = None) -> None:
        self.b = jnp.asarray(b, jnp.result_type(float))
        super().__init__(batch_shape=jnp.shape(self.b), validate_args=validate_args)

    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> Array:
        """Normalised log density."""
        del intermediates
        return jnp.log(self.b) + (self.b - 1) * jnp.log1p(-jnp.asarray(value))

    def cdf(self, value: ArrayLike) -> Array:
        """Distribution function."""
        return -jnp.expm1(self.b * jnp.log1p(-jnp.asarray(value)))

    def icdf(self, q: ArrayLike) -> Array:
        """Quantile function."""
        return -jnp.expm1(jnp.log1p(-jnp.minimum(jnp.asarray(q), 1 - 1.2e-7)) / self.b)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws by the quantile function."""
        return self.icdf(jax.random.uniform(key, sample_shape + self.batch_shape))


def coordinate_distribution(fn: Any) -> Any:
    """Distribution whose quantile function makes a parameter from a standard normal.

    The prior itself, but for the heavy-tailed `StudentT2` a truncated normal of twice its scale.
    """
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    if isinstance(fn, StudentT2):
        return TruncatedNormal(0.0, 2 * fn.scale, -fn.bound, fn.bound)
    return fn


def normal_of(source: Any, value: Float[Array, "..."]) -> Float[Array, "..."]:
    """Standard normal that `NormalReparam` makes ``value`` of, by the distribution ``source``."""
    return _phi_inverse(source.cdf(value))


class NormalReparam(Reparam):  # type: ignore[misc]
    """Make a site from a standard normal site ``NAME_base``.

    Parameters
    ----------
    source
        Gives, for a site's prior, the distribution whose quantile function is used. The density of the site
        is not that of its prior where the two differ; who samples the normals must add the ratio, as
        `hbm.coordinates` does. ``None`` takes the prior itself.
    """

    def __init__(self, source: Callable[[Any], Any] | None = coordinate_distribution) -> None:
        self.source = source

    def __call__(self, name: str, fn: Any, obs: Any) -> tuple[None, Array]:
        """Replace the site; see `numpyro.infer.reparam.Reparam`."""
        if obs is not None:
            raise ValueError(f"site `{name}` is observed and cannot be sampled through a normal.")
        fn, expand_shape, event_dim = self._unwrap(fn)
        base = dist.Normal(jnp.zeros(fn.shape()), 1.0).to_event(fn.event_dim)
        normal = numpyro.sample(f"{name}_base", self._wrap(base, expand_shape, event_dim))
        quantile = _phi(jnp.clip(normal, -_NORMAL_RANGE, _NORMAL_RANGE))
        source = fn if self.source is None else self.source(fn)
        if isinstance(source, dist.LogUniform):
            return None, source.low * (source.high / source.low) ** quantile
        return None, source.icdf(quantile)
