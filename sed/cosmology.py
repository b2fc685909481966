"""Luminosity distance and age of the Universe, in JAX, for any astropy cosmology.

astropy integrates once, in double precision on the host; the results become a table of two smooth
functions of ``u = ln(1 + zred)``,

    g(u) = D_L / zred          [Mpc]   (-> c / H0 as zred -> 0)
    a(u) = ln(age / Gyr)

read with cubic Hermite interpolation. Curvature, dark energy and neutrinos are whatever the astropy
object has. Redshifts are cosmological: no peculiar velocities.
"""

from functools import lru_cache

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from astropy.cosmology import FLRW
from jaxtyping import Array, ArrayLike, Float
from scipy.interpolate import CubicSpline

_N_NODE = 384  # step in ln(1+z) of 0.007 for zmax = 15: interpolation error below 1e-10


class Cosmology(eqx.Module):
    """Distances and ages of one cosmology, tabulated; make it with `Cosmology.from_astropy`.

    The tables are double-precision numpy arrays and are cast to the precision of the redshift that is
    asked for, so that one object serves float32 and float64.
    """

    distance_over_zred: Float[Array | np.ndarray, " node"]
    """Luminosity distance / zred, Mpc, at nodes uniform in ln(1 + zred) from 0 to ``zmax``."""
    distance_slope: Float[Array | np.ndarray, " node"]
    """Derivative of ``distance_over_zred`` with respect to ln(1 + zred), Mpc."""
    log_age: Float[Array | np.ndarray, " node"]
    """Natural logarithm of the age of the Universe in Gyr at the nodes."""
    log_age_slope: Float[Array | np.ndarray, " node"]
    """Derivative of ``log_age`` with respect to ln(1 + zred), dimensionless."""
    zmax: float = eqx.field(static=True)
    """Largest redshift of the table."""
    name: str = eqx.field(static=True)
    """The astropy cosmology it was made from: its name, or its full description."""

    @classmethod
    def from_astropy(cls, cosmology: FLRW, zmax: float = 15.0) -> "Cosmology":
        """Tabulate an astropy cosmology.

        Parameters
        ----------
        cosmology
            Any FLRW cosmology of astropy: flat or not, with any dark energy.
        zmax
            Largest redshift that will be asked for.

        Raises
        ------
        ValueError
            If ``zmax`` is not a positive number.
        """
        if not (zmax > 0 and np.isfinite(zmax)):
            raise ValueError(f"`zmax` must be a positive redshift, got {zmax}.")
        u = np.linspace(0.0, np.log1p(zmax), _N_NODE)
        zred = np.expm1(u)
        ratio = np.empty(_N_NODE)
        ratio[0] = cosmology.hubble_distance.to_value("Mpc")
        ratio[1:] = cosmology.luminosity_distance(zred[1:]).to_value("Mpc") / zred[1:]
        log_age = np.log(cosmology.age(zred).to_value("Gyr"))
        return cls(
            distance_over_zred=ratio,
            distance_slope=CubicSpline(u, ratio)(u, 1),
            log_age=log_age,
            log_age_slope=CubicSpline(u, log_age)(u, 1),
            zmax=float(zmax),
            name=cosmology.name or repr(cosmology),
        )

    def luminosity_distance(self, zred: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """Luminosity distance in Mpc.

        Parameters
        ----------
        zred
            Redshift in [0, zmax]; outside it the answer is NaN (see `check_zred`).
        """
        z = jnp.asarray(zred)
        ratio = _hermite(self.distance_over_zred, self.distance_slope, z, self.zmax)
        return jnp.where((z >= 0) & (z <= self.zmax), z * ratio, jnp.nan)

    def age(self, zred: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """Age of the Universe in Gyr.

        Parameters
        ----------
        zred
            Redshift in [0, zmax]; outside it the answer is NaN (see `check_zred`).
        """
        z = jnp.asarray(zred)
        log_age = _hermite(self.log_age, self.log_age_slope, z, self.zmax)
        return jnp.where((z >= 0) & (z <= self.zmax), jnp.exp(log_age), jnp.nan)

    def luminosity_distance_np(
        self, zred: Float[np.ndarray, "*shape"] | float
    ) -> Float[np.ndarray, "*shape"]:
        """Luminosity distance in Mpc, in numpy and double precision, for use on the host.

        Raises
        ------
        ValueError
            As `check_zred`.
        """
        z = self.check_zred(zred)
        return np.asarray(z * _hermite_np(self.distance_over_zred, self.distance_slope, z, self.zmax))

    def age_np(self, zred: Float[np.ndarray, "*shape"] | float) -> Float[np.ndarray, "*shape"]:
        """Age of the Universe in Gyr, in numpy and double precision, for use on the host.

        Raises
        ------
        ValueError
            As `check_zred`.
        """
        z = self.check_zred(zred)
        return np.asarray(np.exp(_hermite_np(self.log_age, self.log_age_slope, z, self.zmax)))

    def check_zred(self, zred: Float[np.ndarray, "*shape"] | float) -> Float[np.ndarray, "*shape"]:
        """Return ``zred`` as a double-precision array if every value lies in (0, zmax].

        For user input on the host; traced code gets NaN instead of an exception.

        Raises
        ------
        ValueError
            If a redshift is NaN, not positive (no luminosity distance) or larger than ``zmax``.
        """
        z = np.asarray(zred, dtype=np.float64)
        bad = ~((z > 0) & (z <= self.zmax))
        if np.any(bad):
            raise ValueError(
                f"`zred` must lie in (0, {self.zmax:g}], got {z[bad].flat[0]:g} "
                f"({bad.sum()} of {z.size} outside). Remove stars and unset redshifts, "
                "or build the cosmology with a larger `zmax`."
            )
        return z


@lru_cache(maxsize=1)
def default_cosmology() -> Cosmology:
    """Planck 2018 cosmology (astropy's ``Planck18``), tabulated to redshift 15."""
    from astropy.cosmology import Planck18

    return Cosmology.from_astropy(Planck18)


def _hermite(
    value: Float[Array | np.ndarray, " node"],
    slope: Float[Array | np.ndarray, " node"],
    zred: Float[Array, "*shape"],
    zmax: float,
) -> Float[Array, "*shape"]:
    """Cubic Hermite interpolation in ln(1 + zred) on uniform nodes, in the precision of ``zred``."""
    value, slope = jnp.asarray(value, zred.dtype), jnp.asarray(slope, zred.dtype)
    step = float(np.log1p(zmax)) / (value.shape[0] - 1)
    x = jnp.log1p(jnp.maximum(zred, 0.0)) / step
    i = jnp.clip(jnp.floor(x), 0, value.shape[0] - 2).astype(int)
    t = x - i.astype(zred.dtype)
    y0, y1, d0, d1 = value[i], value[i + 1], slope[i] * step, slope[i + 1] * step
    # Newton's form keeps y0 apart from the small differences, which matters in float32.
    rise = y1 - y0
    return y0 + t * (d0 + t * ((3 * rise - 2 * d0 - d1) + t * (d0 + d1 - 2 * rise)))


def _hermite_np(
    value: Float[Array | np.ndarray, " node"],
    slope: Float[Array | np.ndarray, " node"],
    zred: Float[np.ndarray, "*shape"],
    zmax: float,
) -> Float[np.ndarray, "*shape"]:
    """Interpolate as `_hermite`, in numpy and double precision."""
    value, slope = np.asarray(value, np.float64), np.asarray(slope, np.float64)
    step = float(np.log1p(zmax)) / (value.shape[0] - 1)
    x = np.log1p(zred) / step
    i = np.clip(np.floor(x), 0, value.shape[0] - 2).astype(int)
    t = x - i
    y0, rise = value[i], value[i + 1] - value[i]
    d0, d1 = slope[i] * step, slope[i + 1] * step
    return np.asarray(y0 + t * (d0 + t * ((3 * rise - 2 * d0 - d1) + t * (d0 + d1 - 2 * rise))))
