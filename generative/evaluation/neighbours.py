"""Whether a model repeats its training images."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Memorisation(NamedTuple):
    """Distance to the nearest training image, in prepared pixels, of generated and of held-out images."""

    generated: float
    """Median."""
    held_out: float
    """Median."""
    closer: float
    """Part of the generated images nearer to a training image than 99 % of the held-out ones."""
    nearest: Float[np.ndarray, " image"]
    """Of each generated image, the index of the nearest training image."""


def memorisation(
    generated: Float[Tensor, "image band height width"],
    held_out: Float[Tensor, "other band height width"],
    training: Float[Tensor, "train band height width"],
) -> Memorisation:
    """Compare nearest-neighbour distances, of images averaged over 2 x 2 pixels, else noise rules."""

    def plain(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x.cpu().float(), 2).flatten(1)

    bank = plain(training)
    of_generated, of_held = (torch.cdist(plain(x), bank).min(dim=1) for x in (generated, held_out))
    limit = torch.quantile(of_held.values, 0.01)
    return Memorisation(
        float(of_generated.values.median()),
        float(of_held.values.median()),
        float((of_generated.values < limit).float().mean()),
        of_generated.indices.numpy(),
    )
