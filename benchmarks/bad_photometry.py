"""`hbm check` on simulated galaxies of which a known part has corrupted photometry.

The galaxies are those of `benchmarks.joint_fit` (five bands, a median flux over error of 20, a stamp each).
Each is of one kind, a fifth of each kind:

- good: as it is;
- shred: a part of the light lost in all bands, uniform in 0.3 to 0.8;
- swap: fluxes of another galaxy at the same redshift;
- band: one band brighter or fainter by 0.5 mag;
- blend: another galaxy at the same redshift added, with 0.3 to 1.5 of the r flux, uniform in the logarithm.

Noise is drawn anew for the corrupted model fluxes, with the errors of the catalogue. Photometry alone is
fitted, `hbm.check` compares with the images. For each kind and statistic: the area under the ROC curve
(AUC), good against that kind, 0.5 being chance, with the chi-square of a photometry-only fit beside it. How
many are called bad (odds above 1), and as that kind. And of good galaxies, whether p-values are uniform, and
how many have B < 0.1: a tenth at most, if the likelihoods are right.

    python -m benchmarks.bad_photometry [--model sdss-griz] [--n 100] [--cores 2] [--minutes 9]

It begins nothing new after --minutes and goes on where it was when called again; --fresh discards results.
The figure of the ROC curves is results/bad_photometry.png. The last line of its output is JSON.
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kstest, mannwhitneyu

from benchmarks._batches import BatchCache, keep_compiled_programs
from benchmarks._common import RESULTS, print_table, write_result

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
KINDS = ("good", "shred", "swap", "band", "blend")
SEED = 31
N_MOCK = 200
"""As `benchmarks.joint_fit` by default, whose image statistics are then used."""
PIECE = 16
LOST, ADDED, OFFSET = (0.3, 0.8), (0.3, 1.5), 0.5
STATISTICS = {
    "chi2": "chi-square of photometry",
    "corrupted_photometry": "odds, photometry alone",
    "corrupted": "odds, with the image",
    "own_kind": "odds of that kind",
    "same": "one galaxy against two",
    "p_photometry": "p given the image",
    "p_band": "smallest p of a band",
}
"""Statistics, larger where more suspicious, and what they are called."""


def corrupt(
    model: np.ndarray, err: np.ndarray, zred: np.ndarray, floor: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Measured fluxes (maggies), a fifth of the galaxies of each kind, and the number of the kind of each."""
    rng = np.random.default_rng(seed)
    n, n_band = model.shape
    kind = np.arange(n) % len(KINDS)
    wrong = model.copy()
    for i in range(n):
        others = np.flatnonzero((zred == zred[i]) & (np.arange(n) != i))
        other = model[rng.choice(others)]
        name = KINDS[kind[i]]
        if name == "shred":
            wrong[i] = model[i] * (1 - rng.uniform(*LOST))
        elif name == "swap":
            wrong[i] = other
        elif name == "band":
            wrong[i, rng.integers(n_band)] *= 10 ** (-0.4 * OFFSET * rng.choice([-1, 1]))
        elif name == "blend":
            middle = BANDS.index("sdss_r0")
            wrong[i] += other * model[i, middle] / other[middle] * np.exp(rng.uniform(*np.log(ADDED)))
    return rng.normal(wrong, np.sqrt(err**2 + (floor * wrong) ** 2)), kind


def numbers(found: Any) -> dict[str, float]:
    """What is kept of one check; suspicion rises with each."""
    import hbm.consistency as consistency

    p_band = np.nanmin(found.p_band)
    kinds = np.array(list(found.log_kind_photometry.values()))
    return {
        "chi2": found.chi2,
        "corrupted_photometry": float(np.logaddexp.reduce(kinds)),
        "corrupted": found.log_corrupted,
        "error": found.log_corrupted_error,
        "same": -found.log_bayes_same,
        "same_error": found.log_bayes_same_error,
        "p_photometry": -found.p_photometry,
        "p_band": -float(1 - (1 - p_band) ** found.n_band),
        "ess": found.ess,
        **{f"kind_{name}": found.log_kind[name] for name in consistency.KINDS},
    }


def auc(bad: np.ndarray, good: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve and its standard error (Hanley & McNeil 1982, Radiology 143, 29)."""
    area = float(mannwhitneyu(bad, good).statistic) / (len(bad) * len(good))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    a2 = area**2
    variance = area * (1 - area) + (len(bad) - 1) * (q1 - a2) + (len(good) - 1) * (q2 - a2)
    return area, float(np.sqrt(max(variance, 0.0) / (len(bad) * len(good))))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="sdss-griz")
    parser.add_argument("--n", type=int, default=100, help=f"galaxies, at most {N_MOCK}")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="to divide the galaxies over")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing new after these")
    parser.add_argument("--fresh", action="store_true", help="discard what is done")
    args = parser.parse_args(argv)
    if not 2 * len(KINDS) <= args.n <= N_MOCK:
        parser.error(f"--n must be from {2 * len(KINDS)} to {N_MOCK}, got {args.n}")
    from hbm.devices import use_cpu_cores

    if args.cores > 1:
        use_cpu_cores(args.cores)
    keep_compiled_programs()
    import hbm
    from hbm.consistency import Checker
    from hbm.image import load_image_likelihood
    from sed.io import load_grid

    likelihood, grid = load_image_likelihood(args.model), load_grid()
    config, sampler = hbm.image_config(hbm.ModelConfig(), likelihood), hbm.SamplerConfig()
    settings = {
        "model": args.model, "hash": likelihood.hash, "seed": SEED, "bands": BANDS, "lost": LOST,
        "added": ADDED, "offset": OFFSET,
        "config": json.loads(config.to_json()), "sampler": sampler._asdict(),
    }  # fmt: skip
    cache = BatchCache("bad_photometry", settings, fresh=args.fresh)
    catalog, truth, statistics = survey(cache, args.model, config, grid)
    flux, kind = corrupt(truth, catalog.flux_err, catalog.zred, float(config.error_floor), SEED)
    catalog = dataclasses.replace(catalog, flux=flux)
    rows = np.arange(args.n)
    fits = cache.folder / "fits"
    for first in range(0, args.n, PIECE):
        part = [i for i in rows[first : first + PIECE] if not _path(fits, catalog.id[i]).is_file()]
        if part and time.perf_counter() - start < 60 * args.minutes:
            some = hbm.with_images(catalog, statistics, likelihood).select(part)
            begin = time.perf_counter(), time.process_time()
            hbm.fit(
                some, config=config, sampler=sampler, grid=grid, seed=SEED, use=("photometry",), outdir=fits
            )
            took = time.perf_counter() - begin[0], time.process_time() - begin[1]
            print(f"fitted {first} to {part[-1]}: {took[0]:.0f} s, {took[1]:.0f} core-seconds", flush=True)
    done = [i for i in rows if _path(fits, catalog.id[i]).is_file()]
    results = [hbm.load_result(_path(fits, catalog.id[i])) for i in done]
    if results:
        checker = Checker(results, statistics, likelihood, grid=grid, seed=SEED)
        for i in done:
            name = f"check_{i}"
            if cache.get(name) is None and time.perf_counter() - start < 60 * args.minutes:
                begin = time.perf_counter(), time.process_time()
                found = numbers(checker(catalog.id[i])[0])
                took = time.perf_counter() - begin[0], time.process_time() - begin[1]
                cache.put(name, found | {"wall_s": took[0], "core_s": took[1]})
                print(f"checked {i}, {KINDS[kind[i]]}: {took[1]:.1f} core-seconds", flush=True)
    checked = {i: found for i in rows if (found := cache.get(f"check_{i}")) is not None}
    report(checked, kind, settings | {"n": args.n}, complete=len(checked) == args.n)


def survey(cache: BatchCache, model: str, config: Any, grid: Any) -> tuple[Any, np.ndarray, Path]:
    """Simulated galaxies, their true fluxes in maggies, and the statistics of their images."""
    from generative.release import load, model_path
    from generative.summaries import compile_file, stamps_hash
    from hbm.catalog import Catalog
    from hbm.galaxies import DataBuilder

    stored = cache.get("survey")
    if stored is None or not Path(str(stored["statistics"])).is_file():
        from benchmarks._joint import mock_survey

        mock = mock_survey(DataBuilder(grid, config, BANDS), load(model), N_MOCK, SEED)
        file = RESULTS / ".cache" / "joint_fit" / f"{model}-{stamps_hash(mock.stamps)[:12]}.h5"
        if not file.is_file():
            compile_file(load(model), model_path(model), mock.stamps, file)
        stored = cache.put(
            "survey",
            {
                "id": np.asarray(mock.catalog.id), "zred": mock.catalog.zred, "flux": mock.catalog.flux,
                "flux_err": mock.catalog.flux_err, "truth": mock.truth["flux"], "statistics": str(file),
            },
        )  # fmt: skip
    shape = stored["flux"].shape
    catalog = Catalog(
        id=tuple(str(name) for name in stored["id"]), zred=stored["zred"], zred_err=np.zeros(shape[0]),
        flux=stored["flux"], flux_err=stored["flux_err"], observed=np.ones(shape, bool),
        upper_limit=np.zeros(shape, bool), filter_names=BANDS,
    )  # fmt: skip
    return catalog, stored["truth"], Path(str(stored["statistics"]))


def _path(folder: Path, name: str) -> Path:
    from hbm.results import result_path

    return result_path(folder, name)


def report(
    checked: dict[int, dict[str, np.ndarray]], kind: np.ndarray, settings: dict[str, Any], *, complete: bool
) -> None:
    """Print areas under the curves, draw the curves, and write it all if nothing is missing."""
    of = {i: KINDS[kind[i]] for i in checked}
    value = {name: np.array([float(one[name]) for one in checked.values() if name in one]) for name in
             (next(iter(checked.values())) if checked else {}) if name != "code"}  # fmt: skip
    is_kind = {name: np.array([of[i] == name for i in checked], bool) for name in KINDS}
    result: dict[str, Any] = {"complete": complete, "n": len(checked), "load": os.getloadavg()[0]}
    if checked and all(is_kind[name].sum() >= 2 for name in KINDS):
        result["auc"] = {}
        for statistic in STATISTICS:
            for name in KINDS[1:]:
                column = value[f"kind_{name}" if statistic == "own_kind" else statistic]
                area = auc(column[is_kind[name]], column[is_kind["good"]])
                result["auc"].setdefault(statistic, {})[name] = area
        print_table(
            ["AUC", *KINDS[1:]],
            [
                [STATISTICS[s], *(f"{a:.2f} +- {e:.2f}" for a, e in by_kind.values())]
                for s, by_kind in result["auc"].items()
            ],
        )
        good, p = is_kind["good"], -value["p_photometry"]
        kinds = ("swap", "shred", "blend", "band")
        most = np.array(kinds)[np.argmax([value[f"kind_{name}"] for name in kinds], axis=0)]
        flagged = value["corrupted"] > 0  # even odds before the data
        result |= {
            "good": {
                "p_photometry_ks_p": float(kstest(p[good], "uniform").pvalue),
                "b_below_0.1": float(np.mean(value["same"][good] > np.log(10))),
                "called_bad": float(np.mean(flagged[good])),
                "log_bayes_same": float(-value["same"][good].mean()),
            },
            "called": {
                name: {
                    "bad": float(np.mean(flagged[is_kind[name]])),
                    "that_kind": float(np.mean(flagged[is_kind[name]] & (most[is_kind[name]] == name))),
                }
                for name in KINDS[1:]
            },
            "median_error": float(np.median(value["error"])),
            "error_above_1": float(np.mean(value["error"] > 1)),
            "check_core_s": float(np.median(value["core_s"])),
        }
        print(json.dumps(result["called"]), json.dumps(result["good"]))
        draw(value, is_kind, RESULTS / "bad_photometry.png")
    if complete:
        write_result("bad_photometry", settings, result)
    else:
        print("not complete: call it again to go on")
        print(json.dumps(result))


def draw(value: dict[str, np.ndarray], is_kind: dict[str, np.ndarray], path: Path) -> None:
    """ROC curves of each kind."""
    from matplotlib.figure import Figure

    from hbm.plots.style import style

    shown = {"chi2": "#777777", "corrupted_photometry": "#e69f00", "corrupted": "#1f6f9f", "same": "#b0568f"}
    with style():
        figure = Figure(figsize=(13, 3.7), layout="constrained")
        for axis, name in zip(figure.subplots(1, 4, sharey=True), KINDS[1:], strict=True):
            for statistic, colour in shown.items():
                bad, good = value[statistic][is_kind[name]], value[statistic][is_kind["good"]]
                limits = np.sort(np.concatenate([bad, good]))[::-1]
                found = [np.concatenate([[0.0], [np.mean(x >= t) for t in limits]]) for x in (good, bad)]
                axis.plot(*found, color=colour, label=STATISTICS[statistic])
            axis.plot([0, 1], [0, 1], color="0.8", linewidth=0.8, zorder=0)
            axis.set(title=name, xlabel="good ones called bad", aspect="equal", xlim=(0, 1), ylim=(0, 1.01))
        figure.axes[0].set_ylabel("found")
        figure.axes[-1].legend(loc="lower right", fontsize=9)
        figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
