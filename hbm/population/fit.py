"""Posterior of the hyperparameters of a population: three ways to one target."""

from pathlib import Path
from typing import Literal

from hbm.config import InterimPrior
from hbm.population.chains import Progress
from hbm.population.draws import PROPERTIES, PosteriorDraws, prior_range
from hbm.population.gibbs import GibbsConfig
from hbm.population.joint import JointConfig
from hbm.population.relations import Population
from hbm.population.result import PopulationResult
from hbm.population.reweight import ReweightConfig, reweight
from hbm.population.selection import Selection
from hbm.population.survey import Survey
from hbm.population.together import fit_together, reporter

_ROUNDING = 1e-4
Method = Literal["reweight", "joint", "gibbs"]


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
    sampler: ReweightConfig | JointConfig | GibbsConfig | None = None,
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
        Steps (sweeps) that adapt, draws kept per chain, and chains. Reweighting needs chains only where
        importance sampling fails; else its draws, independent and of equal weight, are cut in as many parts.
    seed
        Of all randomness.
    progress
        Show a bar; or a function that is told (steps done, steps in all, what is being done).
    sampler
        Switches of the method, `ReweightConfig`, `JointConfig` or `GibbsConfig`; the defaults otherwise.
    checkpoint
        File (.npz) for the state of the chains, written every two minutes. Not for ``reweight``, which is
        done in minutes.
    resume
        Go on from the checkpoint if it is there.

    Raises
    ------
    ValueError
        If the hyperprior excludes a galaxy (none of its draws has any density there), a relation reaches
        beyond the interim prior, where no galaxy's posterior could be, a method is given draws
        where it needs a survey or switches of another method, or the checkpoint is of other settings or data.
    FileExistsError
        If the checkpoint exists and ``resume`` is False.
    """
    if method not in ("reweight", "joint", "gibbs"):
        raise ValueError(f"`method` must be 'reweight', 'joint' or 'gibbs', got {method!r}.")
    prior = draws.draws.prior if isinstance(draws, Survey) else draws.prior
    _refuse_wider(population, prior)
    if method == "reweight":
        if checkpoint is not None:
            raise ValueError("`checkpoint` is for `method` 'joint' and 'gibbs', got 'reweight'.")
        if not isinstance(sampler, ReweightConfig | None):
            raise ValueError(
                f"`sampler` must be a `ReweightConfig` for `method` 'reweight', got {type(sampler).__name__}."
            )
        stored = draws.draws if isinstance(draws, Survey) else draws
        with reporter(progress) as report:
            return reweight(
                stored, population, selection=selection, n_warmup=n_warmup, n_draw=n_draw, n_chain=n_chain,
                seed=seed, progress=report, config=sampler,
            )  # fmt: skip
    if not isinstance(draws, Survey):
        raise ValueError(
            f"`draws` must be a survey for method {method!r}, which samples the galaxies anew: give "
            f"`gather_survey(results)`, got {type(draws).__name__}."
        )
    if isinstance(sampler, ReweightConfig):
        raise ValueError(f"`sampler` must not be a `ReweightConfig` for `method` {method!r}.")
    return fit_together(
        draws, population, method=method, selection=selection, n_warmup=n_warmup, n_draw=n_draw,
        n_chain=n_chain, seed=seed, progress=progress, sampler=sampler,
        checkpoint=None if checkpoint is None else Path(checkpoint), resume=resume,
    )  # fmt: skip


def _refuse_wider(population: Population, prior: InterimPrior) -> None:
    """Refuse relations over ranges that the galaxies' posteriors could not reach."""
    for relation in population.relations:
        if relation.property not in PROPERTIES:
            continue
        least, most = prior_range(relation.property, prior)
        low, high = getattr(relation, "low", least), getattr(relation, "high", most)
        if low < least - _ROUNDING or high > most + _ROUNDING:
            raise ValueError(
                f"`population` must stay within the interim prior of the galaxies, but its relation of "
                f"{relation.property} reaches from {low:g} to {high:g}, the prior {least:g} to {most:g}: "
                "posteriors hold nothing beyond: narrow the relation, or fit with a wider prior."
            )
