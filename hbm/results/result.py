"""The result of fitting one galaxy, as ArviZ InferenceData.

Groups: ``posterior`` (parameters and derived quantities), ``sample_stats``, ``posterior_predictive``
(``flux``: model flux at each draw, without measurement noise), ``observed_data`` and ``constant_data``. The
attributes of the root group carry, as JSON, where the numbers came from and what builds the model again.
Fluxes are in maggies, wavelengths in Angstrom, age bins in log10 yr.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Shaped

from hbm.convergence import Convergence, component_name, import_arviz
from hbm.labels import DIMENSIONS, label_of, split_component
from hbm.results.provenance import Provenance

if TYPE_CHECKING:
    import arviz

FORMAT = "galaxy-hbm result 1"
"""Written into each file; ``load_result`` refuses any other."""


@dataclasses.dataclass(frozen=True)
class ObservedBands:
    """Photometry of one galaxy, as it was fitted."""

    filter_names: tuple[str, ...]
    """Filters in the order of all band axes."""
    wave_pivot: Float[np.ndarray, " band"]
    """Pivot wavelengths, Angstrom."""
    flux: Float[np.ndarray, " band"]
    """Measured fluxes, maggies; where `upper_limit` is set, the limit."""
    flux_err: Float[np.ndarray, " band"]
    """Standard deviations, maggies."""
    observed: Bool[np.ndarray, " band"]
    """True where there is a measurement or a limit."""
    upper_limit: Bool[np.ndarray, " band"]
    """True where `flux` is an upper limit."""
    error_floor: Float[np.ndarray, " band"]
    """Model uncertainty as a fraction of the model flux, added in quadrature."""

    def __post_init__(self) -> None:
        n_name, n_band = len(self.filter_names), self.flux.shape[0]
        if n_name != n_band:
            raise ValueError(f"`filter_names` must have one name per band: expected {n_band}, got {n_name}.")


@dataclasses.dataclass(frozen=True)
class FitResult:
    """Posterior of one galaxy with its data, predictions, verdict and provenance."""

    idata: "arviz.InferenceData"
    """Everything, in the groups named at the head of this module."""

    @property
    def galaxy_id(self) -> str:
        """Identifier in the catalogue."""
        return str(self._attr("galaxy_id"))

    @property
    def zred(self) -> float:
        """Catalogue redshift; if redshift was free, its posterior is the variable ``zred``."""
        return float(self.idata["constant_data"]["zred"])

    @property
    def posterior(self) -> xr.Dataset:
        """Draws of parameters and derived quantities, (chain, draw, ...)."""
        return self.idata["posterior"]

    @property
    def convergence(self) -> Convergence:
        """Verdict on the chains."""
        stored = self._attr("convergence")
        for name in ("rhat_max", "ess_bulk_min", "ess_tail_min"):
            stored[name] = float(stored[name])  # "nan" is a string in the file: JSON has no NaN
        return Convergence(**stored)

    @property
    def flag(self) -> str:
        """``ok``, or whatever is wrong with the fit or its data, joined by commas."""
        return str(self._attr("flag"))

    @property
    def provenance(self) -> Provenance:
        """Where the result came from."""
        values = {field.name: self._attr(field.name) for field in dataclasses.fields(Provenance)}
        return Provenance(**values | {"filters": tuple(values["filters"])})

    @property
    def bands(self) -> ObservedBands:
        """Photometry that was fitted."""
        data, constant = self.idata["observed_data"], self.idata["constant_data"]
        return ObservedBands(
            filter_names=tuple(str(name) for name in constant["band"].values),
            wave_pivot=constant["wave_pivot"].values,
            flux=data["flux"].values,
            flux_err=data["flux_err"].values,
            observed=data["observed"].values.astype(bool),
            upper_limit=data["upper_limit"].values.astype(bool),
            error_floor=constant["error_floor"].values,
        )

    @property
    def components(self) -> tuple[str, ...]:
        """Names of all scalars in the posterior; those of vectors are ``name[i]``."""
        return tuple(
            component_name(str(name), index)
            for name, variable in self.posterior.data_vars.items()
            for index in np.ndindex(variable.shape[2:])
        )

    def draws(self, name: str) -> Float[np.ndarray, "chain draw ..."]:
        """Draws of one variable (``sfr_bins``) or of one component (``sfr_bins[0]``)."""
        base, index = split_component(name)
        if base not in self.posterior:
            known = ", ".join(str(n) for n in self.posterior.data_vars)
            raise ValueError(f"`name` must be a variable of the posterior ({known}), got {name!r}.")
        values = np.asarray(self.posterior[base].values, dtype=np.float64)
        where: tuple[slice | int, ...] = (slice(None), slice(None), *index)
        return values[where]

    def predicted_flux(self) -> Float[np.ndarray, "sample band"]:
        """Model fluxes at the posterior draws, all chains together, maggies."""
        flux = np.asarray(self.idata["posterior_predictive"]["flux"].values, dtype=np.float64)
        return flux.reshape(-1, flux.shape[-1])

    def renamed(self, galaxy_id: str) -> "FitResult":
        """The same under another identifier: one galaxy may be fitted twice, as two rows of a catalogue."""
        idata = self.idata.copy()
        idata.attrs = {**self.idata.attrs, "galaxy_id": json.dumps(galaxy_id)}
        return FitResult(idata)

    def _attr(self, name: str) -> Any:
        return json.loads(self.idata.attrs[name])


def make_result(
    galaxy_id: str,
    zred: float,
    *,
    posterior: Mapping[str, Shaped[np.ndarray, "..."]],
    sample_stats: Mapping[str, Shaped[np.ndarray, "..."]],
    flux: Float[np.ndarray, "chain draw band"],
    bands: ObservedBands,
    convergence: Convergence,
    provenance: Provenance,
    agebins: Float[np.ndarray, "bin 2"] | None = None,
    flags: Sequence[str] = (),
) -> FitResult:
    """Gather all that a fit of one galaxy gave.

    Parameters
    ----------
    galaxy_id, zred
        Identifier and redshift in the catalogue.
    posterior
        Parameters and derived quantities by name, (chain, draw, ...), in the units of ``hbm.labels``.
    sample_stats
        Sampler statistics by ArviZ name: ``diverging`` and, where known, ``lp``, ``energy``, ``tree_depth``.
    flux : maggies
        Model flux at each draw, without measurement noise.
    bands, convergence, provenance
        The photometry, the verdict on the chains, the origin.
    agebins : log10 yr
        Edges of the age bins of ``sfr_bins``.
    flags
        Further remarks about the data, single words; they follow those on convergence in the flag.

    Returns
    -------
    FitResult

    Raises
    ------
    ValueError
        If `galaxy_id` or `posterior` is empty, ``diverging`` is missing, arrays disagree in shape, or the
        provenance is not plain JSON.
    """
    if not galaxy_id:
        raise ValueError("`galaxy_id` must not be empty: it names the file and the row of the table.")
    if not posterior:
        raise ValueError("`posterior` must hold at least one variable, got an empty mapping.")
    if "diverging" not in sample_stats:
        raise ValueError(f"`sample_stats` must hold `diverging`, got {', '.join(sample_stats) or 'nothing'}.")
    if flux.shape[-1] != bands.flux.shape[0]:
        raise ValueError(
            f"`flux` must have one column per band: expected (chain, draw, {bands.flux.shape[0]}), "
            f"got {flux.shape}."
        )
    for group, arrays in (("posterior", posterior), ("sample_stats", sample_stats)):
        for name, values in arrays.items():
            if values.shape[:2] != flux.shape[:2]:
                raise ValueError(
                    f"`{group}[{name!r}]` must begin with the axes (chain, draw) of `flux`: expected "
                    f"{flux.shape[:2]}, got shape {values.shape}."
                )
    maggies = {"units": "mgy"}
    constant = {
        "wave_pivot": ("band", bands.wave_pivot, {"units": "Angstrom", "description": "pivot wavelength"}),
        "error_floor": ("band", bands.error_floor, {"units": "", "description": "model error / model flux"}),
        "zred": ((), zred, {"units": "", "description": "catalogue redshift"}),
    }
    if agebins is not None:
        constant["agebins"] = (("bin", "edge"), agebins, {"units": "dex(yr)", "description": "age bin edges"})
    names = {"band": list(bands.filter_names)}
    drawn = xr.Dataset({name: _variable(name, values) for name, values in posterior.items()})
    if "band" in drawn.dims:
        drawn = drawn.assign_coords(names)
    az = import_arviz()
    idata = az.InferenceData(
        posterior=drawn.assign_coords(chain=np.arange(flux.shape[0]), draw=np.arange(flux.shape[1])),
        sample_stats=xr.Dataset({name: (("chain", "draw"), values) for name, values in sample_stats.items()}),
        posterior_predictive=xr.Dataset(
            {
                "flux": (
                    ("chain", "draw", "band"),
                    flux,
                    maggies | {"description": "model flux, without noise"},
                )
            },
            names,
        ),
        observed_data=xr.Dataset(
            {
                "flux": ("band", bands.flux, maggies | {"description": "measured flux, or upper limit"}),
                "flux_err": ("band", bands.flux_err, maggies | {"description": "standard deviation"}),
                "observed": ("band", bands.observed, {"description": "measurement or limit exists"}),
                "upper_limit": ("band", bands.upper_limit, {"description": "flux is an upper limit"}),
            },
            names,
        ),
        constant_data=xr.Dataset(constant, names),
        attrs=_attributes(galaxy_id, convergence, provenance, flags),
    )
    return FitResult(idata)


def _variable(name: str, values: Shaped[np.ndarray, "chain draw ..."]) -> xr.Variable:
    """One posterior variable with named axes, unit and description."""
    label = label_of(name)
    known = DIMENSIONS.get(name, ())
    tail = (
        known if len(known) == values.ndim - 2 else tuple(f"{name}_dim_{i}" for i in range(values.ndim - 2))
    )
    attrs = {"units": label.unit, "description": label.description}
    return xr.Variable(("chain", "draw", *tail), values, attrs)


def _attributes(
    galaxy_id: str, convergence: Convergence, provenance: Provenance, flags: Sequence[str]
) -> dict[str, str]:
    """Attributes of the root group, each a JSON text."""
    verdict = {
        k: v if not isinstance(v, float) or np.isfinite(v) else str(v)
        for k, v in convergence._asdict().items()
    }
    words = ([] if convergence.converged else [convergence.flag]) + list(flags)
    values = {
        "format": FORMAT,
        "galaxy_id": galaxy_id,
        "convergence": verdict,
        "flag": ",".join(words) or "ok",
        **{field.name: getattr(provenance, field.name) for field in dataclasses.fields(Provenance)},
    }
    attributes = {}
    for name, value in values.items():
        try:
            attributes[name] = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`{name}` must be plain JSON (text, finite numbers, true, false, null, lists, objects): "
                f"{error}. Convert arrays with `.tolist()`."
            ) from error
    return attributes
