"""Likelihoods of corrupted fluxes, against quadrature of their definitions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from hbm.consistency.corruption import Corruptions, Measured, flux_loglikes
from hbm.model import Calibration

MODEL = np.array([1.0, 2.0, 3.0])
ERR = np.array([0.1, 0.1, 0.2])
LOG_WAVE = np.array([-0.4, 0.0, 0.4])
FLOOR = 0.05
PRIORS = Corruptions()


def galaxy(flux: np.ndarray, **changes: Any) -> Measured:
    values: dict[str, Any] = {
        "flux": flux, "flux_err": ERR.astype(np.float32), "observed": np.ones(3, bool),
        "upper_limit": np.zeros(3, bool),
    }  # fmt: skip
    return Measured(**(values | changes))


def found_for(data: Any, n_shift: int = 400) -> dict[str, np.ndarray]:
    """Likelihoods, averaged over the random places of the nodes."""
    shifts = jax.random.uniform(jax.random.key(1), (n_shift, 2))
    calibration = Calibration(error_floor=FLOOR)

    def one(shift: jax.Array) -> Any:
        return flux_loglikes(
            jnp.asarray(MODEL, jnp.float32),
            calibration,
            data,
            jnp.asarray(LOG_WAVE, jnp.float32),
            shift,
            PRIORS,
        )

    every = jax.jit(jax.vmap(one))(shifts)
    return {
        name: np.exp(np.asarray(value, np.float64)).mean(axis=0) for name, value in every._asdict().items()
    }


def density(flux: np.ndarray, model: np.ndarray) -> np.ndarray:
    return scipy.stats.norm.pdf(flux, model, np.sqrt(ERR**2 + (FLOOR * model) ** 2))


@pytest.mark.parametrize("factor", [[0.5, 0.5, 0.5], [1.0, 1.6, 1.0], [1.5, 1.8, 2.4]])
def test_likelihoods_are_the_integrals(factor: list[float]) -> None:
    flux = MODEL * np.array(factor)
    found = found_for(galaxy(flux.astype(np.float32)))
    assert found["good"] == pytest.approx(density(flux, MODEL).prod(), rel=1e-3)
    low, high = PRIORS.lost
    shred = scipy.integrate.quad(lambda x: density(flux, MODEL * (1 - x)).prod(), low, high, limit=200)[0]
    assert found["shred"] == pytest.approx(shred / (high - low), rel=0.02)
    start, stop = np.log(PRIORS.added)

    def blend(kappa: float, log_r: float) -> float:
        model = MODEL * (1 + np.exp(log_r + kappa * LOG_WAVE))
        return float(density(flux, model).prod() * scipy.stats.norm.pdf(kappa, 0, PRIORS.tilt))

    exact = scipy.integrate.dblquad(blend, start, stop, -8, 8, epsabs=1e-9, epsrel=1e-4)[0] / (stop - start)
    assert found["blend"] == pytest.approx(exact, rel=0.05)
    for band in range(3):

        def off(x: float, band: int = band) -> float:
            model = MODEL.copy()
            model[band] *= 10 ** (-0.4 * x)
            return float(density(flux, model).prod() * scipy.stats.norm.pdf(x, 0, PRIORS.band))

        exact = scipy.integrate.quad(off, -4, 4, limit=200, epsabs=1e-14)[0]
        assert found["band"][band] == pytest.approx(exact, rel=0.03)
    assert np.log(found["of_band"]).sum() == pytest.approx(np.log(found["good"]), rel=1e-4)


def test_a_band_without_measurement_does_not_count() -> None:
    flux = MODEL.astype(np.float32)
    observed = np.array([True, False, True])
    blank = galaxy(np.array([1.0, np.nan, 3.0], np.float32), observed=observed)
    other = galaxy(np.where(observed, flux, 99.0).astype(np.float32), observed=observed)
    one, two = found_for(blank, 4), found_for(other, 4)
    for name, value in one.items():
        assert np.allclose(value, two[name]), name
    assert one["band"][1] == pytest.approx(one["good"], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lost": (0.5, 0.2)}, "`lost`"),
        ({"lost": (0.5, 1.2)}, "`lost`"),
        ({"added": (0.0, 1.0)}, "`added`"),
        ({"tilt": 0.0}, "`tilt`"),
        ({"band": -1.0}, "`band`"),
    ],
)
def test_priors_that_make_no_sense_are_refused(changes: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Corruptions(**changes).checked()
