r"""Noise levels: which to train at, and the nodes of the likelihood's integral.

Training draws levels from a density over ln sigma that is constant in bins, in strata of equal probability,
and divides by the density: the loss stays an integral over ln sigma. The density follows the scatter of the
loss in each bin, which is the allocation of least variance (Neyman 1934), mixed with a uniform part.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

N_BIN = 16
_UNIFORM = 0.3
_MEMORY = 0.99


class NoiseDensity(NamedTuple):
    """Scatter of the loss in bins of ln sigma between two levels."""

    low: float
    """ln of the lowest level."""
    high: float
    """ln of the highest level."""
    mean: Float[Tensor, " bin"]
    """Running mean of the loss per unit of ln sigma."""
    square: Float[Tensor, " bin"]
    """Running mean of its square."""

    @classmethod
    def start(cls, sigma: tuple[float, float]) -> "NoiseDensity":
        """Uniform in ln sigma."""
        return cls(math.log(sigma[0]), math.log(sigma[1]), torch.zeros(N_BIN), torch.ones(N_BIN))

    def probability(self) -> Float[Tensor, " bin"]:
        """Probability of each bin."""
        scatter = torch.sqrt((self.square - self.mean**2).clamp(min=1e-12))
        return (1 - _UNIFORM) * scatter / scatter.sum() + _UNIFORM / len(scatter)

    def draw(
        self, n_level: int, n: int, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> tuple[Float[Tensor, "level n"], Float[Tensor, "level n"]]:
        """Levels sigma and their weights in an integral over ln sigma.

        The levels of one image are in ``n_level`` strata of equal probability, shifted together at random, so
        that ``sum(weight * f(sigma))`` is an unbiased estimate of the integral of f over ln sigma.
        """
        shift = torch.rand(n, generator=generator, device=device)
        position = (torch.arange(n_level, device=device)[:, None] + shift) / n_level
        probability = self.probability().to(device)
        edge = torch.cat([torch.zeros(1, device=device), torch.cumsum(probability, 0)])
        index = (torch.searchsorted(edge, position.contiguous(), right=True) - 1).clamp(0, N_BIN - 1)
        inside = ((position - edge[index]) / probability[index]).clamp(0, 1)
        width = (self.high - self.low) / N_BIN
        log_sigma = self.low + width * (index + inside)
        density = probability[index] / width
        return torch.exp(log_sigma), 1 / (density * n_level)

    def updated(self, sigma: Float[Tensor, " sample"], loss: Float[Tensor, " sample"]) -> "NoiseDensity":
        """With new losses at these levels taken in."""
        sigma, loss = sigma.detach().float().cpu(), loss.detach().float().cpu()
        width = (self.high - self.low) / N_BIN
        index = ((torch.log(sigma) - self.low) / width).long().clamp(0, N_BIN - 1)
        count = torch.zeros(N_BIN).index_add(0, index, torch.ones_like(loss))
        mean = torch.zeros(N_BIN).index_add(0, index, loss) / count.clamp(min=1)
        square = torch.zeros(N_BIN).index_add(0, index, loss**2) / count.clamp(min=1)
        keep = torch.where(count > 0, _MEMORY, 1.0)
        return self._replace(
            mean=keep * self.mean + (1 - keep) * mean, square=keep * self.square + (1 - keep) * square
        )


def likelihood_nodes(sigma: tuple[float, float], n: int) -> tuple[Float[Tensor, " node"], float]:
    """Nodes of the integral over ln sigma: the middles of ``n`` equal parts, and their width in ln sigma."""
    low, high = math.log(sigma[0]), math.log(sigma[1])
    width = (high - low) / n
    return torch.exp(low + width * (torch.arange(n) + 0.5)), width
