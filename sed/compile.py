"""Integration ahead of time: from a grid and bands to `sed.compiled.CompiledPhotometry`."""

import itertools
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from sed.compiled import CompiledContinuum, CompiledDustEmission, CompiledLines, CompiledPhotometry
from sed.cosmology import Cosmology, default_cosmology
from sed.dust import DustCurve, KriekConroy
from sed.dust_emission import mixed_template
from sed.filters import FilterSet
from sed.nebular import line_profiles
from sed.nodes import NodeFinder, band_node_count
from sed.parameters import DelayedTauSFH, SEDParams
from sed.photometry import IGMFunction, band_matrix, maggies_per_luminosity
from sed.sfh import N_OLD_DEFAULT, agebins, bin_weights
from sed.spectrum import LOG_AGE_BIRTH_CLOUD, energy_weights
from sed.ssp import DustEmissionTable, SSPGrid
from sed.tables import ContinuumTable, continuum_table, line_table

ENERGY_EDGES_AA = (912.0, 1400.0, 2100.0, 3200.0, 5000.0, 9000.0, 1e5)
"""The absorbed energy is integrated over these pieces."""

_N_ENERGY_NODE = 4
_ANY_TMAX_GYR = 10.0
_NO_SFH = DelayedTauSFH(0.0, 1.0, 1.0)


class DustEmissionParams(NamedTuple):
    """Parameters of the dust emission (Draine & Li 2007), where they are fixed."""

    umin: float = 1.0
    """Minimum radiation field."""
    qpah: float = 3.5
    """Mass of the dust in PAHs, percent."""
    gamma: float = 0.01
    """Fraction of the dust heated by stronger fields."""


class PhotometryCompiler:
    """Makes `CompiledPhotometry` at any redshift; what does not depend on redshift is done once.

    Parameters
    ----------
    grid
        Stellar populations, nebular lines, dust templates.
    filters
        Bands.
    sfh
        Kind of star formation history.
    n_old
        Bins older than 100 Myr.
    cosmology
        Distances and ages; Planck 2018 if None.
    igm
        Transmission of the intergalactic medium; None for none.
    curve
        Attenuation curve, `KriekConroy` or `Calzetti`.
    nebular, dust_emission
        Whether to include them; without effect if the grid does not have them.
    n_node
        Wavelengths per band at which dust is evaluated; None for as many as each band needs
        (`sed.nodes.band_node_count`).
    duste_fixed
        Parameters of the dust emission, if they are not to be free: saves memory and time, and
        `CompiledPhotometry.flux` then does not look at its own.
    dtype
        Precision of the result.

    Raises
    ------
    ValueError
        If ``n_node`` is below 1.
    """

    def __init__(
        self,
        grid: SSPGrid,
        filters: FilterSet,
        *,
        sfh: Literal["binned", "delayed_tau"] = "binned",
        n_old: int = N_OLD_DEFAULT,
        cosmology: Cosmology | None = None,
        igm: IGMFunction | None = None,
        curve: type[DustCurve] = KriekConroy,
        nebular: bool = True,
        dust_emission: bool = True,
        n_node: int | None = None,
        duste_fixed: DustEmissionParams | None = None,
        dtype: type = np.float32,
    ) -> None:
        self.grid, self.filters, self.sfh, self.n_old = grid, filters, sfh, n_old
        self.cosmology = default_cosmology() if cosmology is None else cosmology
        self.igm, self.curve, self.dtype = igm, curve, dtype
        if n_node is not None and n_node < 1:
            raise ValueError(f"`n_node` must be at least 1, got {n_node}. None chooses for each band.")
        self.n_nodes = tuple(band_node_count(f) if n_node is None else n_node for f in filters.filters)
        self._nebular = grid.nebular if nebular else None
        self._dust = grid.dust_emission if dust_emission else None
        if self._dust is not None and duste_fixed is not None:
            self._dust = _fixed_template(self._dust, duste_fixed)
        self._flux = np.array(grid.flux, np.float64)
        if self._nebular is not None:  # these photons become nebular emission
            self._flux[:, : self._nebular.n_age, : grid.n_ionizing] = 0.0
        self._gas = self._continuum()
        self._finder = NodeFinder(grid.wave, self._light(), curve)
        energy = np.zeros((0, len(grid.wave)))
        if self._dust is not None:
            energy = _energy_rows(grid.wave, self._nebular is None or self._gas is not None)
        self._energy_rule = self._finder(energy, (_N_ENERGY_NODE,) * len(energy))
        self._lines = self._profiles = None
        if self._nebular is not None:
            # Ages that ionize gas are younger than 100 Myr, where the bins are the same for all galaxies.
            table = line_table(grid, self._components(_ANY_TMAX_GYR).weight)
            self._lines = CompiledLines(
                self._cast(table.logz),
                self._cast(table.logu),
                self._cast(table.loglum),
                self._cast_tree(curve.at(table.wave)),
            )
            self._profiles = line_profiles(grid.wave, self._nebular)[table.kept]

    def __call__(
        self, zred: float, *, lumdist_mpc: float | None = None, tmax_gyr: float | None = None
    ) -> CompiledPhotometry:
        """Integrate everything but the parameters, for one redshift.

        Parameters
        ----------
        zred
            Redshift, > 0 unless ``lumdist_mpc`` and ``tmax_gyr`` are given.
        lumdist_mpc : Mpc
            Luminosity distance, if it is not that of ``zred``.
        tmax_gyr : Gyr
            Oldest stars; the age of the universe at ``zred`` if None. The grid's oldest age is the limit.

        Raises
        ------
        ValueError
            If a filter reaches beyond the grid, or ``zred`` is not usable.
        """
        if lumdist_mpc is None or tmax_gyr is None:
            self.cosmology.check_zred(zred)
        if lumdist_mpc is None:
            lumdist_mpc = float(self.cosmology.luminosity_distance_np(zred))
        if tmax_gyr is None:
            tmax_gyr = float(self.cosmology.age_np(zred))
        parts = self._components(tmax_gyr)
        unit = maggies_per_luminosity(zred, lumdist_mpc)
        bands = band_matrix(self.grid.wave, self.filters, zred, igm=self.igm) * unit
        nodes, basis = self._finder(bands, self.n_nodes)
        nodes = np.concatenate([nodes, self._energy_rule[0]])
        basis = np.concatenate([basis, self._energy_rule[1]])
        lit = np.flatnonzero(np.any(basis != 0, axis=0))
        used = slice(lit[0], lit[-1] + 1)
        light = np.matmul(parts.weight, self._flux[:, :, used])  # met, comp, wave: far fewer than ages
        mstar = np.full(self.grid.flux.shape[:2], np.nan) if self.grid.mstar is None else self.grid.mstar
        return CompiledPhotometry(
            zred=self._cast(zred),
            logzsol=self._cast(self.grid.logzsol),
            stars=self._cast(light @ basis[:, used].T),
            curve=self._cast_tree(self.curve.at(nodes)),
            mstar=self._cast(mstar @ parts.weight.T),
            comp_young=self._cast(parts.young),
            agebins=None if parts.agebins is None else self._cast(parts.agebins),
            bin_split=None if parts.split is None else self._cast(parts.split),
            log_age=None if parts.agebins is not None else self._cast(self.grid.log_age),
            line_weight=None if self._profiles is None else self._cast(bands @ self._profiles.T),
            lines=self._lines,
            continuum=self._compiled_continuum(basis),
            dust=self._dust_emission(basis[: sum(self.n_nodes)]),
            n_nodes=self.n_nodes,
        )

    def _cast(self, value: object) -> np.ndarray:
        return np.asarray(value, self.dtype)

    def _cast_tree(self, tree: DustCurve) -> DustCurve:
        cast: DustCurve = jax.tree.map(self._cast, tree)
        return cast

    def _continuum(self) -> ContinuumTable | None:
        """Spectra of the gas, if the grid has its continuum."""
        if self._nebular is None or self._nebular.continuum is None:
            return None
        # As for the lines: the ages that ionize gas are in bins that are the same for all galaxies.
        return continuum_table(self.grid, self._components(_ANY_TMAX_GYR).weight)

    def _light(self) -> Float[np.ndarray, "met age wave"]:
        """Starlight, and that of gas where it has a continuum: only where there is light matters."""
        if self._gas is None or self._nebular is None:
            return self._flux
        flux = self._flux.copy()
        table = self._gas.lnu
        flux[:, : self._nebular.n_age] += table[len(table) // 2, table.shape[1] // 2].mean(axis=0)
        return flux

    def _compiled_continuum(self, basis: Float[np.ndarray, "out wave"]) -> CompiledContinuum | None:
        gas = self._gas
        if gas is None:
            return None
        table = np.matmul(gas.lnu, basis.T)
        return CompiledContinuum(self._cast(gas.logz), self._cast(gas.logu), self._cast(table))

    def _dust_emission(self, rows: Float[np.ndarray, "out wave"]) -> CompiledDustEmission | None:
        """Templates through the bands' rules, then their energy."""
        dust = self._dust
        if dust is None:
            return None
        rows = np.concatenate([rows, energy_weights(self.grid.wave)[None]])
        lit = np.flatnonzero(np.any(dust.shape > 0, axis=(0, 1, 2)))
        table = np.asarray(dust.shape[..., lit[0] :], np.float64) @ rows[:, lit[0] :].T
        return CompiledDustEmission(self._cast(table), self._cast(dust.qpah), self._cast(dust.umin))

    def _components(self, tmax_gyr: float) -> "_Components":
        """Ages of the grid themselves, or age bins cut where the birth clouds end."""
        in_cloud = self.grid.log_age <= LOG_AGE_BIRTH_CLOUD + 1e-6
        if self.sfh == "delayed_tau":
            return _Components(np.eye(len(in_cloud)), in_cloud.astype(float), None, None)
        bins = agebins(min(tmax_gyr, self.grid.max_age_gyr), self.n_old)
        weight, young, split = [], [], []
        for i, row in enumerate(bin_weights(bins, self.grid.log_age)):
            for is_young in (True, False):
                part = np.where(in_cloud == is_young, row, 0.0)
                if part.sum() > 0:
                    weight.append(part / part.sum())
                    young.append(float(is_young))
                    split.append(np.eye(len(bins))[i] * part.sum())
        return _Components(np.array(weight), np.array(young), np.array(split).T, bins)


class _Components(NamedTuple):
    """Parts of the star formation history that are linear in mass and see the same dust."""

    weight: Float[np.ndarray, "comp age"]
    """Mass at each age of the grid per mass formed in the component."""
    young: Float[np.ndarray, " comp"]
    """1 in birth clouds, else 0."""
    split: Float[np.ndarray, "bin comp"] | None
    """Part of each bin's mass in each component."""
    agebins: Float[np.ndarray, "bin 2"] | None
    """The bins, log10 yr."""


def _fixed_template(dust: DustEmissionTable, fixed: DustEmissionParams) -> DustEmissionTable:
    """Make a table with the one template of the given parameters."""
    params = SEDParams(_NO_SFH, 0.0, 0.0, 0.0, 0.0, 0.0, None, fixed.umin, fixed.qpah, fixed.gamma)
    template = np.asarray(mixed_template(dust.qpah, dust.umin, dust.shape, params))
    one = np.ones(1)
    return DustEmissionTable(one * fixed.qpah, one * fixed.umin, template[None, None, None])


def _energy_rows(wave: Float[np.ndarray, " wave"], ionizing: bool) -> Float[np.ndarray, "piece wave"]:
    """Weights (Hz) that integrate the energy in pieces of wavelength."""
    weight = energy_weights(wave)
    edges = (0.0, *ENERGY_EDGES_AA) if ionizing else ENERGY_EDGES_AA
    pieces = itertools.pairwise(edges)
    return np.array([np.where((wave > low) & (wave <= high), weight, 0.0) for low, high in pieces])


def compile_photometry(
    grid: SSPGrid,
    filters: FilterSet,
    zred: float,
    *,
    sfh: Literal["binned", "delayed_tau"] = "binned",
    n_old: int = N_OLD_DEFAULT,
    cosmology: Cosmology | None = None,
    igm: IGMFunction | None = None,
    curve: type[DustCurve] = KriekConroy,
    nebular: bool = True,
    dust_emission: bool = True,
    n_node: int | None = None,
    dtype: type = np.float32,
) -> CompiledPhotometry:
    """Compile the photometry of one galaxy; arguments and errors are those of `PhotometryCompiler`."""
    compiler = PhotometryCompiler(
        grid,
        filters,
        sfh=sfh,
        n_old=n_old,
        cosmology=cosmology,
        igm=igm,
        curve=curve,
        nebular=nebular,
        dust_emission=dust_emission,
        n_node=n_node,
        dtype=dtype,
    )
    return compiler(zred)
