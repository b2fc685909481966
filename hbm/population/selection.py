r"""Selection: galaxies that were too faint to be measured are part of the population too.

For N galaxies that were measured because their *data* passed a cut, the likelihood of hyperparameters has

.. math:: \prod_i \frac{p(d_i | \eta)}{P(\mathrm{det} | \eta)}, \quad
          P(\mathrm{det} | \eta) = \int p(\theta | \eta)\, P(\mathrm{det} | \theta)\, d\theta
          \approx \frac1M \sum_j \frac{p(\theta_j | \eta)}{q(\theta_j)} P(\mathrm{det} | \theta_j)

(Loredo 2004; Mandel, Farr & Gair 2019, MNRAS 486, 1086; the number of galaxies is marginalised with a prior
1 / number). The sum is over draws from a broad q, the same for all hyperparameters, and differentiable.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from hbm.config import InterimPrior
from hbm.population.draws import PROPERTIES, interim_draw, interim_log_prob
from hbm.population.relations import Galaxies, Hyper, Population, default_population


class Selection(NamedTuple):
    """Draws of q with the probability of being measured; make it with `selection_by`."""

    galaxies: dict[str, Float[Array, " draw"]]
    """Properties and ``age_universe``."""
    log_reference: Float[Array, " draw"]
    """Log density q of the properties."""
    log_detection: Float[Array, " draw"]
    """Log of P(det | theta)."""

    def log_detected(self, population: Population, hyper: Hyper) -> Float[Array, ""]:
        """Log of P(det | hyperparameters)."""
        log_weight = self._log_weight(population, hyper)
        found: Array = logsumexp(log_weight) - np.log(len(log_weight))
        return found

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
        return population.log_prob(self.galaxies, hyper) - self.log_reference + self.log_detection


def selection_by(
    detection: Callable[[Galaxies], Float[Array, " draw"]],
    age_universe: Float[np.ndarray, " any"],
    prior: InterimPrior,
    population: Population,
    *,
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
    n_draw
        Draws of q: half from the interim prior, half with the described properties from the middle of the
        default population's hyperpriors. An even number.
    seed
        Of the draws.

    Raises
    ------
    ValueError
        If ``detection`` gives anything but probabilities, or zero for all, or ``n_draw`` is not even.
    """
    if n_draw < 2 or n_draw % 2:
        raise ValueError(f"`n_draw` must be even and positive, got {n_draw}.")
    keys = jax.random.split(jax.random.key(seed))
    age = jnp.asarray(np.random.default_rng(seed).choice(age_universe, n_draw), jnp.float32)
    middle = {
        r.property: r for r in default_population(prior).relations if r.property in population.properties
    }
    parts = []
    for half, (key, described) in enumerate(zip(keys, (middle, {}), strict=True)):
        part: dict[str, Array] = {"age_universe": age[half::2]}
        for i, name in enumerate(PROPERTIES):
            one = jax.random.fold_in(key, i)
            if name in described:
                part[name] = described[name].draw(one, part, MIDDLE)
            else:
                part[name] = interim_draw(name, one, part, prior)
        parts.append(part)
    galaxies = {name: jnp.concatenate([part[name] for part in parts]) for name in parts[0]}
    probability = jnp.asarray(detection(galaxies))
    bad = ~((probability >= 0) & (probability <= 1))
    if probability.shape != age.shape or bool(bad.any()) or not bool((probability > 0).any()):
        raise ValueError(
            "`detection` must give a probability between 0 and 1 for each galaxy, above 0 for some, got "
            f"shape {probability.shape} and values from {probability.min()} to {probability.max()}."
        )
    # Other properties follow the interim prior in q as in the population, whose densities cancel.
    kept = Population(tuple(middle.values()))
    log_middle = kept.log_prob(galaxies, MIDDLE)
    log_interim = interim_log_prob(galaxies, prior, population.properties)
    log_reference = jnp.logaddexp(log_middle, log_interim) - np.log(2)
    return Selection(galaxies, log_reference, jnp.log(probability))


MIDDLE = {
    "log_mstar": 10.9, "alpha": -1.2, "sfs_offset": 0.0, "sfs_tilt": 0.0, "sfs_scatter": 0.4,
    "quiescent_mass": 10.8, "quiescent_width": 0.5, "quiescent_logssfr": -11.8, "quiescent_scatter": 0.5,
    "mzr_offset": 0.0, "mzr_tilt": 0.0, "mzr_scatter": 0.35, "dust_level": 0.4, "dust_mass": 0.0,
    "dust_ssfr": 0.0, "dust_scatter": 0.5, "logu_level": -2.7, "logu_ssfr": 0.0, "logu_scatter": 0.5,
}  # fmt: skip
"""A population in the middle of the hyperpriors."""
