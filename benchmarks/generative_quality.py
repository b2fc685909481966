"""The evaluation of the shipped image models: drawn galaxies against held-out simulations.

    python -m benchmarks.generative_quality [--models sdss-griz hst-f814w] [--n 400] [--n-information 1000]
                                            [--device cpu]

Writes results/generative_quality.json, and the figures of each model to results/generative_quality_MODEL/.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

from benchmarks._common import RESULTS, print_table
from benchmarks._images import write_result
from generative.commands import evaluate_model
from generative.release import available


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(available()))
    parser.add_argument("--n", type=int, default=400, help="galaxies drawn and compared")
    parser.add_argument(
        "--n-information", type=int, default=1000, help="simulations for the information gain"
    )
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    result: dict[str, Any] = {}
    for name in args.models:
        start = time.perf_counter()
        out = RESULTS / f"generative_quality_{name}"
        found = evaluate_model(
            name,
            out,
            n=args.n,
            seed=args.seed,
            config=None,
            device=args.device,
            progress=None,
            n_information=args.n_information,
        )
        found["seconds"] = time.perf_counter() - start
        rows = [
            [d["statistic"], f"{d['wasserstein']:.3f}", f"{r['wasserstein']:.3f}", f"{d['floor_95']:.3f}"]
            for d, r in zip(found["distances"], found["reference_against_reference"], strict=False)
            if d["where"] == "all"
        ]
        print_table([name, "generated", "held out", "95 % of chance"], rows)
        summary = found["summary"]
        print(
            f"in bins of the conditions: median {summary['median_distance_in_bins']:.3f}, "
            f"held out {summary['median_floor_in_bins']:.3f}"
        )
        for key in ("information_before_refit", "information"):
            info = found.get(key)
            if info:
                cover = ", ".join(f"{p} {c:.2f}" for p, c in info["cover_68"].items())
                print(f"{key}: {info['gain']:.3f} +- {info['error']:.3f} nats; 68 % covers {cover}")
        found["settings"] = {"n": args.n, "n_information": args.n_information, "seed": args.seed}
        result[name] = found
    stored = RESULTS / "generative_quality.json"
    if stored.is_file():  # models that were not asked for keep their results
        result = json.loads(stored.read_text())["result"] | result
    write_result("generative_quality", args.device, {"n": args.n, "seed": args.seed}, result)


if __name__ == "__main__":
    main()
