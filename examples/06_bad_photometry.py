"""Bad photometry and rare objects: what an image says of fluxes.

Question: a galaxy has strange fluxes. Is it rare, or is its photometry bad? And what is wrong with it?
Data: the simulated galaxy of `hbm demo`, the dustiest of 200, with its image; its five fluxes as they
are, with six tenths of the light lost (a shred), with the i band 0.5 mag too bright, and those of a bluer
neighbour.
New: `hbm.check`, Bayes factors and p-values of image and photometry from fits of the photometry alone.
Run time: some minutes on two cores, most of it compilation.
Expected: the rare galaxy is consistent: its image knows of the dust. The band that is off is named, and the
neighbour's fluxes have odds against one galaxy; the chi-square of the neighbour's fluxes is fine. A shred has
the colours of the whole galaxy, and only what the image knows of the mass speaks against it: little.

    python examples/06_bad_photometry.py [--smoke] [--out FOLDER]
"""

import argparse
from pathlib import Path

import numpy as np

import hbm
from hbm.consistency import Checker
from hbm.demo import load_joint_demo
from hbm.image import CompiledImages, GalaxyImage
from hbm.plots.consistency import plot_check
from hbm.results import result_path

STORED = Path(__file__).parent / "data" / "bad_photometry"
"""Thinned fits of the full run, by ``--store``."""

FACTORS = {
    "as it is": np.ones(5),
    "shred": np.full(5, 0.4),
    "i band off": np.array([1.0, 1.0, 1.0, 10**0.2, 1.0]),
    "neighbour": 0.5 * np.array([6.0, 3.5, 2.0, 1.5, 1.2]),
}
"""Measured fluxes (ugriz) over those of the galaxy."""


def survey() -> tuple[hbm.Catalog, CompiledImages, object]:
    """The galaxy's image four times, each time with other fluxes; and the image likelihood."""
    demo = load_joint_demo()
    one = demo.catalog.select([1])
    images = one.images.compiled
    names = tuple(FACTORS)
    copies = [np.repeat(value, len(names), axis=0) for value in images.data]
    many = images._replace(
        id=np.asarray(names),
        data=GalaxyImage(*copies),
        **{name: np.repeat(getattr(images, name), len(names)) for name in ("error", "zred", "p_typical")},
    )
    rows = {
        name: np.repeat(getattr(one, name), len(names), axis=0)
        for name in ("zred", "zred_err", "flux", "flux_err", "observed", "upper_limit")
    }
    rows["flux"] = rows["flux"] * np.stack(list(FACTORS.values()))
    return hbm.Catalog(id=names, filter_names=one.filter_names, **rows), many, one.images.likelihood


def fitted(catalog: hbm.Catalog, likelihood: object, folder: Path, *, store: bool) -> list[hbm.FitResult]:
    """Fits of the photometry alone; written to a folder, and thinned to the one that `--smoke` reads."""
    config = hbm.image_config(hbm.ModelConfig(), likelihood)
    fits = hbm.fit(catalog, config=config, seed=1, outdir=folder, overwrite=True)
    for fit in fits if store else ():
        parts = ("posterior", "sample_stats", "posterior_predictive")
        thin = hbm.FitResult(fit.idata.isel(draw=slice(None, None, 6), groups=list(parts)))
        hbm.save_result(thin, result_path(STORED, fit.galaxy_id), overwrite=True)
    return fits


def main() -> None:
    """Fit the photometry, check it against the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="fits that are stored, and few points")
    parser.add_argument("--out", type=Path, default=Path("bad_photometry"))
    parser.add_argument("--store", action="store_true", help="store the fits for --smoke")
    args = parser.parse_args()
    catalog, images, likelihood = survey()
    if args.smoke:
        fits = [hbm.load_result(result_path(STORED, name)) for name in catalog.id]
    else:
        fits = fitted(catalog, likelihood, args.out / "fits", store=args.store)
    checker = Checker(fits, images, likelihood, n_point=4096 if args.smoke else 65536)
    args.out.mkdir(parents=True, exist_ok=True)
    print("fluxes        chi2  ln B  p given image  P(bad)  verdict")
    for name in checker.ids:
        found, detail = checker(name)
        print(
            f"{name:12s} {found.chi2:5.1f} {found.log_bayes_same:5.1f}  {found.p_photometry:13.4f}"
            f"  {found.probability_bad():6.2f}  {found.verdict()} ({found.flag})"
        )
        figure = args.out / f"{name.replace(' ', '_')}.png"
        plot_check(found, detail).savefig(figure, bbox_inches="tight", dpi=110)
    print(f"Figures: {args.out}")


if __name__ == "__main__":
    main()
