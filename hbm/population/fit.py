r"""Hyperparameters from stored posteriors of single galaxies, by importance reweighting.

With draws theta_is of galaxy i's posterior under the interim prior p_0 (Foreman-Mackey et al. 2014, ApJ
795, 64),

.. math:: p(d_i | \eta) \propto \frac1S \sum_s \frac{p(\theta_{is} | \eta)}{p_0(\theta_{is})}

The data are not touched again, so this is the fastest way and the one for any number of galaxies; it fails
where the population is much narrower than the posteriors, which `effective`, `pareto_k` and `variance` of the
result show.
"""

from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float
from numpyro.infer import MCMC, NUTS, init_to_median

from hbm.convergence import import_arviz
from hbm.population.chains import Progress
from hbm.population.draws import PosteriorDraws, interim_log_prob
from hbm.population.gibbs import GibbsConfig
from hbm.population.hierarchy import refuse_excluded
from hbm.population.joint import JointConfig
from hbm.population.relations import Hyper, Population
from hbm.population.result import PopulationResult, judged
from hbm.population.selection import Selection
from hbm.population.survey import Survey
from hbm.population.together import fit_together

Method = Literal["reweight", "joint", "gibbs"]


def galaxy_log_likelihood(
    draws: PosteriorDraws, population: Population, hyper: Hyper
) -> Float[Array, "galaxy draw"]:
    """Log weights, whose log mean exponential over draws is ln p(d | hyperparameters) up to a constant."""
    before = interim_log_prob(draws.properties, draws.prior, population.properties)
    return population.log_prob(draws.properties, hyper) - before


def population_model(
    draws: PosteriorDraws, population: Population, selection: Selection | None = None
) -> None:
    """NumPyro model of the hyperparameters."""
    hyper = population.sample()
    log_weight = galaxy_log_likelihood(draws, population, hyper)
    n_galaxy, n_draw = log_weight.shape
    each = logsumexp(log_weight, axis=1) - np.log(n_draw)
    numpyro.factor("galaxies", each.sum())
    if selection is not None:
        log_detected = selection.log_detected(population, hyper)
        numpyro.factor("selection", -n_galaxy * log_detected)
        numpyro.deterministic("log_detected", log_detected)


def monte_carlo_variance(
    draws: PosteriorDraws,
    population: Population,
    selection: Selection | None,
    hyper: Hyper,
    reference: Hyper,
) -> Float[Array, ""]:
    r"""Monte Carlo variance of the difference in log-likelihood between two points, nats squared.

    Both use the same draws, so that for normalised weights W it is the sum over galaxies of
    :math:`\sum_s (W_s - W'_s)^2`, and the same for the draws of the selection, times the squared number of
    galaxies (delta method; Essick & Farr 2022, arXiv:2204.00461).
    """

    def normalised(point: Hyper) -> Array:
        return jax.nn.softmax(galaxy_log_likelihood(draws, population, point), axis=1)

    variance = jnp.sum((normalised(hyper) - normalised(reference)) ** 2)
    if selection is not None:
        variance = variance + selection.variance(population, len(draws.id), hyper, reference)
    return variance


def fit_population(
    draws: PosteriorDraws | Survey,
    population: Population,
    *,
    method: Method = "reweight",
    selection: Selection | None = None,
    n_warmup: int = 500,
    n_draw: int = 500,
    n_chain: int = 4,
    seed: int = 0,
    progress: bool | Progress = False,
    sampler: JointConfig | GibbsConfig | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> PopulationResult:
    """Posterior of the hyperparameters of a population.

    Parameters
    ----------
    draws
        Posteriors of single galaxies, `gather_draws`; or the galaxies themselves, `gather_survey`, which the
        methods that sample them too need.
    population
        Relations.
    method
        ``reweight``: the galaxies' posteriors are reweighted. ``joint``: NUTS over all galaxies and
        hyperparameters at once. ``gibbs``: hyperparameters and galaxies in turns.
    selection
        Which galaxies could be measured; None if all.
    n_warmup, n_draw, n_chain
        Steps (sweeps) that adapt, draws kept per chain, and chains.
    seed
        Of all randomness.
    progress
        Show a bar; or a function that is told (steps done, steps in all, what is being done).
    sampler
        Switches of the method, `JointConfig` or `GibbsConfig`; the defaults otherwise.
    checkpoint
        File (.npz) for the state of the chains, written every two minutes. Not for ``reweight``, which is
        done in minutes.
    resume
        Go on from the checkpoint if it is there.

    Raises
    ------
    ValueError
        If the hyperprior excludes a galaxy (none of its draws has any density there), a method is given draws
        where it needs a survey, or the checkpoint is of other settings or data.
    FileExistsError
        If the checkpoint exists and ``resume`` is False.
    """
    if method not in ("reweight", "joint", "gibbs"):
        raise ValueError(f"`method` must be 'reweight', 'joint' or 'gibbs', got {method!r}.")
    if method == "reweight":
        if checkpoint is not None or sampler is not None:
            raise ValueError(
                "`checkpoint` and `sampler` are for `method` 'joint' and 'gibbs', got 'reweight'."
            )
        stored = draws.draws if isinstance(draws, Survey) else draws
        return _reweight(stored, population, selection, n_warmup, n_draw, n_chain, seed, progress)
    if not isinstance(draws, Survey):
        raise ValueError(
            f"`draws` must be a survey for method {method!r}, which samples the galaxies anew: give "
            f"`gather_survey(results)`, got {type(draws).__name__}."
        )
    return fit_together(
        draws, population, method=method, selection=selection, n_warmup=n_warmup, n_draw=n_draw,
        n_chain=n_chain, seed=seed, progress=progress, sampler=sampler,
        checkpoint=None if checkpoint is None else Path(checkpoint), resume=resume,
    )  # fmt: skip


def _reweight(
    draws: PosteriorDraws,
    population: Population,
    selection: Selection | None,
    n_warmup: int,
    n_draw: int,
    n_chain: int,
    seed: int,
    progress: bool | Progress,
) -> PopulationResult:
    """Hyperparameters by importance reweighting."""
    middle = _prior_median(population, seed)
    refuse_excluded(np.asarray(galaxy_log_likelihood(draws, population, middle)), draws.id)
    kernel: Any = NUTS(
        population_model,
        target_accept_prob=0.85,
        dense_mass=True,
        max_tree_depth=7,
        init_strategy=init_to_median,
    )
    mcmc: Any = MCMC(
        kernel, num_warmup=n_warmup, num_samples=n_draw, num_chains=n_chain, chain_method="vectorized",
        progress_bar=progress is True,
    )  # fmt: skip
    if callable(progress):
        progress(0, 1, "reweighting")
    mcmc.run(jax.random.key(seed), draws, population, selection, extra_fields=("diverging",))
    values = {name: np.asarray(value) for name, value in mcmc.get_samples(group_by_chain=True).items()}
    diverging = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["diverging"])
    median = {name: jnp.median(value.reshape(-1, *value.shape[2:]), axis=0) for name, value in values.items()}
    log_weight = np.asarray(galaxy_log_likelihood(draws, population, median), np.float64)
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    effective = weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)
    _, k = import_arviz().psislw(np.where(np.isfinite(log_weight), log_weight, -1e30))
    every = {name: jnp.asarray(value).reshape(-1, *value.shape[2:]) for name, value in values.items()}
    spread = jax.jit(lambda point: monte_carlo_variance(draws, population, selection, point, median))
    total = len(next(iter(every.values())))
    some = np.linspace(0, total - 1, min(total, 50)).astype(int)
    variance = float(np.mean([spread({name: value[i] for name, value in every.items()}) for i in some]))
    return judged(
        values, {"diverging": diverging}, method="reweight", variance=variance, effective=effective,
        pareto_k=np.asarray(k),
    )  # fmt: skip


def _prior_median(population: Population, seed: int) -> dict[str, Array]:
    """Median of the hyperpriors."""
    from numpyro.infer import Predictive

    some: Any = Predictive(population.sample, num_samples=201)
    drawn = some(jax.random.key(seed))
    return {name: jnp.median(value, axis=0) for name, value in drawn.items()}
