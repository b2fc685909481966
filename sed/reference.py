r"""The same galaxies through python-fsps, to check this package against.

FSPS gives the rest-frame luminosity, sedpy integrates it over the filters, and the distance comes
from this package's cosmology,

.. math:: f_\nu = \frac{(1 + z)\, L_\nu}{4\pi d_L^2},

in maggies (3631 Jy). Nothing here is used in a fit. FSPS needs the extra ``fsps`` and the
environment variable ``SPS_HOME``; both are looked for at the first spectrum, not at import.

FSPS keeps its state in Fortran, one per process, whatever the number of Python objects: use
`stellar_population` instead of making another ``fsps.StellarPopulation``. The first spectrum and
each new pair of metallicities take about 10 s.
"""

import functools
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sed.constants import AB_FNU_CGS, LSUN_CGS, PARSEC_CM
from sed.cosmology import Cosmology, default_cosmology
from sed.filters import FilterSet
from sed.parameters import BinnedSFH, SEDParams
from sed.sfh import agebins as make_agebins
from sed.sfh import bin_masses

IMF_TYPE = 1
"""FSPS number of the initial mass function: Chabrier (2003)."""


class RestSpectrum(NamedTuple):
    """Rest-frame spectrum of one galaxy."""

    wave: Float[np.ndarray, " wave"]
    """Vacuum wavelength, Angstrom."""
    lnu: Float[np.ndarray, " wave"]
    """Luminosity of all the stars formed, Lsun/Hz (3.839e33 erg/s)."""
    mfrac: float
    """Surviving over formed stellar mass, dimensionless."""


class StepTable(NamedTuple):
    """A star formation history as FSPS reads it (``sfh=3``)."""

    time: Float[np.ndarray, " time"]
    """Time since the oldest edge, Gyr, increasing."""
    sfr: Float[np.ndarray, " time"]
    """Star formation rate at each time, Msun/yr."""
    tage: float
    """Time at which the galaxy is seen, Gyr."""


@functools.cache
def stellar_population() -> Any:
    """Return the one ``fsps.StellarPopulation`` of this process, made on the first call.

    Raises
    ------
    FileNotFoundError
        If ``SPS_HOME`` is not set or does not hold FSPS's data.
    ImportError
        If python-fsps is not installed.
    """
    home = os.environ.get("SPS_HOME", "")
    if not home or not os.path.isfile(os.path.join(home, "data", "emlines_info.dat")):
        raise FileNotFoundError(
            "`SPS_HOME` must name a folder with the data of FSPS (a clone of "
            f"https://github.com/cconroy20/fsps), got {home!r}. Set it before starting Python."
        )
    try:
        import fsps
    except ImportError as error:
        raise ImportError("python-fsps is needed here: pip install 'galaxy-hbm[fsps]'.") from error
    return fsps.StellarPopulation(zcontinuous=1, imf_type=IMF_TYPE)


def step_table(
    agebins: Float[np.ndarray, "bin 2"], masses: Float[np.ndarray, " bin"], *, epsilon: float = 1e-4
) -> StepTable:
    """Star formation rate constant in each bin, as a table that FSPS interpolates linearly.

    Each edge becomes two points, ``1 - epsilon`` and ``1 + epsilon`` times its age, as in
    ``prospect.sources.FastStepBasis.convert_sfh``. The oldest ``epsilon`` of time is left out.

    Parameters
    ----------
    agebins : log10 yr
        Edges of each bin; a bin begins where the one before it ends.
    masses : Msun
        Mass formed in each bin.
    epsilon : dimensionless
        Half-width of a step as a fraction of its age.
    """
    edges = 10.0 ** np.append(agebins[:, 0], agebins[-1, 1])
    ages = np.sort(np.concatenate([edges * (1 - epsilon), edges * (1 + epsilon)]))[1:-1]
    sfr = np.repeat(np.asarray(masses, float) / np.diff(edges), 2)
    return StepTable(((edges[-1] - ages) / 1e9)[::-1], sfr[::-1], float(edges[-1] / 1e9))


def _scalar(value: ArrayLike) -> float:
    return float(np.asarray(value))


@dataclass(frozen=True)
class FSPSReference:
    """Predictions of python-fsps for this package's parameters. One galaxy at a time."""

    dust_type: int = 4
    """Diffuse attenuation curve, FSPS's number: 4 Kriek & Conroy (2013), 2 Calzetti et al. (2000).
    The second ignores ``dust_index``. ``dust1`` acts on young stars with either."""
    neb_emission: bool = True
    """Nebular lines, drawn into the spectrum at the resolution of the stellar library."""
    neb_continuum: bool = False
    """Nebular continuum too."""
    dust_emission: bool = False
    """Absorbed light comes back in the infrared (Draine & Li 2007)."""

    def __post_init__(self) -> None:
        if self.dust_type not in (2, 4):
            raise ValueError(f"`dust_type` must be 4 (Kriek & Conroy) or 2 (Calzetti), got {self.dust_type}.")

    def fsps_parameters(
        self, params: SEDParams, *, zred: float = 0.0, igm: bool = False
    ) -> dict[str, float | int | bool]:
        """Values of all FSPS parameters that are not left at python-fsps's defaults, SFH apart."""
        gas_logz = params.logzsol if params.gas_logz is None else params.gas_logz
        return {
            "imf_type": IMF_TYPE,
            "dust_type": self.dust_type,
            "dust1_index": -1.0,
            "dust_tesc": 7.0,
            "add_neb_emission": self.neb_emission,
            "add_neb_continuum": self.neb_continuum,
            "nebemlineinspec": True,
            "add_dust_emission": self.dust_emission,
            "add_igm_absorption": igm,
            "zred": float(zred),
            "logzsol": _scalar(params.logzsol),
            "dust1": _scalar(params.dust1),
            "dust2": _scalar(params.dust2),
            "dust_index": _scalar(params.dust_index),
            "gas_logu": _scalar(params.gas_logu),
            "gas_logz": _scalar(gas_logz),
            "duste_umin": _scalar(params.duste_umin),
            "duste_qpah": _scalar(params.duste_qpah),
            "duste_gamma": _scalar(params.duste_gamma),
        }

    def rest_spectrum(
        self,
        params: SEDParams,
        agebins: Float[np.ndarray, "bin 2"] | None = None,
        zred: float = 0.0,
        igm: bool = False,
    ) -> RestSpectrum:
        """Spectrum of one galaxy at rest.

        Parameters
        ----------
        agebins : log10 yr
            Bins of a `BinnedSFH`; without them those of the default cosmology at ``zred``.
        zred
            Redshift: sets the intergalactic absorption and the default ``agebins``, nothing else.
        igm
            Absorb by the intergalactic medium (Madau 1995).

        Raises
        ------
        ValueError
            If the age of a `DelayedTauSFH` is outside that of FSPS's isochrones.
        """
        population = stellar_population()
        for name, value in self.fsps_parameters(params, zred=zred, igm=igm).items():
            population.params[name] = value
        mass = 10.0 ** _scalar(params.sfh.logmass)
        if isinstance(params.sfh, BinnedSFH):
            if agebins is None:
                agebins = reference_agebins(params.sfh, zred)
            table = step_table(agebins, np.asarray(bin_masses(params.sfh, agebins), float))
            population.params["sfh"] = 3
            population.set_tabular_sfh(table.time, table.sfr)
            tage, scale, formed = table.tage, 1.0, mass
        else:
            tage, scale, formed = _scalar(params.sfh.tage), mass, 1.0
            oldest = 10.0 ** (population.ssp_ages[-1] - 9)
            if not 0 < tage <= oldest:
                raise ValueError(f"`tage` must be within (0, {oldest:.2f}] Gyr, got {tage}.")
            population.params["sfh"] = 4
            population.params["tau"] = _scalar(params.sfh.tau)
        # Another StellarPopulation of this process may have changed the Fortran state: send all again.
        population.params.dirtiness = max(1, population.params.dirtiness)
        wave, lnu = population.get_spectrum(tage=tage, peraa=False)
        return RestSpectrum(wave, lnu * scale, float(population.stellar_mass) / formed)

    def band_flux(
        self,
        params: SEDParams,
        filters: FilterSet,
        zred: float,
        cosmology: Cosmology | None = None,
        *,
        agebins: Float[np.ndarray, "bin 2"] | None = None,
        igm: bool = False,
        union_grid: bool = True,
    ) -> Float[np.ndarray, " band"]:
        """Observed flux of one galaxy in each band, maggies.

        Parameters
        ----------
        zred
            Redshift, above zero.
        cosmology
            Gives the luminosity distance; the package's default without it.
        agebins, igm
            As for `rest_spectrum`; without ``agebins``, those of ``cosmology`` at ``zred``.
        union_grid
            As for `spectrum_maggies`; False is what Prospector does.

        Raises
        ------
        ValueError
            If ``zred`` is not above zero, or beyond the table of ``cosmology``.
        """
        cosmology = default_cosmology() if cosmology is None else cosmology
        distance = float(cosmology.luminosity_distance_np(zred)) * 1e6 * PARSEC_CM
        if isinstance(params.sfh, BinnedSFH) and agebins is None:
            agebins = reference_agebins(params.sfh, zred, cosmology)
        wave, lnu, _ = self.rest_spectrum(params, agebins, zred, igm)
        fnu = lnu * LSUN_CGS * (1 + zred) / (4 * np.pi * distance**2) / AB_FNU_CGS
        return spectrum_maggies(wave * (1 + zred), fnu, filters, union_grid=union_grid)


def reference_agebins(
    sfh: BinnedSFH, zred: float, cosmology: Cosmology | None = None
) -> Float[np.ndarray, "bin 2"]:
    """Age bins up to the age of the universe at ``zred`` or FSPS's oldest isochrone, log10 yr."""
    cosmology = default_cosmology() if cosmology is None else cosmology
    oldest = 10.0 ** (stellar_population().ssp_ages[-1] - 9)
    tmax = min(float(cosmology.age(zred)), float(oldest))
    return make_agebins(tmax, n_old=np.size(sfh.logsfr_ratios) + 1)


def sedpy_filters(filters: FilterSet) -> list[Any]:
    """Return our transmission curves as ``sedpy.observate.Filter`` objects, untrimmed."""
    from sedpy.observate import Filter

    return [Filter(f.name, data=(f.wave, f.transmission), min_trans=0.0) for f in filters.filters]


def spectrum_maggies(
    wave_obs: Float[np.ndarray, " wave"],
    flux: Float[np.ndarray, " wave"],
    filters: FilterSet,
    *,
    union_grid: bool = True,
) -> Float[np.ndarray, " band"]:
    """Mean flux of a spectrum in each band by sedpy's ``getSED``.

    sedpy 0.4 samples the filter at the wavelengths of the *spectrum* and sums trapezoids there
    (``Filter.obj_counts_hires``), while the zero point uses the filter's own wavelengths. With a
    coarse spectrum the filter's shape is lost, and a flat spectrum does not come out flat.

    Parameters
    ----------
    wave_obs : Angstrom
        Observed-frame wavelength, increasing.
    flux : maggies
        Flux density per unit frequency.
    union_grid
        Interpolate the spectrum linearly onto its own and all filters' wavelengths together, cut 8
        times finer, before sedpy sees it: then the result is the integral of the piecewise-linear
        spectrum to a few 1e-5. False leaves the spectrum as it is, as Prospector does: off by 1 %
        in 2MASS J and 0.1 % in SDSS i with a spectrum of R = 100 at zred = 0.1.
    """
    from sedpy.observate import getSED, lightspeed

    curves = sedpy_filters(filters)
    if union_grid:
        # A point just outside each filter, or the trapezoid reaches to the next point of the spectrum.
        edges = [f.wavelength[[0, -1]] * (1 - 1e-9, 1 + 1e-9) for f in curves]
        grid = np.unique(np.concatenate([wave_obs, *(f.wavelength for f in curves), *edges]))
        grid = grid[(grid >= wave_obs[0]) & (grid <= wave_obs[-1])]
        grid = np.interp(np.arange(8 * grid.size - 7) / 8, np.arange(grid.size), grid)
        flux = np.interp(grid, wave_obs, flux)
        wave_obs = grid
    # sedpy's own speed of light: it cancels against the one in its zero point.
    flambda = flux * AB_FNU_CGS * lightspeed / wave_obs**2
    return np.atleast_1d(getSED(wave_obs, flambda, curves, linear_flux=True))
