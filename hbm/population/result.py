"""Posterior of the hyperparameters with what is wrong with it, in memory and on disk."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from hbm.convergence import import_arviz
from hbm.population.importance import ImportanceDraws

LARGEST_VARIANCE = 1.0
"""Of differences in the estimated log-likelihood, above which a result is flagged."""

_FORMAT = "galaxy-hbm population 1"
_WORST_K = 0.7
_LEAST_ESS = 400
_WORST_GALAXY_RHAT = 1.1
_N_JUDGED = 1000


class PopulationResult(NamedTuple):
    """Posterior of the hyperparameters, and what is wrong with it."""

    idata: Any
    """ArviZ InferenceData: ``posterior`` with hyperparameters, shared calibration and ``log_detected``. Where
    galaxies were sampled too, ``galaxies`` has draws of their properties given the population."""
    effective: Float[np.ndarray, " galaxy"] | None
    """Effective number of draws of each galaxy, at the median hyperparameters; None if not reweighted."""
    pareto_k: Float[np.ndarray, " galaxy"] | None
    """Of each galaxy's weights there (Vehtari et al. 2024, arXiv:1507.02646); not to be trusted above 0.7."""
    variance: float
    """Monte Carlo variance of log-likelihood differences across the posterior, nats squared: the mean from
    its draws to its median. Where galaxies were sampled too, that of the selection alone."""
    flag: str
    """``ok``, or what is wrong: ``rhat``, ``ess``, ``divergences``, ``variance``, ``pareto_k``,
    ``importance`` (Pareto k of the hyperparameters' own weights), ``galaxies``."""
    method: str = "reweight"
    """``reweight``, ``joint`` or ``gibbs``."""

    def draws(self, name: str) -> Float[np.ndarray, " draw"]:
        """All draws of one hyperparameter."""
        return np.asarray(self.idata.posterior[name].values).reshape(-1)

    def galaxies(self, name: str) -> Float[np.ndarray, "galaxy draw"]:
        """Draws of one property of every galaxy, given the population.

        Raises
        ------
        ValueError
            If the galaxies were not sampled.
        """
        if "galaxies" not in self.idata.groups():
            raise ValueError(f"`method` must be 'joint' or 'gibbs' to have galaxies, got {self.method!r}.")
        values = np.asarray(self.idata["galaxies"][name].values)
        return np.moveaxis(values.reshape(-1, values.shape[-1]), 0, 1)


def judged(
    values: dict[str, np.ndarray],
    stats: dict[str, np.ndarray],
    *,
    method: str,
    variance: float,
    effective: Float[np.ndarray, " galaxy"] | None = None,
    pareto_k: Float[np.ndarray, " galaxy"] | None = None,
    importance: ImportanceDraws | None = None,
    galaxies: dict[str, np.ndarray] | None = None,
    names: tuple[str, ...] = (),
) -> PopulationResult:
    """Gather draws to a result with its flag.

    Parameters
    ----------
    values
        Draws of what was sampled, and of ``log_detected``; axes (chain, draw, ...).
    stats
        ``diverging`` and other statistics of the sampler, axes (chain, draw).
    method, variance, effective, pareto_k
        As in `PopulationResult`.
    importance
        Draws of the hyperparameters by importance sampling, if they are: their effective number, Pareto k
        and evaluations become ``effective``, ``pareto_k`` and ``evaluations`` of ``posterior``'s attributes.
    galaxies
        Draws of the galaxies' properties, axes (chain, draw, galaxy).
    names
        Of the galaxies.
    """
    az = import_arviz()
    idata = az.from_dict(posterior=values, sample_stats=stats)
    flags = []
    if importance is None:  # else there are no chains, and their diagnostics mean nothing
        flags = _flags({name: value for name, value in values.items() if name != "log_detected"}, stats)
    if importance is not None:
        idata.posterior.attrs |= {
            "effective": importance.effective, "pareto_k": importance.k,
            "evaluations": importance.n_evaluation,
        }  # fmt: skip
        if importance.effective < _LEAST_ESS:
            flags.append("ess")
        if not importance.k <= _WORST_K:
            flags.append("importance")
    if not variance < LARGEST_VARIANCE:
        flags.append("variance")
    if pareto_k is not None and (pareto_k > _WORST_K).any():
        flags.append("pareto_k")
    if galaxies is not None:
        axes = ("chain", "draw", "galaxy")
        drawn = xr.Dataset({n: (axes, v) for n, v in galaxies.items()}, coords={"galaxy": list(names)})
        idata.add_groups({"galaxies": drawn}, warn_on_custom_groups=False)
        if _part_apart(drawn) > 0.01:
            flags.append("galaxies")
    return PopulationResult(idata, effective, pareto_k, variance, ",".join(flags) or "ok", method)


def _part_apart(drawn: xr.Dataset) -> float:
    """Part of the galaxies' properties whose R-hat is too large, of at most so many galaxies."""
    every = -(-drawn.sizes["galaxy"] // _N_JUDGED)
    some = drawn.isel(galaxy=slice(None, None, every))
    varying = [name for name in some.data_vars if name != "age_universe"]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = import_arviz().rhat(some[varying])
    rhat = np.concatenate([np.ravel(found[name].values) for name in varying])
    return float(np.mean(~(rhat < _WORST_GALAXY_RHAT)))


def _flags(hyper: dict[str, np.ndarray], stats: dict[str, np.ndarray]) -> list[str]:
    az = import_arviz()
    data = az.convert_to_dataset(hyper)
    rhat, ess = az.rhat(data), az.ess(data)
    flags = []
    if not max(float(np.max(rhat[name].values)) for name in hyper) < 1.01:
        flags.append("rhat")
    if not min(float(np.min(ess[name].values)) for name in hyper) >= _LEAST_ESS:
        flags.append("ess")
    if stats["diverging"].mean() > 0.01:
        flags.append("divergences")
    return flags


def save_population(
    result: PopulationResult, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write a result to netCDF; FileExistsError if `path` exists and `overwrite` is False."""
    from hbm.results.files import write_atomically

    idata = result.idata.copy()
    idata.attrs["population"] = json.dumps(
        {"format": _FORMAT, "variance": result.variance, "flag": result.flag, "method": result.method}
    )
    if result.effective is not None and result.pareto_k is not None:
        weights = xr.Dataset(
            {"effective": ("galaxy", result.effective), "pareto_k": ("galaxy", result.pareto_k)}
        )
        idata.add_groups({"weights": weights}, warn_on_custom_groups=False)
    return write_atomically(path, lambda temporary: idata.to_netcdf(str(temporary)), overwrite=overwrite)


def load_population(path: str | os.PathLike[str]) -> PopulationResult:
    """Read what `save_population` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is another file.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"`path` must be a population result, but there is no file {source}.")
    az = import_arviz()
    with az.rc_context({"data.load": "eager"}):
        idata = az.from_netcdf(str(source))
    stored = json.loads(idata.attrs.get("population", "{}"))
    if stored.get("format") != _FORMAT:
        raise ValueError(f"`path` must be {_FORMAT!r}; {source} has format {stored.get('format')}.")
    effective = pareto_k = None
    if "weights" in idata.groups():
        effective, pareto_k = (np.asarray(idata["weights"][n].values) for n in ("effective", "pareto_k"))
    return PopulationResult(
        idata, effective, pareto_k, float(stored["variance"]), stored["flag"], stored["method"]
    )
