"""What the tests of the model share, compiled once per process: a tiny survey of five bands."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.galaxies import DataBuilder
from hbm.model import GalaxyData, parameters_from_sites

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "twomass_Ks")


def survey(zred: list[float], zred_err: list[float]) -> Catalog:
    """Galaxies with placeholder fluxes."""
    shape = (len(zred), len(BANDS))
    return Catalog(
        id=tuple(f"galaxy {i}" for i in range(len(zred))),
        zred=np.array(zred),
        zred_err=np.array(zred_err),
        flux=np.full(shape, 1e-8),
        flux_err=np.full(shape, 1e-9),
        observed=np.ones(shape, bool),
        upper_limit=np.zeros(shape, bool),
        filter_names=BANDS,
    )


@pytest.fixture(scope="session")
def make_survey() -> Callable[[list[float], list[float]], Catalog]:
    """Give `survey`."""
    return survey


@pytest.fixture(scope="session")
def sites() -> dict[str, np.ndarray]:
    """One point in the space of parameters, off all centres of the priors."""
    values = {
        "logmass": 10.4,
        "logssfr": -9.7,
        "logsfr_ratio_recent": 0.2,
        "logsfr_ratios": [0.1, -0.3, 0.6, 0.0],
        "logzsol": -0.35,
        "dust2": 0.6,
        "dust1_fraction": 1.2,
        "dust1": 0.72,
        "dust_index": -0.4,
        "gas_logu": -2.2,
    }
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


@pytest.fixture(scope="session")
def builder(grid: Any) -> DataBuilder:
    """Give the compiler of the five bands with the default model and five redshift nodes."""
    return DataBuilder(grid, ModelConfig(n_zred=5), BANDS)


@pytest.fixture(scope="session")
def model_flux(builder: DataBuilder) -> Callable[[GalaxyData, dict[str, np.ndarray]], np.ndarray]:
    """Give fluxes of a galaxy of fixed redshift, maggies."""

    @jax.jit
    def predict(data: GalaxyData, values: dict[str, jax.Array]) -> jax.Array:
        return data.photometry.flux(parameters_from_sites(values, builder.config))

    def flux(data: GalaxyData, values: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(predict(data, jax.tree.map(jnp.asarray, values)), np.float64)

    return flux


@pytest.fixture(scope="session")
def galaxy(builder: DataBuilder, sites: Any, model_flux: Any) -> GalaxyData:
    """Give a galaxy at z = 0.1 whose measured fluxes are a few errors off the model at `sites`."""
    data = builder(survey([0.1], [0.0]), 0)
    flux = model_flux(data, sites)
    measured = (flux * np.array([1.1, 0.93, 1.02, 0.9, 1.3])).astype(np.float32)
    return eqx.tree_at(lambda g: (g.flux, g.flux_err), data, (measured, 0.08 * measured))
