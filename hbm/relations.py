"""Published relations that centre the interim prior. Pure functions of one galaxy's numbers."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

GALLAZZI_LOGMASS = np.array(
    [8.87, 9.07, 9.27, 9.47, 9.68, 9.87, 10.07, 10.27, 10.47, 10.68, 10.87, 11.07, 11.27, 11.47, 11.68, 11.87]
)
"""log10 stellar mass (Msun) of `GALLAZZI_LOGZSOL`, from Prospector's file ``gallazzi_05_massmet.txt``:
those of Gallazzi et al. (2005), table 2, there "corrected to Chabrier IMF"."""

GALLAZZI_LOGZSOL = np.array(
    [-0.60, -0.61, -0.65, -0.61, -0.52, -0.41, -0.23, -0.11, -0.01, 0.04, 0.07, 0.10, 0.12, 0.13, 0.14, 0.15]
)
"""Median log10 stellar metallicity (Zsun) at these masses, from the same file; Gallazzi et al. 2005,
MNRAS 362, 41, table 2."""


def star_forming_sequence(
    logmass: Float[ArrayLike, "..."], age_universe_gyr: Float[ArrayLike, "..."]
) -> Float[Array, "..."]:
    """log10 specific star formation rate (1/yr) of the star-forming sequence.

    Speagle et al. 2014 (ApJS 214, 15, equation 28): log SFR = (0.84 - 0.026 t) log M - (6.51 - 0.11 t),
    t the age of the universe in Gyr.
    """
    t = jnp.asarray(age_universe_gyr)
    return (0.84 - 0.026 * t) * jnp.asarray(logmass) - (6.51 - 0.11 * t) - jnp.asarray(logmass)


def mass_metallicity(logmass: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Median log10 stellar metallicity (Zsun) at a stellar mass (log10 Msun, Chabrier).

    The relation of Gallazzi et al. (2005), linear between its points and constant beyond them.
    """
    x = jnp.asarray(logmass)[..., None]
    # Piecewise linear as a sum of ramps: one vectorised expression, where a search would be a loop.
    left, width = GALLAZZI_LOGMASS[:-1], np.diff(GALLAZZI_LOGMASS)
    steps = jnp.clip((x - left) / width, 0.0, 1.0) * np.diff(GALLAZZI_LOGZSOL)
    return jnp.asarray(GALLAZZI_LOGZSOL[0] + jnp.sum(steps, axis=-1))
