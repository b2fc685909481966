"""Parts of population inference: truncated normals, selection, mock surveys, programs that are kept."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats

from hbm.population import MassMetallicity, Population, Schechter, default_population, selection_by, truncated
from hbm.population.detection import property_limit
from hbm.population.mock import ERROR, LIMIT, PRIOR, TRUTH, mock_survey
from hbm.population.relations import with_published
from hbm.population.reweight import reweighting_of
from hbm.population.selection import MIDDLE

AGE = 12.4
LOW, HIGH = 0.0, 2.5
CENTRES = np.array([0.3, -3.0, -6.0, 5.0, 9.0])
WIDTHS = np.array([0.4, 0.3, 0.2, 0.2, 0.1])
"""The last four put all digits of both distribution functions into one end."""


def test_truncated_normals_far_from_their_ends() -> None:
    """Density, its slopes and draws against scipy's, in single precision."""
    scale, values = jnp.asarray(WIDTHS, jnp.float32), np.array([0.001, 0.05, 0.7, 2.4])
    exact = scipy.stats.truncnorm((LOW - CENTRES) / WIDTHS, (HIGH - CENTRES) / WIDTHS, CENTRES, WIDTHS)

    def density(value: Any, centre: Any) -> Any:
        return truncated.log_density(value, centre, scale, LOW, HIGH)

    centre = jnp.asarray(CENTRES, jnp.float32)
    each = jax.jit(jax.vmap(density, in_axes=(0, None)))(jnp.asarray(values, jnp.float32), centre)
    np.testing.assert_allclose(each, exact.logpdf(values[:, None]), rtol=1e-5, atol=2e-4)
    slope = jax.jit(jax.grad(lambda c: density(jnp.float32(0.05), c).sum()))(centre)
    ends = [
        scipy.stats.truncnorm.logpdf(0.05, (LOW - c) / WIDTHS, (HIGH - c) / WIDTHS, c, WIDTHS)
        for c in (CENTRES + 1e-4, CENTRES - 1e-4)
    ]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-4, rtol=1e-3)
    n = 4000
    drawn = jax.jit(jax.vmap(lambda key: truncated.draw(key, centre, scale, LOW, HIGH)))(
        jax.random.split(jax.random.key(0), n)
    )
    for k in range(len(CENTRES)):
        one = scipy.stats.truncnorm(
            (LOW - CENTRES[k]) / WIDTHS[k], (HIGH - CENTRES[k]) / WIDTHS[k], CENTRES[k], WIDTHS[k]
        )
        assert scipy.stats.kstest(np.asarray(drawn[:, k], float), one.cdf).pvalue > 1e-3


def test_published_relations_in_place_change_nothing() -> None:
    galaxies = {"age_universe": jnp.full(50, AGE), "logmass": jnp.linspace(8.6, 11.9, 50)}
    galaxies |= {"logssfr": jnp.full(50, -10.3), "logzsol": jnp.linspace(-1.4, 0.2, 50)}
    galaxies |= {"dust2": jnp.full(50, 0.3), "gas_logu": jnp.full(50, -2.5)}
    population = default_population(PRIOR)
    np.testing.assert_allclose(
        population.log_prob(galaxies, MIDDLE),
        population.log_prob(with_published(galaxies), MIDDLE),
        rtol=1e-6,
    )


def test_selection_integrates_out_what_detection_does_not_depend_on() -> None:
    """And draws about the right hyperparameters have less noise: against draws from the population itself."""
    population = Population((Schechter(*PRIOR.logmass), MassMetallicity(*PRIOR.logzsol)))
    detection = property_limit("logmass", 10.0, 0.1)
    galaxies = population.draw(jax.random.key(1), jnp.full(100_000, AGE), TRUTH)
    expected = float(jnp.log(detection(galaxies).mean()))

    def spread(**options: Any) -> float:
        found = [
            float(
                selection_by(
                    detection, np.array([AGE]), PRIOR, population, n_draw=2000, seed=seed, **options
                ).log_detected(population, TRUTH)
            )
            for seed in range(8)
        ]
        assert abs(np.mean(found) - expected) < 4 * np.std(found) / np.sqrt(8) + 0.01
        return float(np.std(found))

    every, mass, best = spread(), spread(depends=("logmass",)), spread(depends=("logmass",), about=TRUTH)
    assert mass < every
    assert best < every
    with pytest.raises(
        ValueError, match="`depends` must name some of what `population` describes, logmass, "
    ):
        selection_by(detection, np.array([AGE]), PRIOR, population, depends=("dust2",))


def test_a_mock_survey_is_measured_and_its_posteriors_hold_the_truth() -> None:
    population = Population((Schechter(*PRIOR.logmass), MassMetallicity(*PRIOR.logzsol)))
    survey = mock_survey(population, TRUTH, 80, n_draw=199, seed=4)
    assert min(survey.measured["logmass"]) > LIMIT
    assert len(set(survey.draws.id)) == 80
    assert survey.effective.min() > 300
    for name, error in ERROR.items():
        off = (survey.measured[name] - survey.truth[name]) / error
        draws = np.asarray(survey.draws.properties[name])
        assert draws.shape == (80, 199)
        assert abs(np.std(off) - 1) < 0.25
        assert np.median(np.abs(draws.mean(1) - survey.measured[name]) / error) < 1
    # Of what follows the interim prior, the ranks of the truth are uniform where nothing was selected.
    for name in ("dust2", "gas_logu"):
        rank = (np.asarray(survey.draws.properties[name]) < survey.truth[name][:, None]).mean(1)
        assert scipy.stats.kstest(rank, "uniform").pvalue > 1e-3
    with pytest.raises(ValueError, match="`truth` must leave galaxies above the `limit` 13"):
        mock_survey(population, TRUTH, 5, limit=13.0, n_draw=10)


def test_programs_are_kept_for_relations_that_cannot_change() -> None:
    first = reweighting_of(Population((MassMetallicity(*PRIOR.logzsol),)), 7)
    assert reweighting_of(Population((MassMetallicity(*PRIOR.logzsol),)), 7) is first
    assert reweighting_of(Population((MassMetallicity(-1.0, 0.2),)), 7) is not first

    class Plain:
        property: ClassVar[str] = "logzsol"
        level = 0.0

        def sample(self) -> dict[str, Any]:
            return {"level": numpyro.sample("level", dist.Normal(self.level, 1.0))}

        def log_prob(self, galaxies: Any, hyper: Any) -> Any:
            return -0.5 * (galaxies["logzsol"] - hyper["level"]) ** 2

        def draw(self, key: Any, galaxies: Any, hyper: Any) -> Any:
            return hyper["level"] + jax.random.normal(key, jnp.shape(galaxies["age_universe"]))

    one = Plain()
    assert reweighting_of(Population((one,)), 7) is not reweighting_of(Population((one,)), 7)
