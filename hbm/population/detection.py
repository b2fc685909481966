r"""Probability that a galaxy of given properties is measured, for the commonest cuts.

With a limit l on a measured quantity of normal noise s, about the value x that the galaxy has,

.. math:: P(\mathrm{det} | \theta) = \Phi\left(\pm\frac{x - l}{s}\right)

"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float
from numpyro import handlers

from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.galaxies import DataBuilder, cosmology_by_name
from hbm.model import GalaxyData
from hbm.population.draws import PROPERTIES
from hbm.population.relations import Galaxies
from hbm.prior import sample_parameters
from sed.ssp import SSPGrid

_BATCH = 500
_LOG_STEP = 0.02
"""Of ln(1 + zred) between redshifts at which photometry is compiled. Magnitudes less their distance modulus
are interpolated between: the modulus itself bends too much at low redshift."""
_N_AGE = 4000
"""Redshifts of the table by which ages of the universe become redshifts."""
_LN10_OVER_25 = 0.4 * float(np.log(10.0))


def property_limit(name: str, limit: float, scatter: float) -> Callable[[Galaxies], Float[Array, " draw"]]:
    """Galaxies whose measured property is above a limit, for `hbm.population.selection_by`.

    Parameters
    ----------
    name
        Of the property, in its units.
    limit
        What the measurement must exceed.
    scatter
        Standard deviation of its noise.

    Raises
    ------
    ValueError
        If there is no such property, or ``scatter`` is not positive.
    """
    if name not in PROPERTIES:
        raise ValueError(f"`property` must be one of {', '.join(PROPERTIES)}, got {name!r}.")
    _check_scatter(scatter)
    return lambda galaxies: norm.cdf((galaxies[name] - limit) / scatter)


def magnitude_limit(
    band: str,
    limit: float,
    scatter: float,
    zred: tuple[float, float],
    config: ModelConfig,
    grid: SSPGrid,
    *,
    seed: int = 0,
) -> Callable[[Galaxies], Float[Array, " draw"]]:
    """Galaxies whose measured AB magnitude in a band is below a limit, for `hbm.population.selection_by`.

    What the properties leave open (history, attenuation curve) is drawn from its prior, once per galaxy: the
    sum over galaxies then integrates it out. The redshift follows from the age of the universe.

    Parameters
    ----------
    band
        Filter.
    limit, scatter : mag
        The limit, and the standard deviation of the magnitude's noise there.
    zred
        Least and largest redshift of the survey.
    config, grid
        The model that was fitted.
    seed
        Of the draws of what is left open.

    Raises
    ------
    ValueError
        If ``scatter`` is not positive, the redshifts are not in order, or the filter is unknown.
    """
    _check_scatter(scatter)
    low, high = zred
    if not 0 < low <= high:
        raise ValueError(f"`zred` must be two redshifts, the least first, got {low} and {high}.")
    low, high = low * (1 - 1e-4), high * (1 + 1e-4)
    n_zred = max(2, int(np.ceil(np.log((1 + high) / (1 + low)) / _LOG_STEP)) + 1)
    nodes = np.linspace(low, high, n_zred)
    cosmology = cosmology_by_name(config.cosmology)
    fine = np.linspace(low, high, _N_AGE)
    fine_age = np.asarray(cosmology.age_np(fine))
    node_modulus = 5 * np.log10(cosmology.luminosity_distance_np(nodes))
    builder = DataBuilder(grid, config, (band,))
    data = [builder(_one(band, z), 0) for z in nodes]
    centre = float(limit)

    def magnitude(galaxy: GalaxyData, values: dict[str, Array], age: Array, key: Array) -> Array:
        seeded = handlers.seed(handlers.substitute(sample_parameters, data=values), key)
        with handlers.block():
            params = seeded(config, age)
        # The logarithm of a flux in maggies: squares would leave the range of single precision.
        return -jnp.log(galaxy.photometry.flux(params)[0]) / _LN10_OVER_25

    def detection(galaxies: Galaxies) -> Float[Array, " draw"]:
        age = jnp.asarray(galaxies["age_universe"])
        redshift = jnp.interp(age, fine_age[::-1], fine[::-1])
        place = jnp.interp(redshift, nodes, np.arange(n_zred, dtype=float))
        lower = jnp.clip(place.astype(int), 0, n_zred - 2)
        values = {name: galaxies[name] for name in PROPERTIES}
        keys = jax.random.split(jax.random.key(seed), age.shape[0])
        every: Array = jnp.stack([_magnitudes(magnitude, one, values, age, keys) for one in data])
        every = every - jnp.asarray(node_modulus, every.dtype)[:, None]
        rows = jnp.arange(age.shape[0])
        fraction = place - lower
        found = (1 - fraction) * every[lower, rows] + fraction * every[lower + 1, rows]
        found = found + 5 * jnp.log10(cosmology.luminosity_distance(redshift))
        probability: Array = norm.cdf((centre - found) / scatter)
        return probability

    return detection


def _magnitudes(
    magnitude: Callable[..., Array], galaxy: GalaxyData, values: dict[str, Array], age: Array, keys: Array
) -> Float[Array, " draw"]:
    """Magnitudes of all draws at one redshift, some at a time."""

    @jax.jit
    def run(galaxy: GalaxyData, values: dict[str, Array], age: Array, keys: Array) -> Array:
        each: Array = jax.lax.map(lambda one: magnitude(galaxy, *one), (values, age, keys), batch_size=_BATCH)
        return each

    found: Array = run(galaxy, values, age, keys)
    return found


def _one(band: str, zred: float) -> Catalog:
    """A galaxy to compile."""
    return Catalog(
        id=("selection",), zred=np.array([zred]), zred_err=np.zeros(1), flux=np.full((1, 1), 1e-8),
        flux_err=np.full((1, 1), 1e-9), observed=np.ones((1, 1), bool), upper_limit=np.zeros((1, 1), bool),
        filter_names=(band,),
    )  # fmt: skip


def _check_scatter(scatter: float) -> None:
    if not scatter > 0:
        raise ValueError(f"`scatter` must be positive, the noise at the limit, got {scatter}.")
