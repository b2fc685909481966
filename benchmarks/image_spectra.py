"""Spectra from images alone, against the true ones of held-out simulations.

Galaxies of the interim prior inside the image model's domain, at four of its redshifts, each with one image
under conditions as in training. The posterior of a galaxy given its image is a pool of prior draws weighted
by the image's likelihood (the effective number of draws is printed), each with its rest-frame spectrum,
averaged in bins of wavelength and divided by its mean between 5400 and 5600 Angstrom (`hbm.image_spectra`).
By wavelength: how often 68 and 95 % intervals hold the true spectrum; the error of the median (half the width
of the central 68 % of ln median / truth) and the half width that the posterior claims, beside those of the
prior, which is what one would say without the image. The same of the absolute scale, which is that of the
mass.

    python -m benchmarks.image_spectra [--model sdss-griz] [--n 400] [--pool 8000] [--minutes 9]

It begins nothing new after --minutes and goes on where it was when called again; --fresh discards results. It
draws results/image_spectra.png. The last line of its output is JSON.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks._batches import BatchCache
from benchmarks._common import RESULTS, print_table, write_result

SEED = 41
PIECE = 25
"""Galaxies between two savings."""

EDGES = np.concatenate(
    [np.geomspace(1200, 3500, 13), np.geomspace(3500, 10000, 27)[1:], np.geomspace(1e4, 24000, 9)[1:]]
)
"""Angstrom."""

SHOWN = (1500, 2000, 2800, 3700, 4200, 4900, 6600, 8000, 10000, 16000, 22000)
"""Angstrom: printed."""


def ranks(values: np.ndarray, weight: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Weight of the draws below the truth, by column."""
    below: np.ndarray = weight @ (values < truth)
    return below


def summary(rank: np.ndarray, log_error: np.ndarray, log_width: np.ndarray) -> dict[str, float]:
    """Coverage, error of the median, and width claimed; natural logarithms."""
    low, high = np.quantile(log_error, [0.16, 0.84])
    return {
        "in_68": float(np.mean(np.abs(rank - 0.5) < 0.34)),
        "in_95": float(np.mean(np.abs(rank - 0.5) < 0.475)),
        "error": float(high - low) / 2, "bias": float(np.median(log_error)),
        "claimed": float(np.mean(log_width)) / 2,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="sdss-griz")
    parser.add_argument("--n", type=int, default=400, help="galaxies")
    parser.add_argument("--pool", type=int, default=8000, help="prior draws at each redshift")
    parser.add_argument(
        "--max-draw", type=int, default=32, help="noise draws per image and noise level at most"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing new after these")
    parser.add_argument("--fresh", action="store_true", help="discard what is done")
    args = parser.parse_args(argv)
    import hbm
    from generative.release import load
    from hbm.image import load_image_likelihood
    from sed.io import load_grid

    likelihood = load_image_likelihood(args.model)
    config = hbm.image_config(hbm.ModelConfig(), likelihood)
    model = load(args.model)
    settings = {
        "model": args.model, "n": args.n, "pool": args.pool, "max_draw": args.max_draw, "seed": SEED,
        "config": json.loads(config.to_json()), "hash": likelihood.hash, "edges": EDGES.tolist(),
    }  # fmt: skip
    cache = BatchCache("image_spectra", settings, fresh=args.fresh)
    zreds = [round(float(z), 4) for z in np.linspace(*model.instrument.zred, 4)]  # type: ignore[union-attr]
    n_each = -(-args.n // len(zreds))
    late = lambda: time.perf_counter() - start > 60 * args.minutes  # noqa: E731
    pieces: list[dict[str, np.ndarray]] = []
    complete = True
    for place, zred in enumerate(zreds):
        names = [f"z{place}_{first}" for first in range(0, n_each, PIECE)]
        missing = [name for name in names if cache.get(name) is None]
        if missing and not late():
            work = _Redshift(model, likelihood, config, load_grid(), args, zred, SEED + place, n_each)
            for name in missing:
                if late():
                    break
                first = int(name.split("_")[1])
                cache.put(name, work.piece(cache, range(first, min(first + PIECE, n_each))))
                print(f"z = {zred:.3f}: galaxies from {first} on are done", flush=True)
        found = [piece for name in names if (piece := cache.get(name)) is not None]
        complete &= len(found) == len(names)
        pieces += found
    if not pieces:
        print(json.dumps({"complete": False}))
        return
    report(settings, pieces, complete=complete)


class _Redshift:
    """Galaxies and prior draws at one redshift, with their spectra."""

    def __init__(
        self, model: Any, likelihood: Any, config: Any, grid: Any, args: Any, zred: float, seed: int, n: int
    ) -> None:
        from generative.mock import trained_ages
        from generative.simulator.render import Simulator
        from generative.simulator.stars import band_tables
        from hbm.catalog import Catalog
        from hbm.galaxies import DataBuilder
        from hbm.image_spectra import relative_spectra
        from hbm.library import make_library

        self.model, self.likelihood, self.args, self.seed, self.zred = model, likelihood, args, seed, zred
        bands, one = model.instrument.bands, np.ones((1, len(model.instrument.bands)))
        catalog = Catalog(
            id=("any",), zred=np.array([zred]), zred_err=np.zeros(1), flux=one, flux_err=one,
            observed=one > 0, upper_limit=one < 0, filter_names=bands,
        )  # fmt: skip
        data = DataBuilder(grid, config, bands)(catalog, 0)
        library = make_library(data, config, int(1.1 * (n + args.pool)) + 100, seed=seed)
        inside = trained_ages(library.sites["mwa"], library.sites["logssfr"], zred)
        library = library.select(np.flatnonzero(inside)[: n + args.pool])
        print(f"z = {zred:.3f}: {inside.mean():.1%} of the prior is inside of training", flush=True)
        # The wavelengths themselves are many: averaged at once.
        spectra = relative_spectra(library.sites, config, zred, grid, edges=EDGES)
        self.wave, self.shape, self.scale = (
            spectra.wave_rest,
            np.log(spectra.shape),
            np.log(10) * spectra.scale,
        )
        self.theta = library.theta()
        self.simulator = Simulator(model.instrument, tables=band_tables(model.instrument, [zred]))
        self.n = n

    def piece(self, cache: BatchCache, rows: range) -> dict[str, np.ndarray]:
        """Ranks, errors and widths of some galaxies."""
        from generative.controlled import Chosen, controlled_stamps
        from generative.release import model_path
        from generative.summaries import compile_file
        from hbm.calibration.importance import image_log_prob
        from hbm.image import read_compiled_images
        from hbm.information import weighted_quantile

        names = tuple(f"g{row}" for row in range(rows.stop))
        some = slice(rows.start, rows.stop)
        stamps = controlled_stamps(
            self.simulator, names[some], self.theta[some], 0, Chosen(), seed=1000 * self.seed + rows.start
        )
        file = cache.folder / f"z{self.zred:.4f}_{rows.start}.h5"
        if not file.is_file():
            compile_file(
                self.model, model_path(self.args.model), stamps, file, max_draw=self.args.max_draw, chunk=5
            )
        images = read_compiled_images(file, self.likelihood)
        pool = slice(self.n, None)
        theta, shape, scale = self.theta[pool].astype(np.float32), self.shape[pool], self.scale[pool]
        every = np.column_stack([shape, scale])
        kept: dict[str, list[Any]] = {}
        for place, row in enumerate(rows):
            one = type(images.data)(*(np.asarray(leaf[place]) for leaf in images.data))
            log_weight = np.asarray(image_log_prob(self.likelihood, theta, one), np.float64)
            weight = np.exp(log_weight - log_weight.max())
            weight /= weight.sum()
            truth = np.append(self.shape[row], self.scale[row])
            quantile = np.stack(
                [weighted_quantile(column, weight, np.array([0.16, 0.5, 0.84])) for column in every.T], axis=1
            )
            values = {
                "rank": ranks(every, weight, truth), "off": quantile[1] - truth,
                "width": quantile[2] - quantile[0], "effective": 1 / np.sum(weight**2),
            }  # fmt: skip
            for key, value in values.items():
                kept.setdefault(key, []).append(value)
        before = np.quantile(every, [0.16, 0.5, 0.84], axis=0)
        truths = np.column_stack([self.shape[some], self.scale[some]])
        return {
            **{key: np.stack(value) for key, value in kept.items()}, "wave": self.wave,
            "prior_off": before[1] - truths,
            "prior_width": np.broadcast_to(before[2] - before[0], truths.shape),
        }  # fmt: skip


def report(settings: dict[str, Any], pieces: list[dict[str, np.ndarray]], *, complete: bool) -> None:
    """Print what is known; draw and write it if nothing is missing."""
    whole = {
        name: np.concatenate([piece[name] for piece in pieces])
        for name in ("rank", "off", "width", "effective", "prior_off", "prior_width")
    }
    wave, n = pieces[0]["wave"], len(whole["effective"])
    few = float(np.mean(whole["effective"] < 100))
    middle = np.median(whole["effective"])
    print(f"{n} galaxies; effective draws: median {middle:.0f}; {few:.1%} have fewer than 100")
    prior_half = np.zeros(n) + 0.5
    rows, table = [], []
    for column in range(len(wave) + 1):
        found = summary(whole["rank"][:, column], whole["off"][:, column], whole["width"][:, column])
        before = summary(prior_half, whole["prior_off"][:, column], whole["prior_width"][:, column])
        found["prior_error"], found["prior_claimed"] = before["error"], before["claimed"]
        found["wave"] = float(wave[column]) if column < len(wave) else 0.0
        rows.append(found)
    keys = ("in_68", "in_95", "error", "claimed", "prior_error", "bias")
    for shown in SHOWN:
        found = rows[int(np.argmin(np.abs(wave - shown)))]
        table.append([f"{found['wave']:.0f}", *(f"{found[key]:.3f}" for key in keys)])
    table.append(["scale", *(f"{rows[-1][key]:.3f}" for key in keys)])
    print_table(["wave, A", "68 %", "95 %", "error", "claimed", "of the prior", "bias"], table)
    print(f"errors are natural logarithms; chance in the 68 % column: {(0.68 * 0.32 / n) ** 0.5:.3f}")
    result = {
        "complete": complete, "n": n, "effective_median": float(np.median(whole["effective"])),
        "few_effective": few, "scale": rows[-1], "by_wave": rows[:-1],
    }  # fmt: skip
    if complete:
        draw(rows, n)
        write_result("image_spectra", settings, result)
    else:
        print("not complete: call it again to go on")
        print(json.dumps(result))


def draw(rows: list[dict[str, float]], n: int) -> None:
    """Error and coverage against wavelength."""
    from matplotlib.figure import Figure

    from hbm.plots.style import CHAINS, INK, style

    wave = np.array([row["wave"] for row in rows[:-1]]) / 1e4

    def column(key: str) -> np.ndarray:
        return np.array([row[key] for row in rows[:-1]])

    with style():
        figure = Figure(figsize=(8.0, 6.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
        upper.plot(wave, column("prior_error"), color=INK, linestyle="--", label="without the image (prior)")
        upper.plot(
            wave, column("error"), color=CHAINS[0], linewidth=2, label="from the image: error of the median"
        )
        upper.plot(
            wave,
            column("claimed"),
            color=CHAINS[1],
            linewidth=1.5,
            label="from the image: half width claimed",
        )
        upper.set_ylabel(r"$\Delta \ln (F_\lambda / F_{5500})$, 68 %")
        upper.set_ylim(bottom=0)
        upper.legend()
        upper.set_title(
            f"{n} held-out simulations; the scale: {rows[-1]['error']:.2f}", loc="left", fontsize=12
        )
        for level, key, colour in ((0.68, "in_68", CHAINS[0]), (0.95, "in_95", CHAINS[2])):
            chance = 2 * (level * (1 - level) / n) ** 0.5
            lower.axhspan(level - chance, level + chance, color=colour, alpha=0.15, linewidth=0)
            lower.plot(wave, column(key), color=colour, linewidth=1.8, label=f"{level:.0%} intervals")
        lower.set_ylim(0.5, 1)
        lower.set_xscale("log")
        lower.set_xticks([0.15, 0.2, 0.3, 0.5, 1, 2], ["0.15", "0.2", "0.3", "0.5", "1", "2"])
        lower.tick_params(axis="x", which="minor", labelbottom=False)
        lower.set_xlabel(r"Rest wavelength [$\mu$m]")
        lower.set_ylabel("part of truths inside")
        lower.legend(loc="lower right")
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "image_spectra.png", dpi=130)


if __name__ == "__main__":
    main()
