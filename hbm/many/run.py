"""Fit thousands of galaxies on many workers: the function behind `hbm fit --workers`."""

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.convergence import ConvergenceRule
from hbm.counted import fit_settings
from hbm.galaxies import cosmology_by_name
from hbm.galaxy import Galaxy
from hbm.image import ImageLikelihood
from hbm.many.cluster import PATIENCE_S, fit_batches, n_core, n_workers, open_client, places_of
from hbm.many.parts import (
    find_parts,
    find_results,
    forget,
    part_path,
    settings_of_part,
    settings_of_result,
    write_part,
)
from hbm.many.plan import Batch, Failure, Waiting, automatic_size, digest, make_batches, refuse_other_settings
from hbm.many.progress import Tally
from hbm.many.report import ManyFits, read_failures, update_failures
from hbm.many.work import FitFunction, Inputs
from hbm.results import result_path, summary_table
from hbm.sampler import SamplerConfig
from hbm.tables import CatalogError
from hbm.terms import Term
from hbm.validate import flux_scale_problems
from sed.filters import load_filters
from sed.io import load_grid
from sed.ssp import SSPGrid

_ADOPTED = 64
"""Rows of a part that is made of results without one."""


def fit_many(
    catalog: Catalog | Sequence[Galaxy],
    outdir: str | Path,
    *,
    address: str | None = None,
    n_worker: int | None = None,
    batch: int | None = None,
    keep_draws: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    config: ModelConfig | None = None,
    sampler: SamplerConfig | None = None,
    grid: SSPGrid | str | Path | None = None,
    seed: int = 0,
    method: Literal["nuts", "aies", "ess"] = "nuts",
    batch_size: int | None = None,
    rule: ConvergenceRule | None = None,
    max_rerun: int = 3,
    use: Sequence[str] | None = None,
    terms: Sequence[Term] = (),
    image_model: ImageLikelihood | str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    fit_fn: FitFunction | None = None,
) -> ManyFits:
    """Posterior of every galaxy of a large catalogue, by batches on the workers of a Dask cluster.

    Results are those of `hbm.fit`, apart from rounding where batches have fewer galaxies than run side by
    side. Each batch leaves a file of summary rows, and one file of draws per galaxy, as soon as it is done: a
    run that was killed loses the batches that were in flight, and ``resume`` goes on. No galaxy stops the
    run. A batch that raises is tried again in halves, the smallest galaxy by galaxy; one whose worker dies
    is run again by others, and after some deaths in halves, until the galaxy is found. What fails is
    recorded in ``failures.ecsv``.

    Workers are processes that Python starts anew: call this under ``if __name__ == "__main__":`` in a script.

    Parameters
    ----------
    catalog
        Fluxes and redshifts, as for `hbm.fit`.
    outdir
        Folder for the results; on a cluster one that all workers see.
    address
        Of a Dask scheduler, such as ``tcp://host:8786``; processes of this machine by default.
    n_worker
        Number of these processes, of one thread each; by default one for each core.
    batch
        Galaxies that a task fits; by default four times as many as run side by side, fewer where workers
        would have nothing to do.
    keep_draws
        Whether each galaxy gets a netCDF file with its draws; the summary rows are written anyway.
    resume
        Fit what has no result yet in ``outdir``, and what failed before, by itself, at the end.
    overwrite
        Remove what is there of these galaxies first.
    config, sampler, grid, seed, method, batch_size, rule, max_rerun, use, terms, image_model
        As for `hbm.fit`. Likelihoods in ``terms`` must be of a module that workers can import, and are
        compiled anew for each batch.
    progress
        Told (galaxies done, galaxies, counts in words) every few seconds.
    fit_fn
        In place of `hbm.fit`: a function of a module that workers can import, of the same arguments.

    Returns
    -------
    ManyFits
        Counts, failures and, by its ``table``, the summary of all galaxies.

    Raises
    ------
    FileExistsError
        If there are results of these galaxies, and neither ``resume`` nor ``overwrite``.
    ValueError
        If results that are there have other settings, or an argument is wrong for every galaxy.
    ConnectionError
        If no scheduler answers, or it goes away; or if processes of this machine do not start.
    OSError
        If results cannot be written: no galaxy is to blame for that. What is written stays.
    ImportError
        If Dask is not installed (extra ``many``).
    """
    if address is not None and n_worker is not None:
        raise ValueError("Give `address` of a cluster, or `n_worker` to have one here, not both.")
    for name, value in (("n_worker", n_worker), ("batch", batch), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    if resume and overwrite:
        raise ValueError("Give `resume` or `overwrite`, not both.")
    if method not in ("nuts", "aies", "ess"):
        raise ValueError(f"`method` must be 'nuts', 'aies' or 'ess', got {method!r}.")
    if not isinstance(catalog, Catalog):
        catalog = Catalog.from_galaxies(catalog, image_model)
    elif image_model is not None:
        raise ValueError(
            "`image_model` is for `hbm.Galaxy` objects; give a catalogue's to `hbm.with_images`."
        )
    config = ModelConfig() if config is None else config
    sampler = SamplerConfig() if sampler is None else sampler
    _refuse_nonsense(catalog, config)
    model_grid = grid if isinstance(grid, SSPGrid) else load_grid(grid)
    counted = _settings(catalog, config, sampler, method, use, terms)
    settings = {
        **counted,
        "use": counted.get("use"),
        "seed": seed,
        "grid": model_grid.provenance,
        "rule": repr(ConvergenceRule() if rule is None else rule),
        "max_rerun": max_rerun,
        "draws": keep_draws,
    }
    folder = Path(outdir).resolve()
    there = set() if overwrite else _what_is_there(catalog, folder, settings, resume)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for row, name in enumerate(catalog.id) if name not in there]
    tally = Tally(len(catalog), len(there))
    failures: list[Failure] = []
    waiting = Waiting(())
    if rows:
        inputs = Inputs(
            catalog=catalog,
            outdir=folder,
            keep_draws=keep_draws,
            settings=settings,
            grid=grid if grid is None or isinstance(grid, SSPGrid) else Path(grid).resolve(),
            options={
                "config": config, "sampler": sampler, "seed": seed, "method": method,
                "batch_size": batch_size, "rule": rule, "max_rerun": max_rerun, "use": use, "terms": terms,
            },
            fit_fn=fit_fn,
        )  # fmt: skip

        def tick(n: int) -> None:
            if progress is not None:
                progress(tally.n_done, len(catalog), tally.text(n))

        with open_client(address, min(n_worker or n_core(), len(rows))) as client:
            tick(n_workers(client))
            width = batch_size
            if width is None and batch is None:
                width = places_of(client)
            if batch is None:
                batch = automatic_size(len(rows), n_workers(client), width or 1)
            if overwrite:  # only now that there is somebody to do it anew
                forget(folder, find_parts(folder), catalog.id)
            is_free = np.asarray(catalog.zred_err) > 0
            failed_before = read_failures(folder)
            waiting = Waiting(make_batches(catalog.id, is_free, rows, batch, failed_before), width or batch)
            patience = PATIENCE_S if address is None else math.inf
            with contextlib.closing(fit_batches(client, inputs, waiting, tick, patience)) as events:
                for event in events:
                    if isinstance(event, Failure):
                        failures.append(event)
                        tally.n_failed += 1
                        update_failures(folder, new=[event])
                    else:
                        tally.n_fitted += len(event.rows)
                        if failed_before.keys() & set(event.ids):
                            update_failures(folder, solved=event.ids)
            tick(n_workers(client))
    update_failures(folder, solved=set(catalog.id) - {failure.galaxy_id for failure in failures})
    return ManyFits(
        folder, catalog.id, tally.n_fitted, len(there), tuple(failures), waiting.n_split, tally.seconds
    )


def _refuse_nonsense(catalog: Catalog, config: ModelConfig) -> None:
    """Refuse what no galaxy could be fitted with; what is wrong with single ones is found when they are."""
    if len(catalog) == 0:
        raise ValueError("`catalog` is empty: there is nothing to fit.")
    overall, _ = flux_scale_problems(catalog.flux, catalog.meta.get("unit", "maggies"))
    if overall is not None:
        raise CatalogError(f"Fluxes of the catalogue: {overall}")
    load_filters(catalog.filter_names)
    cosmology_by_name(config.cosmology)


def _settings(
    catalog: Catalog,
    config: ModelConfig,
    sampler: SamplerConfig,
    method: str,
    use: Sequence[str] | None,
    terms: Sequence[Term],
) -> dict[str, Any]:
    """Settings that results keep, of the galaxies that can be fitted."""

    def of(some: Catalog) -> dict[str, Any]:
        return fit_settings(some, config, sampler, method, use, terms)

    try:
        return of(catalog)
    except ValueError:
        good = []
        for row in range(len(catalog)):
            with contextlib.suppress(ValueError):
                of(catalog.select([row]))
                good.append(row)
        if not good:
            raise
        return of(catalog.select(good))


def _what_is_there(catalog: Catalog, folder: Path, settings: dict[str, Any], resume: bool) -> set[str]:
    """Galaxies that have results; refused unless they may be kept, and are of the same settings."""
    ids = set(catalog.id)
    parts = find_parts(folder)
    in_parts = {name: path for path, names in parts.items() for name in names if name in ids}
    files = [name for name in catalog.id if name not in in_parts and result_path(folder, name).exists()]
    with_file = set(files)
    there = [name for name in catalog.id if name in in_parts or name in with_file]
    if there and not resume:
        some = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
        raise FileExistsError(
            f"`outdir` {folder} already holds results of {len(there)} of these galaxies ({some}). Give "
            "`resume` to keep them and fit the others, `overwrite` to replace them, or another folder."
        )
    mine = digest(settings)
    first: dict[Path, str] = {}
    for name in there:
        if name in in_parts and not in_parts[name].name.startswith(f"{mine}-"):
            first.setdefault(in_parts[name], name)
    for path, name in first.items():
        refuse_other_settings({name: settings_of_part(path)}, settings)
    return in_parts.keys() | _adopted(folder, files, settings)


def _adopted(folder: Path, ids: Sequence[str], settings: dict[str, Any]) -> set[str]:
    """Make parts of results that have none: of `hbm.fit`, or of a batch that was killed while it wrote."""
    adopted: set[str] = set()
    for first in range(0, len(ids), _ADOPTED):
        found = find_results(folder, ids[first : first + _ADOPTED])
        refuse_other_settings({name: settings_of_result(one) for name, one in found.items()}, settings)
        if found:
            some = Batch((), tuple(found))
            write_part(summary_table(found.values()), part_path(folder, settings, some), settings)
            adopted |= found.keys()
    return adopted
