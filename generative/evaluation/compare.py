"""Distances between distributions of statistics, with what chance alone would give."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from generative.evaluation.morphology import Morphologies


class Distance(NamedTuple):
    """Distance of one statistic's distribution, in standard deviations of the reference."""

    statistic: str
    where: str
    """"all", or a condition and a part of its range."""
    wasserstein: float
    """Wasserstein-1 distance of generated from reference."""
    floor: float
    """Median of the distance between two halves' worth of the reference, resampled to the same sizes."""
    floor_95: float
    """95th percentile of it."""
    n: int
    """Images on the smaller side."""


def distances(
    generated: Morphologies,
    reference: Morphologies,
    theta_generated: Float[np.ndarray, "image theta"],
    theta_reference: Float[np.ndarray, "image theta"],
    theta_names: tuple[str, ...],
    *,
    n_bin: int = 3,
    n_boot: int = 100,
    seed: int = 0,
) -> list[Distance]:
    """Distances of all statistics, marginally and in equal parts of each condition.

    The floor draws two samples of the sizes compared from the reference's values, with replacement: a model
    whose distribution is the reference's would show it.
    """
    rng = np.random.default_rng(seed)
    good_g, good_r = generated.measured, reference.measured
    g, r = generated.values[good_g], reference.values[good_r]
    groups = [("all", np.ones(len(g), bool), np.ones(len(r), bool))]
    for i, name in enumerate(theta_names):
        tg, tr = theta_generated[good_g, i], theta_reference[good_r, i]
        edges = np.quantile(theta_reference[:, i], np.linspace(0, 1, n_bin + 1))
        for k in range(n_bin):
            low, high = edges[k], edges[k + 1]
            label = f"{name} {low:.3g} to {high:.3g}"
            groups.append((label, (tg >= low) & (tg <= high), (tr >= low) & (tr <= high)))
    result = []
    for where, in_g, in_r in groups:
        for j, statistic in enumerate(generated.names):
            result.append(_distance(g[in_g, j], r[in_r, j], statistic, where, n_boot, rng))
    return [d for d in result if d is not None]


def _distance(
    g: np.ndarray, r: np.ndarray, statistic: str, where: str, n_boot: int, rng: np.random.Generator
) -> Distance | None:
    from scipy.stats import wasserstein_distance

    n = min(len(g), len(r))
    if n < 8:
        return None
    scale = float(np.std(r)) or 1.0
    chance = [
        wasserstein_distance(rng.choice(r, len(g)), rng.choice(r, len(r))) / scale for _ in range(n_boot)
    ]
    return Distance(
        statistic, where, float(wasserstein_distance(g, r)) / scale, float(np.median(chance)),
        float(np.quantile(chance, 0.95)), n,
    )  # fmt: skip
