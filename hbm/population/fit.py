r"""Hyperparameters from stored posteriors of single galaxies, by importance reweighting.

With draws theta_is of galaxy i's posterior under the interim prior p_0 (Foreman-Mackey et al. 2014, ApJ
795, 64),

.. math:: p(d_i | \eta) \propto \frac1S \sum_s \frac{p(\theta_{is} | \eta)}{p_0(\theta_{is})}

The data are not touched again, so this is the fastest way and the one for any number of galaxies; it fails
where the population is much narrower than the posteriors, which `effective`, `pareto_k` and `variance` of the
result show.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float
from numpyro.infer import MCMC, NUTS, init_to_median

from hbm.convergence import import_arviz
from hbm.population.draws import PosteriorDraws, interim_log_prob
from hbm.population.relations import Hyper, Population
from hbm.population.selection import Selection

LARGEST_VARIANCE = 1.0
"""Of differences in the estimated log-likelihood, above which a result is flagged."""

_WORST_K = 0.7


class PopulationResult(NamedTuple):
    """Posterior of the hyperparameters, and what is wrong with it."""

    idata: Any
    """ArviZ InferenceData: ``posterior`` with hyperparameters and ``log_detected``."""
    effective: Float[np.ndarray, " galaxy"]
    """Effective number of draws of each galaxy, at the median hyperparameters."""
    pareto_k: Float[np.ndarray, " galaxy"]
    """Of each galaxy's weights there (Vehtari et al. 2024, arXiv:1507.02646); not to be trusted above 0.7."""
    variance: float
    """Monte Carlo variance of log-likelihood differences across the posterior, nats squared: the mean of
    `monte_carlo_variance` from its draws to its median."""
    flag: str
    """``ok``, or what is wrong: ``rhat``, ``ess``, ``divergences``, ``variance``, ``pareto_k``."""

    def draws(self, name: str) -> Float[np.ndarray, " draw"]:
        """All draws of one hyperparameter."""
        return np.asarray(self.idata.posterior[name].values).reshape(-1)


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
        one, two = (selection.weights(population, point) for point in (hyper, reference))
        variance = variance + len(draws.id) ** 2 * jnp.sum((one - two) ** 2)
    return variance


def fit_population(
    draws: PosteriorDraws,
    population: Population,
    *,
    selection: Selection | None = None,
    n_warmup: int = 500,
    n_draw: int = 500,
    n_chain: int = 4,
    seed: int = 0,
    progress: bool = False,
) -> PopulationResult:
    """Posterior of the hyperparameters of a population.

    Parameters
    ----------
    draws
        Posteriors of single galaxies, `gather_draws`.
    population
        Relations.
    selection
        Which galaxies could be measured; None if all.
    n_warmup, n_draw, n_chain
        Of NUTS.
    seed
        Of its randomness.
    progress
        Show a bar.

    Raises
    ------
    ValueError
        If the hyperprior excludes a galaxy: none of its draws has any density there.
    """
    middle = _prior_median(population, seed)
    log_weight = np.asarray(galaxy_log_likelihood(draws, population, middle))
    lost = ~np.isfinite(log_weight).any(axis=1)
    if lost.any():
        names = ", ".join(np.asarray(draws.id)[lost][:5])
        raise ValueError(
            f"`population` must give every galaxy some density, but {int(lost.sum())} have none ({names}): "
            "their properties are outside of the relations' ranges. Widen these, or leave the galaxies out."
        )
    kernel: Any = NUTS(
        population_model,
        target_accept_prob=0.85,
        dense_mass=True,
        max_tree_depth=7,
        init_strategy=init_to_median,
    )
    mcmc: Any = MCMC(
        kernel, num_warmup=n_warmup, num_samples=n_draw, num_chains=n_chain, chain_method="vectorized",
        progress_bar=progress,
    )  # fmt: skip
    mcmc.run(jax.random.key(seed), draws, population, selection, extra_fields=("diverging",))
    values = {name: np.asarray(value) for name, value in mcmc.get_samples(group_by_chain=True).items()}
    diverging = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["diverging"])
    az = import_arviz()
    idata = az.from_dict(posterior=values, sample_stats={"diverging": diverging})
    median = {name: jnp.median(value.reshape(-1, *value.shape[2:]), axis=0) for name, value in values.items()}
    log_weight = np.asarray(galaxy_log_likelihood(draws, population, median), np.float64)
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    effective = weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)
    _, k = az.psislw(np.where(np.isfinite(log_weight), log_weight, -1e30))
    k = np.asarray(k)
    every = {name: jnp.asarray(value).reshape(-1, *value.shape[2:]) for name, value in values.items()}
    spread = jax.jit(lambda point: monte_carlo_variance(draws, population, selection, point, median))
    total = len(next(iter(every.values())))
    some = np.linspace(0, total - 1, min(total, 50)).astype(int)
    variance = float(np.mean([spread({name: value[i] for name, value in every.items()}) for i in some]))
    flags = _flags(values, diverging, k, variance)
    return PopulationResult(idata, effective, k, variance, ",".join(flags) or "ok")


def _flags(values: dict[str, np.ndarray], diverging: np.ndarray, k: np.ndarray, variance: float) -> list[str]:
    hyper = {name: value for name, value in values.items() if name != "log_detected"}
    flags = []
    rhat, ess = _worst(hyper)
    if not rhat < 1.01:
        flags.append("rhat")
    if not ess >= 400:
        flags.append("ess")
    if diverging.mean() > 0.01:
        flags.append("divergences")
    if not variance < LARGEST_VARIANCE:
        flags.append("variance")
    if (k > _WORST_K).any():
        flags.append("pareto_k")
    return flags


def _worst(hyper: dict[str, np.ndarray]) -> tuple[float, float]:
    """Largest R-hat and smallest bulk ESS."""
    az = import_arviz()
    data = az.convert_to_dataset(hyper)
    rhat, ess = az.rhat(data), az.ess(data)
    return (
        max(float(np.max(rhat[name].values)) for name in hyper),
        min(float(np.min(ess[name].values)) for name in hyper),
    )


def _prior_median(population: Population, seed: int) -> dict[str, Array]:
    """Median of the hyperpriors."""
    from numpyro.infer import Predictive

    some: Any = Predictive(population.sample, num_samples=201)
    drawn = some(jax.random.key(seed))
    return {name: jnp.median(value, axis=0) for name, value in drawn.items()}
