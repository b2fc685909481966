"""Line luminosities per mass formed, for the components of a star formation history."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sed.constants import LIGHT_AA
from sed.nebular import photon_rates
from sed.ssp import SSPGrid

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
    logz = np.union1d(np.round(grid.logzsol, 6), np.round(table.gas_logz, 6))
    logz = _doubled(_doubled(logz[(logz >= grid.logzsol[0] - 1e-6) & (logz <= grid.logzsol[-1] + 1e-6)]))
    logu = _doubled(table.gas_logu)
    kept = _bright_lines(grid)
    rate = _interpolate(grid.logzsol, photon_rates(grid), logz)  # linez, nebage
    per_photon = np.asarray(table.line_loglum[..., kept], np.float64)
    per_photon = _interpolate(table.gas_logz, per_photon, logz)
    per_photon = np.moveaxis(_interpolate(table.gas_logu, np.moveaxis(per_photon, 1, 0), logu), 0, 1)
    ionizing = np.flatnonzero(age_weight[:, : table.n_age].sum(axis=1) > 0)
    weight = age_weight[: ionizing[-1] + 1, : table.n_age]
    emitted = weight[None] * rate[:, None, :]  # linez, comp, nebage
    luminosity = np.matmul(emitted[:, None], 10.0**per_photon)  # linez, lineu, comp, line
    return LineTable(logz, logu, np.log10(luminosity + 1e-30), table.line_wave[kept], kept)


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
    """The nodes and the middles between them."""
    return np.sort(np.concatenate([nodes, 0.5 * (nodes[1:] + nodes[:-1])]))


def _interpolate(
    nodes: Float[np.ndarray, " node"], table: Float[np.ndarray, "node *rest"], value: Float[np.ndarray, " new"]
) -> Float[np.ndarray, "new *rest"]:
    """Linear interpolation in the first axis, clipped to the nodes."""
    low = np.clip(np.searchsorted(nodes, value, side="right") - 1, 0, len(nodes) - 2)
    fraction = np.clip((value - nodes[low]) / (nodes[low + 1] - nodes[low]), 0, 1)
    fraction = fraction.reshape(-1, *[1] * (table.ndim - 1))
    return (1 - fraction) * table[low] + fraction * table[low + 1]
