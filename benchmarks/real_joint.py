"""Real HST images with real photometry: whether the model knows such images, and what fits say.

COSMOS galaxies in F814W with their own PSFs (100 stamps of the BlendingToolKit's sample, and IDENT 100533 of
GalSim's), at redshifts that hst-f814w was trained on. `hbm image` makes stamps of them; `hbm compile` makes
statistics and holds each against the model's own images (`p_typical`). Then fits, with photometry alone and
with the image:

- the galaxies with zCOSMOS redshift and u to K photometry (errors given; the g band is left out, because its
  curve is not among the filters), masses beside those of zCOSMOS (surviving);
- the others with HSC grizy and a photometric redshift taken for exact: no errors are given, 0.05 mag is
  assumed.

A galaxy outside of the image model's redshifts has no image here and is fitted by its photometry alone.

The stamps are much smaller than the model's, and their pixels share noise. Two things are done about it: the
correlation of their noise is pooled over the borders of all stamps, and noise is put where a stamp does not
reach if hardly any light is there. What the domain check says without both is reported too ("before").

    python -m benchmarks.real_joint [--data ../shared/real] [--limit N] [--cores 2] [--minutes 9]

It begins nothing new after --minutes and goes on where it was when called again; --fresh discards results. It
draws results/real_joint.png and results/real_joint_images.png. The last line of its output is JSON.
"""

import argparse
import json
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks._batches import BatchCache, keep_compiled_programs
from benchmarks._common import RESULTS, print_table, write_result

MODEL = "hst-f814w"
ZERO_POINT = 25.94
"""AB, for electrons per second: of COSMOS in F814W."""
SCALE = 0.03
"""arcsec."""
ASSUMED_ERR = 0.05
"""mag, where the catalogue gives no error."""
SEED = 7
BORDER = 4
"""Pixels along the sides of a stamp that tell the noise."""
TYPICAL = 0.01
"""p-values below this are flagged by fits."""

WIDE = {
    "u": "cfht_megacam_us_9301", "b": "subaru_suprimecam_B", "v": "subaru_suprimecam_V",
    "r": "subaru_suprimecam_rp", "i": "subaru_suprimecam_ip", "z": "subaru_suprimecam_zp",
    "j": "ukirt_wfcam_J", "k": "cfht_wircam_Ks_8302",
}  # fmt: skip
"""Columns of the galaxies with zCOSMOS redshifts, with the filters of Capak et al. (2007, ApJS 172, 99)."""
HSC = {f"HSC_{band}": f"hsc_{band}" for band in "grizy"}
LABELS = ("photometry", "both")


class Real(NamedTuple):
    """One galaxy."""

    id: str
    image: np.ndarray
    """Electrons per second and pixel."""
    psf: np.ndarray
    variance: float
    """Of a pixel, as the catalogue says."""
    zred: float
    is_spectroscopic: bool
    mag: dict[str, tuple[float, float]]
    """AB magnitude and error by filter."""
    logmass: float
    """Of zCOSMOS; nan where there is none."""


def read_galaxies(folder: Path) -> list[Real]:
    """All galaxies with an image and photometry, those with a measured redshift first."""
    from astropy.io import fits
    from astropy.table import Table

    matched = Table.read(folder / "cosmos_end_to_end" / "cosmos_image_phot_crossmatch.csv")
    measured = {str(row["label"]): row for row in matched}
    stamps = folder / "cosmos_hst_btk100"
    table = Table.read(stamps / "real_galaxy_catalog_26_extension_example.fits")
    other = Table.read(stamps / "real_galaxy_catalog_26_extension_example_fits.fits")
    found = []
    with (
        fits.open(stamps / "real_galaxy_images_extension.fits") as images,
        fits.open(stamps / "real_galaxy_PSF_images_extension.fits") as points,
    ):
        for row, more in zip(table, other, strict=True):
            if row["IDENT"] != more["IDENT"]:
                raise ValueError("the catalogues of the stamps must be in one order.")
            name = f"BTK{int(row['IDENT'])}"
            image = np.asarray(images[int(row["GAL_HDU"])].data, float)
            psf = np.asarray(points[int(row["PSF_HDU"])].data, float)
            mags = {HSC[key]: (float(more[key]), ASSUMED_ERR) for key in HSC if 10 < float(more[key]) < 30}
            galaxy = Real(
                name, image, psf, float(row["NOISE_VARIANCE"]), float(more["ZPHOT"]), False, mags, np.nan
            )
            found.append(_with_redshift(galaxy, measured[name]) if name in measured else galaxy)
    file = folder / "galsim_hst" / "test_images.fits"
    catalog = Table.read(folder / "galsim_hst" / "test_catalog.fits")
    with fits.open(file) as hdus:
        galaxy = Real(
            "GalSim100533", np.asarray(hdus[0].data, float), np.asarray(hdus[2].data, float),
            float(catalog["NOISE_VARIANCE"][0]), np.nan, False, {}, np.nan,
        )  # fmt: skip
    found.append(_with_redshift(galaxy, measured["GalSim100533"]))
    return sorted(found, key=lambda one: not one.is_spectroscopic)


def _with_redshift(galaxy: Real, row: Any) -> Real:
    """The same with zCOSMOS redshift and mass, and u to K photometry."""
    mags = {WIDE[key]: (float(row[key]), float(row[f"e{key}"])) for key in WIDE}
    return galaxy._replace(
        zred=float(row["z_spec"]), is_spectroscopic=True, mag=mags, logmass=float(row["logM"])
    )


def pooled(galaxies: Sequence[Real]) -> np.ndarray:
    """Correlation of the noise, from the borders of all stamps."""
    from generative.ingest.noise import pooled_correlation

    images, skies = [], []
    for galaxy in galaxies:
        border = np.ones(galaxy.image.shape, bool)
        border[BORDER:-BORDER, BORDER:-BORDER] = False
        images.append(galaxy.image)
        skies.append(border & np.isfinite(galaxy.image))
    return pooled_correlation(images, skies)


def make_stamps(
    galaxies: Sequence[Real], instrument: Any, correlation: np.ndarray | None, options: Any
) -> tuple[list[Any], dict[str, str]]:
    """Stamps of the galaxies at redshifts that the model knows, and why others have none."""
    from generative.ingest.exposure import Exposure, plain_wcs
    from generative.ingest.stamp import make_stamp
    from generative.ingest.units import from_zero_point

    unit, stamps, refused = from_zero_point(ZERO_POINT), [], {}
    low, high = instrument.zred
    for galaxy in galaxies:
        if not low <= galaxy.zred <= high:
            refused[galaxy.id] = f"redshift {galaxy.zred:.3f}, trained on {low} to {high}"
            continue
        image = galaxy.image * unit
        error = np.full(image.shape, np.sqrt(galaxy.variance) * unit)
        shot = Exposure(
            "f814w", image, np.isfinite(image), plain_wcs(image.shape, SCALE), error, galaxy.psf,
            correlation=correlation,
        )  # fmt: skip
        try:
            stamps.append(make_stamp([shot], instrument, zred=galaxy.zred, name=galaxy.id, options=options))
        except ValueError as error_found:
            refused[galaxy.id] = str(error_found)
    return stamps, refused


def catalog_of(galaxies: Sequence[Real], *, spectroscopic: bool) -> Any:
    """Photometry as `hbm.Catalog`."""
    import hbm

    return hbm.Catalog.from_galaxies(
        [
            hbm.Galaxy(
                one.id, one.zred, filter_names=tuple(one.mag),
                flux=[10 ** (-0.4 * mag) for mag, _ in one.mag.values()],
                flux_err=[10 ** (-0.4 * mag) * err * np.log(10) / 2.5 for mag, err in one.mag.values()],
            )
            for one in galaxies if one.is_spectroscopic == spectroscopic
        ]
    )  # fmt: skip


def fitted(catalog: Any, config: Any, folder: Path, stop: float, use: Sequence[str], **options: Any) -> bool:
    """Fit what is not there yet, some galaxies at a time; whether all are."""
    import hbm
    from hbm.results import result_path

    left = [i for i, name in enumerate(catalog.id) if not result_path(folder, name).is_file()]
    for first in range(0, len(left), 16):
        if time.perf_counter() > stop:
            return False
        some = catalog.select(left[first : first + 16])
        hbm.fit(some, config=config, outdir=folder, seed=SEED, use=use, **options)
        print(f"{folder.name}: {first + len(some)} of {len(left)} fitted", flush=True)
    return True


def row_of(galaxy: Real, fits: dict[str, Any], p: float, flags: str) -> dict[str, Any]:
    """What is kept of a galaxy."""
    from hbm.plots.comparison import PROPERTIES

    row: dict[str, Any] = {
        "id": galaxy.id, "zred": galaxy.zred, "spectroscopic": galaxy.is_spectroscopic, "p_typical": p,
        "image_flags": flags, "logmass_zcosmos": galaxy.logmass,
    }  # fmt: skip
    for label, fit in fits.items():
        names = (*PROPERTIES, "logmstar")
        row[label] = {n: [float(q) for q in np.quantile(fit.draws(n), (0.16, 0.5, 0.84))] for n in names}
        row[label]["flag"] = fit.flag
    return row


def compared(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Photometry alone against both, over galaxies with a typical image whose chains converged."""
    from hbm.plots.comparison import PROPERTIES

    good = [r for r in rows if all(label in r and r[label]["flag"] == "ok" for label in LABELS)]
    result: dict[str, Any] = {"n": len(good)}
    for name in PROPERTIES:
        alone, both = (np.array([r[label][name] for r in good]).reshape(-1, 3) for label in LABELS)
        width = (alone[:, 2] - alone[:, 0]) / 2
        result[name] = {
            "shift_in_sigma_mean": float(np.mean((both[:, 1] - alone[:, 1]) / width)),
            "shift_in_sigma_rms": float(np.sqrt(np.mean(((both[:, 1] - alone[:, 1]) / width) ** 2))),
            "nats": float(np.mean(np.log(width / ((both[:, 2] - both[:, 0]) / 2)))),
        }
    return result


def draw(rows: Sequence[dict[str, Any]], stamps_file: Path, out: Path) -> None:
    """p-values and masses; then real images beside those drawn at their joint posteriors."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    p = np.array([row["p_typical"] for row in rows if np.isfinite(row["p_typical"])])
    inside = p > 0
    left.hist(np.log10(p[inside]), bins=np.linspace(-3, 0, 16), color="#1f6f9f", alpha=0.8)
    left.text(0.03, 0.95, f"{np.sum(~inside)} outside of training", transform=left.transAxes, va="top")
    left.axvline(np.log10(TYPICAL), color="k", lw=1, ls=":")
    left.set(xlabel="log$_{10}$ p of the domain check", ylabel="galaxies")
    left.set_title(f"{np.mean(p < TYPICAL):.0%} of {len(p)} real images are flagged", fontsize=10)
    with_image = [row for row in rows if all(label in row for label in LABELS)]
    alone, both = (np.array([row[label]["logmass"] for row in with_image]) for label in LABELS)
    odd = np.array([row["p_typical"] < TYPICAL for row in with_image])
    for mask, colour, text in ((~odd, "#1f6f9f", "typical"), (odd, "#b0568f", "flagged")):
        right.errorbar(
            alone[mask, 1], both[mask, 1], [both[mask, 1] - both[mask, 0], both[mask, 2] - both[mask, 1]],
            [alone[mask, 1] - alone[mask, 0], alone[mask, 2] - alone[mask, 1]],
            fmt="o", ms=3, lw=0.6, color=colour, label=f"image {text}",
        )  # fmt: skip
    ends = (8.4, 11.8)
    right.plot(ends, ends, color="0.5", lw=0.8)
    right.set(xlabel="log mass, photometry (M$_\\odot$)", ylabel="log mass, both (M$_\\odot$)")
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "real_joint.png", dpi=150)
    plt.close(figure)
    _draw_images(with_image, stamps_file, out)


def _draw_images(rows: Sequence[dict[str, Any]], stamps_file: Path, out: Path, n_row: int = 7) -> None:
    import torch
    from matplotlib.figure import Figure

    from generative.datasets import read_survey_images
    from generative.display import to_rgb
    from generative.predictive import predictive_images
    from generative.release import load
    from hbm.plots.comparison import PROPERTIES
    from hbm.results import load_result, result_path

    model = load(MODEL)
    if model.instrument is None:
        raise ValueError("the model must have an instrument.")
    stamps = read_survey_images(stamps_file, model.instrument).stamps
    first = [row for row in rows if row["spectroscopic"]]
    others = sorted((row for row in rows if not row["spectroscopic"]), key=lambda row: -row["p_typical"])
    at = np.linspace(0, len(others) - 1, min(n_row - len(first), len(others))).astype(int)
    shown = [*first, *(others[i] for i in at)]
    figure = Figure(figsize=(10, 1.75 * len(shown)))
    axes = figure.subplots(len(shown), 6, squeeze=False)
    for row, line in zip(shown, axes, strict=True):
        place = int(np.flatnonzero(stamps.id == row["id"])[0])
        fit = load_result(result_path(out / "both", row["id"]))
        theta = np.stack([fit.draws(name).ravel() for name in PROPERTIES], axis=1)
        drawn = predictive_images(model, stamps, place, theta, n=5, seed=SEED)
        noise = stamps.noise[place]
        seen = stamps.observed[place]
        real = (stamps.image[place] / noise[:, None, None]).where(seen, 0.0)
        pictures = to_rgb(torch.cat([real[None], drawn.image]), model.instrument)
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, origin="lower", interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_title(f"{row['id']}, z = {row['zred']:.2f}, p = {row['p_typical']:.3f}", fontsize=8)
        line[1].set_title("drawn at its posterior", fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "real_joint_images.png", dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/real"), help="folder of real galaxies")
    parser.add_argument("--limit", type=int, default=None, help="galaxies without measured redshift, at most")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="to divide the galaxies over")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no fits after these")
    parser.add_argument("--fresh", action="store_true", help="discard what is done")
    args = parser.parse_args(argv)
    stop = start + 60 * args.minutes
    from hbm.devices import use_cpu_cores

    if args.cores > 1:
        use_cpu_cores(args.cores)
    keep_compiled_programs()
    import hbm
    from generative.commands import compile_survey
    from generative.ingest.stamp import IngestOptions
    from generative.ingest.store import flag_names, write_stamps
    from generative.instrument import HST_F814W
    from hbm.image import load_image_likelihood, read_compiled_images
    from hbm.results import load_result, result_path
    from sed.io import load_grid

    galaxies = read_galaxies(args.data)
    n_measured = sum(one.is_spectroscopic for one in galaxies)
    if args.limit is not None:
        galaxies = galaxies[: n_measured + args.limit]
    likelihood = load_image_likelihood(MODEL)
    settings = {
        "model": MODEL, "hash": likelihood.hash, "limit": args.limit, "seed": SEED, "border": BORDER,
        "filled": True,
    }  # fmt: skip
    out = BatchCache("real_joint", settings, fresh=args.fresh).folder
    if args.fresh:
        for name in (*LABELS, "stamps.h5", "stats.h5", "before.h5", "stats_before.h5"):
            shutil.rmtree(out / name, ignore_errors=True)
            (out / name).unlink(missing_ok=True)
    correlation = pooled(galaxies)
    print(f"noise of neighbouring pixels: correlation {correlation[4, 5]:.2f}, {correlation[5, 4]:.2f}")
    plain, _ = make_stamps(galaxies, HST_F814W, None, IngestOptions(fill=False))
    stamps, refused = make_stamps(galaxies, HST_F814W, correlation, IngestOptions())
    for some, images_file, stats_file in (
        (plain, "before.h5", "stats_before.h5"),
        (stamps, "stamps.h5", "stats.h5"),
    ):
        if not (out / stats_file).is_file():
            write_stamps(some, HST_F814W, out / images_file)
            compile_survey(
                out / images_file, out / stats_file, model=MODEL, target_error=0.05, max_draw=64, seed=0,
                chunk=64, overwrite=False, device="cpu", progress=None,
            )  # fmt: skip
    before = np.asarray(read_compiled_images(out / "stats_before.h5", likelihood).p_typical)
    compiled = read_compiled_images(out / "stats.h5", likelihood)
    p = {str(name): float(value) for name, value in zip(compiled.id, compiled.p_typical, strict=True)}
    flags = {stamp.id: flag_names(stamp) for stamp in stamps}
    config, grid = hbm.image_config(hbm.ModelConfig(), likelihood), load_grid()
    done = True
    for spectroscopic in (True, False):
        catalog = catalog_of(galaxies, spectroscopic=spectroscopic)
        inside = np.array([name in p or spectroscopic for name in catalog.id])
        catalog = catalog.select(inside)
        rows = np.array([name in p for name in catalog.id])
        known = [i for i, name in enumerate(compiled.id) if str(name) in catalog.id]
        data = type(compiled.data)(*(leaf[known] for leaf in compiled.data))
        images = compiled._replace(
            id=compiled.id[known], data=data, error=compiled.error[known], zred=compiled.zred[known],
            p_typical=compiled.p_typical[known],
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # images that are unlike the model's: this is what is counted
            pictured = hbm.with_images(catalog.select(rows), images, likelihood)
        done &= fitted(catalog, config, out / "photometry", stop, ("photometry",), grid=grid)
        done &= fitted(pictured, config, out / "both", stop, ("photometry", "image"), grid=grid)
    if not done:
        print("not complete: call it again to go on")
        print(json.dumps({"complete": False}))
        return
    table = []
    for one in galaxies:
        files = {label: result_path(out / label, one.id) for label in LABELS}
        fits = {label: load_result(file) for label, file in files.items() if file.is_file()}
        if fits:
            table.append(row_of(one, fits, p.get(one.id, np.nan), flags.get(one.id, "")))
    report(table, refused, p, before, out, settings)


def report(
    table: list[dict[str, Any]],
    refused: dict[str, str],
    p: dict[str, float],
    before: np.ndarray,
    out: Path,
    settings: Any,
) -> None:
    """Print, draw and write what was found."""
    values = np.array(list(p.values()))
    why = Counter(
        name.rstrip("*") for row in table for name in row["image_flags"].split(",") if name.endswith("*")
    )
    print(
        f"\nbefore: p below {TYPICAL} for {np.mean(before < TYPICAL):.0%} of {len(before)}; now outside of "
        f"training by {dict(why)}"
    )
    print(
        f"\n{len(values)} real images: p of the domain check below {TYPICAL} for "
        f"{np.mean(values < TYPICAL):.0%}, "
        f"below 0.1 for {np.mean(values < 0.1):.0%}; median {np.median(values):.3f}"
    )
    body = []
    for row in table:
        if not row["spectroscopic"]:
            continue
        cells = [
            "{1:.2f} ({0:.2f} to {2:.2f})".format(*row[label]["logmstar"]) if label in row else "-"
            for label in LABELS
        ]
        body.append([row["id"], f"{row['zred']:.4f}", f"{row['p_typical']:.3f}", *cells,
                     f"{row['logmass_zcosmos']:.2f}"])  # fmt: skip
    print_table(["galaxy", "zred", "p", "log M* photometry", "log M* both", "zCOSMOS"], body)
    found = compared(table)
    print(f"\n{found['n']} galaxies with a typical image, both fits ok:")
    print_table(
        ["property", "shift, sigma: mean", "rms", "nats"],
        [
            [k, f"{v['shift_in_sigma_mean']:+.2f}", f"{v['shift_in_sigma_rms']:.2f}", f"{v['nats']:+.2f}"]
            for k, v in found.items()
            if k != "n"
        ],
    )
    draw(table, out / "stamps.h5", out)
    result = {
        "n_image": len(values), "flagged": float(np.mean(values < TYPICAL)),
        "p_median": float(np.median(values)), "outside": dict(why),
        "before": {
            "flagged": float(np.mean(before < TYPICAL)), "p_median": float(np.median(before)),
        },
        "refused": refused, "compared": found, "galaxies": table,
    }  # fmt: skip
    write_result("real_joint", settings, result)


if __name__ == "__main__":
    main()
