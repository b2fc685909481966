r"""What an image alone says of a galaxy's spectrum, through its properties and the SED model.

The posterior of the properties given the image, and the prior of everything else that shapes a spectrum, go
through the SED model draw by draw. Image models see each band in units of the galaxy's own flux in it: they
know no fluxes. What they tell of a spectrum is its *shape*, by way of age, star formation, metallicity and
dust; its *scale* is that of `logmass`, which the image knows from size and structure alone, to some tenths of
a dex. So spectra come in units of their own mean between 5400 and 5600 Angstrom, rest frame, and the scale
apart:

.. math:: r_\lambda = F_\lambda / \langle F_\lambda \rangle_{5500},
          \qquad s = \log_{10} \langle L_\lambda \rangle_{5500}
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hbm.config import ModelConfig
from hbm.fitting import config_of
from hbm.information import weighted_quantile
from hbm.results import FitResult
from hbm.spectra import luminosity_draws
from sed.constants import LIGHT_AA
from sed.io import load_grid
from sed.ssp import SSPGrid

WINDOW = (5400.0, 5600.0)
"""Angstrom, rest frame: where relative spectra have a mean of 1."""

LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)
"""Of the quantiles."""


class RelativeSpectra(NamedTuple):
    """Rest-frame spectra of draws."""

    wave_rest: Float[np.ndarray, " wave"]
    """Vacuum wavelength, Angstrom; middles of the bins if there are any."""
    shape: Float[np.ndarray, "draw wave"]
    """F_lambda over its mean in `WINDOW`."""
    scale: Float[np.ndarray, " draw"]
    """log10 of the mean luminosity in `WINDOW`, Lsun per Angstrom."""


class ImageSpectrum(NamedTuple):
    """Posterior predictive spectrum."""

    wave_rest: Float[np.ndarray, " wave"]
    """Vacuum wavelength, Angstrom."""
    shape: Float[np.ndarray, "level wave"]
    """Quantiles `LEVELS` of F_lambda over its mean in `WINDOW`, at each wavelength by itself."""
    scale: Float[np.ndarray, " level"]
    """The same quantiles of log10 of the mean luminosity in `WINDOW`, Lsun per Angstrom."""


def relative_spectra(
    sites: Mapping[str, Float[np.ndarray, "draw ..."]],
    config: ModelConfig,
    zred: float,
    grid: SSPGrid | None = None,
    *,
    edges: Float[np.ndarray, " edge"] | None = None,
) -> RelativeSpectra:
    """Rest-frame spectra of draws of a model's parameters.

    Parameters
    ----------
    sites
        Parameters by name, as in results.
    config
        The model.
    zred
        Redshift, which limits the ages.
    grid
        Stellar populations; the shipped grid by default.
    edges : Angstrom
        Edges of bins of wavelength that spectra are averaged in; the grid's own wavelengths by default.

    Raises
    ------
    ValueError
        If a bin holds none of the grid's wavelengths.
    """
    grid = load_grid() if grid is None else grid
    wave = np.asarray(grid.wave, np.float64)
    per_angstrom = luminosity_draws(sites, config, zred, grid) * LIGHT_AA / wave**2
    inside = (wave >= WINDOW[0]) & (wave <= WINDOW[1])
    middle = per_angstrom[:, inside].mean(axis=1)
    shape = per_angstrom / middle[:, None]
    if edges is not None:
        place = np.digitize(wave, edges) - 1
        count = np.array([(place == i).sum() for i in range(len(edges) - 1)])
        if not count.all():
            empty = int(np.argmin(count))
            raise ValueError(
                f"`edges` must hold wavelengths of the grid in each bin, but there is none from "
                f"{edges[empty]:.1f} to {edges[empty + 1]:.1f} Angstrom."
            )
        shape = np.stack([shape[:, place == i].mean(axis=1) for i in range(len(count))], axis=1)
        wave = 0.5 * (edges[1:] + edges[:-1])
    return RelativeSpectra(wave, shape, np.log10(middle))


def spectrum_quantiles(
    spectra: RelativeSpectra, weight: Float[np.ndarray, " draw"] | None = None
) -> ImageSpectrum:
    """Quantiles of (weighted) draws of spectra, wavelength by wavelength."""
    n = len(spectra.scale)
    weight = np.full(n, 1 / n) if weight is None else weight
    levels = np.asarray(LEVELS)
    shape = np.stack([weighted_quantile(column, weight, levels) for column in spectra.shape.T], axis=1)
    return ImageSpectrum(spectra.wave_rest, shape, weighted_quantile(spectra.scale, weight, levels))


def image_spectrum(
    result: FitResult,
    grid: SSPGrid | None = None,
    *,
    n_draw: int = 200,
    seed: int = 0,
    edges: Float[np.ndarray, " edge"] | None = None,
) -> ImageSpectrum:
    """Relative rest-frame spectrum that a fit predicts; meant for fits of images, ``use=("image",)``.

    Parameters
    ----------
    result
        A fit.
    grid
        The grid that it used; the shipped one by default.
    n_draw, seed
        How many posterior draws, and which.
    edges : Angstrom
        Bins of wavelength, as for `relative_spectra`.

    Raises
    ------
    ValueError
        If the redshift was free.
    """
    if "zred" in result.components:
        raise ValueError("`result` must have a fixed redshift: image models know no other.")
    values = {str(name): result.draws(str(name)) for name in result.posterior.data_vars if name != "sfr_bins"}
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in values.items()}
    n = len(flat["logmass"])
    pick = np.random.default_rng(seed).choice(n, size=min(n_draw, n), replace=False)
    sites = {name: value[pick] for name, value in flat.items()}
    return spectrum_quantiles(relative_spectra(sites, config_of(result), result.zred, grid, edges=edges))
