import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sed.dust import (
    Calzetti,
    KriekConroy,
    birth_cloud_transmission,
    calzetti_curve,
    diffuse_transmission,
)

WAVE = np.geomspace(1200.0, 21000.0, 60)


def test_calzetti_is_the_published_curve() -> None:
    # k'(lambda) of Calzetti et al. (2000) equation 4, with lambda in micron, over R_V = 4.05; their first
    # piece holds from 0.12 to 0.63 micron. FSPS's coefficients are these times 0.44 and rounded.
    x = 1e4 / WAVE
    blue = 2.659 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3) + 4.05
    red = 2.659 * (-1.857 + 1.040 * x) + 4.05
    expected = np.maximum(np.where(WAVE > 6300, red, blue), 0) / 4.05
    np.testing.assert_allclose(calzetti_curve(WAVE), expected, rtol=1e-3, atol=1.5e-3)
    assert float(calzetti_curve(np.array([5500.0]))[0]) == pytest.approx(1, abs=0.01)


def test_calzetti_is_never_negative() -> None:
    np.testing.assert_array_equal(calzetti_curve(np.geomspace(3.11e4, 1e6, 10)), 0)


@pytest.mark.parametrize("dust_index", [-0.8, 0.0, 0.3])
def test_kriek_conroy_bump_and_slope(dust_index: float) -> None:
    wave = np.array([2175.0, 5500.0])
    curve = np.asarray(KriekConroy.at(wave)(dust_index))
    smooth = np.asarray(calzetti_curve(wave))
    bump = (0.85 - 1.9 * dust_index) / 4.05  # a Drude profile is one at its centre
    tilt = (2175 / 5500) ** dust_index
    assert curve[0] == pytest.approx((smooth[0] + bump) * tilt, rel=1e-5)
    far = bump * (5500 * 350) ** 2 / ((5500**2 - 2175**2) ** 2 + (5500 * 350) ** 2)
    assert curve[1] == pytest.approx(smooth[1] + far, rel=1e-4)


def test_calzetti_ignores_the_index() -> None:
    curve = Calzetti.at(WAVE)
    np.testing.assert_array_equal(curve(-0.9), curve(0.2))


def test_transmissions() -> None:
    curve = KriekConroy.at(WAVE)
    np.testing.assert_array_equal(diffuse_transmission(curve, 0.0, 0.1), 1)
    twice = diffuse_transmission(curve, 1.0, -0.4)
    np.testing.assert_allclose(twice, diffuse_transmission(curve, 0.5, -0.4) ** 2, rtol=1e-5)
    np.testing.assert_allclose(birth_cloud_transmission(curve, 0.7), np.exp(-0.7 * 5500 / WAVE), rtol=1e-5)


def test_gradient_is_that_of_finite_differences() -> None:
    with jax.enable_x64(True):
        curve = KriekConroy.at(WAVE)

        def value(x: jax.Array) -> jax.Array:
            return jnp.sum(diffuse_transmission(curve, x[0], x[1]) * birth_cloud_transmission(curve, x[2]))

        x, step = np.array([0.8, -0.3, 0.5]), 1e-6
        gradient = np.asarray(jax.grad(value)(jnp.asarray(x)))
        for i in range(3):
            shift = step * np.eye(3)[i]
            expected = float(value(jnp.asarray(x + shift)) - value(jnp.asarray(x - shift))) / (2 * step)
            assert gradient[i] == pytest.approx(expected, rel=1e-6)
