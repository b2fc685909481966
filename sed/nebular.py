"""Emission lines (and continuum) of ionized gas in a grid's spectra."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sed.constants import LIGHT_AA
from sed.ssp import NebularTable, SSPGrid, ionizing_photons


def photon_rates(grid: SSPGrid) -> Float[np.ndarray, "met nebage"]:
    """Ionizing photons per second / 1e46 per Msun formed, of the grid's young populations."""
    if grid.nebular is None:
        raise ValueError("`grid` has no nebular table; build one with `hbm grid build`.")
    n = grid.n_ionizing
    flux = np.asarray(grid.flux[:, : grid.nebular.n_age, :n], np.float64)
    return ionizing_photons(grid.wave[:n], flux)


def line_profiles(wave: Float[np.ndarray, " wave"], table: NebularTable) -> Float[np.ndarray, "line wave"]:
    """Gaussians of unit luminosity on the grid's wavelengths, per Hz, as FSPS adds them to its spectra."""
    offset = (wave[None, :] - table.line_wave[:, None]) / table.line_sigma[:, None]
    height = table.line_wave**2 / (np.sqrt(2 * np.pi) * table.line_sigma * LIGHT_AA)
    return np.asarray(height[:, None] * np.exp(-0.5 * offset**2))


def bracket(nodes: Float[ArrayLike, " node"], value: Float[ArrayLike, ""]) -> tuple[Array, Float[Array, ""]]:
    """Index of the node at or below ``value`` and the fraction of the way to the next, within the nodes."""
    nodes = jnp.asarray(nodes)
    # Counting is faster than a binary search, whose loop does not vectorise.
    low = jnp.clip(jnp.sum(nodes <= value) - 1, 0, nodes.shape[0] - 2)
    fraction = (value - nodes[low]) / (nodes[low + 1] - nodes[low])
    return low, jnp.clip(fraction, 0.0, 1.0)


def interpolate_pair(
    table: Float[ArrayLike, "x y *rest"],
    x: tuple[Array, Float[Array, ""]],
    y: tuple[Array, Float[Array, ""]],
) -> Float[Array, "*rest"]:
    """Bilinear interpolation in the first two axes between the nodes that `bracket` gave."""
    table = jnp.asarray(table)
    (i, dx), (j, dy) = x, y
    low = (1 - dy) * table[i, j] + dy * table[i, j + 1]
    high = (1 - dy) * table[i + 1, j] + dy * table[i + 1, j + 1]
    return (1 - dx) * low + dx * high
