"""What a worker does: fit the galaxies of a batch, write their files, say how it went.

What all batches need reaches a worker once, when it joins (`hbm.many.cluster`); a task is the positions of
some galaxies in the catalogue.
"""

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hbm.catalog import Catalog
from hbm.many.parts import part_path, write_part
from hbm.many.plan import Batch
from hbm.results import FitResult, result_path, save_result, summary_table

if TYPE_CHECKING:
    from sed.ssp import SSPGrid

FitFunction = Callable[..., list[FitResult]]
"""Takes a catalogue and the keyword arguments of `hbm.fit`."""

_one_at_a_time = threading.Lock()
"""A fit uses all of a process; workers with several threads take turns."""


class Inputs(NamedTuple):
    """What all batches of a run need."""

    catalog: Catalog
    """All galaxies, with their images."""
    outdir: Path
    """Folder of the results, which all workers see."""
    keep_draws: bool
    """Whether each galaxy gets a file of its own."""
    settings: dict[str, Any]
    """Kept with each part, see `hbm.many.run`."""
    grid: "SSPGrid | Path | None"
    """Stellar populations, their file, or None for the shipped ones."""
    options: dict[str, Any]
    """Further arguments of the fit."""
    fit_fn: FitFunction | None = None
    """In place of `hbm.fit`."""


class Outcome(NamedTuple):
    """How a batch went."""

    n_fitted: int
    """Galaxies that have a result now."""
    error: str
    """What was raised; empty if nothing was."""


def fit_batch(inputs: Inputs, batch: Batch) -> Outcome:
    """Fit a batch and write its results; those of an earlier attempt that ended well are kept.

    An error of the fit is returned, not raised: it may be of a kind that does not travel.

    Raises
    ------
    FileNotFoundError
        If this worker does not see the folder of the results.
    OSError
        If the results cannot be written.
    """
    if not inputs.outdir.is_dir():
        raise FileNotFoundError(
            f"`outdir` must be a folder that all workers see, but one of them does not see {inputs.outdir}."
        )
    path = part_path(inputs.outdir, inputs.settings, batch)
    with _one_at_a_time:
        if path.is_file():
            return Outcome(len(batch.rows), "")
        try:
            results = _fit(inputs, batch)
        except Exception as error:  # noqa: BLE001 (whatever is wrong with a galaxy must not end the run)
            return Outcome(0, f"{type(error).__name__}: {error}")
        if inputs.keep_draws:
            for result in results:
                save_result(result, result_path(inputs.outdir, result.galaxy_id), overwrite=True)
        write_part(summary_table(results), path, inputs.settings)
    return Outcome(len(batch.rows), "")


def _fit(inputs: Inputs, batch: Batch) -> list[FitResult]:
    _keep_programs()
    function = inputs.fit_fn
    grid = inputs.grid
    if function is None:
        from hbm.fitting import fit

        function = fit
        grid = _load_grid(grid) if grid is None or isinstance(grid, Path) else grid
    return function(inputs.catalog.select(list(batch.rows)), grid=grid, **inputs.options)


@functools.cache
def _keep_programs() -> None:
    """Let this process keep compiled programs on disk: workers that are started again need not compile."""
    from hbm.cli.programs import keep_programs

    keep_programs()


@functools.lru_cache(maxsize=1)
def _load_grid(path: Path | None) -> Any:
    from sed.io import load_grid

    return load_grid(path)


def places() -> int:
    """Galaxies that this process fits side by side."""
    from hbm.queue import default_batch_size

    return default_batch_size()
