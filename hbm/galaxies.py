"""From a catalogue to what the model needs: compiled photometry, galaxy by galaxy, stacked."""

from collections.abc import Callable, Sequence

import astropy.cosmology
import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from hbm.amplitude import best_amplitude
from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.model import GalaxyData
from hbm.terms import Term
from sed.compile import DustEmissionParams, PhotometryCompiler
from sed.compiled import CompiledPhotometry, stack, stacked_axes, take
from sed.cosmology import Cosmology
from sed.dust import Calzetti, DustCurve, KriekConroy
from sed.filters import FilterSet, load_filters
from sed.igm import igm_transmission_inoue, igm_transmission_madau
from sed.parameters import BinnedSFH, DelayedTauSFH, SEDParams
from sed.photometry import IGMFunction
from sed.ssp import SSPGrid

REST_FILTERS = ("bessell_U", "bessell_V", "twomass_J")
"""Bands of the rest-frame colours U-V and V-J (AB)."""

_TEN_PARSEC_MPC = 1e-5
_DUST_CURVES: dict[str, type[DustCurve]] = {"kriek_conroy": KriekConroy, "calzetti": Calzetti}


class DataBuilder:
    """Compiles photometry for galaxies of one set of bands.

    Parameters
    ----------
    grid
        Stellar populations.
    config
        What is fitted.
    filter_names
        Bands, as for `sed.filters.load_filters`.
    terms
        Likelihoods besides the photometry.

    Raises
    ------
    ValueError
        If a filter is unknown or the cosmology is not one of astropy's.
    """

    def __init__(
        self, grid: SSPGrid, config: ModelConfig, filter_names: Sequence[str], terms: tuple[Term, ...] = ()
    ) -> None:
        self.config, self.terms = config, terms
        self.filters = load_filters(filter_names)
        self.cosmology = cosmology_by_name(config.cosmology)
        self._bands = self._compiler(grid, self.filters, igm_function(config.igm))
        self._rest = self._compiler(grid, load_filters(REST_FILTERS), None)
        self._amplitude = jax.jit(best_amplitude)
        self._unit_flux = jax.jit(lambda photometry: photometry.flux(_typical(config)))

    def _compiler(self, grid: SSPGrid, filters: FilterSet, igm: IGMFunction | None) -> PhotometryCompiler:
        config = self.config
        return PhotometryCompiler(
            grid,
            filters,
            sfh=config.sfh,
            n_old=config.n_old,
            cosmology=self.cosmology,
            igm=igm,
            curve=_DUST_CURVES[config.curve],
            nebular=config.nebular,
            dust_emission=config.dust_emission,
            n_node=config.n_node,
            duste_fixed=None if config.free_dust_emission else DustEmissionParams(),
        )

    def __call__(self, catalog: Catalog, index: int) -> GalaxyData:
        """One galaxy of the catalogue."""
        zred, zred_err = float(catalog.zred[index]), float(catalog.zred_err[index])
        observed = np.asarray(catalog.observed[index])
        zgrid, dimming = None, None
        if zred_err > 0:
            low = max(zred - 4 * zred_err, 0.25 * zred, 1e-3)
            zgrid = np.linspace(low, zred + 4 * zred_err, self.config.n_zred)
            photometry = stack([self._bands(float(z)) for z in zgrid])
            age = self.cosmology.age_np(zgrid)
            dimming = self.dimming(zgrid)
        else:
            photometry = self._bands(zred)
            age = self.cosmology.age_np(zred)
        flux = np.where(observed, catalog.flux[index], 0.0)
        flux_err = np.where(observed, catalog.flux_err[index], 1.0)
        middle = photometry if zgrid is None else take(photometry, len(zgrid) // 2)
        unit = np.asarray(self._unit_flux(middle), np.float64)
        limit = np.asarray(catalog.upper_limit[index]) & observed
        guess, is_measured = float(np.mean(self.config.prior.logmass)), bool((observed & ~limit).any())
        if is_measured:
            amplitude = float(self._amplitude(unit, flux, flux_err, observed, 0.05))
            guess = float(np.clip(_LOGMASS_TYPICAL + np.log10(amplitude), *_LOGMASS_GUESS))
        rest = self._rest(0.0, lumdist_mpc=_TEN_PARSEC_MPC, tmax_gyr=float(self.cosmology.age_np(zred)))
        single = np.float32
        return GalaxyData(
            flux=flux.astype(single),
            flux_err=flux_err.astype(single),
            observed=observed,
            upper_limit=limit,
            zred=np.asarray(zred, single),
            zred_err=np.asarray(zred_err, single),
            age_universe=np.asarray(age, single),
            photometry=photometry,
            rest=rest,
            zgrid=None if zgrid is None else zgrid.astype(single),
            dimming=None if dimming is None else dimming.astype(single),
            logmass_guess=np.asarray(guess, single),
            mass_step=np.asarray(_MASS_STEP if is_measured else 1.0, single),
            terms=tuple(term.galaxy(catalog.id[index]) for term in self.terms),
        )

    def dimming(self, zred: Float[np.ndarray, " node"]) -> Float[np.ndarray, " node"]:
        """Luminosity distance over the root of 1 + z, Mpc: what `hbm.model.GalaxyData.dimming` holds."""
        return np.asarray(self.cosmology.luminosity_distance_np(zred) / np.sqrt(1 + zred))


_LOGMASS_TYPICAL = 10.0
_LOGMASS_GUESS = (7.0, 12.0)
_MASS_STEP = 0.02


def _typical(config: ModelConfig) -> SEDParams:
    """A middling galaxy."""
    history: BinnedSFH | DelayedTauSFH = DelayedTauSFH(_LOGMASS_TYPICAL, 3.0, 1.0)
    if config.sfh == "binned":
        history = BinnedSFH(_LOGMASS_TYPICAL, -10.0, 0.0, np.zeros(config.n_old - 1, np.float32))
    return SEDParams(history, -0.2, 0.3, dust1=0.3, gas_logu=config.prior.gas_logu[0])


def igm_function(name: str) -> IGMFunction | None:
    """Transmission of the intergalactic medium by its name in `ModelConfig`."""
    if name == "none":
        return None
    # One program instead of a hundred small ones, which would cost seconds on the first galaxy.
    function = jax.jit(igm_transmission_inoue if name == "inoue" else igm_transmission_madau)

    def transmission(wave: np.ndarray, zred: float) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(function(wave, zred), np.float64)

    return transmission


def cosmology_by_name(name: str) -> Cosmology:
    """Cosmology of astropy by its name.

    Raises
    ------
    ValueError
        If astropy has none of that name.
    """
    if name not in astropy.cosmology.available:
        raise ValueError(f"`cosmology` must be one of {astropy.cosmology.available}, got {name!r}.")
    return Cosmology.from_astropy(getattr(astropy.cosmology, name))


def stack_galaxies(galaxies: Sequence[GalaxyData]) -> GalaxyData:
    """Galaxies with a leading axis; the tables that all share are kept once.

    Raises
    ------
    ValueError
        If some have a free redshift and others not, or their bands differ.
    """
    if len({galaxy.zgrid is None for galaxy in galaxies}) != 1:
        raise ValueError("`galaxies` must all have a fixed redshift or all a free one.")
    bare = [_split(galaxy)[0] for galaxy in galaxies]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *bare)
    return _join(stacked, *_compiled(galaxies, stack))


def galaxy_axes(stacked: GalaxyData) -> GalaxyData:
    """`in_axes` of `jax.vmap` over what `stack_galaxies` made."""
    bare, photometry, rest = _split(stacked)
    axes = jax.tree.map(lambda _leaf: 0, bare)
    return _join(axes, stacked_axes(photometry), stacked_axes(rest))


def take_galaxy(stacked: GalaxyData, index: int) -> GalaxyData:
    """One galaxy of those that `stack_galaxies` made."""
    bare, photometry, rest = _split(stacked)
    one = jax.tree.map(lambda leaf: leaf[index], bare)
    return _join(one, take(photometry, index), take(rest, index))


def _compiled(
    galaxies: Sequence[GalaxyData], combine: Callable[[Sequence[CompiledPhotometry]], CompiledPhotometry]
) -> tuple[CompiledPhotometry, CompiledPhotometry]:
    return combine([galaxy.photometry for galaxy in galaxies]), combine([galaxy.rest for galaxy in galaxies])


def _split(galaxy: GalaxyData) -> tuple[GalaxyData, CompiledPhotometry, CompiledPhotometry]:
    bare: GalaxyData = eqx.tree_at(lambda g: (g.photometry, g.rest), galaxy, (None, None))
    return bare, galaxy.photometry, galaxy.rest


def _join(bare: GalaxyData, photometry: CompiledPhotometry, rest: CompiledPhotometry) -> GalaxyData:
    joined: GalaxyData = eqx.tree_at(
        lambda g: (g.photometry, g.rest), bare, (photometry, rest), is_leaf=lambda leaf: leaf is None
    )
    return joined
