"""Posterior predictive images: what the model expects a galaxy to look like, beside what it looks like."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from generative.checkpoint import Model
from generative.conditions import (
    LOG_AGE_RECENT,
    OLD_AGE_FRACTION,
    RANGE,
    THETA,
    Observing,
    age_universe_gyr,
    mean_age_fraction,
    old_age_fraction,
)
from generative.display import image_grid, to_rgb
from generative.draw import Drawn, draw
from generative.stamps import Stamps

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def predictive_images(
    model: Model,
    stamps: Stamps,
    row: int,
    theta: Float[np.ndarray, "draw theta"],
    *,
    n: int = 11,
    seed: int = 0,
) -> Drawn:
    """Images drawn at posterior draws, under the conditions that one galaxy was observed in.

    Parameters
    ----------
    model
        Image model.
    stamps, row
        Observed images, and which of them.
    theta
        Posterior draws of the properties, in the order of `generative.conditions.THETA`. ``n`` of them,
        spread evenly, are used; one outside of what training covered is moved to its edge.
    n
        Images.
    seed
        Of the noise that they start from.

    Raises
    ------
    ValueError
        If there are no draws, or they are not finite or of another number of properties.
    """
    if theta.ndim != 2 or theta.shape[1] != len(THETA) or len(theta) == 0 or not np.isfinite(theta).all():
        raise ValueError(f"`theta` must be finite draws of {THETA}, (draw, 6), got shape {theta.shape}.")
    rows = ((np.arange(n) + 0.5) * len(theta) / n).astype(int)
    u = Observing(*(item[row : row + 1].expand(n, *item.shape[1:]) for item in stamps.u))
    return draw(model, nearest_trained(torch.as_tensor(theta[rows]).float(), u.zred), u, seed=seed)


def nearest_trained(
    theta: Float[Tensor, "draw theta"], zred: Float[Tensor, " draw"]
) -> Float[Tensor, "draw theta"]:
    """Properties inside of what training covered."""
    moved = theta.clone()
    for i, name in enumerate(THETA):
        if name != "mwa":
            moved[:, i] = theta[:, i].clamp(*RANGE[name])
    age = age_universe_gyr(zred)
    recent = 10 ** (moved[:, 1] + LOG_AGE_RECENT)
    old = old_age_fraction(theta[:, 2] / age, recent).clamp(*OLD_AGE_FRACTION)
    moved[:, 2] = mean_age_fraction(old, recent) * age
    return moved


def predictive_figure(model: Model, stamps: Stamps, row: int, drawn: Drawn) -> "Figure":
    """The observed image, then images of the posterior, each in its own stretch."""
    noise = stamps.noise[row]
    seen = torch.where(stamps.observed[row], stamps.image[row] / noise[:, None, None], 0.0)
    images = torch.cat([seen[None], drawn.image])
    labels = ["observed", *["posterior"] * len(drawn.image)]
    return image_grid(to_rgb(images, model.instrument), n_column=min(6, len(images)), labels=labels)
