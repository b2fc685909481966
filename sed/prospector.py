"""Prospector 1.4: the same galaxy as one of its models.

`prospector_model` builds a ``SpecModel`` whose free parameters carry this package's names, so that
one vector of numbers means the same galaxy in both. What makes the comparison like with like:

- Lines are drawn into the spectrum by FSPS (``nebemlineinspec``), as in `sed.reference`. Otherwise
  Prospector adds them to the photometry itself, as infinitely narrow lines: 0.2 % in 2MASS Ks for
  10**-9.7 per yr at zred = 0.1, more where lines are stronger.
- ``lumdist`` is set from this package's cosmology; Prospector's own is WMAP9.
- Prospector's Sun is brighter: divide its fluxes by `PROSPECTOR_LSUN_RATIO`.
- Prospector integrates over the filters at the wavelengths of the spectrum
  (`sed.reference.spectrum_maggies` with ``union_grid=False``).

What a Prospector script holds is read by `sed.prospector_import`.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from sed.constants import LSUN_CGS
from sed.cosmology import Cosmology, default_cosmology
from sed.filters import FilterSet
from sed.parameters import BinnedSFH, SEDParams
from sed.reference import FSPSReference, reference_agebins, sedpy_filters, stellar_population
from sed.sfh import bin_masses

PROSPECTOR_LSUN_RATIO = 3.846e33 / LSUN_CGS
"""Prospector's flux over ours for the same luminosity in Lsun (``prospect.sources.constants.lsun``)."""

PRIOR_RANGES = {
    "logmass": (6.0, 13.0),
    "logssfr": (-14.0, -8.0),
    "logsfr_ratio_recent": (-5.0, 5.0),
    "logsfr_ratios": (-5.0, 5.0),
    "tage": (0.01, 12.5),
    "tau": (0.01, 30.0),
    "logzsol": (-2.0, 0.5),
    "dust1": (0.0, 4.0),
    "dust2": (0.0, 4.0),
    "dust_index": (-1.5, 0.5),
    "gas_logu": (-4.0, -1.0),
    "gas_logz": (-2.0, 0.5),
    "duste_umin": (0.1, 25.0),
    "duste_qpah": (0.5, 7.0),
    "duste_gamma": (0.0, 0.15),
}
"""Uniform priors given to Prospector; they matter only if Prospector itself is to fit."""


class ProspectorModel(NamedTuple):
    """A galaxy as Prospector's ``model.predict(theta, obs, sps)`` takes it."""

    model: Any
    """``prospect.models.SpecModel``; ``model.theta_index`` says where each free parameter is."""
    sps: Any
    """``CSPSpecBasis`` or ``FastStepBasis``, sharing this process's FSPS."""
    theta: Float[np.ndarray, " parameter"]
    """Free parameters of the galaxy the model was built from."""


def prospector_model(
    params: SEDParams,
    zred: float,
    *,
    reference: FSPSReference | None = None,
    cosmology: Cosmology | None = None,
    agebins: Float[np.ndarray, "bin 2"] | None = None,
    igm: bool = False,
    fixed: Sequence[str] = (),
) -> ProspectorModel:
    """Build a Prospector model and its source of spectra for galaxies like ``params``.

    Parameters
    ----------
    params
        The type of its ``sfh`` chooses the star formation history, its values are the start.
    zred
        Redshift, fixed, above zero.
    reference
        Which dust curve and emission; `FSPSReference`'s defaults without it.
    cosmology
        Gives the distance and age; the package's default without it.
    agebins : log10 yr
        Bins of a `BinnedSFH`; without them those of ``cosmology`` at ``zred``.
    igm
        Absorb by the intergalactic medium.
    fixed
        Names of parameters to hold at their value in ``params``.

    Raises
    ------
    ValueError
        If ``zred`` is not above zero or beyond the table of ``cosmology``, or ``fixed`` names
        something else than a parameter.
    """
    reference = FSPSReference() if reference is None else reference
    cosmology = default_cosmology() if cosmology is None else cosmology
    distance = float(cosmology.luminosity_distance_np(zred))
    population = stellar_population()  # before Prospector, which dies without `SPS_HOME`
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in Prospector's docstrings
        from prospect.models import SpecModel, priors
        from prospect.sources import CSPSpecBasis, FastStepBasis

    config: dict[str, dict[str, Any]] = {
        name: {"N": 1, "isfree": False, "init": value}
        for name, value in reference.fsps_parameters(params, zred=zred, igm=igm).items()
    }
    config["lumdist"] = {"N": 1, "isfree": False, "init": distance}
    start = _free_parameters(params, reference)
    unknown = sorted(set(fixed) - set(start))
    if unknown:
        raise ValueError(f"`fixed` must name parameters among {sorted(start)}, got {unknown}.")
    for name, value in start.items():
        low, high = (np.full(value.size, bound) for bound in PRIOR_RANGES[name])
        prior = priors.TopHat(mini=low, maxi=high)
        config[name] = {"N": value.size, "isfree": name not in fixed, "init": value, "prior": prior}
    if params.gas_logz is None:
        config["gas_logz"]["depends_on"] = _tied_gas_logz
    if isinstance(params.sfh, BinnedSFH):
        bins = reference_agebins(params.sfh, zred, cosmology) if agebins is None else agebins
        config["agebins"] = {"N": len(bins), "isfree": False, "init": bins}
        config["mass"] = {"N": len(bins), "isfree": False, "init": np.ones(len(bins))}
        config["mass"]["depends_on"] = _mass_per_bin
        config["sfh"] = {"N": 1, "isfree": False, "init": 3}
        sps = FastStepBasis(zcontinuous=1)
    else:
        config["mass"] = {"N": 1, "isfree": False, "init": 1.0, "depends_on": _total_mass}
        config["sfh"] = {"N": 1, "isfree": False, "init": 4}
        sps = CSPSpecBasis(zcontinuous=1)
    sps.ssp = population
    model = SpecModel(config)
    return ProspectorModel(model, sps, model.initial_theta)


def predict_with_prospector(
    params: SEDParams,
    filters: FilterSet,
    zred: float,
    *,
    reference: FSPSReference | None = None,
    cosmology: Cosmology | None = None,
    agebins: Float[np.ndarray, "bin 2"] | None = None,
    igm: bool = False,
) -> Float[np.ndarray, " band"]:
    """Observed flux of one galaxy in each band by Prospector, maggies, its solar luminosity left in.

    The parameters are those of `prospector_model`.
    """
    galaxy = prospector_model(
        params, zred, reference=reference, cosmology=cosmology, agebins=agebins, igm=igm
    )
    obs = {"filters": sedpy_filters(filters), "wavelength": None, "spectrum": None}
    _, maggies, _ = galaxy.model.predict(galaxy.theta, obs, sps=galaxy.sps)
    return np.asarray(maggies, float)


def _free_parameters(params: SEDParams, reference: FSPSReference) -> dict[str, np.ndarray]:
    """Values of the parameters that the chosen emission depends on, by name, as vectors."""
    if isinstance(params.sfh, BinnedSFH):
        names = ["logmass", "logssfr", "logsfr_ratio_recent", "logsfr_ratios"]
    else:
        names = ["logmass", "tage", "tau"]
    values = {name: getattr(params.sfh, name) for name in names}
    names = ["logzsol", "dust1", "dust2"]
    if reference.dust_type == 4:
        names += ["dust_index"]
    if reference.neb_emission:
        names += ["gas_logu"] if params.gas_logz is None else ["gas_logu", "gas_logz"]
    if reference.dust_emission:
        names += ["duste_umin", "duste_qpah", "duste_gamma"]
    values |= {name: getattr(params, name) for name in names}
    return {name: np.atleast_1d(np.asarray(value, float)) for name, value in values.items()}


# Prospector calls these with all its parameters as vectors: `others` is its interface, not ours.
def _tied_gas_logz(logzsol: np.ndarray, **others: Any) -> np.ndarray:
    del others
    return logzsol


def _total_mass(logmass: np.ndarray, **others: Any) -> np.ndarray:
    del others
    return 10.0**logmass


_bin_masses = jax.jit(bin_masses)


def _mass_per_bin(
    logmass: np.ndarray,
    logssfr: np.ndarray,
    logsfr_ratio_recent: np.ndarray,
    logsfr_ratios: np.ndarray,
    agebins: np.ndarray,
    **others: Any,
) -> np.ndarray:
    del others
    sfh = BinnedSFH(logmass[0], logssfr[0], logsfr_ratio_recent[0], logsfr_ratios)
    return np.asarray(_bin_masses(sfh, agebins), float)
