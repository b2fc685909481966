"""Joint NUTS and Gibbs: against a known marginal likelihood, a density by hand, and themselves resumed."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from jax.scipy.stats import norm

from hbm.config import InterimPrior, ModelConfig
from hbm.coordinates import build_posterior
from hbm.galaxies import stack_galaxies, take_galaxy
from hbm.model import GalaxyData
from hbm.population import (
    GalaxyPoint,
    MassMetallicity,
    Population,
    Schechter,
    Survey,
    fit_population,
    make_survey,
)
from hbm.population.chains import Schedule, fingerprint, read_checkpoint, run_chains, write_checkpoint
from hbm.population.draws import interim_log_prob
from hbm.population.gibbs import GibbsConfig, GibbsSampler
from hbm.population.hierarchy import Hierarchy
from hbm.population.importance import ImportanceDraws
from hbm.population.joint import JointConfig, JointSampler
from hbm.population.reweight import ReweightConfig
from hbm.population.survey import survey_of
from hbm.relations import mass_metallicity

PRIOR = InterimPrior(logzsol=(-30.0, 30.0), logzsol_scatter=3.0)
"""Ends so far away that nothing is truncated."""
SLOPE, MASS_ERR = 0.3, 0.15
TRUTH = (-0.4, 0.3)


@dataclass(frozen=True)
class Line:
    """logzsol is normal about a line in logmass."""

    property: ClassVar[str] = "logzsol"

    def sample(self) -> dict[str, Any]:
        return {
            "level": numpyro.sample("level", dist.Normal(0.0, 0.5)),
            "scatter": numpyro.sample("scatter", dist.LogNormal(np.log(0.3), 0.5)),
        }

    def _normal(self, galaxies: Any, hyper: Any) -> Any:
        return dist.Normal(hyper["level"] + SLOPE * (galaxies["logmass"] - 10.0), hyper["scatter"])

    def log_prob(self, galaxies: Any, hyper: Any) -> Any:
        return self._normal(galaxies, hyper).log_prob(galaxies["logzsol"])

    def draw(self, key: Any, galaxies: Any, hyper: Any) -> Any:
        return self._normal(galaxies, hyper).sample(key)


def evaluate(z: Any, data: Any, shared: Any) -> GalaxyPoint:
    """Mass and metallicity measured with normal errors; metallicities share an offset, if there is one."""
    measured, _ = data
    properties = {"logmass": z[0], "logzsol": z[1], "age_universe": jnp.asarray(10.0)}
    like = calibrated(z, data, shared)
    like = like + dist.Normal(z[0], MASS_ERR).log_prob(measured[0])
    return GalaxyPoint(-like - interim_log_prob(properties, PRIOR, ("logmass", "logzsol")), properties, z)


def calibrated(flux: Any, data: Any, shared: Any) -> Any:
    measured, error = data
    return dist.Normal(flux[1] + shared.get("zero_point", 0.0), error).log_prob(measured[1])


def offset() -> dict[str, Any]:
    return {"zero_point": numpyro.sample("zero_point", dist.Normal(0.0, 0.2))}


@functools.cache
def line_survey(n: int, seed: int, *, shared: bool = False) -> tuple[Survey, Any]:
    """Galaxies on the line of `TRUTH`, with exact draws from their posteriors under the interim prior."""
    rng = np.random.default_rng(seed)
    mass = rng.uniform(9.5, 11.0, n)
    metal = TRUTH[0] + SLOPE * (mass - 10.0) + TRUTH[1] * rng.standard_normal(n)
    error = rng.uniform(0.1, 0.4, n)
    measured = np.stack([mass, metal], 1) + rng.standard_normal((n, 2)) * np.stack(
        [np.full(n, MASS_ERR), error], 1
    )
    data = (jnp.asarray(measured, jnp.float32), jnp.asarray(error, jnp.float32))
    grid = np.linspace(-6, 6, 4001)
    draws = np.empty((n, 400, 2))
    draws[..., 0] = measured[:, :1] + MASS_ERR * rng.standard_normal((n, 400))
    for i in range(n):  # the prior of logzsol depends on mass: inverse distribution function on a grid
        points = {
            "logmass": jnp.asarray(draws[i, :, :1]),
            "logzsol": jnp.asarray(grid),
            "age_universe": jnp.zeros(1),
        }
        prior = np.asarray(interim_log_prob(points, PRIOR, ("logzsol",)), float)
        log = prior - 0.5 * ((grid - measured[i, 1]) / error[i]) ** 2
        cdf = np.cumsum(np.exp(log - log.max(1, keepdims=True)), axis=1)
        u = rng.random(400)
        draws[i, :, 1] = [np.interp(u[s], cdf[s] / cdf[s, -1], grid) for s in range(400)]
    names = tuple(f"g{i}" for i in range(n))
    survey = make_survey(
        names, evaluate, data, jnp.asarray(draws, jnp.float32), PRIOR,
        calibrated=calibrated, sample_calibration=offset if shared else None,
    )  # fmt: skip
    return survey, (measured, error)


def exact(measured: Any, error: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of level and log scatter, by their marginal likelihood on a grid."""
    level, scatter = np.meshgrid(np.linspace(-1.2, 0.6, 401), np.geomspace(0.03, 1.2, 301), indexing="ij")
    total = scipy.stats.norm(0, 0.5).logpdf(level) + scipy.stats.norm(np.log(0.3), 0.5).logpdf(
        np.log(scatter)
    )
    for (mass, metal), e in zip(measured, error, strict=True):
        width = np.sqrt(e**2 + scatter**2 + (SLOPE * MASS_ERR) ** 2)
        total += scipy.stats.norm(level + SLOPE * (mass - 10.0), width).logpdf(metal)
    weight = np.exp(total - total.max())
    weight /= weight.sum()
    values = np.stack([level, np.log(scatter)])
    mean = (weight * values).sum((1, 2))
    return mean, np.sqrt((weight * (values - mean[:, None, None]) ** 2).sum((1, 2)))


def moments_of(result: Any) -> tuple[np.ndarray, np.ndarray]:
    values = np.stack([result.draws("level"), np.log(result.draws("scatter"))])
    return values.mean(1), values.std(1)


@pytest.mark.parametrize(
    "method", [*(pytest.param(m, marks=pytest.mark.slow) for m in ("nuts", "joint")), "importance", "gibbs"]
)
def test_methods_find_the_marginal_likelihood(method: Any) -> None:
    survey, (measured, error) = line_survey(25, 1)
    sampler = None
    lengths = {"joint": (400, 800), "gibbs": (300, 1500)}.get(method, (300, 500))
    if method in ("nuts", "importance"):
        method, sampler = "reweight", ReweightConfig(method)
    result = fit_population(
        survey,
        Population((Line(),)),
        method=method,
        n_warmup=lengths[0],
        n_draw=lengths[1],
        n_chain=2,
        seed=3,
        sampler=sampler,
    )
    if sampler is not None:
        assert ("effective" in result.idata.posterior.attrs) == (sampler.sampler == "importance")
    mean, sd = exact(measured, error)
    assert np.all(sd < (0.15, 0.3))  # the data matter: hyperpriors are 0.5 wide
    found, spread = moments_of(result)
    np.testing.assert_array_less(np.abs(found - mean) / sd, 0.2)
    np.testing.assert_array_less(np.abs(np.log(spread / sd)), 0.15)
    assert "rhat" not in result.flag
    assert "divergences" not in result.flag


def test_chains_follow_where_weights_cannot_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    survey, _ = line_survey(10, 1)
    vectors = np.random.default_rng(0).normal(size=(100, 2))
    poor = ImportanceDraws(vectors, 12.0, 1.3, 5000, 12.0)
    monkeypatch.setattr("hbm.population.reweight.sample", lambda *_args, **_options: poor)
    options: dict[str, Any] = {"n_warmup": 40, "n_draw": 50, "n_chain": 2}
    found = fit_population(survey, Population((Line(),)), **options)
    assert "effective" not in found.idata.posterior.attrs
    assert found.draws("level").std() > 0
    insisted = fit_population(survey, Population((Line(),)), sampler=ReweightConfig("importance"), **options)
    assert {"importance", "ess"} <= set(insisted.flag.split(","))
    assert insisted.idata.posterior.attrs["pareto_k"] == 1.3
    assert insisted.idata.posterior.attrs["evaluations"] == 5000


def test_density_is_the_hierarchical_models(galaxy: GalaxyData) -> None:
    """Two galaxies, a relation in place of one prior, shared zero points and floor, each factor by hand.

    Only the rest of a galaxy's density, with its Jacobian, is from `build_posterior` (tested elsewhere).
    """
    config = ModelConfig(n_zred=5, error_floor="free", zero_point_sigma=0.05)
    fixed = ModelConfig(n_zred=5, error_floor=0.05)
    other = eqx.tree_at(lambda g: (g.flux, g.flux_err), galaxy, (galaxy.flux * 2.5, galaxy.flux_err * 1.4))
    prior = config.prior
    population = Population((MassMetallicity(*prior.logzsol),))
    values = {
        "mzr_offset": 0.1, "mzr_tilt": -0.2, "mzr_scatter": 0.3, "error_floor": 0.03,
        "zero_point": np.array([0.05, -0.02, 0.0, 0.03, -0.06]),
    }  # fmt: skip
    with jax.enable_x64(True):
        data = jax.tree.map(_double, stack_galaxies([galaxy, other]))
        alone = build_posterior(fixed, take_galaxy(data, 0))
        vectors = 0.4 * jax.random.normal(jax.random.key(2), (2, 30, alone.dim))
        survey = survey_of(("a", "b"), config, data, (), vectors, share=True, seed=0)
        hierarchy = Hierarchy(survey, population)
        first = hierarchy.shared_of(values)
        start = hierarchy.drawn(first).sites
        assert first.shape == (3 + 1 + 5,)
        for name, value in values.items():
            np.testing.assert_allclose(start[name], value, rtol=1e-6)

        def shared_by_hand(sites: Any) -> Any:
            total = norm.logpdf(sites["mzr_offset"], 0, 0.3) + norm.logpdf(sites["mzr_tilt"], 0, 0.3)
            # Densities per unit of the logarithm, in which these two are sampled; the floor by its logit.
            total += norm.logpdf(jnp.log(sites["mzr_scatter"]), np.log(0.25), 0.5)
            low, high = prior.error_floor
            total += jnp.log((sites["error_floor"] - low) * (high - sites["error_floor"]))
            total -= jnp.log(sites["error_floor"])
            return total + norm.logpdf(sites["zero_point"], 0, 0.05).sum()

        def galaxy_by_hand(sites: Any, z: Any, one: Any) -> Any:
            found = alone.evaluate(z, one, None)

            def like(floor: Any, zero_point: Any) -> Any:
                flux = found.flux * 10 ** (-0.4 * zero_point)
                width = jnp.sqrt(one.flux_err**2 + (floor * flux) ** 2)
                return norm.logpdf(one.flux / width, flux / width).sum() - jnp.log(width).sum()

            def truncated(centre: Any, width: Any) -> Any:
                low, high = prior.logzsol
                inside = norm.cdf((high - centre) / width) - norm.cdf((low - centre) / width)
                return norm.logpdf(found.sites["logzsol"], centre, width) - jnp.log(inside)

            mass = found.sites["logmass"]
            centre = mass_metallicity(mass)
            moved = centre + sites["mzr_offset"] + sites["mzr_tilt"] * (mass - 10.5)
            relation = truncated(moved, sites["mzr_scatter"]) - truncated(centre, prior.logzsol_scatter)
            calibration = like(sites["error_floor"], sites["zero_point"]) - like(0.05, 0.0)
            return relation + calibration - found.potential

        @jax.jit
        def all_three(shared: Any, w: Any) -> Any:
            sites, arrays = hierarchy.drawn(shared).sites, hierarchy.arrays
            direct = -shared_by_hand(sites)
            for i in range(2):
                z = survey.mean[i] + survey.chol[i] @ w[i]
                direct -= galaxy_by_hand(sites, z, take_galaxy(data, i))
            _, point = hierarchy.galaxies(w, hierarchy.drawn(shared), arrays)
            before = hierarchy.calibrated(point, hierarchy.drawn(first).calibration, arrays)
            moved = hierarchy.potential_given(shared, point, arrays, before)
            change = moved - hierarchy.potential_given(first, point, arrays, before)
            return hierarchy.potential(shared, w, arrays), direct, change

        keys = jax.random.split(jax.random.key(5), 4)
        points = [(first + 0.3 * i, jax.random.normal(k, (2, alone.dim))) for i, k in enumerate(keys)]
        points.append((first, points[1][1]))
        ours, direct, change = np.array([all_three(*point) for point in points]).T
        assert np.ptp(direct) > 5
        np.testing.assert_allclose(ours - ours[0], direct - direct[0], rtol=1e-7, atol=1e-6)

        # What Gibbs uses at fixed galaxies: the same difference between two values of what is shared.
        assert abs(change[1]) > 0.1
        assert abs((ours[1] - ours[4]) - change[1]) < 1e-7


def _double(leaf: Any) -> Any:
    return jnp.asarray(leaf, jnp.float64 if np.asarray(leaf).dtype == np.float32 else None)


def walk(state: Any, arrays: Any) -> Any:
    """A chain that draws numbers about ``arrays``."""
    x, key = state
    key, now = jax.random.split(key)
    x = 0.9 * x + jax.random.normal(now) + arrays
    return (x, key), {"x": x, "properties": {"logmass": x * jnp.ones(3)}}


WALK = {"settings": {"n": 1}, "data": "abc"}


def walked(path: Path | None, stop: int | None = None, **changes: Any) -> Any:
    keys = jax.random.split(jax.random.key(4), 2)

    def progress(done: int, total: int, text: str) -> None:
        assert total == 75
        assert text == ("sampling: warm-up" if done <= 20 else "sampling")
        if stop is not None and done >= stop:
            raise KeyboardInterrupt

    schedule = Schedule(20, 55, n_keep=20, checkpoint=path, every_s=0.0)._replace(**changes)
    return run_chains(walk, (jnp.zeros(2), keys), jnp.asarray(0.5), schedule, WALK, progress)


def test_a_killed_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    path = tmp_path / "chains.npz"
    whole = walked(None)
    assert whole["x"].shape == (2, 55)
    assert whole["properties"]["logmass"].shape == (2, 19, 3)  # every third
    np.testing.assert_array_equal(whole["properties"]["logmass"][:, :, 0], whole["x"][:, ::3])
    for stop in (10, 40):  # in the warm-up, then among the draws
        with pytest.raises(KeyboardInterrupt):
            walked(path, stop, resume=stop > 10)
    jax.tree.map(np.testing.assert_array_equal, walked(path, resume=True), whole)
    jax.tree.map(np.testing.assert_array_equal, walked(path, resume=True), whole)  # it was done
    assert [file.name for file in tmp_path.iterdir()] == ["chains.npz"]


def test_checkpoints_of_other_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "chains.npz"
    walked(path)
    with pytest.raises(FileExistsError, match=r"`checkpoint` .* exists already"):
        walked(path)
    for identity, text in (
        ({"settings": {"n": 2}, "data": "abc"}, "is of another run: n: 1, not 2"),
        ({"settings": {"n": 1}, "data": "abd"}, "data: abc, not abd"),
    ):
        with pytest.raises(ValueError, match=text):
            read_checkpoint(path, identity, (0, 0))
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        walked(path, resume=True)
    one, two = (fingerprint({"a": 1}, {"x": np.arange(3.0), "y": y}) for y in (0, 1))
    assert one["a"] == two["a"] == 1
    assert one["data"] != two["data"]


@pytest.mark.parametrize("sampler", [pytest.param(JointSampler, marks=pytest.mark.slow), GibbsSampler])
def test_states_survive_a_file(sampler: Any, tmp_path: Path) -> None:
    """All leaves of a kernel's state, with its random keys, come back as they were."""
    hierarchy = Hierarchy(line_survey(3, 5)[0], Population((Line(),)))
    config = JointConfig() if sampler is JointSampler else GibbsConfig()
    shared, w = hierarchy.start(2, 0)
    keys = jax.random.split(jax.random.key(7), 2)
    state = jax.vmap(sampler(hierarchy, config, 50).init)(shared, w, keys)
    path = tmp_path / "state.npz"
    write_checkpoint(path, WALK, 30, state, {"x": np.arange(4)})
    blank = jax.vmap(sampler(hierarchy, config, 50).init)(shared * 0, w * 0, keys[::-1])
    done, back, kept = read_checkpoint(path, WALK, blank)
    assert done == 30
    np.testing.assert_array_equal(kept["x"], np.arange(4))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(back), strict=True):
        assert old.dtype == new.dtype
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            old, new = jax.random.key_data(old), jax.random.key_data(new)  # noqa: PLW2901
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["joint", "gibbs"])
def test_a_resumed_fit_is_the_same(method: Any, tmp_path: Path) -> None:
    survey, _ = line_survey(6, 2, shared=True)
    population, path = Population((Line(),)), tmp_path / "chains.npz"
    lengths: Any = {"method": method, "n_warmup": 60, "n_draw": 60, "n_chain": 2, "seed": 1}

    def stop(done: int, _total: int, _text: str) -> None:
        if done >= 80:
            raise KeyboardInterrupt

    whole = fit_population(survey, population, **lengths)
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr("hbm.population.together.Schedule", lambda *a, **k: Schedule(*a, **k, every_s=0.0))
        with pytest.raises(KeyboardInterrupt):
            fit_population(survey, population, checkpoint=path, progress=stop, **lengths)
    again = fit_population(survey, population, checkpoint=path, resume=True, **lengths)
    for group in ("posterior", "galaxies", "sample_stats"):
        for name, value in whole.idata[group].data_vars.items():
            np.testing.assert_array_equal(value.values, again.idata[group][name].values)
    with pytest.raises(ValueError, match="is of another run: seed: 1, not 2"):
        fit_population(survey, population, checkpoint=path, resume=True, **lengths | {"seed": 2})


def test_bad_input_is_refused() -> None:
    survey, _ = line_survey(3, 5)
    population = Population((Line(),))
    for arguments, text in (
        ({"method": "joint", "n_draw": 0}, "`n_draw` must be at least 1, got 0"),
        ({"method": "gibbs", "sampler": JointConfig()}, "config of method 'gibbs', got JointConfig"),
        ({"checkpoint": "x.npz"}, "is for `method` 'joint' and 'gibbs', got 'reweight'"),
        ({"sampler": JointConfig()}, "must be a `ReweightConfig` for `method` 'reweight', got JointConfig"),
        ({"method": "joint", "sampler": ReweightConfig()}, "must not be a `ReweightConfig`"),
        ({"sampler": ReweightConfig("mcmc")}, "'importance' or 'nuts' in its own `sampler`, got 'mcmc'"),
    ):
        with pytest.raises(ValueError, match=text):
            fit_population(survey, population, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`draws` must be a survey for method 'joint'"):
        fit_population(survey.draws, population, method="joint")
    high = Population((Schechter(12.4, 12.6),))
    for method in ("reweight", "joint", "gibbs"):
        with pytest.raises(ValueError, match="must give every galaxy some density, but 3 have none"):
            fit_population(survey, high, method=method)
