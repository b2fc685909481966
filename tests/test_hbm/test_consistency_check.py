"""The check from fit and image to Bayes factors, against plain averages over many draws of the prior."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from hbm.catalog import Catalog
from hbm.catalog_images import image_config
from hbm.config import ModelConfig
from hbm.consistency import Check, Checker, check
from hbm.consistency.inputs import photometry_of, refuse_other_fluxes
from hbm.convergence import Convergence
from hbm.galaxies import DataBuilder
from hbm.image import CompiledImages, GalaxyImage, ImageError, ImageLikelihood, PropertyCoverage
from hbm.plots.consistency import plot_check
from hbm.results import FitResult, ObservedBands, Provenance, make_result
from hbm.sbc import draw_prior

NAMES = ("logmass", "logssfr", "mwa", "logzsol", "dust2", "gas_logu")
LOW = np.array([8.5, -13.0, 0.02, -1.5, 0.0, -4.0])
HIGH = np.array([12.0, -8.4, 0.9, 0.3, 2.5, -1.0])
FILTERS = ("sdss_g0", "sdss_z0")
ZRED, FLOOR = 0.1, 0.05
GOOD = Convergence(1.001, "logmass", 900.0, 800.0, 0, True, "ok", "")


def likelihood() -> ImageLikelihood:
    """Likelihood 2 v s - s M s of the scaled properties s."""
    matrix = np.zeros((6, 14))
    matrix[:, :6] = np.eye(6)
    return ImageLikelihood(
        layers=((jnp.asarray(matrix, jnp.float32), jnp.zeros(6, jnp.float32)),),
        mixing=jnp.zeros((1, 1, 6), jnp.float32), weight=jnp.ones(1, jnp.float32),
        low=jnp.asarray(LOW, jnp.float32), high=jnp.asarray(HIGH, jnp.float32), names=NAMES, hash="none",
        calibration=tuple(PropertyCoverage(name, 0.68, 0.95, 1000) for name in NAMES),
    )  # fmt: skip


def images(measured: dict[str, dict[str, tuple[float, float]]], **changes: Any) -> CompiledImages:
    """By galaxy: images that say mean and standard deviation of some properties."""
    n = len(measured)
    M, v = np.zeros((n, 6, 6), np.float32), np.zeros((n, 6), np.float32)
    for row, known in enumerate(measured.values()):
        for name, (mean, sigma) in known.items():
            i = NAMES.index(name)
            half = 0.5 * (HIGH[i] - LOW[i])
            M[row, i, i] = 0.5 * (half / sigma) ** 2
            v[row, i] = M[row, i, i] * ((mean - LOW[i]) / half - 1)
    data = GalaxyImage(
        M, v, np.zeros((n, 1), np.float32), np.full(n, 12.4, np.float32), np.zeros((n, 0), np.float32)
    )
    values: dict[str, Any] = {
        "id": np.array(list(measured)), "error": np.full(n, 0.02, np.float32),
        "zred": np.full(n, ZRED, np.float32), "p_typical": np.full(n, 0.4, np.float32), "hash": "none",
    }  # fmt: skip
    return CompiledImages(data=data, **(values | changes))


CONFIG = image_config(ModelConfig(n_node=4, n_old=3, nebular=False, dust_emission=False), likelihood())


@pytest.fixture(scope="module")
def draws(grid: Any) -> dict[str, np.ndarray]:
    """Draws of the prior with fluxes."""
    builder = DataBuilder(grid, CONFIG, FILTERS)
    ones = np.ones((1, 2))
    blank = Catalog(("a",), np.array([ZRED]), np.zeros(1), ones, ones, ones > 0, ones < 0, FILTERS)
    galaxy = builder(blank, 0)
    draw = jax.jit(lambda keys: draw_prior(galaxy, CONFIG, keys))
    parts = [draw(keys) for keys in jax.random.split(jax.random.key(3), (10, 4000))]
    return {name: np.concatenate([np.asarray(part[name], np.float64) for part in parts]) for name in parts[0]}


FLUX_ERROR = 0.15


@pytest.fixture(scope="module")
def flux(draws: dict[str, np.ndarray]) -> np.ndarray:
    """Of a galaxy in the middle of the prior."""
    middle = np.argmin(np.abs(draws["logmass"] - 10.3) + np.abs(draws["dust2"] - 0.6))
    return draws["flux"][middle]


def flux_density(flux: np.ndarray, model: np.ndarray) -> np.ndarray:
    error = np.sqrt((FLUX_ERROR * flux) ** 2 + (FLOOR * model) ** 2)
    return norm.logpdf(flux / flux, model / flux, error / flux).sum(axis=-1)


def fit_of(
    galaxy_id: str, flux: np.ndarray, draws: dict[str, np.ndarray], *, use: Any = None, **more: Any
) -> FitResult:
    """A fit as it would be, by resampling the second half of the draws."""
    half = slice(len(draws["logmass"]) // 2, None)
    log_weight = flux_density(flux, draws["flux"][half])
    weight = np.exp(log_weight - logsumexp(log_weight))
    index = np.random.default_rng(1).choice(len(weight), (2, 300), p=weight / weight.sum())
    settings = {"config": json.loads(more.pop("config", CONFIG).to_json())}
    if use is not None:
        settings["use"] = use
    posterior = {name: value[half][index] for name, value in draws.items() if name != "flux"}
    bands = ObservedBands(
        FILTERS, np.array([4700.0, 8900.0]), flux, FLUX_ERROR * flux, np.ones(2, bool), np.zeros(2, bool),
        np.full(2, FLOOR),
    )  # fmt: skip
    return make_result(
        galaxy_id, ZRED, posterior=posterior | more, sample_stats={"diverging": np.zeros((2, 300), bool)},
        flux=draws["flux"][half][index], bands=bands, convergence=GOOD,
        provenance=Provenance(settings, {}, (), 0, "test", "2026-01-01T00:00:00+00:00", {}),
    )  # fmt: skip


SAID = {"logmass": (10.6, 0.3), "dust2": (0.4, 0.25)}
FAR = {"logmass": (9.2, 0.35)}


@pytest.fixture(scope="module")
def checker(grid: Any, draws: Any, flux: np.ndarray) -> Checker:
    """Four galaxies of the same fluxes; the image model knows nothing like one image, and one has none."""
    results = [fit_of(name, flux, draws) for name in ("near", "far", "odd", "none")]
    seen = images({"near": SAID, "far": FAR, "odd": SAID}, p_typical=np.array([0.4, 0.4, 1e-4], np.float32))
    with pytest.warns(UserWarning, match="unlike|no image") as caught:
        made = Checker(results, seen, likelihood(), grid=grid, n_point=6000)
    texts = " ".join(str(warning.message) for warning in caught)
    assert "1 of 3 images are unlike anything" in texts
    assert "1 of 4 galaxies have no image" in texts
    return made


@pytest.fixture(scope="module")
def found(checker: Checker) -> dict[str, Check]:
    return {name: checker(name)[0] for name in checker.ids}


def log_mean(value: np.ndarray) -> tuple[float, float]:
    """Log of the mean of exponentials, and its error."""
    weight = np.exp(value - value.max())
    return float(np.log(weight.mean()) + value.max()), float(weight.std() / weight.mean() / len(value) ** 0.5)


def image_density(draws: dict[str, np.ndarray], said: dict[str, tuple[float, float]]) -> np.ndarray:
    return np.sum([norm.logpdf(draws[name], *value) for name, value in said.items()], axis=0)


@pytest.mark.parametrize(("name", "said"), [("near", SAID), ("far", FAR)])
def test_odds_are_those_of_plain_averages_over_the_prior(
    found: dict[str, Check], draws: dict[str, np.ndarray], flux: np.ndarray, name: str, said: Any
) -> None:
    first = {key: value[: len(value) // 2] for key, value in draws.items()}
    x, f = image_density(first, said), flux_density(flux, first["flux"])
    parts = [log_mean(value) for value in (x + f, x, f)]
    error = float(np.hypot.reduce([part[1] for part in parts]))
    expected = parts[0][0] - parts[1][0] - parts[2][0]
    one = found[name]
    tolerance = 4 * np.hypot(error, one.log_bayes_same_error)
    assert tolerance < 1.5
    assert abs(one.log_bayes_same - expected) < tolerance
    assert one.log_kind["swap"] == pytest.approx(-one.log_bayes_same)
    lost = (np.arange(60) + 0.5) / 60 * 0.8 + 0.1
    shred = logsumexp([flux_density(flux, first["flux"] * (1 - part)) for part in lost], axis=0) - np.log(60)
    wanted, shred_error = log_mean(x + shred)
    tolerance = 4 * np.hypot(np.hypot(shred_error, parts[0][1]), one.log_corrupted_error)
    assert abs(one.log_kind["shred"] - (wanted - parts[0][0])) < tolerance
    offset = 0.5 * norm.ppf((np.arange(60) + 0.5) / 60)
    band = logsumexp(
        [flux_density(flux, first["flux"] * np.array([1.0, 10 ** (-0.4 * mag)])) for mag in offset], axis=0
    )
    wanted, band_error = log_mean(x + band - np.log(60))
    tolerance = 4 * np.hypot(np.hypot(band_error, parts[0][1]), one.log_corrupted_error)
    assert abs(one.log_band[1] - (wanted - parts[0][0])) < tolerance


def test_an_image_of_a_far_smaller_galaxy_is_suspicious(found: dict[str, Check]) -> None:
    near, far = found["near"], found["far"]
    assert near.flag == "ok"
    assert near.verdict() == "consistent"
    assert near.log_bayes_same > 0
    assert near.p_photometry > 0.05
    assert far.log_bayes_same < -1
    assert far.p_photometry < 0.05
    assert far.probability_bad() > near.probability_bad()
    assert near.n_band == 2
    assert near.chi2 < 2
    assert set(near.log_kind) == set(near.log_kind_photometry) == {"swap", "shred", "blend", "band"}
    assert near.log_kind_photometry["swap"] == 0


def test_an_image_that_the_model_does_not_know_is_flagged(checker: Checker, found: dict[str, Check]) -> None:
    assert checker.ids == ("near", "far", "odd")
    assert "image_untypical" in found["odd"].flag
    assert "look at it" in found["odd"].verdict()
    with pytest.raises(ValueError, match="`galaxy_id` must be one of"):
        checker("none")


def test_figure_has_what_the_image_said(checker: Checker) -> None:
    one, detail = checker("near")
    assert detail.names == NAMES
    assert abs(detail.image[:, 0].mean() - 10.6) < 0.1
    assert "near: consistent" in plot_check(one, detail).get_suptitle()


@pytest.mark.slow
def test_numbers_of_a_galaxy_do_not_depend_on_the_others(
    found: dict[str, Check], grid: Any, draws: Any, flux: np.ndarray
) -> None:
    fit = fit_of("near", flux, draws)
    alone = check([fit], images({"near": SAID}), likelihood(), grid=grid, n_point=6000)[0]
    assert alone.log_bayes_same == pytest.approx(found["near"].log_bayes_same, abs=1e-4)
    assert np.allclose(alone.p_band, found["near"].p_band, atol=1e-4)


def test_what_cannot_be_checked_is_refused(grid: Any, draws: Any, flux: np.ndarray) -> None:
    good, seen = fit_of("a", flux, draws), images({"a": SAID})

    def refused(
        results: list[FitResult], text: str, error: type[Exception] = ValueError, **more: Any
    ) -> None:
        values: dict[str, Any] = {"images": seen, "model": likelihood(), "grid": grid, "n_point": 400} | more
        with pytest.raises(error, match=text):
            Checker(results, values.pop("images"), values.pop("model"), **values)

    refused([], "`results` is empty")
    refused([good, good], "identifiers repeat")
    both = {"photometry": True, "image": {"model_hash": "none"}}
    refused([fit_of("a", flux, draws, use=both)], "photometry alone, but that of a used")
    refused([fit_of("a", flux, draws, zred=np.full((2, 300), 0.1))], "that of a was free")
    other = dataclasses.replace(CONFIG, error_floor=0.02)
    refused([good, fit_of("b", flux, draws, config=other)], "that of b has another")
    refused([good], "none of 1 is .the images have z, the results a.", images=images({"z": SAID}))
    refused([good], "another checkpoint", ImageError, images=seen._replace(hash="other"))
    refused([good], "redshifts", ImageError, images=seen._replace(zred=np.array([0.3], np.float32)))
    refused([good], "`n_point` must be at least 64", n_point=10)


def test_a_catalogue_that_changed_since_is_refused(draws: Any, flux: np.ndarray) -> None:
    results = [fit_of("a", flux, draws)]
    catalog = photometry_of(results)
    refuse_other_fluxes(catalog, results)
    with pytest.raises(ValueError, match="those of a differ"):
        refuse_other_fluxes(dataclasses.replace(catalog, flux=1.2 * catalog.flux), results)
    with pytest.raises(ValueError, match="has no id a"):
        refuse_other_fluxes(dataclasses.replace(catalog, id=("b",)), results)
    with pytest.raises(ValueError, match="no band sdss_z0"):
        refuse_other_fluxes(dataclasses.replace(catalog, filter_names=("sdss_g0", "sdss_i0")), results)


def test_a_galaxy_with_too_few_points_gets_more(
    grid: Any, draws: dict[str, np.ndarray], flux: np.ndarray, found: dict[str, Check]
) -> None:
    """Its odds are those of many points; a galaxy that has enough keeps the numbers of the first round."""
    results = [fit_of(name, flux, draws) for name in ("near", "far")]
    seen = images({"near": SAID, "far": FAR})

    def checked(**options: Any) -> dict[str, Check]:
        made = Checker(results, seen, likelihood(), grid=grid, n_point=128, **options)
        return {name: made(name)[0] for name in made.ids}

    few, more = checked(max_point=128), checked(max_point=4096)
    assert "few_points" in few["far"].flag
    assert few["far"].n_point == 128
    assert "unclear" in few["far"].verdict()
    assert more["far"].n_point in (256, 512, 1024, 2048, 4096)
    assert "few_points" not in more["far"].flag
    assert max(more["far"].log_bayes_same_error, more["far"].log_corrupted_error) <= 1
    assert more["far"].ess >= 10
    for name in ("near", "far"):
        error = np.hypot(more[name].log_bayes_same_error, found[name].log_bayes_same_error)
        assert abs(more[name].log_bayes_same - found[name].log_bayes_same) < 4 * error
    if "few_points" not in few["near"].flag:
        assert more["near"].n_point == 128
        assert more["near"].log_bayes_same == few["near"].log_bayes_same
    with pytest.raises(ValueError, match="`max_point` must be at least `n_point`, 128, got 64"):
        checked(max_point=64)
