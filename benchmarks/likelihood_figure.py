"""The likelihood of one galaxy's image over each pair of properties, direct and compiled.

The other properties are held at their true values. The direct likelihood runs the network at every point of
the planes, with noise draws of its own: what the compiled one differs by is the Monte Carlo error of both.

    python -m benchmarks.likelihood_figure [--model sdss-griz] [--galaxy 3] [--out FILE]
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.lines import Line2D

from benchmarks.image_likelihood import simulated
from generative.conditions import RANGE, THETA, age_universe_gyr, observing_columns, theta_columns
from generative.likelihood import direct_log_likelihood
from generative.network import Separable
from generative.release import load
from generative.stamps import Stamps
from generative.statistics import log_likelihood
from generative.summaries import summarize, unpacked
from hbm.plots.style import INK, MODEL, TRUTH, style

LEVELS = (-8.0, -4.5, -2.0, -0.5)
"""Nats below the highest point of a plane: 4, 3, 2 and 1 sigma of a Gaussian."""
LABELS = {
    "logmass": "log M", "logssfr": "log sSFR", "mwa": "age / Gyr", "logzsol": "log Z", "dust2": "dust2",
    "gas_logu": "log U",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="sdss-griz")
    parser.add_argument("--galaxy", type=int, default=3, help="number of the simulation")
    parser.add_argument("--points", type=int, default=9, help="along each side of a plane")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/likelihood.png"))
    args = parser.parse_args(argv)
    model = load(args.model)
    if not isinstance(model.network, Separable) or model.coefficients is None or model.instrument is None:
        raise SystemExit("a separable model of an instrument is needed.")
    stamps, theta = simulated(model, args.galaxy + 1, "cpu")
    one = Stamps(
        stamps.id[-1:], *(item[-1:] for item in (stamps.image, stamps.noise, stamps.observed)),
        type(stamps.u)(*(item[-1:] for item in stamps.u)),
    )  # fmt: skip
    truth = theta_columns(torch.as_tensor(theta[-1:]), one.u.zred)[0]
    axis = torch.linspace(-1, 1, args.points)
    pairs = list(itertools.combinations(range(len(THETA)), 2))
    points = truth.repeat(len(pairs), args.points, args.points, 1)
    for k, (i, j) in enumerate(pairs):
        points[k, ..., i], points[k, ..., j] = torch.meshgrid(axis, axis, indexing="ij")
    flat = points.reshape(1, -1, len(THETA))
    nodes, weight = model.nodes
    found = summarize(model, one)
    u = observing_columns(one.u, model.instrument)
    with torch.no_grad():
        compiled = log_likelihood(
            model.coefficients, unpacked(torch.as_tensor(found.G)), torch.as_tensor(found.b), flat, u, nodes,
            weight,
        )  # fmt: skip
    model.network.coefficients = model.coefficients  # the network with what the refit has found
    clean = model.preparation.forward(one.image, one.noise, one.observed)
    n = flat.shape[1]
    direct = torch.cat(
        [
            # One image at many theta: the images of a batch.
            direct_log_likelihood(
                model.network, clean.expand(len(some), -1, -1, -1), flat[0, some][:, None],
                u.expand(len(some), -1), one.observed.expand(len(some), -1, -1, -1), nodes, weight, n_draw=8,
                seed=99,
            ).value[:, 0]
            for some in torch.arange(n).split(128)
        ]
    )[None]  # fmt: skip
    shape = (len(pairs), args.points, args.points)
    values = [item.reshape(shape).double().numpy() for item in (direct, compiled)]
    values = [item - item.max(axis=(1, 2), keepdims=True) for item in values]
    near = (values[0] > -8) & (values[1] > -8)
    difference = np.where(near, values[1] - values[0], np.nan)
    centred = difference - np.nanmean(difference, axis=(1, 2), keepdims=True)
    print(f"{args.model}, galaxy {args.galaxy}: direct and compiled differ by "
          f"{np.sqrt(np.nanmean(centred**2)):.3f} nats (rms within 8 nats of the best)")  # fmt: skip
    low, high = property_range(one)
    draw(values[0], values[1], pairs, low, high, theta[-1], args.out)


def property_range(stamps: Stamps) -> tuple[np.ndarray, np.ndarray]:
    """Properties at -1 and 1."""
    low, high = np.asarray(list(RANGE.values())).T
    age = float(age_universe_gyr(stamps.u.zred)[0])
    low[2], high[2] = low[2] * age, high[2] * age
    return low, high


def draw(
    direct: np.ndarray,
    compiled: np.ndarray,
    pairs: list[tuple[int, int]],
    low: np.ndarray,
    high: np.ndarray,
    truth: np.ndarray,
    out: Path,
) -> None:
    """One panel per pair, the lower triangle of a square."""
    n = len(THETA) - 1
    with style():
        figure, axes = plt.subplots(n, n, figsize=(11, 11), sharex="col", sharey="row", squeeze=False)
        for axis in axes.flat:
            axis.set_visible(False)
        for k, (i, j) in enumerate(pairs):
            axis = axes[j - 1, i]
            axis.set_visible(True)
            x, y = (np.linspace(low[m], high[m], direct.shape[1]) for m in (i, j))
            axis.contourf(x, y, direct[k].T, levels=[*LEVELS, 0.0], cmap="Greys", extend="min", alpha=0.8)
            axis.contour(x, y, compiled[k].T, levels=LEVELS, colors=MODEL, linewidths=1.3, linestyles="-")
            axis.plot(truth[i], truth[j], "+", color=TRUTH, markersize=14, markeredgewidth=2)
            if j == n:
                axis.set_xlabel(LABELS[THETA[i]])
            if i == 0:
                axis.set_ylabel(LABELS[THETA[j]])
        handles = [
            plt.Rectangle((0, 0), 1, 1, color=INK, alpha=0.5),
            Line2D([], [], color=MODEL),
            Line2D([], [], color=TRUTH, marker="+", linestyle="", markersize=14, markeredgewidth=2),
        ]
        labels = ["direct: the network at every point", "compiled", "truth"]
        figure.legend(handles, labels, loc="upper right", bbox_to_anchor=(0.9, 0.88), fontsize=14)
        figure.subplots_adjust(wspace=0.06, hspace=0.06)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, bbox_inches="tight", dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    main()
