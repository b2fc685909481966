"""Figures of an evaluation."""

from typing import TYPE_CHECKING

import numpy as np

from generative.evaluation.compare import Distance
from generative.evaluation.losses import LevelLoss
from generative.evaluation.morphology import Morphologies

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def morphology_figure(generated: Morphologies, reference: Morphologies, reference_name: str) -> "Figure":
    """Histograms of every statistic."""
    from matplotlib.figure import Figure

    n = len(generated.names)
    n_column = 4
    figure = Figure(figsize=(11, 2.3 * -(-n // n_column)), layout="constrained")
    axes = figure.subplots(-(-n // n_column), n_column, squeeze=False)
    for axis in axes.flat[n:]:
        axis.axis("off")
    for j, (axis, name) in enumerate(zip(axes.flat, generated.names, strict=False)):
        g, r = generated.values[generated.measured, j], reference.values[reference.measured, j]
        low, high = np.quantile(np.concatenate([g, r]), [0.005, 0.995])
        bins = np.linspace(low, high if high > low else low + 1, 25)
        axis.hist(r, bins, density=True, color="0.75", label=reference_name)
        axis.hist(g, bins, density=True, histtype="step", color="C0", lw=1.6, label="generated")
        axis.set_xlabel(name)
        axis.set_yticks([])
    axes.flat[0].legend(fontsize=8)
    return figure


def distance_figure(found: list[Distance]) -> "Figure":
    """Distances over their chance level: one column per statistic, a row per part of the conditions."""
    from matplotlib.figure import Figure

    where = list(dict.fromkeys(d.where for d in found))
    names = list(dict.fromkeys(d.statistic for d in found))
    table = np.full((len(where), len(names)), np.nan)
    for d in found:
        table[where.index(d.where), names.index(d.statistic)] = d.wasserstein
    figure = Figure(figsize=(2.5 + 0.6 * len(names), 1.5 + 0.27 * len(where)), layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(table, vmin=0, vmax=1, cmap="magma_r", aspect="auto")
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(where)), where, fontsize=8)
    beyond = {(d.where, d.statistic) for d in found if d.wasserstein > d.floor_95}
    for i, line in enumerate(where):
        for j, name in enumerate(names):
            if np.isfinite(table[i, j]):
                text = f"{table[i, j]:.2f}" + ("" if (line, name) in beyond else "°")
                axis.text(
                    j, i, text, ha="center", va="center", fontsize=6, color="w" if table[i, j] > 0.5 else "k"
                )
    figure.colorbar(picture, label="Wasserstein distance / standard deviation (° within chance)")
    return figure


def loss_figure(losses: LevelLoss) -> "Figure":
    """Denoising loss per noise level, and what knowing the properties takes off it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.loglog(losses.sigma, losses.unconditional, color="0.5", label="unconditional")
    left.loglog(losses.sigma, losses.conditional, color="C0", label="conditional")
    left.set(xlabel="sigma", ylabel="|x - D|² / sigma² per pixel")
    left.legend()
    gain = losses.unconditional - losses.conditional
    right.errorbar(losses.sigma, gain, losses.error, color="C0", marker="o", ms=3)
    right.axhline(0, color="0.7", lw=1)
    right.set(xscale="log", xlabel="sigma", ylabel="unconditional - conditional")
    return figure
