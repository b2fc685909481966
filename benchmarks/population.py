"""A magnitude-limited mock survey with known hyperparameters: how well, how fast, with and without images.

Galaxies of five relations at redshifts of constant density in comoving volume are kept if their measured r
magnitude is below 18.5; five bands (ugriz) with errors of SDSS, a stamp each (griz). Every galaxy is fitted
with photometry alone and with its image, under one interim prior; then `fit_population` with the selection.

(a) Time to R-hat < 1.01 and ESS >= 400 for every hyperparameter, for each size of the survey: compiling
    images, single fits, hyperparameters. Goal: 500 galaxies with images on two cores in 20 minutes.
(b) Means, errors and pulls of hyperparameters with and without images.
(c) The same from point estimates (posterior medians taken for exact data), which is biased: scatters come out
    too small or too large by what the errors and the interim prior do to the medians.
(d) What 1e6 galaxies would cost, from the costs measured here.

    python -m benchmarks.population [--sizes 50 150 500] [--methods reweight gibbs] [--minutes 9]
    python -m benchmarks.population --synthetic 10000

Smaller sizes are the first galaxies of larger ones. It begins no new block of galaxies after --minutes and
goes on where it was when called again; --fresh discards results. `gibbs` and `joint` take the smallest size
only. The galaxies of --synthetic have measured properties instead of fluxes and images
(`hbm.population.mock`): the population fit alone is timed, for 10,000 galaxies on a GPU (goal 10 minutes).
The last line is JSON.
"""

import argparse
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks._batches import BatchCache, keep_compiled_programs
from benchmarks._common import print_table, write_result

SEED = 41
LEGS = {"photometry": ("photometry",), "joint": ("photometry", "image")}
_RHAT, _ESS = 1.01, 400
_TOTAL, _MOST_DRAWS = 200_000, 2000
"""Draws of all galaxies together, and of each, at most: smaller surveys can afford more of each."""
_LENGTHS = ((500, 500), (500, 1000), (500, 2000))
"""Warm-up and draws per chain, tried in turn until the goals are met."""


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Result, and what it took."""
    wall, core = time.perf_counter(), time.process_time()
    result = run()
    return result, {"wall_s": time.perf_counter() - wall, "core_s": time.process_time() - core}


def judged(found: Any, truth: dict[str, float]) -> dict[str, Any]:
    """Convergence and errors of a posterior of hyperparameters."""
    from hbm.convergence import import_arviz

    az = import_arviz()
    posterior = found.idata.posterior[list(truth)]
    rhat, ess = az.rhat(posterior), az.ess(posterior)
    hyper = {}
    for name, value in truth.items():
        draws = found.draws(name)
        mean, sd = float(draws.mean()), float(draws.std())
        hyper[name] = {"truth": value, "mean": mean, "sd": sd, "pull": (mean - value) / sd}
    pulls = np.array([row["pull"] for row in hyper.values()])
    return {
        "rhat": float(max(np.max(rhat[name].values) for name in truth)),
        "ess": float(
            min(posterior.attrs.get("effective", np.inf), *(np.min(ess[name].values) for name in truth))
        ),
        "importance_k": found.idata.posterior.attrs.get("pareto_k"),
        "flag": found.flag,
        "variance": found.variance,
        "pareto_k_above_0.7": None if found.pareto_k is None else float(np.mean(found.pareto_k > 0.7)),
        "pull_rms": float(np.sqrt(np.mean(pulls**2))),
        "hyper": hyper,
    }


def to_the_goal(
    draws: Any, population: Any, selection: Any, truth: dict[str, float], **options: Any
) -> dict[str, Any]:
    """Fit with longer chains until R-hat and ESS are good enough; what that took in all."""
    from hbm.population import fit_population

    result: dict[str, Any] = {}
    wall = core = 0.0
    for n_warmup, n_draw in options.pop("lengths", _LENGTHS):
        call = functools.partial(
            fit_population, draws, population, selection=selection, n_warmup=n_warmup, n_draw=n_draw,
            seed=SEED, **options,
        )  # fmt: skip
        found, took = timed(call)
        wall, core = wall + took["wall_s"], core + took["core_s"]
        result = judged(found, truth) | {"n_draw": n_draw, "found": found}
        is_importance = "evaluations" in found.idata.posterior.attrs  # longer chains would change nothing
        if is_importance or (result["rhat"] < _RHAT and result["ess"] >= _ESS):
            break
    return result | {"wall_s": wall, "core_s": core}


def medians(draws: Any) -> Any:
    """Point estimates in place of posteriors: the median of each property, as if it were the galaxy's."""
    import jax.numpy as jnp

    properties = {
        name: jnp.repeat(jnp.median(value, axis=1, keepdims=True), 30, axis=1)
        for name, value in draws.properties.items()
    }
    return draws._replace(properties=properties)


class Survey:
    """The mock survey, its single fits in files, and its selection.

    Parameters
    ----------
    model
        Name of the image model.
    n, block
        Galaxies, and how many are fitted and kept at a time.
    deadline
        Seconds of `time.perf_counter` after which no block begins.
    sampler
        `hbm.SamplerConfig` of the single fits.
    fresh
        Discard what is there.
    """

    def __init__(self, model: str, n: int, block: int, deadline: float, sampler: Any, *, fresh: bool) -> None:
        import hbm
        from benchmarks import _survey
        from generative.mock import ImageMock
        from generative.release import load
        from hbm.galaxies import DataBuilder
        from hbm.image import load_image_likelihood
        from hbm.population import default_population
        from sed.io import load_grid

        self.model, self.block, self.deadline, self.sampler = model, block, deadline, sampler
        self.likelihood, self.grid = load_image_likelihood(model), load_grid()
        self.config = hbm.image_config(hbm.ModelConfig(), self.likelihood)
        self.population = default_population(self.config.prior)
        self.builder = DataBuilder(self.grid, self.config, _survey.BANDS)
        self.network = load(model)
        self.camera = ImageMock(self.network)
        self.mock = _survey.mock_survey(self.builder, self.camera, self.population, n, SEED)
        self.detection = _survey.detection(self.builder, self.camera, SEED)
        self.settings = {
            "model": model, "block": block, "seed": SEED, "truth": _survey.TRUTH, "limit": _survey.LIMIT,
            "depth": _survey.DEPTH, "bands": _survey.BANDS, "config": json.loads(self.config.to_json()),
            "sampler": sampler._asdict(), "hash": self.likelihood.hash,
            "flux": float(self.mock.catalog.flux[:block].sum()),
        }  # fmt: skip
        self.cache = BatchCache("population", self.settings, fresh=fresh)
        if fresh:
            for folder in (*LEGS, "images"):
                shutil.rmtree(self.cache.folder / folder, ignore_errors=True)
        print(
            f"{self.mock.detected:.1%} of all galaxies are measured; {self.mock.untrained:.1%} of the bright "
            "ones are left out: of ages that the image model was not trained on",
            flush=True,
        )

    def with_images(self, first: int) -> Any:
        """Catalogue of a block with its images, compiled now if that was not done."""
        import hbm
        from benchmarks._survey import stamps_of
        from generative.release import model_path
        from generative.summaries import compile_file

        rows = range(first, min(first + self.block, len(self.mock.catalog)))
        file = self.cache.folder / "images" / f"{first:05d}.h5"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            stamps = stamps_of(self.mock, self.camera, rows, SEED)
            _, took = timed(lambda: compile_file(self.network, model_path(self.model), stamps, file))
            self.cache.put(f"images_{first:05d}", took)
            print(f"images {first} to {rows.stop}: {took['wall_s']:.0f} s", flush=True)
        return hbm.with_images(self.mock.catalog.select(list(rows)), file, self.likelihood)

    def fit_block(self, leg: str, first: int) -> bool:
        """Fit a block if that is not done and there is time; whether it is done."""
        import hbm
        from hbm.results import result_path

        name, folder = f"{leg}_{first:05d}", self.cache.folder / leg
        if self.cache.get(name) is not None:
            return True
        if time.perf_counter() > self.deadline:
            return False
        catalog = self.with_images(first)
        left = [i for i, each in enumerate(catalog.id) if not result_path(folder, each).is_file()]
        fits, took = timed(
            lambda: hbm.fit(
                catalog.select(left), config=self.config, sampler=self.sampler, grid=self.grid, seed=SEED,
                use=LEGS[leg], outdir=folder,
            ) if left else []
        )  # fmt: skip
        good = float(np.mean([fit.flag == "ok" for fit in fits])) if fits else float("nan")
        self.cache.put(name, took | {"ok": good, "n": len(left), "load": os.getloadavg()[0]})
        print(f"{name}: {len(left)} galaxies, {took['wall_s']:.0f} s, {good:.0%} ok", flush=True)
        return True

    def results(self, leg: str, n: int) -> list[Any]:
        """Fits that are flagged ok among the first galaxies."""
        from hbm.results import load_result, result_path

        files = [result_path(self.cache.folder / leg, name) for name in self.mock.catalog.id[:n]]
        return [found for file in files if (found := load_result(file)).flag == "ok"]

    def seconds(self, kind: str, n: int) -> dict[str, float]:
        """Wall and core seconds of all blocks of the first galaxies."""
        parts = [self.cache.get(f"{kind}_{first:05d}") for first in range(0, n, self.block)]
        if any(part is None for part in parts):
            return {"wall_s": float("nan"), "core_s": float("nan")}
        return {
            key: float(sum(float(p[key]) for p in parts if p is not None)) for key in ("wall_s", "core_s")
        }

    def selection(self, about: Any, n_draw: int) -> Any:
        """Selection with draws about some hyperparameters; the emission lines' part in r is left out."""
        from hbm.population import selection_by

        depends = ("logmass", "logssfr", "logzsol", "dust2")
        return selection_by(
            self.detection, self.mock.age, self.config.prior, self.population, depends=depends, about=about,
            n_draw=n_draw, seed=SEED,
        )  # fmt: skip


def hyper_medians(found: Any, truth: dict[str, float]) -> dict[str, float]:
    """Median of each hyperparameter."""
    return {name: float(np.median(found.draws(name))) for name in truth}


def population_fits(
    survey: Survey, leg: str, n: int, args: argparse.Namespace, *, smallest: bool
) -> dict[str, Any]:
    """Hyperparameters of the first galaxies by each method, and by point estimates."""
    from benchmarks._survey import TRUTH
    from hbm.population import ImportanceConfig, ReweightConfig, gather_draws, gather_survey

    results = survey.results(leg, n)
    n_draw, n_selection = args.draws or min(_TOTAL // n, _MOST_DRAWS), args.selection
    lengths = [pair for pair in _LENGTHS if pair[1] <= args.longest] or [(200, args.longest)]
    draws = gather_draws(results, n_draw=n_draw)
    rough, first = timed(lambda: survey.selection(None, n_selection))
    brief = ReweightConfig("importance", ImportanceConfig(n_round=8, n_batch=2))
    thorough = ReweightConfig(args.sampler, ImportanceConfig(n_round=20, n_batch=20))
    short = to_the_goal(draws, survey.population, rough, TRUTH, lengths=((200, 200),), sampler=brief)
    selection, second = timed(lambda: survey.selection(hyper_medians(short.pop("found"), TRUTH), n_selection))
    before = first["wall_s"] + short["wall_s"] + second["wall_s"]
    found: dict[str, Any] = {"n_ok": len(results), "selection_wall_s": before}
    for method in args.methods:
        if method != "reweight" and not smallest:
            continue
        options: dict[str, Any] = {"method": method, "lengths": lengths}
        data: Any = draws
        if method == "reweight":
            options["sampler"] = thorough
        if method != "reweight":
            catalog = survey.with_images(0)
            data = gather_survey(results, catalog, grid=survey.grid, n_draw=n_draw)
            # The chains of other images or settings would be refused: a file for each.
            options |= {
                "checkpoint": survey.cache.folder / f"{leg}_{n}_{method}.npz", "resume": True,
                "lengths": ((300, min(1000, args.longest)),),
            }  # fmt: skip
        one = to_the_goal(data, survey.population, selection, TRUTH, **options)
        one.pop("found")
        found[method] = one
        print(
            f"{leg}, {n} galaxies, {method}: {one['wall_s']:.0f} s, R-hat {one['rhat']:.3f}, ESS "
            f"{one['ess']:.0f}, {one['flag']}, variance {one['variance']:.2f}",
            flush=True,
        )
    points = to_the_goal(
        medians(draws), survey.population, selection, TRUTH, lengths=lengths, sampler=thorough
    )
    points.pop("found")
    return found | {"points": points}


def tables(rows: list[dict[str, Any]], largest: dict[str, Any]) -> None:
    """Print the scaling with size, and the hyperparameters of the largest survey."""
    head = ["galaxies", "data", "method", "ok", "images s", "fits s", "population s", "minutes"]
    body = [
        [
            r["n"], r["leg"], r["method"], r["n_ok"], f"{r['images_s']:.0f}", f"{r['fits_s']:.0f}",
            f"{r['population_s']:.0f}", f"{r['minutes']:.1f}", f"{r['rhat']:.3f}", f"{r['ess']:.0f}",
            f"{r['variance']:.2f}", f"{r['pull_rms']:.2f}", r["flag"],
        ]
        for r in rows
    ]  # fmt: skip
    print_table([*head, "R-hat", "ESS", "variance", "rms pull", "flag"], body)
    if not largest:
        return
    columns = list(largest)
    names = list(next(iter(largest.values())))
    body = []
    for name in names:
        cells = [f"{largest[columns[0]][name]['truth']:.2f}"]
        for column in columns:
            h = largest[column][name]
            cells.append(f"{h['mean']:.2f} +- {h['sd']:.2f} ({h['pull']:+.1f})")
        body.append([name, *cells])
    print_table(["hyperparameter", "truth", *columns], body)


def million(draws: Any, population: Any, selection: Any, result: dict[str, Any]) -> dict[str, Any]:
    """Memory and time of 1e6 galaxies, from the costs of a density (chains: gradient) on this machine."""
    import jax
    import jax.numpy as jnp

    from benchmarks._common import measure
    from hbm.population.reweight import reweighting_of

    method = reweighting_of(population, _LENGTHS[0][0])
    start = jnp.zeros((4, method.unknowns.n))
    stored, *_ = method.prepared(draws.properties, draws.prior, selection, start)
    found = result["found"]
    n_density = found.idata.posterior.attrs.get("evaluations")
    if n_density is None:
        gradient = jax.jit(jax.vmap(jax.value_and_grad(method.energy), in_axes=(0, None)))
        compiled = gradient.lower(start, stored).compile()
    else:
        compiled = jax.jit(method.energy).lower(start[0], stored).compile()
        start = start[0]
    seconds = measure(lambda: compiled(start, stored)).run_s
    n, per_galaxy = stored.log_interim.shape
    stored_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves((stored.properties, stored.log_interim))) / n
    memory = compiled.memory_analysis()
    work_bytes = float("nan") if memory is None else memory.temp_size_in_bytes / n
    what, n_call = "density", n_density
    if n_call is None:
        what = "gradient of 4 chains"
        steps = np.asarray(found.idata.sample_stats["n_steps"].values)
        # Chains wait for the longest of them. Three quarters of the warm-up have few draws of each galaxy,
        # and at most 31 steps (`hbm.population.reweight`).
        n_warmup = _LENGTHS[0][0]
        drawing = float(steps.max(axis=0).sum())
        n_call = drawing * (1 + 0.25 * n_warmup / steps.shape[1]) + 0.75 * n_warmup * 31 * 25 / per_galaxy
    cost = {
        "what": what, "us_per_galaxy": 1e6 * seconds / n, "draws_per_galaxy": per_galaxy,
        "calls": float(n_call), "stored_kb_per_galaxy": stored_bytes / 1e3,
        "work_kb_per_galaxy": work_bytes / 1e3,
        "million_hours": 1e6 * seconds / n * n_call / 3600,
        "million_stored_gb": 1e6 * stored_bytes / 1e9, "million_work_gb": 1e6 * work_bytes / 1e9,
    }  # fmt: skip
    print(
        f"one {what} takes {cost['us_per_galaxy']:.1f} us per galaxy of {per_galaxy} draws; 1e6 would "
        f"take {cost['million_hours']:.1f} h for {n_call:.0f} of them on this machine, "
        f"{cost['million_stored_gb']:.1f} GB of draws and {cost['million_work_gb']:.0f} GB of work space if "
        "all are worked on at once"
    )
    return cost


def projected(n_number: int = 64) -> dict[str, float]:
    """What 1e6 galaxies would need where galaxies are sampled too, with images as so many numbers."""
    from benchmarks.population_cost import cost

    found = cost(50)
    # As `hbm.image_projection.ProjectedImage`: numbers, conditions (13 columns for four bands), age.
    image_kb = 4 * (n_number + 13 + 1) / 1e3
    print(
        f"sampled with the galaxies: {found['gradient_us_per_galaxy']:.0f} us a gradient and galaxy "
        f"(photometry), {found['data_kb_per_galaxy']:.0f} kB of data and {image_kb:.2f} kB of projected "
        f"image each; 1e6 galaxies: {found['data_kb_per_galaxy'] + image_kb:.0f} GB, and 13 gradients of a "
        "Gibbs sweep take "
        f"{13 * found['gradient_us_per_galaxy'] / 3600:.2f} h on this machine"
    )
    return found | {
        "projected_image_kb": image_kb,
        "million_data_gb": found["data_kb_per_galaxy"] + image_kb,
        "million_sweep_hours": 13 * found["gradient_us_per_galaxy"] / 3600,
    }


def synthetic(n: int, n_draw: int, longest: int) -> None:
    """The population fit alone, of galaxies with measured properties and a limit in mass."""
    from hbm.population import default_population, selection_by
    from hbm.population.detection import property_limit
    from hbm.population.mock import ERROR, LIMIT, PRIOR, mock_survey
    from hbm.population.selection import MIDDLE

    population = default_population(PRIOR)
    mock, making = timed(lambda: mock_survey(population, MIDDLE, n, n_draw=n_draw, seed=SEED))
    age = np.asarray(mock.draws.properties["age_universe"])[0, :1]
    selection = selection_by(
        property_limit("logmass", LIMIT, ERROR["logmass"]), age, PRIOR, population, depends=("logmass",),
        n_draw=20_000, seed=SEED,
    )  # fmt: skip
    lengths = [pair for pair in _LENGTHS if pair[1] <= longest] or [(200, longest)]
    result = to_the_goal(mock.draws, population, selection, MIDDLE, lengths=lengths)
    cost = million(mock.draws, population, selection, result)
    result.pop("found")
    print(
        f"{n} galaxies: {result['wall_s'] / 60:.1f} minutes, R-hat {result['rhat']:.3f}, "
        f"ESS {result['ess']:.0f}, flag {result['flag']}, variance {result['variance']:.2f}, "
        f"rms pull {result['pull_rms']:.2f}"
    )
    tables([], {"reweight": result["hyper"]})
    settings = {"synthetic": n, "draws": n_draw, "seed": SEED, "truth": MIDDLE}
    name = f"population_synthetic_{n}"
    write_result(name, settings, result | {"making_s": making["wall_s"], "cost": cost})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="sdss-griz")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 150, 500])
    parser.add_argument("--legs", nargs="+", default=list(LEGS), choices=LEGS, help="data of the single fits")
    parser.add_argument("--methods", nargs="+", default=["reweight"], choices=("reweight", "gibbs", "joint"))
    parser.add_argument(
        "--draws", type=int, default=None, help="kept of each galaxy; by default 2,000, or 200,000 in all"
    )
    parser.add_argument(
        "--sampler", default="importance", choices=("importance", "auto", "nuts"),
        help="of reweighting; auto takes chains where importance sampling fails, which may take an hour",
    )  # fmt: skip
    parser.add_argument("--selection", type=int, default=40_000, help="draws of the selection")
    parser.add_argument("--longest", type=int, default=2000, help="most draws of a chain of hyperparameters")
    parser.add_argument("--chain", type=int, default=None, help="draws per chain of a single fit")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="to divide the galaxies over")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no block after these")
    parser.add_argument("--synthetic", type=int, default=0, help="galaxies of the survey without fluxes")
    parser.add_argument("--fresh", action="store_true", help="discard what is done")
    args = parser.parse_args(argv)
    sizes, block = sorted(args.sizes), min(args.sizes)
    if any(n % block for n in sizes):
        parser.error(f"--sizes must be multiples of the smallest, got {sizes}")
    from hbm.devices import use_cpu_cores

    if args.cores > 1 and not args.synthetic:
        use_cpu_cores(args.cores)
    keep_compiled_programs()
    if args.synthetic:
        synthetic(args.synthetic, args.draws or 400, args.longest)
        return
    from hbm.sampler import SamplerConfig

    sampler = SamplerConfig()
    if args.chain is not None:
        sampler = sampler._replace(n_draw=args.chain)
    survey = Survey(args.model, sizes[-1], block, start + 60 * args.minutes, sampler, fresh=args.fresh)
    done = {
        (leg, first): survey.fit_block(leg, first)
        for first in range(0, sizes[-1], block)
        for leg in args.legs
    }
    report(survey, args, sizes, done)


def report(survey: Survey, args: argparse.Namespace, sizes: list[int], done: dict[Any, bool]) -> None:
    """Fit populations of all sizes whose galaxies are fitted; tables and JSON."""
    rows, largest, every = list[dict[str, Any]](), dict[str, Any](), dict[str, Any]()
    complete = all(done.values())
    for n in sizes:
        if not all(done[leg, first] for leg in args.legs for first in range(0, n, survey.block)):
            continue
        largest = {}
        for leg in args.legs:
            found = population_fits(survey, leg, n, args, smallest=n == sizes[0])
            every[f"{leg}_{n}"] = found
            fits, images = survey.seconds(leg, n), survey.seconds("images", n)
            for method in (*(m for m in args.methods if m in found), "points"):
                one = found[method]
                images_s = images["wall_s"] if leg == "joint" else 0.0
                population_s = found["selection_wall_s"] + one["wall_s"]
                rows.append(
                    {key: one[key] for key in ("rhat", "ess", "variance", "pull_rms", "flag")}
                    | {
                        "n": n, "leg": leg, "method": method, "n_ok": found["n_ok"], "images_s": images_s,
                        "fits_s": fits["wall_s"], "population_s": population_s,
                        "minutes": (images_s + fits["wall_s"] + population_s) / 60,
                    }
                )  # fmt: skip
                largest[f"{leg}, {method}"] = one["hyper"]
    if rows:
        tables(rows, largest)
    result = {
        "complete": complete, "scaling": rows, "fits": every, "load": os.getloadavg()[0],
        "detected": survey.mock.detected, "untrained": survey.mock.untrained, "projected": projected(),
    }  # fmt: skip
    if complete:
        settings = survey.settings | {"sizes": sizes, "draws": args.draws, "legs": args.legs}
        write_result("population", settings, result)
    else:
        n_done = sum(done.values())
        print(f"not complete ({n_done} of {len(done)} blocks): call it again to go on")
        print(json.dumps(result))


if __name__ == "__main__":
    main()
