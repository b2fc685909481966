"""Galaxies with photometry and images of the same properties, and nothing else in common."""

from typing import NamedTuple

import numpy as np
import torch

from generative.checkpoint import Model
from generative.conditions import (
    LOG_AGE_RECENT,
    OLD_AGE_FRACTION,
    THETA,
    Observing,
    age_universe_gyr,
    draw_observing,
    old_age_fraction,
)
from generative.simulator.render import Simulator
from generative.stamps import Stamps
from hbm.catalog import Catalog
from hbm.galaxies import DataBuilder
from hbm.sbc import prior_flux, simulate

DEPTH = 20.0
"""Median flux of the prior over its error, in each band and at each redshift."""


class Mock(NamedTuple):
    """Simulated survey."""

    catalog: Catalog
    """Photometry."""
    stamps: Stamps
    """Images, in the order of the catalogue."""
    truth: dict[str, np.ndarray]
    """Parameters and derived quantities, by galaxy."""
    outside: float
    """Part of the prior draws that were left out: older than what the image model was trained on."""


def mock_survey(builder: DataBuilder, model: Model, n: int, seed: int) -> Mock:
    """Galaxies from the interim prior, with the redshifts and conditions of the image model's training.

    Errors of the fluxes depend on band and redshift alone, conditions of the images on nothing.
    """
    if model.instrument is None:
        raise ValueError("`model` must be of an instrument.")
    simulator = Simulator(model.instrument)
    rng = np.random.default_rng(seed)
    n_drawn = n + max(8, n // 20)
    # A few redshifts: photometry is compiled once for each.
    index = torch.as_tensor(
        rng.choice(np.linspace(0, len(simulator.tables.zred) - 1, 4).astype(int), n_drawn)
    )
    zred = simulator.tables.zred[index].double().numpy()
    error = np.empty((n_drawn, len(builder.filters)))
    for value in np.unique(zred):
        error[zred == value] = prior_flux(builder, float(value)) / DEPTH
    drawn = simulate(builder, zred, error, seed=seed)
    age = age_universe_gyr(torch.as_tensor(zred))
    mwa, logssfr = (torch.as_tensor(drawn.truth[name]) for name in ("mwa", "logssfr"))
    old = old_age_fraction(mwa / age, 10 ** (logssfr + LOG_AGE_RECENT)).numpy()
    inside = (old > OLD_AGE_FRACTION[0]) & (old < OLD_AGE_FRACTION[1])
    rows = np.flatnonzero(inside)[:n]
    if len(rows) < n:
        raise ValueError("too many galaxies of the prior are outside of what the image model was trained on.")
    theta = torch.as_tensor(np.stack([drawn.truth[name][rows] for name in THETA], axis=1)).float()
    generator = torch.Generator().manual_seed(seed)
    at = simulator.tables.zred[index[rows]].float()
    u = draw_observing(n, at, model.instrument, generator)
    parts = []
    for first in range(0, n, 100):
        some = slice(first, min(first + 100, n))
        conditions = Observing(*(item[some] for item in u))
        parts.append(simulator.observe(theta[some], index[rows][some], conditions, generator))
    image, noise = (torch.cat([getattr(part, name) for part in parts]) for name in ("image", "noise"))
    catalog = drawn.catalog.select(rows)
    stamps = Stamps(np.asarray(catalog.id), image, noise, torch.ones_like(image, dtype=torch.bool), u)
    truth = {name: value[rows] for name, value in drawn.truth.items()}
    return Mock(catalog, stamps, truth, float(1 - inside.mean()))
