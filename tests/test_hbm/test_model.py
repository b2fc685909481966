"""The model's density by scipy, term by term; redshift nodes; derived quantities; settings."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy import integrate, stats

from hbm.config import InterimPrior, ModelConfig
from hbm.galaxies import DataBuilder, cosmology_by_name, stack_galaxies, take_galaxy
from hbm.model import GalaxyData, derived_quantities, galaxy_model
from hbm.relations import GALLAZZI_LOGMASS, GALLAZZI_LOGZSOL

Sites = dict[str, Any]
DEFAULT = ModelConfig(n_zred=5)
FREE = dataclasses.replace(DEFAULT, error_floor="free", outliers=True, zero_point_sigma=0.05)
CALIBRATION = {"error_floor": 0.03, "outlier_fraction": 0.07, "zero_point": [0.02, -0.04, 0.0, 0.06, -0.1]}


def truncnorm(loc: float, scale: float, low: float, high: float) -> Any:
    return stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)


def log_prior(sites: Sites, age: float) -> float:
    """Log density of the interim prior, by scipy."""
    logmass = float(sites["logmass"])
    mode = (0.84 - 0.026 * age) * logmass - (6.51 - 0.11 * age) - logmass
    below, above = 1.6, 0.5
    inside = below * (0.5 - stats.norm.cdf((-14 - mode) / below))
    inside += above * (stats.norm.cdf((-8 - mode) / above) - 0.5)
    offset = float(sites["logssfr"]) - mode
    total = stats.norm.logpdf(offset / (below if offset < 0 else above)) - np.log(inside)
    ratios = stats.t(2, scale=0.3)
    for ratio in (sites["logsfr_ratio_recent"], *sites["logsfr_ratios"]):
        total += ratios.logpdf(ratio) - np.log(ratios.cdf(2.0) - ratios.cdf(-2.0))
    total += stats.uniform(6.0, 6.7).logpdf(logmass)
    relation = np.interp(logmass, GALLAZZI_LOGMASS, GALLAZZI_LOGZSOL)
    total += truncnorm(relation, 0.5, -2.0, 0.5).logpdf(sites["logzsol"])
    total += truncnorm(0.3, 1.0, 0.0, 4.0).logpdf(sites["dust2"])
    total += truncnorm(1.0, 0.3, 0.0, 2.0).logpdf(sites["dust1_fraction"])
    total += truncnorm(-0.2, 0.4, -1.0, 0.4).logpdf(sites["dust_index"])
    return float(total + truncnorm(-2.7, 0.6, -4.0, -1.0).logpdf(sites["gas_logu"]))


def log_likelihood(data: GalaxyData, model: np.ndarray, floor: float, outlier: float, zero: Any) -> float:
    """Log-likelihood of the fluxes, by scipy."""
    model = model * 10 ** (-0.4 * np.asarray(zero))
    total = 0.0
    rows = zip(data.flux, data.flux_err, model, data.observed, data.upper_limit, strict=True)
    for flux, err, predicted, observed, limit in rows:
        width = np.hypot(err, floor * predicted)
        good, bad = stats.norm(predicted, width), stats.norm(predicted, width * np.sqrt(101.0))
        if observed:
            parts = [one.cdf(flux) if limit else one.pdf(flux) for one in (good, bad)]
            total += np.log((1 - outlier) * parts[0] + outlier * parts[1])
    return float(total)


def parameters(sites: Sites) -> Sites:
    """The sampled sites alone."""
    return as_jax({name: value for name, value in sites.items() if name != "dust1"})


@pytest.fixture(scope="module")
def density() -> Callable[[GalaxyData, Sites], float]:
    """Log density of the default model."""

    @jax.jit
    def evaluate(data: GalaxyData, sites: Sites) -> jax.Array:
        return log_density(galaxy_model, (data, DEFAULT), {}, sites)[0]

    return lambda data, sites: float(evaluate(data, parameters(sites)))


def as_jax(sites: Sites) -> Sites:
    """Every site as a JAX array of single precision."""
    return {name: jnp.asarray(value, jnp.float32) for name, value in sites.items()}


def age_of(data: GalaxyData) -> float:
    return float(np.asarray(data.age_universe))


def test_density_is_prior_times_likelihood(
    galaxy: GalaxyData, sites: Any, density: Any, model_flux: Any
) -> None:
    expected = log_prior(sites, age_of(galaxy)) + log_likelihood(
        galaxy, model_flux(galaxy, sites), 0.05, 0.0, 0.0
    )
    assert density(galaxy, sites) == pytest.approx(expected, abs=2e-3)
    # The terms are there: a change of any parameter by a little changes the density as scipy says.
    for name in parameters(sites):
        moved = sites | {name: sites[name] + 0.1}
        change = log_prior(moved, age_of(galaxy)) - log_prior(sites, age_of(galaxy))
        change += log_likelihood(galaxy, model_flux(galaxy, with_dust1(moved)), 0.05, 0.0, 0.0)
        change -= log_likelihood(galaxy, model_flux(galaxy, sites), 0.05, 0.0, 0.0)
        assert density(galaxy, moved) - density(galaxy, sites) == pytest.approx(change, abs=4e-3), name


def with_dust1(sites: Sites) -> Sites:
    return sites | {"dust1": sites["dust1_fraction"] * sites["dust2"]}


def test_missing_band_has_no_effect(galaxy: GalaxyData, sites: Any, density: Any, model_flux: Any) -> None:
    observed = np.array([True, True, False, True, True])
    values = []
    for flux, err in ((galaxy.flux[2], galaxy.flux_err[2]), (0.0, 1.0), (np.nan, np.nan)):
        changed = (np.array(galaxy.flux), np.array(galaxy.flux_err), observed)
        changed[0][2], changed[1][2] = flux, err
        data = eqx.tree_at(lambda g: (g.flux, g.flux_err, g.observed), galaxy, changed)
        values.append(density(data, sites))
    assert values[0] == values[1] == values[2]
    expected = log_likelihood(data, model_flux(galaxy, sites), 0.05, 0.0, 0.0)
    assert values[0] == pytest.approx(log_prior(sites, age_of(galaxy)) + expected, abs=2e-3)
    assert values[0] != pytest.approx(density(galaxy, sites), abs=1.0)


def test_upper_limit(galaxy: GalaxyData, sites: Any, density: Any, model_flux: Any) -> None:
    limit = np.array([True, False, False, False, False])
    data = eqx.tree_at(lambda g: g.upper_limit, galaxy, limit)
    expected = log_likelihood(data, model_flux(galaxy, sites), 0.05, 0.0, 0.0)
    assert density(data, sites) == pytest.approx(log_prior(sites, age_of(galaxy)) + expected, abs=2e-3)


def test_free_calibration(galaxy: GalaxyData, sites: Any, model_flux: Any) -> None:
    @jax.jit
    def evaluate(data: GalaxyData, values: Sites) -> jax.Array:
        return log_density(galaxy_model, (data, FREE), {}, values)[0]

    floor, outlier, zero = CALIBRATION.values()
    expected = log_prior(sites, age_of(galaxy))
    expected += log_likelihood(galaxy, model_flux(galaxy, sites), floor, outlier, zero)
    expected += stats.loguniform(0.005, 0.3).logpdf(floor) + stats.beta(1, 19).logpdf(outlier)
    expected += stats.norm(0.0, 0.05).logpdf(zero).sum()
    assert float(evaluate(galaxy, parameters(sites | CALIBRATION))) == pytest.approx(expected, abs=2e-3)


@pytest.fixture(scope="module")
def free(builder: DataBuilder, make_survey: Any) -> GalaxyData:
    """Give a galaxy with a redshift error: five nodes, one error apart from 4 below to 4 above."""
    return builder(make_survey([0.5], [0.02]), 0)


def test_free_redshift_is_the_fixed_one_at_a_node(
    free: GalaxyData, builder: DataBuilder, make_survey: Any, sites: Any, model_flux: Any
) -> None:
    np.testing.assert_allclose(free.zgrid, [0.42, 0.46, 0.5, 0.54, 0.58], rtol=1e-6)

    @jax.jit
    def derive(zred: jax.Array, data: GalaxyData) -> Sites:
        return derived_quantities(as_jax(sites) | {"zred": zred}, data, DEFAULT)

    at = {z: jax.tree.map(np.asarray, derive(jnp.float32(z), free)) for z in (0.42, 0.46, 0.5, 0.48)}
    fixed = make_survey([0.42, 0.46, 0.5], [0.0] * 3)
    for index, zred in enumerate(fixed.zred):
        one = builder(fixed, index)
        np.testing.assert_allclose(at[zred]["flux"], model_flux(one, sites), rtol=3e-5)
        age = cosmology_by_name("Planck18").age_np(zred)
        assert float(free.age_at(zred)) == pytest.approx(float(age), rel=1e-5)
        assert age_of(one) == pytest.approx(float(age), rel=1e-6)
    assert at[0.42]["mwa"] > at[0.5]["mwa"]  # the universe is older


def test_fluxes_between_redshift_nodes_are_those_compiled_there(
    builder: DataBuilder, make_survey: Any, sites: Any, model_flux: Any
) -> None:
    """Nodes of z = 0.01 to 0.03: the flux itself, between nodes, would be 13 % off."""
    free = builder(make_survey([0.02], [0.0025]), 0)
    nodes = np.asarray(free.zgrid, np.float64)
    between = 0.5 * (nodes[1:] + nodes[:-1])
    fixed = make_survey(list(between), [0.0] * len(between))
    flux = jax.jit(lambda z, data: derived_quantities(as_jax(sites) | {"zred": z}, data, DEFAULT)["flux"])
    for index, zred in enumerate(between):
        np.testing.assert_allclose(
            flux(jnp.float32(zred), free), model_flux(builder(fixed, index), sites), rtol=3e-3
        )


def test_free_redshift_has_its_prior(free: GalaxyData, sites: Any) -> None:
    zred = 0.515

    @jax.jit
    def evaluate(values: Sites) -> jax.Array:
        return log_density(galaxy_model, (free, DEFAULT), {"use_data": False}, values)[0]

    expected = log_prior(sites, float(free.age_at(zred))) + truncnorm(0.5, 0.02, 0.42, 0.58).logpdf(zred)
    assert float(evaluate(parameters(sites | {"zred": zred}))) == pytest.approx(expected, abs=1e-3)


def test_derived_quantities(galaxy: GalaxyData, sites: Any, model_flux: Any) -> None:
    @jax.jit
    def evaluate(values: Sites, data: GalaxyData) -> Sites:
        return derived_quantities(values, data, DEFAULT)

    def derive(values: Sites) -> Sites:
        return dict(evaluate(values, galaxy))

    zero = np.array([0.1, 0.0, 0.0, 0.0, -0.2], np.float32)
    got = {
        name: np.asarray(value, np.float64) for name, value in derive(sites | {"zero_point": zero}).items()
    }
    edges = 10.0 ** np.asarray(galaxy.photometry.agebins, np.float64)
    masses = got["sfr_bins"] * np.diff(edges, axis=1)[:, 0]
    assert masses.sum() == pytest.approx(10**10.4, rel=1e-5)
    assert got["sfr_100"] == pytest.approx(masses[:2].sum() / 1e8, rel=1e-5)
    assert got["sfr_10"] == pytest.approx(masses[0] / 1e7, rel=1e-5)
    assert got["logsfr_100"] == pytest.approx(10.4 - 9.7, abs=1e-5)
    assert got["logsfr_10"] == pytest.approx(np.log10(got["sfr_10"]), abs=1e-5)
    rates = np.log10(got["sfr_bins"])
    np.testing.assert_allclose(rates[0] - rates[1], sites["logsfr_ratio_recent"], atol=1e-5)
    np.testing.assert_allclose(rates[2:-1] - rates[3:], sites["logsfr_ratios"], atol=1e-5)
    assert got["mwa"] == pytest.approx(np.sum(masses * edges.mean(axis=1)) / masses.sum() / 1e9, rel=1e-5)
    assert 10.4 + np.log10(0.5) < got["logmstar"] < 10.4
    np.testing.assert_allclose(got["flux"], model_flux(galaxy, sites) * 10 ** (-0.4 * zero), rtol=1e-5)
    clear = derive(sites | {"dust1": np.float32(0), "dust2": np.float32(0), "zero_point": zero})
    assert float(clear["av"]) == pytest.approx(0.0, abs=1e-6)
    assert float(clear["uv"]) < got["uv"]
    diffuse = derive(sites | {"dust1": np.float32(0), "zero_point": zero})
    # The curve is 1 at 5500 A, the middle of V.
    assert float(diffuse["av"]) == pytest.approx(2.5 * np.log10(np.e) * float(sites["dust2"]), rel=0.03)
    assert got["av"] > float(diffuse["av"])  # all dust counts


def test_derived_quantities_of_a_delayed_exponential(grid: Any, make_survey: Any, sites: Any) -> None:
    config = ModelConfig(sfh="delayed_tau", nebular=False, dust_emission=False)
    catalog = make_survey([0.1], [0.0])
    data = DataBuilder(grid, config, catalog.filter_names)(catalog, 0)
    tage, tau = 6.0, 1.5
    values = sites | {"tage": np.float32(tage), "tau": np.float32(tau)}
    got = jax.jit(lambda one, galaxy: derived_quantities(one, galaxy, config))(values, data)

    def rate(t: float) -> float:
        return (tage - t) * np.exp(-(tage - t) / tau)

    total = integrate.quad(rate, 0, tage)[0]
    for name, span in (("sfr_100", 0.1), ("sfr_10", 0.01)):
        part = integrate.quad(rate, 0, span)[0] / total
        assert float(got[name]) == pytest.approx(part * 10**10.4 / (span * 1e9), rel=1e-4)
    assert float(got["logssfr"]) == pytest.approx(np.log10(float(got["sfr_100"])) - 10.4, abs=1e-4)
    age = integrate.quad(lambda t: t * rate(t), 0, tage)[0] / total
    assert float(got["mwa"]) == pytest.approx(age, rel=5e-3)  # ages between the grid's are interpolated
    assert "sfr_bins" not in got


def test_stacked_galaxies_are_taken_apart(builder: DataBuilder, make_survey: Any, free: GalaxyData) -> None:
    catalog = make_survey([0.1, 0.3], [0.0, 0.0])
    galaxies = [builder(catalog, index) for index in range(2)]
    stacked = stack_galaxies(galaxies)
    for index, galaxy in enumerate(galaxies):
        again = take_galaxy(stacked, index)
        assert jax.tree.structure(again) == jax.tree.structure(galaxy)
        jax.tree.map(np.testing.assert_array_equal, again, galaxy)
    with pytest.raises(ValueError, match="`galaxies` must all have a fixed redshift or all a free one"):
        stack_galaxies([galaxies[0], free])
    with pytest.raises(ValueError, match=r"`cosmology` must be one of .*got 'Planck19'"):
        cosmology_by_name("Planck19")


def test_settings_survive_json() -> None:
    config = dataclasses.replace(
        FREE,
        sfh="delayed_tau",
        prior=InterimPrior(logzsol_scatter=0.2, dust2=(0.1, 0.5, 2.0)),
        cosmology="WMAP9",
    )
    again = ModelConfig.from_json(config.to_json())
    assert again == config
    assert again != FREE
    assert isinstance(again.prior.dust2, tuple)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"error_floor": "fre"}, "`error_floor` must be a number or 'free', got 'fre'"),
        ({"error_floor": -0.1}, r"`error_floor` must be a fraction in \[0, 1\), got -0.1"),
        ({"error_floor": 1.0}, "`error_floor` must be a fraction"),
        ({"zero_point_sigma": -0.01}, "`zero_point_sigma` must be >= 0 mag, got -0.01"),
        ({"sfh": "burst"}, r"`sfh` must be one of \('binned', 'delayed_tau'\), got 'burst'"),
        ({"curve": "smc"}, "`curve` must be one of .*got 'smc'"),
        ({"igm": "meiksin"}, "`igm` must be one of .*got 'meiksin'"),
    ],
)
def test_impossible_settings_are_refused(
    changed: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Outside tests nothing checks annotations before the settings themselves do.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        ModelConfig(**changed)
