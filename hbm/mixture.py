r"""Mixtures of Gaussians fitted to draws: proposals for importance sampling and for jumps of chains.

.. math:: q(x) = \sum_k w_k N(x; \mu_k, L_k L_k^T)

All functions take one galaxy and may be vmapped, which is why no library does this here: the many small
fits of a batch run in one program.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

_N_EM = 12
"""Rounds of expectation and maximisation."""

_SHRINK = 0.02
"""Part of the covariance of all points in that of each component."""

FLOOR = 1e-5
"""Added to variances."""

_DEFENSIVE_WEIGHT = 0.1
_DEFENSIVE_SCALE = 2.0
_INFLATION = 1.1


class Mixture(NamedTuple):
    """A mixture of Gaussians."""

    logweight: Float[Array, " comp"]
    """Logarithm of the weights, which sum to one."""
    mean: Float[Array, "comp dim"]
    """Centres."""
    chol: Float[Array, "comp dim dim"]
    """Lower Cholesky factors of the covariances."""
    inverse: Float[Array, "comp dim dim"]
    """Their inverses."""

    def log_parts(self, x: Float[Array, "point dim"]) -> Float[Array, "comp point"]:
        """Log density of each component, with its weight."""
        dim = self.mean.shape[-1]
        offset = x[None] - self.mean[:, None]
        white = jnp.einsum("kni,kji->knj", offset, self.inverse, precision="highest")
        log_det = jnp.sum(jnp.log(jnp.diagonal(self.chol, axis1=-2, axis2=-1)), axis=-1)
        constant = self.logweight - log_det - 0.5 * dim * float(np.log(2 * np.pi))
        return constant[:, None] - 0.5 * jnp.sum(white**2, axis=-1)

    def log_prob(self, x: Float[Array, "point dim"]) -> Float[Array, " point"]:
        """Log density."""
        return logsumexp(self.log_parts(x), axis=0)

    def sample(self, key: Array, n: int) -> Float[Array, "point dim"]:
        """Draws."""
        key_component, key_normal = jax.random.split(key)
        normal = jax.random.normal(key_normal, (n, self.mean.shape[-1]))
        component = jax.random.categorical(key_component, self.logweight, shape=(n,))
        every = self.mean[:, None] + jnp.einsum("ni,kji->knj", normal, self.chol, precision="highest")
        chosen = jax.nn.one_hot(component, self.mean.shape[0], dtype=normal.dtype)
        return jnp.einsum("nk,knj->nj", chosen, every, precision="highest")


def standard_mixture(scale: Float[Array, " dim"], n_component: int) -> Mixture:
    """One Gaussian with independent axes, as a mixture of equal components."""
    weight = jnp.full(n_component, -float(np.log(n_component)))
    shape = (n_component, len(scale), len(scale))
    factor, inverse = (jnp.broadcast_to(jnp.diag(value), shape) for value in (scale, 1 / scale))
    return Mixture(weight, jnp.zeros((n_component, len(scale))), factor, inverse)


def factored(
    covariance: Float[Array, "... dim dim"],
) -> tuple[Float[Array, "... dim dim"], Float[Array, "... dim dim"]]:
    """Lower Cholesky factors of small matrices, and their inverses.

    Column by column, all matrices at once, by operations of XLA alone. LAPACK through
    `jnp.linalg.cholesky` and `solve_triangular` in one program made it wait for itself for ever on CPUs,
    with jaxlib 0.10.2 on two cores and 32 galaxies (a test in ``tests/test_hbm/test_mixture.py``).
    """
    dim = covariance.shape[-1]
    unit = jnp.eye(dim, dtype=covariance.dtype)

    def column(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        left, factor = state  # what is left of the covariance after the columns before j
        pivot = jax.lax.dynamic_index_in_dim(left, j, -1, keepdims=False)
        new = jnp.where(jnp.arange(dim) >= j, pivot / jnp.sqrt(pivot[..., j, None]), 0.0)
        return left - new[..., :, None] * new[..., None, :], factor + new[..., :, None] * unit[j]

    def row(i: Array, state: Array) -> Array:
        mine = jax.lax.dynamic_index_in_dim(factor, i, -2, keepdims=False)
        done = jnp.einsum("...k,...kj->...j", mine, state, precision="highest")
        new = (unit[i] - done) / mine[..., i, None]
        return jnp.asarray(state + unit[i][:, None] * new[..., None, :])

    zero = jnp.zeros_like(covariance)
    _, factor = jax.lax.fori_loop(0, dim, column, (covariance, zero))
    return factor, jax.lax.fori_loop(0, dim, row, zero)


def moments(
    x: Float[Array, "point dim"], weight: Float[Array, " point"]
) -> tuple[Float[Array, " dim"], Float[Array, "dim dim"]]:
    """Mean and covariance of weighted points; the weights sum to one."""
    mean = jnp.matmul(weight, x, precision="highest")
    offset = x - mean
    return mean, jnp.einsum("n,ni,nj->ij", weight, offset, offset, precision="highest")


def fit_mixture(key: Array, x: Float[Array, "point dim"], n_component: int) -> Mixture:
    """Fit a mixture to points of equal weight, by expectation and maximisation from random points.

    Covariances are shrunk slightly towards that of all points, so that none collapses; a component that
    has lost its points goes back to the whole.
    """
    n, dim = x.shape
    mean, covariance = moments(x, jnp.full(n, 1.0 / n))
    floor = FLOOR * jnp.eye(dim)
    whole = covariance + floor

    def improve(mixture: Mixture, _: None) -> tuple[Mixture, None]:
        share = jax.nn.softmax(mixture.log_parts(x), axis=0)
        total = jnp.sum(share, axis=1)
        is_alive = total > dim + 1.0
        unit = share / jnp.maximum(total, 1e-6)[:, None]
        means, covariances = jax.vmap(lambda w: moments(x, w))(unit)
        covariances = (1 - _SHRINK) * covariances + _SHRINK * whole + floor
        means = jnp.where(is_alive[:, None], means, mean)
        covariances = jnp.where(is_alive[:, None, None], covariances, whole)
        weight = jnp.maximum(total, 1.0) / jnp.sum(jnp.maximum(total, 1.0))
        return Mixture(jnp.log(weight), means, *factored(covariances)), None

    # One point from each of as many stretches, all different.
    stretch = n / n_component
    place = (jnp.arange(n_component) + jax.random.uniform(key, (n_component,))) * stretch
    first = x[jnp.minimum(place.astype(int), n - 1)]
    start = Mixture(
        jnp.full(n_component, -float(np.log(n_component))),
        first,
        *(jnp.broadcast_to(matrix, (n_component, dim, dim)) for matrix in factored(whole)),
    )
    fitted, _ = jax.lax.scan(improve, start, None, length=_N_EM)
    return fitted


def as_proposal(mixture: Mixture, mean: Float[Array, " dim"], covariance: Float[Array, "dim dim"]) -> Mixture:
    """Widen a fitted mixture slightly and add a broad component, so that ratios to it are rarely large.

    Parameters
    ----------
    mixture
        As fitted.
    mean, covariance
        Of all points.
    """
    dim = mean.shape[0]
    factor, inverse = factored(covariance + FLOOR * jnp.eye(dim))
    wider, inflated = float(np.sqrt(_DEFENSIVE_SCALE)), float(np.sqrt(_INFLATION))
    return Mixture(
        jnp.append(mixture.logweight + np.log(1 - _DEFENSIVE_WEIGHT), np.log(_DEFENSIVE_WEIGHT)),
        jnp.concatenate([mixture.mean, mean[None]]),
        jnp.concatenate([mixture.chol * inflated, (factor * wider)[None]]),
        jnp.concatenate([mixture.inverse / inflated, (inverse / wider)[None]]),
    )
