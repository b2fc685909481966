"""Prior draws that serve many galaxies, against weighting each draw with its own mass."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import hbm
import hbm.quick
from hbm.catalog import Catalog
from hbm.config import InterimPrior, ModelConfig
from hbm.demo import JointDemo, load_joint_demo
from hbm.galaxies import DataBuilder
from hbm.library import PROPERTIES, Library, Weighted, make_library, photometry_posterior
from hbm.model import GalaxyData
from hbm.quick import quick_fit

CONFIG = ModelConfig(prior=InterimPrior(logmass=(9.0, 11.0)), error_floor=0.1)


@pytest.fixture(scope="module")
def catalog(make_survey: Any) -> Catalog:
    survey: Catalog = make_survey([0.1], [0.0])
    return survey


@pytest.fixture(scope="module")
def data(grid: Any, catalog: Catalog) -> GalaxyData:
    return DataBuilder(grid, CONFIG, catalog.filter_names)(catalog, 0)


@pytest.fixture(scope="module")
def library(data: GalaxyData) -> Library:
    return make_library(data, CONFIG, 24_000, seed=1)


def log_likelihood(flux: np.ndarray, error: np.ndarray, model: np.ndarray, use: np.ndarray) -> np.ndarray:
    """The density of `hbm.model`, written out."""
    variance = error**2 + (0.1 * model) ** 2
    return -0.5 * np.sum(((flux - model) ** 2 / variance + np.log(variance))[:, use], axis=1)


@pytest.mark.parametrize("use", [(0, 1, 2, 3, 4), (1, 2)])
def test_posterior_is_that_of_draws_weighted_by_the_likelihood(
    library: Library, use: tuple[int, ...]
) -> None:
    truth = library.select(np.array([3]))
    flux = truth.flux()[0] * np.array([1.1, 0.95, 1.0, 1.05, 0.9])
    seen = np.isin(np.arange(5), use)
    error = 0.25 * flux
    model = library.flux().astype(np.float64)
    log_weight = log_likelihood(flux, error, model, seen)
    plain = np.exp(log_weight - log_weight.max())
    plain /= plain.sum()
    found = photometry_posterior(library, flux, error, observed=seen, seed=2)
    theta = library.theta().astype(np.float64)
    n_plain = 1 / np.sum(plain**2)
    assert found.effective > 3 * n_plain > 150
    assert found.weight.sum() == pytest.approx(1)
    mine = found.theta(library)
    for i, name in enumerate(PROPERTIES):
        mean, spread = np.sum(plain * theta[:, i]), np.sqrt(np.cov(theta[:, i], aweights=plain))
        assert np.sum(found.weight * mine[:, i]) == pytest.approx(mean, abs=4 * spread / n_plain**0.5), name
        width = np.sqrt(np.cov(mine[:, i], aweights=found.weight))
        assert width == pytest.approx(spread, rel=4 / (2 * n_plain) ** 0.5), name


def test_draws_and_masses(library: Library, data: GalaxyData, model_flux: Any) -> None:
    row = 7
    sites = {name: value[row] for name, value in library.sites.items() if name != "mwa"}
    np.testing.assert_allclose(library.flux()[row], model_flux(data, sites), rtol=1e-4)
    assert library.sites["mwa"][row] == pytest.approx(
        float(data.photometry.mean_age(_params(sites))), rel=1e-5
    )
    few = make_library(data, CONFIG, 10, seed=1)
    np.testing.assert_array_equal(few.sites["dust2"], library.sites["dust2"][:10])


def _params(sites: dict[str, np.ndarray]) -> Any:
    from hbm.model import parameters_from_sites

    return parameters_from_sites({name: jnp.asarray(value) for name, value in sites.items()}, CONFIG)


def test_further_likelihoods_multiply() -> None:
    draws = Weighted(np.arange(3), np.zeros(3), np.array([0.5, 0.25, 0.25]))
    after = draws.times(np.log([1.0, 2.0, 4.0]) + 700.0)
    np.testing.assert_allclose(after.weight, np.array([0.5, 0.5, 1.0]) / 2)
    assert draws.effective == pytest.approx(1 / (0.25 + 2 / 16))


def test_resampling_keeps_the_posterior(library: Library) -> None:
    flux = library.flux()[11]
    many, few = (photometry_posterior(library, flux, 0.2 * flux, n_kept=n, seed=1) for n in (10**6, 400))
    assert len(few.weight) <= 400 < len(many.weight)
    mean = [float(np.sum(found.weight * found.logmass)) for found in (many, few)]
    assert mean[1] == pytest.approx(mean[0], abs=0.03)


def test_refusals(library: Library, data: GalaxyData) -> None:
    flux = library.flux()[0]
    with pytest.raises(ValueError, match="at least one band"):
        photometry_posterior(library, flux, flux, observed=np.zeros(5, bool))
    with pytest.raises(ValueError, match="outside of the prior's range"):
        photometry_posterior(library, 1e5 * flux, flux)
    with pytest.raises(ValueError, match="`n` must be at least 1"):
        make_library(data, CONFIG, 0)
    for changed in ({"error_floor": "free"}, {"outliers": True}, {"zero_point_sigma": 0.1}):
        with pytest.raises(ValueError, match="fixed error floor"):
            make_library(data, dataclasses.replace(CONFIG, **changed), 10)
    with pytest.raises(ValueError, match="nebular"):
        make_library(data, dataclasses.replace(CONFIG, nebular=False), 10)


class Age:
    """A term as users write them."""

    name = "age"

    def galaxy(self, galaxy_id: str) -> np.ndarray:
        return np.float32([4.0, 0.5 if galaxy_id == "known" else 2.0])

    def log_prob(self, state: hbm.GalaxyState, data: np.ndarray) -> Any:
        return -0.5 * ((state.mean_age - data[0]) / data[1]) ** 2


def test_terms_of_users_are_weights(library: Library, data: GalaxyData) -> None:
    draws = Weighted(np.arange(5, 55), library.sites["logmass"][5:55], np.full(50, 0.02))
    for name, error in (("known", 0.5), ("other", 2.0)):
        found = hbm.quick._term_log_prob(Age(), name, library, data, draws)
        exact = -0.5 * ((library.sites["mwa"][5:55] - 4.0) / error) ** 2
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def demo() -> JointDemo:
    return load_joint_demo()


def test_quick_fit_of_an_image(demo: JointDemo) -> None:
    one = demo.catalog.select([1])
    (result,) = quick_fit(one, n_prior=8192, n_draw=200, seed=3, use=("image",))
    # The same weights by the term of fits, draw by draw.
    from hbm.fitting import config_of
    from hbm.image import GalaxyImage

    config = config_of(result)
    assert config == hbm.image_config(ModelConfig(), one.images.likelihood)
    builder = DataBuilder(hbm.quick.load_grid(), config, one.filter_names)
    library = make_library(dataclasses.replace(builder(one, 0), terms=()), config, 8192, seed=3)
    likelihood, image = one.images.likelihood, GalaxyImage(*one.images.galaxy("both"))
    some = library.theta()[:1500].astype(np.float32)
    by_hand = np.array([float(likelihood.log_prob(jnp.asarray(row), image)) for row in some[:5]])
    inside = np.array([bool(likelihood.in_domain(jnp.asarray(row), image)) for row in some[:5]])
    found = hbm.quick._image_log_prob(
        one.images, "both", library, Weighted(np.arange(1500), some[:, 0], np.full(1500, 1 / 1500))
    )
    np.testing.assert_allclose((found[:5] - by_hand)[inside], 0, atol=2e-3)
    assert result.flag in ("ok", "ess_bulk")
    assert result.convergence.ess_bulk_min > 50
    assert result.draws("dust2").shape == (4, 200)
    assert (
        np.quantile(result.draws("dust2"), 0.025)
        < demo.truth["dust2"]
        < np.quantile(result.draws("dust2"), 0.975)
    )
    assert result.provenance.model_config["method"] == "importance"
    assert not result.bands.observed.any()


def test_quick_fit_says_that_draws_are_few(demo: JointDemo) -> None:
    results = quick_fit(demo.catalog, n_prior=4096, n_draw=50, seed=3)
    assert [result.galaxy_id for result in results] == ["photometry", "both"]
    both = results[1]
    assert not both.convergence.converged
    assert "fewer than 400" in both.convergence.reason
    assert "no_image" in results[0].flag
    np.testing.assert_allclose(
        both.draws("logsfr_100"), both.draws("logmass") + both.draws("logssfr"), atol=1e-3
    )
    limit = np.zeros_like(demo.catalog.observed)
    limit[:, 0] = True
    with pytest.raises(ValueError, match="no upper limits"):
        quick_fit(dataclasses.replace(demo.catalog, upper_limit=limit), n_prior=10)
