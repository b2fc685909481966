"""Fits of image and photometry together, against photometry alone, on simulated galaxies.

Galaxies are drawn from the interim prior inside the image model's domain, five bands (ugriz) with a median
flux over error of 20, and a stamp each under conditions as in training. Every galaxy is fitted with
photometry alone and with the image; both under the same prior.

(a) Wall time of one galaxy at a time, and galaxies a minute of a catalogue, with the programs compiled;
    compiling, and the image statistics, apart. Goals: 8 s for one; 40 a minute. A loaded machine shows in the
    load, and in core-seconds (of all threads) that are fewer than cores times wall time.
(b) Part that converged.
(c) Contraction of each property, ln(width without image / width with it), widths being 68 % intervals; and
    how often 68 % and 95 % intervals hold the truth.

    python -m benchmarks.joint_fit [--model sdss-griz] [--n 200] [--single 3] [--cores 2] [--minutes 9]

It begins nothing new after --minutes and goes on where it was when called again, with the compiled programs
of before; --fresh discards results. The last line of its output is JSON.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._batches import BatchCache, keep_compiled_programs
from benchmarks._common import RESULTS, print_table, write_result

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
PROPERTIES = ("logmass", "logssfr", "mwa", "logzsol", "dust2", "gas_logu")
SEED = 31
PIECE = 32
"""Galaxies between two savings."""


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Result, and what it took."""
    wall, core = time.perf_counter(), time.process_time()
    result = run()
    return result, {
        "wall_s": time.perf_counter() - wall,
        "core_s": time.process_time() - core,
        "load": os.getloadavg()[0],
    }


def numbers(fits: list[Any], truth: dict[str, np.ndarray], rows: Sequence[int]) -> dict[str, np.ndarray]:
    """What is kept of fits: width and rank of the truth of each property, and whether they converged."""
    draws = [[fit.draws(name) for name in PROPERTIES] for fit in fits]
    return {
        "width": np.array([[np.diff(np.quantile(x, [0.16, 0.84]))[0] for x in one] for one in draws]),
        "rank": np.array(
            [
                [float(np.mean(x < truth[name][row])) for name, x in zip(PROPERTIES, one, strict=True)]
                for row, one in zip(rows, draws, strict=True)
            ]
        ),
        "converged": np.array([fit.convergence.converged for fit in fits]),
        "ess": np.array([fit.convergence.ess_bulk_min for fit in fits]),
    }


def contraction(pieces: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Part (c), over galaxies that converged both times."""
    whole = {
        name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0] if pieces[0][name].ndim
    }
    good = whole["joint.converged"] & whole["photometry.converged"]
    result: dict[str, Any] = {"n": int(good.sum())}
    for column, name in enumerate(PROPERTIES):
        nats = np.log(whole["photometry.width"] / whole["joint.width"])[good, column]
        off = np.abs(whole["joint.rank"][good, column] - 0.5)
        result[name] = {
            "nats": float(nats.mean()),
            "error": float(nats.std() / max(len(nats), 1) ** 0.5),
            "in_68": float(np.mean(off < 0.34)),
            "in_95": float(np.mean(off < 0.475)),
        }
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="sdss-griz")
    parser.add_argument("--n", type=int, default=200, help="galaxies of the catalogue; 0 for none")
    parser.add_argument("--single", type=int, default=3, help="galaxies fitted one at a time")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="to divide the galaxies over")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing new after these")
    parser.add_argument("--fresh", action="store_true", help="discard what is done")
    args = parser.parse_args(argv)
    from hbm.devices import use_cpu_cores

    if args.cores > 1:
        use_cpu_cores(args.cores)
    keep_compiled_programs()
    import hbm
    from benchmarks._joint import mock_survey
    from generative.release import load, model_path
    from generative.summaries import compile_file, stamps_hash
    from hbm.galaxies import DataBuilder
    from hbm.image import load_image_likelihood
    from hbm.queue import default_batch_size, leg_width
    from sed.io import load_grid

    likelihood, grid = load_image_likelihood(args.model), load_grid()
    config, sampler = hbm.image_config(hbm.ModelConfig(), likelihood), hbm.SamplerConfig()
    n_mock = max(args.n, args.single)
    mock = mock_survey(DataBuilder(grid, config, BANDS), load(args.model), n_mock, SEED)
    file = RESULTS / ".cache" / "joint_fit" / f"{args.model}-{stamps_hash(mock.stamps)[:12]}.h5"
    settings = {
        "model": args.model, "n": args.n, "cores": args.cores, "seed": SEED, "bands": BANDS,
        "config": json.loads(config.to_json()), "sampler": sampler._asdict(), "statistics": Path(file).name,
    }  # fmt: skip
    cache = BatchCache("joint_fit", settings, fresh=args.fresh)
    print(f"{mock.outside:.1%} of the prior is older than what the image model was trained on", flush=True)
    if not file.is_file():
        _, took = timed(lambda: compile_file(load(args.model), model_path(args.model), mock.stamps, file))
        cache.put("statistics", {"wall_s": took["wall_s"] / n_mock, "core_s": took["core_s"] / n_mock})
    catalog = hbm.with_images(mock.catalog, file, likelihood)

    def fit(rows: Sequence[int], use: tuple[str, ...], batch_size: int | None, **more: Any) -> Any:
        some = catalog.select(list(rows))
        return hbm.fit(
            some, config=config, sampler=sampler, grid=grid, seed=SEED, use=use, batch_size=batch_size, **more
        )

    uses = {"joint": ("photometry", "image"), "photometry": ("photometry",)}
    compiled: dict[tuple[int, str], dict[str, float]] = {}

    def piece(name: str, rows: Sequence[int], kinds: Sequence[str], width: int) -> bool:
        """Fit some galaxies if that is not done and there is time; whether it is done."""
        if cache.get(name) is not None:
            return True
        kept: dict[str, Any] = {}
        for kind in kinds:
            if (width, kind) not in compiled and time.perf_counter() - start < 60 * args.minutes:
                _, compiled[width, kind] = timed(
                    lambda kind=kind: fit(range(width), uses[kind], width, max_rerun=0)
                )
                print(f"{kind}, {width} side by side, first time: {compiled[width, kind]}", flush=True)
            if time.perf_counter() - start > 60 * args.minutes:
                return False
            fits, took = timed(lambda kind=kind: fit(rows, uses[kind], width))
            found = numbers(fits, mock.truth, rows) | took | {"first_s": compiled[width, kind]["wall_s"]}
            kept |= {f"{kind}.{key}": value for key, value in found.items()}
            print(f"{name}, {kind}: {len(rows)} galaxies, {took}", flush=True)
        cache.put(name, kept)
        return True

    done = [piece(f"single_{row}", [row], ["joint"], 1) for row in range(args.single)]
    width = leg_width(args.n, default_batch_size())
    parts = [range(first, min(first + PIECE, args.n)) for first in range(0, args.n, PIECE)]
    done += [piece(f"rows_{part[0]}_{len(part)}", part, list(uses), width) for part in parts]
    report(cache, settings, args.single, parts, mock.outside, complete=all(done))


def report(
    cache: BatchCache,
    settings: dict[str, Any],
    n_single: int,
    parts: list[range],
    outside: float,
    *,
    complete: bool,
) -> None:
    """Print what is known, and write it if nothing is missing."""
    result: dict[str, Any] = {"complete": complete, "outside": outside, "load": os.getloadavg()[0]}
    statistics = cache.get("statistics")
    if statistics is not None:
        result["statistics_s_per_image"] = float(statistics["wall_s"])
    single = [one for row in range(n_single) if (one := cache.get(f"single_{row}")) is not None]
    if single:
        seconds = [float(one["joint.wall_s"]) for one in single]
        result["single"] = {
            "warm_s": seconds, "warm_median_s": float(np.median(seconds)),
            "core_s": [float(one["joint.core_s"]) for one in single],
            "first_s": float(single[0]["joint.first_s"]),
            "ess_bulk_min": [float(one["joint.ess"][0]) for one in single],
            "converged": [bool(one["joint.converged"][0]) for one in single],
            "load": [float(one["joint.load"]) for one in single],
        }  # fmt: skip
        print(f"one galaxy: median {np.median(seconds):.1f} s of {[round(s, 1) for s in seconds]}")
    pieces: list[dict[str, np.ndarray]]
    pieces = [p for part in parts if (p := cache.get(f"rows_{part[0]}_{len(part)}")) is not None]
    if pieces:
        result["code"] = sorted({str(p["code"]) for p in pieces})
        n = sum(len(p["joint.converged"]) for p in pieces)
        result["catalogue"] = {
            kind: {
                "n": n,
                "warm_per_minute": 60 * n / sum(float(p[f"{kind}.wall_s"]) for p in pieces),
                "core_s_per_galaxy": sum(float(p[f"{kind}.core_s"]) for p in pieces) / n,
                "first_s": float(pieces[0][f"{kind}.first_s"]),
                "converged": float(np.mean(np.concatenate([p[f"{kind}.converged"] for p in pieces]))),
                "load": [float(p[f"{kind}.load"]) for p in pieces],
            }
            for kind in ("joint", "photometry")
        }
        result["contraction"] = contraction(pieces)
        keys = ("nats", "error", "in_68", "in_95")
        print_table(
            ["property", "nats", "error", "68 %", "95 %"],
            [
                [name, *(f"{result['contraction'][name][key]:.2f}" for key in keys)]
                for name in PROPERTIES
            ],
        )  # fmt: skip
        for kind, found in result["catalogue"].items():
            print(
                f"{kind}: {found['warm_per_minute']:.0f} galaxies a minute, "
                f"{found['core_s_per_galaxy']:.1f} core-seconds each, {found['converged']:.0%} converged"
            )
    if complete:
        write_result("joint_fit", settings, result)
    else:
        print("not complete: call it again to go on")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
