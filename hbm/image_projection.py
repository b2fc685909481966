r"""A galaxy's image as R numbers: the likelihood as an exponential family, for large catalogues.

The log-likelihood of `hbm.image` is linear in s = (M, v) and in the features phi = (h h^T, h) of theta, to
which a ratio correction adds its numbers and psi. Over
images and theta as they occur, a few directions carry nearly all of its variation:

.. math:: \ln p(x | \theta, u) \approx const(x) + a(x) \cdot \psi(\theta, u) + \psi_0(\theta, u)

With z the whitened features (unit covariance over theta at fixed image) and t the statistics in those
coordinates, so that s . phi = t . z + const, a are the leading principal components of t, and psi_0 belongs
to its mean: the least mean square error of ln p for R numbers.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hbm.image import GalaxyImage, ImageLikelihood

_SMALLEST = 1e-9
"""Directions of phi with a variance below this part of the largest do not vary with theta."""


class ProjectedImage(NamedTuple):
    """What a galaxy's image is reduced to; leading axes for several galaxies."""

    a: Float[Array | np.ndarray, "*galaxy number"]
    u: Float[Array | np.ndarray, "*galaxy column"]
    age_gyr: Float[Array | np.ndarray, "*galaxy"]


class ImageProjection(eqx.Module):
    """Likelihood of projected images; make it with `fit_projection`."""

    likelihood: ImageLikelihood
    encode: Float[np.ndarray, "statistic number"]
    """From s to a."""
    offset: Float[np.ndarray, " number"]
    decode: Float[Array, "number_and_mean statistic"]
    """From phi to psi, then psi_0."""
    spectrum: tuple[float, ...] = eqx.field(static=True)
    """Part of the variance of ln p over theta and images that each number keeps."""

    @property
    def explained(self) -> float:
        """Part of the variance that all of them keep."""
        return sum(self.spectrum)

    def truncated(self, n_number: int) -> "ImageProjection":
        """The projection to fewer numbers, which are the first of these.

        Raises
        ------
        ValueError
            If ``n_number`` is not between 1 and the number of these.
        """
        if not 1 <= n_number <= len(self.spectrum):
            raise ValueError(f"`n_number` must be between 1 and {len(self.spectrum)}, got {n_number}.")
        return ImageProjection(
            likelihood=self.likelihood,
            encode=self.encode[:, :n_number],
            offset=self.offset[:n_number],
            decode=jnp.concatenate([self.decode[:n_number], self.decode[-1:]]),
            spectrum=self.spectrum[:n_number],
        )

    def project(self, galaxy: GalaxyImage) -> ProjectedImage:
        """R numbers per galaxy."""
        s = statistic_vector(galaxy)
        a = (s @ self.encode - self.offset).astype(np.float32)
        return ProjectedImage(a, np.asarray(galaxy.u), np.asarray(galaxy.age_gyr))

    def log_prob(self, theta: Float[Array, " theta"], galaxy: ProjectedImage) -> Float[Array, ""]:
        """Ln p(image | theta, u) in nats, up to a constant of the image, of one galaxy."""
        phi = feature_vector(self.likelihood, theta, jnp.asarray(galaxy.u), jnp.asarray(galaxy.age_gyr))
        psi = self.decode @ phi
        return jnp.dot(psi[:-1], jnp.asarray(galaxy.a)) + psi[-1]


def feature_vector(
    likelihood: ImageLikelihood,
    theta: Float[Array, " theta"],
    u: Float[Array, " column"],
    age_gyr: Float[Array, ""],
) -> Float[Array, " statistic"]:
    """Phi: upper triangle of h h^T, then h, then psi of the ratio correction."""
    h = likelihood.feature(theta, u, age_gyr)
    row, column = np.triu_indices(h.shape[0])
    psi = likelihood.ratio_feature(likelihood.scaled(theta, age_gyr), u)
    return jnp.concatenate([h[row] * h[column], h, psi])


def statistic_vector(galaxy: GalaxyImage) -> Float[np.ndarray, "*galaxy statistic"]:
    """S, so that ln p = s . phi."""
    M, v = np.asarray(galaxy.M, np.float64), np.asarray(galaxy.v, np.float64)
    row, column = np.triu_indices(M.shape[-1])
    upper = -M[..., row, column] * np.where(row == column, 1.0, 2.0)
    return np.concatenate([upper, 2 * v, np.asarray(galaxy.s, np.float64)], axis=-1)


def fit_projection(
    likelihood: ImageLikelihood,
    images: GalaxyImage,
    theta: Float[np.ndarray, "galaxy draw theta"],
    n_number: int,
) -> ImageProjection:
    """Projection that keeps most of the variation of ln p.

    Parameters
    ----------
    likelihood
        Of the images.
    images
        Statistics of galaxies like those that will be projected: some hundreds.
    theta
        Properties where ln p matters, for each galaxy: draws from a broad prior at its redshift, from its
        posterior, or some of both. In units, not scaled.
    n_number
        R.

    Raises
    ------
    ValueError
        If ``n_number`` is not between 1 and the number of directions in the data.
    """
    vectors = jax.jit(jax.vmap(feature_vector, (None, 0, None, None)))
    n_galaxy, n_draw = theta.shape[:2]
    covariance: Any = 0.0
    for i in range(n_galaxy):
        one = (jnp.asarray(theta[i], jnp.float32), jnp.asarray(images.u[i]), jnp.asarray(images.age_gyr[i]))
        phi = np.asarray(vectors(likelihood, *one), np.float64)
        phi = phi - phi.mean(axis=0)
        covariance += phi.T @ phi / (n_galaxy * n_draw)
    value, vector = np.linalg.eigh(covariance)
    keep = value > _SMALLEST * value[-1]
    scale, basis = np.sqrt(value[keep]), vector[:, keep]
    t = statistic_vector(images) @ (basis * scale)
    mean = t.mean(axis=0)
    variance, direction = np.linalg.eigh((t - mean).T @ (t - mean) / n_galaxy)
    most = min(len(variance), n_galaxy)
    if not 1 <= n_number <= most:
        raise ValueError(
            f"`n_number` must be between 1 and {most} for these images and theta, got {n_number}."
        )
    lead = direction[:, ::-1][:, :n_number]
    whiten = basis / scale
    decode = np.concatenate([(whiten @ lead).T, (whiten @ mean)[None]])
    return ImageProjection(
        likelihood=likelihood,
        encode=(basis * scale) @ lead,
        offset=mean @ lead,
        decode=jnp.asarray(decode, jnp.float32),
        spectrum=tuple((variance[::-1][:n_number] / variance.sum()).tolist()),
    )
