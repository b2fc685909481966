"""Galaxies drawn from the prior that fits use, for benchmarks and stored references."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpyro import handlers

from hbm.config import ModelConfig
from hbm.prior import sample_parameters
from sed.cosmology import default_cosmology
from sed.parameters import BinnedSFH, DelayedTauSFH, SEDParams

SFHKind = Literal["binned", "delayed_tau"]

BANDS = (
    "galex_FUV", "galex_NUV", "sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0", "twomass_J", "twomass_Ks",
    "wise_w1",
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
    """Draw parameters from `hbm.prior.sample_parameters`, redshift uniform in its logarithm.

    The first galaxies stay the same when ``n_galaxy`` grows.

    Parameters
    ----------
    max_age_gyr : Gyr
        Oldest age of the grid: the universe counts as this old where it is older.
    """
    redshift = np.exp(np.random.default_rng(seed).uniform(*np.log(zred), size=n_galaxy))
    age = np.minimum(default_cosmology().age_np(redshift), max_age_gyr)
    config = ModelConfig(sfh=sfh)
    root = jax.random.key(seed)

    def draw(index: jax.Array, age_gyr: jax.Array) -> SEDParams:
        return handlers.seed(sample_parameters, jax.random.fold_in(root, index))(config, age_gyr)

    params = jax.vmap(draw)(jnp.arange(n_galaxy), jnp.asarray(age))
    return Draws(_columns(params), redshift)


def _columns(params: SEDParams) -> dict[str, np.ndarray]:
    names = _SFH["binned" if isinstance(params.sfh, BinnedSFH) else "delayed_tau"]
    history = {name: np.asarray(getattr(params.sfh, name)) for name in names}
    return history | {name: np.asarray(getattr(params, name)) for name in _REST}
