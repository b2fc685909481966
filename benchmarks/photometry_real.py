"""Fit real galaxies, of 3D-HST: convergence, fit to the data, masses and star formation rates of others.

Galaxies of the COSMOS and AEGIS fields (Skelton et al. 2014) with ``use_phot`` = 1 below redshift 2.5 are
chosen by a fixed seed, first those with a spectroscopic or grism redshift (Momcheva et al. 2016). Compared
are

- the data with the posterior: the p-value of a galaxy is the posterior mean of the probability that new data
  of the same model have a chi-square (error and model error in quadrature) above that of the data;
- log10 surviving mass with that of FAST (delayed exponentials, no lines, Chabrier);
- log10 SFR over 100 Myr with the SFR from ultraviolet and 24 micron light, where the latter is detected at
  3 sigma and was measured at the same redshift.

Bias is the median difference, scatter 1.48 times the median absolute deviation from it, outliers are beyond
0.5 dex.

    python -m benchmarks.photometry_real --n 200 --data FOLDER [--time-limit 3000]

Finished batches are kept in results/.cache and not run again; --fresh discards them.
"""

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from astropy.table import Table
from jaxtyping import Float

import hbm
from benchmarks._batches import BatchCache, code_digest, keep_compiled_programs
from benchmarks._common import RESULTS, print_table, write_result
from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.results import FitResult
from hbm.sampler import SamplerConfig

FIELDS = {"COSMOS": "3dhst_cosmos", "AEGIS": "3dhst_aegis"}
"""Presets of the fields' catalogues."""
ZRED_MAX = 2.5
OUTLIER_DEX = 0.5
_QUANTILES = (0.16, 0.5, 0.84)


class Field(NamedTuple):
    """Galaxies chosen in one field and what others measured, NaN where there is nothing to compare with."""

    catalog: Catalog
    """Photometry."""
    lmass: Float[np.ndarray, " galaxy"]
    """log10 mass of FAST, Msun."""
    logsfr: Float[np.ndarray, " galaxy"]
    """log10 SFR from ultraviolet and infrared light, Msun/yr."""
    z_source: Float[np.ndarray, " galaxy"]
    """1 spectroscopic, 2 grism, 3 photometric."""


class Comparison(NamedTuple):
    """Our value minus the other, dex."""

    n: int
    """Galaxies."""
    bias: float
    """Median."""
    scatter: float
    """1.48 times the median absolute deviation."""
    outliers: float
    """Fraction beyond `OUTLIER_DEX`."""


def read_field(folder: Path, field: str, n: int, seed: int) -> Field:
    """Choose galaxies of a field."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names the rows left out
        catalog = hbm.read_catalog(folder / f"{field}_td.cat", preset=FIELDS[field], on_bad="drop")
    tables = [
        Table.read(folder / f"{field}_td.{suffix}", format="ascii.commented_header")
        for suffix in ("dat", "fout")
    ]
    rows = [
        {str(i): row for row, i in enumerate(t[name])}
        for t, name in zip(tables, ("phot_id", "id"), strict=True)
    ]
    dat, fout = (t[[where[name] for name in catalog.id]] for t, where in zip(tables, rows, strict=True))
    zred = catalog.zred
    usable = (np.asarray(dat["use_phot"]) == 1) & (zred < ZRED_MAX)
    source = np.asarray(dat["z_best_s"], float)
    order = np.random.default_rng(seed).permutation(len(catalog))
    order = order[usable[order]]
    order = order[np.argsort(source[order] > 2, kind="stable")][:n]  # measured redshifts first
    lmass, sfr = (np.asarray(column, float) for column in (fout["lmass"], dat["sfr"]))
    same_z = np.abs(np.asarray(dat["z_sfr"], float) - zred) < 0.02 * (1 + zred)
    detected = (np.asarray(dat["L_IR"]) > 0) & (np.asarray(dat["f24tot"]) > 3 * np.asarray(dat["ef24tot"]))
    same_z_mass = np.abs(np.asarray(fout["z"], float) - zred) < 0.02 * (1 + zred)
    logsfr = np.log10(np.where(detected & same_z & (sfr > 0), sfr, np.nan))
    lmass = np.where((lmass > 0) & same_z_mass, lmass, np.nan)
    return Field(catalog.select(order), lmass[order], logsfr[order], source[order])


def predictive_check(result: FitResult) -> tuple[float, float, np.ndarray]:
    """Mean chi-square per band, posterior predictive p-value, standardised residual of each band.

    New fluxes of a draw are normal about its model fluxes, so that their chi-square follows the distribution
    of that name with one degree of freedom for each band, and no new fluxes need be drawn.
    """
    bands = result.bands
    use = bands.observed & ~bands.upper_limit
    model = result.predicted_flux()[:, use]
    chi = (bands.flux[use] - model) / np.hypot(bands.flux_err[use], bands.error_floor[use] * model)
    chi2 = np.sum(chi**2, axis=1)
    residual = np.full(len(use), np.nan)
    residual[use] = np.median(chi, axis=0)
    return float(np.mean(chi2) / use.sum()), float(np.mean(scipy.stats.chi2.sf(chi2, use.sum()))), residual


def fit_batch(catalog: Catalog, config: ModelConfig, sampler: SamplerConfig, seed: int) -> dict[str, Any]:
    """Numbers of some galaxies."""
    start = time.perf_counter()
    results = hbm.fit(catalog, config=config, sampler=sampler, seed=seed, batch_size=len(catalog))
    checks = [predictive_check(result) for result in results]
    verdicts = [result.convergence for result in results]
    return {
        "id": catalog.id,
        "zred": catalog.zred,
        "logmstar": [np.quantile(r.draws("logmstar"), _QUANTILES) for r in results],
        "logsfr_100": [np.quantile(r.draws("logsfr_100"), _QUANTILES) for r in results],
        "converged": [v.converged for v in verdicts],
        "rhat": [v.rhat_max for v in verdicts],
        "ess": [v.ess_bulk_min for v in verdicts],
        "flag": [v.flag for v in verdicts],
        "worst": [v.rhat_worst for v in verdicts],
        "n_band": np.sum(catalog.observed & ~catalog.upper_limit, axis=1),
        "chi2_per_band": [check[0] for check in checks],
        "p_value": [check[1] for check in checks],
        "residual": [check[2] for check in checks],
        "seconds": time.perf_counter() - start,
    }


def compare(ours: Float[np.ndarray, " galaxy"], other: Float[np.ndarray, " galaxy"]) -> Comparison:
    """Difference where both exist."""
    both = np.isfinite(ours) & np.isfinite(other)
    if not both.any():
        return Comparison(0, np.nan, np.nan, np.nan)
    delta = (ours - other)[both]
    bias = float(np.median(delta))
    scatter = 1.48 * float(np.median(np.abs(delta - bias)))
    return Comparison(int(both.sum()), bias, scatter, float(np.mean(np.abs(delta) > OUTLIER_DEX)))


def figure(data: dict[str, np.ndarray], comparisons: dict[str, Comparison]) -> None:
    """Both comparisons and the chi-squares."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plot, axes = plt.subplots(1, 3, figsize=(13, 4.2))
    panels = (
        ("logmstar", "lmass", "log M$_*$ of FAST (M$_\\odot$)", "log M$_*$ (M$_\\odot$)"),
        ("logsfr_100", "logsfr", "log SFR of UV + IR (M$_\\odot$/yr)", "log SFR, 100 Myr (M$_\\odot$/yr)"),
    )
    for axis, (name, other, xlabel, ylabel) in zip(axes, panels, strict=False):
        low, middle, high = data[name].T
        good = data["converged"].astype(bool)
        for mask, colour, label in ((good, "C0", "converged"), (~good, "C3", "not converged")):
            axis.errorbar(
                data[other][mask], middle[mask], [(middle - low)[mask], (high - middle)[mask]],
                fmt="o", ms=3, lw=0.6, color=colour, alpha=0.7, label=label,
            )  # fmt: skip
        seen = np.isfinite(data[other])
        ends = np.zeros(2)
        if seen.any():
            ends = np.array([data[other][seen].min(), data[other][seen].max()])
        axis.plot(ends, ends, color="0.3", lw=1)
        axis.fill_between(ends, ends - OUTLIER_DEX, ends + OUTLIER_DEX, color="0.9", zorder=0)
        result = comparisons[name]
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.set_title(f"n {result.n}, bias {result.bias:+.2f}, scatter {result.scatter:.2f} dex, "
                       f"outliers {result.outliers:.0%}", fontsize=9)  # fmt: skip
    axes[0].legend(fontsize=8)
    top = np.quantile(data["chi2_per_band"], 0.98)
    axes[2].hist(np.clip(data["chi2_per_band"], 0, top), bins=30, color="C0")
    axes[2].axvline(1.0, color="0.3", lw=1)
    axes[2].set(xlabel="chi-square per band, posterior mean", ylabel="galaxies")
    axes[2].set_title(f"p < 0.01: {np.mean(data['p_value'] < 0.01):.0%}", fontsize=9)
    plot.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    plot.savefig(RESULTS / "photometry_real.png", dpi=110)
    plt.close(plot)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="galaxies, half of them in each field")
    parser.add_argument("--batch", type=int, default=50, help="galaxies fitted and kept together")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/real/hst3d"), help="folder of the catalogues"
    )
    parser.add_argument(
        "--time-limit", type=float, default=np.inf, help="begin no batch after so many seconds"
    )
    parser.add_argument("--error-floor", type=float, default=ModelConfig().error_floor, help="model error")
    parser.add_argument(
        "--draws", type=int, default=None, help="draws per chain; the sampler's default without it"
    )
    parser.add_argument("--warmup", type=int, default=None, help="steps of warm-up; likewise")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--fresh", action="store_true", help="discard finished batches")
    args = parser.parse_args(argv)
    config, sampler = ModelConfig(error_floor=args.error_floor), SamplerConfig()
    sampler = sampler._replace(
        n_draw=sampler.n_draw if args.draws is None else args.draws,
        n_warmup=sampler.n_warmup if args.warmup is None else args.warmup,
    )
    settings = {
        "n": args.n, "batch": args.batch, "seed": args.seed, "fields": FIELDS, "zred_max": ZRED_MAX,
        "config": json.loads(config.to_json()), "sampler": sampler._asdict(),
    }  # fmt: skip
    keep_compiled_programs()
    cache = BatchCache("photometry_real", settings, fresh=args.fresh)
    per_field = -(-args.n // len(FIELDS))
    fields = {name: read_field(args.data, name, per_field, args.seed) for name in FIELDS}
    start, parts = time.perf_counter(), []
    for first in range(0, per_field, args.batch):  # the fields in turn, so that both have some if time is up
        for name, field in fields.items():
            rows = slice(first, first + args.batch)
            key = f"{name}_{first:04d}"
            part = cache.get(key)
            if part is None:
                if time.perf_counter() - start > args.time_limit:
                    continue
                part = cache.put(
                    key, fit_batch(field.catalog.select(rows), config, sampler, args.seed + first)
                )
            size = len(part["id"])
            others = {column: getattr(field, column)[rows] for column in ("lmass", "logsfr", "z_source")}
            parts.append(part | others | {"field": np.full(size, name)})
            share = np.mean(part["converged"])
            print(f"{key}: {size} galaxies, {part['seconds']:.0f} s, {share:.0%} converged", flush=True)
    if not parts:
        raise SystemExit("`--time-limit` left no batch: give more time.")
    report(parts, {name: field.catalog.filter_names for name, field in fields.items()}, settings)


def report(
    parts: list[dict[str, np.ndarray]], bands: dict[str, tuple[str, ...]], settings: dict[str, Any]
) -> None:
    """Numbers of all galaxies: table, figure, JSON."""
    single = ("code", "seconds", "residual")
    data = {name: np.concatenate([p[name] for p in parts]) for name in parts[0] if name not in single}
    comparisons = {
        "logmstar": compare(data["logmstar"][:, 1], data["lmass"]),
        "logsfr_100": compare(data["logsfr_100"][:, 1], data["logsfr"]),
    }
    n = len(data["id"])
    rows = []
    for name in (*bands, "all"):
        here = (data["field"] == name) | (name == "all")
        if not here.any():
            continue
        p_value = data["p_value"][here]
        measured, converged = np.mean(data["z_source"][here] < 3), data["converged"][here].mean()
        n_band, chi2 = (np.median(data[column][here]) for column in ("n_band", "chi2_per_band"))
        rows.append(
            [name, here.sum(), f"{measured:.0%}", f"{converged:.0%}", f"{n_band:.0f}", f"{chi2:.2f}",
             f"{np.median(p_value):.2f}", f"{np.mean(p_value < 0.01):.0%}"]
        )  # fmt: skip
    head = ["field", "galaxies", "measured z", "converged", "bands", "chi2/band", "median p", "p < 0.01"]
    print_table(head, rows)
    print_table(
        ["ours - other (dex)", "n", "bias", "scatter", "outliers"],
        [
            [name, c.n, f"{c.bias:+.3f}", f"{c.scatter:.3f}", f"{c.outliers:.1%}"]
            for name, c in comparisons.items()
        ],
    )
    residuals: dict[str, dict[str, float]] = {}
    for name, names in bands.items():
        some = [p["residual"] for p in parts if p["field"][0] == name]
        if some:
            together = np.concatenate(some)
            seen = np.isfinite(together).any(axis=0)
            residuals[name] = {
                band: float(np.nanmedian(together[:, k])) for k, band in enumerate(names) if seen[k]
            }
            worst = sorted(residuals[name].items(), key=lambda item: -abs(item[1]))[:5]
            print(f"{name}, largest median residuals (sigma):", *(f"{b} {v:+.2f}" for b, v in worst))
    figure(data, comparisons)
    codes = sorted({str(p["code"]) for p in parts})
    if codes != [code_digest()]:
        print("warning: batches were made by other code; --fresh runs all again:", *codes)
    flags, count = np.unique(data["flag"], return_counts=True)
    quantiles = np.quantile(data["p_value"], (0.05, 0.25, 0.5, 0.75, 0.95))
    write_result(
        "photometry_real",
        settings,
        {
            "n": n,
            "n_measured_redshift": int(np.sum(data["z_source"] < 3)),
            "fraction_converged": float(data["converged"].mean()),
            "flags": dict(zip(flags.tolist(), count.tolist(), strict=True)),
            "chi2_per_band_median": float(np.median(data["chi2_per_band"])),
            "p_value_quantiles": quantiles.tolist(),
            "fraction_p_below_0.01": float(np.mean(data["p_value"] < 0.01)),
            **{name: c._asdict() for name, c in comparisons.items()},
            "median_residual": residuals,
            "fit_seconds": float(sum(p["seconds"] for p in parts)),
            "code": codes,
        },
    )


if __name__ == "__main__":
    main()
