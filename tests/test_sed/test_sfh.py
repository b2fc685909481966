import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from sed.parameters import BinnedSFH, DelayedTauSFH
from sed.sfh import (
    _formed,
    agebins,
    bin_masses,
    bin_weights,
    binned_mean_age,
    delayed_tau_logsfr,
    delayed_tau_sfr,
    delayed_tau_weights,
    mean_age_gyr,
)

LOG_AGE = np.concatenate([np.arange(5.5, 7.0, 0.3), np.arange(7.0, 10.2, 0.1)])


def hat(log_t: float, index: int) -> float:
    """Linear interpolation of unit vector ``index`` of the grid: constant beyond its ends."""
    return float(np.interp(log_t, LOG_AGE, np.eye(LOG_AGE.size)[index]))


def edges_within(low: float, high: float) -> list[float]:
    inside = 10.0 ** (LOG_AGE - 9)
    return [low, *inside[(inside > low) & (inside < high)].tolist(), high]


def integral(rate: Callable[[float], float], low: float, high: float, index: int) -> float:
    """Integral over lookback time in Gyr, piece by piece between the grid's ages."""
    edges = edges_within(low, high)
    pieces = itertools.pairwise(edges)
    return sum(quad(lambda t: rate(t) * hat(np.log10(t) + 9, index), a, b)[0] for a, b in pieces)


def test_agebins_end_where_they_should() -> None:
    bins = agebins(10.0, 5)
    assert bins.shape == (7, 2)
    np.testing.assert_array_equal(bins[1:, 0], bins[:-1, 1])
    np.testing.assert_allclose(10.0 ** (bins[:2, 1] - 6), [10, 100])
    np.testing.assert_allclose(10.0 ** (bins[-1] - 9), [8.5, 10.0])
    np.testing.assert_allclose(np.diff(bins[2:-1, 0]), np.diff(bins[2:-1, 0])[0])


def test_agebins_refuses() -> None:
    with pytest.raises(ValueError, match="`n_old` must be at least 2"):
        agebins(10.0, 1)
    with pytest.raises(ValueError, match=r"`tmax_gyr` must exceed 0\.2"):
        agebins(0.15)


def test_bin_masses_mean_what_their_names_say() -> None:
    bins = agebins(8.0)
    ratios = np.array([0.5, -0.2, 0.0, 1.0])
    sfh = BinnedSFH(jnp.asarray(10.3), jnp.asarray(-9.6), jnp.asarray(0.4), jnp.asarray(ratios))
    mass = np.asarray(bin_masses(sfh, bins), float)
    rate = mass / np.diff(10.0**bins, axis=1)[:, 0]
    assert mass.sum() == pytest.approx(10**10.3, rel=1e-5)
    assert mass[:2].sum() / 1e8 / mass.sum() == pytest.approx(10**-9.6, rel=1e-5)
    # The youngest bin begins at 1 yr, not 0.
    assert np.log10(rate[0] / rate[1]) == pytest.approx(0.4, abs=1e-5)
    np.testing.assert_allclose(np.log10(rate[2:-1] / rate[3:]), ratios, atol=1e-5)


def test_bin_masses_survive_heavy_tails() -> None:
    for extreme in (-300.0, 300.0):
        ratios = jnp.array([0.0, extreme, 0.0, -0.5 * extreme])
        mass = bin_masses(BinnedSFH(jnp.array(10.0), jnp.array(-9.0), jnp.array(0.0), ratios), agebins(8.0))
        assert float(jnp.sum(mass)) == pytest.approx(1e10, rel=1e-5)


@pytest.mark.parametrize("extreme", [-300.0, -60.0, 60.0, 300.0])
def test_recent_ratio_may_be_extreme_in_single_precision(extreme: float) -> None:
    def masses(ratio: jax.Array) -> jax.Array:
        return bin_masses(BinnedSFH(jnp.float32(10), jnp.float32(-9), ratio, jnp.zeros(4)), agebins(8.0))

    mass, slope = jax.jvp(masses, (jnp.float32(extreme),), (jnp.float32(1),))
    assert mass.dtype == jnp.float32
    assert np.all(np.isfinite(slope))
    expected = [1e9, 0.0] if extreme > 0 else [0.0, 1e9]  # all of the last 100 Myr in one of its bins
    np.testing.assert_allclose(mass[:2], expected, rtol=1e-5)


def test_bin_masses_refuses_wrong_number_of_ratios() -> None:
    with pytest.raises(ValueError, match=r"`logsfr_ratios` must .* expected \(4,\), got \(3,\)"):
        bin_masses(BinnedSFH(10.0, -9.0, 0.0, np.zeros(3)), agebins(8.0))


def test_bin_weights_are_the_integral_of_the_interpolation() -> None:
    bins = agebins(9.0)
    weight = bin_weights(bins, LOG_AGE)
    np.testing.assert_allclose(weight.sum(axis=1), 1, rtol=1e-12)
    assert np.all(weight >= -1e-15)
    for i, (low, high) in enumerate(10.0 ** (bins - 9)):
        for j in np.flatnonzero(weight[i] > 1e-6):
            expected = integral(lambda _t: 1.0, low, high, int(j)) / (high - low)
            assert weight[i, j] == pytest.approx(expected, rel=1e-6)


def test_bin_older_than_the_grid_takes_its_last_age() -> None:
    weight = bin_weights(np.array([[10.2, 10.3]]), LOG_AGE)
    np.testing.assert_allclose(weight[0], np.eye(LOG_AGE.size)[-1], atol=1e-12)


@pytest.mark.parametrize(("tage", "tau"), [(6.0, 1.5), (0.3, 20.0), (11.0, 0.4)])
def test_delayed_tau_weights_are_the_integral_of_the_interpolation(tage: float, tau: float) -> None:
    with jax.enable_x64(True):
        weight = np.asarray(delayed_tau_weights(tage, tau, jnp.asarray(LOG_AGE)))

    def rate(t: float) -> float:
        return (tage - t) * np.exp(-(tage - t) / tau)

    total = quad(rate, 0, tage, epsabs=0, epsrel=1e-10)[0]
    for j in np.flatnonzero(weight > 1e-4):
        assert weight[j] == pytest.approx(integral(rate, 1e-9, tage, int(j)) / total, rel=3e-4)


@pytest.mark.parametrize("tau", [0.05, 0.1, 100.0])
def test_delayed_tau_weights_stay_finite(tau: float) -> None:
    weight, slope = jax.jvp(
        lambda tau: delayed_tau_weights(12.0, tau, jnp.asarray(LOG_AGE, jnp.float32)),
        (jnp.float32(tau),),
        (jnp.float32(1),),
    )
    assert np.all(np.isfinite(weight))
    assert np.all(np.isfinite(slope))
    assert float(jnp.sum(weight)) == pytest.approx(1, rel=1e-5)


def test_delayed_tau_gradient_is_that_of_finite_differences() -> None:
    with jax.enable_x64(True):
        target = jnp.sin(jnp.asarray(LOG_AGE))

        def value(x: jax.Array) -> jax.Array:
            return delayed_tau_weights(x[0], x[1], jnp.asarray(LOG_AGE)) @ target

        x, step = np.array([5.3, 1.7]), 1e-5
        gradient = np.asarray(jax.grad(value)(jnp.asarray(x)))
        for i in range(2):
            up, down = x + step * np.eye(2)[i], x - step * np.eye(2)[i]
            expected = float(value(jnp.asarray(up)) - value(jnp.asarray(down))) / (2 * step)
            assert gradient[i] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("window", [0.01, 0.1])
@pytest.mark.parametrize(
    ("tage", "tau"),
    [(4.0, 1.2), (12.0, 0.1), (13.0, 31.0), (0.12, 31.0), (0.02, 5.0), (0.005, 0.3), (3, 0.7)],
)
def test_delayed_tau_logsfr_is_the_mean_rate(tage: float, tau: float, window: float) -> None:
    def rate(t: float) -> float:
        return t * np.exp(-(t - tage) / tau)  # one at the end, so that nothing underflows

    start = max(tage - window, 0.0)
    recent = quad(rate, start, tage, epsabs=0, epsrel=1e-11)[0]
    total = quad(rate, 0, tage, epsabs=0, epsrel=1e-11, points=[min(tau, 0.5 * tage)])[0]
    expected = 10.5 + np.log10(recent / total) - np.log10(window * 1e9)
    sfh = DelayedTauSFH(*(jnp.float32(value) for value in (10.5, tage, tau)))
    result = delayed_tau_logsfr(sfh, window)
    assert result.dtype == jnp.float32
    assert float(result) == pytest.approx(expected, rel=3e-7, abs=3e-6)
    if expected > -30:
        assert float(delayed_tau_sfr(sfh, window)) == pytest.approx(10**expected, rel=5e-5)
    slope = jax.grad(lambda tau: delayed_tau_logsfr(DelayedTauSFH(10.5, jnp.float32(tage), tau), window))
    assert np.isfinite(slope(jnp.float32(tau)))


def test_delayed_tau_logsfr_is_smooth_where_its_series_ends() -> None:
    with jax.enable_x64(True):
        tau = jnp.asarray(0.1 / 0.3) * (1 + jnp.array([-1e-7, 1e-7]))
        low, high = jax.vmap(lambda tau: delayed_tau_logsfr(DelayedTauSFH(0.0, 2.0, tau), 0.1))(tau)
        assert float(high) == pytest.approx(float(low), abs=1e-5)
        exact = [1 - np.exp(-x) - x * np.exp(-x) for x in 0.1 / np.asarray(tau)]
        np.testing.assert_allclose([float(_formed(0.1 / t)) for t in tau], exact, rtol=1e-13)


def test_mean_ages() -> None:
    weight = jnp.zeros(LOG_AGE.size).at[3].set(2.0).at[10].set(6.0)
    expected = (10 ** LOG_AGE[3] + 3 * 10 ** LOG_AGE[10]) / 4 / 1e9
    assert float(mean_age_gyr(weight, jnp.asarray(LOG_AGE))) == pytest.approx(expected, rel=1e-5)
    bins = agebins(10.0)  # constant star formation over 10 Gyr: 5 Gyr
    width = jnp.asarray(np.diff(10.0 ** (bins - 9), axis=1)[:, 0])
    assert float(binned_mean_age(width, bins)) == pytest.approx(5.0, rel=1e-5)
