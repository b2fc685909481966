"""Galaxies of one colour: found, observed, fitted three ways, drawn."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.spatial import cKDTree

import hbm
from degeneracy.setup import BANDS, SEED, SNR, ZRED, Setup, catalog_of, compiled, log_image
from generative.controlled import Chosen, controlled_stamps
from generative.display import to_rgb
from generative.mock import trained_ages
from hbm.labels import label_of
from hbm.library import PROPERTIES, Library, photometry_posterior
from hbm.plots.planes import COLOURS, PlaneDraws, draw_plane, frame_plane
from hbm.plots.style import CHAINS, INK, TRUTH, style
from hbm.results import FitResult, load_result, save_result

KINDS = ("dusty, star-forming", "old, metal-poor", "younger, metal-rich")
PLANES = (("dust2", "logssfr"), ("dust2", "logzsol"), ("mwa", "logzsol"))


def choose_triples(library: Library, n: int) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Rows, masses and largest colour difference (mag) of triples of the three kinds.

    Masses are set so that the r fluxes are the same too. Of triples whose colours agree to 0.02 mag (or of
    the ten that agree best) the one whose parameters differ most.
    """
    s = {name: library.sites[name] for name in PROPERTIES}
    dusty = (s["dust2"] > 1.0) & (s["dust2"] < 2.3) & (s["logssfr"] > -10.2) & (np.abs(s["logzsol"]) < 0.35)
    old = (s["logssfr"] < -11.4) & (s["dust2"] < 0.3) & (s["logzsol"] < -0.1) & (s["mwa"] > 7)
    rich = (s["logzsol"] > 0.1) & (s["dust2"] < 0.5) & (s["mwa"] < 7) & (s["logssfr"] < -10.4)
    massive = (s["logmass"] > 10.0) & (s["logmass"] < 11.4)
    groups = [np.flatnonzero(kind & massive) for kind in (dusty, old, rich)]
    colour = -2.5 * np.diff(np.log10(library.unit_flux), axis=1)
    found = []
    first = groups[0]
    trees = [cKDTree(colour[group]) for group in groups[1:]]
    near = [group[tree.query(colour[first])[1]] for group, tree in zip(groups[1:], trees, strict=True)]
    rows = np.stack([first, *near], axis=1)
    spread = np.ptp(colour[rows], axis=1).max(axis=1)
    mass = s["logmass"][rows[:, :1]] + np.log10(
        library.unit_flux[rows[:, :1], 2] / library.unit_flux[rows, 2]
    )
    span = {"logssfr": 3.0, "mwa": 8.0, "logzsol": 1.0, "dust2": 1.5}
    apart = sum(np.std(s[name][rows], axis=1) / width for name, width in span.items())
    usable = (mass > 9.5).all(axis=1) & (mass < 11.6).all(axis=1)
    for _ in range(n):
        limit = max(0.02, float(np.sort(spread[usable])[:10][-1]))
        best = int(np.argmax(np.where(usable & (spread <= limit), apart, -np.inf)))
        found.append((rows[best], mass[best], float(spread[best])))
        usable &= np.abs(colour[rows[:, 0]] - colour[rows[best, 0]]).max(axis=1) > 0.15
        if usable.sum() < 10:
            break
    return found


def triple_posteriors(
    setup: Setup, number: int, rows: np.ndarray, logmass: np.ndarray, sampler: hbm.SamplerConfig | None
) -> tuple[dict[str, list[PlaneDraws]], np.ndarray, np.ndarray, np.ndarray]:
    """Posteriors of a triple by what they are from, its fluxes and errors, and pictures."""
    library = setup.library
    rng = np.random.default_rng(SEED + number)
    true = library.unit_flux[rows] * 10.0 ** (logmass - 10)[:, None]
    error = true / SNR
    # The same noise for all three, in units of its standard deviation: their measured colours agree as well.
    flux = true + np.hypot(error, 0.05 * true) * rng.standard_normal(len(BANDS))
    names = tuple(f"triple{number}-{kind}" for kind in "abc")
    theta = library.select(rows).theta()
    theta[:, 0] = logmass
    stamps = controlled_stamps(
        setup.simulator, names, theta, 0, Chosen(log_snr=3.8, psf=0.3, is_survey=True), seed=number
    )
    images = compiled(setup, stamps, f"triple{number}")
    picture = to_rgb(stamps.image / stamps.noise[..., None, None], setup.simulator.instrument)
    weighted = [triple_weighted(setup, images, row, flux[row], error[row], rows) for row in range(3)]
    if sampler is None:
        return {use: [one[use] for one in weighted] for use in COLOURS}, flux, error, picture
    catalog = hbm.with_images(catalog_of(names, flux, error), images, setup.likelihood)
    uses = {"photometry": ("photometry",), "image": ("image",), "both": ("photometry", "image")}
    found: dict[str, list[PlaneDraws]] = {}
    for use, parts in uses.items():
        paths = [setup.out / "triples" / f"{name}-{use}.nc" for name in names]
        if not all(path.is_file() for path in paths):
            for path, fit in zip(
                paths,
                hbm.fit(catalog, config=setup.config, sampler=sampler, seed=SEED, use=parts),
                strict=True,
            ):
                save_result(fit, path, overwrite=True)
        fits = [load_result(path) for path in paths]
        found[use] = [in_domain(fit) for fit in fits]
        for fit, mine, other in zip(fits, found[use], weighted, strict=True):
            print(f"  {fit.galaxy_id}, {use}: {fit.flag}; {agreement(mine, other[use])}")
    return found, flux, error, picture


def in_domain(fit: FitResult) -> PlaneDraws:
    """Draws of a fit where the image model was trained, as the galaxies are."""
    values = {name: fit.draws(name).ravel() for name in PROPERTIES}
    inside = trained_ages(values["mwa"], values["logssfr"], ZRED)
    return PlaneDraws({name: value[inside] for name, value in values.items()}, np.ones(int(inside.sum())))


def triple_weighted(
    setup: Setup, images: Any, row: int, flux: np.ndarray, error: np.ndarray, truths: np.ndarray
) -> dict[str, PlaneDraws]:
    """The same three posteriors by importance weights."""
    library = setup.library
    others = np.setdiff1d(np.arange(library.n), truths)
    library = library.select(others)
    light = photometry_posterior(library, flux, error, seed=SEED)
    theta = light.theta(library)
    both = light.times(log_image(setup, images, row, theta))
    some = library.theta()[:50_000]
    log_weight = log_image(setup, images, row, some)
    weight = np.exp(log_weight - log_weight.max())

    def draws(values: np.ndarray, weights: np.ndarray) -> PlaneDraws:
        return PlaneDraws(dict(zip(PROPERTIES, values.T, strict=True)), weights / weights.sum())

    return {
        "image": draws(some, weight),
        "photometry": draws(theta, light.weight),
        "both": draws(theta, both.weight),
    }


def agreement(sampled: PlaneDraws, weighted: PlaneDraws) -> str:
    """Chains against weights."""
    off, ratio = [], []
    for name in PROPERTIES:
        a, b = sampled.values[name], weighted.values[name]
        mean = np.sum(weighted.weight * b)
        deviation = np.sqrt(np.sum(weighted.weight * (b - mean) ** 2))
        off.append(abs(a.mean() - mean) / a.std())
        ratio.append(deviation / a.std())
    effective = 1 / np.sum(weighted.weight**2)
    return (
        f"importance weights ({effective:.0f} effective draws) are off by at most {max(off):.2f} sigma, "
        f"widths by {min(ratio):.2f} to {max(ratio):.2f}"
    )


def triple_figure(
    setup: Setup,
    found: dict[str, list[PlaneDraws]],
    truths: list[dict[str, float]],
    flux: np.ndarray,
    error: np.ndarray,
    picture: np.ndarray,
) -> Figure:
    """A row for each galaxy: its image, and three planes; below them the photometry."""
    with style():
        figure = Figure(figsize=(14.6, 15.2), layout="constrained")
        grid = figure.add_gridspec(4, 4, width_ratios=(0.95, 1.1, 1.1, 1.1), height_ratios=(1, 1, 1, 0.72))
        for row in range(3):
            axes = figure.add_subplot(grid[row, 0])
            axes.imshow(picture[row], origin="lower", interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{'ABC'[row]}: {KINDS[row]}", loc="left", fontsize=14)
            lines = "   ".join(
                f"{label_of(name).symbol} = {truths[row][name]:.2f}" for name in ("dust2", "logzsol")
            )
            more = "   ".join(
                f"{label_of(name).symbol} = {truths[row][name]:.1f}" for name in ("mwa", "logssfr")
            )
            axes.set_xlabel(f"{lines}\n{more}", fontsize=12)
            for column, plane in enumerate(PLANES):
                axes = figure.add_subplot(grid[row, column + 1])
                limits = (setup.bounds[plane[0]], setup.bounds[plane[1]])
                for use, colour in COLOURS.items():
                    draw_plane(axes, found[use][row], plane, limits, colour=colour, filled=use == "both")
                frame_plane(axes, plane, limits, truths[row])
        wave = np.array([3551, 4686, 6166, 7480, 8932]) / 1e4  # York et al. 2000, table 1
        left, right = figure.add_subplot(grid[3, :2]), figure.add_subplot(grid[3, 2:])
        magnitude = -2.5 * np.log10(flux)
        scatter = 1.0857 * np.hypot(error, 0.05 * flux) / flux
        for row, marker in enumerate("os^"):
            shifted = wave + 0.006 * (row - 1)
            for axes, value in ((left, magnitude[row]), (right, magnitude[row] - magnitude.mean(axis=0))):
                axes.errorbar(
                    shifted, value, scatter[row], fmt=marker, color=CHAINS[(1, 7, 3)[row]], markersize=7,
                    linewidth=1.2, label=f"{'ABC'[row]}: {KINDS[row]}",
                )  # fmt: skip
        right.axhline(0, color=INK, linewidth=0.8)
        right.set_ylim(-0.2, 0.2)
        left.invert_yaxis()
        left.legend(loc="lower right")
        left.set_ylabel("AB magnitude")
        right.set_ylabel("magnitude minus mean of the three")
        for axes in (left, right):
            axes.set_xlabel(r"Wavelength [$\mu$m], ugriz")
        words = {use: "photometry and image" if use == "both" else f"{use} alone" for use in COLOURS}
        lines = [Line2D([], [], color=colour, linewidth=2.5) for colour in COLOURS.values()]
        lines.append(Line2D([], [], color=TRUTH, marker="s", linestyle="none"))
        figure.legend(
            lines, [*words.values(), "truth"], loc="outside upper right", ncols=4, fontsize=13,
            title="contours of 68 and 95 %", title_fontsize=12,
        )  # fmt: skip
    return figure
