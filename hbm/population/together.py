"""Galaxies and hyperparameters sampled together: what joint NUTS and Gibbs share."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from hbm.population.chains import Progress, Schedule, fingerprint, run_chains
from hbm.population.gibbs import GibbsConfig, GibbsSampler
from hbm.population.hierarchy import Hierarchy
from hbm.population.joint import JointConfig, JointSampler
from hbm.population.relations import Population
from hbm.population.result import PopulationResult, judged
from hbm.population.selection import Selection
from hbm.population.survey import Survey
from hbm.spread import spread_over_devices


def fit_together(
    survey: Survey,
    population: Population,
    *,
    method: Literal["joint", "gibbs"],
    selection: Selection | None = None,
    n_warmup: int = 500,
    n_draw: int = 500,
    n_chain: int = 4,
    seed: int = 0,
    progress: bool | Progress = False,
    sampler: JointConfig | GibbsConfig | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> PopulationResult:
    """Sample galaxies and hyperparameters together; arguments and errors as of `fit_population`."""
    for name, value in (("n_warmup", n_warmup), ("n_draw", n_draw), ("n_chain", n_chain)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    chosen = sampler or (JointConfig() if method == "joint" else GibbsConfig())
    if isinstance(chosen, JointConfig) != (method == "joint"):
        raise ValueError(f"`sampler` must be the config of method {method!r}, got {type(chosen).__name__}.")
    hierarchy = Hierarchy(survey, population, selection, seed)
    shared, w = hierarchy.start(n_chain, seed)
    spread = spread_over_devices(len(survey.id))
    kernel: JointSampler | GibbsSampler
    if isinstance(chosen, JointConfig):
        kernel = JointSampler(hierarchy, chosen, n_warmup)
    else:
        kernel = GibbsSampler(hierarchy, chosen, n_warmup)
    state = jax.vmap(kernel.init)(shared, w, jax.random.split(jax.random.key(seed), n_chain))
    settings = {
        "method": method, "n_warmup": n_warmup, "n_draw": n_draw, "n_chain": n_chain, "seed": seed,
        "sampler": chosen._asdict(),
        "population": [_described(relation) for relation in population.relations],
        "precision": str(jnp.result_type(float)),
        "survey": survey.settings,
    }  # fmt: skip
    # Without the reference, which is another one for another seed.
    given = hierarchy.arrays._replace(reference=jnp.zeros(0))
    identity = fingerprint(settings, (given, survey.start))
    schedule = Schedule(n_warmup, n_draw, checkpoint=checkpoint, resume=resume)
    arrays = hierarchy.arrays if spread is None else hierarchy.spread_arrays(spread)
    with reporter(progress) as report:
        kept = run_chains(kernel.step, state, arrays, schedule, identity, report, method, spread=spread)
    galaxies = kept.pop("properties")
    vectors = kept.pop("shared")
    values, variance = _values(hierarchy, jnp.asarray(vectors), selection)
    return judged(values, kept, method=method, variance=variance, galaxies=galaxies, names=survey.id)


def _values(
    hierarchy: Hierarchy, vectors: jax.Array, selection: Selection | None
) -> tuple[dict[str, np.ndarray], float]:
    """Draws of all shared sites, with ``log_detected``, and the Monte Carlo variance of the selection."""
    population, n_galaxy = hierarchy.population, len(hierarchy.survey.id)
    found = jax.jit(jax.vmap(jax.vmap(hierarchy.drawn)))(vectors)
    values = {name: np.asarray(value) for name, value in found.sites.items()}
    if selection is None:
        return values, 0.0
    by_draw = jax.jit(lambda hyper: jax.lax.map(lambda h: selection.log_detected(population, h), hyper))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found.hyper)
    values["log_detected"] = np.asarray(by_draw(flat)).reshape(vectors.shape[:2])
    middle = hierarchy.drawn(jnp.median(vectors.reshape(-1, vectors.shape[-1]), axis=0)).hyper
    total = vectors.shape[0] * vectors.shape[1]
    some = np.linspace(0, total - 1, min(total, 50)).astype(int)
    spread = jax.jit(
        lambda hyper: jax.lax.map(lambda h: selection.variance(population, n_galaxy, h, middle), hyper)
    )
    return values, float(np.mean(spread(jax.tree.map(lambda x: x[some], flat))))


def _described(relation: Any) -> dict[str, str]:
    """Name and fields of a relation, to tell one from another."""
    fields = {}
    if dataclasses.is_dataclass(relation):
        fields = {f.name: repr(getattr(relation, f.name)) for f in dataclasses.fields(relation)}
    return {"relation": f"{type(relation).__module__}.{type(relation).__qualname__}", **fields}


@contextmanager
def reporter(progress: bool | Progress) -> Iterator[Progress | None]:
    """Give a function to report to, or None."""
    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield None
        return
    from rich.progress import Progress as Bar

    with Bar(transient=True) as bar:
        task = bar.add_task("sampling", total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)
