"""Photometry of one real galaxy.

Question: what are the mass, star formation rate, dust, age and metallicity of a galaxy with fluxes in 44
bands, and do they agree with what others found?
Data: a galaxy of 3D-HST in COSMOS at z = 0.74 that comes with the package, with masses and rates that were
published for it.
New: `hbm.fit` on a catalogue, its flag, `hbm.summary_table`, figures of a result, saving and loading it.
Run time: some minutes on two cores, most of it compilation; `--smoke`: half a minute.
Expected: the mass agrees with FAST's to about 0.2 dex; the star formation rate lies between those from the
spectral energy distribution and from ultraviolet and infrared light, or within its error of one of them.

    python examples/01_one_galaxy_photometry.py [--smoke] [--out FOLDER]
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

import hbm
from hbm.demo import load_demo
from hbm.plots import plot_corner, plot_sed, plot_sfh
from hbm.quick import quick_fit


def main() -> None:
    """Fit, draw, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="six bands, few prior draws, no chains")
    parser.add_argument("--out", type=Path, default=Path("one_galaxy_photometry"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    demo = load_demo()  # for your own: hbm.read_catalog("galaxies.fits", columns="galaxies.toml")
    if args.smoke:
        some = np.arange(demo.catalog.flux.shape[1]) % 8 == 0
        catalog = dataclasses.replace(demo.catalog, observed=demo.catalog.observed & some)
        result = quick_fit(catalog, n_prior=20_000, n_draw=100, seed=1)[0]
    else:
        result = hbm.fit(demo.catalog, seed=1)[0]
    path = hbm.save_result(result, args.out / f"{result.galaxy_id}.nc", overwrite=True)
    again = hbm.load_result(path)
    print(hbm.summary_table([again])["id", "logmstar_q50", "logsfr_100_q50", "av_q50", "flag"])
    spectrum = hbm.posterior_spectrum(again, n_draw=10 if args.smoke else 100)
    for name, figure in (
        ("sed", plot_sed(again, spectrum)),
        ("corner", plot_corner(again, ["logmstar", "logssfr", "mwa", "logzsol", "dust2"])),
        ("history", plot_sfh(again)),
    ):
        figure.savefig(args.out / f"{name}.png", dpi=110, bbox_inches="tight")
        print(f"Figure: {args.out / name}.png")
    print(f"Result: {path} ({result.convergence.reason or 'converged'})")
    published = {
        "logmstar": ("FAST", demo.logmstar_fast), "av": ("FAST", demo.av_fast),
        "logsfr_100": ("ultraviolet and infrared light", float(np.log10(demo.sfr_uvir))),
    }  # fmt: skip
    for name, (source, value) in published.items():
        low, middle, high = np.quantile(result.draws(name), (0.16, 0.5, 0.84))
        print(f"{name}: {middle:.2f} (68 %: {low:.2f} to {high:.2f}); {source}: {value:.2f}")
    mass = float(np.median(result.draws("logmstar"))) - demo.logmstar_fast
    rate = result.draws("logsfr_100") - np.log10(demo.sfr_uvir)
    print(
        f"Conclusion: the mass is {mass:+.2f} dex from FAST's, the star formation rate "
        f"{np.median(rate):+.2f} dex ({np.median(rate) / rate.std():+.1f} of its errors) from that of "
        "ultraviolet and infrared light."
    )


if __name__ == "__main__":
    main()
