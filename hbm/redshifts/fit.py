"""Photometric redshifts with all else that fluxes say of a galaxy: the entry point, behind `hbm photoz`."""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hbm.adaptive import WeightedDraws, adapt_by_regions, importance_sample, tempered
from hbm.calibration.importance import LARGEST_K
from hbm.catalog import Catalog, check_flux_scale
from hbm.config import ModelConfig
from hbm.convergence import Convergence, ConvergenceRule
from hbm.coordinates import Posterior, build_posterior
from hbm.distributions import TruncatedNormal
from hbm.galaxies import DataBuilder
from hbm.model import GalaxyData, derived_quantities
from hbm.redshifts.prior import ZredDensity, ZredPrior, prior_magnitude
from hbm.redshifts.summary import modes_of
from hbm.redshifts.table import RedshiftTable, Start, make_table, start_of
from hbm.results import (
    FitResult,
    ObservedBands,
    Provenance,
    load_result,
    make_provenance,
    make_result,
    result_path,
    save_result,
    settings_that_differ,
)
from hbm.validate import flux_scale_problems
from sed.compiled import take
from sed.filters import load_filters
from sed.io import load_grid
from sed.nebular import bracket
from sed.ssp import SSPGrid

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""

_N_CHAIN = 4
_N_START = 1000
"""Points that the first proposal is made of."""
_START_EFFECTIVE = 200.0
"""Effective number of prior draws that they come from."""
_GAP = 3.0
"""Modes of the first proposal are as many nodes apart."""
_N_BATCH = 8
_MARGIN = 2.5
"""Draws are sampled until so many times the effective number of the rule is there."""


class PhotozConfig(NamedTuple):
    """Sizes of the sampler."""

    step: float = 0.01
    """Distance of redshifts in ln(1 + z) at which photometry is compiled; colours are linear between."""
    n_prior: int = 512
    """Prior draws at each of them."""
    n_component: int = 10
    """Components of the proposal, at least."""
    n_point: int = 2000
    """Points of a round."""
    n_round: int = 15
    """Rounds of adaptation at most."""
    n_draw: int = 500
    """Draws kept per chain, of four: weighted draws are resampled, so that some are there several times."""


def photoz(
    catalog: Catalog,
    *,
    prior: ZredPrior | None = None,
    config: ModelConfig | None = None,
    sampler: PhotozConfig | None = None,
    grid: SSPGrid | str | Path | None = None,
    seed: int = 0,
    rule: ConvergenceRule | None = None,
    outdir: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_error: Callable[[str, ValueError], None] | None = None,
    progress: Progress | None = None,
) -> list[FitResult]:
    """Posterior of redshift and all other parameters of every galaxy of a catalogue, by its fluxes.

    Parameters
    ----------
    catalog
        Fluxes. Redshifts are not used, and may be nan.
    prior
        Of the redshift; ``ZredPrior()`` by default.
    config
        What else is fitted; ``ModelConfig()`` by default.
    sampler
        Sizes.
    grid
        Stellar populations; the shipped grid by default.
    seed
        Of all randomness. The draws of a galaxy depend on it and on the galaxy's ``id``.
    rule
        Its smallest effective sample size is asked of the weights.
    outdir
        Folder for one netCDF file per galaxy, written as soon as it is done; none by default.
    overwrite
        Replace result files that exist.
    resume
        Take what is in ``outdir`` for these galaxies, and fit the others.
    on_error
        Told the ``id`` of a galaxy that cannot be fitted, and why; the others go on. By default it is raised.
    progress
        Told how far the run is.

    Returns
    -------
    list of FitResult
        In the order of the catalogue, without those of ``on_error``. ``posterior["zred"]`` is the redshift;
        `redshift_summary` has its density and modes. `FitResult.zred` is the median of the heaviest mode.
        ``rhat`` is nan: there are no chains.

    Raises
    ------
    FileExistsError
        If a result file exists, and neither ``overwrite`` nor ``resume``.
    ValueError
        If results that are there have other settings, filters or fluxes, or the catalogue is empty, has
        images, fluxes that no galaxies have, or a filter that leaves the grid at a redshift of the prior.
        Unless ``on_error`` is told, also if a galaxy has no measured flux, or fluxes that no galaxy has.
    """
    prior = ZredPrior() if prior is None else prior
    config = ModelConfig() if config is None else config
    sampler = PhotozConfig() if sampler is None else sampler
    rule = ConvergenceRule() if rule is None else rule
    _check(catalog, sampler, seed)
    loaded = grid if isinstance(grid, SSPGrid) else load_grid(grid)
    provenance = make_provenance(
        photoz_settings(prior, config, sampler),
        grid=loaded.provenance,
        filters=catalog.filter_names,
        seed=seed,
    )
    paths = None if outdir is None else [result_path(outdir, name) for name in catalog.id]
    there = _what_is_there(catalog, paths, provenance, overwrite=overwrite, resume=resume)
    run: _Run | None = None
    results = []
    for row, name in enumerate(catalog.id):
        if row in there:
            results.append(there[row])
            continue
        if run is None:
            run = _Run(catalog, prior, config, sampler, rule, loaded, seed, provenance, progress)
        if progress is not None:
            progress(row, len(catalog), f"redshift of {name}")
        try:
            result = run.galaxy(row)
        except ValueError as error:
            if on_error is None:
                raise
            on_error(name, error)
            continue
        if paths is not None:
            paths[row].parent.mkdir(parents=True, exist_ok=True)
            save_result(result, paths[row], overwrite=overwrite)
        results.append(result)
    if progress is not None:
        progress(len(catalog), len(catalog), "redshifts")
    return results


def _what_is_there(
    catalog: Catalog, paths: list[Path] | None, provenance: Provenance, *, overwrite: bool, resume: bool
) -> dict[int, FitResult]:
    """Results of an earlier run by row; refused where they cannot be gone on with."""
    if overwrite and resume:
        raise ValueError("Give `overwrite` or `resume`, not both.")
    present = [] if paths is None or overwrite else [row for row, path in enumerate(paths) if path.exists()]
    if paths is None or not present:
        return {}
    if not resume:
        raise FileExistsError(
            f"`outdir` {paths[0].parent} already holds {len(present)} of these results, the first is "
            f"{paths[present[0]].name}; give overwrite=True to replace them, resume=True to keep them, or "
            "another folder."
        )
    found = {row: load_result(paths[row]) for row in present}
    for row, result in found.items():
        differences = settings_that_differ(_told(result.provenance), _told(provenance))
        if not differences and not _has_fluxes(result, catalog, row):
            differences = ["other fluxes, errors or limits"]
        if differences:
            raise ValueError(
                f"`resume` needs the settings of the results that are there, but that of {result.galaxy_id} "
                f"has {'; '.join(differences[:4])}. Give the same, or overwrite=True, or another folder."
            )
    return found


def _told(made: Provenance) -> dict[str, Any]:
    """What two results must have in common to be of one run."""
    return made.model_config | {"seed": made.seed, "grid": made.grid, "filters": list(made.filters)}


def _has_fluxes(result: FitResult, catalog: Catalog, row: int) -> bool:
    """Whether a result was made of the fluxes that the catalogue has now."""
    bands = result.bands
    pairs = (
        (bands.flux, catalog.flux), (bands.flux_err, catalog.flux_err),
        (bands.observed, catalog.observed), (bands.upper_limit, catalog.upper_limit),
    )  # fmt: skip
    seen = np.asarray(catalog.observed[row])
    return bool(np.array_equal(bands.observed, seen)) and all(
        np.allclose(np.asarray(old, float)[seen], np.asarray(new[row], float)[seen], rtol=1e-5, atol=0.0)
        for old, new in pairs
    )


def photoz_settings(prior: ZredPrior, config: ModelConfig, sampler: PhotozConfig) -> dict[str, Any]:
    """What a result keeps of how it was made."""
    return {
        "config": dataclasses.asdict(config),
        "sampler": sampler._asdict(),
        "method": "photoz",
        "zred_prior": dataclasses.asdict(prior),
    }


def _check(catalog: Catalog, sampler: PhotozConfig, seed: int) -> None:
    """Refuse what is wrong for all galaxies."""
    if seed < 0:
        raise ValueError(f"`seed` must be at least 0, got {seed}.")
    if len(catalog) == 0:
        raise ValueError("`catalog` is empty: there is nothing to fit.")
    if catalog.images is not None:
        raise ValueError("`catalog` must have no images: those need exact redshifts, see `hbm.fit`.")
    if not sampler.step > 0:
        raise ValueError(f"`step` must be > 0, got {sampler.step}.")
    for name in ("n_prior", "n_component", "n_point", "n_round", "n_draw"):
        if getattr(sampler, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(sampler, name)}.")
    overall, _ = flux_scale_problems(catalog.flux, catalog.meta.get("unit", "maggies"))
    if overall is not None:
        raise ValueError(f"Fluxes of `catalog`: {overall}")
    load_filters(catalog.filter_names)


class _Run:
    """What galaxies of one call share."""

    def __init__(
        self,
        catalog: Catalog,
        prior: ZredPrior,
        config: ModelConfig,
        sampler: PhotozConfig,
        rule: ConvergenceRule,
        grid: SSPGrid,
        seed: int,
        provenance: Provenance,
        progress: Progress | None,
    ) -> None:
        self.catalog, self.prior, self.config, self.sampler = catalog, prior, config, sampler
        self.rule, self.seed, self.provenance = rule, seed, provenance
        self.builder = DataBuilder(grid, config, catalog.filter_names)
        self.table = make_table(
            self.builder, catalog, (prior.low, prior.high),
            step=sampler.step, n_each=sampler.n_prior, seed=seed,
            progress=None if progress is None else lambda done, n: progress(done, n, "compiling photometry"),
        )  # fmt: skip
        self.posterior = build_posterior(config, self.table.example)

    def galaxy(self, row: int) -> FitResult:
        """Fit one galaxy."""
        catalog, sampler = self.catalog, self.sampler
        usable = np.asarray(catalog.observed[row] & ~catalog.upper_limit[row])
        if not usable.any():
            raise ValueError(
                f"`catalog` must have a measured flux of every galaxy, id {catalog.id[row]} has none."
            )
        check_flux_scale(catalog.select([row]))
        digest = hashlib.sha256(catalog.id[row].encode()).digest()
        rng = np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])
        flux, flux_err = (
            np.where(usable, getattr(catalog, name)[row], np.nan) for name in ("flux", "flux_err")
        )
        mag = prior_magnitude(flux, flux_err, self.builder.filters.wave_pivot)
        density = self.prior.at(mag)
        start = start_of(self.table, catalog, row, density, self.config)
        target = _Target(self.posterior, start.data, density, sampler.n_point)
        x, group = self._first_points(start, rng)
        proposal = adapt_by_regions(
            target, x, group, _place_of_zred(self.posterior, self.table.sites), rng,
            n_component=sampler.n_component, n_point=sampler.n_point, n_round=sampler.n_round,
        )  # fmt: skip
        found = importance_sample(
            target, proposal, rng,
            n_point=sampler.n_point, n_batch=_N_BATCH, effective=_MARGIN * self.rule.ess_bulk,
            largest_k=LARGEST_K,
        )  # fmt: skip
        return self._result(row, found, start.data, rng)

    def _first_points(self, start: Start, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Points of the sampler's space from the best prior draws, and the mode of each by its redshift."""
        weight, _ = tempered(start.log_weight, _START_EFFECTIVE)
        rows = rng.choice(len(weight), size=_N_START, p=weight)
        sites = {name: value[rows] for name, value in self.table.sites.items()} | {
            "logmass": start.logmass[rows].astype(np.float32)
        }
        # Between the nodes, so that redshifts are not all at a few of them.
        half = 0.5 * float(np.log1p(self.table.zgrid[1]) - np.log1p(self.table.zgrid[0]))
        moved = np.log1p(sites["zred"].astype(np.float64)) + rng.uniform(-half, half, _N_START)
        low, high = np.log1p([self.prior.low, self.prior.high])
        moved = np.where(moved < low, 2 * low - moved, np.where(moved > high, 2 * high - moved, moved))
        sites["zred"] = np.clip(np.expm1(moved), self.prior.low, self.prior.high).astype(np.float32)
        arrays = {name: jnp.asarray(site) for name, site in sites.items()}
        x = np.asarray(_unconstrain(self.posterior, arrays, start.data), np.float64)
        # Masses are the best ones, but where those are beyond the range of the prior.
        x[:, 0] = np.where(start.is_free[rows], 0.0, x[:, 0]) + rng.standard_normal(_N_START)
        order = np.argsort(moved)
        is_new = np.diff(moved[order], prepend=moved[order[0]]) > _GAP * 2 * half
        group = np.empty(_N_START, int)
        group[order] = np.cumsum(is_new)
        good = np.isfinite(x).all(axis=1)
        return x[good], np.unique(group[good], return_inverse=True)[1]

    def _result(
        self, row: int, found: WeightedDraws, data: GalaxyData, rng: np.random.Generator
    ) -> FitResult:
        catalog, n_draw = self.catalog, self.sampler.n_draw
        x = found.resampled(rng, _N_CHAIN * n_draw)
        everything = {
            name: np.asarray(value)
            for name, value in _derive(self.posterior, x, data, self.table, self.config)
        }
        flux = everything.pop("flux")

        def shaped(value: np.ndarray) -> np.ndarray:
            return value.reshape(_N_CHAIN, n_draw, *value.shape[1:])

        kept = found.effective_resampled(len(x))
        zred = modes_of(everything["zred"], kept)[0].zred
        floor = self.config.error_floor
        value = float(np.median(everything["error_floor"])) if isinstance(floor, str) else floor
        bins = np.asarray(self.table.photometry.agebins, np.float64)[
            int(np.argmin(np.abs(self.table.zgrid - zred)))
        ] if self.table.photometry.agebins is not None else None  # fmt: skip
        return make_result(
            catalog.id[row],
            zred,
            posterior={name: shaped(each) for name, each in everything.items()},
            sample_stats={"diverging": np.zeros((_N_CHAIN, n_draw), bool)},
            flux=shaped(np.asarray(flux, np.float64)),
            bands=ObservedBands(
                filter_names=catalog.filter_names,
                wave_pivot=self.builder.filters.wave_pivot,
                flux=np.asarray(catalog.flux[row], np.float64),
                flux_err=np.asarray(catalog.flux_err[row], np.float64),
                observed=np.asarray(catalog.observed[row]),
                upper_limit=np.asarray(catalog.upper_limit[row]),
                error_floor=np.full(len(catalog.filter_names), value),
            ),
            convergence=_verdict(kept, found.k, self.rule),
            provenance=self.provenance,
            agebins=bins,
        )


def _place_of_zred(posterior: Posterior, sites: dict[str, np.ndarray]) -> int:
    """Position of the redshift's coordinate: mass is first, the others follow in the order of their names."""
    names = sorted(f"{name}_base" for name in posterior.sampled if name != "logmass")
    before = itertools.takewhile(lambda name: name != "zred_base", names)
    return 1 + sum(math.prod(sites[name.removesuffix("_base")].shape[1:]) for name in before)


class _Target:
    """Log density of a galaxy's posterior in the sampler's coordinates, for as many points as one likes."""

    def __init__(self, posterior: Posterior, data: GalaxyData, density: ZredDensity, n_point: int) -> None:
        self.posterior, self.data, self.density, self.n_point = posterior, data, density, n_point

    def __call__(self, x: Float[np.ndarray, "point dim"]) -> Float[np.ndarray, " point"]:
        parts = []
        for first in range(0, len(x), self.n_point):
            part = x[first : first + self.n_point]
            padded = np.resize(part, (self.n_point, x.shape[1])).astype(np.float32)
            value = _log_density(self.posterior, jnp.asarray(padded), self.data, self.density)
            parts.append(np.asarray(value, np.float64)[: len(part)])
        values = np.concatenate(parts)
        return np.where(np.isnan(values), -np.inf, values)


@eqx.filter_jit
def _log_density(posterior: Posterior, x: Array, data: GalaxyData, density: ZredDensity) -> Array:
    """Posterior under the prior on redshift, in the place of the normal one that the model has."""
    zgrid = jnp.asarray(data.zgrid)
    normal = TruncatedNormal(data.zred, data.zred_err, zgrid[0], zgrid[-1])

    def one(vector: Array) -> Array:
        here = posterior.evaluate(vector, data, None)
        zred = here.sites["zred"]
        return -here.potential + density.log_prob(zred) - normal.log_prob(zred)

    values: Array = jax.vmap(one)(x)
    return values


@eqx.filter_jit
def _unconstrain(posterior: Posterior, sites: dict[str, Array], data: GalaxyData) -> Array:
    vectors: Array = jax.vmap(lambda site: posterior.unconstrain(site, data))(sites)
    return vectors


def _derive(
    posterior: Posterior, x: np.ndarray, data: GalaxyData, table: RedshiftTable, config: ModelConfig
) -> list[tuple[str, Array]]:
    """Sites and derived quantities of draws by name."""
    single = jnp.asarray(x, jnp.float32)
    return list(_derive_all(posterior, single, data, table.rest, config).items())


@eqx.filter_jit
def _derive_all(
    posterior: Posterior, x: Array, data: GalaxyData, rest: Any, config: ModelConfig
) -> dict[str, Array]:
    def one(vector: Array) -> dict[str, Array]:
        sites = posterior.constrain(vector, data)
        low, _ = bracket(jnp.asarray(data.zgrid), sites["zred"])
        here = dataclasses.replace(data, rest=take(rest, low))  # age bins of the draw's own redshift
        return sites | derived_quantities(sites, here, config)

    values: dict[str, Array] = jax.lax.map(one, x, batch_size=500)
    return values


def _verdict(effective: float, k: float, rule: ConvergenceRule) -> Convergence:
    """Effective number of draws, and the Pareto k of the weights, in the place of chains' diagnostics."""
    failures = {}
    if not effective >= rule.ess_bulk:
        failures["ess_bulk"] = (
            f"{effective:.0f} effective draws, fewer than {rule.ess_bulk:g}: give more points or rounds"
        )
    if not k <= LARGEST_K:
        failures["pareto_k"] = (
            f"Pareto k of the weights is {k:.2f}, above {LARGEST_K}: give more points or rounds"
        )
    return Convergence(
        rhat_max=float("nan"),
        rhat_worst="",
        ess_bulk_min=effective,
        ess_tail_min=effective,
        n_divergent=0,
        converged=not failures,
        flag=",".join(failures) or "ok",
        reason="; ".join(failures.values()),
    )
