"""Image and photometry of one galaxy, from pixels to a joint posterior.

Question: what does a galaxy's image tell that its five fluxes do not?
Data: a dusty star-forming galaxy that the script simulates, as SDSS would see it: ugriz fluxes, griz pixels.
Change `GALAXY` and see what happens.
New: pixels become a likelihood (`hbm.Galaxy(image=...)` compiles them); fits of photometry, image and both
under one prior; images that the model draws at the posterior, to check the fit by eye; the spectrum that the
image alone predicts (`hbm.image_spectra`).
Run time: some minutes on two cores, most of it compilation; `--smoke`: half a minute.
Expected: the image narrows dust and star formation, age a little, metallicity not. It predicts the shape of
the spectrum without having seen a flux, best in the optical, and the galaxy's brightness only to some tenths
of a dex. Drawn images look like the observed one; drawn structure is softer (docs/models.md).

    python examples/02_image_and_photometry.py [--smoke] [--out FOLDER]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import hbm
from generative.conditions import THETA
from generative.controlled import Chosen, controlled_stamps
from generative.display import to_rgb
from generative.predictive import predictive_figure, predictive_images
from generative.release import load
from generative.simulator.history import log_ratios
from generative.simulator.render import Simulator
from generative.simulator.stars import band_tables
from hbm.image_spectra import ImageSpectrum, image_spectrum, relative_spectra
from hbm.plots import plot_comparison
from hbm.plots.style import CHAINS, TRUTH, style
from hbm.quick import quick_fit
from sed.compile import compile_photometry
from sed.filters import load_filters
from sed.io import load_grid
from sed.parameters import BinnedSFH, SEDParams

GALAXY = {"logmass": 10.4, "logssfr": -9.9, "mwa": 4.0, "logzsol": -0.1, "dust2": 1.2, "gas_logu": -2.7}
BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
ZRED, SNR, MODEL = 0.1, 20.0, "sdss-griz"
EDGES = np.geomspace(1300, 24000, 60)
USES = {"photometry": ("photometry",), "image": ("image",), "both": ("photometry", "image")}


def observe(seed: int) -> tuple[hbm.Galaxy, object, dict[str, np.ndarray]]:
    """The galaxy as a survey sees it, its stamp, and all its parameters by name."""
    model = load(MODEL)
    simulator = Simulator(model.instrument, tables=band_tables(model.instrument, [ZRED]))
    theta = np.array([[GALAXY[name] for name in THETA]])
    stamps = controlled_stamps(
        simulator, ("dusty",), theta, 0, Chosen(log_snr=3.8, psf=0.3, is_survey=True), seed=seed
    )
    # The history that the three numbers mass, sSFR and age stand for.
    ratios = log_ratios(torch.as_tensor(theta), simulator.tables.agebins[:1])[0].numpy()
    history = BinnedSFH(GALAXY["logmass"], GALAXY["logssfr"], 0.0, ratios.astype(np.float32))
    dust = GALAXY["dust2"]
    params = SEDParams(history, GALAXY["logzsol"], dust, dust1=dust, gas_logu=GALAXY["gas_logu"])
    true = np.asarray(compile_photometry(load_grid(), load_filters(BANDS), ZRED).flux(params), np.float64)
    error = true / SNR
    noise = np.random.default_rng(seed).standard_normal(len(BANDS))
    flux = true + np.hypot(error, 0.05 * true) * noise  # fits assume a model error of 5 %
    galaxy = hbm.Galaxy(
        id="dusty", zred=ZRED, flux=flux, flux_err=error, filter_names=BANDS, image=stamps,
        image_bands=model.instrument.bands,
    )  # fmt: skip
    sites = {name: np.array([value]) for name, value in GALAXY.items() if name != "mwa"}
    sites |= {"dust1": sites["dust2"], "dust_index": np.zeros(1), "logsfr_ratio_recent": np.zeros(1)}
    return galaxy, (model, stamps), sites | {"logsfr_ratios": ratios[None]}


def spectrum_figure(predicted: dict[str, ImageSpectrum], true: np.ndarray) -> Figure:
    """Relative spectra over each other, and what is left when divided by the true one."""
    with style():
        figure = Figure(figsize=(8.5, 6.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 1))
        for colour, (label, one) in zip((CHAINS[1], CHAINS[0]), predicted.items(), strict=False):
            wave = one.wave_rest / 1e4
            for axes, unit in ((upper, 1.0), (lower, true)):
                axes.fill_between(
                    wave, one.shape[0] / unit, one.shape[4] / unit, color=colour, alpha=0.15, lw=0
                )
                axes.fill_between(
                    wave, one.shape[1] / unit, one.shape[3] / unit, color=colour, alpha=0.35, lw=0
                )
                axes.plot(wave, one.shape[2] / unit, color=colour, linewidth=1.5, label=label)
        upper.plot(wave, true, color=TRUTH, linewidth=1.5, label="truth")
        upper.set_yscale("log")
        upper.set_ylabel(r"$F_\lambda / F_{5500}$")
        upper.set_ylim(0.01 * true.min(), 3 * true.max())
        upper.legend(title="68 and 95 %", title_fontsize=11)
        lower.axhline(1, color=TRUTH)
        lower.set_yscale("log")
        lower.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
        lower.minorticks_off()
        lower.set_ylabel("over the truth")
        lower.set_xscale("log")
        lower.set_xticks([0.15, 0.2, 0.3, 0.5, 1, 2], ["0.15", "0.2", "0.3", "0.5", "1", "2"])
        lower.tick_params(axis="x", which="minor", labelbottom=False)
        lower.set_ylim(0.1, 5)
        lower.set_xlabel(r"Rest wavelength [$\mu$m]")
    return figure


def main() -> None:
    """Simulate, fit three ways, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few prior draws, no chains")
    parser.add_argument("--out", type=Path, default=Path("image_and_photometry"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    galaxy, (model, stamps), sites = observe(seed=2)
    # Compiled once; fits of galaxies with pixels would compile them each time.
    catalog = hbm.Catalog.from_galaxies([galaxy], MODEL)
    results = {}
    for name, use in USES.items():
        if args.smoke:
            results[name] = quick_fit(catalog, use=use, n_prior=20_000, n_draw=100, seed=1)[0]
        else:
            results[name] = hbm.fit(catalog, use=use, seed=1)[0]
    for name, result in results.items():
        print(f"{name}: {result.convergence.reason or 'converged'}")
    picture = to_rgb(stamps.image / stamps.noise[..., None, None], model.instrument)[0]
    plot_comparison(results, truths=GALAXY, picture=picture).savefig(args.out / "comparison.png", dpi=90)
    both = results["both"]
    theta = np.stack([both.draws(name).ravel() for name in THETA], axis=1)
    drawn = predictive_images(model, stamps, 0, theta, n=3 if args.smoke else 11)
    predictive_figure(model, stamps, 0, drawn).savefig(args.out / "images.png", dpi=150)
    config = hbm.image_config(hbm.ModelConfig(), catalog.images.likelihood)
    true = relative_spectra(sites, config, ZRED, edges=EDGES)
    n_draw = 20 if args.smoke else 300
    spectra = {
        "from the image alone": image_spectrum(results["image"], n_draw=n_draw, edges=EDGES),
        "from both": image_spectrum(both, n_draw=n_draw, edges=EDGES),
    }
    spectrum_figure(spectra, true.shape[0]).savefig(args.out / "spectrum.png", dpi=110)
    print(f"Figures: {args.out}/comparison.png, images.png, spectrum.png")
    print("Conclusion")
    first, last = next(iter(results)), "both"
    for name, value in GALAXY.items():
        widths = [
            np.diff(np.quantile(results[which].draws(name), (0.16, 0.84)))[0] for which in (first, last)
        ]
        low, middle, high = np.quantile(both.draws(name), (0.16, 0.5, 0.84))
        print(
            f"- {name}: truth {value:.2f}, both {middle:.2f} ({low:.2f} to {high:.2f}), "
            f"{widths[0] / widths[1]:.1f} times narrower than with {first} alone"
        )
    image = spectra["from the image alone"]
    inside = np.mean((true.shape[0] > image.shape[0]) & (true.shape[0] < image.shape[4]))
    print(
        f"- The image alone: its 95 % band holds {inside:.0%} of the true relative spectrum; log10 of the "
        f"luminosity at 5500 Angstrom {image.scale[2]:.2f} ({image.scale[1]:.2f} to {image.scale[3]:.2f}), "
        f"truth {true.scale[0]:.2f}."
    )


if __name__ == "__main__":
    main()
