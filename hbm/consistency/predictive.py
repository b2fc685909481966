r"""Predictive p-values: the measured fluxes among those that the image, or the other bands, let expect.

Each compares the data with their own predictive distribution given *other* data, so that p is uniform if
nothing is wrong: no data are used twice, as they are in the usual posterior-predictive check.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.stats import norm

from hbm.mixture import Mixture, fit_mixture
from hbm.model import OUTLIER_SCALE
from sed.likelihood import posterior_predictive_flux

_N_COMPONENT = 4
_N_REPLICATE = 2000


def replicates(
    key: Array,
    weight: Float[np.ndarray, " point"],
    flux: Float[np.ndarray, "point band"],
    flux_err: Float[np.ndarray, " band"],
    observed: Bool[np.ndarray, " band"],
    error_floor: Float[np.ndarray, " point"],
    outlier_fraction: Float[np.ndarray, " point"],
) -> Float[np.ndarray, "replicate band"]:
    """Measurements of galaxies that are drawn with given weights, which sum to one.

    Parameters
    ----------
    key
        Source of randomness.
    weight
        Of the points.
    flux : maggies
        Of the model.
    flux_err : maggies
    observed
        Bands that were measured.
    error_floor, outlier_fraction
        At the points.

    Returns
    -------
    maggies
        Noise included; nan where not observed.
    """
    key_index, key_noise = jax.random.split(key)
    place = (np.arange(_N_REPLICATE) + float(jax.random.uniform(key_index))) / _N_REPLICATE
    index = np.clip(np.searchsorted(np.cumsum(weight), place), 0, len(weight) - 1)
    keys = jax.random.split(key_noise, _N_REPLICATE)
    drawn = _measure(
        keys, jnp.asarray(flux_err), jnp.asarray(flux[index]), jnp.asarray(observed),
        jnp.asarray(error_floor[index]), jnp.asarray(outlier_fraction[index]),
    )  # fmt: skip
    return np.asarray(drawn, np.float64)


@jax.jit
def _measure(
    keys: Array, err: Array, flux: Array, observed: Array, floor: Array, fraction: Array
) -> Float[Array, "replicate band"]:
    def one(key: Array, flux: Array, floor: Array, fraction: Array) -> Array:
        return posterior_predictive_flux(
            key,
            err,
            flux,
            observed,
            error_floor=floor,
            outlier_fraction=fraction,
            outlier_scale=OUTLIER_SCALE,
        )

    found: Array = jax.vmap(one)(keys, flux, floor, fraction)
    return found


def p_of_fluxes(
    key: Array,
    predicted: Float[np.ndarray, "replicate band"],
    flux: Float[np.ndarray, " band"],
    flux_err: Float[np.ndarray, " band"],
    use: Bool[np.ndarray, " band"],
) -> float:
    r"""Part of the predicted measurements that are at most as likely as the real ones.

    Their density is approximated by a mixture of Gaussians of :math:`y_b = \mathrm{arsinh}(f_b / 2 e_b)`,
    which is fitted to one half of the replicates; the other half is what the data are ranked among, so that
    p is uniform however good the approximation (Box 1980, JRSS A 143, 383).

    Parameters
    ----------
    key
        Of the mixture's start.
    predicted : maggies
        From `replicates`.
    flux, flux_err : maggies
        Measured.
    use
        Bands that count.

    Returns
    -------
    float
        At least 1 / (replicates / 2 + 1); nan if no band counts.
    """
    if not use.any():
        return float("nan")
    y = np.arcsinh(predicted[:, use] / (2 * flux_err[use]))
    own = np.arcsinh(flux[use] / (2 * flux_err[use]))
    centre, scale = y.mean(axis=0), y.std(axis=0) + 1e-6
    y, own = (y - centre) / scale, (own - centre) / scale
    order = np.asarray(jax.random.permutation(key, len(y)))
    half = len(y) // 2
    density = _density(jax.random.fold_in(key, 1), jnp.asarray(y[order[:half]], jnp.float32))
    at = np.asarray(_log_prob(density, jnp.asarray(np.vstack([y[order[half:]], own]), jnp.float32)))
    return float((1 + np.sum(at[:-1] <= at[-1])) / len(at))


@jax.jit
def _density(key: Array, y: Float[Array, "replicate band"]) -> Mixture:
    return fit_mixture(key, y, _N_COMPONENT)


@jax.jit
def _log_prob(density: Mixture, y: Float[Array, "replicate band"]) -> Float[Array, " replicate"]:
    return density.log_prob(y)


def p_of_bands(
    weight: Float[np.ndarray, "point band"],
    flux: Float[np.ndarray, "point band"],
    error_floor: Float[np.ndarray, " point"],
    outlier_fraction: Float[np.ndarray, " point"],
    measured: Float[np.ndarray, " band"],
    flux_err: Float[np.ndarray, " band"],
    use: Bool[np.ndarray, " band"],
) -> Float[np.ndarray, " band"]:
    r"""Two-sided p-value of each band's flux, predicted by the image and the other bands.

    .. math:: u_b = \sum_n w_{nb}\,\Phi\left((f_b - m_{nb}) / s_{nb}\right), \quad
              p_b = 2 \min(u_b, 1 - u_b)

    Parameters
    ----------
    weight
        Of each point under the image and all bands but one; columns sum to one.
    flux : maggies
        Of the model.
    error_floor, outlier_fraction
        At the points.
    measured, flux_err : maggies
    use
        Bands that count; nan elsewhere.
    """
    scatter = np.sqrt(flux_err**2 + (error_floor[:, None] * flux) ** 2)
    z = (measured - flux) / scatter
    bad = outlier_fraction[:, None]
    below = (1 - bad) * norm.cdf(z) + bad * norm.cdf(z / np.sqrt(1 + OUTLIER_SCALE**2))
    u = np.clip((weight * below).sum(axis=0), 0.0, 1.0)
    return np.where(use, 2 * np.minimum(u, 1 - u), np.nan)


def band_quantiles(
    weight: Float[np.ndarray, "point band"],
    flux: Float[np.ndarray, "point band"],
    error_floor: Float[np.ndarray, " point"],
    outlier_fraction: Float[np.ndarray, " point"],
    flux_err: Float[np.ndarray, " band"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "3 band"]:
    """16, 50 and 84 % of what would be measured in each band, under weights of its own; as `p_of_bands`."""
    found = []
    for band in range(flux.shape[1]):
        index = rng.choice(len(flux), _N_REPLICATE, p=weight[:, band])
        model = flux[index, band]
        scatter = np.sqrt(flux_err[band] ** 2 + (error_floor[index] * model) ** 2)
        is_bad = rng.uniform(size=_N_REPLICATE) < outlier_fraction[index]
        scatter = scatter * np.where(is_bad, np.sqrt(1 + OUTLIER_SCALE**2), 1.0)
        found.append(np.quantile(model + scatter * rng.normal(size=_N_REPLICATE), (0.16, 0.5, 0.84)))
    return np.stack(found, axis=1)
