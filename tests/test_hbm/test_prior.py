"""Draws from the interim prior against scipy, and the relations that centre it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.infer import Predictive
from scipy import stats

from hbm.config import InterimPrior, ModelConfig
from hbm.prior import sample_parameters
from hbm.relations import GALLAZZI_LOGMASS, GALLAZZI_LOGZSOL, mass_metallicity, star_forming_sequence
from sed.parameters import BinnedSFH, DelayedTauSFH

AGE = 7.2
N_DRAW = 4000


def truncnorm(loc: Any, scale: float, low: float, high: float) -> Any:
    return stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)


def ks(draws: np.ndarray, cdf: Any) -> float:
    """Probability of a larger distance between draws and distribution (Kolmogorov-Smirnov)."""
    return float(stats.kstest(draws, cdf, method="asymp").pvalue)


def draws_of(config: ModelConfig) -> dict[str, np.ndarray]:
    """Draws of every site, and of the record of parameters that the model gets."""

    def model() -> None:
        params = sample_parameters(config, jnp.asarray(AGE))
        for name in ("dust1", "dust2", "dust_index", "gas_logu", "duste_gamma"):
            numpyro.deterministic(f"params.{name}", jnp.asarray(getattr(params, name)))
        assert isinstance(params.sfh, BinnedSFH if config.sfh == "binned" else DelayedTauSFH)

    sites = jax.jit(Predictive(model, num_samples=N_DRAW, parallel=True))(jax.random.key(4))
    return {name: np.asarray(value, np.float64) for name, value in sites.items()}


@functools.cache
def binned() -> dict[str, np.ndarray]:
    return draws_of(ModelConfig())


def test_each_factor_is_as_written() -> None:
    draws = binned()
    assert ks(draws["logmass"], stats.uniform(6.0, 6.7).cdf) > 1e-3
    assert ks(draws["dust2"], truncnorm(0.3, 1.0, 0.0, 4.0).cdf) > 1e-3
    assert ks(draws["dust1_fraction"], truncnorm(1.0, 0.3, 0.0, 2.0).cdf) > 1e-3
    assert ks(draws["dust_index"], truncnorm(-0.2, 0.4, -1.0, 0.4).cdf) > 1e-3
    assert ks(draws["gas_logu"], truncnorm(-2.7, 0.6, -4.0, -1.0).cdf) > 1e-3
    np.testing.assert_allclose(draws["dust1"], draws["dust1_fraction"] * draws["dust2"], rtol=1e-6)


def test_rates_of_adjacent_bins_differ_as_a_truncated_student_t() -> None:
    draws, full = binned(), stats.t(2, scale=0.3)
    assert draws["logsfr_ratios"].shape == (N_DRAW, 4)
    for ratio in (draws["logsfr_ratio_recent"], *draws["logsfr_ratios"].T):
        assert np.abs(ratio).max() < 2.0
        assert ks(ratio, lambda x: (full.cdf(x) - full.cdf(-2)) / (1 - 2 * full.cdf(-2))) > 1e-3


def test_metallicity_scatters_about_the_relation() -> None:
    draws = binned()
    centre = np.interp(draws["logmass"], GALLAZZI_LOGMASS, GALLAZZI_LOGZSOL)
    assert ks(truncnorm(centre, 0.5, -2.0, 0.5).cdf(draws["logzsol"]), "uniform") > 1e-3
    massive = draws["logmass"] > 11.5
    assert draws["logzsol"][massive].mean() > draws["logzsol"][~massive].mean() + 0.2


def split_cdf(x: np.ndarray, mode: np.ndarray, below: float, above: float) -> np.ndarray:
    """Split normal without truncation; each half has a mass in proportion to its width."""
    left = 2 * below / (below + above) * stats.norm.cdf((x - mode) / below)
    right = below / (below + above) + above / (below + above) * (2 * stats.norm.cdf((x - mode) / above) - 1)
    return np.where(x < mode, left, right)


def test_specific_rate_is_a_split_normal_about_the_sequence() -> None:
    draws = binned()
    mode = (0.84 - 0.026 * AGE) * draws["logmass"] - (6.51 - 0.11 * AGE) - draws["logmass"]
    assert mode.max() > -8.0  # small galaxies would be younger than 100 Myr
    mode = np.clip(mode, -13.0, -8.1)
    low, high = (split_cdf(np.full(N_DRAW, end), mode, 1.6, 0.5) for end in (-14.0, -8.0))
    quantile = (split_cdf(draws["logssfr"], mode, 1.6, 0.5) - low) / (high - low)
    assert ks(quantile, "uniform") > 1e-3
    assert draws["logssfr"].max() < -8.0  # at -8 all stars are younger than 100 Myr
    assert draws["logssfr"].min() > -14.0


def test_delayed_exponential_and_dust_emission() -> None:
    draws = draws_of(ModelConfig(sfh="delayed_tau", free_dust_emission=True))
    assert ks(draws["tage"] / AGE, stats.uniform(0.01, 0.99).cdf) > 1e-3
    assert ks(np.log10(draws["tau"]), stats.uniform(-1.0, 2.5).cdf) > 1e-3
    assert ks(draws["duste_umin"], stats.loguniform(0.1, 25.0).cdf) > 1e-3
    assert ks(draws["duste_qpah"], stats.uniform(0.47, 4.11).cdf) > 1e-3
    assert ks(draws["duste_gamma"], stats.loguniform(1e-3, 0.15).cdf) > 1e-3
    np.testing.assert_array_equal(draws["params.duste_gamma"], draws["duste_gamma"])
    assert "logssfr" not in draws


def test_choices_leave_out_what_they_do_not_have() -> None:
    config = ModelConfig(curve="calzetti", nebular=False, prior=InterimPrior(dust2=(0.3, 0.1, 0.4)))
    draws = draws_of(config)
    assert not {"dust_index", "gas_logu", "duste_umin"} & set(draws)
    np.testing.assert_array_equal(draws["params.dust_index"], 0.0)
    assert ks(draws["dust2"], truncnorm(0.3, 0.1, 0.0, 0.4).cdf) > 1e-3


def test_star_forming_sequence_is_that_of_the_paper() -> None:
    # Speagle et al. (2014), equation 28, by hand: log SFR = 0.7542 * 10.5 - 6.147 at t = 3.3 Gyr (z = 2).
    got = star_forming_sequence(np.array([10.5, 10.0, 11.0]), np.array([3.3, 10.0, 13.5]))
    log_sfr = [0.7542 * 10.5 - 6.147, 0.58 * 10.0 - 5.41, 0.489 * 11.0 - 5.025]
    np.testing.assert_allclose(got, np.array(log_sfr) - [10.5, 10.0, 11.0], rtol=1e-5)


def test_mass_metallicity_relation() -> None:
    # Values of Gallazzi et al. (2005), table 2; halfway between two; constant beyond the ends.
    logmass = np.array([8.87, 10.07, 11.87, 10.17, 7.0, 12.5])
    np.testing.assert_allclose(mass_metallicity(logmass), [-0.6, -0.23, 0.15, -0.17, -0.6, 0.15], atol=1e-5)
    many = np.linspace(6.0, 12.7, 200)
    np.testing.assert_allclose(
        mass_metallicity(many), np.interp(many, GALLAZZI_LOGMASS, GALLAZZI_LOGZSOL), atol=1e-5
    )
    slope = jax.grad(mass_metallicity)(10.17)
    assert float(slope) == pytest.approx(0.12 / 0.2, rel=1e-4)


@pytest.mark.fsps
def test_mass_metallicity_is_that_of_prospector() -> None:
    from pathlib import Path

    prospect = pytest.importorskip("prospect")
    file = Path(prospect.__file__).parent / "models" / "prior_data" / "gallazzi_05_massmet.txt"
    table = np.loadtxt(file)
    np.testing.assert_array_equal(table[:, 0], GALLAZZI_LOGMASS)
    np.testing.assert_array_equal(table[:, 1], GALLAZZI_LOGZSOL)
