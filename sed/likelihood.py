r"""Densities of the band fluxes of one galaxy; callers `jax.vmap` over galaxies.

The measured flux :math:`d_b` scatters around the prediction :math:`m_b` with

.. math:: s_b^2 = e_b^2 + (f\,m_b)^2, \qquad m_b = 10^{-0.4 z_b}\,\mathrm{model}_b

where e is the catalogue's error, f the model's fractional error floor, and z the band's zero-point offset in
magnitudes. With an outlier fraction p > 0 a band is drawn from the mixture of Hogg, Bovy & Lang (2010),
section 3, whose broad component is centred on the model too, k = ``outlier_scale``:

.. math:: p(d_b) = (1 - p)\,N(d_b; m_b, s_b^2) + p\,N(d_b; m_b, s_b^2 + k^2 s_b^2)

A band with an upper limit was measured and fell below the limit :math:`l_b`: it contributes the mixture's
probability of that, :math:`\Phi((l_b - m_b) / s_b)` for the narrow component.

Bands that are not ``observed`` are masked at the input, so that NaN in them reaches neither value nor
gradient. All is computed in units of the errors: squares of maggies would leave the range of float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, ArrayLike, Bool, Float, Key, UInt32

_LOG_SQRT_2PI = 0.5 * float(np.log(2 * np.pi))


def photometry_loglike(
    flux: Float[Array, " band"],
    flux_err: Float[Array, " band"],
    model_flux: Float[Array, " band"],
    observed: Bool[Array, " band"],
    *,
    error_floor: Float[ArrayLike, ""] | Float[ArrayLike, " band"] = 0.05,
    upper_limit: Bool[Array, " band"] | None = None,
    outlier_fraction: Float[ArrayLike, ""] = 0.0,
    outlier_scale: Float[ArrayLike, ""] = 10.0,
    zero_point: Float[ArrayLike, " band"] | None = None,
) -> Float[Array, ""]:
    r"""Log-likelihood of one galaxy's band fluxes: the sum of `band_loglike`.

    .. math:: \ln L = -\tfrac12 \sum_b \left[ (d_b - m_b)^2 / s_b^2 + \ln(2\pi s_b^2) \right]

    without upper limits and outliers. Arguments, errors and references as `band_loglike`.

    Returns
    -------
    nats
        Normalised over ``flux``; the variance term stays: it depends on the model.
    """
    return jnp.sum(
        band_loglike(
            flux,
            flux_err,
            model_flux,
            observed,
            error_floor=error_floor,
            upper_limit=upper_limit,
            outlier_fraction=outlier_fraction,
            outlier_scale=outlier_scale,
            zero_point=zero_point,
        )
    )


def band_loglike(
    flux: Float[Array, " band"],
    flux_err: Float[Array, " band"],
    model_flux: Float[Array, " band"],
    observed: Bool[Array, " band"],
    *,
    error_floor: Float[ArrayLike, ""] | Float[ArrayLike, " band"] = 0.05,
    upper_limit: Bool[Array, " band"] | None = None,
    outlier_fraction: Float[ArrayLike, ""] = 0.0,
    outlier_scale: Float[ArrayLike, ""] = 10.0,
    zero_point: Float[ArrayLike, " band"] | None = None,
) -> Float[Array, " band"]:
    """Log-likelihood of every band of one galaxy; the formulas are those of the module.

    Parameters
    ----------
    flux, flux_err, model_flux : maggies
        Measured flux (where ``upper_limit``: the limit), its standard deviation (> 0; where ``upper_limit``:
        the 1-sigma depth), predicted flux.
    observed
        False where a band has no measurement; such a band adds nothing.
    error_floor : dimensionless
        Model uncertainty as a fraction of the predicted flux, added in quadrature; may be traced (free), and
        one number per band.
    upper_limit
        True where ``flux`` is a limit that the galaxy's flux fell below; None for no limits.
    outlier_fraction : dimensionless
        Probability in [0, 1) that a band is an outlier. At a traced 0 the likelihood is the plain Gaussian
        and its derivative in this argument is reported as 0.
    outlier_scale : dimensionless
        Extra scatter of an outlier in units of s, the total standard deviation of a good band.
    zero_point : mag
        Catalogue magnitude minus true magnitude: positive where the catalogue is too faint. The prediction
        is multiplied by ``10**(-0.4 * zero_point)``. None for no offsets.

    Returns
    -------
    nats
        0 where not observed.

    Raises
    ------
    ValueError
        If ``error_floor`` or ``outlier_scale`` is negative or ``outlier_fraction`` outside [0, 1); values
        that are traced by JAX are not checked.

    References
    ----------
    Hogg, Bovy & Lang 2010, arXiv:1008.4686, section 3.
    """
    _check_outliers(outlier_fraction, outlier_scale)
    scaled, log_s = _scaled_residual(flux, flux_err, model_flux, observed, error_floor, zero_point)
    good = _log_density(scaled, log_s, upper_limit)
    if isinstance(outlier_fraction, float) and outlier_fraction == 0.0:
        return jnp.where(observed, good, 0.0)
    broad = jnp.asarray(_broadening(outlier_scale), scaled.dtype)
    bad = _log_density(scaled / broad, log_s + jnp.log(broad), upper_limit)
    p = jnp.asarray(outlier_fraction, scaled.dtype)
    p_safe = jnp.where(p > 0, p, 0.5)  # log(0) must not reach the gradient
    mixture = jnp.logaddexp(jnp.log1p(-p_safe) + good, jnp.log(p_safe) + bad)
    return jnp.where(observed, jnp.where(p > 0, mixture, good), 0.0)


def posterior_predictive_flux(
    key: Key[Array, ""] | UInt32[Array, "2"],
    flux_err: Float[Array, " band"],
    model_flux: Float[Array, " band"],
    observed: Bool[Array, " band"],
    *,
    error_floor: Float[ArrayLike, ""] | Float[ArrayLike, " band"] = 0.05,
    outlier_fraction: Float[ArrayLike, ""] = 0.0,
    outlier_scale: Float[ArrayLike, ""] = 10.0,
    zero_point: Float[ArrayLike, " band"] | None = None,
) -> Float[Array, " band"]:
    """Draw one replicate of the measured fluxes from the density of `band_loglike`.

    Arguments and errors as `band_loglike`. For a band with an upper limit this is the flux that would have
    been measured, to be compared with the limit.

    Returns
    -------
    maggies
        NaN where not observed.
    """
    _check_outliers(outlier_fraction, outlier_scale)
    centre, sigma = predictive_moments(
        flux_err, model_flux, observed, error_floor=error_floor, zero_point=zero_point
    )
    key_noise, key_outlier = jax.random.split(key)
    outlier = jax.random.bernoulli(key_outlier, outlier_fraction, centre.shape)
    sigma = sigma * jnp.where(outlier, _broadening(outlier_scale), 1.0).astype(sigma.dtype)
    return centre + sigma * jax.random.normal(key_noise, centre.shape, centre.dtype)


def chi(
    flux: Float[Array, " band"],
    flux_err: Float[Array, " band"],
    model_flux: Float[Array, " band"],
    observed: Bool[Array, " band"],
    *,
    error_floor: Float[ArrayLike, ""] | Float[ArrayLike, " band"] = 0.05,
    zero_point: Float[ArrayLike, " band"] | None = None,
) -> Float[Array, " band"]:
    """Standardised residuals (d - m) / s of one galaxy; arguments and errors as `band_loglike`.

    Returns
    -------
    dimensionless
        Positive where the galaxy is brighter than the model; NaN where not observed.
    """
    scaled, _ = _scaled_residual(flux, flux_err, model_flux, observed, error_floor, zero_point)
    return jnp.where(observed, scaled, jnp.nan)


def predictive_moments(
    flux_err: Float[Array, " band"],
    model_flux: Float[Array, " band"],
    observed: Bool[Array, " band"],
    *,
    error_floor: Float[ArrayLike, ""] | Float[ArrayLike, " band"] = 0.05,
    zero_point: Float[ArrayLike, " band"] | None = None,
) -> tuple[Float[Array, " band"], Float[Array, " band"]]:
    """Mean m and standard deviation s of the measured flux of a good band; arguments as `band_loglike`.

    Returns
    -------
    maggies
        Mean and standard deviation, NaN where not observed.
    """
    err = jnp.where(observed, flux_err, 1.0)
    model, spread = _spread(err, model_flux, observed, error_floor, zero_point)
    return jnp.where(observed, model, jnp.nan), jnp.where(observed, err * spread, jnp.nan)


def _spread(
    err: Float[Array, " band"],
    model_flux: Float[Array, " band"],
    observed: Bool[Array, " band"],
    error_floor: Float[ArrayLike, ""] | Float[ArrayLike, " band"],
    zero_point: Float[ArrayLike, " band"] | None,
) -> tuple[Float[Array, " band"], Float[Array, " band"]]:
    """Model flux in the catalogue's zero points (maggies) and s / e; ``err`` is already masked."""
    if not isinstance(error_floor, jax.core.Tracer) and np.any(np.asarray(error_floor) < 0):
        raise ValueError(f"`error_floor` must be >= 0 (a fraction of the model flux), got {error_floor}.")
    model = model_flux
    if zero_point is not None:
        model = model * 10 ** (-0.4 * jnp.asarray(zero_point, model.dtype))
    model = jnp.where(observed, model, 0.0)
    floor = jnp.asarray(error_floor, model.dtype)
    return model, jnp.sqrt(1.0 + (floor * (model / err)) ** 2)


def _scaled_residual(
    flux: Float[Array, " band"],
    flux_err: Float[Array, " band"],
    model_flux: Float[Array, " band"],
    observed: Bool[Array, " band"],
    error_floor: Float[ArrayLike, ""] | Float[ArrayLike, " band"],
    zero_point: Float[ArrayLike, " band"] | None,
) -> tuple[Float[Array, " band"], Float[Array, " band"]]:
    """Give (d - m) / s and ln s (s in maggies), with 0 for both where not observed."""
    # Mask the inputs, not only the sum: 0 * NaN would poison the gradient.
    err = jnp.where(observed, flux_err, 1.0)
    model, spread = _spread(err, model_flux, observed, error_floor, zero_point)
    residual = jnp.where(observed, flux, 0.0) - model
    return residual / err / spread, jnp.log(err) + jnp.log(spread)


def _log_density(
    scaled: Float[Array, " band"], log_s: Float[Array, " band"], upper_limit: Bool[Array, " band"] | None
) -> Float[Array, " band"]:
    """Gaussian log-density, or log-probability of lying below the limit."""
    gaussian = -0.5 * scaled**2 - log_s - _LOG_SQRT_2PI
    if upper_limit is None:
        return gaussian
    return jnp.where(upper_limit, log_ndtr(jnp.where(upper_limit, scaled, 0.0)), gaussian)


def _broadening(outlier_scale: Float[ArrayLike, ""]) -> Float[Array, ""]:
    """Give the standard deviation of an outlier over that of a good band."""
    return jnp.sqrt(1.0 + jnp.asarray(outlier_scale) ** 2)


def _check_outliers(outlier_fraction: Float[ArrayLike, ""], outlier_scale: Float[ArrayLike, ""]) -> None:
    """Refuse impossible outlier settings where their values are known."""
    if not isinstance(outlier_fraction, jax.core.Tracer) and not 0 <= np.asarray(outlier_fraction) < 1:
        raise ValueError(f"`outlier_fraction` must be in [0, 1), got {outlier_fraction}.")
    if not isinstance(outlier_scale, jax.core.Tracer) and np.asarray(outlier_scale) < 0:
        raise ValueError(f"`outlier_scale` must be >= 0 (in units of the scatter), got {outlier_scale}.")
