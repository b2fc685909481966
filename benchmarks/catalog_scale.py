"""A thousand galaxies on two workers, of which one is killed on purpose in the middle.

Galaxies are drawn as those of `benchmarks.joint_fit`, without their images: from the interim prior inside the
image model's domain, five bands (ugriz) with a median flux over error of 20. `hbm.fit_many` fits them on
processes of one thread. When half of them are done, the worker that begins the next batch kills itself in the
middle of it (SIGKILL); the run has to go on by itself.

Reported are wall time (with the start of the workers, and with compilation where programs were not kept from
before), galaxies a minute, how many were begun more than once, failures, how many converged, and how often
68 % intervals hold the truth, which would show galaxies that were mixed up.

    python -m benchmarks.catalog_scale [--n 1000] [--workers 2] [--quick] [--minutes 9]

It stops after --minutes, losing the batches in flight, and goes on when called again; wall times add up.
--fresh discards results. The last line of its output is JSON.
"""

import argparse
import functools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._batches import CACHE, BatchCache
from benchmarks._common import print_table, write_result
from benchmarks._many import BEGUN, ENDED, KILLED, diary, fit_with_diary

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
PROPERTIES = ("logmass", "logssfr", "mwa", "logzsol", "dust2", "gas_logu")
SEED = 31
ARRAYS = ("zred", "zred_err", "flux", "flux_err", "observed", "upper_limit")


class TimeUpError(Exception):
    """The minutes are over."""


def simulated(builder: Any, model: str, n: int) -> tuple[Any, dict[str, np.ndarray]]:
    """Photometry of the galaxies of `hbm.calibration.mock.mock_survey`, and the truth."""
    from generative.mock import ImageMock, trained_ages
    from generative.release import load
    from hbm.calibration.mock import DEPTH, N_REDSHIFT
    from hbm.sbc import prior_flux, simulate

    nodes = ImageMock(load(model)).zred
    n_drawn = n + max(8, n // 20)
    rng = np.random.default_rng(SEED)
    zred = nodes[rng.choice(np.linspace(0, len(nodes) - 1, N_REDSHIFT).astype(int), n_drawn)]
    error = np.empty((n_drawn, len(BANDS)))
    for value in np.unique(zred):
        error[zred == value] = prior_flux(builder, float(value)) / DEPTH
    drawn = simulate(builder, zred, error, seed=SEED)
    inside = trained_ages(drawn.truth["mwa"], drawn.truth["logssfr"], zred)
    rows = np.flatnonzero(inside)[:n]
    if len(rows) < n:
        raise ValueError("too many galaxies of the prior are outside of what the image model was trained on.")
    return drawn.catalog.select(rows), {name: drawn.truth[name][rows] for name in PROPERTIES}


def survey(cache: BatchCache, config: Any, model: str, n: int) -> tuple[Any, dict[str, np.ndarray]]:
    """Galaxies, those of an earlier call if there was one."""
    from hbm.catalog import Catalog
    from hbm.galaxies import DataBuilder
    from sed.io import load_grid

    kept = cache.get("survey")
    if kept is None:
        catalog, truth = simulated(DataBuilder(load_grid(), config, BANDS), model, n)
        columns = {name: getattr(catalog, name) for name in ARRAYS}
        kept = cache.put("survey", {"id": catalog.id, **columns, **truth})
    catalog = Catalog(
        id=tuple(str(name) for name in kept["id"]),
        **{name: kept[name] for name in ARRAYS},
        filter_names=BANDS,
    )
    return catalog, {name: kept[name] for name in PROPERTIES}


def report(found: Any, truth: dict[str, np.ndarray], folder: Path, walls: list[float]) -> dict[str, Any]:
    """All numbers."""
    table = found.table()
    place = {str(name): row for row, name in enumerate(found.ids)}
    rows = np.array([place[str(name)] for name in table["id"]])
    begun = Counter(name for line in diary(folder, BEGUN) for name in line)
    ended = diary(folder, ENDED)
    killed = [name for line in diary(folder, KILLED) for name in line]
    inside = {}
    for name in PROPERTIES:
        low, high, true = (
            np.asarray(x) for x in (table[f"{name}_q16"], table[f"{name}_q84"], truth[name][rows])
        )
        inside[name] = float(np.mean((low < true) & (true < high)))
    return {
        "n": len(found.ids),
        "n_result": len(table),
        "calls": len(walls),
        "wall_s": sum(walls),
        "per_minute": 60 * len(table) / sum(walls),
        "batches": len(ended),
        "worker_s_per_galaxy": sum(float(line[0]) for line in ended)
        / max(sum(len(line) - 1 for line in ended), 1),
        "begun_twice": sum(n > 1 for n in begun.values()),
        "in_killed_batch": len(killed),
        "killed_batch_has_results": set(killed) <= {str(name) for name in table["id"]},
        "failures": {failure.galaxy_id: f"{failure.reason}: {failure.error}" for failure in found.failures},
        "converged": float(np.mean(table["converged"])),
        "in_68": inside,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="sdss-griz", help="image model whose domain the galaxies are of")
    parser.add_argument("--n", type=int, default=1000, help="galaxies")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    parser.add_argument("--batch", type=int, default=16, help="galaxies of a task")
    parser.add_argument("--quick", action="store_true", help="short chains that rarely converge")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop after these")
    parser.add_argument("--fresh", action="store_true", help="discard what is done")
    args = parser.parse_args(argv)
    os.environ.setdefault("HBM_PROGRAMS", str(CACHE / "jax"))  # where workers keep compiled programs
    import hbm
    from hbm.image import load_image_likelihood

    config = hbm.image_config(hbm.ModelConfig(), load_image_likelihood(args.model))
    sampler = hbm.SamplerConfig(n_warmup=100, n_draw=150) if args.quick else hbm.SamplerConfig()
    settings = {
        "model": args.model, "n": args.n, "workers": args.workers, "batch": args.batch, "quick": args.quick,
        "seed": SEED, "bands": BANDS, "config": json.loads(config.to_json()), "sampler": sampler._asdict(),
        "max_rerun": 0 if args.quick else 3,
    }  # fmt: skip
    cache = BatchCache("catalog_scale", settings, fresh=args.fresh)
    folder = cache.folder / "diary"
    if args.fresh:
        for place in (folder, cache.folder / "results"):
            shutil.rmtree(place, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    catalog, truth = survey(cache, config, args.model, args.n)
    told = 0.0

    def progress(done: int, total: int, text: str) -> None:
        nonlocal told
        if time.perf_counter() - start > 60 * args.minutes:
            raise TimeUpError
        if time.perf_counter() - told > 30:
            told = time.perf_counter()
            print(f"{done} of {total}: {text}", flush=True)

    n_call = sum(1 for _ in cache.folder.glob("call_*.npz"))
    begin = time.perf_counter()
    found = None
    try:
        found = hbm.fit_many(
            catalog, cache.folder / "results", n_worker=args.workers, batch=args.batch, resume=True,
            config=config, sampler=sampler, seed=SEED, max_rerun=settings["max_rerun"], progress=progress,
            fit_fn=functools.partial(fit_with_diary, folder=str(folder), kill_at=args.n // 2),
        )  # fmt: skip
    except TimeUpError:
        print("not complete: call it again to go on", flush=True)
    if found is None or found.n_fitted + len(found.failures) > 0:
        wall = {"wall_s": time.perf_counter() - begin, "load": os.getloadavg()[0]}
        cache.put(f"call_{n_call}", wall)
    if found is None:
        return
    calls = [cache.get(path.stem) for path in sorted(cache.folder.glob("call_*.npz"))]
    walls = [float(call["wall_s"]) for call in calls if call is not None]
    result = report(found, truth, folder, walls) | {
        "load": [float(call["load"]) for call in calls if call is not None]
    }
    for line in found.lines():
        print(line)
    shown = ("wall_s", "per_minute", "begun_twice", "in_killed_batch", "converged")
    print_table(["what", "value"], [[name, f"{float(result[name]):.4g}"] for name in shown])
    print_table(["property", "68 %"], [[name, f"{part:.2f}"] for name, part in result["in_68"].items()])
    write_result("catalog_scale", settings, result)


if __name__ == "__main__":
    main()
