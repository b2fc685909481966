"""Denoising loss at each noise level, with and without the properties, and what it says of them."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from generative.checkpoint import Model
from generative.data import Batch
from generative.network import Separable
from generative.noise import likelihood_nodes
from generative.refit import CachedStatistics
from generative.statistics import Corrected, information_gain


class LevelLoss(NamedTuple):
    """Mean of ||x - D||^2 / sigma^2 over pixels at each noise level."""

    sigma: Float[np.ndarray, " level"]
    conditional: Float[np.ndarray, " level"]
    unconditional: Float[np.ndarray, " level"]
    error: Float[np.ndarray, " level"]
    """Standard error of the difference of the two."""


@torch.no_grad()
def level_losses(
    model: Model, batch: Batch, *, n_level: int = 12, seed: int = 0, chunk: int = 64
) -> LevelLoss:
    """Denoising loss of held-out images; the same noise with and without theta."""
    clean = model.preparation.forward(batch.image, batch.noise, batch.observed)
    levels, _ = likelihood_nodes(model.sigma_sample, n_level)
    generator = torch.Generator().manual_seed(seed)
    unknown = torch.full_like(batch.theta, torch.nan)
    rows = []
    for sigma in levels:
        eps = torch.randn(clean.shape, generator=generator).to(clean.device)
        noisy, level = clean + sigma * eps, sigma.to(clean.device).expand(len(clean))
        pair = []
        for theta in (batch.theta, unknown):
            denoised = torch.cat(
                [
                    model.network(noisy[some], level[some], theta[some], batch.u[some], batch.observed[some])
                    for some in torch.arange(len(clean)).split(chunk)
                ]
            )
            pair.append((((clean - denoised) * batch.observed / sigma) ** 2).flatten(1).mean(1))
        difference = pair[0] - pair[1]
        rows.append([pair[0].mean(), pair[1].mean(), difference.std() / len(clean) ** 0.5])
    table = torch.tensor(rows).double().numpy()
    return LevelLoss(levels.double().numpy(), table[:, 0], table[:, 1], table[:, 2])


class Information(NamedTuple):
    """What the likelihood learns of the properties."""

    gain: float
    """Mean information gain, nats."""
    error: float
    """Its standard error."""
    cover_68: dict[str, float]
    """Part of the images whose true value is in the central 68 % of the posterior, by property."""
    cover_95: dict[str, float]
    """And in the central 95 %."""
    deviation: dict[str, float]
    """Largest difference between the coverage of central intervals and their probability, by property."""
    n: int
    effective: float
    """Median effective number of prior draws in a posterior: below some 100, coverage comes out too low."""


@torch.no_grad()
def information(
    model: Model,
    cached: CachedStatistics,
    proposal: torch.Tensor,
    *,
    refitted: bool = True,
    corrected: bool = False,
) -> Information:
    """Information gain and coverage on held-out simulations.

    Parameters
    ----------
    cached
        From `generative.refit.cache_statistics`, on the model's own nodes.
    proposal
        Scaled theta from the distribution that the images' were drawn from.
    refitted
        Whether to use the refitted coefficients and node weights, or the denoiser's own.
    corrected
        Whether to use the ratio correction, with the numbers of ``cached``.

    Raises
    ------
    TypeError
        If the model is not separable, or has no correction and that is asked for.
    """
    if not isinstance(model.network, Separable) or model.coefficients is None:
        raise TypeError("`model` must be separable to have statistics.")
    nodes, width = likelihood_nodes(model.sigma_likelihood, len(model.node_weight))
    nodes = nodes.to(cached.G.device)
    weight = width * (model.node_weight if refitted else torch.ones_like(model.node_weight))
    coefficients = model.coefficients if refitted else model.network.coefficients
    ratio = None
    if corrected:
        if model.correction is None or not cached.numbers.shape[1]:
            raise TypeError("`model` and `cached` must have a ratio correction.")
        ratio = Corrected(model.correction, cached.numbers)
    gain, rank, effective = information_gain(
        coefficients, cached.G, cached.b, cached.theta, cached.u, proposal, nodes, weight.to(nodes.device),
        corrected=ratio,
    )  # fmt: skip

    def cover(tail: float) -> dict[str, float]:
        inside = ((rank > tail) & (rank < 1 - tail)).float().mean(0)
        return dict(zip(model.theta_names, inside.tolist(), strict=True))

    # A rank r lies in the central intervals of probability |2 r - 1| and more.
    inside = torch.sort((2 * rank - 1).abs(), dim=0).values
    expected = (torch.arange(len(inside), device=inside.device) + 0.5)[:, None] / len(inside)
    off = (inside - expected).abs().max(dim=0).values
    return Information(
        float(gain.mean()),
        float(gain.std() / len(gain) ** 0.5),
        cover(0.16),
        cover(0.025),
        dict(zip(model.theta_names, off.tolist(), strict=True)),
        len(gain),
        float(effective.median()),
    )
