"""The full rest-frame spectrum of one galaxy: the reference path, for plots and tests.

The order of operations is FSPS's (``add_nebular.f90``, ``csp_gen.f90``, ``add_dust.f90``): stars, gas,
birth clouds around ages up to 10 Myr, diffuse dust, dust emission. Samplers use `sed.compiled`.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sed.constants import LIGHT_AA
from sed.dust import DustCurve, KriekConroy, birth_cloud_transmission, diffuse_transmission
from sed.dust_emission import mixed_template
from sed.nebular import bracket, interpolate_pair, line_profiles, photon_rates
from sed.parameters import BinnedSFH, SEDParams
from sed.sfh import bin_masses, bin_weights, delayed_tau_weights
from sed.ssp import SSPGrid

LOG_AGE_BIRTH_CLOUD = 7.0
"""log10 yr: ages of the grid up to this sit in birth clouds (FSPS ``dust_tesc``)."""


class Spectrum(NamedTuple):
    """Rest-frame spectrum of one galaxy."""

    luminosity: Float[Array, " wave"]
    """Lsun/Hz at the grid's wavelengths."""
    mfrac: Float[Array, ""]
    """Surviving over formed stellar mass; nan if the grid has no masses."""
    line_luminosity: Float[Array, " line"]
    """Lsun of each nebular line after attenuation; empty without nebular emission."""


class SpectrumModel(eqx.Module):
    """Spectra from a grid, for one galaxy at a time; `jax.vmap` makes many."""

    wave: Float[Array, " wave"]
    log_age: Float[Array, " age"]
    logzsol: Float[Array, " met"]
    flux: Float[Array, "met age wave"]
    mstar: Float[Array, "met age"]
    photons: Float[Array, "met nebage"] | None
    line_loglum: Float[Array, "gasmet logu nebage line"] | None
    profiles: Float[Array, "line wave"] | None
    continuum: Float[Array, "gasmet logu nebage wave"] | None
    gas_logz: Float[Array, " gasmet"] | None
    gas_logu: Float[Array, " logu"] | None
    dust_shape: Float[Array, "qpah umin 2 wave"] | None
    qpah: Float[Array, " qpah"] | None
    umin: Float[Array, " umin"] | None
    curve: DustCurve
    line_curve: DustCurve | None
    energy_weight: Float[Array, " wave"]
    """Hz: trapezoid weights of the integral over frequency."""
    bin_weight: Float[Array, "bin age"] | None
    agebins: Float[Array, "bin 2"] | None

    @classmethod
    def from_grid(
        cls,
        grid: SSPGrid,
        *,
        agebins: Float[np.ndarray, "bin 2"] | None = None,
        nebular: bool = True,
        dust_emission: bool = True,
        curve: type[KriekConroy] | type[DustCurve] = KriekConroy,
    ) -> "SpectrumModel":
        """Prepare the model.

        Parameters
        ----------
        grid
            Stars, gas and dust templates.
        agebins : log10 yr
            Bins of the star formation history, for `BinnedSFH`; see `sed.sfh.agebins`.
        nebular, dust_emission
            Whether to add them; without effect if the grid does not have them.
        curve
            `KriekConroy` or `Calzetti`.
        """
        table = grid.nebular if nebular else None
        dust = grid.dust_emission if dust_emission else None
        flux = np.array(grid.flux)
        if table is not None:
            flux[:, : table.n_age, : grid.n_ionizing] = 0.0  # these photons become nebular emission
        nan = np.full(grid.flux.shape[:2], np.nan)
        return cls(
            wave=jnp.asarray(grid.wave),
            log_age=jnp.asarray(grid.log_age),
            logzsol=jnp.asarray(grid.logzsol),
            flux=jnp.asarray(flux),
            mstar=jnp.asarray(nan if grid.mstar is None else grid.mstar),
            photons=None if table is None else jnp.asarray(photon_rates(grid)),
            line_loglum=None if table is None else jnp.asarray(table.line_loglum),
            profiles=None if table is None else jnp.asarray(line_profiles(grid.wave, table)),
            continuum=None if table is None or table.continuum is None else jnp.asarray(table.continuum),
            gas_logz=None if table is None else jnp.asarray(table.gas_logz),
            gas_logu=None if table is None else jnp.asarray(table.gas_logu),
            dust_shape=None if dust is None else jnp.asarray(dust.shape),
            qpah=None if dust is None else jnp.asarray(dust.qpah),
            umin=None if dust is None else jnp.asarray(dust.umin),
            curve=curve.at(grid.wave),
            line_curve=None if table is None else curve.at(table.line_wave),
            energy_weight=jnp.asarray(energy_weights(grid.wave)),
            bin_weight=None if agebins is None else jnp.asarray(bin_weights(agebins, grid.log_age)),
            agebins=None if agebins is None else jnp.asarray(agebins),
        )

    def age_weights(self, params: SEDParams) -> Float[Array, " age"]:
        """Mass formed at each age of the grid, Msun.

        Raises
        ------
        ValueError
            If the star formation history is binned and the model was made without ``agebins``.
        """
        if isinstance(params.sfh, BinnedSFH):
            if self.bin_weight is None or self.agebins is None:
                raise ValueError(
                    "`agebins` must be given to `from_grid` for a binned star formation history."
                )
            return bin_masses(params.sfh, self.agebins) @ self.bin_weight
        mass = 10.0 ** jnp.asarray(params.sfh.logmass)
        return mass * delayed_tau_weights(params.sfh.tage, params.sfh.tau, self.log_age)

    def __call__(self, params: SEDParams) -> Spectrum:
        """Spectrum of one galaxy."""
        weight = self.age_weights(params)
        low, dz = bracket(self.logzsol, params.logzsol)
        ssp = (1 - dz) * self.flux[low] + dz * self.flux[low + 1]
        mstar = (1 - dz) * self.mstar[low] + dz * self.mstar[low + 1]
        is_young = self.log_age <= LOG_AGE_BIRTH_CLOUD + 1e-6
        young = jnp.where(is_young, weight, 0.0) @ ssp
        old = jnp.where(is_young, 0.0, weight) @ ssp
        lines = jnp.zeros((2, 0))
        if self.line_loglum is not None:
            gas = self._gas(params, weight, low, dz)
            lines, extra_young, extra_old = gas
            young, old = young + extra_young, old + extra_old
        diffuse = diffuse_transmission(self.curve, params.dust2, params.dust_index)
        cloud = birth_cloud_transmission(self.curve, params.dust1)
        attenuated = (young * cloud + old) * diffuse
        if self.dust_shape is not None and self.qpah is not None and self.umin is not None:
            absorbed = jnp.sum(self.energy_weight * (young + old - attenuated))
            template = mixed_template(self.qpah, self.umin, self.dust_shape, params)
            template = template / jnp.sum(self.energy_weight * template)
            attenuated = attenuated + absorbed * template * diffuse
        if self.line_curve is not None:
            line_diffuse = diffuse_transmission(self.line_curve, params.dust2, params.dust_index)
            line_cloud = birth_cloud_transmission(self.line_curve, params.dust1)
            line_total = (lines[0] * line_cloud + lines[1]) * line_diffuse
        else:
            line_total = jnp.zeros(0)
        mfrac = jnp.sum(weight * mstar) / jnp.sum(weight)
        return Spectrum(attenuated, mfrac, line_total)

    def _gas(
        self, params: SEDParams, weight: Float[Array, " age"], low: Array, dz: Float[Array, ""]
    ) -> tuple[Float[Array, "2 line"], Float[Array, " wave"], Float[Array, " wave"]]:
        """Lines of young and old ages in Lsun, and what gas adds to the spectra of both."""
        if self.photons is None or self.profiles is None or self.line_loglum is None or self.gas_logz is None:
            raise ValueError("this model has no nebular table.")
        rate = (1 - dz) * self.photons[low] + dz * self.photons[low + 1]
        n_age = rate.shape[0]
        gas_logz = params.logzsol if params.gas_logz is None else params.gas_logz
        x, y = bracket(self.gas_logz, gas_logz), bracket(jnp.asarray(self.gas_logu), params.gas_logu)
        emitted = weight[:n_age] * rate
        split = jnp.stack(
            [jnp.where(self.log_age[:n_age] <= LOG_AGE_BIRTH_CLOUD + 1e-6, emitted, 0.0), emitted]
        )
        split = split.at[1].add(-split[0])
        lines = split @ 10.0 ** interpolate_pair(self.line_loglum, x, y)
        added = lines @ self.profiles
        if self.continuum is not None:
            added = added + split @ 10.0 ** interpolate_pair(self.continuum, x, y)
        return lines, added[0], added[1]


def energy_weights(wave: Float[np.ndarray, " wave"]) -> Float[np.ndarray, " wave"]:
    """Weights in Hz that integrate a spectrum per Hz over frequency by the trapezoid rule."""
    step = -np.diff(LIGHT_AA / wave)
    weight = np.zeros_like(wave)
    weight[:-1] += 0.5 * step
    weight[1:] += 0.5 * step
    return weight
