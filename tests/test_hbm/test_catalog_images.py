"""Images of a catalogue's galaxies in its fits, with an image likelihood whose posterior is known."""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.scipy.stats import norm
from numpyro.infer.util import log_density

from hbm.catalog import Catalog
from hbm.catalog_images import CatalogImages, image_config, with_images
from hbm.config import InterimPrior, ModelConfig
from hbm.counted import fit_settings
from hbm.fitting import fit
from hbm.galaxies import DataBuilder
from hbm.image import CompiledImages, GalaxyImage, ImageError, ImageLikelihood, PropertyCoverage
from hbm.model import GalaxyData, galaxy_model
from hbm.sampler import SamplerConfig
from hbm.terms import GalaxyState

NAMES = ("logmass", "logssfr", "mwa", "logzsol", "dust2", "gas_logu")
LOW = np.array([8.5, -13.0, 0.02, -1.5, 0.0, -4.0])
HIGH = np.array([12.0, -8.4, 0.9, 0.3, 2.5, -1.0])
FILTERS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
CONFIG = ModelConfig(n_node=4, n_old=3)
SHORT = SamplerConfig(n_warmup=100, n_draw=300, n_chain=2, n_point=1000)


def gaussian(calibrated: bool = True) -> ImageLikelihood:
    """Likelihood 2 v s - s M s of the scaled properties s: h is s itself."""
    matrix = np.zeros((6, 6 + 6 + 1 + 1))
    matrix[:, :6] = np.eye(6)
    good = tuple(PropertyCoverage(name, 0.68, 0.95, 1000) for name in NAMES)
    return ImageLikelihood(
        layers=((jnp.asarray(matrix, jnp.float32), jnp.zeros(6, jnp.float32)),),
        mixing=jnp.zeros((1, 1, 6), jnp.float32),
        weight=jnp.ones(1, jnp.float32),
        low=jnp.asarray(LOW, jnp.float32),
        high=jnp.asarray(HIGH, jnp.float32),
        names=NAMES,
        hash="none",
        calibration=good if calibrated else (),
    )


def measured(
    ids: list[str], means: dict[str, float], sigmas: dict[str, float], **changes: Any
) -> CompiledImages:
    """Images that say: normal with these means and standard deviations, in the properties' units."""
    n = len(ids)
    M, v = np.zeros((n, 6, 6), np.float32), np.zeros((n, 6), np.float32)
    for name, mean in means.items():
        i = NAMES.index(name)
        half = 0.5 * (HIGH[i] - LOW[i])
        precision = (half / sigmas[name]) ** 2
        M[:, i, i] = 0.5 * precision
        v[:, i] = 0.5 * precision * ((mean - LOW[i]) / half - 1)
    values: dict[str, Any] = {
        "id": np.array(ids), "error": np.full(n, 0.02, np.float32), "zred": np.full(n, 0.1, np.float32),
        "p_typical": np.full(n, 0.4, np.float32), "u": np.zeros((n, 1), np.float32),
    }  # fmt: skip
    values |= changes
    data = GalaxyImage(M, v, values["u"], np.full(n, 12.4, np.float32), np.zeros((n, 0), np.float32))
    return CompiledImages(values["id"], data, values["error"], values["zred"], values["p_typical"])


def survey(n: int = 2, **changes: Any) -> Catalog:
    shape = (n, len(FILTERS))
    values: dict[str, Any] = {
        "id": tuple(f"galaxy {i}" for i in range(n)), "zred": np.full(n, 0.1), "zred_err": np.zeros(n),
        "flux": np.full(shape, 1e-8), "flux_err": np.full(shape, 1e-9), "observed": np.ones(shape, bool),
        "upper_limit": np.zeros(shape, bool), "filter_names": FILTERS,
    }  # fmt: skip
    return Catalog(**values | changes)


def product_moments(centre: float, width: float, low: float, high: float, mean: float, sigma: float):
    """Mean and standard deviation of a truncated normal times a normal."""
    total = 1 / width**2 + 1 / sigma**2
    middle, spread = (centre / width**2 + mean / sigma**2) / total, total**-0.5
    exact = scipy.stats.truncnorm((low - middle) / spread, (high - middle) / spread, middle, spread)
    return float(exact.mean()), float(exact.std())


class Size:
    """A likelihood of one's own: log radius goes with log mass."""

    name = "size"

    def galaxy(self, galaxy_id: str) -> np.ndarray:
        return np.float32(0.3 if galaxy_id == "galaxy 0" else np.nan)

    def log_prob(self, state: GalaxyState, data: Any) -> Any:
        known = jnp.isfinite(data)
        expected = 0.2 * (state.params.sfh.logmass - 10)
        return jnp.where(known, norm.logpdf(jnp.where(known, data, 0.0), expected, 0.1), 0.0)


def test_the_model_has_each_likelihood_once(grid: Any) -> None:
    """Log density with image and a user's term, less that without: their own log densities."""
    catalog = with_images(survey(), measured(["galaxy 0"], {"dust2": 0.9}, {"dust2": 0.2}), gaussian())
    images = catalog.images
    assert images is not None
    terms = (images, Size())
    sites = {
        "logmass": 10.4, "logssfr": -9.7, "logsfr_ratio_recent": 0.2, "logsfr_ratios": [0.1, -0.3],
        "logzsol": -0.35, "dust2": 0.6, "dust1_fraction": 1.2, "dust_index": -0.4, "gas_logu": -2.2,
    }  # fmt: skip
    sites = {name: jnp.asarray(value) for name, value in sites.items()}

    @jax.jit
    def both(data: GalaxyData) -> tuple[jax.Array, jax.Array]:
        whole, _ = log_density(galaxy_model, (data, CONFIG, terms), {}, sites)
        bare, _ = log_density(galaxy_model, (data, CONFIG), {}, sites)
        return whole, bare

    for row, expected in (
        (0, norm.logpdf(0.6, 0.9, 0.2) - norm.logpdf(0.9, 0.9, 0.2) + norm.logpdf(0.3, 0.08, 0.1)),
        (1, 0.0),
    ):
        whole, bare = both(DataBuilder(grid, CONFIG, FILTERS, terms)(catalog, row))
        # The image's constant: at its best the Gaussian counts as 0.
        best = 0.5 * (0.9 / 1.25 - 1) ** 2 * (1.25 / 0.2) ** 2
        assert abs(float(whole - bare) - (expected + (best if row == 0 else 0.0))) < 2e-3


@pytest.mark.slow
def test_posteriors_from_images_alone_are_the_known_ones(grid: Any) -> None:
    """Dust and ionization have priors of their own, so that image and prior multiply."""
    means, sigmas = {"dust2": 0.9, "gas_logu": -3.2}, {"dust2": 0.25, "gas_logu": 0.3}
    nothing = np.zeros((2, len(FILTERS)), bool)
    blank = survey(observed=nothing)
    catalog = with_images(blank, measured(["galaxy 0", "galaxy 1"], means, sigmas), gaussian())
    results = fit(catalog, config=CONFIG, sampler=SHORT, grid=grid, use=("image",), max_rerun=1)
    prior = image_config(CONFIG, gaussian()).prior
    centre, width, top = prior.dust2
    for result in results:
        assert result.flag == "ok"
        assert result.provenance.model_config["use"] == {"photometry": False, "image": {"model_hash": "none"}}
        for name, box in (("dust2", (centre, width, 0.0, top)), ("gas_logu", prior.gas_logu)):
            mean, spread = product_moments(*box, means[name], sigmas[name])
            draws = result.draws(name)
            error = spread / np.sqrt(result.convergence.ess_bulk_min)
            assert abs(draws.mean() - mean) < 4 * error
            assert abs(draws.std() / spread - 1) < 0.12
        # What no data speak of stays the prior.
        assert abs(result.draws("logmass").mean() - 10.25) < 0.25
        assert abs(result.draws("logmass").std() - 3.5 / 12**0.5) < 0.12


def test_beyond_training_the_likelihood_stays_what_it_was_at_the_edge() -> None:
    images = CatalogImages(gaussian(), measured(["a"], {"dust2": 0.9}, {"dust2": 0.2}))
    state = jax.tree.map(jnp.asarray, _state(2.5)), jax.tree.map(jnp.asarray, _state(3.5))
    data = images.galaxy("a")
    assert float(images.log_prob(state[0], data)) == float(images.log_prob(state[1], data))
    best = float(images.log_prob(jax.tree.map(jnp.asarray, _state(0.9)), data))
    assert abs(best - float(images.log_prob(state[0], data)) - 0.5 * (1.6 / 0.2) ** 2) < 1e-3


def _state(dust2: float) -> GalaxyState:
    from sed.parameters import BinnedSFH, SEDParams

    params = SEDParams(BinnedSFH(10.0, -10.0, 0.0, np.zeros(2)), -0.3, dust2, dust1=dust2, gas_logu=-2.0)
    return GalaxyState(params, 0.1, -10.0, 5.0, 12.4)


def test_images_that_do_not_belong_are_refused() -> None:
    like, catalog = gaussian(), survey()
    means, sigmas = {"dust2": 0.9}, {"dust2": 0.2}
    with pytest.raises(ImageError, match="must be of galaxies in `catalog`, but 1 of 2 are not, such as x"):
        with_images(catalog, measured(["galaxy 0", "x"], means, sigmas), like)
    with pytest.raises(ImageError, match="some identifiers repeat"):
        with_images(catalog, measured(["galaxy 0", "galaxy 0"], means, sigmas), like)
    other = measured(["galaxy 1"], means, sigmas, zred=np.array([0.12], np.float32))
    with pytest.raises(ImageError, match=r"are of different galaxies.*id galaxy 1: zred 0.1200.*0.1000"):
        with_images(catalog, other, like)
    with pytest.raises(ImageError, match="must have exact redshifts where there are images"):
        with_images(survey(zred_err=np.full(2, 0.01)), measured(["galaxy 0"], means, sigmas), like)
    far = measured(["galaxy 0"], means, sigmas, u=np.full((1, 1), 1.4, np.float32))
    with pytest.raises(ImageError, match="redshifts that the image model was trained on"):
        with_images(catalog, far, like)
    with pytest.raises(ImageError, match="never calibrated"):
        with_images(catalog, measured(["galaxy 0"], means, sigmas), gaussian(calibrated=False))
    with_images(catalog, measured(["galaxy 0"], means, sigmas), gaussian(calibrated=False), insist=True)


def test_images_like_nothing_known_are_flagged() -> None:
    odd = measured(["galaxy 0", "galaxy 1"], {}, {}, p_typical=np.array([0.5, 1e-4], np.float32))
    with pytest.warns(UserWarning, match="1 of 2 images are unlike anything .* galaxy 1"):
        images = with_images(survey(), odd, gaussian()).images
    assert images is not None
    assert images.flags("galaxy 0") == ()
    assert images.flags("galaxy 1") == ("image_untypical",)
    assert images.flags("galaxy 7") == ("no_image",)


def test_the_prior_ends_where_training_ended() -> None:
    config = image_config(ModelConfig(), gaussian())
    assert config.prior.logmass == (8.5, 12.0)
    assert config.prior.logssfr == (-13.0, -8.4)
    assert config.prior.dust2 == (0.3, 1.0, 2.5)
    assert image_config(config, gaussian()) == config
    narrow = dataclasses.replace(ModelConfig(), prior=InterimPrior(logmass=(6.0, 8.0)))
    with pytest.raises(ValueError, match="prior of logmass that overlaps"):
        image_config(narrow, gaussian())


def test_what_to_use_is_checked() -> None:
    catalog = survey()
    with pytest.raises(ValueError, match="`use` has 'image', but the catalogue has no images"):
        fit(catalog, use=("image",))
    for bad in ("image", (), ("light",)):
        with pytest.raises(ValueError, match="`use` must be some of"):
            fit(catalog, use=bad)
    with pytest.raises(ValueError, match="names of their own, got 'size' again"):
        fit(catalog, terms=[Size(), Size()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        some = with_images(catalog, measured(["galaxy 0"], {}, {}), gaussian())
    with pytest.raises(ValueError, match="must have an image of every galaxy, but id galaxy 1 has none"):
        fit(some, use=("image",))
    assert "use" not in fit_settings(some, CONFIG, SHORT, use=("photometry",))
    both = fit_settings(some, CONFIG, SHORT, terms=[Size()])
    assert both["use"] == {"photometry": True, "image": {"model_hash": "none"}, "size": "Size"}
