r"""The prior on a redshift that is not known.

.. math:: p(z | m) = (1 - u) \, N z^{\alpha} \exp[-(z / z_m)^{\beta}] + u / (z_{high} - z_{low}),
          \quad z_m = \max[z_0 + k (m - 20), z_{min}]

between two limits, N so that it is normalised there; m is an apparent AB magnitude of the galaxy. The small
uniform part u keeps galaxies possible that the exponential all but excludes, such as those of z > 3 that one
filter drops. The first part is the form of Benitez
(2000, ApJ 536, 571) and Ilbert et al. (2006, A&A 457, 841). The defaults are those of the LSST Science Book
(2009, arXiv:0912.0201, section 3.7) for samples limited in the i band: alpha = 2, beta = 1,
z_m = 0.0417 m_i - 0.744, held above 0.03; u = 0.02 is ours.

It is a prior at given magnitude, not a density in space: under the interim prior log10 mass is uniform
(`hbm.prior`), so at a measured flux mass follows from redshift, and no redshift is favoured by it. Comoving
volume instead would put every faint galaxy at the far end, where there are hardly any galaxies of the mass
that it would need.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.integrate
from jax.typing import ArrayLike
from jaxtyping import Array, Float

_N_NODE = 4001
_MAG = 20.0
_SMALLEST_SCALE = 0.03
_CLEAR = 3.0
_I_BAND_AA = 7600.0


class ZredDensity(NamedTuple):
    """Density of the redshift of one galaxy; a pytree of arrays without axes."""

    low: Float[ArrayLike, ""]
    high: Float[ArrayLike, ""]
    alpha: Float[ArrayLike, ""]
    beta: Float[ArrayLike, ""]
    log_scale: Float[ArrayLike, ""]
    """ln z_m; infinite without a decline."""
    log_norm: Float[ArrayLike, ""]
    """ln of the integral of the first part between the limits, without (1 - u)."""
    flat: Float[ArrayLike, ""]
    """Weight u of the uniform part."""

    def log_prob(self, zred: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Natural logarithm of the normalised density; minus infinity outside of the limits."""
        z = jnp.asarray(zred)
        inside = (z >= self.low) & (z <= self.high)
        log_z = jnp.log(jnp.where(inside, z, 0.5 * (jnp.asarray(self.low) + self.high)))
        decline = jnp.exp(self.beta * (log_z - self.log_scale))
        shaped = jnp.log1p(-jnp.asarray(self.flat)) + self.alpha * log_z - decline - self.log_norm
        level = jnp.asarray(self.flat) / (jnp.asarray(self.high) - self.low)
        even = jnp.where(level > 0, jnp.log(jnp.where(level > 0, level, 1.0)), -jnp.inf)
        return jnp.where(inside, jnp.logaddexp(shaped, even), -jnp.inf)


@dataclass(frozen=True)
class ZredPrior:
    """Numbers of the prior of all galaxies of a catalogue; see the head of this module.

    Raises
    ------
    ValueError
        If the limits are not 0 < low < high, ``beta`` or ``z0`` are not positive, ``alpha`` is not above -1,
        ``slope`` is not finite, or ``flat`` is not in [0, 1).
    """

    low: float = 0.01
    """Smallest redshift."""
    high: float = 6.0
    """Largest redshift."""
    alpha: float = 2.0
    """Exponent of the rise."""
    beta: float = 1.0
    """Exponent of the decline."""
    z0: float | None = 0.09
    """z_m at magnitude 20; None for no decline."""
    slope: float = 0.0417
    """Change of z_m per magnitude; 0 for a prior that does not depend on magnitude."""
    flat: float = 0.02
    """Weight of a uniform part."""

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and math.isfinite(self.high)):
            raise ValueError(f"`low` and `high` must be 0 < low < high, got {self.low} and {self.high}.")
        if not self.beta > 0:
            raise ValueError(f"`beta` must be > 0, got {self.beta}.")
        if self.z0 is not None and not self.z0 > 0:
            raise ValueError(f"`z0` must be > 0, or None for no decline, got {self.z0}.")
        if not (self.alpha > -1 and math.isfinite(self.alpha)):
            raise ValueError(f"`alpha` must be above -1, got {self.alpha}.")
        if not math.isfinite(self.slope):
            raise ValueError(f"`slope` must be finite, got {self.slope}.")
        if not 0 <= self.flat < 1:
            raise ValueError(f"`flat` must be at least 0 and below 1, got {self.flat}.")

    @classmethod
    def uniform(cls, low: float = 0.01, high: float = 6.0) -> "ZredPrior":
        """Same density everywhere between two limits."""
        return cls(low, high, alpha=0.0, z0=None, slope=0.0, flat=0.0)

    def at(self, mag: float) -> ZredDensity:
        """Density for a galaxy of an AB magnitude; of the prior alone where that is nan."""
        log_scale = math.inf
        if self.z0 is not None:
            fainter = mag - _MAG if math.isfinite(mag) else 0.0
            smallest = min(_SMALLEST_SCALE, self.z0)
            log_scale = math.log(max(self.z0 + self.slope * fainter, smallest))
        x = np.linspace(math.log(self.low), math.log(self.high), _N_NODE)
        exponent = (self.alpha + 1) * x - np.exp(np.minimum(self.beta * (x - log_scale), 700.0))
        top = float(exponent.max())
        log_norm = top + math.log(float(scipy.integrate.simpson(np.exp(exponent - top), x=x)))
        # Arrays: as Python numbers they would be part of a compiled program, a new one for each galaxy.
        numbers = (self.low, self.high, self.alpha, self.beta, log_scale, log_norm, self.flat)
        return ZredDensity(*(np.asarray(number, np.float32) for number in numbers))


def prior_magnitude(
    flux: Float[np.ndarray, " band"],
    flux_err: Float[np.ndarray, " band"],
    wave_pivot: Float[np.ndarray, " band"],
) -> float:
    """AB magnitude that the prior depends on: of the band nearest to the i band (7600 Angstrom) that sees it.

    Parameters
    ----------
    flux, flux_err : maggies
        nan where not observed, and for upper limits.
    wave_pivot : Angstrom

    Returns
    -------
    AB magnitude
        Of the nearest band with a flux of 3 errors or more. If there is none, of the nearest band, with the
        error in the place of a flux below it; nan if there is no flux at all.
    """
    seen = np.isfinite(flux) & np.isfinite(flux_err)
    if not seen.any():
        return math.nan
    with np.errstate(invalid="ignore"):
        clear = seen & (flux >= _CLEAR * flux_err)
    distance = np.where(clear if clear.any() else seen, np.abs(np.log(wave_pivot / _I_BAND_AA)), np.inf)
    band = int(np.argmin(distance))
    return float(-2.5 * np.log10(max(flux[band], flux_err[band])))
