r"""Attenuation by dust.

A curve k(lambda) is tau(lambda) / tau(5500 A). Diffuse dust dims all stars by exp(-dust2 k); birth
clouds dim stars younger than 10 Myr by a further exp(-dust1 (lambda / 5500 A)^-1) (Charlot & Fall 2000).
"""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

WAVE_V_AA = 5500.0
"""Wavelength at which optical depths are quoted, Angstrom."""

BIRTH_CLOUD_INDEX = -1.0
"""Slope of the birth-cloud curve (FSPS ``dust1_index``)."""

_R_V = 4.05


def calzetti_curve(wave: Float[ArrayLike, " wave"]) -> Float[Array, " wave"]:
    """Calzetti et al. (2000, ApJ 533, 682) equation 4, as FSPS has it (``attn_curve.f90``).

    Extended to all wavelengths; zero where the polynomial turns negative (beyond 3.1 micron).
    FSPS divides by 0.44 * 4.05 = 1.782, so the curve is 1 at 5500 A to 1 %.

    Parameters
    ----------
    wave : Angstrom

    Returns
    -------
    dimensionless
    """
    x = 1e4 / jnp.asarray(wave)
    red = 1.17 * (-1.857 + 1.04 * x) + 1.78
    blue = 1.17 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3) + 1.78
    return jnp.maximum(jnp.where(jnp.asarray(wave) > 6300.0, red, blue), 0.0) / (0.44 * _R_V)


def _bump_profile(wave: Float[ArrayLike, " wave"]) -> Float[Array, " wave"]:
    """Drude profile of the 2175 A bump, width 350 A (Kriek & Conroy 2013, equation 2)."""
    wave = jnp.asarray(wave) / 2175.0
    width = 350.0 / 2175.0
    return (wave * width) ** 2 / ((wave**2 - 1) ** 2 + (wave * width) ** 2)


class KriekConroy(eqx.Module):
    r"""Kriek & Conroy (2013, ApJ 775, L16) attenuation: Calzetti's slope changed, with a bump tied to it.

    .. math:: k = [k_{Cal} + E_b D / 4.05] (\\lambda / 5500)^\\delta, \\quad E_b = 0.85 - 1.9 \\delta
    """

    calzetti: Float[Array, " wave"]
    bump: Float[Array, " wave"]
    log_ratio: Float[Array, " wave"]

    @classmethod
    def at(cls, wave: Float[ArrayLike, " wave"]) -> "KriekConroy":
        """Prepare the curve at wavelengths in Angstrom."""
        ratio = jnp.log(jnp.asarray(wave) / WAVE_V_AA)
        return cls(calzetti_curve(wave), _bump_profile(wave) / _R_V, ratio)

    def __call__(self, dust_index: Float[ArrayLike, ""]) -> Float[Array, " wave"]:
        """K at the prepared wavelengths, for the slope offset ``dust_index``."""
        strength = 0.85 - 1.9 * jnp.asarray(dust_index)
        return (self.calzetti + strength * self.bump) * jnp.exp(dust_index * self.log_ratio)


class Calzetti(eqx.Module):
    """Calzetti et al. (2000) attenuation; ignores ``dust_index``."""

    calzetti: Float[Array, " wave"]
    log_ratio: Float[Array, " wave"]

    @classmethod
    def at(cls, wave: Float[ArrayLike, " wave"]) -> "Calzetti":
        """Prepare the curve at wavelengths in Angstrom."""
        return cls(calzetti_curve(wave), jnp.log(jnp.asarray(wave) / WAVE_V_AA))

    def __call__(self, dust_index: Float[ArrayLike, ""]) -> Float[Array, " wave"]:
        """K at the prepared wavelengths."""
        del dust_index
        return jnp.asarray(self.calzetti)


DustCurve = KriekConroy | Calzetti
"""An attenuation curve prepared at fixed wavelengths."""


def diffuse_transmission(
    curve: DustCurve, dust2: Float[ArrayLike, ""], dust_index: Float[ArrayLike, ""]
) -> Float[Array, " wave"]:
    """Fraction of light that passes the diffuse dust."""
    return jnp.exp(-jnp.asarray(dust2) * curve(dust_index))


def birth_cloud_transmission(curve: DustCurve, dust1: Float[ArrayLike, ""]) -> Float[Array, " wave"]:
    """Fraction of young stars' light that passes their birth clouds."""
    return jnp.exp(-jnp.asarray(dust1) * jnp.exp(BIRTH_CLOUD_INDEX * curve.log_ratio))
