"""A small mock survey with known hyperparameters, to try ``hbm population`` on and to test it with."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hbm.config import InterimPrior, ModelConfig
from hbm.convergence import Convergence
from hbm.galaxies import cosmology_by_name
from hbm.population import truncated
from hbm.population.draws import PROPERTIES, PosteriorDraws, interim_draw, interim_log_prob
from hbm.population.relations import Hyper, MassMetallicity, Population, Relation, Schechter
from hbm.results import ObservedBands, make_provenance, make_result, result_path, save_result

TRUTH = {"log_mstar": 10.7, "alpha": -1.3, "mzr_offset": 0.1, "mzr_tilt": -0.1, "mzr_scatter": 0.2}
"""Hyperparameters of the mock."""

LIMIT = 9.8
"""Galaxies whose measured log mass is below are lost."""

ERROR = {"logmass": 0.1, "logssfr": 0.3, "logzsol": 0.2, "dust2": 0.3, "gas_logu": 0.4}
"""Of the measurements, normal."""

PRIOR = InterimPrior(logmass=(8.5, 12.0), logzsol=(-1.5, 0.3))
"""The interim prior of the mock's fits."""

ZRED = 0.1
"""Of all galaxies."""

_BLOCK = 4096
_MOST_BLOCKS = 2000
_N_PROPOSAL = 8000
_SHAPE = (4, 150)

_TEXT = """\
# A mock survey: {n} galaxies at redshift {zred}, lost where the measured log mass is below {limit}.
# Made with {truth}.

results = "results"
out = "population.nc"

[sampler]
method = "reweight"
warmup = 200
draws = 250
draws_per_galaxy = 150

[relations.schechter]

[relations.mass_metallicity]

[selection]
property = "logmass"
limit = {limit}
scatter = {scatter}
draws = 4000
"""


class MockSurvey(NamedTuple):
    """Galaxies of a population that were measured."""

    draws: PosteriorDraws
    """Of their posteriors under the interim prior."""
    truth: dict[str, Float[np.ndarray, " galaxy"]]
    """Properties."""
    measured: dict[str, Float[np.ndarray, " galaxy"]]
    """Measured properties."""
    effective: Float[np.ndarray, " galaxy"]
    """Effective number of the weighted points from which the draws were taken."""


def mock_survey(
    population: Population,
    truth: Hyper,
    n: int,
    *,
    prior: InterimPrior = PRIOR,
    limit: float = LIMIT,
    n_draw: int = 600,
    seed: int = 0,
) -> MockSurvey:
    """Draw galaxies until ``n`` have a measured log mass above a limit, and draw from their posteriors.

    Properties are measured directly, with normal errors (`ERROR`), and no fluxes are simulated: points about
    the measured ones, weighted by the interim prior, have the posterior under it.

    Parameters
    ----------
    population, truth
        Relations and their hyperparameters. Other properties follow the interim prior.
    n
        Galaxies that are measured.
    prior
        The interim prior.
    limit
        In measured log mass.
    n_draw
        Draws of each galaxy.
    seed
        Of all randomness.

    Raises
    ------
    ValueError
        If next to none of the population's galaxies are above the limit.
    """
    age = jnp.asarray(float(cosmology_by_name(ModelConfig().cosmology).age_np(ZRED)), jnp.float32)
    key_galaxies, key_draws = jax.random.split(jax.random.key(seed))
    hyper = {name: jnp.asarray(value) for name, value in truth.items()}
    galaxies, measured, found = list[dict[str, np.ndarray]](), list[dict[str, np.ndarray]](), 0
    for block in range(_MOST_BLOCKS):
        both = _observed(population.relations, prior, hyper, age, jax.random.fold_in(key_galaxies, block))
        seen = np.asarray(both[1]["logmass"]) > limit
        for values, into in zip(both, (galaxies, measured), strict=True):
            into.append({name: np.asarray(value)[seen] for name, value in values.items()})
        found += int(seen.sum())
        if found >= n:
            break
    else:
        raise ValueError(f"`truth` must leave galaxies above the `limit` {limit}, got {found} of many.")
    true, data = (
        {name: np.concatenate([one[name] for one in parts])[:n] for name in parts[0]}
        for parts in (galaxies, measured)
    )
    keys = jax.random.split(key_draws, n)
    properties, effective = _posterior(
        prior, n_draw, {name: jnp.asarray(v) for name, v in data.items()}, age, keys
    )
    draws = PosteriorDraws(tuple(f"mock{i:03d}" for i in range(n)), properties, prior)
    return MockSurvey(draws, true, data, np.asarray(effective))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _observed(
    relations: tuple[Relation, ...], prior: InterimPrior, hyper: Hyper, age: Float[Array, ""], key: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Properties of a block of galaxies, true and measured."""
    population = Population(relations)
    galaxies = population.draw(jax.random.fold_in(key, 0), jnp.full(_BLOCK, age), hyper)
    for i, name in enumerate(PROPERTIES):
        if name not in galaxies:
            galaxies[name] = interim_draw(name, jax.random.fold_in(key, 1 + i), galaxies, prior)
    noise = jax.random.normal(jax.random.fold_in(key, 99), (len(PROPERTIES), _BLOCK))
    measured = {name: galaxies[name] + ERROR[name] * e for name, e in zip(PROPERTIES, noise, strict=True)}
    return galaxies, measured


@functools.partial(jax.jit, static_argnums=(0, 1))
def _posterior(
    prior: InterimPrior, n_draw: int, measured: dict[str, Array], age: Float[Array, ""], keys: Array
) -> tuple[dict[str, Array], Array]:
    """Draws from the posterior of each galaxy, and how many points stood behind them.

    Points are normal about the measured values and truncated to the prior's ranges.
    """
    ends = {
        "logmass": prior.logmass, "logssfr": prior.logssfr, "logzsol": prior.logzsol,
        "dust2": (0.0, prior.dust2[2]), "gas_logu": prior.gas_logu[2:],
    }  # fmt: skip

    def one(row: tuple[dict[str, Array], Array]) -> tuple[dict[str, Array], Array]:
        centre, key = row
        points = {
            name: truncated.draw(
                jax.random.fold_in(key, i), jnp.full(_N_PROPOSAL, centre[name]), ERROR[name], *ends[name]
            )
            for i, name in enumerate(PROPERTIES)
        } | {"age_universe": jnp.full(_N_PROPOSAL, age)}
        weight = jax.nn.softmax(interim_log_prob(points, prior))
        # At even steps of the distribution function, in random order: no draw is taken oftener than it must.
        place = (jnp.arange(n_draw) + jax.random.uniform(jax.random.fold_in(key, 8))) / n_draw
        pick = jnp.clip(jnp.searchsorted(jnp.cumsum(weight), place), 0, _N_PROPOSAL - 1)
        pick = jax.random.permutation(jax.random.fold_in(key, 9), pick)
        return {name: value[pick] for name, value in points.items()}, 1.0 / jnp.sum(weight**2)

    found: tuple[dict[str, Array], Array] = jax.lax.map(one, (measured, keys), batch_size=16)
    return found


def write_example(folder: Path, *, n: int = 80, seed: int = 0) -> Path:
    """Write a mock survey's fits of single galaxies, and the file for ``hbm population``.

    The survey is that of `mock_survey`.

    Parameters
    ----------
    folder
        Where to; made if it is not there.
    n
        Galaxies that are measured.
    seed
        Of all randomness.

    Returns
    -------
    Path
        The file of settings.

    Raises
    ------
    FileExistsError
        If the folder has one already.
    """
    path = folder / "population.toml"
    if path.exists():
        raise FileExistsError(f"`--example` {folder} already holds {path.name}. Choose another folder.")
    config = ModelConfig(prior=PRIOR)
    population = Population((Schechter(*PRIOR.logmass), MassMetallicity(*PRIOR.logzsol)))
    survey = mock_survey(population, TRUTH, n, n_draw=_SHAPE[0] * _SHAPE[1], seed=seed)
    results = folder / "results"
    provenance = make_provenance(
        {"config": json.loads(config.to_json())}, grid={}, filters=("mock",), seed=seed, command="mock"
    )
    bands = ObservedBands(
        ("mock",), np.ones(1), np.ones(1), np.ones(1), np.ones(1, bool), np.zeros(1, bool), np.zeros(1)
    )
    for i, ess in enumerate(survey.effective.tolist()):
        posterior = {m: np.asarray(survey.draws.properties[m][i]).reshape(_SHAPE) for m in PROPERTIES}
        name = f"mock{i:03d}"
        result = make_result(
            name, ZRED, posterior=posterior, sample_stats={"diverging": np.zeros(_SHAPE, bool)},
            flux=np.ones((*_SHAPE, 1)), bands=bands,
            convergence=Convergence(1.0, "logmass", ess, ess, 0, True, "ok", ""), provenance=provenance,
        )  # fmt: skip
        save_result(result, result_path(results, name))
    truth = ", ".join(f"{name} = {value}" for name, value in TRUTH.items())
    text = _TEXT.format(n=n, zred=ZRED, limit=LIMIT, scatter=ERROR["logmass"], truth=truth)
    path.write_text(text, encoding="utf-8")
    return path
