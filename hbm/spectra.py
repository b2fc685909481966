"""Posterior of the full spectrum, for plots: the model is built again from a result alone."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hbm.config import ModelConfig
from hbm.fitting import config_of
from hbm.galaxies import cosmology_by_name, igm_function
from hbm.model import parameters_from_sites
from hbm.plots.sed import SpectrumBand
from hbm.results import FitResult
from sed.dust import Calzetti, KriekConroy
from sed.io import load_grid
from sed.parameters import SEDParams
from sed.photometry import maggies_per_luminosity
from sed.sfh import agebins
from sed.spectrum import SpectrumModel
from sed.ssp import SSPGrid

_SAME = 0.02
"""Redshifts that are so near in ln(1 + z) share the bins of ages."""
_BLOCK = 10


def posterior_spectrum(
    result: FitResult, grid: SSPGrid | None = None, *, n_draw: int = 100, seed: int = 0
) -> SpectrumBand:
    """Median and 68 % band of the observed-frame spectrum.

    Parameters
    ----------
    result
        A fit.
    grid
        The grid that it used; the shipped one by default.
    n_draw
        Posterior draws.
    seed
        Which draws.

    Returns
    -------
    SpectrumBand
        Observed wavelength in Angstrom, maggies.

    Raises
    ------
    ValueError
        If the grid is not the one that the result was made with.
    """
    grid = load_grid() if grid is None else grid
    made_with = result.provenance.grid.get("flux_sha256")
    if made_with is not None and made_with != grid.provenance.get("flux_sha256"):
        raise ValueError("`grid` is not the grid that the result was made with; give that file.")
    config = config_of(result)
    cosmology = cosmology_by_name(config.cosmology)
    names = [name for name in result.posterior.data_vars if name not in ("sfr_bins",)]
    draws = {str(name): result.draws(str(name)) for name in names}
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()}
    n_all = len(flat["logmass"])
    pick = np.random.default_rng(seed).choice(n_all, size=min(n_draw, n_all), replace=False)
    sites = {name: value[pick] for name, value in flat.items()}
    zred = flat["zred"][pick] if "zred" in flat else np.full(len(pick), result.zred)
    luminosity = _by_redshift(sites, config, zred, grid)
    absorb = igm_function(config.igm)
    wave = grid.wave * (1 + result.zred)
    spectra = np.empty_like(luminosity)
    for i, (row, z) in enumerate(zip(luminosity, zred, strict=True)):
        passed = row if absorb is None else row * absorb(grid.wave, float(z))
        unit = maggies_per_luminosity(float(z), float(cosmology.luminosity_distance_np(float(z))))
        spectra[i] = np.interp(wave, grid.wave * (1 + z), passed * unit)
    low, middle, high = np.quantile(spectra, [0.16, 0.5, 0.84], axis=0)
    return SpectrumBand(wave, low, middle, high)


def _by_redshift(
    sites: Mapping[str, Float[np.ndarray, "draw ..."]],
    config: ModelConfig,
    zred: Float[np.ndarray, " draw"],
    grid: SSPGrid,
) -> Float[np.ndarray, "draw wave"]:
    """`luminosity_draws`, some at a time that have nearly the same redshift: ages end with the universe's."""
    place = np.log1p(zred)
    if float(np.ptp(place)) < _SAME:
        return luminosity_draws(sites, config, float(np.median(zred)), grid)
    found = np.empty((len(zred), len(grid.wave)))
    left = np.argsort(place)
    while len(left):
        near = left[: np.searchsorted(place[left], place[left[0]] + _SAME, side="right")][:_BLOCK]
        rows = np.resize(near, _BLOCK)  # always as many: one program
        some = {name: np.asarray(value)[rows] for name, value in sites.items()}
        block = luminosity_draws(some, config, float(np.median(zred[near])), grid)
        found[near] = block[: len(near)]
        left = left[len(near) :]
    return found


def luminosity_draws(
    sites: Mapping[str, Float[np.ndarray, "draw ..."]], config: ModelConfig, zred: float, grid: SSPGrid
) -> Float[np.ndarray, "draw wave"]:
    """Rest-frame spectra of draws, Lsun/Hz at the grid's wavelengths.

    Parameters
    ----------
    sites
        Parameters by name, as in results.
    config
        The model.
    zred
        Redshift, which limits the ages.
    grid
        Stellar populations.
    """
    arrays = {name: jnp.asarray(value, jnp.float32) for name, value in sites.items()}
    params = jax.vmap(lambda site: parameters_from_sites(site, config))(arrays)
    tmax = min(float(cosmology_by_name(config.cosmology).age_np(zred)), grid.max_age_gyr)
    model = SpectrumModel.from_grid(
        grid,
        agebins=agebins(tmax, config.n_old) if config.sfh == "binned" else None,
        nebular=config.nebular,
        dust_emission=config.dust_emission,
        curve=KriekConroy if config.curve == "kriek_conroy" else Calzetti,
    )
    return np.asarray(_luminosities(model, params), np.float64)


@eqx.filter_jit
def _luminosities(model: SpectrumModel, params: SEDParams) -> Float[Array, "draw wave"]:
    """Spectra one after the other: side by side they would need much memory."""
    luminosity: Array = jax.lax.map(lambda one: model(one).luminosity, params)
    return luminosity
