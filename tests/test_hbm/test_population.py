"""Population models: densities against other evaluations, and hyperparameters of mock surveys."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from numpyro.infer.util import log_density

from hbm.config import InterimPrior, ModelConfig
from hbm.convergence import diagnose
from hbm.model import GalaxyData, galaxy_model
from hbm.population import (
    DustRelation,
    IonizationRelation,
    MassMetallicity,
    Population,
    PosteriorDraws,
    Schechter,
    SplineMassFunction,
    StarFormingSequence,
    default_population,
    fit_population,
    selection_by,
)
from hbm.population.draws import PROPERTIES, gather_draws, interim_draw, interim_log_prob
from hbm.population.reweight import Reweighting
from hbm.population.selection import MIDDLE, least_effective
from hbm.results import ObservedBands, Provenance, make_result

PRIOR = InterimPrior(logmass=(8.5, 12.0), logssfr=(-13.0, -8.4), logzsol=(-1.5, 0.3), dust2=(0.3, 1.0, 2.5))
AGE = 12.4
TRUTH = {**MIDDLE, "log_mstar": 10.7, "alpha": -1.3, "quiescent_mass": 10.4}


def test_schechter_is_the_gamma_distribution() -> None:
    """10^(m - m*) is gamma-distributed with shape alpha + 1, truncated; here for alpha > -1."""
    hyper = {"log_mstar": jnp.asarray(10.6), "alpha": jnp.asarray(0.4)}
    mass = jnp.asarray([9.0, 10.2, 11.4])
    found = Schechter().log_prob({"logmass": mass}, hyper)
    x = 10.0 ** (np.asarray(mass, float) - 10.6)
    gamma = scipy.stats.gamma(1.4)
    inside = gamma.cdf(10.0**1.4) - gamma.cdf(10.0**-2.1)
    expected = gamma.logpdf(x) + np.log(x * np.log(10)) - np.log(inside)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert float(Schechter().log_prob({"logmass": jnp.asarray(8.0)}, hyper)) == -np.inf


@pytest.mark.parametrize(
    "relation",
    [
        Schechter(),
        SplineMassFunction(),
        StarFormingSequence(),
        MassMetallicity(),
        DustRelation(),
        IonizationRelation(),
    ],
)
def test_densities_are_normalised_and_draws_follow_them(relation: Any) -> None:
    hyper = TRUTH | {
        "mass_slope": -0.4,
        "mass_bend": jnp.asarray([0.5, -1, 0.3, 0, -2, 0.1]),
        "mass_roughness": 0.7,
    }
    low, high = getattr(relation, "low", 0.0), relation.high
    grid = jnp.linspace(low, high, 20001)
    fixed = {"logmass": 10.8, "logssfr": -10.2, "age_universe": AGE}
    galaxies = {name: jnp.full(grid.shape, value) for name, value in fixed.items()}
    density = np.exp(np.asarray(relation.log_prob(galaxies | {relation.property: grid}, hyper), float))
    total = np.trapezoid(density, np.asarray(grid, float))
    assert abs(total - 1) < 2e-3
    n = 4000
    one = {name: jnp.full(n, value) for name, value in fixed.items() if name != relation.property}
    drawn = np.asarray(relation.draw(jax.random.key(1), one, hyper), float)
    cdf = scipy.integrate.cumulative_trapezoid(density, np.asarray(grid, float), initial=0) / total
    assert scipy.stats.kstest(drawn, lambda x: np.interp(x, grid, cdf)).pvalue > 1e-3


def test_the_interim_density_is_that_of_the_model(galaxy: GalaxyData, sites: Any) -> None:
    """Differences between points, against NumPyro's log density of the whole model's prior."""
    config = ModelConfig(n_zred=5)
    moved = {**sites, "logmass": np.float32(11.1), "logssfr": np.float32(-11.5), "gas_logu": np.float32(-3.1),
             "dust2": np.float32(1.4), "dust1": np.float32(1.68), "logzsol": np.float32(-0.9)}  # fmt: skip

    def both(values: Any) -> tuple[float, float]:
        values = {name: jnp.asarray(value) for name, value in values.items()}
        points = {
            name: jnp.asarray(values[name]) for name in ("logmass", "logssfr", "logzsol", "dust2", "gas_logu")
        }
        points["age_universe"] = jnp.asarray(galaxy.age_universe)
        whole, _ = log_density(galaxy_model, (galaxy, config), {"use_data": False}, values)
        return float(interim_log_prob(points, config.prior)), float(whole)

    (mine, whole), (mine_moved, whole_moved) = both(sites), both(moved)
    assert abs((mine_moved - mine) - (whole_moved - whole)) < 2e-4
    assert abs(mine_moved - mine) > 1


SIGMA = {"logmass": 0.1, "logssfr": 0.25, "logzsol": 0.2, "dust2": 0.15, "gas_logu": 0.3}


def survey(n: int, seed: int, limit: float | None) -> PosteriorDraws:
    """Galaxies of the population `TRUTH` measured with normal errors, and their posteriors under the prior.

    With a limit, those whose measured log mass is below are lost.
    """
    rng = np.random.default_rng(seed)
    many = 6 * n
    drawn = default_population(PRIOR).draw(jax.random.key(seed), jnp.full(many, AGE), TRUTH)
    measured = {name: np.asarray(drawn[name]) + s * rng.standard_normal(many) for name, s in SIGMA.items()}
    seen = np.flatnonzero(measured["logmass"] > (-np.inf if limit is None else limit))[:n]
    assert len(seen) == n
    proposals = {
        name: measured[name][seen, None] + SIGMA[name] * rng.standard_normal((n, 8000)) for name in SIGMA
    }
    arrays = {name: jnp.asarray(value, jnp.float32) for name, value in proposals.items()}
    arrays["age_universe"] = jnp.full((n, 8000), AGE)
    weight = np.exp(np.nan_to_num(np.asarray(jax.jit(interim)(arrays), float), nan=-np.inf))
    keep = np.stack([rng.choice(8000, 100, p=row / row.sum()) for row in weight])
    rows = {name: jnp.take_along_axis(value, jnp.asarray(keep), axis=1) for name, value in arrays.items()}
    return PosteriorDraws(tuple(f"g{i}" for i in range(n)), rows, PRIOR)


def interim(arrays: Any) -> Any:
    inside = jnp.ones(arrays["logmass"].shape, bool)
    for name, (low, high) in {
        "logmass": PRIOR.logmass, "logssfr": PRIOR.logssfr, "logzsol": PRIOR.logzsol,
        "dust2": (0.0, PRIOR.dust2[2]), "gas_logu": PRIOR.gas_logu[2:],
    }.items():  # fmt: skip
        inside &= (arrays[name] > low) & (arrays[name] < high)
    safe = {name: jnp.where(inside, value, MIDPOINT[name]) for name, value in arrays.items()}
    return jnp.where(inside, interim_log_prob(safe, PRIOR), -jnp.inf)


MIDPOINT = {
    "logmass": 10.0,
    "logssfr": -10.0,
    "logzsol": -0.5,
    "dust2": 0.5,
    "gas_logu": -2.5,
    "age_universe": AGE,
}
N = 120


def test_without_selection_a_limited_survey_is_biased_and_with_it_not() -> None:
    limit = 9.8
    draws = survey(N, 1, limit)
    population = Population((Schechter(*PRIOR.logmass),))

    def detection(galaxies: Any) -> Any:
        return jax.scipy.stats.norm.cdf((galaxies["logmass"] - limit) / SIGMA["logmass"])

    selection = selection_by(detection, np.array([AGE]), PRIOR, population, n_draw=4000)
    kept = {"n_warmup": 150, "n_draw": 150, "n_chain": 2}
    right = fit_population(draws, population, selection=selection, **kept)
    wrong = fit_population(draws, population, **kept)

    def off(result: Any, name: str) -> float:
        values = result.draws(name)
        return float((values.mean() - TRUTH[name]) / values.std())

    assert "variance" not in right.flag
    for name in ("alpha", "log_mstar"):
        assert abs(off(right, name)) < 3, name
    # What a mass limit removes is taken for a mass function that turns over.
    assert off(wrong, "alpha") > 5
    detected = np.exp(right.draws("log_detected"))
    everything = default_population(PRIOR).draw(jax.random.key(9), jnp.full(200_000, AGE), TRUTH)
    fraction = float(detection(everything).mean())
    assert abs(detected.mean() - fraction) < 4 * detected.std()


@pytest.mark.slow
def test_hyperparameters_of_all_relations_are_found() -> None:
    draws = survey(N, 2, None)
    result = fit_population(draws, default_population(PRIOR), n_warmup=300, n_draw=300, n_chain=2)
    z = {name: (TRUTH[name] - result.draws(name).mean()) / result.draws(name).std() for name in MIDDLE}
    assert max(abs(value) for value in z.values()) < 3.7, z
    assert sum(value**2 for value in z.values()) < scipy.stats.chi2.ppf(0.999, len(z))
    assert result.draws("mzr_scatter").std() < 0.1  # the hyperprior's is 0.13 and more
    assert result.effective.shape == result.pareto_k.shape == (N,)


@pytest.mark.parametrize("name", ["logssfr", "logzsol", "dust2", "gas_logu"])
def test_there_is_nothing_beyond_the_ends(name: str) -> None:
    """Galaxies there must not pull hyperparameters: their density is zero, with a slope of zero."""
    relation = next(r for r in default_population(PRIOR).relations if r.property == name)
    hyper = {key: jnp.asarray(value) for key, value in MIDDLE.items()}
    galaxies = {key: jnp.asarray(value) for key, value in MIDPOINT.items()}
    high = float(relation.high)  # type: ignore[attr-defined]

    def at(value: float, moved: Any) -> Any:
        return relation.log_prob(galaxies | {name: jnp.asarray(value)}, moved)

    assert np.isfinite(at(high - 1e-3, hyper))
    assert at(high + 1e-3, hyper) == -jnp.inf
    slope = jax.grad(lambda moved: jnp.exp(at(high + 1e-3, moved)))(hyper)
    assert all(float(value) == 0 for value in slope.values())


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="`relations` must describe each property once"):
        Population((Schechter(), SplineMassFunction()))
    draws = survey(5, 3, None)
    high = Population((Schechter(11.9, 12.0),))
    with pytest.raises(ValueError, match=r"must give every galaxy some density, but [345] have none"):
        fit_population(draws, high)
    wide = Population((Schechter(PRIOR.logmass[0] - 0.5, PRIOR.logmass[1]),))
    with pytest.raises(
        ValueError, match=r"must stay within the interim prior .* relation of logmass reaches"
    ):
        fit_population(draws, wide)
    for bad in (lambda g: 2 * g["logmass"], lambda g: 0 * g["logmass"], lambda _: jnp.zeros(3)):
        with pytest.raises(ValueError, match="`detection` must give a probability"):
            selection_by(bad, np.array([AGE]), PRIOR, Population((Schechter(),)), n_draw=100)


def test_interim_draws_have_the_interim_density() -> None:
    """The mean of p / q over draws of q is 1."""
    galaxies = {"age_universe": jnp.full(40_000, AGE)}
    for i, name in enumerate(PROPERTIES):
        galaxies[name] = interim_draw(name, jax.random.key(i), galaxies, PRIOR)
    for relation in default_population(PRIOR).relations[1:]:
        one = Population((relation,))
        ratio = one.log_prob(galaxies, TRUTH) - interim_log_prob(galaxies, PRIOR, one.properties)
        ratio = np.exp(np.asarray(ratio, float))
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / 200, relation


def test_detection_may_depend_on_what_the_population_does_not_describe() -> None:
    """Other properties keep their interim prior: against plain Monte Carlo from exactly that."""
    relation = StarFormingSequence(*PRIOR.logssfr)
    population = Population((relation,))

    def detection(galaxies: Any) -> Any:
        return jax.nn.sigmoid(
            (galaxies["logmass"] - 10.5) / 0.2 - (galaxies["logssfr"] + 10.5) + galaxies["dust2"]
        )

    hyper = TRUTH | {"quiescent_mass": 10.0, "sfs_offset": 0.2}
    selection = selection_by(detection, np.array([AGE]), PRIOR, population, n_draw=40_000)
    n = 100_000
    direct = {"age_universe": jnp.full(n, AGE)}
    for i, name in enumerate(PROPERTIES):
        key = jax.random.key(100 + i)
        if name == "logssfr":
            direct[name] = relation.draw(key, direct, hyper)
        else:
            direct[name] = interim_draw(name, key, direct, PRIOR)
    expected = float(jnp.log(detection(direct).mean()))
    assert abs(float(selection.log_detected(population, hyper)) - expected) < 0.02


def test_the_monte_carlo_variance_is_that_of_repeated_estimates() -> None:
    population = Population((Schechter(*PRIOR.logmass),))
    one, two = TRUTH, TRUTH | {"alpha": -1.0, "log_mstar": 10.9}
    draws = survey(20, 4, None)
    method = Reweighting(population, 0)

    def variance(selection: Any) -> float:
        stored, *_ = method.prepared(draws.properties, PRIOR, selection, jnp.zeros((1, 2)))
        return float(method.variance(one, two, stored))

    nothing = variance(None)
    found, predicted = [], []
    for seed in range(40):
        selection = selection_by(
            lambda g: jax.nn.sigmoid((g["logmass"] - 10) / 0.2), np.array([AGE]), PRIOR, population,
            n_draw=2000, seed=seed,
        )  # fmt: skip
        difference = selection.log_detected(population, one) - selection.log_detected(population, two)
        found.append(-len(draws.id) * float(difference))
        predicted.append(variance(selection) - nothing)
    assert 0.5 < np.var(found) / np.mean(predicted) < 1.8  # a factor 1.6 is 2 sigma for 40 estimates


def stored(name: str, config: ModelConfig = ModelConfig(prior=PRIOR), **changes: Any) -> Any:  # noqa: B008
    """A result with known draws."""
    posterior = {p: np.linspace(0, 1, 200).reshape(2, 100) + i for i, p in enumerate(PROPERTIES)}
    bands = ObservedBands(("a",), *(np.ones(1),) * 3, np.ones(1, bool), np.zeros(1, bool), np.zeros(1))
    settings = {"config": json.loads(config.to_json())}
    good = diagnose({"x": np.random.default_rng(0).normal(size=(4, 500))}, 0)
    arguments: dict[str, Any] = {
        "posterior": posterior, "sample_stats": {"diverging": np.zeros((2, 100), bool)},
        "flux": np.ones((2, 100, 1)), "bands": bands, "convergence": good,
        "provenance": Provenance(settings, {}, ("a",), 0, "test", "2026-01-01T00:00:00+00:00", {}),
    }  # fmt: skip
    return make_result(name, 0.1, **arguments | changes)


def test_draws_are_gathered_from_results() -> None:
    found = gather_draws([stored("a"), stored("b")], n_draw=50)
    assert found.id == ("a", "b")
    assert found.prior == PRIOR
    for i, name in enumerate(PROPERTIES):
        assert found.properties[name].shape == (2, 50)
        assert abs(float(found.properties[name].mean()) - 0.5 - i) < 0.01
    np.testing.assert_allclose(found.properties["age_universe"], 12.447, atol=0.01)  # Planck 2018, z = 0.1
    bad = diagnose({"x": np.zeros((2, 10))}, 0)
    other = ModelConfig()
    for results, text in (
        ([], "`results` is empty"),
        ([stored("a"), stored("b", other)], "that of b has another"),
        ([stored("a"), stored("b", convergence=bad)], "but b is flagged"),
        ([stored("a", ModelConfig(sfh="delayed_tau"))], "must be of binned"),
    ):
        with pytest.raises(ValueError, match=text):
            gather_draws(results, n_draw=50)
    with pytest.raises(ValueError, match="`n_draw` must be at most the number of draws, 200 of a, got 400"):
        gather_draws([stored("a")])


def test_selection_holds_measured_draws_only() -> None:
    """One galaxy in hundreds is measured: P(det) by its integral over mass, from draws that all count."""
    population = Population((Schechter(*PRIOR.logmass),))
    mass = np.linspace(*PRIOR.logmass, 20_001)
    log_prob = population.log_prob({"logmass": jnp.asarray(mass)}, MIDDLE)
    seen = scipy.stats.norm.cdf((mass - 11.2) / 0.1)
    expected = np.log(np.trapezoid(np.exp(np.asarray(log_prob, float)) * seen, mass))
    assert expected < np.log(0.02)
    found = []
    for seed in range(20):
        selection = selection_by(
            lambda g: jax.scipy.stats.norm.cdf((g["logmass"] - 11.2) / 0.1), np.array([AGE]), PRIOR,
            population,
            n_draw=1000, seed=seed,
        )  # fmt: skip
        counts = np.isfinite(np.asarray(selection.log_detection))
        assert counts.mean() > 0.9
        assert float(selection.effective(population, MIDDLE)) > 150
        found.append(float(selection.log_detected(population, MIDDLE)) - expected)
    assert np.mean(found) == pytest.approx(0.0, abs=4 * np.std(found) / np.sqrt(20))
    assert np.std(found) < 0.1


def test_hyperparameters_that_no_draw_tells_of_are_excluded() -> None:
    """The sum over draws is too small there: without a limit, it would beat any likelihood."""
    population = Population((MassMetallicity(*PRIOR.logzsol),))
    selection = selection_by(
        lambda g: jax.nn.sigmoid(g["logzsol"] / 0.2), np.array([AGE]), PRIOR, population, n_draw=2000
    )
    far = dict(MIDDLE) | {"mzr_offset": -5.0, "mzr_scatter": 0.02}
    assert float(selection.effective(population, MIDDLE)) > 500
    assert float(selection.effective(population, far)) < 5
    assert np.isinf(float(selection.log_detected(population, far, 100.0)))
    plain = selection.log_detected(population, MIDDLE)
    assert float(selection.log_detected(population, MIDDLE, 100.0)) == pytest.approx(float(plain), abs=1e-6)
    assert float(least_effective(10, jnp.array([300.0, 900.0]))) == 40.0
    assert float(least_effective(1000, jnp.array([300.0, 900.0]))) == 225.0
    slope = jax.grad(lambda o: selection.log_detected(population, far | {"mzr_offset": o}, 100.0))(-5.0)
    assert np.isfinite(slope)
