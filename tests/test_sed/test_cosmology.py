"""Distances and ages against astropy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import cosmology as ac

from sed.cosmology import Cosmology, default_cosmology

ZRED = np.concatenate([np.geomspace(1e-4, 15.0, 301), [0.5, 1.0, 3.3]])
COSMOLOGIES = {
    "planck": ac.Planck18,
    "wmap": ac.WMAP9,
    "open": ac.LambdaCDM(H0=70.0, Om0=0.3, Ode0=0.5),
    "closed": ac.LambdaCDM(H0=65.0, Om0=0.35, Ode0=0.75),
    "w0": ac.wCDM(H0=70.0, Om0=0.3, Ode0=0.7, w0=-0.8),
}


@pytest.mark.parametrize("which", COSMOLOGIES)
def test_matches_astropy(which):
    """Both functions agree with astropy to the accuracy of its own integrals (about 1e-8)."""
    truth = COSMOLOGIES[which]
    cosmology = Cosmology.from_astropy(truth)
    distance, age = truth.luminosity_distance(ZRED).to_value("Mpc"), truth.age(ZRED).to_value("Gyr")
    with jax.enable_x64(True):
        np.testing.assert_allclose(cosmology.luminosity_distance(jnp.asarray(ZRED)), distance, rtol=1e-8)
        np.testing.assert_allclose(cosmology.age(jnp.asarray(ZRED)), age, rtol=1e-8)
    np.testing.assert_allclose(cosmology.luminosity_distance_np(ZRED), distance, rtol=1e-8)
    np.testing.assert_allclose(cosmology.age_np(ZRED), age, rtol=1e-8)


def test_float32():
    """Single precision costs a few roundings, nothing more; the same object serves both precisions."""
    cosmology = default_cosmology()
    zred = jnp.asarray(ZRED, dtype=jnp.float32)
    distance = cosmology.luminosity_distance(zred)
    assert distance.dtype == jnp.float32
    exact = ac.Planck18.luminosity_distance(np.asarray(zred, np.float64)).to_value("Mpc")
    np.testing.assert_allclose(distance, exact, rtol=1e-6)
    slope = jax.vmap(jax.grad(cosmology.luminosity_distance))(zred)
    with jax.enable_x64(True):
        exact_slope = jax.vmap(jax.grad(cosmology.luminosity_distance))(jnp.asarray(zred, jnp.float64))
    np.testing.assert_allclose(slope, exact_slope, rtol=2e-4)  # differences of neighbouring nodes


@pytest.mark.parametrize("which", ["planck", "open"])
def test_gradient(which):
    """Gradient against finite differences of astropy itself."""
    truth, h = COSMOLOGIES[which], 1e-4
    cosmology = Cosmology.from_astropy(truth)
    with jax.enable_x64(True):
        for z in (0.01, 0.7, 4.0, 12.0):
            expected = np.diff(truth.luminosity_distance([z - h, z + h]).to_value("Mpc"))[0] / (2 * h)
            np.testing.assert_allclose(jax.grad(cosmology.luminosity_distance)(z), expected, rtol=1e-6)
            expected = np.diff(truth.age([z - h, z + h]).to_value("Gyr"))[0] / (2 * h)
            np.testing.assert_allclose(jax.grad(cosmology.age)(z), expected, rtol=1e-5)


def test_limits():
    """D_L vanishes at redshift zero with slope c / H0; outside the table the answer is NaN."""
    cosmology = default_cosmology()
    assert cosmology.luminosity_distance(0.0) == 0.0
    hubble_distance = ac.Planck18.hubble_distance.to_value("Mpc")
    np.testing.assert_allclose(jax.grad(cosmology.luminosity_distance)(0.0), hubble_distance, rtol=1e-6)
    for z in (-0.1, 15.5):
        assert np.isnan(cosmology.luminosity_distance(z))
        assert np.isnan(cosmology.age(z))
    assert np.isfinite(cosmology.age(15.0))


def test_jit_vmap_and_provenance():
    """The object passes through jit as an argument; the default is made once."""
    cosmology = default_cosmology()
    zred = jnp.asarray([0.1, 2.0])
    by_jit = eqx.filter_jit(lambda c, z: jax.vmap(c.luminosity_distance)(z))(cosmology, zred)
    np.testing.assert_allclose(by_jit, cosmology.luminosity_distance(zred), rtol=1e-6)
    assert cosmology is default_cosmology()
    assert cosmology.name == "Planck18"
    assert "0.35" in Cosmology.from_astropy(COSMOLOGIES["closed"]).name


@pytest.mark.parametrize("zred", [0.0, -9.0, 15.1, np.nan])
def test_refuses_redshift(zred):
    """The message gives the range and the offending value."""
    with pytest.raises(ValueError, match=r"`zred` must lie in \(0, 15\]"):
        default_cosmology().check_zred(np.asarray([0.5, zred]))
    with pytest.raises(ValueError, match="`zred`"):
        default_cosmology().luminosity_distance_np(zred)


@pytest.mark.parametrize("zmax", [0.0, -1.0, np.inf])
def test_refuses_zmax(zmax):
    """A table needs a positive, finite range."""
    with pytest.raises(ValueError, match="`zmax`"):
        Cosmology.from_astropy(ac.Planck18, zmax=zmax)
