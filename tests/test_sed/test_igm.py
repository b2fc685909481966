"""Transmission of the intergalactic medium against FSPS and against the absorbers it stands for."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sed import igm
from sed.igm import igm_transmission_inoue, igm_transmission_madau

WAVE = np.geomspace(91.0, 1e5, 1500)
MODELS = [igm_transmission_madau, igm_transmission_inoue]
inoue_jit = jax.jit(igm_transmission_inoue)


@pytest.mark.fsps
def test_madau_equals_fsps():
    """The ratio of FSPS spectra with and without absorption, at every wavelength, factor included."""
    fsps = pytest.importorskip("fsps")
    if "SPS_HOME" not in os.environ:
        pytest.skip("SPS_HOME is not set")
    population = fsps.StellarPopulation(zcontinuous=0, sfh=0, add_igm_absorption=True, add_neb_emission=False)
    _, clear = population.get_spectrum(tage=0.01)  # zred = 0: no absorption
    for zred, factor in [(0.1, 1.0), (0.7, 1.0), (2.5, 1.0), (4.0, 1.0), (4.0, 0.5), (7.0, 1.0)]:
        population.params["zred"] = zred
        population.params["igm_factor"] = factor
        wave, absorbed = population.get_spectrum(tage=0.01)
        use = clear > 1e-60
        with jax.enable_x64(True):
            transmission = np.asarray(igm_transmission_madau(wave, zred, factor))
        ratio = absorbed[use] / clear[use]
        assert use.sum() > 1000
        assert np.min(ratio) < 0.9
        # FSPS writes its coefficients in single precision: 6e-8 of the optical depth.
        np.testing.assert_allclose(np.log(transmission[use]), np.log(ratio), rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize(
    ("zred", "wave", "expected"),
    [
        # exp(-0.0036 * 4^3.46 (wave/1215.67)^3.46 - 0.0017 * 4^1.68 (wave/1215.67)^1.68)
        (3.0, 1100.0, np.exp(-0.0036 * (4 * 1100 / 1215.67) ** 3.46 - 0.0017 * (4 * 1100 / 1215.67) ** 1.68)),
        (3.0, 1215.67, np.exp(-0.0036 * 4**3.46 - 0.0017 * 4**1.68)),  # a node on a line is absorbed
        (3.0, 1215.68, 1.0),
    ],
)
def test_madau_at_lyman_alpha(zred, wave, expected):
    """Lyman alpha with metals alone between Lyman beta and alpha: Madau (1995), Eqs. 12 and 15."""
    with jax.enable_x64(True):
        got = igm_transmission_madau(np.array([wave, 2000.0]), zred)
    np.testing.assert_allclose(got, [expected, 1.0], rtol=1e-12)


def test_madau_cap():
    """Blueward of the largest optical depth the transmission is constant."""
    transmission = np.asarray(igm_transmission_madau(WAVE, 3.0))
    capped = transmission == transmission.min()
    assert 100.0 < WAVE[capped].max() < 900.0
    assert np.all(capped[: capped.sum()])


@pytest.mark.parametrize("zred", [2.3, 3.0, 4.0, 4.6])
def test_inoue_forest_matches_quasars(zred):
    """Lyman alpha depth of the forest against the quasar measurements of Becker et al. (2013), Eq. 5."""
    measured = 0.751 * ((1 + zred) / 4.5) ** 2.90 - 0.132
    wave = np.array([1100.0, 1170.0, 1215.0])
    depth = -np.log(np.asarray(inoue_jit(wave, zred)))
    z_abs = wave * (1 + zred) / 1215.67 - 1
    np.testing.assert_allclose(depth[-1], measured, rtol=0.15)
    np.testing.assert_allclose(depth, depth[-1] * ((1 + z_abs) / (1 + z_abs[-1])) ** 3.7, rtol=0.02)


def test_inoue_table_pieces_meet():
    """Every row: the power laws meet at 1 + z = 2.2, 5.7 (forest) and 3 (damped) to printed rounding."""
    table = igm._INOUE_LINES
    assert table.shape == (39, 6)
    np.testing.assert_allclose(table[:, 2], table[:, 1] * 2.2 ** (1.2 - 3.7), rtol=1e-3)
    np.testing.assert_allclose(table[:, 3], table[:, 2] * 5.7 ** (3.7 - 5.5), rtol=1e-3)
    np.testing.assert_allclose(table[:, 5], table[:, 4] / 3.0, rtol=1e-3)
    rydberg = 911.7634 / (1 - 1 / np.arange(2, 41) ** 2)  # Lyman series in vacuum
    np.testing.assert_allclose(table[:, 0], rydberg, rtol=2e-5)
    assert np.all(np.diff(table, axis=0) < 0)


def _continuum_depth(x, z1, kind):
    """Lyman continuum depth by direct integration over absorbers: Inoue et al. (2014), section 3."""
    z = np.linspace(x, z1, 500)  # 1 + redshift of the absorber
    column = np.geomspace(1e12, 1e23, 1200)
    if kind == "forest":
        low, middle = 500 * (z / 2.2) ** 0.2, 500 * (z / 2.2) ** 2.7
        high = 500 * (5.7 / 2.2) ** 2.7 * (z / 5.7) ** 4.5
        number, beta = np.where(z < 2.2, low, np.where(z < 5.7, middle, high)), 1.7
    else:
        number, beta = 1.1 * np.where(z < 3, z / 3, (z / 3) ** 2), 0.9
    weight = column**-beta * np.exp(-column / 1e21)
    weight /= np.trapezoid(weight, column)
    opacity = -np.expm1(-6.30e-18 * column * (x / z[:, None]) ** 3)
    return np.trapezoid(number * np.trapezoid(weight * opacity, column, axis=1), z)


@pytest.mark.parametrize(
    ("x", "z1"), [(1.1, 1.7), (1.5, 2.5), (1.5, 3.5), (2.6, 4.0), (1.8, 6.5), (4.0, 6.5), (6.0, 8.0)]
)
def test_inoue_continuum_matches_absorbers(x, z1):
    """The fits of the paper hold to 4 % (forest) and 0.3 % (damped) of the integrals that they fit."""
    with jax.enable_x64(True):
        forest = igm._inoue_continuum_forest(jnp.asarray([x]), jnp.asarray(z1))[0]
        damped = igm._inoue_continuum_damped(jnp.asarray([x]), jnp.asarray(z1))[0]
    np.testing.assert_allclose(forest, _continuum_depth(x, z1, "forest"), rtol=0.04)
    np.testing.assert_allclose(damped, _continuum_depth(x, z1, "damped"), rtol=0.003)


@pytest.mark.parametrize("zred", [1.2, 2.0, 4.7])
def test_inoue_continuous_in_zred(zred):
    """The breaks of the absorber evolution leave no step (beyond the digits of the table)."""
    with jax.enable_x64(True):
        below, above = (inoue_jit(WAVE, zred + dz) for dz in (-1e-9, 1e-9))
    np.testing.assert_allclose(above, below, atol=1e-3)


def test_inoue_shape():
    """In [0, 1], 1 redward of Lyman alpha, falling with redshift, and close to nothing at redshift zero."""
    with jax.enable_x64(True):
        grid = np.stack([inoue_jit(WAVE, z) for z in np.linspace(0.0, 10.0, 81)])
    assert np.all((grid >= 0) & (grid <= 1))
    np.testing.assert_array_equal(grid[:, WAVE > 1215.67], 1.0)
    assert np.all(np.diff(grid, axis=0) < 1e-6)
    np.testing.assert_array_equal(grid[0], 1.0)
    assert np.all(grid[-1, WAVE < 912] < 1e-3)


def test_models_agree_roughly():
    """Inoue absorbs as Madau does in the forest at redshift 3, and less in the continuum (his section 5)."""
    wave = np.array([600.0, 880.0, 1150.0])
    grid = np.geomspace(91.0, 3000.0, 2000)
    madau = np.interp(wave, grid, np.asarray(igm_transmission_madau(grid, 3.0)))
    inoue = np.asarray(inoue_jit(wave, 3.0))
    np.testing.assert_allclose(inoue[2], madau[2], rtol=0.1)
    assert np.all(inoue[:2] > madau[:2])


@pytest.mark.parametrize("model", MODELS)
def test_factor_scales_depth(model):
    """Factor 0 is no absorption, 2 squares the transmission."""
    np.testing.assert_array_equal(model(WAVE, 3.0, 0.0), 1.0)
    np.testing.assert_allclose(model(WAVE, 3.0, 2.0), model(WAVE, 3.0) ** 2, rtol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_gradient(model):
    """Derivative in redshift against finite differences, finite at every wavelength in both precisions."""
    wave = np.append(WAVE, 1e9)
    value = jax.jit(lambda z: model(wave, z))
    slope = jax.jit(jax.jacfwd(lambda z: model(wave, z)))
    total = jax.jit(jax.grad(lambda z, w: jnp.sum(model(w, z))))
    for zred in (0.4, 1.6, 2.7, 5.3):
        with jax.enable_x64(True):
            exact = np.asarray(slope(zred))
            finite = np.asarray(value(zred + 1e-6) - value(zred - 1e-6)) / 2e-6
        # The printed digits leave steps of 1e-5 where an absorber sits at a break of the evolution.
        ratio = wave * (1 + zred) / igm._INOUE_LINES[:, :1]
        smooth = np.all([np.abs(ratio / z1 - 1) > 1e-5 for z1 in (1.0, 2.2, 3.0, 5.7)], axis=(0, 1))
        assert smooth.sum() > 1450
        np.testing.assert_allclose(exact[smooth], finite[smooth], rtol=1e-5, atol=1e-8)
        single = total(zred, wave.astype(np.float32))
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, exact.sum(), rtol=1e-3)
