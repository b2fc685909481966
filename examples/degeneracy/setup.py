"""What the parts share: image model, prior draws, simulator, statistics of images."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import hbm
from generative.instrument import instrument
from generative.mock import trained_ages
from generative.release import load, model_path
from generative.simulator.render import Simulator
from generative.simulator.stars import band_tables
from generative.stamps import Stamps
from generative.summaries import compile_file, stamps_hash
from hbm.calibration.importance import image_log_prob
from hbm.catalog import Catalog
from hbm.galaxies import DataBuilder
from hbm.image import load_image_likelihood, read_compiled_images
from hbm.library import Library, make_library
from sed.io import load_grid

MODEL, ZRED, SEED = "sdss-griz", 0.1, 3
BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
SNR = 20.0
"""Of each flux, besides the 5 % model error that fits assume."""


class Setup(NamedTuple):
    """What all parts share."""

    model: Any
    likelihood: Any
    config: hbm.ModelConfig
    simulator: Simulator
    library: Library
    bounds: dict[str, tuple[float, float]]
    max_draw: int
    out: Path


def set_up(n_draw: int, max_draw: int, out: Path) -> Setup:
    """Image model, its prior, draws of that prior at one redshift, and a simulator there."""
    model, likelihood = load(MODEL), load_image_likelihood(MODEL)
    config = hbm.image_config(hbm.ModelConfig(), likelihood)
    ones = np.ones((1, len(BANDS)))
    catalog = catalog_of(("any",), ones, ones)
    data = DataBuilder(load_grid(), config, BANDS)(catalog, 0)
    library = make_library(data, config, n_draw, seed=SEED)
    # What the image model was not trained on cannot be imaged: neither truths nor posteriors go there.
    library = library.select(trained_ages(library.sites["mwa"], library.sites["logssfr"], ZRED))
    camera = instrument(MODEL)
    simulator = Simulator(camera, tables=band_tables(camera, [ZRED]))
    prior = config.prior
    bounds = {
        "logmass": prior.logmass, "logssfr": prior.logssfr, "mwa": (0.0, library.age_universe),
        "logzsol": prior.logzsol, "dust2": (0.0, prior.dust2[2]), "gas_logu": prior.gas_logu[2:],
    }  # fmt: skip
    return Setup(model, likelihood, config, simulator, library, bounds, max_draw, out)


def catalog_of(names: tuple[str, ...], flux: np.ndarray, flux_err: np.ndarray) -> Catalog:
    """Catalogue of fluxes in all bands."""
    n, shape = len(names), flux.shape
    return Catalog(
        id=names, zred=np.full(n, ZRED), zred_err=np.zeros(n), flux=flux, flux_err=flux_err,
        observed=np.ones(shape, bool), upper_limit=np.zeros(shape, bool), filter_names=BANDS,
    )  # fmt: skip


def compiled(setup: Setup, stamps: Stamps, name: str) -> Any:
    """Statistics of images, from disk where they are done."""
    file = setup.out / "statistics" / f"{name}-{stamps_hash(stamps)[:12]}-{setup.max_draw}.h5"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        compile_file(
            setup.model, model_path(MODEL), stamps, file, chunk=8, target_error=0.1, max_draw=setup.max_draw
        )
    return read_compiled_images(file, setup.likelihood)


def log_image(setup: Setup, images: Any, row: int, theta: np.ndarray) -> np.ndarray:
    """Log-likelihood of one image at many theta, nats up to a constant; as fits use it."""
    n = -(-len(theta) // 4096) * 4096
    padded = np.resize(theta, (n, theta.shape[1])).astype(np.float32)
    one = type(images.data)(*(jnp.asarray(leaf[row]) for leaf in images.data))
    found = np.asarray(image_log_prob(setup.likelihood, jnp.asarray(padded), one), np.float64)
    return found[: len(theta)]
