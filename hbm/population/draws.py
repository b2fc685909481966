"""Posterior draws of many galaxies under the interim prior, and its density, which is divided out."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hbm.config import InterimPrior
from hbm.fitting import config_of
from hbm.galaxies import cosmology_by_name
from hbm.population.relations import Galaxies
from hbm.prior import interim_distribution
from hbm.results import FitResult

PROPERTIES = ("logmass", "logssfr", "logzsol", "dust2", "gas_logu")
"""What relations may describe."""


class PosteriorDraws(NamedTuple):
    """Equally weighted draws of each galaxy."""

    id: tuple[str, ...]
    """Galaxies."""
    properties: dict[str, Float[Array, "galaxy draw"]]
    """`PROPERTIES` and ``age_universe``, Gyr."""
    prior: InterimPrior
    """Under which they were drawn."""


def gather_draws(results: Sequence[FitResult], *, n_draw: int = 400) -> PosteriorDraws:
    """Draws from fits of single galaxies.

    Parameters
    ----------
    results
        Of binned histories with fixed redshifts, and all of the same settings.
    n_draw
        Per galaxy, spread evenly over the chains.

    Raises
    ------
    ValueError
        If there are no results, one did not converge, has too few draws or another prior, a delayed
        exponential, no ionization parameter or a free redshift.
    """
    if not results:
        raise ValueError("`results` is empty: there is nothing to infer from.")
    n_shared = sum(r.provenance.model_config.get("method") == "importance" for r in results)
    if n_shared > 1:
        warnings.warn(
            f"{n_shared} results are of `hbm.quick_fit`, whose galaxies share draws of the prior: their "
            "Monte Carlo errors add up instead of averaging out, unknown to `variance`. Use `hbm.fit`.",
            stacklevel=2,
        )
    config = config_of(results[0])
    if config.sfh != "binned" or not config.nebular:
        raise ValueError("`results` must be of binned star formation histories with nebular emission.")
    cosmology = cosmology_by_name(config.cosmology)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in (*PROPERTIES, "age_universe")}
    for result in results:
        name = result.galaxy_id
        if config_of(result) != config:
            raise ValueError(f"`results` must have one prior and model, but that of {name} has another.")
        if not result.convergence.converged:
            raise ValueError(
                f"`results` must have converged, but {name} is flagged {result.flag!r}. Leave it out."
            )
        if "zred" in result.components:
            raise ValueError(f"`results` must have fixed redshifts, but that of {name} was free.")
        n = result.draws("logmass").size
        if n < n_draw:
            raise ValueError(f"`n_draw` must be at most the number of draws, {n} of {name}, got {n_draw}.")
        pick = ((np.arange(n_draw) + 0.5) * n / n_draw).astype(int)
        for each in PROPERTIES:
            rows[each].append(result.draws(each).ravel()[pick])
        rows["age_universe"].append(np.full(n_draw, float(cosmology.age_np(result.zred))))
    properties = {name: jnp.asarray(np.stack(value), jnp.float32) for name, value in rows.items()}
    return PosteriorDraws(tuple(r.galaxy_id for r in results), properties, config.prior)


def prior_range(name: str, prior: InterimPrior) -> tuple[float, float]:
    """Ends of a property under the interim prior."""
    ends: dict[str, tuple[float, float]] = {
        "logmass": prior.logmass, "logssfr": prior.logssfr, "logzsol": prior.logzsol,
        "dust2": (0.0, prior.dust2[2]), "gas_logu": prior.gas_logu[2:],
    }  # fmt: skip
    return ends[name]


def interim_log_prob(
    galaxies: Galaxies, prior: InterimPrior, properties: Sequence[str] = PROPERTIES
) -> Float[Array, "..."]:
    """Log density of some properties under the interim prior (`hbm.prior`), at fixed other ones."""
    total = jnp.zeros(jnp.shape(galaxies["age_universe"]))
    for name in properties:
        of = interim_distribution(name, prior, galaxies["logmass"], galaxies["age_universe"])
        total = total + of.log_prob(galaxies[name])
    return total


def interim_draw(name: str, key: Array, galaxies: Galaxies, prior: InterimPrior) -> Float[Array, "..."]:
    """Draw a property from the interim prior, at the mass and age of the universe of the galaxies."""
    age = galaxies["age_universe"]
    of = interim_distribution(name, prior, galaxies.get("logmass", jnp.zeros(())), age)
    drawn: Array = of.expand(jnp.shape(age)).sample(key)
    return drawn
