"""Fit galaxies by photometry, image or both: the main entry point, in Python and behind `hbm fit`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hbm.catalog import Catalog, check_flux_scale
from hbm.catalog_images import CatalogImages
from hbm.config import ModelConfig
from hbm.convergence import Convergence, ConvergenceRule, diagnose_batch
from hbm.counted import settings_of, what_counts
from hbm.ensemble import EnsembleSampler
from hbm.galaxies import DataBuilder, galaxy_axes, stack_galaxies, take_galaxy
from hbm.model import GalaxyData, derived_quantities
from hbm.results import FitResult, ObservedBands, make_provenance, make_result, result_path, save_result
from hbm.sampler import Chains, Draws, NutsSampler, SamplerConfig
from hbm.terms import Term
from sed.io import load_grid
from sed.ssp import SSPGrid

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""

_RHAT_APART = 1.1
"""Chains with an R-hat above have found different places; longer ones would only sit there longer."""


def fit(
    catalog: Catalog,
    *,
    config: ModelConfig | None = None,
    sampler: SamplerConfig | None = None,
    grid: SSPGrid | str | Path | None = None,
    seed: int = 0,
    method: Literal["nuts", "aies", "ess"] = "nuts",
    outdir: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    batch_size: int = 64,
    rule: ConvergenceRule | None = None,
    max_rerun: int = 3,
    use: Sequence[str] | None = None,
    terms: Sequence[Term] = (),
) -> list[FitResult]:
    """Posterior of every galaxy of a catalogue.

    Galaxies are sampled side by side in batches. Convergence is judged for each. Chains that have drawn too
    little go on for as long again; those that found different places, or whose pilot did not arrive, are
    started anew, once, with a longer pilot. A galaxy that fails to the end is kept with a flag that says so.

    Parameters
    ----------
    catalog
        Fluxes and redshifts, from `hbm.read_catalog`.
    config
        What is fitted; ``ModelConfig()`` by default.
    sampler
        Lengths of the chains.
    grid
        Stellar populations, or the file that holds them; the shipped grid by default.
    seed
        Seed of all randomness: the same call gives the same draws.
    method
        ``nuts``, or the gradient-free ensemble samplers ``aies`` (Goodman & Weare 2010) and ``ess``
        (ensemble slice sampling), which take galaxies one by one.
    outdir
        Folder for one netCDF file per galaxy, written as soon as its batch is done; none by default.
    overwrite
        Replace result files that exist.
    progress
        Told how far the run is.
    batch_size
        Galaxies sampled together. More need more memory: 50 in 44 bands took 5 GB at most.
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
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if len(catalog) == 0:
        raise ValueError("`catalog` is empty: there is nothing to fit.")
    catalog, config, every = what_counts(catalog, config, use, tuple(terms))
    check_flux_scale(catalog)
    paths = _result_paths(catalog, outdir, overwrite=overwrite)
    if not isinstance(grid, SSPGrid):
        grid = load_grid(grid)
    run = _Run(catalog, config, sampler, grid, seed, method, rule, progress, every)
    results: dict[int, FitResult] = {}
    for members in _batches(catalog, batch_size):
        for index, result in run.batch(members, max_rerun).items():
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


def _batches(catalog: Catalog, batch_size: int) -> list[list[int]]:
    """Indices of galaxies fitted together: fixed and free redshifts apart."""
    batches: list[list[int]] = []
    for is_free in (False, True):
        members = np.flatnonzero((np.asarray(catalog.zred_err) > 0) == is_free).tolist()
        batches += [members[i : i + batch_size] for i in range(0, len(members), batch_size)]
    return batches


class _Sampled(NamedTuple):
    """What there is of one galaxy; arrays keep an axis of one galaxy."""

    draws: Draws
    derived: dict[str, np.ndarray]
    verdict: Convergence

    def can_go_on(self) -> bool:
        """Whether more draws of the same chains would help."""
        bad = {"nonfinite", "constant", "pilot", "divergences"} & set(self.verdict.flag.split(","))
        return not bad and self.draws.chains is not None and self.verdict.rhat_max < _RHAT_APART


def _padded(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _divisible(n: int) -> int:
    n_device = len(jax.devices())
    return n if n < n_device else -(-n // n_device) * n_device


def _stacked_chains(parts: Sequence[Draws], n: int) -> Chains:
    """Where the chains of some galaxies stand, the last one repeated until there are ``n``."""
    last = [parts[min(i, len(parts) - 1)].chains for i in range(n)]
    chains: Chains = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *last)
    return chains


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
        self._samplers: dict[bool, NutsSampler | EnsembleSampler] = {}
        self._derived = jax.jit(self._derive)

    def batch(self, members: Sequence[int], max_rerun: int) -> dict[int, FitResult]:
        """Fit some galaxies together; those that do not converge go on, or start anew."""
        galaxies = []
        for done, index in enumerate(members):
            self._tell(done, len(members), "compiling photometry")
            galaxies.append(self.builder(self.catalog, index))
        sampler = self._sampler_for(galaxies[0])
        base = jax.random.fold_in(jax.random.key(self.seed), members[0])
        sampled: dict[int, _Sampled] = {}
        afresh, onward = list(range(len(members))), list[int]()
        restarted: set[int] = set()
        for attempt in range(max_rerun + 1):
            key, key_onward = jax.random.split(jax.random.fold_in(base, attempt))
            if afresh:
                text = "sampling" if attempt == 0 else f"sampling {len(afresh)} anew, longer pilot"
                data = self._stacked([galaxies[i] for i in afresh], pad=attempt > 0)
                tell = self._teller(text)
                draws = sampler.run(data, key, tell, longer=attempt > 0)
                sampled |= self._judged(afresh, draws, data, {})
            if onward and isinstance(sampler, NutsSampler):
                data = self._stacked([galaxies[i] for i in onward], pad=True)
                chains = _stacked_chains([sampled[i].draws for i in onward], _padded(len(onward)))
                tell = self._teller(f"{len(onward)} going on")
                draws = sampler.extend(data, chains, key_onward, tell)
                sampled |= self._judged(onward, draws, data, sampled)
            failed = [i for i in afresh + onward if not sampled[i].verdict.converged]
            onward = [i for i in failed if sampled[i].can_go_on()]
            # Once only: to start until four chains agree would select those that all missed the same mode.
            afresh = [i for i in failed if i not in onward and i not in restarted]
            restarted.update(afresh)
            if not (onward or afresh):
                break
        return {members[i]: self._result(members[i], one, galaxies[i]) for i, one in sampled.items()}

    def _stacked(self, galaxies: list[GalaxyData], *, pad: bool) -> GalaxyData:
        """Data side by side, the last one repeated until they divide over the devices.

        Parts of batches are padded to a power of two, so that they share compiled programs.
        """
        n = len(galaxies)
        return stack_galaxies(galaxies + [galaxies[-1]] * ((_padded(n) if pad else _divisible(n)) - n))

    def _judged(
        self, rows: list[int], draws: Draws, data: GalaxyData, earlier: dict[int, "_Sampled"]
    ) -> dict[int, "_Sampled"]:
        """Draws of each galaxy, after its earlier ones, with the verdict on them."""
        derived = {name: np.asarray(value) for name, value in self._derived(draws.sites, data).items()}
        parts = []
        for k, row in enumerate(rows):
            mine, mine_derived = draws.of(k), {name: value[k : k + 1] for name, value in derived.items()}
            if row in earlier:
                before = earlier[row]
                mine = before.draws.followed_by(mine)
                mine_derived = {
                    name: np.concatenate([before.derived[name], value], axis=2)
                    for name, value in mine_derived.items()
                }
            parts.append((mine, mine_derived))
        result = {}
        names = self._sampler_for(take_galaxy(data, 0)).posterior.sampled
        for row, (mine, mine_derived) in zip(rows, parts, strict=True):
            judged = {name: mine.sites[name] for name in names}
            n_divergent = mine.diverging.sum(axis=(1, 2))
            verdict = diagnose_batch(judged, n_divergent, self.rule, mine.pilot_beta)[0]
            result[row] = _Sampled(mine, mine_derived, verdict)
        return result

    def _sampler_for(self, example: GalaxyData) -> NutsSampler | EnsembleSampler:
        is_free = example.zgrid is not None
        if is_free not in self._samplers:
            if self.method == "nuts":
                self._samplers[is_free] = NutsSampler(self.config, self.sampler, example, self.terms)
            else:
                self._samplers[is_free] = EnsembleSampler(
                    self.config, self.sampler, example, self.method, self.terms
                )
        return self._samplers[is_free]

    def _derive(self, sites: dict[str, Any], data: GalaxyData) -> dict[str, Any]:
        def one(site: dict[str, Any], galaxy: GalaxyData) -> dict[str, Any]:
            return derived_quantities(site, galaxy, self.config)

        by_draw = jax.vmap(jax.vmap(one, in_axes=(0, None)), in_axes=(0, None))
        return jax.vmap(by_draw, in_axes=(0, galaxy_axes(data)))(sites, data)

    def _result(self, index: int, one: "_Sampled", galaxy: GalaxyData) -> FitResult:
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
            agebins=self._agebins(galaxy),
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
