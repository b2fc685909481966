"""Grids of simple stellar populations, with their nebular lines and dust emission templates.

A grid is what FSPS computed, on FSPS's own ages, metallicities and wavelengths; nothing is
resampled. Reading and writing are in `sed.io`, building from FSPS in `sed.build`.
"""

import json

import equinox as eqx
import numpy as np
from jaxtyping import Float


class NebularTable(eqx.Module):
    """Emission of ionized gas per ionizing photon, from FSPS's Cloudy tables (Byler et al. 2017)."""

    gas_logz: Float[np.ndarray, " gasmet"]
    """log10 gas metallicity, solar."""
    gas_logu: Float[np.ndarray, " logu"]
    """log10 ionization parameter."""
    line_wave: Float[np.ndarray, " line"]
    """Vacuum wavelength of the lines, Angstrom."""
    line_sigma: Float[np.ndarray, " line"]
    """Width (one sigma) that FSPS gives a line in the spectrum, Angstrom."""
    line_loglum: Float[np.ndarray, "gasmet logu nebage line"]
    """log10 of line luminosity in Lsun per (ionizing photon/s) / 1e46, for the first ages of the grid."""
    line_name: tuple[str, ...] = eqx.field(static=True)
    """Names of the lines, as FSPS has them."""
    continuum: Float[np.ndarray, "gasmet logu nebage wave"] | None = None
    """log10 of the continuum in Lsun/Hz per (ionizing photon/s) / 1e46; None where FSPS had none."""

    @property
    def n_age(self) -> int:
        """Number of ages, from the youngest, that ionize gas."""
        return int(self.line_loglum.shape[2])


class DustEmissionTable(eqx.Module):
    """Infrared templates of Draine & Li (2007, ApJ 657, 810) at FSPS's wavelengths."""

    qpah: Float[np.ndarray, " qpah"]
    """Mass of the dust in PAHs, percent."""
    umin: Float[np.ndarray, " umin"]
    """Minimum radiation field."""
    shape: Float[np.ndarray, "qpah umin part wave"]
    """Spectra per Hz for the field at `umin` (0) and for the power law above it (1), up to one factor."""


class SSPGrid(eqx.Module):
    """Spectra of simple stellar populations."""

    wave: Float[np.ndarray, " wave"]
    """Rest-frame vacuum wavelength, Angstrom, increasing."""
    log_age: Float[np.ndarray, " age"]
    """log10 age in yr, increasing."""
    logzsol: Float[np.ndarray, " met"]
    """log10 metallicity, solar, increasing."""
    flux: Float[np.ndarray, "met age wave"]
    """Luminosity in Lsun/Hz per Msun formed."""
    mstar: Float[np.ndarray, "met age"] | None
    """Surviving mass, with remnants, per mass formed; None if the grid does not have it."""
    nebular: NebularTable | None
    """Nebular emission, if the grid has it."""
    dust_emission: DustEmissionTable | None
    """Dust emission templates, if the grid has them."""
    provenance_json: str = eqx.field(static=True, default="{}")
    """What made the grid: a JSON object."""

    def __check_init__(self) -> None:
        n_met, n_age, n_wave = len(self.logzsol), len(self.log_age), len(self.wave)
        if self.flux.shape != (n_met, n_age, n_wave):
            raise ValueError(
                f"`flux` must have axes (met, age, wave) = {(n_met, n_age, n_wave)}, got {self.flux.shape}."
            )
        if self.mstar is not None and self.mstar.shape != (n_met, n_age):
            raise ValueError(f"`mstar` must have axes (met, age) = {(n_met, n_age)}, got {self.mstar.shape}.")
        for name in ("wave", "log_age", "logzsol"):
            if not np.all(np.diff(getattr(self, name)) > 0):
                raise ValueError(f"`{name}` must increase strictly.")
        if not np.all(np.isfinite(self.flux)) or np.any(self.flux < 0):
            raise ValueError("`flux` must be finite and not negative.")

    @property
    def provenance(self) -> dict[str, object]:
        """What made the grid."""
        content: dict[str, object] = json.loads(self.provenance_json)
        return content

    @property
    def max_age_gyr(self) -> float:
        """Oldest age, Gyr."""
        return float(10.0 ** (self.log_age[-1] - 9))

    @property
    def n_ionizing(self) -> int:
        """Number of wavelengths, from the shortest, whose light ionizes hydrogen."""
        from sed.constants import LYMAN_LIMIT_AA

        return int(np.searchsorted(self.wave, LYMAN_LIMIT_AA, side="right"))


def ionizing_photons(
    wave: Float[np.ndarray, " wave"], flux: Float[np.ndarray, "*pop wave"]
) -> Float[np.ndarray, "*pop"]:
    """Ionizing photons per second / 1e46 of spectra in Lsun/Hz, by the trapezoid rule in frequency.

    ``wave`` ends at the Lyman limit. This is how FSPS counts them (``add_nebular.f90``).
    """
    from sed.constants import HPLANCK_CGS, LIGHT_AA, LSUN_CGS

    nu = LIGHT_AA / wave
    per_nu = flux / nu
    rate = np.sum(np.abs(np.diff(nu)) * 0.5 * (per_nu[..., 1:] + per_nu[..., :-1]), axis=-1)
    return np.asarray(rate * (LSUN_CGS / HPLANCK_CGS / 1e46))
