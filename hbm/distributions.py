r"""Prior distributions with closed-form quantile functions, and sampling through a standard normal.

A parameter x with quantile function Q is sampled as x = Q(Phi(n)), n standard normal. The prior is the
same; the sampler sees directions that the data do not constrain as standard normals, whatever bounds
and tails the prior has.
"""

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


class SplitNormal(dist.Distribution):
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
        return self.scale_low / (self.scale_low + self.scale_high)

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


class TruncatedNormal(dist.Distribution):
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
    """Quantile function of the standard normal, to the digits that ``q`` has near 1/2: enough between the
    ends of a truncated normal, and one operation where `jax.scipy.special.ndtri` is a hundred."""
    return float(np.sqrt(2.0)) * erfinv(jnp.clip(2 * q - 1, -1 + 1.2e-7, 1 - 1.2e-7))


class StudentT2(dist.Distribution):
    r"""Student t with 2 degrees of freedom, which has closed forms.

    .. math:: p(t) = (2 + t^2)^{-3/2}, \quad Q(u) = (2u - 1) / \sqrt{2 u (1 - u)}, \quad t = x / scale
    """

    arg_constraints = {"scale": constraints.positive}  # noqa: RUF012
    support = constraints.real
    reparametrized_params = ["scale"]  # noqa: RUF012

    def __init__(self, scale: ArrayLike, *, validate_args: bool | None = None) -> None:
        self.scale = jnp.asarray(scale, jnp.result_type(float))
        super().__init__(batch_shape=jnp.shape(self.scale), validate_args=validate_args)

    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> Array:
        """Normalised log density."""
        del intermediates
        return -1.5 * jnp.log(2 + (value / self.scale) ** 2) - jnp.log(self.scale)

    def cdf(self, value: ArrayLike) -> Array:
        """Distribution function."""
        t = value / self.scale
        return 0.5 * (1 + t / jnp.sqrt(2 + t**2))

    def from_normal(self, normal: Float[Array, "..."]) -> Array:
        """Quantile function of Phi(normal), with both tails so that neither loses its digits."""
        tail = _phi(-jnp.abs(normal))
        return self.scale * jnp.sign(normal) * (1 - 2 * tail) / jnp.sqrt(2 * tail * (1 - tail))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws by the quantile function."""
        return self.from_normal(jax.random.normal(key, sample_shape + self.batch_shape))


class NormalReparam(Reparam):  # type: ignore[misc]
    """Sample a site through a standard normal site ``NAME_base`` and its quantile function."""

    def __call__(self, name: str, fn: Any, obs: Any) -> tuple[None, Array]:
        """Replace the site; see `numpyro.infer.reparam.Reparam`."""
        if obs is not None:
            raise ValueError(f"site `{name}` is observed and cannot be sampled through a normal.")
        fn, expand_shape, event_dim = self._unwrap(fn)
        base = dist.Normal(jnp.zeros(fn.shape()), 1.0).to_event(fn.event_dim)
        normal = numpyro.sample(f"{name}_base", self._wrap(base, expand_shape, event_dim))
        clipped = jnp.clip(normal, -_NORMAL_RANGE, _NORMAL_RANGE)
        if hasattr(fn, "from_normal"):
            return None, fn.from_normal(clipped)
        return None, fn.icdf(_phi(clipped))
