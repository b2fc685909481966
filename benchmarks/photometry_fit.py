"""Time fits, and compare them with Prospector's prediction under another sampler.

Galaxies are those of the COSMOS field of 3D-HST that `benchmarks.photometry_real` chooses from the folder
--data; without it, they are drawn from the prior (as in `benchmarks.photometry_sbc`) in eleven bands.

(a) One galaxy at a time until every sampled parameter has a bulk ESS of 400 and R-hat < 1.01 (and a tail ESS
    of 400), compile time apart: each galaxy is fitted twice, the second counts. Goal: 5 s (median).
(b) 100 galaxies side by side, with compilation and without. Goal: 60 a minute.
(c) The same galaxies with Prospector's spectra, by importance sampling and nautilus, see
    `benchmarks._prospector_fit`. Goal: posterior means within 0.1 sigma, standard deviations within 15 %.

    python -m benchmarks.photometry_fit [--data FOLDER] [--n 100] [--prospector 3] [--prospector-only 3]

Each galaxy of (c) takes some minutes and is kept in results/.cache. --prospector-only writes
results/photometry_prospector.json and leaves results/photometry_fit.json alone.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks._common import print_table, write_result
from benchmarks._prospector_fit import compare_with_prospector, repeated, timed_fit
from benchmarks.photometry_real import read_field
from benchmarks.photometry_sbc import simulated_galaxies
from hbm.catalog import Catalog
from hbm.config import InterimPrior, ModelConfig
from hbm.galaxies import DataBuilder
from hbm.sampler import SamplerConfig
from sed.io import load_grid
from sed.ssp import SSPGrid

BANDS = (
    "galex_NUV", "sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0", "twomass_J", "twomass_H",
    "twomass_Ks", "spitzer_irac_ch1", "spitzer_irac_ch2",
)  # fmt: skip
SECONDS_GOAL, PER_MINUTE_GOAL = 5.0, 60.0
SEED = 21


def speed(
    catalog: Catalog, config: ModelConfig, sampler: SamplerConfig, grid: SSPGrid, n: int, n_single: int
) -> dict[str, Any]:
    """Time parts (a) and (b)."""
    result: dict[str, Any] = {}
    if n_single > 0:
        pairs = [row for row in range(n_single) for _ in range(2)]
        fits, seconds = timed_fit(repeated(catalog, pairs), 1, config, sampler, grid, SEED)
        verdicts = [fit.convergence for fit in fits[1::2]]
        warm = seconds[1::2]
        rows = [
            [catalog.id[i], f"{first:.1f}", f"{s:.1f}", f"{v.ess_bulk_min:.0f}", f"{v.rhat_max:.4f}", v.flag]
            for i, (first, s, v) in enumerate(zip(seconds[::2], warm, verdicts, strict=True))
        ]
        print_table(["one galaxy", "first s", "second s", "bulk ESS", "R-hat", "flag"], rows)
        result["single"] = {
            "cold_s": seconds[0],
            "warm_s": warm,
            "warm_median_s": float(np.median(warm)),
            "ess_bulk_min": [v.ess_bulk_min for v in verdicts],
            "rhat_max": [v.rhat_max for v in verdicts],
            "converged": [v.converged for v in verdicts],
            "passed": bool(np.median(warm) <= SECONDS_GOAL and all(v.converged for v in verdicts)),
        }
    if n > 0:
        rows_two = [row % len(catalog) for row in range(2 * n)]
        fits, seconds = timed_fit(repeated(catalog, rows_two), n, config, sampler, grid, SEED)
        converged = [np.mean([fit.convergence.converged for fit in part]) for part in (fits[:n], fits[n:])]
        rate = [60 * n / s for s in seconds]
        table = [
            [name, n, f"{s:.1f}", f"{r:.0f}", f"{c:.0%}"]
            for name, s, r, c in zip(("cold", "warm"), seconds, rate, converged, strict=True)
        ]
        print_table(["batch", "galaxies", "s", "per minute", "converged"], table)
        result["batch"] = {
            "n": n,
            "cold_s": seconds[0],
            "warm_s": seconds[1],
            "cold_per_minute": rate[0],
            "warm_per_minute": rate[1],
            "fraction_converged": [float(c) for c in converged],
            "passed": bool(rate[1] >= PER_MINUTE_GOAL),
        }
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="galaxies of part (b); 0 leaves it out")
    parser.add_argument("--single", type=int, default=5, help="galaxies of part (a); 0 leaves it out")
    parser.add_argument("--prospector", type=int, default=3, help="galaxies of part (c); 0 leaves it out")
    parser.add_argument(
        "--prospector-only", type=int, default=0, metavar="K", help="part (c) alone, K galaxies"
    )
    parser.add_argument("--data", type=Path, default=None, help="folder of 3D-HST")
    parser.add_argument("--n-live", type=int, default=500, help="live points of nautilus")
    parser.add_argument("--n-point", type=int, default=400_000, help="points of the importance sampling")
    parser.add_argument("--n-call", type=int, default=2000, help="spectra of Prospector per galaxy")
    parser.add_argument(
        "--draws", type=int, default=None, help="draws per chain; the sampler's default without it"
    )
    parser.add_argument("--warmup", type=int, default=None, help="steps of warm-up; likewise")
    args = parser.parse_args(argv)
    n_compare = args.prospector_only or args.prospector
    if n_compare and not os.environ.get("SPS_HOME"):
        raise SystemExit("part (c) needs SPS_HOME, the folder of FSPS's data; --prospector 0 leaves it out.")
    config = ModelConfig(igm="madau")  # FSPS has no other
    sampler = SamplerConfig()
    sampler = sampler._replace(
        n_draw=sampler.n_draw if args.draws is None else args.draws,
        n_warmup=sampler.n_warmup if args.warmup is None else args.warmup,
    )
    grid = load_grid()
    n_drawn = max(args.n, args.single, n_compare)
    if args.data is None:
        config = dataclasses.replace(config, prior=InterimPrior(logmass=(9.0, 11.5)))
        catalog = simulated_galaxies(DataBuilder(grid, config, BANDS), n_drawn, SEED).catalog
    else:
        catalog = read_field(args.data, "COSMOS", n_drawn, SEED).catalog
    result: dict[str, Any] = {}
    if not args.prospector_only:
        result = speed(catalog, config, sampler, grid, args.n, args.single)
    if n_compare:
        result["prospector"] = compare_with_prospector(
            catalog, n_compare, config, sampler, grid, SEED,
            n_live=args.n_live, n_point=args.n_point, n_call=args.n_call,
        )  # fmt: skip
    result["data"] = "simulated" if args.data is None else "3D-HST COSMOS"
    result["n_band"] = len(catalog.filter_names)
    settings = {
        "bands": catalog.filter_names, "config": json.loads(config.to_json()),
        "sampler": sampler._asdict(), "seed": SEED,
        "goals": {"single_s": SECONDS_GOAL, "per_minute": PER_MINUTE_GOAL},
        "compilation_cache": jax.config.jax_compilation_cache_dir,
    }  # fmt: skip
    write_result("photometry_prospector" if args.prospector_only else "photometry_fit", settings, result)


if __name__ == "__main__":
    main()
