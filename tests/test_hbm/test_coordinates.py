"""The sampler's coordinates change nothing: density against the model's own, with a numerical Jacobian."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

from hbm.catalog import Catalog
from hbm.config import InterimPrior, ModelConfig
from hbm.coordinates import bent, build_posterior
from hbm.galaxies import DataBuilder
from hbm.model import galaxy_model

FILTERS = ("sdss_u0", "sdss_r0", "twomass_J")
SMALL = ModelConfig(n_node=3, dust_emission=False)


def one_galaxy(grid, config, zred_err=0.0):
    catalog = Catalog(
        id=("a",),
        zred=np.array([0.1]),
        zred_err=np.array([zred_err]),
        flux=np.array([[2e-8, 2e-7, 6e-7]]),
        flux_err=np.array([[2e-9, 4e-9, 2e-8]]),
        observed=np.ones((1, 3), bool),
        upper_limit=np.zeros((1, 3), bool),
        filter_names=FILTERS,
        meta={},
    )
    return DataBuilder(grid, config, FILTERS)(catalog, 0)


@pytest.mark.parametrize(
    ("config", "zred_err"),
    [
        (replace(SMALL, n_old=3, prior=InterimPrior(logmass=(8.0, 10.7))), 0.0),
        (replace(SMALL, sfh="delayed_tau", error_floor="free", outliers=True, n_zred=3), 0.01),
    ],
    ids=["binned, mass at the end of its range", "delayed tau, nuisances, free redshift"],
)
def test_density_is_the_models_with_the_jacobian(grid, config, zred_err):
    data = one_galaxy(grid, config, zred_err)
    with jax.enable_x64(True):
        data = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64 if np.asarray(leaf).dtype == np.float32 else None),
            data,
        )
        posterior = build_posterior(config, data)

        def values(vector):
            sites = posterior.constrain(vector, data)
            return jnp.concatenate([jnp.ravel(sites[name]) for name in posterior.sampled])

        @jax.jit
        def both(vector):
            sites = posterior.constrain(vector, data)
            model, _ = log_density(galaxy_model, (data, config), {}, sites)
            _, logdet = jnp.linalg.slogdet(jax.jacfwd(values)(vector))
            return posterior.potential(vector, data), -(model + logdet)

        vectors = 0.7 * jax.random.normal(jax.random.key(1), (5, posterior.dim))
        ours, direct = np.array([both(vector) for vector in vectors]).T
    assert np.ptp(direct) > 1
    np.testing.assert_allclose(ours - ours[0], direct - direct[0], rtol=1e-6, atol=1e-6)


def test_mass_stays_in_its_prior(grid):
    config = replace(SMALL, n_old=3, prior=InterimPrior(logmass=(6.0, 6.5)))
    data = one_galaxy(grid, config)
    posterior = build_posterior(config, data)
    found = jax.jit(posterior.evaluate)(jnp.zeros(posterior.dim), data, None)
    assert 6.0 <= float(found.sites["logmass"]) <= 6.5
    assert np.isfinite(found.potential)


def test_bend_is_the_identity_inside_and_ends_at_the_ends():
    x = jnp.linspace(7.0, 11.0, 9)
    value, log_slope = jax.vmap(lambda one: bent(one, 6.0, 12.0))(x)
    np.testing.assert_allclose(value, x, atol=1e-5)
    np.testing.assert_allclose(log_slope, 0, atol=1e-5)
    outside = [float(bent(jnp.asarray(one), 6.0, 12.0)[0]) for one in (-20.0, 40.0)]
    np.testing.assert_allclose(outside, [6.0, 12.0])


def test_slope_of_the_bend():
    x = jnp.linspace(5.9, 7.3, 29)
    with jax.enable_x64(True):
        x = jnp.asarray(x, jnp.float64)
        slope = jax.vmap(jax.grad(lambda one: bent(one, 6.0, 7.2)[0]))(x)
        np.testing.assert_allclose(jnp.log(slope), jax.vmap(lambda one: bent(one, 6.0, 7.2)[1])(x), atol=1e-6)
