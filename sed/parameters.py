"""The parameters of one galaxy, as FSPS and Prospector name them.

Two star formation histories share the rest of the parameters. Every field is a scalar (or a
short vector where said) for one galaxy; catalogues are made by `jax.vmap`.
"""

import equinox as eqx
from jax.typing import ArrayLike
from jaxtyping import Float


class BinnedSFH(eqx.Module):
    """Piecewise-constant star formation history with the recent rate explicit.

    The last 100 Myr hold the fraction ``10**(logssfr + 8)`` of the mass formed, split at 10 Myr;
    the older bins are set by ratios of adjacent rates (continuity prior, Leja et al. 2019,
    ApJ 876, 3, arXiv:1811.03637).
    """

    logmass: Float[ArrayLike, ""]
    """log10 stellar mass formed, Msun."""
    logssfr: Float[ArrayLike, ""]
    """log10 of (SFR averaged over 100 Myr / mass formed), 1/yr; below -8."""
    logsfr_ratio_recent: Float[ArrayLike, ""]
    """log10 of SFR(0-10 Myr) / SFR(10-100 Myr)."""
    logsfr_ratios: Float[ArrayLike, " ratio"]
    """log10 of SFR(bin i) / SFR(bin i + 1) for the bins older than 100 Myr, youngest first."""


class DelayedTauSFH(eqx.Module):
    """Delayed exponential, SFR ~ T exp(-T / tau), T the time since star formation began (FSPS sfh=4)."""

    logmass: Float[ArrayLike, ""]
    """log10 stellar mass formed, Msun."""
    tage: Float[ArrayLike, ""]
    """Time since star formation began, Gyr."""
    tau: Float[ArrayLike, ""]
    """e-folding time, Gyr."""


class SEDParams(eqx.Module):
    """All that shapes the rest-frame spectrum of one galaxy."""

    sfh: BinnedSFH | DelayedTauSFH
    """Star formation history."""
    logzsol: Float[ArrayLike, ""]
    """log10 stellar metallicity, solar."""
    dust2: Float[ArrayLike, ""]
    """Optical depth at 5500 A of the diffuse dust, seen by all stars."""
    dust1: Float[ArrayLike, ""] = 0.0
    """Optical depth at 5500 A of the birth clouds, seen by stars younger than 10 Myr."""
    dust_index: Float[ArrayLike, ""] = 0.0
    """Slope offset of the diffuse curve from Calzetti et al. (2000); Kriek & Conroy (2013)."""
    gas_logu: Float[ArrayLike, ""] = -2.0
    """log10 ionization parameter of the nebular emission."""
    gas_logz: Float[ArrayLike, ""] | None = None
    """log10 gas metallicity, solar; None ties it to ``logzsol``."""
    duste_umin: Float[ArrayLike, ""] = 1.0
    """Minimum radiation field of the dust emission (Draine & Li 2007)."""
    duste_qpah: Float[ArrayLike, ""] = 3.5
    """Mass of the dust in PAHs, percent (Draine & Li 2007)."""
    duste_gamma: Float[ArrayLike, ""] = 0.01
    """Fraction of the dust heated by fields above ``duste_umin`` (Draine & Li 2007)."""


PARAMETER_UNITS = {
    "logmass": "log10(Msun)",
    "logssfr": "log10(1/yr)",
    "logsfr_ratio_recent": "dex",
    "logsfr_ratios": "dex",
    "tage": "Gyr",
    "tau": "Gyr",
    "logzsol": "log10(Zsun)",
    "dust1": "",
    "dust2": "",
    "dust_index": "",
    "gas_logu": "",
    "gas_logz": "log10(Zsun)",
    "duste_umin": "",
    "duste_qpah": "percent",
    "duste_gamma": "",
    "zred": "",
}
"""Unit of each parameter; empty for pure numbers."""
