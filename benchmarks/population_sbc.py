"""Are posteriors of hyperparameters calibrated? Ranks of the truth over many small mock surveys.

Each survey draws hyperparameters from their hyperpriors, then galaxies until so many have a measured log
mass above a limit, and draws from every galaxy's posterior under the interim prior (`hbm.population.mock`;
no fluxes). `fit_population` reweights these with the selection. The rank of each true hyperparameter among
thinned draws must be uniform (Talts et al. 2018, arXiv:1804.06788).

    python -m benchmarks.population_sbc --n 100                  # mass function and metallicities
    python -m benchmarks.population_sbc --n 100 --relations all  # all five relations

All surveys have the same shapes: programs are compiled once. Finished surveys are kept in results/.cache and
not run again; no survey begins after --minutes, and a later call goes on. The last line is JSON.

Goal: Kolmogorov-Smirnov p-values of all hyperparameters above 0.01 divided by their number, over all surveys,
flagged or not. Those that are not flagged need not be uniform: flags depend on the data, and so on the truth.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpyro import handlers

from benchmarks._batches import BatchCache, keep_compiled_programs
from benchmarks._common import print_table, write_result
from hbm.population import (
    MassMetallicity,
    Population,
    Schechter,
    default_population,
    fit_population,
    selection_by,
)
from hbm.population.detection import property_limit
from hbm.population.mock import ERROR, LIMIT, PRIOR, mock_survey
from hbm.sbc import Calibration, calibrate, thinned_rank

LEVELS = (0.68, 0.95)
N_RANK = 99
"""Draws among which a truth is ranked."""
_N_BIN = 10
_LENGTHS: dict[str, Any] = {"n_warmup": 150, "n_draw": 300, "n_chain": 2}
_N_SELECTION = 2000


def population_of(relations: str) -> Population:
    """Relations by the name of their choice."""
    if relations == "all":
        return default_population(PRIOR)
    return Population((Schechter(*PRIOR.logmass), MassMetallicity(*PRIOR.logzsol)))


def one_survey(population: Population, index: int, n: int, n_draw: int, seed: int) -> dict[str, Any]:
    """Ranks and diagnostics of one mock survey."""
    start, cpu = time.perf_counter(), time.process_time()
    key = jax.random.fold_in(jax.random.key(seed), index)
    drawn = handlers.seed(population.sample, key)()
    truth = {name: float(value) for name, value in drawn.items()}
    number = seed * 100_000 + index
    survey = mock_survey(population, truth, n, n_draw=n_draw, seed=number)
    age = np.asarray(survey.draws.properties["age_universe"])[0, :1]
    selection = selection_by(
        property_limit("logmass", LIMIT, ERROR["logmass"]), age, PRIOR, population, depends=("logmass",),
        n_draw=_N_SELECTION, seed=number,
    )  # fmt: skip
    found = fit_population(survey.draws, population, selection=selection, seed=number, **_LENGTHS)
    rng = np.random.default_rng((seed, index))
    by_chain = found.idata.posterior
    draws = {name: found.draws(name) for name in truth}
    return {
        "rank": [thinned_rank(by_chain[name].values, truth[name], N_RANK, rng) for name in truth],
        "z": [(draws[name].mean() - truth[name]) / draws[name].std() for name in truth],
        "sd": [draws[name].std() for name in truth],
        "truth": list(truth.values()),
        "name": list(truth),
        "flag": found.flag,
        "variance": found.variance,
        "detected": float(np.exp(found.draws("log_detected").mean())),
        "wall_s": time.perf_counter() - start,
        "core_s": time.process_time() - cpu,
    }


def tabulated(parts: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Calibration of every hyperparameter over some surveys, printed."""
    names = [str(name) for name in parts[0]["name"]]
    rank, z = (np.stack([part[key] for part in parts]) for key in ("rank", "z"))
    results: dict[str, Calibration] = {
        name: calibrate(rank[:, k], N_RANK, n_bin=_N_BIN, levels=LEVELS, seed=k)
        for k, name in enumerate(names)
    }
    rows = [
        [
            name, f"{r.chi2_p:.3f}", f"{r.ks:.3f}", f"{r.ks_p:.3f}", *(f"{c:.2f}" for c in r.coverage),
            f"{z[:, k].mean():+.2f}", f"{z[:, k].std():.2f}",
        ]
        for k, (name, r) in enumerate(results.items())
    ]  # fmt: skip
    heads = [
        "hyperparameter",
        "chi2 p",
        "KS",
        "KS p",
        *(f"in {level:.0%}" for level in LEVELS),
        "mean z",
        "sd z",
    ]
    print_table(heads, rows)
    n = len(parts)
    print(
        f"{n} surveys; 1 sigma of coverage:",
        *(f"{np.sqrt(level * (1 - level) / n):.3f}" for level in LEVELS),
        f"and of mean z: {1 / np.sqrt(n):.2f}",
    )
    return {
        name: r._asdict()
        | {"histogram": r.histogram.tolist(), "z_mean": float(z[:, k].mean()), "z_sd": float(z[:, k].std())}
        for k, (name, r) in enumerate(results.items())
    }


def report(parts: list[dict[str, np.ndarray]], settings: dict[str, Any], n: int) -> None:
    """Tables, and the JSON if nothing is missing."""
    if not parts:
        print("no survey is done")
        return
    flags = [str(part["flag"]) for part in parts]
    every = tabulated(parts)
    # Chains are short here, on purpose: what they are flagged for alone does not count.
    good = [p for p, flag in zip(parts, flags, strict=True) if set(flag.split(",")) <= {"ok", "rhat", "ess"}]
    each = {flag: flags.count(flag) for flag in sorted(set(flags))}
    print(f"flags: {each}; without a flag other than of short chains: {len(good)}")
    unflagged = tabulated(good) if 20 <= len(good) < len(parts) else {}
    limit = 0.01 / len(every)
    smallest = min(value["ks_p"] for value in every.values())
    seconds = {key: float(np.median([part[key] for part in parts])) for key in ("wall_s", "core_s")}
    print(f"a survey: {seconds['wall_s']:.1f} s, {seconds['core_s']:.1f} core-seconds (medians)")
    print(f"goal KS p > {limit:.1e}: {'PASS' if smallest > limit else 'FAIL'} ({smallest:.2g})")
    result = {
        "complete": len(parts) >= n, "surveys": len(parts), "hyperparameters": every, "unflagged": unflagged,
        "n_unflagged": len(good), "flags": each, "smallest_ks_p": smallest, "passed": bool(smallest > limit),
        "variance_median": float(np.median([part["variance"] for part in parts])),
        "code": sorted({str(part["code"]) for part in parts}), **seconds,
    }  # fmt: skip
    if result["complete"]:
        name = "population_sbc" if settings["relations"] == "example" else "population_sbc_all"
        write_result(name, settings, result)
    else:
        print(f"not complete ({len(parts)} of {n}): call it again to go on")
        print(json.dumps(result))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="surveys")
    parser.add_argument("--galaxies", type=int, default=60, help="measured in each")
    parser.add_argument("--draws", type=int, default=150, help="of each galaxy")
    parser.add_argument("--relations", choices=("example", "all"), default="example")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no survey after these")
    parser.add_argument("--fresh", action="store_true", help="discard what is done")
    args = parser.parse_args(argv)
    keep_compiled_programs()
    settings = {
        "galaxies": args.galaxies, "draws": args.draws, "relations": args.relations, "seed": args.seed,
        "limit": LIMIT, "error": ERROR, "n_selection": _N_SELECTION, "n_rank": N_RANK, **_LENGTHS,
    }  # fmt: skip
    cache = BatchCache("population_sbc", settings, fresh=args.fresh)
    population = population_of(args.relations)
    parts = []
    for index in range(args.n):
        name = f"survey{index:04d}"
        part = cache.get(name)
        if part is None:
            if time.perf_counter() - start > 60 * args.minutes:
                continue
            part = cache.put(name, one_survey(population, index, args.galaxies, args.draws, args.seed))
            print(
                f"{name}: {float(part['wall_s']):.0f} s, {float(part['core_s']):.0f} core-seconds, "
                f"{part['flag']}, variance {float(part['variance']):.2f}, "
                f"detected {float(part['detected']):.2g}",
                flush=True,
            )
        parts.append(part)
    report(parts, settings, args.n)


if __name__ == "__main__":
    main()
