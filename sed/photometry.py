r"""From a rest-frame spectrum to the flux in each band.

A band's flux is the photon-counting AB average (Fukugita et al. 1996, equation 7),

.. math:: f_b = \frac{\int f_\nu T \, d\lambda/\lambda}{3631\,{\rm Jy} \int T \, d\lambda/\lambda},
          \quad f_\nu = \frac{(1 + z) L_\nu}{4 \pi d_L^2},

linear in the spectrum, so at one redshift it is a matrix. The spectrum is linear between its
wavelengths, the transmission between its own, and the integral of their product is exact.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from sed.constants import AB_FNU_CGS, LSUN_CGS, PARSEC_CM
from sed.filters import FilterSet

IGMFunction = Callable[[Float[np.ndarray, " wave"], float], Float[np.ndarray, " wave"]]
"""Fraction of light that the intergalactic medium passes, of (rest wavelength in Angstrom, redshift)."""

_NODE, _WEIGHT = np.polynomial.legendre.leggauss(3)


def band_matrix(
    wave: Float[np.ndarray, " wave"],
    filters: FilterSet,
    zred: float,
    *,
    igm: IGMFunction | None = None,
) -> Float[np.ndarray, "band wave"]:
    """Matrix that averages a rest-frame spectrum over each band at one redshift.

    Parameters
    ----------
    wave : Angstrom
        Rest-frame wavelengths of the spectrum, increasing.
    filters
        Transmission curves, detector signal per photon.
    zred
        Redshift, >= 0.
    igm
        Transmission of the intergalactic medium; None for none.

    Returns
    -------
    dimensionless
        Rows sum to one without absorption.

    Raises
    ------
    ValueError
        If a filter reaches beyond the wavelengths of the spectrum at this redshift.
    """
    if not zred >= 0:
        raise ValueError(f"`zred` must be >= 0, got {zred}.")
    observed = wave * (1 + zred)
    matrix = np.zeros((len(filters), len(wave)))
    for i, band in enumerate(filters.filters):
        if band.wave[0] < observed[0] or band.wave[-1] > observed[-1]:
            raise ValueError(
                f"filter '{band.name}' covers {band.wave[0]:.6g} to {band.wave[-1]:.6g} Angstrom; at zred = "
                f"{zred:.4g} the grid covers {observed[0]:.6g} to {observed[-1]:.6g}. Leave the filter out, "
                "or build a grid that reaches further."
            )
        inside = observed[(observed > band.wave[0]) & (observed < band.wave[-1])]
        edges = np.union1d(band.wave, inside)
        half = 0.5 * np.diff(edges)
        point = (0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * _NODE).ravel()
        weight = (half[:, None] * _WEIGHT).ravel() * np.interp(point, band.wave, band.transmission) / point
        left = np.clip(np.searchsorted(observed, point, side="right") - 1, 0, len(wave) - 2)
        fraction = (point - observed[left]) / (observed[left + 1] - observed[left])
        np.add.at(matrix[i], left, weight * (1 - fraction))
        np.add.at(matrix[i], left + 1, weight * fraction)
        matrix[i] /= np.sum(weight)
    if igm is not None:
        matrix *= np.asarray(igm(wave, zred))[None, :]
    return matrix


def maggies_per_luminosity(zred: float, lumdist_mpc: float) -> float:
    """Maggies of a source of 1 Lsun/Hz (rest frame) at redshift ``zred`` and luminosity distance in Mpc."""
    distance = lumdist_mpc * 1e6 * PARSEC_CM
    return LSUN_CGS * (1 + zred) / (4 * np.pi * distance**2) / AB_FNU_CGS
