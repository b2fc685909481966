"""A magnitude-limited mock survey of a known population: photometry and images of the same properties."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import astropy.cosmology
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Float

from generative.conditions import THETA
from generative.mock import ImageMock, trained_ages
from hbm.catalog import Catalog
from hbm.galaxies import DataBuilder, cosmology_by_name
from hbm.population import Population
from hbm.population.draws import PROPERTIES
from hbm.sbc import draw_in_blocks, one_galaxy, simulate

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
LIMITED = "sdss_r0"
LIMIT = 18.5
"""Measured AB magnitude in `LIMITED` that galaxies must be brighter than."""

TRUTH = {
    "log_mstar": 10.8, "alpha": -1.2, "sfs_offset": 0.1, "sfs_tilt": -0.05, "sfs_scatter": 0.3,
    "quiescent_mass": 10.8, "quiescent_width": 0.4, "quiescent_logssfr": -11.8, "quiescent_scatter": 0.4,
    "mzr_offset": 0.05, "mzr_tilt": -0.05, "mzr_scatter": 0.2, "dust_level": 0.5, "dust_mass": 0.2,
    "dust_ssfr": 0.2, "dust_scatter": 0.3, "logu_level": -2.6, "logu_ssfr": 0.2, "logu_scatter": 0.35,
}  # fmt: skip
"""Hyperparameters of the five default relations."""

DEPTH = {"sdss_u0": 22.15, "sdss_g0": 23.13, "sdss_r0": 22.70, "sdss_i0": 22.20, "sdss_z0": 20.71}
"""AB magnitude of a point source at 5 sigma: medians of SDSS. Galaxies are four times as noisy here."""
_EXTENDED = 4.0
_N_REDSHIFT = 4
_BLOCK = 4096
_MOST_BLOCKS = 60


class Mock(NamedTuple):
    """What was measured, and what is behind it."""

    catalog: Catalog
    truth: dict[str, np.ndarray]
    """Parameters and derived quantities, by galaxy."""
    at: np.ndarray
    """Which of the image simulator's redshifts each galaxy is at."""
    age: np.ndarray
    """Gyr: ages of the universe of all galaxies, measured or not."""
    detected: float
    """Part of the galaxies that was measured."""
    untrained: float
    """Part of those bright enough that was left out: of ages that the image model was not trained on."""


def flux_errors() -> Float[np.ndarray, " band"]:
    """Standard deviations in maggies, apart from the model error."""
    return _EXTENDED * 10.0 ** (-0.4 * np.array([DEPTH[band] for band in BANDS])) / 5.0


def redshifts(camera: ImageMock) -> tuple[np.ndarray, np.ndarray]:
    """A few of the simulator's redshifts (photometry is compiled once for each), and their weights.

    Weights are those of constant density in comoving volume.
    """
    index = np.linspace(0, len(camera.zred) - 1, _N_REDSHIFT).astype(int)
    volume = astropy.cosmology.Planck18.differential_comoving_volume(camera.zred[index]).value
    return index, volume / volume.sum()


def mock_survey(builder: DataBuilder, camera: ImageMock, population: Population, n: int, seed: int) -> Mock:
    """Galaxies of `TRUTH` until ``n`` are measured: the first ones do not depend on how many there are.

    Raises
    ------
    RuntimeError
        If too few are bright enough.
    """
    index, weight = redshifts(camera)
    cosmology = cosmology_by_name(builder.config.cosmology)
    age_at = np.asarray(cosmology.age_np(camera.zred[index]))
    draw = jax.jit(population.draw)
    hyper = {name: jnp.asarray(value) for name, value in TRUTH.items()}
    limit = 10.0 ** (-0.4 * LIMIT)
    parts, n_found, n_bright, n_drawn, ages = [], 0, 0, 0, []
    for block in range(_MOST_BLOCKS):
        which = np.random.default_rng((seed, block)).choice(_N_REDSHIFT, _BLOCK, p=weight)
        age = jnp.asarray(age_at[which], jnp.float32)
        theta = draw(jax.random.fold_in(jax.random.key(seed), block), age, hyper)
        given = {name: np.asarray(theta[name]) for name in PROPERTIES}
        zred = camera.zred[index][which]
        error = np.tile(flux_errors(), (_BLOCK, 1))
        drawn = simulate(builder, zred, error, given=given, seed=1000 * seed + block)
        bright = drawn.catalog.flux[:, BANDS.index(LIMITED)] > limit
        good = bright & trained_ages(drawn.truth["mwa"], drawn.truth["logssfr"], zred)
        rows = np.flatnonzero(good)
        truth = {name: value[rows] for name, value in drawn.truth.items()}
        parts.append((drawn.catalog.select(rows), truth, index[which][rows]))
        ages.append(age_at[which])
        n_found, n_bright, n_drawn = n_found + len(rows), n_bright + int(bright.sum()), n_drawn + _BLOCK
        if n_found >= n:
            break
    else:
        raise RuntimeError(f"only {n_found} of {n_drawn} galaxies are brighter than {LIMIT}")
    catalogs = [part[0] for part in parts]
    flux, flux_err, zred = (
        np.concatenate([getattr(one, name) for one in catalogs])[:n] for name in ("flux", "flux_err", "zred")
    )
    catalog = dataclasses.replace(
        catalogs[0], id=tuple(f"g{i:05d}" for i in range(n)), zred=zred, zred_err=np.zeros(n), flux=flux,
        flux_err=flux_err, observed=np.ones(flux.shape, bool), upper_limit=np.zeros(flux.shape, bool),
    )  # fmt: skip
    truth = {name: np.concatenate([part[1][name] for part in parts])[:n] for name in parts[0][1]}
    where = np.concatenate([part[2] for part in parts])[:n]
    return Mock(
        catalog, truth, where, np.concatenate(ages), n_found / n_drawn, 1 - n_found / max(n_bright, 1)
    )


def detection(builder: DataBuilder, camera: ImageMock, seed: int) -> Callable[[Any], Any]:
    """Probability that a galaxy of given properties is in the mock survey, for `hbm.population.selection_by`.

    What the properties leave open is drawn from its prior, once per galaxy. Unlike
    `hbm.population.detection.magnitude_limit` it knows of the ages that the image model was trained on.
    """
    index, _ = redshifts(camera)
    zred = camera.zred[index]
    age_at = np.asarray(cosmology_by_name(builder.config.cosmology).age_np(zred))
    compiled = [one_galaxy(builder, float(z)) for z in zred]
    band = BANDS.index(LIMITED)
    limit, error = 10.0 ** (-0.4 * LIMIT), flux_errors()[band]
    floor = builder.config.error_floor
    if isinstance(floor, str):
        raise TypeError("the mock survey has a fixed error floor.")

    def probability(galaxies: Any) -> Any:
        age = np.asarray(galaxies["age_universe"])
        nearest = np.argmin(np.abs(age[:, None] - age_at), axis=1)
        keys = jax.random.split(jax.random.key(seed), len(age))
        found = np.zeros(len(age))
        for k, z in enumerate(zred):
            here = np.flatnonzero(nearest == k)
            if len(here) == 0:
                continue
            given = {name: jnp.asarray(galaxies[name])[here] for name in PROPERTIES}
            sites = draw_in_blocks(compiled[k], builder.config, keys[here], given)
            flux = sites["flux"][:, band]
            noise = np.hypot(error, floor * flux)
            bright = scipy.stats.norm.cdf((flux - limit) / noise)
            found[here] = bright * trained_ages(sites["mwa"], sites["logssfr"], float(z))
        return jnp.asarray(found, jnp.float32)

    return probability


def stamps_of(mock: Mock, camera: ImageMock, rows: range, seed: int) -> Any:
    """Images of some galaxies; the same ones give the same images."""
    names = tuple(mock.catalog.id[row] for row in rows)
    theta = np.stack([mock.truth[name][rows.start : rows.stop] for name in THETA], axis=1)
    return camera.observe(names, theta, mock.at[rows.start : rows.stop], 1000 * seed + rows.start)
