r"""Selection: galaxies that were too faint to be measured are part of the population too.

For N galaxies that were measured because their *data* passed a cut, the likelihood of hyperparameters has

.. math:: \prod_i \frac{p(d_i | \eta)}{P(\mathrm{det} | \eta)}, \quad
          P(\mathrm{det} | \eta) = \int p(\theta | \eta)\, P(\mathrm{det} | \theta)\, d\theta
          \approx \frac1M \sum_j \frac{p(\theta_j | \eta)}{q(\theta_j)} P(\mathrm{det} | \theta_j)

(Loredo 2004; Mandel, Farr & Gair 2019, MNRAS 486, 1086; the number of galaxies is marginalised with a prior
1 / number). The sum is over draws from a broad q, the same for all hyperparameters, and differentiable.

Far from all draws the sum is of a few of them at most, and far too small: minus N times its logarithm then
beats any likelihood. Hyperparameters at which fewer draws are effective than `least_effective` says are
therefore excluded (Farr 2019, Res. Notes AAS 3, 66, asks for four times the number of galaxies).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from hbm.config import InterimPrior
from hbm.population.draws import PROPERTIES, interim_draw, interim_log_prob
from hbm.population.relations import Galaxies, Hyper, Population, default_population, with_published


class Selection(NamedTuple):
    """Draws of q with the probability of being measured; make it with `selection_by`."""

    galaxies: dict[str, Float[Array, " draw"]]
    """Properties and ``age_universe``, with `with_published`. Described properties that are not here are
    integrated out: detection does not depend on them."""
    log_reference: Float[Array, " draw"]
    """Log density q of the properties."""
    log_detection: Float[Array, " draw"]
    """Log of P(det | theta) over the probability with which a draw was kept: a constant, -inf for padding."""

    def log_detected(
        self, population: Population, hyper: Hyper, least: Float[ArrayLike, ""] = 0.0
    ) -> Float[Array, ""]:
        """Log of P(det | hyperparameters); infinite where fewer draws than ``least`` are effective."""
        log_weight = self._log_weight(population, hyper)
        top = jax.lax.stop_gradient(jnp.max(log_weight))
        weight = jnp.exp(log_weight - jnp.where(jnp.isfinite(top), top, 0.0))
        total = jnp.sum(weight)
        is_known = (total > 0) & (total**2 >= least * jnp.sum(weight**2))
        found = jnp.log(jnp.where(is_known, total, 1.0)) + top - np.log(len(log_weight))
        return jnp.where(is_known, found, jnp.inf)

    def effective(self, population: Population, hyper: Hyper) -> Float[Array, ""]:
        """Effective number of draws of the sum (Kish)."""
        log_weight = self._log_weight(population, hyper)
        found: Array = jnp.exp(2 * logsumexp(log_weight) - logsumexp(2 * log_weight))
        return jnp.where(jnp.isfinite(found), found, 0.0)

    def weights(self, population: Population, hyper: Hyper) -> Float[Array, " draw"]:
        """What part of P(det | hyperparameters) each draw is."""
        return jax.nn.softmax(self._log_weight(population, hyper))

    def variance(
        self, population: Population, n_galaxy: int, hyper: Hyper, reference: Hyper
    ) -> Float[Array, ""]:
        """Monte Carlo variance of the difference of ``n_galaxy`` times `log_detected` between two points.

        By the delta method (Essick & Farr 2022, arXiv:2204.00461), nats squared.
        """
        one, two = (self.weights(population, point) for point in (hyper, reference))
        return n_galaxy**2 * jnp.sum((one - two) ** 2)

    def _log_weight(self, population: Population, hyper: Hyper) -> Float[Array, " draw"]:
        described = tuple(r for r in population.relations if r.property in self.galaxies)
        log_prob = Population(described).log_prob(self.galaxies, hyper)
        return log_prob - self.log_reference + self.log_detection


_MOST_CHUNKS = 32
"""Times the number of draws that are tried at most."""


def least_effective(n_galaxy: int, usual: Float[Array, " any"]) -> Float[Array, ""]:
    """Effective draws below which hyperparameters are excluded.

    Four for each galaxy, or a quarter of what some plausible hyperparameters have, if that is less: with too
    few draws for so many galaxies, `Selection.variance` says so, and the posterior is not to be cut.
    """
    return jnp.minimum(4.0 * n_galaxy, 0.25 * jnp.max(usual))


def selection_by(
    detection: Callable[[Galaxies], Float[Array, " draw"]],
    age_universe: Float[np.ndarray, " any"],
    prior: InterimPrior,
    population: Population,
    *,
    depends: Sequence[str] | None = None,
    about: Hyper | None = None,
    n_draw: int = 20_000,
    seed: int = 0,
) -> Selection:
    """Selection from the probability that a galaxy of given properties is measured.

    Parameters
    ----------
    detection
        Gives P(det | properties) between 0 and 1: the part of noise realisations whose data pass the cut.
    age_universe
        Gyr: draws from the redshift distribution of all galaxies, measured or not.
    prior
        Ranges of the properties.
    population
        What will be fitted. Properties that it does not describe keep their interim prior.
    depends
        Described properties that ``detection`` depends on; all by default. Described properties after the
        last of these (`PROPERTIES` has the order) are integrated out exactly, which makes P(det) less noisy.
    about
        Hyperparameters of ``population``, as the medians of an earlier fit: about them P(det) is least noisy.
        By default the middle of the default population's hyperpriors.
    n_draw
        Measured draws of q, as far as 32 times as many candidates hold them: half of these are from the
        interim prior, half have the described properties from the population ``about``. An even number.
    seed
        Of the draws.

    Raises
    ------
    ValueError
        If ``detection`` gives anything but probabilities, or zero for all, ``n_draw`` is not even, or the
        population does not describe what ``depends`` names.
    """
    if n_draw < 2 or n_draw % 2:
        raise ValueError(f"`n_draw` must be even and positive, got {n_draw}.")
    depends = population.properties if depends is None else depends
    if not depends or not set(depends) <= set(population.properties):
        raise ValueError(
            f"`depends` must name some of what `population` describes, {', '.join(population.properties)}, "
            f"got {tuple(depends)}."
        )
    last = max(PROPERTIES.index(name) for name in depends)
    kept_names = tuple(n for n in population.properties if PROPERTIES.index(n) <= last)
    described = _middle_of(prior, population.properties) if about is None else population
    hyper = MIDDLE if about is None else {name: jnp.asarray(value) for name, value in about.items()}
    rng = np.random.default_rng(seed)
    chunks: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    total = 0.0
    while len(chunks) < _MOST_CHUNKS and total < n_draw * max((p.max() for _, p in chunks), default=1.0):
        root = jax.random.key(seed)
        keys = jax.random.split(jax.random.fold_in(root, len(chunks)) if chunks else root)
        age = jnp.asarray(rng.choice(age_universe, n_draw), jnp.float32)
        galaxies = _drawn(described, prior, hyper, keys, age)
        probability = np.asarray(detection(galaxies), np.float64)
        good = (probability >= 0) & (probability <= 1)
        if probability.shape != age.shape or not good.all() or not (total or (probability > 0).any()):
            raise ValueError(
                "`detection` must give a probability between 0 and 1 for each galaxy, above 0 for some, got "
                f"shape {probability.shape} and values from {probability.min()} to {probability.max()}."
            )
        chunks.append((jax.device_get(galaxies), probability))
        total += float(probability.sum())
    kept, log_detection = _measured(chunks, n_draw, rng)
    dropped = set(population.properties) - set(kept_names)
    kept = {name: value for name, value in kept.items() if name not in dropped}
    found, log_reference = _finished(described, prior, kept_names, hyper, kept)
    return Selection(found, log_reference, log_detection)


def _measured(
    chunks: Sequence[tuple[dict[str, np.ndarray], np.ndarray]], n_draw: int, rng: np.random.Generator
) -> tuple[dict[str, Array], Float[Array, " draw"]]:
    """Draws of q that are measured, as often as they are, and what each stands for: a constant.

    Of K candidates, those that are measured by a coin of probability P / P_max are kept: the sum over them of
    p / q, times P_max / K, is that over all of P p / q. What is missing to ``n_draw`` is filled with draws of
    no weight, so that all selections of a size have one shape.
    """
    names = tuple(chunks[0][0])
    every = {name: np.concatenate([galaxies[name] for galaxies, _ in chunks]) for name in names}
    probability = np.concatenate([p for _, p in chunks])
    largest = float(probability.max())
    place = np.flatnonzero(rng.uniform(size=len(probability)) * largest < probability)
    n_measured = len(place)
    if n_measured > n_draw:
        place = np.sort(rng.choice(place, n_draw, replace=False))
    each = largest * n_measured / len(probability) * n_draw / len(place)
    rows = np.resize(place, n_draw)
    weight = np.where(np.arange(n_draw) < len(place), np.log(each), -np.inf)
    kept = {name: jnp.asarray(value[rows]) for name, value in every.items()}
    return kept, jnp.asarray(weight, jnp.float32)


@functools.lru_cache(maxsize=8)
def _middle_of(prior: InterimPrior, names: tuple[str, ...]) -> Population:
    """Default relations of some properties; the same object each time, for which programs are compiled."""
    return Population(tuple(r for r in default_population(prior).relations if r.property in names))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _drawn(
    described: Population,
    prior: InterimPrior,
    hyper: Hyper,
    keys: Key[Array, " half"],
    age: Float[Array, " draw"],
) -> dict[str, Array]:
    """Draws of q: half from the population, half from the interim prior."""
    relations = {relation.property: relation for relation in described.relations}
    parts = []
    for half, of in enumerate((relations, {})):
        part: dict[str, Array] = {"age_universe": age[half::2]}
        for i, name in enumerate(PROPERTIES):
            one = jax.random.fold_in(keys[half], i)
            if name in of:
                part[name] = of[name].draw(one, part, hyper)
            else:
                part[name] = interim_draw(name, one, part, prior)
        parts.append(part)
    return {name: jnp.concatenate([part[name] for part in parts]) for name in parts[0]}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _finished(
    described: Population,
    prior: InterimPrior,
    names: tuple[str, ...],
    hyper: Hyper,
    galaxies: dict[str, Array],
) -> tuple[dict[str, Array], Float[Array, " draw"]]:
    """Draws with the published relations in place, and log q of the named properties.

    Other properties follow the interim prior in q as in the population, whose densities cancel.
    """
    part = Population(tuple(r for r in described.relations if r.property in names))
    log_interim = interim_log_prob(galaxies, prior, names)
    log_q = jnp.logaddexp(part.log_prob(galaxies, hyper), log_interim) - np.log(2)
    return with_published(galaxies), log_q


MIDDLE = {
    "log_mstar": 10.9, "alpha": -1.2, "sfs_offset": 0.0, "sfs_tilt": 0.0, "sfs_scatter": 0.4,
    "quiescent_mass": 10.8, "quiescent_width": 0.5, "quiescent_logssfr": -11.8, "quiescent_scatter": 0.5,
    "mzr_offset": 0.0, "mzr_tilt": 0.0, "mzr_scatter": 0.35, "dust_level": 0.4, "dust_mass": 0.0,
    "dust_ssfr": 0.0, "dust_scatter": 0.5, "logu_level": -2.7, "logu_ssfr": 0.0, "logu_scatter": 0.5,
}  # fmt: skip
"""A population in the middle of the hyperpriors."""
