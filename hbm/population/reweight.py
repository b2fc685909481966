r"""Hyperparameters from stored posteriors of single galaxies, by importance reweighting.

With draws theta_is of galaxy i's posterior under the interim prior p_0 (Foreman-Mackey et al. 2014, ApJ
795, 64),

.. math:: p(d_i | \eta) \propto \frac1S \sum_s \frac{p(\theta_{is} | \eta)}{p_0(\theta_{is})}

The data are not touched again, so this is the fastest way and the one for any number of galaxies; it fails
where the population is much narrower than the posteriors, which `effective`, `pareto_k` and `variance` of the
result show. The hyperparameters are sampled by adaptive importance sampling (`hbm.population.importance`);
where its weights cannot be trusted, by NUTS with a dense mass matrix.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from hbm.convergence import import_arviz
from hbm.population.chains import PIECE, Progress, Schedule, in_pieces, run_chains
from hbm.population.draws import PosteriorDraws, interim_log_prob
from hbm.population.hierarchy import refuse_excluded
from hbm.population.importance import EXCLUDED, ImportanceConfig, ImportanceDraws, optima, sample
from hbm.population.relations import Hyper, Population, Relation, with_published
from hbm.population.result import PopulationResult, judged
from hbm.population.selection import Selection, least_effective
from hbm.population.unknowns import Unknowns
from hbm.spread import Spread, spread_over_devices

_N_VARIANCE = 50
_N_ROUGH = 25
"""Draws of each galaxy with which warm-up begins: enough to find the place and the spread."""
_N_KEPT = 4
_TARGET_ACCEPT = 0.85
_MAX_TREE_DEPTH = (5, 7)
"""During warm-up, where the mass matrix is not known yet, and afterwards."""
_TEXT = "reweighting"
_LARGEST_K = 0.7
_LEAST_EFFECTIVE = 400.0
_DENSITIES = 200_000_000
"""Densities of draws that a round may cost, where it has more than the least number of points."""
_AT_ONCE = 2**20
"""Draws of galaxies and of the selection whose densities are computed at once, at least for one vector."""


class ReweightConfig(NamedTuple):
    """Switches of reweighting."""

    sampler: Literal["auto", "importance", "nuts"] = "auto"
    """Of the hyperparameters. ``auto``: importance sampling, and NUTS where its Pareto k is above 0.7 or it
    has fewer than 400 effective draws."""
    importance: ImportanceConfig = ImportanceConfig()
    """Sizes of the importance sampler."""


class Stored(NamedTuple):
    """What the program works on, given as an argument, so that it is not compiled in."""

    properties: dict[str, Float[Array, "galaxy draw"]]
    """As in `PosteriorDraws`, with `with_published`."""
    log_interim: Float[Array, "galaxy draw"]
    """Log density of the described properties under the interim prior."""
    selection: Selection | None
    least: Float[Array, ""]
    """Effective draws of the selection that hyperparameters need (`hbm.population.selection`)."""
    reference: Float[Array, " galaxy"]
    """Subtracted from the log-likelihood of each galaxy: a large sum would cost digits."""


class Summary(NamedTuple):
    """What is wanted of all draws of the hyperparameters."""

    values: dict[str, Array]
    """Of all sites, leading axis draw."""
    log_detected: Float[Array, " draw"] | None
    log_weight: Float[Array, "galaxy draw"]
    """Of the galaxies' draws, at the median."""
    variance: Float[Array, ""]


class Reweighting:
    """Density of the hyperparameters given stored draws, and NUTS steps of it.

    Parameters
    ----------
    population
        Relations.
    n_warmup
        Steps that adapt.
    """

    def __init__(self, population: Population, n_warmup: int) -> None:
        self.population = population
        self.unknowns = Unknowns(population.sample)
        self.n_warmup = n_warmup
        self._init, self._kernel = cast(Any, hmc)(
            potential_fn_gen=lambda stored: lambda vector: self.energy(vector, stored), algo="NUTS"
        )
        self.program = in_pieces(self.step)
        self.prepared = jax.jit(self._prepared, static_argnums=1)
        self.at = jax.jit(jax.vmap(jax.value_and_grad(self.energy), in_axes=(0, None)))
        self.one = jax.jit(jax.value_and_grad(self.energy))
        self.energies = jax.jit(self._energies, static_argnums=2)
        self.summary = jax.jit(self._summary)

    def log_weight(self, hyper: Hyper, stored: Stored) -> Float[Array, "galaxy draw"]:
        """Ln p(theta | eta) - ln p_0(theta) of each draw."""
        return self.population.log_prob(stored.properties, hyper) - stored.log_interim

    def energy(self, vector: Float[Array, " shared"], stored: Stored) -> Float[Array, ""]:
        """Minus log posterior density of the hyperparameters; infinite where it vanishes."""
        hyper, _, log_prior = self.unknowns.drawn(vector)
        total = -log_prior - jnp.sum(self._each(hyper, stored) - stored.reference)
        return jnp.where(jnp.isfinite(total), total, jnp.inf)

    def _energies(
        self, vectors: Float[Array, "point shared"], stored: Stored, n_at_once: int
    ) -> Float[Array, " point"]:
        found: Array = jax.lax.map(lambda one: self.energy(one, stored), vectors, batch_size=n_at_once)
        return found

    def _each(self, hyper: Hyper, stored: Stored) -> Float[Array, " galaxy"]:
        """Log-likelihood of each galaxy, given that it was measured."""
        each = logsumexp(self.log_weight(hyper, stored), axis=1)
        if stored.selection is not None:
            each = each - stored.selection.log_detected(self.population, hyper, stored.least)
        return each

    def _prepared(
        self, draws: dict[str, Array], prior: Any, selection: Selection | None, start: Array
    ) -> tuple[Stored, Array]:
        """Stored draws with what does not depend on hyperparameters.

        Also the largest weight of each galaxy, where it is least over some starting points.
        """
        log_interim = interim_log_prob(draws, prior, self.population.properties)
        n_galaxy = log_interim.shape[0]
        hyper, _, _ = self.unknowns.drawn(jnp.zeros(self.unknowns.n))
        least = jnp.zeros(())
        if selection is not None:

            def effective(vector: Array) -> Array:
                return selection.effective(self.population, self.unknowns.drawn(vector)[0])

            middle = jnp.zeros((1, self.unknowns.n))
            usual = jax.lax.map(effective, jnp.concatenate([middle, start]))
            least = least_effective(n_galaxy, usual)
        stored = Stored(with_published(draws), log_interim, selection, least, jnp.zeros(n_galaxy))
        reference = self._each(hyper, stored)
        stored = stored._replace(reference=jnp.where(jnp.isfinite(reference), reference, 0.0))

        def at(vector: Array) -> Array:
            return jnp.max(self.log_weight(self.unknowns.drawn(vector)[0], stored), axis=1)

        return stored, jnp.min(jax.lax.map(at, start), axis=0)

    def init(self, vector: Array, key: Array) -> Any:
        """State of one chain; not under jit, because NumPyro's kernel keeps constants from this call.

        Energy and slope are placeholders.
        """
        return self._init(
            ParamInfo(vector, jnp.zeros(()), jnp.zeros_like(vector)),
            self.n_warmup,
            step_size=0.1,
            dense_mass=True,
            target_accept_prob=_TARGET_ACCEPT,
            max_tree_depth=_MAX_TREE_DEPTH,
            model_args=(None,),
            rng_key=key,
        )

    def step(self, state: Any, stored: Stored) -> tuple[Any, dict[str, Any]]:
        """One transition of one chain."""
        new = self._kernel(state, (stored,), {})
        kept = {
            "shared": new.z,
            "diverging": new.diverging,
            "n_steps": new.num_steps,
            "acceptance_rate": new.accept_prob,
        }
        return new, kept

    def _summary(self, vectors: Float[Array, "draw shared"], stored: Stored) -> Summary:
        values = jax.vmap(lambda vector: self.unknowns.drawn(vector)[1])(vectors)
        median = self.unknowns.drawn(jnp.median(vectors, axis=0))[0]
        n = vectors.shape[0]
        some = vectors[np.linspace(0, n - 1, min(n, _N_VARIANCE)).astype(int)]

        def variance(vector: Array) -> Array:
            return self.variance(self.unknowns.drawn(vector)[0], median, stored)

        log_detected = None
        if (selection := stored.selection) is not None:
            log_detected = jax.lax.map(
                lambda vector: selection.log_detected(self.population, self.unknowns.drawn(vector)[0]),
                vectors,
            )
        spread = jnp.mean(jax.lax.map(variance, some))
        return Summary(values, log_detected, self.log_weight(median, stored), spread)

    def variance(self, hyper: Hyper, reference: Hyper, stored: Stored) -> Float[Array, ""]:
        r"""Monte Carlo variance of the difference in log-likelihood between two points, nats squared.

        Both use the same draws, so that for normalised weights W it is the sum over galaxies of
        :math:`\sum_s (W_s - W'_s)^2`, and the same for the draws of the selection, times the squared number
        of galaxies (delta method; Essick & Farr 2022, arXiv:2204.00461).
        """

        def normalised(point: Hyper) -> Array:
            return jax.nn.softmax(self.log_weight(point, stored), axis=1)

        found = jnp.sum((normalised(hyper) - normalised(reference)) ** 2)
        if stored.selection is not None:
            n_galaxy = stored.log_interim.shape[0]
            found = found + stored.selection.variance(self.population, n_galaxy, hyper, reference)
        return found


def reweighting_of(population: Population, n_warmup: int) -> Reweighting:
    """Programs of a population, those of an earlier fit if its relations were the same.

    Nothing is kept for relations that can change after they are made.
    """
    if not all(_is_frozen(relation) for relation in population.relations):
        return Reweighting(population, n_warmup)
    return _kept(population.relations, n_warmup, str(jnp.result_type(float)))


@functools.lru_cache(maxsize=_N_KEPT)
def _kept(relations: tuple[Relation, ...], n_warmup: int, precision: str) -> Reweighting:
    del precision  # only to tell programs apart
    return Reweighting(Population(relations), n_warmup)


def _is_frozen(relation: Relation) -> bool:
    params = getattr(type(relation), "__dataclass_params__", None)
    return dataclasses.is_dataclass(relation) and params is not None and params.frozen and params.eq


def reweight(
    draws: PosteriorDraws,
    population: Population,
    *,
    selection: Selection | None = None,
    n_warmup: int = 500,
    n_draw: int = 500,
    n_chain: int = 4,
    seed: int = 0,
    progress: Progress | None = None,
    config: ReweightConfig | None = None,
) -> PopulationResult:
    """Hyperparameters by importance reweighting; arguments and errors as of `fit_population`."""
    config = ReweightConfig() if config is None else config
    if config.sampler not in ("auto", "importance", "nuts"):
        raise ValueError(
            f"`sampler` must be 'auto', 'importance' or 'nuts' in its own `sampler`, got {config.sampler!r}."
        )
    method = reweighting_of(population, n_warmup)
    key, key_start = jax.random.split(jax.random.key(seed))
    start = 0.3 * jax.random.normal(key_start, (n_chain, method.unknowns.n))
    properties, prior = draws.properties, draws.prior
    spread = spread_over_devices(len(draws.id))

    def here(tree: Any) -> Any:
        return tree if spread is None else spread.fetch(tree)

    state = jax.vmap(method.init)(start, jax.random.split(key, n_chain))
    if spread is not None:
        properties, selection = spread.arrays(properties), spread.draws(selection)
        state, start = spread.state(state), spread.state(start)
    stored, largest = method.prepared(properties, prior, selection, start)
    refuse_excluded(np.asarray(here(largest))[:, None], draws.id)
    rough: Stored | None = None
    if (every := stored.log_interim.shape[1] // _N_ROUGH) > 1:
        some = {name: value[:, ::every] for name, value in properties.items()}
        found, largest = method.prepared(some, prior, selection, start)
        rough = found if bool(jnp.isfinite(largest).all()) else None
    by_weights: ImportanceDraws | None = None
    if config.sampler != "nuts":
        try:
            by_weights = _by_weights(
                method, stored, rough, n_chain * n_draw, config.importance, seed, spread, progress
            )
        except ValueError:  # no optimum, or a proposal that is not one (numpy.linalg.LinAlgError)
            if config.sampler == "importance":
                raise
    if config.sampler == "auto" and by_weights is not None:
        is_trusted = by_weights.k <= _LARGEST_K and by_weights.kish >= _LEAST_EFFECTIVE
        by_weights = by_weights if is_trusted else None
    if by_weights is not None:
        vectors = by_weights.vectors.reshape(n_chain, n_draw, -1).astype(np.float32)
        kept: dict[str, Any] = {"diverging": np.zeros((n_chain, n_draw), bool)}
    else:
        n_rough, report = 0, progress
        if rough is not None:
            n_rough = PIECE * (3 * n_warmup // (4 * PIECE))
            state, report = _warmed_up(method, state, rough, n_rough, n_warmup + n_draw, progress)
        energy, slope = method.at(state.z, stored)
        state = state._replace(potential_energy=energy, z_grad=slope)
        kept = run_chains(
            method.step, state, stored, Schedule(n_warmup - n_rough, n_draw), {}, report, _TEXT,
            program=method.program, spread=spread,
        )  # fmt: skip
        vectors = np.asarray(kept.pop("shared"))
    summary: Summary = here(method.summary(jnp.asarray(vectors.reshape(-1, vectors.shape[-1])), stored))
    by_chain = vectors.shape[:2]
    values = {name: np.asarray(v).reshape(*by_chain, *v.shape[1:]) for name, v in summary.values.items()}
    if summary.log_detected is not None:
        values["log_detected"] = np.asarray(summary.log_detected).reshape(by_chain)
    log_weight = np.asarray(summary.log_weight, np.float64)
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    effective = weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)
    _, k = import_arviz().psislw(np.where(np.isfinite(log_weight), log_weight, -1e30))
    return judged(
        values, kept, method="reweight", variance=float(summary.variance), effective=effective,
        pareto_k=np.asarray(k),
        importance=by_weights,
    )  # fmt: skip


def _by_weights(
    method: Reweighting,
    stored: Stored,
    rough: Stored | None,
    n_draw: int,
    config: ImportanceConfig,
    seed: int,
    spread: Spread | None,
    progress: Progress | None,
) -> ImportanceDraws:
    """Importance sampling of the hyperparameters; all hosts do the same."""
    few = stored if rough is None else rough
    n_round = config.n_round + config.n_batch
    n_total = stored.log_interim.size
    if stored.selection is not None:
        n_total += len(stored.selection.log_detection)
    n_point = config.n_point
    if n_point is None:
        n_point = 1000 * int(np.clip(_DENSITIES // (1000 * n_total), 1, 4))
    limit = max(1, min(64, _AT_ONCE // n_total))
    n_at_once = next(
        n for n in range(limit, 0, -1) if n_point % n == 0
    )  # one program, not one more for the rest
    n_done = 0

    def there(x: np.ndarray) -> Array:
        single = jnp.asarray(x, jnp.result_type(float))
        return single if spread is None else spread.state(single)

    def here(tree: Any) -> Any:
        return tree if spread is None else spread.fetch(tree)

    def slope_of(content: Stored) -> Any:
        def at(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = here(method.one(there(x), content))
            good = np.where(np.isfinite(slope), slope, 0.0)
            return float(value) if np.isfinite(value) else 10 * EXCLUDED, np.asarray(good, np.float64)

        return at

    def log_density(x: np.ndarray) -> np.ndarray:
        nonlocal n_done
        n_done += 1
        value = np.asarray(here(method.energies(there(x), stored, n_at_once)), np.float64)
        if progress is not None:
            progress(min(n_done, n_round), n_round, _TEXT)
        return np.where(np.isfinite(value), -value, -np.inf)

    rough_slope = slope_of(few)
    rng = np.random.default_rng([seed, 19])
    starts = rng.standard_normal((config.n_start, method.unknowns.n))
    starts[0] = 0.0
    best = optima(rough_slope, slope_of(stored), starts)
    return sample(log_density, best, rough_slope, n_draw, n_point, config, rng, largest_k=_LARGEST_K)


def _warmed_up(
    method: Reweighting,
    state: Any,
    stored: Stored,
    n_step: int,
    n_total: int,
    progress: Progress | None,
) -> tuple[Any, Progress | None]:
    """Chains after the first part of the warm-up, with few draws of each galaxy; and who is told of the rest.

    Steps are the longest then, and the place and the mass matrix are still sought.
    """
    energy, slope = method.at(state.z, stored)
    state = state._replace(potential_energy=energy, z_grad=slope)
    for done in range(PIECE, n_step + 1, PIECE):
        state, _ = method.program(state, stored)
        if progress is not None:
            progress(done, n_total, f"{_TEXT}: warm-up")
    if progress is None:
        return state, None
    told = progress
    return state, lambda done, total, text: told(done + n_step, total + n_step, text)
