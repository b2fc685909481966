"""Degeneracies: what an image tells of galaxies whose colours are the same.

Question: dust, age, star formation and metallicity all redden a galaxy. Which galaxies of near-identical
ugriz fluxes does an image tell apart, which parameters does it narrow, by how many nats, and how does that
depend on signal-to-noise, bands, resolution and inclination?
Data: simulated, z = 0.1. (1) Triples of a dusty star-forming, an old metal-poor and a younger metal-rich
galaxy, which the script finds among draws of the prior because their colours agree. (2) Other draws of the
prior, each imaged under every condition with the same structure and noise: one thing changes at a time.
New: chosen conditions (`generative.controlled`), posteriors by importance weights from one set of prior draws
(`hbm.library`), information in nats (`hbm.information`), contours in planes (`hbm.plots.planes`).
Run time: tens of minutes on two cores, most of it image statistics; `--smoke`: a minute.
Expected: photometry gives the three galaxies of a triple overlapping posteriors; images tell them apart where
the image model knows the parameter: star formation and dust, metallicity least.

    python examples/03_degeneracy_breaking.py [--smoke] [--out FOLDER] [--n 80] [--triples 2]
"""

import argparse
from pathlib import Path

import numpy as np
from degeneracy.gains import (
    FLUXES,
    IMAGES,
    Gains,
    information_figure,
    mean_error,
    measure,
    print_table,
    sweep_figure,
)
from degeneracy.setup import ZRED, set_up
from degeneracy.triples import choose_triples, triple_figure, triple_posteriors
from matplotlib.figure import Figure

import hbm
from hbm.information import weighted_quantile
from hbm.library import PROPERTIES
from hbm.plots.planes import PlaneDraws


def conclude(found: dict[str, Gains], posteriors: list[tuple[str, dict[str, list[PlaneDraws]]]]) -> None:
    """What came out, in words made from the numbers."""
    print("\nConclusion")
    for label, parts in posteriors:
        for name in ("dust2", "logssfr", "logzsol"):
            ranges = {
                use: [weighted_quantile(d.values[name], d.weight, np.array([0.16, 0.5, 0.84])) for d in draws]
                for use, draws in parts.items()
            }
            medians = {use: [q[1] for q in rows] for use, rows in ranges.items()}
            width = {use: float(np.mean([q[2] - q[0] for q in rows])) for use, rows in ranges.items()}
            print(
                f"- {label}, {name}: medians of A, B, C from photometry {listed(medians['photometry'])} "
                f"(68 % width {width['photometry']:.2f}), with the image {listed(medians['both'])} "
                f"({width['both']:.2f})"
            )
    base = found["base|base"]
    mean = {name: mean_error(base.entropy[base.good, i]) for i, name in enumerate(PROPERTIES)}
    order = sorted(mean, key=lambda name: -mean[name][0])
    text = ", ".join(f"{name} {mean[name][0]:.2f} +- {mean[name][1]:.2f}" for name in order)
    print(f"- Nats that the image adds: {text}.")
    gap = (base.entropy - base.score)[base.good]
    off = [name for i, name in enumerate(PROPERTIES) if abs(gap[:, i].mean()) > 3 * mean_error(gap[:, i])[1]]
    which = f"all but {', '.join(off)}." if off else "all properties: the posteriors hold what they claim."
    print(f"- Entropy lost and score gained agree within three errors for {which}")


def listed(values: list[float]) -> str:
    """Numbers with commas."""
    return ", ".join(f"{value:.2f}" for value in values)


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few draws and galaxies, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("degeneracy_breaking"))
    parser.add_argument("--n", type=int, default=80, help="galaxies of the second part")
    parser.add_argument("--triples", type=int, default=2, help="triples of the first part")
    parser.add_argument("--draws", type=int, default=400_000, help="of the prior")
    args = parser.parse_args()
    smoke = args.smoke
    n, n_triple, n_draw = (2, 1, 40_000) if smoke else (args.n, args.triples, args.draws)
    setup = set_up(n_draw, 8 if smoke else 32, args.out)
    print(f"{setup.library.n} draws of the prior at z = {ZRED}")
    (args.out / "triples").mkdir(parents=True, exist_ok=True)
    posteriors = []
    for number, (rows, logmass, spread) in enumerate(choose_triples(setup.library, n_triple), start=1):
        print(f"Triple {number}: colours agree to {spread:.3f} mag", flush=True)
        sampler = None if smoke else hbm.SamplerConfig()
        found, flux, error, picture = triple_posteriors(setup, number, rows, logmass, sampler)
        sites = [dict(zip(PROPERTIES, row, strict=True)) for row in setup.library.select(rows).theta()]
        truths = [site | {"logmass": mass} for site, mass in zip(sites, logmass, strict=True)]
        figure = triple_figure(setup, found, truths, flux, error, picture)
        save(figure, args.out / f"triple_{number}.png")
        posteriors.append((f"triple {number}", found))
    images = {key: IMAGES[key] for key in ("base", "S/N 10^4.1")} if smoke else IMAGES
    fluxes = {key: FLUXES[key] for key in ("base", "gr")} if smoke else FLUXES
    gained = measure(setup, n, images, fluxes)
    print_table(gained)
    if all(gain.good.sum() > 1 for gain in gained.values()):
        save(information_figure(gained), args.out / "information.png")
        save(sweep_figure(gained), args.out / "sweep.png")
    conclude(gained, posteriors)


def save(figure: Figure, path: Path) -> None:
    """Write a figure and say where."""
    figure.savefig(path, dpi=110, bbox_inches="tight")
    print(f"Figure: {path}")


if __name__ == "__main__":
    main()
