"""Emission of gas per mass formed, for the components of a star formation history."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sed.constants import LIGHT_AA
from sed.nebular import photon_rates
from sed.ssp import NebularTable, SSPGrid

LINE_FLOOR = 3e-5
"""A line is left out if it is never brighter than this times nu L_nu of the stars around it, for a
population that formed at a constant rate for 100 Myr: in a band of 20 % width it adds less than 2e-4."""


class LineTable(NamedTuple):
    """Emission lines with gas of the stars' metallicity."""

    logz: Float[np.ndarray, " linez"]
    """Nodes in log10 Z (solar)."""
    logu: Float[np.ndarray, " lineu"]
    """Nodes in log10 of the ionization parameter."""
    loglum: Float[np.ndarray, "linez lineu linecomp line"]
    """log10 Lsun per Msun formed of each component that ionizes gas (the first ones)."""
    wave: Float[np.ndarray, " line"]
    """Vacuum wavelength, Angstrom."""
    kept: Int[np.ndarray, " line"]
    """Which lines of the grid's table these are."""


def line_table(grid: SSPGrid, age_weight: Float[np.ndarray, "comp age"]) -> LineTable:
    """Sum the lines over the ages of each component.

    Between the nodes of grid and nebular table the logarithm is interpolated; the nodes are doubled
    (in log Z twice), because a sum over ages is not log-linear even where each age is.

    Raises
    ------
    ValueError
        If the grid has no nebular table.
    """
    table = grid.nebular
    if table is None:
        raise ValueError("`grid` has no nebular table; build one with `hbm grid build`.")
    logz = _doubled(_doubled(_metallicities(grid, table)))
    logu = _doubled(table.gas_logu)
    kept = _bright_lines(grid)
    rate = _interpolate(grid.logzsol, photon_rates(grid), logz)  # linez, nebage
    per_photon = np.asarray(table.line_loglum[..., kept], np.float64)
    per_photon = _interpolate(table.gas_logz, per_photon, logz)
    per_photon = np.moveaxis(_interpolate(table.gas_logu, np.moveaxis(per_photon, 1, 0), logu), 0, 1)
    emitted = _ionizing(age_weight, table.n_age)[None] * rate[:, None, :]  # linez, comp, nebage
    luminosity = np.matmul(emitted[:, None], 10.0**per_photon)  # linez, lineu, comp, line
    return LineTable(logz, logu, np.log10(luminosity + 1e-30), table.line_wave[kept], kept)


class ContinuumTable(NamedTuple):
    """Nebular continuum with gas of the stars' metallicity."""

    logz: Float[np.ndarray, " gasz"]
    """Nodes in log10 Z (solar)."""
    logu: Float[np.ndarray, " gasu"]
    """Nodes in log10 of the ionization parameter."""
    lnu: Float[np.ndarray, "gasz gasu gascomp wave"]
    """Lsun/Hz per Msun formed of each component that ionizes gas (the first ones)."""


def continuum_table(grid: SSPGrid, age_weight: Float[np.ndarray, "comp age"]) -> ContinuumTable:
    """Sum the nebular continuum over the ages of each component.

    It is to be interpolated linearly: integrals through the rules of `sed.nodes` can be negative, and per
    photon the continuum changes so little between nodes (a tenth) that the logarithm would gain nothing.

    Raises
    ------
    ValueError
        If the grid has no nebular continuum.
    """
    table = grid.nebular
    if table is None or table.continuum is None:
        raise ValueError("`grid` has no nebular continuum.")
    logz = _metallicities(grid, table)
    rate = _interpolate(grid.logzsol, photon_rates(grid), logz)  # gasz, nebage
    emitted = _ionizing(age_weight, table.n_age)[None] * rate[:, None, :]  # gasz, comp, nebage
    shape = (len(logz), len(table.gas_logu), emitted.shape[1], len(grid.wave))
    lnu = np.empty(shape, np.float32)  # in single precision: one row for each age would be large
    for j in range(len(table.gas_logu)):
        per_photon = 10.0 ** _interpolate(table.gas_logz, np.asarray(table.continuum[:, j], np.float64), logz)
        lnu[:, j] = np.matmul(emitted, per_photon)
    return ContinuumTable(logz, np.asarray(table.gas_logu), lnu)


def _metallicities(grid: SSPGrid, table: NebularTable) -> Float[np.ndarray, " logz"]:
    """Nodes of stars and of gas within the range of the stars."""
    logz = np.union1d(np.round(grid.logzsol, 6), np.round(table.gas_logz, 6))
    return np.asarray(logz[(logz >= grid.logzsol[0] - 1e-6) & (logz <= grid.logzsol[-1] + 1e-6)])


def _ionizing(
    age_weight: Float[np.ndarray, "comp age"], n_age: int
) -> Float[np.ndarray, "ionizingcomp nebage"]:
    """Weights of the first ages, up to the last component that has some of them."""
    ionizing = np.flatnonzero(age_weight[:, :n_age].sum(axis=1) > 0)
    return age_weight[: ionizing[-1] + 1, :n_age]


def _bright_lines(grid: SSPGrid) -> Int[np.ndarray, " line"]:
    """Lines that can matter in a band."""
    table = grid.nebular
    if table is None:
        raise ValueError("`grid` has no nebular table.")
    age = 10.0**grid.log_age
    weight = np.where(age <= 1e8, np.gradient(age), 0.0)
    rate = photon_rates(grid)
    strongest = np.zeros(len(table.line_wave))
    for stars, photons, logz in zip(grid.flux, rate, grid.logzsol, strict=True):
        gas = int(np.argmin(np.abs(table.gas_logz - logz)))
        emitted = weight[: table.n_age] * photons
        lines = np.einsum("a,ual->ul", emitted, 10.0 ** np.asarray(table.line_loglum[gas], np.float64))
        around = np.interp(table.line_wave, grid.wave, weight @ stars) * LIGHT_AA / table.line_wave
        strongest = np.maximum(strongest, np.max(lines, axis=0) / around)
    return np.flatnonzero(strongest > LINE_FLOOR)


def _doubled(nodes: Float[np.ndarray, " node"]) -> Float[np.ndarray, " fine"]:
    """Add the middles between the nodes."""
    return np.sort(np.concatenate([nodes, 0.5 * (nodes[1:] + nodes[:-1])]))


def _interpolate(
    nodes: Float[np.ndarray, " node"],
    table: Float[np.ndarray, " node *rest"],
    value: Float[np.ndarray, " new"],
) -> Float[np.ndarray, " new *rest"]:
    """Linear interpolation in the first axis, clipped to the nodes."""
    low = np.clip(np.searchsorted(nodes, value, side="right") - 1, 0, len(nodes) - 2)
    fraction = np.clip((value - nodes[low]) / (nodes[low + 1] - nodes[low]), 0, 1)
    fraction = fraction.reshape(-1, *[1] * (table.ndim - 1))
    return np.asarray((1 - fraction) * table[low] + fraction * table[low + 1])
