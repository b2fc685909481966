r"""Photometry compiled at many redshifts, once for a catalogue, and draws of the prior at each of them.

The draws say where a galaxy may be: with the mass that fits best, a draw at redshift z has the weight

.. math:: w = p(z | m) \, (1 + z) \, L(d | z, x)

because redshifts are laid out evenly in ln(1 + z). That is rough (the likelihood at the best mass stands for
its integral over mass, and what of the prior on x depends on mass is left out), and good enough to find
modes: the posterior itself is sampled by `hbm.adaptive`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro import handlers

from hbm.amplitude import best_amplitude
from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.galaxies import DataBuilder
from hbm.model import GalaxyData, galaxy_model, parameters_from_sites
from hbm.redshifts.prior import ZredDensity
from sed.compiled import CompiledPhotometry, stack
from sed.likelihood import photometry_loglike

_LOGMASS = 10.0
"""At which fluxes of draws are computed."""
_STREAM = 0x2ED
_FLOOR_FREE = 0.05
_OUTLIERS = 0.05
_MASS_STEP = (0.01, 0.5)
_INSIDE = 0.02
"""dex of mass inside of the prior's range at which fits begin."""


class RedshiftTable(NamedTuple):
    """What all galaxies of a catalogue share."""

    zgrid: Float[np.ndarray, " node"]
    """Redshifts, evenly spaced in ln(1 + z)."""
    age_universe: Float[np.ndarray, " node"]
    """Gyr."""
    photometry: CompiledPhotometry
    """Stacked over the nodes."""
    rest: CompiledPhotometry
    """Rest-frame U, V, J with the age bins of each node."""
    sites: dict[str, Float[np.ndarray, "draw ..."]]
    """Draws of the prior, as many at each node, with their redshift."""
    unit_flux: Float[np.ndarray, "draw band"]
    """Fluxes of the draws at 10^10 Msun, maggies."""
    example: GalaxyData
    """A galaxy of no particular fluxes."""


def make_table(
    builder: DataBuilder,
    catalog: Catalog,
    limits: tuple[float, float],
    *,
    step: float,
    n_each: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> RedshiftTable:
    """Compile photometry over a range of redshifts and draw from the prior.

    Parameters
    ----------
    builder
        Compiler for the catalogue's bands.
    catalog
        Its first row gives the shapes.
    limits
        Smallest and largest redshift.
    step
        Distance of nodes in ln(1 + z), at most.
    n_each
        Draws at each node.
    seed
        Of the draws.
    progress
        Told how many nodes of how many are done.

    Raises
    ------
    ValueError
        If a filter leaves the grid at one of the redshifts.
    """
    low, high = np.log1p(limits)
    n_node = max(3, int(np.ceil((high - low) / step)) + 1)
    zgrid = np.expm1(np.linspace(low, high, n_node))
    zgrid[0], zgrid[-1] = limits
    root = jax.random.fold_in(jax.random.key(seed), _STREAM)  # apart from the keys of `hbm.sbc.simulate`
    nodes, drawn = [], []
    one = catalog.select([0])

    def compiled(zred: float) -> GalaxyData:
        return builder(dataclasses.replace(one, zred=np.array([zred]), zred_err=np.zeros(1)), 0)

    compiled(float(zgrid[-1]))  # so that a filter that leaves the grid is found at once
    for k, zred in enumerate(zgrid):
        node = compiled(float(zred))
        keys = jax.random.split(jax.random.fold_in(root, k), n_each)
        sites = jax.device_get(_draw(keys, node, builder.config))
        sites["zred"] = np.full(n_each, zred, np.float32)
        nodes.append(node)
        drawn.append(sites)
        if progress is not None:
            progress(k + 1, n_node)
    sites = {name: np.concatenate([each[name] for each in drawn]) for name in drawn[0]}
    unit_flux = sites.pop("unit_flux")
    photometry = jax.device_put(stack([node.photometry for node in nodes]))
    rest = jax.device_put(stack([node.rest for node in nodes]))
    age = np.array([float(np.asarray(node.age_universe)) for node in nodes], np.float32)
    example = dataclasses.replace(
        nodes[0],
        zred=np.asarray(0.5 * (limits[0] + limits[1]), np.float32),
        zred_err=np.asarray(limits[1] - limits[0], np.float32),
        age_universe=age,
        zgrid=zgrid.astype(np.float32),
        dimming=builder.dimming(zgrid).astype(np.float32),
        photometry=photometry,
        rest=nodes[n_node // 2].rest,
    )
    return RedshiftTable(zgrid, age, photometry, rest, sites, unit_flux, example)


@eqx.filter_jit
def _draw(keys: Array, node: GalaxyData, config: ModelConfig) -> dict[str, Array]:
    def one(key: Array) -> dict[str, Array]:
        trace: dict[str, Any] = handlers.trace(handlers.seed(galaxy_model, key)).get_trace(
            node, config, use_data=False
        )
        sites = {name: jnp.asarray(site["value"]) for name, site in trace.items()}
        params = parameters_from_sites(sites | {"logmass": jnp.asarray(_LOGMASS)}, config)
        return sites | {"unit_flux": node.photometry.flux(params)}

    drawn: dict[str, Array] = jax.vmap(one)(keys)
    return drawn


class Start(NamedTuple):
    """What the draws of the prior say of one galaxy."""

    data: GalaxyData
    """The galaxy, with a rough mass and how well the fluxes know it."""
    logmass: Float[np.ndarray, " draw"]
    """Mass of each draw that fits best within the range of the prior, log10 Msun."""
    is_free: np.ndarray
    """Whether that mass is the best of all, not an end of the range."""
    log_weight: Float[np.ndarray, " draw"]
    """Rough log weight of each draw."""


def start_of(
    table: RedshiftTable, catalog: Catalog, row: int, density: ZredDensity, config: ModelConfig
) -> Start:
    """Weigh the draws with the fluxes of one galaxy.

    Raises
    ------
    ValueError
        If no draw has a finite likelihood.
    """
    observed = np.asarray(catalog.observed[row])
    limit = np.asarray(catalog.upper_limit[row]) & observed
    flux = np.where(observed, catalog.flux[row], 0.0).astype(np.float32)
    flux_err = np.where(observed, catalog.flux_err[row], 1.0).astype(np.float32)
    floor = _FLOOR_FREE if isinstance(config.error_floor, str) else float(config.error_floor)
    outliers = _OUTLIERS if config.outliers else 0.0
    fitted = _profile(
        jnp.asarray(table.unit_flux),
        jnp.asarray(flux),
        jnp.asarray(flux_err),
        jnp.asarray(observed),
        jnp.asarray(limit),
        floor,
        outliers,
        (config.prior.logmass[0] + _INSIDE, config.prior.logmass[1] - _INSIDE),
    )
    logmass, loglike = (np.asarray(value, np.float64) for value in fitted[:2])
    zred = table.sites["zred"].astype(np.float64)
    log_prior = np.asarray(density.log_prob(zred), np.float64)
    log_weight = loglike + log_prior + np.log1p(zred)
    if not np.isfinite(log_weight).any():
        raise ValueError(
            f"`catalog` has fluxes of id {catalog.id[row]} that nothing in the prior comes near."
        )
    log_weight = np.where(np.isfinite(log_weight), log_weight, -np.inf)
    best = int(np.argmax(log_weight))
    error = np.hypot(flux_err, floor * flux)
    signal = np.sqrt(np.sum((flux[observed & ~limit] / error[observed & ~limit]) ** 2))
    width = np.clip(1 / (np.log(10.0) * max(float(signal), 1e-3)), *_MASS_STEP)
    data = dataclasses.replace(
        table.example,
        flux=flux,
        flux_err=flux_err,
        observed=observed,
        upper_limit=limit,
        logmass_guess=np.asarray(np.clip(logmass[best], 7.0, 12.0), np.float32),
        mass_step=np.asarray(width, np.float32),
    )
    return Start(data, logmass, np.asarray(fitted[2]), log_weight)


@eqx.filter_jit
def _profile(
    unit: Array,
    flux: Array,
    flux_err: Array,
    observed: Array,
    limit: Array,
    floor: float,
    outliers: float,
    mass: tuple[float, float],
) -> tuple[Array, Array, Array]:
    """Best log10 mass of each draw within a range, its log-likelihood, whether the range did not matter."""

    def one(model: Array) -> tuple[Array, Array, Array]:
        best = _LOGMASS + jnp.log10(best_amplitude(model, flux, flux_err, observed & ~limit, floor))
        logmass = jnp.clip(best, *mass)
        amplitude = 10.0 ** (logmass - _LOGMASS)
        loglike = photometry_loglike(
            flux, flux_err, amplitude * model, observed,
            error_floor=floor, upper_limit=limit, outlier_fraction=outliers,
        )  # fmt: skip
        return logmass, loglike, logmass == best

    return jax.vmap(one)(unit)
