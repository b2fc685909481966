r"""What may be wrong with a galaxy's fluxes, each as a likelihood of the fluxes given its true properties.

With m the model fluxes, an error of unknown size delta changes them to m'(delta), and

.. math:: p_c(f | \theta) = \int p(\delta)\, p(f | m'(\theta, \delta))\, d\delta

- ``shred``: a part of the light is lost, in all bands alike, :math:`m' = (1 - \delta) m`;
- ``blend``: light of something else is added, :math:`m'_b = m_b [1 + r (\lambda_b / \lambda_0)^\kappa]`;
- ``band``: one band is off, :math:`m'_b = 10^{-0.4 \delta} m_b`, the others as they are.

The integrals are means over nodes that are spread evenly and shifted at random for every draw of theta, so
that the mean over draws has no bias, whatever the number of nodes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from hbm.model import OUTLIER_SCALE, Calibration
from sed.likelihood import band_loglike

_N_NODE = 64
_LATTICE = (1 / 1.324717957244746, 1 / 1.324717957244746**2)
"""Steps of the two-dimensional lattice of Roberts (2018), which fills the square evenly."""


class Corruptions(NamedTuple):
    """Prior of the size of each error."""

    lost: tuple[float, float] = (0.1, 0.9)
    """Range of the part of the light that a shred has lost, uniform."""
    added: tuple[float, float] = (0.1, 3.0)
    """Range of the light that a blend adds, over the galaxy's own, uniform in the logarithm."""
    tilt: float = 1.5
    """Width of the normal distribution of the added light's power of wavelength relative to the galaxy's."""
    band: float = 0.5
    """Width (mag) of the normal distribution of the offset of one band."""

    def checked(self) -> "Corruptions":
        """The same; ValueError if it makes no sense."""
        low, high = self.lost
        if not 0 <= low < high <= 1:
            raise ValueError(f"`lost` must be a range within (0, 1), got {self.lost}.")
        low, high = self.added
        if not 0 < low < high:
            raise ValueError(f"`added` must be a range above 0, got {self.added}.")
        if not (self.tilt > 0 and self.band > 0):
            raise ValueError(f"`tilt` and `band` must be positive, got {self.tilt} and {self.band}.")
        return self


class Measured(NamedTuple):
    """Photometry of one galaxy; fields as in `hbm.model.GalaxyData`."""

    flux: Float[ArrayLike, " band"]
    """maggies; where ``upper_limit``, the limit."""
    flux_err: Float[ArrayLike, " band"]
    """maggies."""
    observed: Bool[ArrayLike, " band"]
    upper_limit: Bool[ArrayLike, " band"]


class FluxLogLike(NamedTuple):
    """Log-likelihood of the measured fluxes at one model, nats, under each hypothesis."""

    good: Float[Array, "*draw"]
    """Nothing is wrong."""
    shred: Float[Array, "*draw"]
    blend: Float[Array, "*draw"]
    band: Float[Array, "*draw band"]
    """That band is off."""
    of_band: Float[Array, "*draw band"]
    """The terms of ``good``."""


def flux_loglikes(
    flux: Float[Array, " band"],
    calibration: Calibration,
    data: Measured,
    log_wave: Float[Array, " band"],
    shift: Float[Array, "2"],
    corruptions: Corruptions,
) -> FluxLogLike:
    """Likelihood of a galaxy's fluxes under each hypothesis, at one point of parameter space.

    Parameters
    ----------
    flux : maggies
        Of the model.
    calibration
        Error floor, outliers and zero points at that point.
    data
        What was measured.
    log_wave
        Natural logarithm of the bands' wavelengths, over that in the middle.
    shift
        Two uniform random numbers: where the nodes are.
    corruptions
        Priors of the errors.
    """
    steps = jnp.arange(_N_NODE)
    even = (steps + shift[0]) / _N_NODE
    pair = jnp.mod(shift + steps[:, None] * jnp.asarray(_LATTICE), 1.0)
    even, pair = (jnp.clip(u, 1e-6, 1 - 1e-6) for u in (even, pair))

    def terms(model: Float[Array, " band"]) -> Float[Array, " band"]:
        return band_loglike(
            jnp.asarray(data.flux), jnp.asarray(data.flux_err), model, jnp.asarray(data.observed),
            error_floor=calibration.error_floor, upper_limit=jnp.asarray(data.upper_limit),
            outlier_fraction=calibration.outlier_fraction, outlier_scale=OUTLIER_SCALE,
            zero_point=calibration.zero_point,
        )  # fmt: skip

    def mean_over_nodes(factor: Float[Array, "_ _"]) -> Float[Array, ""]:
        every = jax.vmap(terms)(flux * factor).sum(axis=1)
        return logsumexp(every) - float(np.log(_N_NODE))

    of_band = terms(flux)
    good = of_band.sum()
    low, high = corruptions.lost
    shred = mean_over_nodes((1 - low - (high - low) * even)[:, None])
    start, stop = (float(np.log(value)) for value in corruptions.added)
    ratio = jnp.exp(start + (stop - start) * pair[:, 0])
    kappa = corruptions.tilt * norm.ppf(pair[:, 1])
    blend = mean_over_nodes(1 + ratio[:, None] * jnp.exp(kappa[:, None] * log_wave))
    offset = 10 ** (-0.4 * corruptions.band * norm.ppf(even))
    moved = jax.vmap(terms)(flux * offset[:, None])
    alone = logsumexp(moved, axis=0) - float(np.log(_N_NODE))
    return FluxLogLike(good, shred, blend, good - of_band + alone, of_band)
