r"""Posteriors of many galaxies from one set of prior draws, by importance weights instead of chains.

Draws of the prior at one redshift, with their fluxes, are made once. Fluxes are linear in mass, so a draw's
mass is chosen anew for each galaxy: near the one that fits its fluxes, M' ~ g(M'). With x the other ones,
drawn from their marginal prior q(x) = int p(M) p(x | M) dM, the weight

.. math:: w = \frac{p(M')\, p(x | M')\, L(d | M', x)}{q(x)\, g(M')}

is exact. In p(x | M) only `logssfr` and `logzsol` depend on mass (`hbm.prior`), so p / q is a ratio of their
densities. What a fit by NUTS takes seconds for takes a fraction of one here, for any depth and any of the
bands, as long as the data leave enough of the draws: `Weighted.effective` says how many.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int
from numpyro import handlers

from hbm.amplitude import best_amplitude
from hbm.config import ModelConfig
from hbm.model import GalaxyData, parameters_from_sites
from hbm.prior import interim_distribution, sample_parameters
from sed.likelihood import photometry_loglike

PROPERTIES = ("logmass", "logssfr", "mwa", "logzsol", "dust2", "gas_logu")
"""What image models know, in their order."""

_BLOCK = 4096
_STREAM = 0x11B
_LOGMASS = 10.0
"""At which fluxes are computed."""
_N_MASS = 48
"""Nodes of the integral over mass."""
_WIDER = 1.5
"""Width of g over the error of the best mass."""
_CUT = 25.0
"""nats below the best draw: what is farther off has no weight worth keeping."""


class Library(NamedTuple):
    """Draws of the prior at one redshift."""

    sites: dict[str, Float[np.ndarray, "draw ..."]]
    """Parameters and ``mwa`` (Gyr), named as in results; ``logmass`` is the draw's own."""
    unit_flux: Float[np.ndarray, "draw band"]
    """Fluxes at a mass of 10^10 Msun, maggies."""
    log_q: Float[np.ndarray, " draw"]
    """Log of the marginal prior density of `logssfr` and `logzsol`."""
    config: ModelConfig
    """Whose prior it is."""
    age_universe: float
    """At the redshift, Gyr."""

    @property
    def n(self) -> int:
        """Number of draws."""
        return len(self.log_q)

    def select(self, rows: Int[np.ndarray, " _"] | Bool[np.ndarray, " draw"] | slice) -> "Library":
        """Some of the draws."""
        sites = {name: value[rows] for name, value in self.sites.items()}
        return self._replace(sites=sites, unit_flux=self.unit_flux[rows], log_q=self.log_q[rows])

    def theta(self) -> Float[np.ndarray, "draw theta"]:
        """`PROPERTIES` of the draws, with their own masses."""
        return np.stack([self.sites[name] for name in PROPERTIES], axis=1)

    def flux(self) -> Float[np.ndarray, "draw band"]:
        """Fluxes of the draws at their own masses, maggies."""
        return np.asarray(self.unit_flux * 10.0 ** (self.sites["logmass"] - _LOGMASS)[:, None])


class Weighted(NamedTuple):
    """Weighted draws of one galaxy's posterior."""

    rows: Int[np.ndarray, " draw"]
    """Of the library."""
    logmass: Float[np.ndarray, " draw"]
    """Mass of each, log10 Msun."""
    weight: Float[np.ndarray, " draw"]
    """They add up to 1."""

    @property
    def effective(self) -> float:
        """Effective number of draws, 1 / sum of w^2 (Kish)."""
        return float(1 / np.sum(self.weight**2))

    def theta(self, library: Library) -> Float[np.ndarray, "draw theta"]:
        """`PROPERTIES` of the draws."""
        columns = [
            self.logmass if name == "logmass" else library.sites[name][self.rows] for name in PROPERTIES
        ]
        return np.stack(columns, axis=1)

    def times(self, log_likelihood: Float[np.ndarray, " draw"]) -> "Weighted":
        """The same with a further likelihood, nats, of each draw."""
        log_weight = np.log(self.weight) + np.asarray(log_likelihood, np.float64)
        return self._replace(weight=_normalised(log_weight))


def make_library(data: GalaxyData, config: ModelConfig, n: int, *, seed: int = 0) -> Library:
    """Draw from the prior at one galaxy's redshift and bands.

    Parameters
    ----------
    data
        Its photometry, redshift and age are used, its fluxes are not (`hbm.galaxies.DataBuilder`).
    config
        The model.
    n
        Draws.
    seed
        Of the draws; the first ones stay the same when more are asked for.

    Raises
    ------
    ValueError
        If the redshift is free, histories are not binned, there is no ionization parameter, or zero points,
        outliers or the error floor are free.
    """
    if data.zgrid is not None or config.sfh != "binned" or not config.nebular:
        raise ValueError(
            "`data` must have a fixed redshift, and `config` binned histories and nebular emission."
        )
    if config.outliers or config.zero_point_sigma > 0 or isinstance(config.error_floor, str):
        raise ValueError("`config` must have a fixed error floor, no outliers and no free zero points.")
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}.")
    # Apart from the keys of other modules: with the same seed they would draw the same galaxies.
    root = jax.random.fold_in(jax.random.key(seed), _STREAM)
    parts = []
    for block in range(math.ceil(n / _BLOCK)):
        keys = jax.random.split(jax.random.fold_in(root, block), _BLOCK)
        parts.append(jax.device_get(_draw_block(keys, data, config)))
    sites = {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}
    return Library(
        sites, sites.pop("unit_flux"), sites.pop("log_q"), config, float(np.asarray(data.age_universe))
    )


@eqx.filter_jit
def _draw_block(keys: Array, data: GalaxyData, config: ModelConfig) -> dict[str, Array]:
    drawn: dict[str, Array] = jax.vmap(lambda key: _draw_one(key, data, config))(keys)
    return drawn


def _draw_one(key: Array, data: GalaxyData, config: ModelConfig) -> dict[str, Array]:
    age = jnp.asarray(data.age_universe)
    trace = handlers.trace(handlers.seed(sample_parameters, key)).get_trace(config, age)
    sites = {name: jnp.asarray(site["value"]) for name, site in trace.items()}
    params = parameters_from_sites(sites | {"logmass": jnp.asarray(_LOGMASS)}, config)
    nodes = jnp.linspace(*config.prior.logmass, _N_MASS + 1)
    middle = 0.5 * (nodes[1:] + nodes[:-1])
    log_q = logsumexp(_shape_prior(sites["logssfr"], sites["logzsol"], middle, age, config)) - math.log(
        _N_MASS
    )
    return {
        **sites,
        "mwa": data.photometry.mean_age(params),
        "unit_flux": data.model_flux(params, jnp.asarray(data.zred)),
        "log_q": log_q,
    }


def _shape_prior(
    logssfr: Float[Array, "..."],
    logzsol: Float[Array, "..."],
    logmass: Float[Array, "..."],
    age: Float[Array, ""],
    config: ModelConfig,
) -> Float[Array, "..."]:
    """Log density of the two parameters whose prior depends on mass."""
    ssfr = interim_distribution("logssfr", config.prior, logmass, age)
    zsol = interim_distribution("logzsol", config.prior, logmass, age)
    total: Array = ssfr.log_prob(logssfr) + zsol.log_prob(logzsol)
    return total


def photometry_posterior(
    library: Library,
    flux: Float[np.ndarray, " band"],
    flux_err: Float[np.ndarray, " band"],
    *,
    observed: Bool[np.ndarray, " band"] | None = None,
    n_kept: int = 20_000,
    seed: int = 0,
) -> Weighted:
    """Posterior of one galaxy given fluxes.

    Parameters
    ----------
    library
        Draws of the prior, at the galaxy's redshift.
    flux, flux_err : maggies
        Measured, in the library's bands.
    observed
        False for bands that do not count; all do by default.
    n_kept
        Draws that are kept at most: with more, they are resampled.
    seed
        Of the masses and the resampling.

    Raises
    ------
    ValueError
        If no band counts.
    """
    use = np.ones(len(flux), bool) if observed is None else np.asarray(observed, bool)
    if not use.any():
        raise ValueError("`observed` must be True in at least one band.")
    rng = np.random.default_rng(seed)
    config, single = library.config, np.float32
    filled = (np.where(use, values, 1.0).astype(single) for values in (flux, flux_err))
    given = (*(jnp.asarray(item) for item in filled), jnp.asarray(use))
    floor = float(config.error_floor)
    fitted = _best_mass(jnp.asarray(library.unit_flux), given[0], given[1], given[2], floor)
    middle, width, rough = (np.asarray(item, np.float64) for item in fitted)
    near = np.flatnonzero(rough > rough.max() - _CUT)
    step = rng.standard_normal(len(near))
    width = _WIDER * width[near]
    logmass = middle[near] + width * step
    low, high = config.prior.logmass
    inside = (logmass > low) & (logmass < high)
    near, logmass, width, step = near[inside], logmass[inside], width[inside], step[inside]
    if len(near) == 0:
        raise ValueError("`flux` needs masses outside of the prior's range.")
    model = library.unit_flux[near] * 10.0 ** (logmass - _LOGMASS)[:, None]
    logssfr, logzsol, flux_there, mass_there = (
        jnp.asarray(_padded(item.astype(single)))
        for item in (library.sites["logssfr"][near], library.sites["logzsol"][near], model, logmass)
    )
    density = _log_density(
        flux_there, logssfr, logzsol, mass_there, given[0], given[1], given[2],
        jnp.asarray(library.age_universe), config,
    )  # fmt: skip
    log_weight = np.asarray(density, np.float64)[: len(near)] - library.log_q[near]
    log_weight += 0.5 * step**2 + np.log(width)
    weight = _normalised(log_weight)
    if len(weight) > n_kept:
        place = (np.arange(n_kept) + rng.uniform()) / n_kept
        chosen = np.minimum(np.searchsorted(np.cumsum(weight), place), len(weight) - 1)
        chosen, count = np.unique(chosen, return_counts=True)
        near, logmass, weight = near[chosen], logmass[chosen], count / n_kept
    return Weighted(near, logmass, weight)


@eqx.filter_jit
def _best_mass(
    unit: Array, flux: Array, flux_err: Array, use: Array, floor: float
) -> tuple[Array, Array, Array]:
    """Of each draw: log10 of the mass that fits best, its error, and the log-likelihood there, roughly."""

    def one(model: Array) -> tuple[Array, Array, Array]:
        amplitude = best_amplitude(model, flux, flux_err, use, floor)
        error = jnp.sqrt(flux_err**2 + (floor * flux) ** 2)
        signal = jnp.sqrt(jnp.sum(jnp.where(use, (amplitude * model / error) ** 2, 0.0)))
        chi2 = jnp.sum(jnp.where(use, ((flux - amplitude * model) / error) ** 2, 0.0))
        width = jnp.minimum(1 / (math.log(10.0) * jnp.maximum(signal, 1e-3)), 1.0)
        return _LOGMASS + jnp.log10(amplitude), width, -0.5 * chi2

    return jax.vmap(one)(jnp.asarray(unit))


@eqx.filter_jit
def _log_density(
    model: Array, logssfr: Array, logzsol: Array, logmass: Array, flux: Array, flux_err: Array, use: Array,
    age: Array, config: ModelConfig,
) -> Array:  # fmt: skip
    """Log of p(x | M') L, for each draw."""
    like = jax.vmap(
        lambda m: photometry_loglike(flux, flux_err, m, use, error_floor=float(config.error_floor))
    )(model)
    return like + _shape_prior(logssfr, logzsol, logmass, age, config)


def _padded(values: np.ndarray) -> np.ndarray:
    """As many rows as a power of two: so that few programs are compiled."""
    n = max(1024, 2 ** math.ceil(math.log2(len(values))))
    return np.concatenate([values, np.broadcast_to(values[-1:], (n - len(values), *values.shape[1:]))])


def _normalised(log_weight: Float[np.ndarray, " draw"]) -> Float[np.ndarray, " draw"]:
    weight = np.exp(log_weight - log_weight.max())
    return np.asarray(weight / weight.sum())
