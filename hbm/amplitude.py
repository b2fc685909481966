"""The factor by which a model spectrum fits measured fluxes best."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

_FLOOR = 1e-3
"""Smallest signal-to-noise ratio of the amplitude: held there, so that its logarithm exists."""


def best_amplitude(
    model_flux: Float[ArrayLike, " band"],
    flux: Float[ArrayLike, " band"],
    flux_err: Float[ArrayLike, " band"],
    use: Bool[ArrayLike, " band"],
    error_floor: Float[ArrayLike, ""],
) -> Float[Array, ""]:
    r"""Least-squares amplitude, :math:`A = \sum w d m / \sum w m^2`, :math:`w = 1 / (e^2 + (f d)^2)`.

    Parameters
    ----------
    model_flux, flux, flux_err : maggies
    use
        Bands that count.
    error_floor
        Fraction f of the flux added to the error.

    Returns
    -------
    dimensionless
        Positive.
    """
    model = jnp.asarray(model_flux)
    error = jnp.sqrt(jnp.asarray(flux_err) ** 2 + (error_floor * jnp.asarray(flux)) ** 2)
    signal = jnp.where(use, jnp.asarray(flux) / error, 0.0)
    expected = jnp.where(use, model / error, 0.0)  # in units of the errors: no overflow in single precision
    norm = jnp.maximum(jnp.sqrt(jnp.sum(expected**2)), 1e-30)
    return jnp.maximum(jnp.sum(signal * (expected / norm)), _FLOOR) / norm
