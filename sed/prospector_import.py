"""What a Prospector 1.4 script holds, as this package names it: observations and model parameters.

Prospector itself is not imported, nor FSPS. What cannot be taken over is listed, never dropped in
silence.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from sed.parameters import BinnedSFH
from sed.sfh import LOG_AGE_RECENT, N_OLD_DEFAULT
from sed.sfh import agebins as make_agebins


class ProspectorPhotometry(NamedTuple):
    """The photometry in a Prospector ``obs`` dictionary."""

    flux: Float[np.ndarray, " band"]
    """Measured flux, maggies."""
    flux_err: Float[np.ndarray, " band"]
    """One standard deviation, maggies."""
    observed: Bool[np.ndarray, " band"]
    """True where the band enters the fit."""
    filter_names: tuple[str, ...]
    """Names as in sedpy."""
    zred: float | None
    """Redshift, if the dictionary holds one."""
    not_brought: tuple[str, ...]
    """Data in the dictionary that this package does not fit."""


def read_prospector_obs(obs: Mapping[str, Any]) -> ProspectorPhotometry:
    """Take the photometry out of a Prospector ``obs`` dictionary.

    A band is observed where ``phot_mask`` says so (everywhere, without one), and flux and error
    are finite and the error is above zero, as in ``prospect.utils.obsutils.rectify_obs``.

    Raises
    ------
    ValueError
        If there is no photometry, or the number of bands differs between its parts.
    """
    missing = [key for key in ("maggies", "maggies_unc", "filters") if obs.get(key) is None]
    if missing:
        raise ValueError(f"`obs` must hold photometry: expected {missing} in it, got {sorted(obs)}.")
    flux = np.atleast_1d(np.asarray(obs["maggies"], float))
    filters = getattr(obs["filters"], "filters", obs["filters"])  # sedpy's FilterSet holds a list
    names = tuple(f if isinstance(f, str) else str(f.name) for f in filters)
    parts: dict[str, np.ndarray] = {}
    for key, default in (("maggies_unc", None), ("phot_mask", True)):
        value = obs.get(key)
        part = np.asarray(default if value is None else value)
        if part.ndim == 0:
            part = np.full(flux.shape, part)
        parts[key] = part
    sizes = {"maggies": flux.size, "filters": len(names)} | {key: part.size for key, part in parts.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"`obs` must have one entry per band in each part, got {sizes}.")
    flux_err = parts["maggies_unc"].astype(float)
    mask = parts["phot_mask"]
    if mask.dtype != bool:  # a list of band numbers is not a mask
        if not np.isin(mask, (0, 1)).all():
            raise ValueError(f"`obs['phot_mask']` must be True or False per band, got {mask}.")
        mask = mask.astype(bool)
    observed = mask & np.isfinite(flux) & np.isfinite(flux_err) & (flux_err > 0)
    zred = next((obs[key] for key in ("zred", "redshift") if obs.get(key) is not None), None)
    zred = None if zred is None else float(np.ravel(zred)[0])
    ignored = tuple(key for key in ("spectrum",) if obs.get(key) is not None)
    return ProspectorPhotometry(flux, flux_err, observed, names, zred, ignored)


class TranslatedModel(NamedTuple):
    """What of a Prospector model this package has, under its own names."""

    values: dict[str, float | np.ndarray]
    """Starting (or fixed) value of each parameter."""
    free: tuple[str, ...]
    """Names in ``values`` that Prospector lets vary."""
    bounds: dict[str, tuple[float, float]]
    """Range of Prospector's prior, where there is one for the same parameter. Its shape stays behind."""
    settings: dict[str, float]
    """Prospector's switches (dust curve, emission, mass function) with their value."""
    not_brought: dict[str, str]
    """Prospector's name and why it has no counterpart: read it before trusting a comparison."""


_SAME = (
    "logzsol", "dust1", "dust2", "dust_index", "gas_logu", "gas_logz",
    "duste_umin", "duste_qpah", "duste_gamma", "zred",
)  # fmt: skip
_SETTINGS = (
    "add_neb_emission", "add_neb_continuum", "add_dust_emission", "add_igm_absorption",
    "dust_type", "imf_type",
)  # fmt: skip
_MASS = ("mass", "logmass", "total_mass", "massmet")
_BINNED = (
    "agebins", "logsfr_ratios", "logsfr_ratio_young", "logsfr_ratio_old", "z_fraction",
    "tlast", "tflex", "nflex", "nfixed",
)  # fmt: skip
_HANDLED = {*_MASS, *_BINNED, "sfh", "tage", "tau", "dust_ratio", "dust1_fraction", "tage_tuniv"}
_HARMLESS = {
    "igm_factor": 1.0, "const": 0.0, "fburst": 0.0, "sf_start": 0.0, "sf_trunc": 0.0,
    "fage_burst": 0.0, "tburst": 0.0, "add_agn_dust": 0.0, "fagn": 0.0, "dust1_index": -1.0,
    "dust_tesc": 7.0, "nebemlineinspec": 1.0, "f_outlier_phot": 0.0, "frac_obrun": 0.0,
}  # fmt: skip
_REASON = {
    "lumdist": "the cosmology sets the distance",
    "fagn": "no AGN torus", "agn_tau": "no AGN torus", "add_agn_dust": "no AGN torus",
    "agn_elum": "no AGN lines", "agn_eline_sigma": "no AGN lines",
    "igm_factor": "intergalactic absorption is not scaled",
    "nebemlineinspec": "lines are always drawn into the spectrum",
    "f_outlier_phot": "choose the outlier mixture of this package's likelihood",
    "nsigma_outlier_phot": "choose the outlier mixture of this package's likelihood",
    "phot_jitter": "choose the error floor of this package's likelihood",
    "mass_units": "`logmass` is the mass formed, not the surviving mass",
}  # fmt: skip
_SPECTRUM_ONLY = (
    "sigma_smooth", "smoothtype", "fftsmooth", "spec_norm", "poly", "spline", "eline", "use_eline",
    "marginalize_elines", "f_outlier_spec", "nsigma_outlier_spec", "spec_jitter", "wavecal",
    "min_wave_smooth", "max_wave_smooth",
)  # fmt: skip
_DRIVERS = {
    "dust1": ("dust_ratio", "dust1_fraction", "dust2"),
    "tage": ("tage_tuniv",),
    "logzsol": ("massmet",),
}  # free parameters that make a dependent one vary


def translate_parameters(
    model_params: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]],
    *,
    n_old: int = N_OLD_DEFAULT,
) -> TranslatedModel:
    """Say what of a Prospector model this package has, and what it does not.

    Any binned history (continuity, flexible, Dirichlet, ...) is taken over as its masses per bin,
    spread over this package's bins; its prior is not.

    Parameters
    ----------
    model_params
        Prospector's parameter specifications: a dictionary by name, or a list with ``"name"``.
    n_old
        Number of our bins older than 100 Myr.

    Raises
    ------
    ValueError
        If an entry of a list has no ``"name"``, a parameter no ``"init"``, or as `rebin_sfh`.
    """
    config = _by_name(model_params)
    value = {name: np.atleast_1d(info["init"]) for name, info in config.items()}
    not_brought: dict[str, str] = {}
    for name, info in config.items():
        rule = info.get("depends_on")
        if callable(rule):
            value[name] = np.atleast_1d(rule(**value))
        elif rule is not None:
            not_brought[name] = f"depends on {rule!r}, which is only a name here: pass the function"
    free_in = {name for name, info in config.items() if info.get("isfree", False)}
    values: dict[str, float | np.ndarray] = {}
    free: set[str] = set()

    def bring(name: str) -> None:
        values[name] = float(value[name][0])
        if name in free_in or free_in.intersection(_DRIVERS.get(name, ())):
            free.add(name)

    tied = config.get("gas_logz", {}).get("depends_on") is not None
    for name in _SAME:
        if name in config and name not in not_brought and not (name == "gas_logz" and tied):
            bring(name)
    if tied:
        not_brought.pop("gas_logz", None)  # tied to `logzsol`, which is our default
    number = int(value["sfh"][0]) if "sfh" in value else 0  # FSPS's default
    masses = next((value[n] for n in ("mass", "total_mass") if n in value and n not in not_brought), None)
    if masses is None and "logmass" in value:
        masses = 10.0 ** value["logmass"]
    bins = value.get("agebins") if "agebins" not in not_brought else None
    if number == 3 and bins is not None and masses is not None and len(masses) == len(bins):
        sfh = rebin_sfh(np.asarray(bins, float), masses.astype(float), n_old=n_old)
        names = ("logmass", "logssfr", "logsfr_ratio_recent", "logsfr_ratios")
        values |= {name: getattr(sfh, name) for name in names}
        if free_in.intersection((*_MASS, *_BINNED)):
            free.update(names)
    elif number == 3:
        not_brought["sfh"] = "bins need `agebins` and one `mass` for each of them"
    else:
        if masses is not None:
            values["logmass"] = float(np.log10(np.sum(masses)))
            free.update({"logmass"} if free_in.intersection(_MASS) else ())
        if number == 4:
            for name in ("tage", "tau"):
                if name in value and name not in not_brought:
                    bring(name)
        else:
            not_brought["sfh"] = f"sfh={number}: only bins (3) and delayed tau (4) are modelled here"
    settings = {name: float(value[name][0]) for name in _SETTINGS if name in value}
    for name, reason in _unlike_ours(settings, config).items():
        not_brought.setdefault(name, reason)
        values.pop(name, None)
        free.discard(name)
    for name in config:
        if name in values or name in _HANDLED or name in not_brought or name in _SETTINGS:
            continue
        harmless = name in _HARMLESS and name not in free_in and bool(np.all(value[name] == _HARMLESS[name]))
        harmless |= (name == "mass_units" and value[name][0] == "mformed") or (name == "gas_logz" and tied)
        if harmless:
            continue
        if name.startswith(_SPECTRUM_ONLY):
            not_brought[name] = "concerns spectra, which are not fitted"
        else:
            not_brought[name] = _REASON.get(name, "no counterpart")
    return TranslatedModel(values, tuple(sorted(free)), _bounds(config, values), settings, not_brought)


_FSPS_DEFAULTS = {"imf_type": 2.0, "dust_type": 0.0, "add_neb_emission": 0.0, "add_neb_continuum": 1.0}
"""What python-fsps takes where a script says nothing."""


def _unlike_ours(settings: Mapping[str, float], config: Mapping[str, object]) -> dict[str, str]:
    """Switches, set or left at python-fsps's defaults, that have no counterpart."""
    used = _FSPS_DEFAULTS | dict(settings)
    found = {}
    if used["imf_type"] != 1:
        found["imf_type"] = (
            f"imf_type={used['imf_type']:.0f}: the grid is for Chabrier's mass function (1): masses are off"
        )
    if used["dust_type"] not in (2, 4):
        found["dust_type"] = (
            f"dust_type={used['dust_type']:.0f}: attenuation is Kriek & Conroy (4) or Calzetti (2) here"
        )
        if "dust_index" in config:
            found["dust_index"] = "the slope of another curve: here it is an offset from Calzetti's"
    elif used["dust_type"] == 4 and "dust_index" not in config:
        found["dust_index"] = "python-fsps takes -0.7 where none is given; here the default is 0"
    if used["add_neb_emission"] and used["add_neb_continuum"]:
        found["add_neb_continuum"] = "the grid that comes with the package has no nebular continuum"
    return found


def _by_name(
    model_params: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]],
) -> dict[str, Mapping[str, Any]]:
    """Parameter specifications by name."""
    if isinstance(model_params, Mapping):
        config = dict(model_params)
    else:
        if not all("name" in info for info in model_params):
            raise ValueError("`model_params` given as a list must have a 'name' in each entry.")
        config = {str(info["name"]): info for info in model_params}
    without = [name for name, info in config.items() if "init" not in info]
    if without:
        raise ValueError(f"`model_params` must have an 'init' for each parameter; missing for {without}.")
    return config


def _bounds(
    config: Mapping[str, Mapping[str, Any]], values: Mapping[str, object]
) -> dict[str, tuple[float, float]]:
    """Ranges of the priors on scalars that mean the same in both; masses as log10."""
    bounds: dict[str, tuple[float, float]] = {}
    for name, info in config.items():
        ours = "logmass" if name in ("mass", "total_mass") else name
        get = getattr(info.get("prior"), "bounds", None)
        if not info.get("isfree", False) or ours not in values or info.get("N", 1) != 1 or not callable(get):
            continue
        low, high = (float(np.ravel(edge)[0]) for edge in get())
        bounds[ours] = (low, high) if ours == name else (float(np.log10(low)), float(np.log10(high)))
    return bounds


def rebin_sfh(
    agebins: Float[np.ndarray, "old_bin 2"],
    masses: Float[np.ndarray, " old_bin"],
    *,
    n_old: int = N_OLD_DEFAULT,
) -> BinnedSFH:
    """Spread masses formed in any age bins over this package's bins up to the same oldest age.

    Star formation is constant within each given bin, so the mass formed in ours is exact. Bins
    without stars get 1e-10 of the mean rate, as logarithms need.

    Parameters
    ----------
    agebins : log10 yr
        Edges of each bin; a bin begins where the one before it ends.
    masses : Msun
        Mass formed in each bin.

    Raises
    ------
    ValueError
        If the bins leave gaps, end before 0.2 Gyr, or no mass is formed in them.
    """
    if not np.allclose(agebins[1:, 0], agebins[:-1, 1]):
        raise ValueError(f"`agebins` must begin where the bin before ends, got {agebins.tolist()}.")
    if masses.shape != agebins.shape[:1] or not np.sum(masses) > 0 or np.min(masses) < 0:
        raise ValueError(f"`masses` must be one mass >= 0 per bin, not all zero, got {masses}.")
    edges = 10.0 ** np.append(agebins[:, 0], agebins[-1, 1])
    formed = np.append(0.0, np.cumsum(masses))
    ours = make_agebins(edges[-1] / 1e9, n_old=n_old)
    our_edges = 10.0 ** np.append(ours[:, 0], ours[-1, 1])
    rate = np.diff(np.interp(our_edges, edges, formed)) / np.diff(our_edges)
    log_rate = np.log10(np.maximum(rate, 1e-10 * formed[-1] / edges[-1]))
    recent = np.interp(10.0**LOG_AGE_RECENT, edges, formed)
    recent = np.clip(recent / formed[-1], 1e-10, 1 - 1e-10)
    return BinnedSFH(
        logmass=float(np.log10(formed[-1])),
        logssfr=float(np.log10(recent) - LOG_AGE_RECENT),
        logsfr_ratio_recent=float(log_rate[0] - log_rate[1]),
        logsfr_ratios=log_rate[2:-1] - log_rate[3:],
    )
