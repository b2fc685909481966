"""How many nats an image adds to photometry, galaxy by galaxy, in every setting."""

import time
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from degeneracy.setup import BANDS, SEED, SNR, Setup, compiled, log_image
from generative.controlled import Chosen, controlled_stamps
from hbm.calibration.importance import LEAST_EFFECTIVE
from hbm.information import Marginal
from hbm.labels import label_of
from hbm.library import PROPERTIES, Weighted, photometry_posterior
from hbm.plots.style import CHAINS, INK, style

BASE = Chosen(log_snr=3.5, psf=0.5)
IMAGES = {
    "base": BASE,
    "S/N 10^2.9": BASE._replace(log_snr=2.9), "S/N 10^4.1": BASE._replace(log_snr=4.1),
    "sharp": BASE._replace(psf=0.0), "blunt": BASE._replace(psf=1.0),
    "face-on": BASE._replace(axis_ratio=0.95), "edge-on": BASE._replace(axis_ratio=0.25),
    "gr": BASE._replace(bands=("sdss_g0", "sdss_r0")), "r": BASE._replace(bands=("sdss_r0",)),
}  # fmt: skip
FLUXES = {  # S/N and bands of the photometry
    "base": (SNR, "ugriz"), "S/N 5": (5.0, "ugriz"), "S/N 100": (100.0, "ugriz"),
    "griz": (SNR, "griz"), "gr": (SNR, "gr"),
}  # fmt: skip


class Gains(NamedTuple):
    """What the image adds to the photometry, of each galaxy in one setting."""

    entropy: np.ndarray
    """(galaxy, property): entropy lost, nats."""
    score: np.ndarray
    """(galaxy, property): ln density at the truth gained, nats."""
    width: np.ndarray
    """(galaxy, property): ln ratio of 68 % widths."""
    total: np.ndarray
    """(galaxy,): ln density at the truth gained, of all properties together."""
    effective: np.ndarray
    """(galaxy,): effective draws of the joint posterior."""

    @property
    def good(self) -> np.ndarray:
        """Galaxies with enough draws."""
        return self.effective >= LEAST_EFFECTIVE


def measure(
    setup: Setup, n: int, images: dict[str, Chosen], fluxes: dict[str, tuple[float, str]]
) -> dict[str, Gains]:
    """Gains of the first draws of the library, in every setting; posteriors come from the other draws."""
    truth, library = setup.library.select(slice(0, n)), setup.library.select(slice(n, None))
    theta, true_flux = truth.theta(), truth.flux()
    names = tuple(f"g{row:04d}" for row in range(n))
    statistics = {}
    for name, chosen in images.items():
        start = time.perf_counter()
        stamps = controlled_stamps(setup.simulator, names, theta, 0, chosen, seed=SEED)
        statistics[name] = compiled(setup, stamps, f"sweep{list(IMAGES).index(name)}")
        print(f"  images {name}: statistics of {n} in {time.perf_counter() - start:.0f} s", flush=True)
    noise = np.random.default_rng(SEED).standard_normal(true_flux.shape)
    kept: dict[str, list[tuple[Any, ...]]] = {}
    for row in range(n):
        for flux_name, (snr, letters) in fluxes.items():
            error = true_flux[row] / snr
            flux = true_flux[row] + np.hypot(error, 0.05 * true_flux[row]) * noise[row]
            seen = np.array([band[5] in letters for band in BANDS])
            light = photometry_posterior(library, flux, error, observed=seen, seed=row)
            draws = light.theta(library)
            before = marginals(setup, draws, light.weight)
            for image_name, found in statistics.items():
                if "base" not in (image_name, flux_name):
                    continue
                log_like = log_image(setup, found, row, np.concatenate([theta[row : row + 1], draws]))
                both = light.times(log_like[1:])
                gain = gains(theta[row], before, marginals(setup, draws, both.weight), light, both, log_like)
                kept.setdefault(f"{image_name}|{flux_name}", []).append(gain)
        if row % 10 == 9:
            print(f"  weighted {row + 1} of {n} galaxies", flush=True)
    return {key: Gains(*(np.array(items) for items in zip(*rows, strict=True))) for key, rows in kept.items()}


def marginals(setup: Setup, draws: np.ndarray, weight: np.ndarray) -> list[Marginal]:
    """Of each property."""
    return [Marginal(draws[:, i], weight, setup.bounds[name]) for i, name in enumerate(PROPERTIES)]


def gains(
    truth: np.ndarray, before: list[Marginal], after: list[Marginal], light: Weighted, both: Weighted,
    log_like: np.ndarray,
) -> tuple[Any, ...]:  # fmt: skip
    """Row of `Gains`. The truth counts as one more draw in the mean, or it would have no bound."""
    largest = log_like.max()
    share = 1 / (light.effective + 1)
    mean = (1 - share) * np.sum(light.weight * np.exp(log_like[1:] - largest)) + share * np.exp(
        log_like[0] - largest
    )
    pairs = list(zip(before, after, strict=True))
    return (
        [a.entropy - b.entropy for a, b in pairs],
        [b.log_density(value) - a.log_density(value) for (a, b), value in zip(pairs, truth, strict=True)],
        [np.log(a.width_68 / b.width_68) for a, b in pairs],
        log_like[0] - largest - np.log(mean),
        both.effective,
    )


def mean_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else np.nan


def print_table(found: dict[str, Gains]) -> None:
    """Nats per property in every setting, and what changes with respect to the base."""
    base = found["base|base"]
    print(f"\nNats that the image adds to ugriz of S/N {SNR:g}, {int(base.good.sum())} galaxies")
    print(f"{'':10s} {'entropy lost':>16s} {'score gained':>16s} {'ln width ratio':>16s}")
    for i, name in enumerate(PROPERTIES):
        cells = [mean_error(item[base.good, i]) for item in (base.entropy, base.score, base.width)]
        print(f"{name:10s} " + " ".join(f"{mean:8.2f} +- {error:4.2f}" for mean, error in cells))
    mean, error = mean_error(base.total[base.good])
    print(f"{'together':10s} {'':16s} {mean:8.2f} +- {error:4.2f}")
    print("\nEntropy lost in other settings, and its difference from the base (same galaxies)")
    print(f"{'image':12s} {'fluxes':8s} {'n':>4s} " + " ".join(f"{name:>13s}" for name in PROPERTIES))
    for key, gain in found.items():
        image, fluxes = key.split("|")
        both = gain.good & base.good
        cells = []
        for i in range(len(PROPERTIES)):
            mean, _ = mean_error(gain.entropy[both, i])
            change, error = mean_error((gain.entropy - base.entropy)[both, i])
            cells.append(
                f"{mean:4.2f} {change:+5.2f}({100 * error:2.0f})" if key != "base|base" else f"{mean:4.2f}"
            )
        print(f"{image:12s} {fluxes:8s} {int(both.sum()):4d} " + " ".join(f"{cell:>13s}" for cell in cells))
    lost = {key: int((~gain.good).sum()) for key, gain in found.items() if not gain.good.all()}
    print(f"Left out, with fewer than {LEAST_EFFECTIVE:.0f} effective draws: {lost or 'none'}")


def information_figure(found: dict[str, Gains]) -> Figure:
    """Base setting: nats by property, three ways."""
    base = found["base|base"]
    with style():
        figure = Figure(figsize=(11.5, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        place = np.arange(len(PROPERTIES))
        for shift, (label, item, colour) in enumerate(
            (("entropy lost", base.entropy, CHAINS[0]), ("score gained at the truth", base.score, CHAINS[1]),
             ("ln ratio of 68 % widths", base.width, CHAINS[2]))
        ):  # fmt: skip
            values = np.array([mean_error(item[base.good, i]) for i in place])
            left.errorbar(
                place + 0.16 * (shift - 1), values[:, 0], values[:, 1], fmt="os^"[shift], color=colour,
                label=label,
                markersize=7, linewidth=1.6,
            )  # fmt: skip
        left.axhline(0, color=INK, linewidth=0.8)
        left.set_xticks(place, [label_of(name).symbol for name in PROPERTIES])
        left.minorticks_off()
        left.set_ylabel("nats that the image adds, mean")
        low, high = left.get_ylim()
        left.set_ylim(low, high + 0.35 * (high - low))
        left.legend(loc="upper left")
        mean, error = mean_error(base.total[base.good])
        n = int(base.good.sum())
        left.set_title(
            f"{n} galaxies; all properties together {mean:.2f} $\\pm$ {error:.2f} nats", fontsize=12
        )
        for i, name in enumerate(PROPERTIES):
            values = np.sort(base.entropy[base.good, i])
            right.plot(
                values, (np.arange(n) + 0.5) / n, color=CHAINS[i], label=label_of(name).symbol, linewidth=1.8
            )
        right.set_xlabel("entropy lost, nats")
        right.set_ylabel("part of the galaxies below")
        right.set_ylim(0, 1)
        right.axvline(0, color=INK, linewidth=0.8)
        right.legend(loc="lower right")
    return figure


PANELS = (
    ("image: flux over noise of a pixel", "image",
     (("$10^{2.9}$", "S/N 10^2.9"), ("$10^{3.5}$", "base"), ("$10^{4.1}$", "S/N 10^4.1"))),
    ("image: seeing in r", "image", (("1.0$''$", "sharp"), ("1.35$''$", "base"), ("1.7$''$", "blunt"))),
    ("image: bands", "image", (("griz", "base"), ("gr", "gr"), ("r", "r"))),
    ("image: inclination", "image", (("face-on", "face-on"), ("random", "base"), ("edge-on", "edge-on"))),
    ("fluxes: S/N, besides 5 %", "fluxes", (("5", "S/N 5"), ("20", "base"), ("100", "S/N 100"))),
    ("fluxes: bands", "fluxes", (("ugriz", "base"), ("griz", "griz"), ("gr", "gr"))),
)  # fmt: skip


def sweep_figure(found: dict[str, Gains]) -> Figure:
    """A panel for each thing that changes; the same galaxies along each line."""
    with style():
        figure = Figure(figsize=(13.5, 8.2), layout="constrained")
        grid = figure.subplots(2, 3, sharey=True)
        for axes, (title, what, steps) in zip(grid.flat, PANELS, strict=True):
            keys = [(text, f"{name}|base" if what == "image" else f"base|{name}") for text, name in steps]
            keys = [(text, key) for text, key in keys if key in found]
            good = np.all([found[key].good for _, key in keys], axis=0)
            for i, name in enumerate(PROPERTIES):
                values = np.array([mean_error(found[key].entropy[good, i]) for _, key in keys])
                place = np.arange(len(keys)) + 0.03 * (i - 2.5)
                axes.errorbar(
                    place, values[:, 0], values[:, 1], fmt="-o", color=CHAINS[i], markersize=5, linewidth=1.4,
                    label=label_of(name).symbol,
                )  # fmt: skip
            axes.set_xticks(range(len(keys)), [text for text, _ in keys])
            axes.tick_params(axis="x", which="minor", bottom=False, top=False)
            axes.set_xlim(-0.3, len(keys) - 0.7)
            axes.set_title(f"{title}; {int(good.sum())} galaxies", fontsize=12)
            axes.axhline(0, color=INK, linewidth=0.8)
        for axes in grid[:, 0]:
            axes.set_ylabel("entropy lost by the image, nats")
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, ncols=6, loc="outside lower center", fontsize=13)
    return figure
