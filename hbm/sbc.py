r"""Simulation-based calibration: whether posteriors contain the truth as often as they say.

Galaxies are drawn from the prior and their fluxes from the likelihood, and then fitted. The rank of each true
value among independent posterior draws is then uniform, for every parameter and every quantity derived from
parameters (Talts et al. 2018, arXiv:1804.06788). That holds only if the flux errors say nothing of the truth:
give errors that depend on band and redshift, never on the flux that was drawn.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Float, Int, Shaped
from numpyro import handlers

from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.galaxies import DataBuilder
from hbm.labels import split_component
from hbm.model import OUTLIER_SCALE, GalaxyData, derived_quantities, galaxy_model
from sed.likelihood import posterior_predictive_flux


class Simulation(NamedTuple):
    """Galaxies of the prior with measured fluxes."""

    catalog: Catalog
    """What a fit may see."""
    truth: dict[str, np.ndarray]
    """Parameters and derived quantities, (galaxy, ...), named as in `hbm.results.FitResult`."""


class Calibration(NamedTuple):
    """How uniform the ranks of one quantity are."""

    histogram: Int[np.ndarray, " bin"]
    """Number of galaxies in bins of rank of equal width."""
    chi2_p: float
    """p-value of the chi-square test of that histogram."""
    ks: float
    """Largest distance of the distribution function of the ranks from the uniform one."""
    ks_p: float
    """p-value of that distance (Kolmogorov-Smirnov)."""
    coverage: tuple[float, ...]
    """Fraction of truths inside the central intervals of the given levels."""


def draw_prior(
    galaxy: GalaxyData, config: ModelConfig, keys: Array, given: dict[str, Array] | None = None
) -> dict[str, Array]:
    """Sites and derived quantities of prior draws at one galaxy's redshift, axes (draw, ...).

    The plain statement of the model is sampled, not the standard normals through which fits see it.

    Parameters
    ----------
    galaxy
        Its compiled photometry and redshift are used, its fluxes are not.
    config
        The model.
    keys
        One JAX key for each draw.
    given
        Values of sites that are not drawn, such as ``logmass``, leading axis draw. Others are drawn given
        these.
    """

    def one(key: Array, values: dict[str, Array]) -> dict[str, Array]:
        seeded = handlers.seed(handlers.substitute(galaxy_model, data=values), key)
        trace = handlers.trace(seeded).get_trace(galaxy, config, use_data=False)
        sites = {name: jnp.asarray(site["value"]) for name, site in trace.items()}
        return {**sites, **derived_quantities(sites, galaxy, config)}

    return jax.vmap(one)(keys, {} if given is None else given)


_BLOCK = 64
_draw_block = jax.jit(draw_prior, static_argnums=1)


def draw_in_blocks(
    galaxy: GalaxyData, config: ModelConfig, keys: Array, given: dict[str, Array] | None = None
) -> dict[str, np.ndarray]:
    """`draw_prior` of any number, by one compiled program that draws `_BLOCK`."""
    n_draw = len(keys)
    rows = jnp.arange(-(-n_draw // _BLOCK) * _BLOCK) % n_draw
    blocks = []
    for first in range(0, len(rows), _BLOCK):
        some = rows[first : first + _BLOCK]
        values = {} if given is None else {name: jnp.asarray(v)[some] for name, v in given.items()}
        blocks.append(_draw_block(galaxy, config, keys[some], values))
    return {
        name: np.concatenate([np.asarray(block[name], np.float64) for block in blocks])[:n_draw]
        for name in blocks[0]
    }


def prior_flux(
    builder: DataBuilder, zred: float, *, quantile: float = 0.5, n_draw: int = 256, seed: int = 0
) -> Float[np.ndarray, " band"]:
    """Quantile of the prior of each band's flux (maggies) at a redshift, to set the depth of a simulation."""
    galaxy = one_galaxy(builder, zred)
    keys = jax.random.split(jax.random.key(seed), n_draw)
    return np.asarray(np.quantile(draw_in_blocks(galaxy, builder.config, keys)["flux"], quantile, axis=0))


def simulate(
    builder: DataBuilder,
    zred: Float[np.ndarray, " galaxy"],
    flux_err: Float[np.ndarray, "galaxy band"],
    *,
    zred_err: float = 0.0,
    given: dict[str, np.ndarray] | None = None,
    seed: int = 0,
) -> Simulation:
    """Galaxies of the prior and their measured fluxes, from the density that fits assume.

    Parameters
    ----------
    builder
        Its configuration is the model.
    zred
        Redshift of each galaxy, or mean of its prior. Photometry is compiled once for each different one.
    flux_err : maggies
        Standard deviations of the fluxes, the model error apart; must not depend on the draws.
    zred_err
        Standard deviation of the redshift, 0 where it is exact.
    given
        Values of parameters that are not drawn from the prior, such as ``logmass``, leading axis galaxy.
    seed
        The first galaxies stay the same when more are asked for.

    Raises
    ------
    ValueError
        If an error is not positive or the shapes disagree.
    """
    n_galaxy, n_band = len(zred), len(builder.filters)
    if flux_err.shape != (n_galaxy, n_band) or not np.all(flux_err > 0):
        raise ValueError(
            f"`flux_err` must be positive, of shape {(n_galaxy, n_band)}, (galaxy, band), got shape "
            f"{flux_err.shape} and a smallest value of {np.min(flux_err, initial=np.inf)}."
        )
    config = builder.config
    root = jax.random.key(seed)
    keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(root, index)))(jnp.arange(n_galaxy))
    truth: dict[str, np.ndarray] = {}
    for value in np.unique(zred):
        here = zred == value
        some = {} if given is None else {n: np.asarray(v, np.float32)[here] for n, v in given.items()}
        sites = draw_in_blocks(one_galaxy(builder, float(value), zred_err), config, keys[here, 0], some)
        for name, array in sites.items():
            truth.setdefault(name, np.zeros((n_galaxy, *array.shape[1:])))[here] = array
    observe = jax.jit(jax.vmap(lambda key, *row: _observe(key, *row, config=config)))
    floor = truth.get("error_floor")
    if floor is None:
        floor = np.full(n_galaxy, 0.0 if config.error_floor == "free" else float(config.error_floor))
    fraction = truth.get("outlier_fraction", np.zeros(n_galaxy))
    err = flux_err.astype(np.float32)
    single = [column.astype(np.float32) for column in (truth["flux"], floor, fraction)]
    flux = observe(keys[:, 1], err, *single)
    return Simulation(_catalog(builder, zred, zred_err, np.asarray(flux, np.float64), err), truth)


def _observe(
    key: Array, err: Array, model_flux: Array, floor: Array, fraction: Array, *, config: ModelConfig
) -> Array:
    """Measured fluxes of one galaxy; the zero points are in ``model_flux`` already."""
    return posterior_predictive_flux(
        key,
        err,
        model_flux,
        jnp.ones(err.shape, bool),
        error_floor=floor,
        outlier_fraction=fraction if config.outliers else 0.0,
        outlier_scale=OUTLIER_SCALE,
    )


def _catalog(
    builder: DataBuilder, zred: np.ndarray, zred_err: float, flux: np.ndarray, flux_err: np.ndarray
) -> Catalog:
    return Catalog(
        id=tuple(f"sim{i:05d}" for i in range(len(zred))),
        zred=np.asarray(zred, np.float64),
        zred_err=np.full(len(zred), zred_err),
        flux=flux,
        flux_err=flux_err.astype(np.float64),
        observed=np.ones(flux.shape, bool),
        upper_limit=np.zeros(flux.shape, bool),
        filter_names=builder.filters.names,
        meta={"unit": "maggies"},
    )


def one_galaxy(builder: DataBuilder, zred: float, zred_err: float = 0.0) -> GalaxyData:
    """A galaxy whose photometry is compiled at a redshift, with fluxes that mean nothing."""
    ones = np.ones((1, len(builder.filters)))
    return builder(_catalog(builder, np.array([zred]), zred_err, ones, ones), 0)


def value_of(truth: dict[str, np.ndarray], component: str, galaxy: int) -> float:
    """Give the true value of a component, such as ``logsfr_ratios[2]``, of one galaxy."""
    name, index = split_component(component)
    return float(truth[name][(galaxy, *index)])


def thinned_rank(
    draws: Shaped[np.ndarray, "chain draw"], truth: float, n_draw: int, rng: np.random.Generator
) -> int:
    """Count, of ``n_draw`` draws spread evenly over all chains, those below the truth; chance breaks ties.

    Raises
    ------
    ValueError
        If there are fewer draws than ``n_draw``.
    """
    flat = np.ravel(draws)
    if not 1 <= n_draw <= flat.size:
        raise ValueError(f"`n_draw` must be from 1 to the number of draws, {flat.size}, got {n_draw}.")
    chosen = flat[((np.arange(n_draw) + 0.5) * flat.size / n_draw).astype(int)]
    n_equal = int(np.sum(chosen == truth))
    return int(np.sum(chosen < truth)) + int(rng.integers(0, n_equal + 1))


def calibrate(
    ranks: Int[np.ndarray, " galaxy"],
    n_draw: int,
    *,
    n_bin: int = 20,
    levels: Sequence[float] = (0.68, 0.95),
    seed: int = 0,
) -> Calibration:
    """Compare ranks with the uniform distribution over 0 ... ``n_draw``.

    Parameters
    ----------
    ranks
        From `thinned_rank`, with this ``n_draw``.
    n_draw
        Draws among which truths were ranked; ``n_draw + 1`` must be a multiple of ``n_bin``.
    n_bin
        Bins of the histogram.
    levels
        Probabilities of the central intervals whose coverage is wanted.
    seed
        Ranks are made continuous by a uniform random part of one rank, so that the test of Kolmogorov and
        Smirnov and the coverage are exact.

    Raises
    ------
    ValueError
        If a rank is outside 0 ... ``n_draw`` or the bins do not fit.
    """
    if (n_draw + 1) % n_bin != 0:
        raise ValueError(f"`n_draw` + 1 must be a multiple of `n_bin` {n_bin}, got `n_draw` {n_draw}.")
    if ranks.size == 0 or ranks.min() < 0 or ranks.max() > n_draw:
        raise ValueError(f"`ranks` must be numbers from 0 to `n_draw` {n_draw}, at least one, got {ranks}.")
    histogram = np.bincount(ranks * n_bin // (n_draw + 1), minlength=n_bin)
    fraction = (ranks + np.random.default_rng(seed).uniform(size=ranks.size)) / (n_draw + 1)
    test: Any = scipy.stats.kstest(fraction, "uniform")
    return Calibration(
        histogram,
        float(scipy.stats.chisquare(histogram).pvalue),
        float(test.statistic),
        float(test.pvalue),
        tuple(float(np.mean(np.abs(fraction - 0.5) <= level / 2)) for level in levels),
    )
