"""Fits of image and photometry together, against photometry alone, on simulated galaxies.

Galaxies are drawn from the interim prior inside the image model's domain, five bands (ugriz) with a median
flux over error of 20, and a stamp each under conditions as in training. Every galaxy is fitted with
photometry alone and with the image; both under the same prior.

(a) Wall time per galaxy, alone and in a batch, with the programs compiled before (two galaxies or batches:
    the second counts), and image compilation apart. Goals: 8 s for one; 40 a minute for 200.
(b) Part that converged.
(c) Contraction of each property, ln(width without image / width with it), widths being 68 % intervals; and
    how often 68 % and 95 % intervals hold the truth.

    python -m benchmarks.joint_fit [--model sdss-griz] [--n 200] [--single 3] [--cores 2]
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._common import RESULTS, print_table, write_result

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
PROPERTIES = ("logmass", "logssfr", "mwa", "logzsol", "dust2", "gas_logu")
SEED = 31


def contraction(photometry: list[Any], joint: list[Any], truth: dict[str, np.ndarray]) -> dict[str, Any]:
    """Part (c), over galaxies that converged both times."""
    good = [
        i
        for i, (a, b) in enumerate(zip(photometry, joint, strict=True))
        if a.convergence.converged and b.convergence.converged
    ]
    result: dict[str, Any] = {"n": len(good)}
    for name in PROPERTIES:
        widths, inside = [], {68: [], 95: []}
        for i in good:
            pair = []
            for fit in (photometry[i], joint[i]):
                low, high = np.quantile(fit.draws(name), [0.16, 0.84])
                pair.append(high - low)
            widths.append(np.log(pair[0] / pair[1]))
            rank = float(np.mean(joint[i].draws(name) < truth[name][i]))
            inside[68].append(abs(rank - 0.5) < 0.34)
            inside[95].append(abs(rank - 0.5) < 0.475)
        result[name] = {
            "nats": float(np.mean(widths)),
            "error": float(np.std(widths) / max(len(good), 1) ** 0.5),
            "in_68": float(np.mean(inside[68])),
            "in_95": float(np.mean(inside[95])),
        }
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="sdss-griz")
    parser.add_argument("--n", type=int, default=200, help="galaxies of a batch; 0 for no batches")
    parser.add_argument("--single", type=int, default=3, help="galaxies fitted one at a time, each twice")
    parser.add_argument("--cores", type=int, default=1, help="of the processor, to divide a batch over")
    args = parser.parse_args(argv)
    from hbm.devices import use_cpu_cores

    if args.cores > 1:
        use_cpu_cores(args.cores)
    import hbm
    from benchmarks._joint import mock_survey
    from benchmarks._prospector_fit import timed_fit
    from generative.release import load, model_path
    from generative.summaries import compile_file, stamps_hash
    from hbm.galaxies import DataBuilder
    from hbm.image import load_image_likelihood
    from sed.io import load_grid

    likelihood, grid = load_image_likelihood(args.model), load_grid()
    config, sampler = hbm.image_config(hbm.ModelConfig(), likelihood), hbm.SamplerConfig()
    n_mock = max(2 * args.n, args.single)
    mock = mock_survey(DataBuilder(grid, config, BANDS), load(args.model), n_mock, SEED)
    file = RESULTS / ".cache" / "joint_fit" / f"{args.model}-{stamps_hash(mock.stamps)[:12]}.h5"
    result: dict[str, Any] = {"outside": mock.outside}
    print(f"{mock.outside:.1%} of the prior is older than what the image model was trained on")
    if not file.is_file():
        start = time.perf_counter()
        compile_file(load(args.model), model_path(args.model), mock.stamps, file)
        result["compile_s_per_image"] = (time.perf_counter() - start) / n_mock
    catalog = hbm.with_images(mock.catalog, file, likelihood)
    settings = (config, sampler, grid, SEED)
    if args.single:
        fits, seconds = timed_fit(catalog.select(list(range(args.single))), 1, *settings)
        result["single"] = {
            "seconds": seconds, "warm_median_s": float(np.median(seconds[1:])),
            "ess_bulk_min": [fit.convergence.ess_bulk_min for fit in fits],
            "flag": [fit.flag for fit in fits],
        }  # fmt: skip
        print_table(
            ["one galaxy", "s", "bulk ESS", "flag"],
            [[f.galaxy_id, f"{s:.1f}", f"{f.convergence.ess_bulk_min:.0f}", f.flag]
             for f, s in zip(fits, seconds, strict=True)],
        )  # fmt: skip
    if args.n:
        joint, seconds = timed_fit(catalog, args.n, *settings)
        photometry, _ = timed_fit(catalog, args.n, *settings, use=("photometry",))
        result["batch"] = {
            "n": args.n, "cold_s": seconds[0], "warm_s": seconds[1],
            "warm_per_minute": 60 * args.n / seconds[1],
            "converged": float(np.mean([fit.convergence.converged for fit in joint])),
        }  # fmt: skip
        result["contraction"] = contraction(photometry, joint, mock.truth)
        keys = ("nats", "error", "in_68", "in_95")
        print_table(
            ["property", "nats", "error", "68 %", "95 %"],
            [
                [name, *(f"{result['contraction'][name][key]:.2f}" for key in keys)]
                for name in PROPERTIES
            ],
        )  # fmt: skip
        print(
            f"{result['batch']['warm_per_minute']:.0f} galaxies a minute, "
            f"{result['batch']['converged']:.0%} converged"
        )
    write_result(
        "joint_fit",
        {
            "model": args.model, "n": args.n, "cores": args.cores, "seed": SEED, "bands": BANDS,
            "config": json.loads(config.to_json()), "statistics": Path(file).name,
        },
        result,
    )  # fmt: skip


if __name__ == "__main__":
    main()
