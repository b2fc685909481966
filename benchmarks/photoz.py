"""Photometric redshifts: bias, scatter, outliers, and whether the stated probabilities are true.

- simulated: galaxies of the prior itself, uniform in redshift, in ugriz. The truth must be at a uniform place
  of its posterior (PIT); everything else here is about models and data that differ.
- boss: SDSS ugriz and spectroscopic redshifts of BOSS DR10 (example of ANNz). Its faint u magnitudes are
  logarithmic, so that fluxes below zero are missing.
- hdfn: seven bands of the Hubble Deep Field North and its spectroscopic redshifts (example of EAZY). WFPC2's
  curves are pyphot's; J, H and K are taken for those of 2MASS.
- candels: 16 bands from U to 8 micron in GOODS-S at z = 1 (workshop catalogue). CTIO's U is taken for
  Mayall's, and HAWK-I's Ks is left out: there are no curves of those among the filters.

Redshifts run from 0.01 to the end of each survey's prior, which depends on magnitude but for the simulated
galaxies. Point estimate: the median of the heaviest mode. Offsets are (z - z_spec) / (1 + z_spec): median,
1.48 median absolute deviations (NMAD), part beyond 0.15 (outliers).

    python -m benchmarks.photoz [--data ../shared/real] [--surveys simulated boss hdfn candels] [--n 200]
                                [--minutes 9] [--fresh]

It ends after --minutes and goes on where it was when called again. It draws results/photoz.png. The last line
of its output is JSON.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks._batches import CACHE, keep_compiled_programs
from benchmarks._common import RESULTS, print_table, write_result

SEED = 11
OUTLIER = 0.15
SDSS = tuple(f"sdss_{band}0" for band in "ugriz")
SDSS_TO_AB = (-0.04, 0.0, 0.0, 0.0, 0.02)
"""mag, of SDSS's magnitudes (https://www.sdss4.org/dr17/algorithms/fluxcal/)."""
WFPC2 = ("F300W", "F450W", "F606W", "F814W")
HDFN_ZERO_POINT = 23.9
"""AB: fluxes are microjansky."""
CANDELS = {
    "CTIO_U": "mayall_mosaic_U_k1001", "VIMOS_U": "vlt_vimos_U",
    **{f"ACS_{b}": f"acs_wfc_{b.lower()}" for b in ("F435W", "F606W", "F775W", "F814W", "F850LP")},
    **{f"WFC3_{b}": f"wfc3_ir_{b.lower()}" for b in ("F098M", "F105W", "F125W", "F160W")},
    "ISAAC_KS": "vlt_isaac_Ks", **{f"IRAC_CH{i}": f"spitzer_irac_ch{i}" for i in (1, 2, 3, 4)},
}  # fmt: skip
SIMULATED_ERR = 1.5e-9
"""maggies, of each band: 5 sigma at magnitude 20.3."""


class OutOfTimeError(Exception):
    """The benchmark's time is over."""


class Survey(NamedTuple):
    """Galaxies with known redshifts."""

    catalog: Any
    zred: np.ndarray
    prior: Any
    config: Any


def _survey(
    ids: Any, flux: np.ndarray, flux_err: np.ndarray, filters: Any, zred: np.ndarray, prior: Any
) -> Survey:
    """Fluxes in maggies, nan where there are none."""
    from hbm.catalog import Catalog
    from hbm.config import ModelConfig

    observed = np.isfinite(flux) & np.isfinite(flux_err)
    n = len(zred)
    catalog = Catalog(
        id=tuple(ids), zred=np.full(n, np.nan), zred_err=np.zeros(n), flux=np.where(observed, flux, np.nan),
        flux_err=np.where(observed, flux_err, np.nan), observed=observed,
        upper_limit=np.zeros(flux.shape, bool), filter_names=tuple(filters),
    )  # fmt: skip
    return Survey(catalog, zred, prior, ModelConfig())


def simulated(_data: Path, n: int) -> Survey:
    """Galaxies of the model and its prior, in ugriz."""
    from hbm.config import InterimPrior, ModelConfig
    from hbm.galaxies import DataBuilder
    from hbm.redshifts import ZredPrior
    from hbm.sbc import simulate
    from sed.io import load_grid

    prior = ZredPrior.uniform(0.01, 1.5)
    config = ModelConfig(prior=InterimPrior(logmass=(9.5, 12.0)))
    zred = np.random.default_rng(SEED).uniform(prior.low, prior.high, n)
    builder = DataBuilder(load_grid(None), config, SDSS)
    catalog = simulate(builder, zred, np.full((n, len(SDSS)), SIMULATED_ERR), seed=SEED).catalog
    return _survey(catalog.id, catalog.flux, catalog.flux_err, SDSS, zred, prior)._replace(config=config)


def boss(data: Path, n: int) -> Survey:
    """Some of the galaxies of BOSS."""
    from hbm.redshifts import ZredPrior

    rows = np.loadtxt(data / "boss_ugriz_annz" / "boss_dr10_1.csv", delimiter=",", comments="#")
    chosen = np.sort(np.random.default_rng(SEED).choice(len(rows), min(n, len(rows)), replace=False))
    mag, error = rows[chosen, 0:10:2] + np.array(SDSS_TO_AB), rows[chosen, 1:10:2]
    flux = 10 ** (-0.4 * mag)
    flux_err = 0.4 * np.log(10) * flux * error
    return _survey([f"boss{i}" for i in chosen], flux, flux_err, SDSS, rows[chosen, 10], ZredPrior(high=2.0))


def hdfn(data: Path, n: int) -> Survey:
    """Galaxies of the Hubble Deep Field North with a spectroscopic redshift."""
    from hbm.redshifts import ZredPrior

    rows = np.loadtxt(data / "eazy_hdfn" / "hdfn_fs99_eazy.cat")
    rows = rows[rows[:, -1] > 0][:n]
    scale = 10 ** (-0.4 * HDFN_ZERO_POINT)
    flux, flux_err = scale * rows[:, 1:15:2], scale * rows[:, 2:15:2]
    missing = (flux_err <= 0) | (rows[:, 1:15:2] < -90)
    filters = [*_wfpc2(), "twomass_J", "twomass_H", "twomass_Ks"]
    ids = [f"hdfn{int(i)}" for i in rows[:, 0]]
    return _survey(ids, np.where(missing, np.nan, flux), flux_err, filters, rows[:, -1], ZredPrior())


def _wfpc2() -> list[str]:
    """Files of curves of WFPC2: total throughput, signal per photon."""
    import pyphot

    library, folder = pyphot.get_library(), CACHE / "photoz" / "wfpc2"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for band in WFPC2:
        curve = library[f"HST_WFPC2_{band}"]
        if curve.dtype != "photon":
            raise ValueError(f"the curve of {band} must be per photon, got {curve.dtype}.")
        wave, through = np.asarray(curve.wavelength.value, float), np.asarray(curve.transmit, float)
        keep = through > 1e-5 * through.max()
        low, high = np.flatnonzero(keep)[[0, -1]]
        path = folder / f"wfpc2_{band.lower()}.dat"
        np.savetxt(path, np.column_stack([wave, through])[low : high + 1 : 5])
        paths.append(str(path))
    return paths


def candels(data: Path, n: int) -> Survey:
    """Galaxies of GOODS-S near z = 1."""
    from hbm.redshifts import ZredPrior

    path = data / "leja_candels" / "CANDELS_GDSS_workshop_z1.dat"
    names = path.read_text().splitlines()[0].lstrip("# ").split()
    rows = np.loadtxt(path)
    chosen = np.sort(np.random.default_rng(SEED).choice(len(rows), min(n, len(rows)), replace=False))
    column = {name: rows[chosen, i] for i, name in enumerate(names)}
    mag, error = (np.column_stack([column[f"{e}{name}"] for name in CANDELS]) for e in ("", "e"))
    seen = (mag > 0) & (mag < 90) & (error > 0)
    flux = np.where(seen, 10 ** (-0.4 * np.where(seen, mag, 0.0)), np.nan)
    flux_err = np.where(seen, 0.4 * np.log(10) * flux * error, np.nan)
    ids = [f"candels{int(i)}" for i in column["ID"]]
    return _survey(ids, flux, flux_err, CANDELS.values(), column["zz"], ZredPrior())


SURVEYS = {"simulated": simulated, "boss": boss, "hdfn": hdfn, "candels": candels}


def fit(name: str, survey: Survey, until: float, *, fresh: bool) -> dict[str, np.ndarray] | None:
    """What posteriors say of the redshift of each galaxy, or None if the time was not enough."""
    import hbm

    folder = CACHE / "photoz" / f"{name}_{len(survey.zred)}"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)

    def progress(done: int, total: int, text: str) -> None:
        if time.monotonic() > until:
            raise OutOfTimeError
        if text.startswith("redshift") and done % 20 == 0:
            print(f"{name}: {done} of {total}", flush=True)

    failed: dict[str, str] = {}
    n_there = len(list(folder.glob("*.nc")))
    start = time.monotonic()
    try:
        results = hbm.photoz(
            survey.catalog, prior=survey.prior, config=survey.config, seed=SEED, outdir=folder, resume=True,
            on_error=lambda galaxy, error: failed.update({galaxy: str(error)}), progress=progress,
        )  # fmt: skip
    except OutOfTimeError:
        return None
    for galaxy, text in failed.items():
        print(f"{galaxy} was not fitted: {text}")
    rows = [survey.catalog.id.index(result.galaxy_id) for result in results]
    summaries = [hbm.redshift_summary(result) for result in results]
    draws = [result.draws("zred").ravel() for result in results]
    truth = survey.zred[rows]
    return {
        "truth": truth,
        "mode": np.array([one.modes[0].zred for one in summaries]),
        "median": np.array([one.median for one in summaries]),
        "low": np.array([one.q16 for one in summaries]),
        "high": np.array([one.q84 for one in summaries]),
        "n_mode": np.array([len(one.modes) for one in summaries]),
        "pit": np.array([np.mean(each < z) for each, z in zip(draws, truth, strict=True)]),
        "in95": np.array([
            np.quantile(each, 0.025) <= z <= np.quantile(each, 0.975)
            for each, z in zip(draws, truth, strict=True)
        ]),
        "ok": np.array([result.flag == "ok" for result in results]),
        "seconds": np.array((time.monotonic() - start) / max(len(survey.zred) - n_there, 1)),
        "failed": np.array(len(failed)),
    }  # fmt: skip


def measure(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Numbers of one survey."""
    import scipy.stats

    truth, mode = found["truth"], found["mode"]
    offset = (mode - truth) / (1 + truth)
    ks = scipy.stats.kstest(found["pit"], "uniform")
    return {
        "n": len(truth),
        "failed": int(found["failed"]),
        "flagged": float(np.mean(~found["ok"])),
        "bias": float(np.median(offset)),
        "nmad": float(1.4826 * np.median(np.abs(offset - np.median(offset)))),
        "outliers": float(np.mean(np.abs(offset) > OUTLIER)),
        "multimodal": float(np.mean(found["n_mode"] > 1)),
        "covered68": float(np.mean((found["low"] <= truth) & (truth <= found["high"]))),
        "covered95": float(np.mean(found["in95"])),
        "pit_ks": float(ks.statistic),
        "pit_p": float(ks.pvalue),
        "seconds_per_galaxy": float(found["seconds"]),
    }


def draw(everything: dict[str, dict[str, np.ndarray]]) -> Path:
    """Redshifts against the true ones above, places of the truth in its posterior below."""
    import matplotlib.pyplot as plt

    n = len(everything)
    figure, axes = plt.subplots(
        2, n, figsize=(3.4 * n, 6), height_ratios=(2, 1), squeeze=False, layout="constrained"
    )
    for (name, found), top, below in zip(everything.items(), axes[0], axes[1], strict=True):
        truth, mode = found["truth"], found["mode"]
        error = np.array([np.maximum(mode - found["low"], 0), np.maximum(found["high"] - mode, 0)])
        top.errorbar(truth, mode, error, fmt="o", ms=2.5, lw=0.5, color="#1f6f9f", alpha=0.6)
        ends = np.array([0.0, 1.05 * max(truth.max(), mode.max())])
        for shift, style in ((0.0, "-"), (OUTLIER, ":"), (-OUTLIER, ":")):
            top.plot(ends, ends + shift * (1 + ends), style, color="k", lw=0.8)
        top.set(
            xlim=ends, ylim=ends, title=f"{name}, {len(truth)} galaxies", xlabel="true or spectroscopic z"
        )
        below.hist(found["pit"], np.linspace(0, 1, 11), color="#1f6f9f", alpha=0.8)
        below.axhline(len(truth) / 10, color="k", lw=0.8)
        below.set(xlabel="part of the posterior below the true z (PIT)")
    axes[0, 0].set_ylabel("photometric z (heaviest mode, 68 %)")
    axes[1, 0].set_ylabel("galaxies")
    path = RESULTS / "photoz.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def main() -> None:
    """Fit, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/real"))
    parser.add_argument("--surveys", nargs="+", choices=SURVEYS, default=list(SURVEYS))
    parser.add_argument("--n", type=int, default=200, help="galaxies of each survey at most")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    keep_compiled_programs()
    until = time.monotonic() + 60 * options.minutes
    everything = {}
    for name in options.surveys:
        survey = SURVEYS[name](options.data, options.n)
        found = fit(name, survey, until, fresh=options.fresh)
        if found is None:
            print("Not done: call again to go on.")
            return
        everything[name] = found
    numbers = {name: measure(found) for name, found in everything.items()}
    columns = ("n", "flagged", "bias", "nmad", "outliers", "multimodal", "covered68", "covered95", "pit_ks")
    rows = [
        [name, *(each[key] if key == "n" else f"{each[key]:.3f}" for key in columns)]
        for name, each in numbers.items()
    ]
    print_table(["survey", *columns], rows)
    print(f"Figure: {draw(everything)}")
    write_result("photoz", {"n": options.n, "seed": SEED, "surveys": options.surveys}, numbers)


if __name__ == "__main__":
    main()
