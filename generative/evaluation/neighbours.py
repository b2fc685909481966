"""Whether a model repeats its training images."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from generative.data import turned


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
    """Compare nearest-neighbour distances, of images averaged over 2 x 2 pixels, else noise rules.

    Images are compared in all eight orientations: training turns and mirrors them.
    """

    def plain(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x.cpu().float(), 2).flatten(1)

    bank = plain(training)

    def nearest(images: Tensor) -> tuple[Tensor, Tensor]:
        turns = (turned(images, torch.full((len(images),), k)) for k in range(8))
        found = [torch.cdist(plain(image), bank).min(dim=1) for image in turns]
        distance, index = (torch.stack(items) for items in zip(*found, strict=True))
        best = distance.argmin(dim=0, keepdim=True)
        return distance.gather(0, best)[0], index.gather(0, best)[0]

    (of_generated, index), (of_held, _) = nearest(generated), nearest(held_out)
    limit = torch.quantile(of_held, 0.01)
    return Memorisation(
        float(of_generated.median()),
        float(of_held.median()),
        float((of_generated < limit).float().mean()),
        index.numpy(),
    )
