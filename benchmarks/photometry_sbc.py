"""Are posteriors of photometric fits calibrated? Ranks of the truth for galaxies drawn from the prior.

Redshifts are one of eight values, log10 masses 9 to 11.5, fluxes in ten bands with the model error of 5 % and
with errors of 1/60 to 1/10 of the median flux of the prior at that redshift: errors proportional to the flux
drawn would tell the fit, which does not use it, what that flux was, and ranks would not be exactly uniform.
All galaxies count, also those whose chains did not converge.

    python -m benchmarks.photometry_sbc --n 300

Goal: Kolmogorov-Smirnov p-values of all quantities above 0.01 divided by their number. Finished batches are
kept in results/.cache and not run again; --fresh discards them.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

import hbm
from benchmarks._batches import BatchCache, code_digest, keep_compiled_programs
from benchmarks._common import RESULTS, print_table, write_result
from hbm.catalog import Catalog
from hbm.config import InterimPrior, ModelConfig
from hbm.galaxies import DataBuilder
from hbm.sampler import SamplerConfig
from hbm.sbc import Calibration, Simulation, calibrate, prior_flux, simulate, thinned_rank, value_of
from sed.io import load_grid

BANDS = (
    "sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0", "twomass_J", "twomass_H", "twomass_Ks",
    "spitzer_irac_ch1", "spitzer_irac_ch2",
)  # fmt: skip
REDSHIFTS = (0.2, 0.35, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5)
SIGNAL_TO_NOISE = (10.0, 60.0)
"""Range, uniform in the logarithm, of the median flux of the prior over the error of a galaxy's bands."""
QUANTITIES = (
    "logmass", "logssfr", "logsfr_ratio_recent", *(f"logsfr_ratios[{i}]" for i in range(4)), "logzsol",
    "dust2", "dust1_fraction", "dust_index", "gas_logu", "mwa", "logsfr_100", "logmstar",
)  # fmt: skip
LEVELS = (0.68, 0.95)
N_RANK = 99
"""Posterior draws among which a truth is ranked."""
_N_BIN = 20


def simulated_galaxies(builder: DataBuilder, n: int, seed: int) -> Simulation:
    """Galaxies of the prior; the first ones do not depend on how many there are."""
    rng = np.random.default_rng(seed)
    low, high = np.log(SIGNAL_TO_NOISE)
    choice = rng.uniform(size=(n, 2))
    which = (choice[:, 0] * len(REDSHIFTS)).astype(int)
    ratio = np.exp(low + choice[:, 1] * (high - low))
    typical = np.stack([prior_flux(builder, zred) for zred in REDSHIFTS])
    return simulate(builder, np.array(REDSHIFTS)[which], typical[which] / ratio[:, None], seed=seed)


def fit_batch(
    catalog: Catalog,
    truth: dict[str, np.ndarray],
    first: int,
    config: ModelConfig,
    sampler: SamplerConfig,
    seed: int,
) -> dict[str, Any]:
    """Ranks and diagnostics of some galaxies."""
    start = time.perf_counter()
    results = hbm.fit(catalog, config=config, sampler=sampler, seed=seed, batch_size=len(catalog))
    rng = np.random.default_rng((seed, first))
    ranks = [
        [thinned_rank(r.draws(name), value_of(truth, name, first + i), N_RANK, rng) for name in QUANTITIES]
        for i, r in enumerate(results)
    ]
    verdicts = [r.convergence for r in results]
    return {
        "rank": ranks,
        "converged": [v.converged for v in verdicts],
        "rhat": [v.rhat_max for v in verdicts],
        "ess": [v.ess_bulk_min for v in verdicts],
        "flag": [v.flag for v in verdicts],
        "seconds": time.perf_counter() - start,
    }


def figure(results: dict[str, Calibration], n_galaxy: int) -> None:
    """Histograms of ranks with the 99 % range of a binomial distribution."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    n_column = 5
    n_row = -(-len(results) // n_column)
    plot, axes = plt.subplots(n_row, n_column, figsize=(13, 2.3 * n_row), sharex=True, sharey=True)
    low, high = scipy.stats.binom.interval(0.99, n_galaxy, 1 / _N_BIN)
    for axis, (name, result) in zip(axes.flat, results.items(), strict=False):
        axis.axhspan(low, high, color="0.88", lw=0)
        axis.axhline(n_galaxy / _N_BIN, color="0.5", lw=0.8)
        axis.stairs(result.histogram, np.linspace(0, 1, _N_BIN + 1), color="C0", lw=1.4)
        axis.set_title(f"{name}\nKS p = {result.ks_p:.2g}, chi2 p = {result.chi2_p:.2g}", fontsize=8)
    for axis in axes.flat[len(results) :]:
        axis.set_axis_off()
    plot.supxlabel("rank of the truth among posterior draws (fraction)", fontsize=10)
    plot.supylabel("galaxies", fontsize=10)
    plot.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    plot.savefig(RESULTS / "photometry_sbc.png", dpi=110)
    plt.close(plot)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=300, help="galaxies")
    parser.add_argument("--batch", type=int, default=100, help="galaxies fitted and kept together")
    parser.add_argument(
        "--draws", type=int, default=None, help="draws per chain; the sampler's default without it"
    )
    parser.add_argument("--warmup", type=int, default=None, help="steps of warm-up; likewise")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--fresh", action="store_true", help="discard finished batches")
    args = parser.parse_args(argv)
    config = ModelConfig(prior=InterimPrior(logmass=(9.0, 11.5)))
    sampler = SamplerConfig()
    sampler = sampler._replace(
        n_draw=sampler.n_draw if args.draws is None else args.draws,
        n_warmup=sampler.n_warmup if args.warmup is None else args.warmup,
    )
    settings = {
        "bands": BANDS, "redshifts": REDSHIFTS, "signal_to_noise": SIGNAL_TO_NOISE, "seed": args.seed,
        "batch": args.batch, "config": json.loads(config.to_json()), "sampler": sampler._asdict(),
        "n_rank": N_RANK, "quantities": QUANTITIES,
    }  # fmt: skip
    keep_compiled_programs()
    cache = BatchCache("photometry_sbc", settings, fresh=args.fresh)
    n_batch = -(-args.n // args.batch)
    simulation = simulated_galaxies(DataBuilder(load_grid(), config, BANDS), n_batch * args.batch, args.seed)
    parts = []
    for i in range(n_batch):
        part, first = cache.get(f"batch{i:03d}"), i * args.batch
        if part is None:
            some = simulation.catalog.select(slice(first, first + args.batch))
            part = cache.put(
                f"batch{i:03d}", fit_batch(some, simulation.truth, first, config, sampler, args.seed + i)
            )
        parts.append(part)
        print(
            f"batch {i + 1}/{n_batch}: {part['seconds']:.0f} s, {np.mean(part['converged']):.0%} converged",
            flush=True,
        )
    report(parts, args.n, settings)


def report(parts: list[dict[str, np.ndarray]], n: int, settings: dict[str, Any]) -> None:
    """Calibration of every quantity: table, figure, JSON."""
    together = {
        name: np.concatenate([part[name] for part in parts])[:n]
        for name in ("rank", "converged", "rhat", "ess", "flag")
    }
    results = {
        name: calibrate(together["rank"][:, k], N_RANK, n_bin=_N_BIN, levels=LEVELS, seed=k)
        for k, name in enumerate(QUANTITIES)
    }
    rows = [
        [name, f"{r.chi2_p:.3f}", f"{r.ks:.3f}", f"{r.ks_p:.3f}", *(f"{c:.3f}" for c in r.coverage)]
        for name, r in results.items()
    ]
    print_table(["quantity", "chi2 p", "KS", "KS p", *(f"in {level:.0%}" for level in LEVELS)], rows)
    spread = [np.sqrt(level * (1 - level) / n) for level in LEVELS]
    print("binomial 1 sigma of the coverage:", *(f"{s:.3f}" for s in spread))
    n_converged = int(np.sum(together["converged"]))
    print(
        f"converged: {n_converged} of {n}; median of the smallest bulk ESS {np.median(together['ess']):.0f}"
    )
    figure(results, n)
    limit = 0.01 / len(QUANTITIES)
    smallest = min(r.ks_p for r in results.values())
    print(f"goal KS p > {limit:.1e}: {'PASS' if smallest > limit else 'FAIL'} ({smallest:.2g})")
    flags, count = np.unique(together["flag"], return_counts=True)
    codes = sorted({str(part["code"]) for part in parts})
    if codes != [code_digest()]:
        print("warning: batches were made by other code; --fresh runs all again:", *codes)
    write_result(
        "photometry_sbc",
        settings | {"n": n, "levels": LEVELS},
        {
            "quantities": {
                name: r._asdict() | {"histogram": r.histogram.tolist()} for name, r in results.items()
            },
            "fraction_converged": n_converged / n,
            "flags": dict(zip(flags.tolist(), count.tolist(), strict=True)),
            "ess_bulk_min_median": float(np.median(together["ess"])),
            "fit_seconds": float(sum(part["seconds"] for part in parts)),
            "code": codes,
            "smallest_ks_p": smallest,
            "passed": bool(smallest > limit),
        },
    )


if __name__ == "__main__":
    main()
