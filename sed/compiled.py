r"""Photometry compiled ahead of time: what the samplers use.

At a known redshift and for known bands, everything but the parameters is integrated once:

.. math:: f_b = \sum_n \left\{ \big[ e^{-\tau_1(\lambda_{bn})} S^{young}_{bn} + S^{old}_{bn} + E D_{bn} \big]
                e^{-\tau_2(\lambda_{bn})} \right\} + \sum_l W_{bl} L_l e^{-\tau(\lambda_l)}

- S: starlight of each component (age bin, or age of the grid for a delayed exponential), linear in
  mass and piecewise linear in log Z, at a few wavelengths (*nodes*) of each band. Between the nodes
  the attenuation is interpolated by the best linear rule for the curves that the prior allows
  (`sed.nodes`).
- E: energy absorbed, by the same rule over all wavelengths, re-emitted through templates D.
- Nebular continuum, if the grid has it, is added to S like stars, from a table in log Z and log U.
- L: luminosity of every line that matters, with its own attenuation.

A spectrum of a few million multiplications becomes a few thousand.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sed.dust import DustCurve, birth_cloud_transmission, diffuse_transmission
from sed.dust_emission import mixed_template
from sed.nebular import bracket, interpolate_pair
from sed.parameters import BinnedSFH, SEDParams
from sed.sfh import bin_masses, binned_mean_age, delayed_tau_weights, mean_age_gyr

_LN10 = float(np.log(10.0))


def _product(left: Float[Array, "..."], right: Float[Array, "..."]) -> Array:
    """Matrix product in the precision of the arrays: GPUs would round single precision to ten bits."""
    return jnp.matmul(left, right, precision="highest")


def _gather(table: Array, start: tuple[Array | int, ...], size: tuple[int, ...]) -> Array:
    """Cut a block out of a table once: without the barrier, XLA would gather it again for every use."""
    block = jax.lax.dynamic_slice(table, start, size)
    result: Array = jax.lax.optimization_barrier(block)  # type: ignore[no-untyped-call]
    return result


def _node_sum(n_nodes: tuple[int, ...]) -> Float[np.ndarray, "bandout band"]:
    """Matrix that sums the nodes of each band."""
    return np.repeat(np.eye(len(n_nodes)), n_nodes, axis=0)


class CompiledLines(eqx.Module):
    """Emission lines of the components of a star formation history; the same for all galaxies."""

    logz: Float[ArrayLike, " linez"]
    logu: Float[ArrayLike, " lineu"]
    loglum: Float[ArrayLike, "linez lineu linecomp line"]
    """log10 Lsun per Msun formed of the components that ionize gas (the first ones)."""
    curve: DustCurve
    """Attenuation at the lines."""

    def luminosity(
        self, params: SEDParams, masses: Float[Array, " comp"], is_young: Float[Array, " comp"]
    ) -> tuple[Float[Array, " line"], Float[Array, " line"]]:
        """Luminosities in Lsun as emitted and after attenuation."""
        (i, dz), (j, du) = bracket(self.logz, params.logzsol), bracket(self.logu, params.gas_logu)
        table = jnp.asarray(self.loglum)
        near = _gather(table, (i, j, 0, 0), (2, 2, *table.shape[2:])).reshape(4, -1)
        weight = jnp.stack([(1 - dz) * (1 - du), (1 - dz) * du, dz * (1 - du), dz * du])
        # exp is several times faster than a power.
        per_mass = jnp.exp(_LN10 * _product(weight, near)).reshape(table.shape[2:])
        n = per_mass.shape[0]
        split = jnp.stack([masses[:n] * is_young[:n], masses[:n] * (1 - is_young[:n])])
        young, old = _product(split, per_mass)
        passed = young * birth_cloud_transmission(self.curve, params.dust1) + old
        return young + old, passed * diffuse_transmission(self.curve, params.dust2, params.dust_index)


class CompiledContinuum(eqx.Module):
    """Nebular continuum at the nodes. Large for a delayed exponential, where each age has a row."""

    logz: Float[ArrayLike, " gasz"]
    logu: Float[ArrayLike, " gasu"]
    table: Float[ArrayLike, "gasz gasu gascomp out"]
    """Per Msun formed, as `CompiledPhotometry.stars`, of the components that ionize gas (the first ones)."""

    def __call__(self, params: SEDParams) -> Float[Array, "gascomp out"]:
        """Light of each component."""
        at_z, at_u = bracket(self.logz, params.logzsol), bracket(self.logu, params.gas_logu)
        return interpolate_pair(self.table, at_z, at_u)


class CompiledDustEmission(eqx.Module):
    """Dust templates averaged over the bands."""

    table: Float[ArrayLike, "qpah umin part outplus"]
    """Maggies per Lsun/Hz at the bands' nodes; the last entry is the template's energy in Lsun."""
    qpah: Float[ArrayLike, " qpah"]
    umin: Float[ArrayLike, " umin"]

    def per_energy(self, params: SEDParams) -> Float[Array, " bandout"]:
        """Maggies at the bands' nodes per Lsun absorbed."""
        table = jnp.asarray(self.table)
        if table.shape[0] == 1:  # compiled for fixed parameters
            template = table[0, 0, 0]
        else:
            template = mixed_template(self.qpah, self.umin, table, params)
        return template[:-1] / template[-1]


class CompiledPhotometry(eqx.Module):
    """Band fluxes of one galaxy at one redshift. `stack`, `stacked_axes` and `jax.vmap` make many."""

    zred: Float[ArrayLike, ""]
    logzsol: Float[ArrayLike, " met"]
    stars: Float[ArrayLike, "met comp out"]
    """Starlight per Msun formed; ``out`` runs over the nodes of the bands, then of energy pieces."""
    curve: DustCurve
    """Attenuation at the nodes of ``out``."""
    mstar: Float[ArrayLike, "met comp"]
    comp_young: Float[ArrayLike, " comp"]
    """1 for components in birth clouds, else 0."""
    agebins: Float[ArrayLike, "bin 2"] | None
    """log10 yr."""
    bin_split: Float[ArrayLike, "bin comp"] | None
    """Part of each bin's mass that each component holds."""
    log_age: Float[ArrayLike, " comp"] | None
    """log10 yr of each component, for a delayed exponential."""
    line_weight: Float[ArrayLike, "band line"] | None
    """Maggies per Lsun."""
    lines: CompiledLines | None
    continuum: CompiledContinuum | None
    dust: CompiledDustEmission | None
    n_nodes: tuple[int, ...] = eqx.field(static=True)
    """Nodes of each band."""

    def component_masses(self, params: SEDParams) -> Float[Array, " comp"]:
        """Mass formed in each component, Msun."""
        if isinstance(params.sfh, BinnedSFH):
            if self.agebins is None or self.bin_split is None:
                raise ValueError(
                    "`params.sfh` is binned, but the photometry was compiled for a delayed exponential."
                )
            # A product, not a choice by index, whose gradient would be a slow scatter.
            masses = bin_masses(params.sfh, jnp.asarray(self.agebins))
            return _product(masses, jnp.asarray(self.bin_split))
        if self.log_age is None:
            raise ValueError(
                "`params.sfh` is a delayed exponential, but the photometry was compiled for bins."
            )
        mass = 10.0 ** jnp.asarray(params.sfh.logmass)
        return mass * delayed_tau_weights(params.sfh.tage, params.sfh.tau, jnp.asarray(self.log_age))

    def flux(self, params: SEDParams) -> Float[Array, " band"]:
        """Flux in maggies of one galaxy.

        Raises
        ------
        ValueError
            If the star formation history is not of the compiled kind, or ``gas_logz`` is set: the
            compiled lines tie it to ``logzsol``.
        """
        if params.gas_logz is not None:
            raise ValueError("`gas_logz` must be None (tied to `logzsol`) in compiled photometry.")
        masses = self.component_masses(params)
        is_young = jnp.asarray(self.comp_young)
        low, dz = bracket(self.logzsol, params.logzsol)
        stars = jnp.asarray(self.stars)
        pair = _gather(stars, (low, 0, 0), (2, *stars.shape[1:])).reshape(-1, stars.shape[2])
        split = jnp.stack([masses * is_young, masses * (1 - is_young)])
        # One product for metallicities and components: faster, and more so in its gradient.
        young, old = _product(jnp.concatenate([(1 - dz) * split, dz * split], axis=1), pair)
        if self.continuum is not None:
            gas = self.continuum(params)
            from_gas = _product(split[:, : gas.shape[0]], gas)
            young, old = young + from_gas[0], old + from_gas[1]
        diffuse = diffuse_transmission(self.curve, params.dust2, params.dust_index)
        cloud = birth_cloud_transmission(self.curve, params.dust1)
        seen = (young * cloud + old) * diffuse
        n_out = sum(self.n_nodes)
        at_nodes = seen[:n_out]
        line_flux, line_absorbed = jnp.zeros(()), jnp.zeros(())
        if self.lines is not None:
            emitted, passed = self.lines.luminosity(params, masses, is_young)
            line_flux = _product(jnp.asarray(self.line_weight), passed)
            line_absorbed = jnp.sum(emitted - passed)
        if self.dust is not None:
            absorbed = jnp.sum(young[n_out:] + old[n_out:] - seen[n_out:]) + line_absorbed
            at_nodes = at_nodes + absorbed * self.dust.per_energy(params) * diffuse[:n_out]
        return _product(at_nodes, jnp.asarray(_node_sum(self.n_nodes), at_nodes.dtype)) + line_flux

    def mfrac(self, params: SEDParams) -> Float[Array, ""]:
        """Surviving over formed stellar mass; nan if the grid has no masses."""
        masses = self.component_masses(params)
        low, dz = bracket(self.logzsol, params.logzsol)
        mstar = jnp.asarray(self.mstar)
        return jnp.sum(masses * ((1 - dz) * mstar[low] + dz * mstar[low + 1])) / jnp.sum(masses)

    def mean_age(self, params: SEDParams) -> Float[Array, ""]:
        """Mass-weighted age, Gyr."""
        if isinstance(params.sfh, BinnedSFH):
            if self.agebins is None:
                raise ValueError(
                    "`params.sfh` is binned, but the photometry was compiled for a delayed exponential."
                )
            bins = jnp.asarray(self.agebins)
            return binned_mean_age(bin_masses(params.sfh, bins), bins)
        return mean_age_gyr(self.component_masses(params), jnp.asarray(self.log_age))


def stack(galaxies: Sequence[CompiledPhotometry]) -> CompiledPhotometry:
    """Compiled photometry of many galaxies with a leading axis; the lines are kept once.

    Raises
    ------
    ValueError
        If they were not compiled alike (bands, nodes, star formation history).
    """
    shapes = {tuple(np.shape(leaf) for leaf in jax.tree.leaves(galaxy)) for galaxy in galaxies}
    if len(shapes) != 1:
        raise ValueError(f"`galaxies` must be compiled with equal settings, got {len(shapes)} kinds.")
    first = galaxies[0].lines
    bare = [_without_lines(galaxy) for galaxy in galaxies]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *bare)
    return _with_lines(stacked, first)


def take(stacked: CompiledPhotometry, index: ArrayLike) -> CompiledPhotometry:
    """One galaxy (or redshift) of those that `stack` made."""
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], _without_lines(stacked))
    return _with_lines(one, stacked.lines)


def stacked_axes(stacked: CompiledPhotometry) -> CompiledPhotometry:
    """`in_axes` for `jax.vmap` over what `stack` made: 0 everywhere, None for the lines."""
    axes = jax.tree.map(lambda _leaf: 0, _without_lines(stacked))
    none = jax.tree.map(lambda _leaf: None, stacked.lines)
    return _with_lines(axes, none)


def _without_lines(galaxy: CompiledPhotometry) -> CompiledPhotometry:
    return _with_lines(galaxy, None)


def _with_lines(galaxy: CompiledPhotometry, lines: CompiledLines | None) -> CompiledPhotometry:
    changed: CompiledPhotometry = eqx.tree_at(
        lambda tree: tree.lines, galaxy, lines, is_leaf=lambda leaf: leaf is None
    )
    return changed
