r"""The likelihood of an image directly from a conditional denoiser, of any kind.

For the optimal denoiser D (Kong et al. 2023, arXiv:2302.03792; the same integral is the variational bound of
Kingma et al. 2021, arXiv:2107.00630),

.. math:: \ln p(x | \theta, u) = const(x) - \int d\ln\sigma \,
          E_\epsilon \|x - D(x + \sigma\epsilon; \sigma, \theta, u)\|^2 / \sigma^2

Noise draws come in antithetic pairs and are the same for all theta, so that differences in theta, the only
thing that a posterior depends on, have little Monte Carlo error. For a separable denoiser
`generative.statistics` gives the same numbers without running the network for each theta.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from generative.correction import Correction
from generative.noise import NoiseDensity
from generative.statistics import Corrected, draw_pairs, noise_image

ConditionalDenoiser = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Noisy images, noise levels, theta, u and mask to denoised images: `generative.network.Separable`, `Film`,
or a network of your own."""


class DirectLikelihood(NamedTuple):
    """Log-likelihoods in nats, up to a constant of each image."""

    value: Float[Tensor, "batch other"]
    pairs: Float[Tensor, "pair batch other"]
    """The same from each antithetic pair of noise draws alone: ``value`` is their mean."""

    def difference_error(self, reference: int = 0) -> Float[Tensor, "batch other"]:
        """Monte Carlo standard error of ``value`` minus ``value`` at the theta with index ``reference``.

        Raises
        ------
        ValueError
            If there is only one pair of draws.
        """
        if len(self.pairs) < 2:
            raise ValueError("`n_draw` must be at least 4 (two antithetic pairs) for an error, got 2.")
        difference = self.pairs - self.pairs[..., reference, None]
        return difference.std(dim=0) / math.sqrt(len(self.pairs))


def placed_nodes(density: NoiseDensity, n: int) -> tuple[Float[Tensor, " node"], Float[Tensor, " node"]]:
    """Nodes where a density of noise levels is high, and their weights in the integral over ln sigma.

    The middles of ``n`` parts of equal probability: `generative.noise.likelihood_nodes` for a uniform one.
    """
    probability = density.probability().double()
    width = (density.high - density.low) / len(probability)
    edge = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumsum(probability, 0)])
    edge = edge / edge[-1]
    # Weights are the parts' widths, so that they add up to the whole range.
    ends = torch.arange(n + 1, dtype=torch.float64) / n

    def place(fraction: Tensor) -> Tensor:
        """Logarithm of the level where the probability below is ``fraction``."""
        index = (torch.searchsorted(edge, fraction, right=True) - 1).clamp(0, len(probability) - 1)
        inside = (fraction - edge[index]) / (edge[index + 1] - edge[index])
        return width * (index + inside.clamp(0, 1)) + torch.full_like(inside, density.low)

    middle = place(ends[:-1] + 0.5 / n)
    return torch.exp(middle).float(), torch.diff(place(ends)).float()


@torch.no_grad()
def direct_log_likelihood(
    denoiser: ConditionalDenoiser,
    clean: Float[Tensor, "batch band height width"],
    theta: Float[Tensor, "batch other theta"],
    u: Float[Tensor, "batch column"],
    observed: Bool[Tensor, "batch band height width"],
    nodes: Float[Tensor, " node"],
    weight: Float[Tensor, " node"],
    *,
    n_draw: int = 2,
    seed: int = 0,
) -> DirectLikelihood:
    """Log-likelihood of images at several theta each, by running the denoiser at all of them.

    Parameters
    ----------
    denoiser
        Gives denoised images.
    clean, u, observed
        Prepared images (`generative.preparation`), scaled conditions, mask. Pixels and bands that are not
        observed are integrated out, as the denoiser has learnt to do without them.
    theta
        Scaled properties.
    nodes, weight
        Noise levels and their weights in the integral over ln sigma.
    n_draw
        Noise draws per node, an even number: each is used with both signs.
    seed
        Of the noise: the draws are those of `generative.statistics.image_statistics` with this seed.

    Raises
    ------
    ValueError
        If ``n_draw`` is not even and positive.
    """
    n, m, _ = theta.shape
    which = draw_pairs(n_draw)
    pairs = torch.zeros(len(which), n, m, device=clean.device)
    for k, (sigma, w) in enumerate(zip(nodes, weight, strict=True)):
        level = sigma.to(clean.device).expand(n)
        for pair in which:
            eps = noise_image(clean.shape[1:], seed, k, pair).to(clean.device)
            for sign in (1.0, -1.0):
                noisy = clean + sign * sigma * eps
                for j in range(m):
                    residual = (clean - denoiser(noisy, level, theta[:, j], u, observed)) * observed / sigma
                    square = (residual**2).flatten(1).sum(1)
                    pairs[pair, :, j] -= 0.5 * float(w) * square
    return DirectLikelihood(pairs.mean(dim=0), pairs)


class DirectImage:
    """The direct likelihood of one image as a differentiable function of theta, always with the same noise.

    Parameters
    ----------
    denoiser
        Gives denoised images.
    clean, u, observed
        One prepared image, its scaled conditions and mask, each with a leading axis of one.
    nodes, weight
        Noise levels and their weights.
    n_draw, seed
        As for `direct_log_likelihood`, and the same noise.
    correction
        Ratio correction, of a model that has one.

    Raises
    ------
    ValueError
        If there is not one image, or ``n_draw`` is not even and positive.
    """

    def __init__(
        self,
        denoiser: ConditionalDenoiser,
        clean: Float[Tensor, "one band height width"],
        u: Float[Tensor, "one column"],
        observed: Bool[Tensor, "one band height width"],
        nodes: Float[Tensor, " node"],
        weight: Float[Tensor, " node"],
        *,
        n_draw: int = 2,
        seed: int = 0,
        correction: Correction | None = None,
    ) -> None:
        if len(clean) != 1:
            raise ValueError(f"`clean` must be one image, got {len(clean)}.")
        noisy, level, share = [], [], []
        for k, (sigma, w) in enumerate(zip(nodes, weight, strict=True)):
            for pair in draw_pairs(n_draw):
                eps = sigma * noise_image(clean.shape[1:], seed, k, pair)
                noisy += [clean[0] + eps, clean[0] - eps]
                level += [sigma, sigma]
                share += [float(w) / n_draw] * 2
        n = len(noisy)
        self.denoiser, self.clean = denoiser, clean.expand(n, -1, -1, -1)
        self.noisy, self.level = torch.stack(noisy), torch.stack(level)
        self.share = torch.tensor(share)
        self.u, self.observed = u.expand(n, -1), observed.expand(n, -1, -1, -1)
        self._corrected = None
        if correction is not None:
            self._corrected = Corrected(correction, correction.numbers(clean, u, observed))

    def __call__(self, theta: Float[Tensor, " theta"]) -> Float[Tensor, ""]:
        """Ln p(image | theta) in nats, up to a constant; ``theta`` scaled."""
        wide = theta.expand(len(self.noisy), -1)
        denoised = self.denoiser(self.noisy, self.level, wide, self.u, self.observed)
        residual = (self.clean - denoised) * self.observed / self.level[:, None, None, None]
        logp = -(self.share * (residual**2).flatten(1).sum(1)).sum()
        if self._corrected is None:
            return logp
        return self._corrected(logp[None, None], theta[None, None], self.u[:1])[0, 0]
