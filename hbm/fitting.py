"""Fit galaxies by photometry, image or both: the main entry point, in Python and behind `hbm fit`."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from hbm.catalog import Catalog, check_flux_scale
from hbm.catalog_images import CatalogImages
from hbm.config import ModelConfig
from hbm.convergence import Convergence, ConvergenceRule, diagnose_batch
from hbm.counted import settings_of, what_counts
from hbm.galaxies import DataBuilder, stack_galaxies
from hbm.galaxy import Galaxy
from hbm.image import ImageLikelihood
from hbm.model import GalaxyData
from hbm.programs import Programs, programs
from hbm.queue import Kind, Queue, default_batch_size, leg_width
from hbm.results import FitResult, ObservedBands, make_provenance, make_result, result_path, save_result
from hbm.sampler import Draws, NutsSampler, SamplerConfig, side_by_side
from hbm.terms import Term
from sed.io import load_grid
from sed.ssp import SSPGrid

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""

_RHAT_APART = 1.1
"""Chains with an R-hat above have found different places; longer ones would only sit there longer."""


def fit(
    catalog: Catalog | Galaxy | Sequence[Galaxy],
    *,
    config: ModelConfig | None = None,
    sampler: SamplerConfig | None = None,
    grid: SSPGrid | str | Path | None = None,
    seed: int = 0,
    method: Literal["nuts", "aies", "ess"] = "nuts",
    outdir: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    batch_size: int | None = None,
    rule: ConvergenceRule | None = None,
    max_rerun: int = 3,
    use: Sequence[str] | None = None,
    terms: Sequence[Term] = (),
    image_model: ImageLikelihood | str | Path | None = None,
) -> list[FitResult]:
    """Posterior of one galaxy, several, or every galaxy of a catalogue.

    Galaxies are sampled side by side, always as many, so that one compiled program serves all. Convergence is
    judged for each. Chains that have drawn too little go on for as long again; those that found different
    places, or whose pilot did not arrive, are started anew, once, with a longer pilot. A galaxy that fails to
    the end is kept with a flag that says so.

    Parameters
    ----------
    catalog
        Fluxes and redshifts, from `hbm.read_catalog`; or `hbm.Galaxy` objects.
    config
        What is fitted; ``ModelConfig()`` by default.
    sampler
        Lengths of the chains.
    grid
        Stellar populations, or the file that holds them; the shipped grid by default.
    seed
        Seed of all randomness: the same call gives the same draws. Those of a galaxy depend on its ``id``,
        not on which others there are, apart from rounding when fewer than ``batch_size`` are fitted.
    method
        ``nuts``, or the gradient-free ensemble samplers ``aies`` (Goodman & Weare 2010) and ``ess``
        (ensemble slice sampling), which take galaxies one by one.
    outdir
        Folder for one netCDF file per galaxy, written as soon as it is done; none by default.
    overwrite
        Replace result files that exist.
    progress
        Told how far the run is.
    batch_size
        Galaxies sampled side by side; by default 4 for each core in use (`hbm.devices.use_cpu_cores`), 64 for
        each accelerator. More need more memory: 50 in 44 bands took 5 GB at most.
    rule
        When chains count as converged.
    max_rerun
        How often a galaxy that fails goes on or is started anew.
    use
        What counts: ``("photometry",)``, ``("image",)`` or both; whatever the catalogue has by default. If it
        has images, counted or not, the prior ends where the image model's training ended
        (`hbm.catalog_images.image_config`), so that posteriors from different data compare.
    terms
        Likelihoods of your own (`hbm.terms.Term`).
    image_model
        Of the images of `hbm.Galaxy` objects, as for `hbm.Catalog.from_galaxies`, which can also insist on an
        overconfident one; a catalogue knows its own.

    Returns
    -------
    list of FitResult
        In the order of the catalogue.

    Raises
    ------
    FileExistsError
        If a result file exists and ``overwrite`` is False; before anything is fitted.
    ValueError
        If a galaxy has nothing that counts, fluxes are off by orders of magnitude, a redshift is beyond the
        grid or cosmology, a filter is unknown or outside the grid, or ``use`` asks for images that are not
        there.
    """
    config = ModelConfig() if config is None else config
    sampler = SamplerConfig() if sampler is None else sampler
    if max_rerun < 0:
        raise ValueError(f"`max_rerun` must be at least 0, got {max_rerun}.")
    if method not in ("nuts", "aies", "ess"):
        raise ValueError(f"`method` must be 'nuts', 'aies' or 'ess', got {method!r}.")
    batch_size = default_batch_size() if batch_size is None else batch_size
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if not isinstance(catalog, Catalog):
        galaxies = [catalog] if isinstance(catalog, Galaxy) else catalog
        catalog = Catalog.from_galaxies(galaxies, image_model)
    elif image_model is not None:
        raise ValueError(
            "`image_model` is for `hbm.Galaxy` objects; give a catalogue's to `hbm.with_images`."
        )
    if len(catalog) == 0:
        raise ValueError("`catalog` is empty: there is nothing to fit.")
    catalog, config, every = what_counts(catalog, config, use, tuple(terms))
    known = np.isfinite(catalog.zred)
    if not known.all():
        name = catalog.id[int(np.argmin(known))]
        raise ValueError(
            f"`catalog` must have a redshift of every galaxy, but id {name} has none: `hbm.photoz`."
        )
    check_flux_scale(catalog)
    paths = _result_paths(catalog, outdir, overwrite=overwrite)
    if not isinstance(grid, SSPGrid):
        grid = load_grid(grid)
    run = _Run(catalog, config, sampler, grid, seed, method, rule, progress, every)
    results: dict[int, FitResult] = {}
    for rows in _alike(catalog):
        for index, result in run.galaxies(rows, batch_size, max_rerun):
            results[index] = result
            if paths is not None:
                save_result(result, paths[index], overwrite=overwrite)
    return [results[index] for index in range(len(catalog))]


def _result_paths(catalog: Catalog, outdir: str | Path | None, *, overwrite: bool) -> list[Path] | None:
    """Where the results go; refused early if one is there."""
    if outdir is None:
        return None
    folder = Path(outdir)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [result_path(folder, name) for name in catalog.id]
    present = [path.name for path in paths if path.exists()]
    if present and not overwrite:
        raise FileExistsError(
            f"`outdir` {folder} already holds {len(present)} of these results, the first is {present[0]}; "
            "give overwrite=True to replace them, or another folder."
        )
    return paths


def _alike(catalog: Catalog) -> list[list[int]]:
    """Indices of galaxies that run in one program: fixed and free redshifts apart."""
    free = np.asarray(catalog.zred_err) > 0
    return [rows for rows in (np.flatnonzero(~free).tolist(), np.flatnonzero(free).tolist()) if rows]


class _Sampled(NamedTuple):
    """What there is of one galaxy; arrays keep an axis of one galaxy."""

    draws: Draws
    derived: dict[str, np.ndarray]
    verdict: Convergence

    def can_go_on(self) -> bool:
        """Whether more draws of the same chains would help."""
        bad = {"nonfinite", "constant", "pilot", "divergences"} & set(self.verdict.flag.split(","))
        return not bad and self.draws.chains is not None and self.verdict.rhat_max < _RHAT_APART


@dataclass
class _Galaxy:
    """A galaxy that is being fitted."""

    data: GalaxyData
    key: Array
    sampled: _Sampled | None = None
    """What there is of it so far."""
    n_leg: int = 0
    """How often it was sampled."""
    is_restarted: bool = False


def _sampled(galaxy: _Galaxy) -> _Sampled:
    if galaxy.sampled is None:
        raise ValueError("`galaxy` must have been sampled.")
    return galaxy.sampled


def _galaxy_key(seed: int, name: str) -> Array:
    """Randomness of a galaxy: of its name, so that it does not matter which others are fitted with it."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return jax.random.fold_in(jax.random.key(seed), number)


class _Run:
    """State of one call of `fit`."""

    def __init__(
        self,
        catalog: Catalog,
        config: ModelConfig,
        sampler: SamplerConfig,
        grid: SSPGrid,
        seed: int,
        method: str,
        rule: ConvergenceRule | None,
        progress: Progress | None,
        terms: tuple[Term, ...],
    ) -> None:
        self.terms = terms
        self.catalog, self.config, self.sampler = catalog, config, sampler
        self.seed, self.method, self.rule, self.progress = seed, method, rule, progress
        self.builder = DataBuilder(grid, config, catalog.filter_names, terms)
        self.provenance = make_provenance(
            settings_of(catalog, config, sampler, method, terms),
            grid=grid.provenance,
            filters=catalog.filter_names,
            seed=seed,
        )

    def galaxies(
        self, rows: Sequence[int], batch_size: int, max_rerun: int
    ) -> Iterator[tuple[int, FitResult]]:
        """Fit galaxies that run in one program; each is given as soon as it is done."""
        queue = Queue(rows, leg_width(len(rows), batch_size))
        known: dict[int, _Galaxy] = {}
        n_done = 0
        while queue:
            kind, leg = queue.take()
            remark = "" if len(rows) <= queue.width else f" ({n_done} of {len(rows)} galaxies done)"
            if kind == "new":
                for done, row in enumerate(leg):
                    self._tell(done, len(leg), f"compiling photometry{remark}")
                    key = _galaxy_key(self.seed, self.catalog.id[row])
                    known[row] = _Galaxy(self.builder(self.catalog, row), key)
            self._sample(kind, [known[row] for row in leg], queue.width, remark)
            for row in leg:
                following = self._next(known[row], max_rerun)
                if following is not None:
                    queue.put(following, row)
                else:
                    n_done += 1
                    galaxy = known.pop(row)
                    yield row, self._result(row, galaxy)

    def _sample(self, kind: Kind, leg: list[_Galaxy], width: int, remark: str) -> None:
        """Sample some galaxies; the last one is repeated until all places are taken."""
        places = leg + [leg[-1]] * (width - len(leg))
        data = stack_galaxies([galaxy.data for galaxy in places])
        keys = jnp.stack([jax.random.fold_in(galaxy.key, galaxy.n_leg) for galaxy in places])
        run = self._programs(leg[0].data)
        if kind == "onward" and isinstance(run.sampler, NutsSampler):
            chains = side_by_side([_sampled(galaxy).draws.chains for galaxy in places])
            draws = run.sampler.extend(data, chains, keys, self._teller(f"{len(leg)} going on{remark}"))
        else:
            text = "sampling" if kind == "new" else f"sampling {len(leg)} anew, longer pilot"
            draws = run.sampler.run(data, keys, self._teller(text + remark), longer=kind == "anew")
        derived = {name: np.asarray(value) for name, value in run.derived(draws.sites, data).items()}
        for place, galaxy in enumerate(leg):
            mine = draws.of(place)
            mine_derived = {name: value[place : place + 1] for name, value in derived.items()}
            if kind == "onward":
                before = _sampled(galaxy)
                mine = before.draws.followed_by(mine)
                mine_derived = {
                    name: np.concatenate([before.derived[name], value], axis=2)
                    for name, value in mine_derived.items()
                }
            judged = {name: mine.sites[name] for name in run.sampler.posterior.sampled}
            n_divergent = mine.diverging.sum(axis=(1, 2))
            verdict = diagnose_batch(judged, n_divergent, self.rule, mine.pilot_beta)[0]
            galaxy.sampled = _Sampled(mine, mine_derived, verdict)
            galaxy.n_leg += 1

    def _next(self, galaxy: _Galaxy, max_rerun: int) -> Kind | None:
        """How a galaxy is sampled next; None if it is done."""
        sampled = _sampled(galaxy)
        if sampled.verdict.converged or galaxy.n_leg > max_rerun:
            return None
        if sampled.can_go_on():
            return "onward"
        # Once only: to start until four chains agree would select those that all missed the same mode.
        if galaxy.is_restarted:
            return None
        galaxy.is_restarted = True
        return "anew"

    def _programs(self, example: GalaxyData) -> Programs:
        return programs(self.config, self.sampler, example, self.method, self.terms)

    def _result(self, index: int, galaxy: _Galaxy) -> FitResult:
        one = _sampled(galaxy)
        catalog, draws = self.catalog, one.draws
        sites = {name: value[0] for name, value in draws.sites.items()}
        kernel = {}
        if self.method == "nuts":
            kernel = {
                "acceptance_rate": draws.accept[0],
                "n_steps": draws.n_step[0],
                "n_jumps": draws.n_jump[0],
            }
        quantities = {name: value[0] for name, value in one.derived.items() if name != "flux"}
        return make_result(
            catalog.id[index],
            float(catalog.zred[index]),
            posterior={**sites, **quantities},
            sample_stats={"diverging": draws.diverging[0], "lp": -draws.potential[0], **kernel},
            flux=np.asarray(one.derived["flux"][0], np.float64),
            bands=self._bands(index, sites),
            convergence=one.verdict,
            provenance=self.provenance,
            agebins=self._agebins(galaxy.data),
            flags=self._flags(index),
        )

    def _flags(self, index: int) -> tuple[str, ...]:
        """Remarks on the data of a galaxy."""
        name = self.catalog.id[index]
        return tuple(
            flag for term in self.terms if isinstance(term, CatalogImages) for flag in term.flags(name)
        )

    def _bands(self, index: int, sites: dict[str, np.ndarray]) -> ObservedBands:
        catalog = self.catalog
        n_band = len(catalog.filter_names)
        floor = self.config.error_floor
        value = float(np.median(sites["error_floor"])) if isinstance(floor, str) else floor
        return ObservedBands(
            filter_names=catalog.filter_names,
            wave_pivot=self.builder.filters.wave_pivot,
            flux=np.asarray(catalog.flux[index], np.float64),
            flux_err=np.asarray(catalog.flux_err[index], np.float64),
            observed=np.asarray(catalog.observed[index]),
            upper_limit=np.asarray(catalog.upper_limit[index]),
            error_floor=np.full(n_band, value),
        )

    def _agebins(self, galaxy: GalaxyData) -> np.ndarray | None:
        """Bins of ``sfr_bins``, of the middle redshift where that is free."""
        bins = galaxy.photometry.agebins
        if bins is None:
            return None
        bins = np.asarray(bins, np.float64)
        return bins if bins.ndim == 2 else bins[len(bins) // 2]

    def _teller(self, text: str) -> Callable[[int, int], None]:
        return lambda done, total: self._tell(done, total, text)

    def _tell(self, done: int, total: int, text: str) -> None:
        if self.progress is not None:
            self.progress(done, total, text)


def config_of(result: FitResult) -> ModelConfig:
    """Settings of the model that gave a result."""
    return ModelConfig.from_json(json.dumps(result.provenance.model_config["config"]))
