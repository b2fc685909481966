r"""How much data tell of single parameters, in nats, from weighted draws of posteriors.

- *Contraction*: ln of the ratio of 68 % widths.
- *Entropy lost*: H[photometry] - H[photometry and image] of the parameter's marginal. Its mean over galaxies
  of the prior is the conditional mutual information, if the posteriors are calibrated.
- *Score gained*: ln p(truth | both) - ln p(truth | photometry) of the marginals. It has the same mean if they
  are calibrated and a smaller one if not; it is noisier.
- *All parameters together*: ln p(image | truth) - ln E[p(image | theta)], the mean over the posterior without
  the image: the score gained of the joint density, without estimating any density.

Marginal densities are kernel estimates, with reflection at bounds (Silverman 1986, section 2.10).
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d

_N_GRID = 512


def weighted_quantile(
    values: Float[np.ndarray, " draw"],
    weight: Float[np.ndarray, " draw"],
    levels: Float[np.ndarray, " level"],
) -> Float[np.ndarray, " level"]:
    """Quantiles of weighted draws, linear between the middles of their steps."""
    order = np.argsort(values)
    cumulative = np.cumsum(weight[order])
    place = (cumulative - 0.5 * weight[order]) / cumulative[-1]
    return np.asarray(np.interp(levels, place, values[order]))


class Marginal:
    """Kernel estimate of the density of one parameter between bounds.

    The width of the kernel is Silverman's (1986, equation 3.31), 0.9 min(s, IQR / 1.34) n^(-1/5), n the
    effective number of draws.

    Parameters
    ----------
    values, weight
        Draws.
    bounds
        Where the density ends.

    Raises
    ------
    ValueError
        If a draw is outside of the bounds.
    """

    def __init__(
        self,
        values: Float[np.ndarray, " draw"],
        weight: Float[np.ndarray, " draw"],
        bounds: tuple[float, float],
    ) -> None:
        low, high = bounds
        if values.min() < low - 1e-4 or values.max() > high + 1e-4:
            raise ValueError(
                f"`values` must be within {bounds}, got {values.min():.4g} to {values.max():.4g}."
            )
        weight = weight / weight.sum()
        mean = float(np.sum(weight * values))
        spread = math.sqrt(float(np.sum(weight * (values - mean) ** 2)))
        quartiles = weighted_quantile(values, weight, np.array([0.16, 0.25, 0.75, 0.84]))
        effective = float(1 / np.sum(weight**2))
        self.width_68 = float(quartiles[3] - quartiles[0])
        robust = min(spread, float(quartiles[2] - quartiles[1]) / 1.349) or spread
        # A grid over the draws, or a narrow posterior in a wide prior would be a few cells.
        margin = 5 * max(robust, 1e-6)
        self.low, self.high = max(low, values.min() - margin), min(high, values.max() + margin)
        self._step = (self.high - self.low) / _N_GRID
        width = max(0.9 * robust * effective**-0.2, 1e-9) / self._step
        cell = np.clip(((values - self.low) / self._step).astype(int), 0, _N_GRID - 1)
        counts = np.bincount(cell, weight, minlength=_N_GRID)
        smooth = gaussian_filter1d(counts, width, mode="reflect", truncate=6.0)
        self.density = smooth / (smooth.sum() * self._step)
        """On the grid."""

    @property
    def entropy(self) -> float:
        """Nats; of a density in the parameter's unit, so that differences alone mean something."""
        p = self.density[self.density > 0]
        return float(-np.sum(p * np.log(p)) * self._step)

    def log_density(self, value: float) -> float:
        """At one value, nats; at least that of one draw in ten thousand spread evenly over the range."""
        least = 1e-4 / (self.high - self.low)
        if not self.low <= value <= self.high:
            return math.log(least)
        cell = min(int((value - self.low) / self._step), _N_GRID - 1)
        return math.log(max(float(self.density[cell]), least))
