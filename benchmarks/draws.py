r"""Galaxies for benchmarks and stored references, drawn from distributions written down here.

They are those of the first interim prior of `hbm.prior`, and stay when the prior of fits changes, so that
numbers of different versions compare. With t the age of the universe:

- logmass uniform in (6, 12.7);
- logssfr split normal, 1.6 dex below and 0.5 dex above the sequence of Speagle et al. (2014, ApJS 214, 15,
  equation 28), truncated to (-14, -8); ratios of adjacent rates Student t, 2 degrees of freedom, 0.3 dex;
- or, for the delayed exponential, tage / t uniform in (0.01, 1), log10 tau uniform in (-1, 1.5);
- logzsol normal about the relation of Gallazzi et al. (2005, MNRAS 362, 41) with 0.5 dex, in (-2, 0.5);
- dust2 normal (0.3, 1) in (0, 4); dust1 / dust2 normal (1, 0.3) in (0, 2); dust_index normal (-0.2, 0.4) in
  (-1, 0.4); gas_logu normal (-2.7, 0.6) in (-4, -1).
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Float

from sed.cosmology import default_cosmology
from sed.parameters import BinnedSFH, DelayedTauSFH, SEDParams

SFHKind = Literal["binned", "delayed_tau"]

BANDS = (
    "galex_FUV", "galex_NUV", "sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0",
    "twomass_J", "twomass_Ks", "wise_w1",
)  # fmt: skip
"""Ten bands from 0.15 to 3.4 micron."""

_REST = ("logzsol", "dust2", "dust1", "dust_index", "gas_logu")
_DUST_EMISSION = (np.float64(1.0), np.float64(3.5), np.float64(0.01))
_SFH = {
    "binned": ("logmass", "logssfr", "logsfr_ratio_recent", "logsfr_ratios"),
    "delayed_tau": ("logmass", "tage", "tau"),
}


class Draws(NamedTuple):
    """Galaxies with a leading axis."""

    columns: dict[str, np.ndarray]
    """The free parameters by name, as `sed.parameters` has them."""
    zred: Float[np.ndarray, " galaxy"]
    """Redshifts."""

    def one(self, index: int) -> SEDParams:
        """One galaxy's parameters."""
        row = {name: np.asarray(column[index]) for name, column in self.columns.items()}
        kind = "binned" if "logssfr" in row else "delayed_tau"
        make = BinnedSFH if kind == "binned" else DelayedTauSFH
        history = make(**{name: row[name] for name in _SFH[kind]})
        dust = dict(zip(("duste_umin", "duste_qpah", "duste_gamma"), _DUST_EMISSION, strict=True))
        return SEDParams(sfh=history, **{name: row[name] for name in _REST}, **dust)

    def stacked(self) -> SEDParams:
        """All galaxies' parameters, a leading axis on every leaf."""
        every = [self.one(i) for i in range(len(self.zred))]
        result: SEDParams = jax.tree.map(lambda *leaves: np.stack(leaves), *every)
        return result


def draw_galaxies(
    sfh: SFHKind,
    n_galaxy: int,
    *,
    seed: int = 0,
    zred: tuple[float, float] = (0.01, 2.0),
    max_age_gyr: float = np.inf,
) -> Draws:
    """Draw parameters, redshift uniform in its logarithm.

    The first galaxies stay the same when ``n_galaxy`` grows.

    Parameters
    ----------
    max_age_gyr : Gyr
        Oldest age of the grid: the universe counts as this old where it is older.
    """
    low, high = np.log(zred)
    redshift = np.exp(np.random.default_rng(seed).uniform(low, high, size=n_galaxy))
    age = np.minimum(default_cosmology().age_np(redshift), max_age_gyr)
    root = jax.random.key(seed)

    def draw(index: jax.Array, age_gyr: jax.Array) -> dict[str, jax.Array]:
        return _draw_one(sfh, _keys(jax.random.fold_in(root, index)), age_gyr)

    columns = jax.vmap(draw)(jnp.arange(n_galaxy), jnp.asarray(age))
    return Draws({name: np.asarray(column) for name, column in columns.items()}, redshift)


_N_RATIO = 4
_GALLAZZI_LOGMASS = np.array(
    [8.87, 9.07, 9.27, 9.47, 9.68, 9.87, 10.07, 10.27, 10.47, 10.68, 10.87, 11.07, 11.27, 11.47, 11.68, 11.87]
)
_GALLAZZI_LOGZSOL = np.array(
    [-0.60, -0.61, -0.65, -0.61, -0.52, -0.41, -0.23, -0.11, -0.01, 0.04, 0.07, 0.10, 0.12, 0.13, 0.14, 0.15]
)


def _keys(key: jax.Array) -> Iterator[jax.Array]:
    while True:
        key, one = jax.random.split(key)
        yield one


def _draw_one(sfh: SFHKind, keys: Iterator[jax.Array], age_gyr: jax.Array) -> dict[str, jax.Array]:
    """All free parameters of one galaxy."""

    def uniform(low: float, high: float) -> jax.Array:
        return jax.random.uniform(next(keys), minval=low, maxval=high)

    def normal(loc: jax.Array | float, scale: float, low: float, high: float) -> jax.Array:
        below, above = ndtr((low - loc) / scale), ndtr((high - loc) / scale)
        return loc + scale * ndtri(below + uniform(0.0, 1.0) * (above - below))

    columns = {"logmass": uniform(6.0, 12.7)}
    logmass = columns["logmass"]
    if sfh == "delayed_tau":
        columns["tage"] = uniform(0.01, 1.0) * age_gyr
        columns["tau"] = 10.0 ** uniform(-1.0, 1.5)
    else:
        sequence = (0.84 - 0.026 * age_gyr) * logmass - (6.51 - 0.11 * age_gyr) - logmass
        columns["logssfr"] = _split_normal(jnp.clip(sequence, -13.0, -8.1), uniform(0.0, 1.0))
        columns["logsfr_ratio_recent"] = 0.3 * _student_t2(jax.random.normal(next(keys)))
        columns["logsfr_ratios"] = 0.3 * _student_t2(jax.random.normal(next(keys), (_N_RATIO,)))
    columns["logzsol"] = normal(jnp.interp(logmass, _GALLAZZI_LOGMASS, _GALLAZZI_LOGZSOL), 0.5, -2.0, 0.5)
    columns["dust2"] = normal(0.3, 1.0, 0.0, 4.0)
    columns["dust1"] = columns["dust2"] * normal(1.0, 0.3, 0.0, 2.0)
    columns["dust_index"] = normal(-0.2, 0.4, -1.0, 0.4)
    columns["gas_logu"] = normal(-2.7, 0.6, -4.0, -1.0)
    return columns


def _split_normal(loc: jax.Array, q: jax.Array) -> jax.Array:
    """Quantile of a normal with width 1.6 below and 0.5 above ``loc``, truncated to (-14, -8)."""
    below, above, low, high = 1.6, 0.5, -14.0, -8.0
    left = below / (below + above)  # probability below the mode
    first = 2 * left * ndtr((low - loc) / below)
    last = left + (1 - left) * (2 * ndtr((high - loc) / above) - 1)
    full = first + q * (last - first)
    inner = jnp.where(full < left, full / (2 * left), 0.5 + (full - left) / (2 * (1 - left)))
    return loc + jnp.where(full < left, below, above) * ndtri(inner)


def _student_t2(normal: jax.Array) -> jax.Array:
    """Student t with 2 degrees of freedom at the same quantile as a standard normal."""
    tail = ndtr(-jnp.abs(normal))
    return jnp.sign(normal) * (1 - 2 * tail) / jnp.sqrt(2 * tail * (1 - tail))
