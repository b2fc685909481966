"""A small mock survey with known hyperparameters, to try ``hbm population`` on and to test it with."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from hbm.config import InterimPrior, ModelConfig
from hbm.convergence import Convergence
from hbm.galaxies import cosmology_by_name
from hbm.population.draws import PROPERTIES, interim_draw, interim_log_prob
from hbm.population.relations import MassMetallicity, Population, Schechter
from hbm.results import ObservedBands, make_provenance, make_result, result_path, save_result

TRUTH = {"log_mstar": 10.7, "alpha": -1.3, "mzr_offset": 0.1, "mzr_tilt": -0.1, "mzr_scatter": 0.2}
"""Hyperparameters of the mock."""

LIMIT = 9.8
"""Galaxies whose measured log mass is below are lost."""

ERROR = {"logmass": 0.1, "logssfr": 0.3, "logzsol": 0.2, "dust2": 0.3, "gas_logu": 0.4}
"""Of the measurements, normal."""

_ZRED = 0.1
_RANGES = {
    "logmass": (8.5, 12.0), "logssfr": (-14.0, -8.0), "logzsol": (-1.5, 0.3), "dust2": (0.0, 4.0),
    "gas_logu": (-4.0, -1.0),
}  # fmt: skip
_N_PROPOSAL = 20_000
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


def write_example(folder: Path, *, n: int = 80, seed: int = 0) -> Path:
    """Write a mock survey's fits of single galaxies, and the file for ``hbm population``.

    Properties are measured directly, with normal errors: the posteriors under the interim prior are drawn
    exactly, and no fluxes are simulated.

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
    prior = InterimPrior(logmass=_RANGES["logmass"], logzsol=_RANGES["logzsol"])
    config = ModelConfig(prior=prior)
    age = float(cosmology_by_name(config.cosmology).age_np(_ZRED))
    rng = np.random.default_rng(seed)
    many = 40 * n
    population = Population((Schechter(*prior.logmass), MassMetallicity(*prior.logzsol)))
    galaxies = population.draw(jax.random.key(seed), jnp.full(many, age), TRUTH)
    for i, name in enumerate(PROPERTIES):
        if name not in galaxies:
            galaxies[name] = interim_draw(name, jax.random.key(seed + 1 + i), galaxies, prior)
    measured = {name: np.asarray(galaxies[name]) + s * rng.standard_normal(many) for name, s in ERROR.items()}
    seen = np.flatnonzero(measured["logmass"] > LIMIT)[:n]
    results = folder / "results"
    provenance = make_provenance(
        {"config": json.loads(config.to_json())}, grid={}, filters=("mock",), seed=seed, command="mock"
    )
    bands = ObservedBands(
        ("mock",), np.ones(1), np.ones(1), np.ones(1), np.ones(1, bool), np.zeros(1, bool), np.zeros(1)
    )
    log_prob = jax.jit(lambda points: interim_log_prob(points, prior))
    for row in seen:
        points = {m: measured[m][row] + ERROR[m] * rng.standard_normal(_N_PROPOSAL) for m in ERROR}
        inside = np.all([(points[m] > _RANGES[m][0]) & (points[m] < _RANGES[m][1]) for m in ERROR], axis=0)
        points = {m: value[inside] for m, value in points.items()}
        n_inside = int(inside.sum())
        # Padded, so that one program serves all galaxies.
        padded = {m: np.resize(value, _N_PROPOSAL).astype(np.float32) for m, value in points.items()}
        padded["age_universe"] = np.full(_N_PROPOSAL, age, np.float32)
        log_weight = np.asarray(log_prob(padded), np.float64)[:n_inside]
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        pick = rng.choice(n_inside, _SHAPE, p=weight)
        ess = float(1 / np.sum(weight**2))
        name = f"mock{len(list(results.glob('*.nc'))):03d}"
        result = make_result(
            name, _ZRED, posterior={m: value[pick] for m, value in points.items()},
            sample_stats={"diverging": np.zeros(_SHAPE, bool)}, flux=np.ones((*_SHAPE, 1)), bands=bands,
            convergence=Convergence(1.0, "logmass", ess, ess, 0, True, "ok", ""), provenance=provenance,
        )  # fmt: skip
        save_result(result, result_path(results, name))
    truth = ", ".join(f"{name} = {value}" for name, value in TRUTH.items())
    text = _TEXT.format(n=len(seen), zred=_ZRED, limit=LIMIT, scatter=ERROR["logmass"], truth=truth)
    path.write_text(text, encoding="utf-8")
    return path
