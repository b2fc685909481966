r"""Posteriors by reweighting draws with the likelihood of the image, instead of another sampling.

The joint posterior is the photometric one times p(image | theta), so draws of the photometric one, weighted
by w = p(image | theta), are draws of it; and draws of the prior, weighted alike, are draws of the posterior
of the image alone. Weights are smoothed (Vehtari et al. 2024, JMLR 25, 72, arXiv:1507.02646; ArviZ's
`psislw`); the k of that says whether so few draws can do it.
"""

import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hbm.convergence import import_arviz
from hbm.image import GalaxyImage, ImageLikelihood

LEAST_EFFECTIVE = 100.0
"""Fewer effective draws are too few: sample instead."""

LARGEST_K = 0.7
"""Above this Pareto k weights are not to be trusted (Vehtari et al. 2024)."""

N_KEPT = 499
"""Draws of equal weight that are kept of each posterior."""


class Reweighted(NamedTuple):
    """Draws of one galaxy's posterior."""

    rows: np.ndarray
    """Which of the draws given, `N_KEPT` of them; some more than once."""
    effective: float
    """Effective number of draws: Kish's, times how efficient the draws given were."""
    k: float
    """Pareto k."""

    @property
    def is_good(self) -> bool:
        """Whether there are enough draws where the posterior is."""
        return self.effective >= LEAST_EFFECTIVE and self.k <= LARGEST_K


@eqx.filter_jit
def image_log_prob(
    likelihood: ImageLikelihood, theta: Float[Array, "draw theta"], galaxy: GalaxyImage
) -> Float[Array, " draw"]:
    """Ln p(image | theta) of one galaxy as fits use it: beyond training, that of the nearest point in it."""

    def one(row: Array) -> Array:
        inside = jnp.clip(likelihood.scaled(row, jnp.asarray(galaxy.age_gyr)), -1.0, 1.0)
        return likelihood.log_prob_scaled(inside, galaxy)

    value: Float[Array, " draw"] = jax.vmap(one)(theta)
    return value


def reweight(
    log_weight: Float[np.ndarray, " draw"], rng: np.random.Generator, *, efficiency: float = 1.0
) -> Reweighted:
    """Draws of equal weight from weighted ones.

    Parameters
    ----------
    log_weight
        Natural logarithm, up to a constant; minus infinity leaves a draw out.
    rng
        Source of randomness.
    efficiency
        Effective number of the draws given over their number.

    Raises
    ------
    ValueError
        If no draw has a weight.
    """
    use = np.flatnonzero(log_weight > -np.inf)
    if len(use) == 0:
        raise ValueError("`log_weight` must be finite for some draws.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k says it
        az: Any = import_arviz()
        smoothed, k = az.psislw(np.asarray(log_weight[use], np.float64), reff=min(efficiency, 1.0))
    weight = np.exp(np.asarray(smoothed) - np.max(smoothed))
    weight /= weight.sum()
    effective = efficiency / float(np.sum(weight**2))
    # Systematic resampling: each draw as often as its weight says, to the nearest whole number.
    place = (np.arange(N_KEPT) + rng.uniform()) / N_KEPT
    rows = np.minimum(np.searchsorted(np.cumsum(weight), place), len(use) - 1)
    return Reweighted(use[rows], effective, float(k))
