r"""Sufficient statistics of images under a separable model, and the likelihood they give.

On nodes sigma_k with weights w_k,

.. math:: \ln p(x | \theta, u) = const(x) - \sum_k w_k \left[c_k^T G_k c_k - 2 b_k^T c_k\right],
          \quad c_k = A(\sigma_k)\, h(\theta, u)

G and b are averages over antithetic noise draws, the same draws for all images.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from generative.loss import residual_statistics
from generative.network import Coefficients, Separable


@torch.no_grad()
def image_statistics(
    network: Separable,
    clean: Float[Tensor, "batch band height width"],
    u: Float[Tensor, "batch column"],
    observed: Bool[Tensor, "batch band height width"],
    nodes: Float[Tensor, " node"],
    *,
    n_draw: int = 2,
    seed: int = 0,
) -> tuple[Float[Tensor, "batch node basis basis"], Float[Tensor, "batch node basis"]]:
    """G and b of prepared images.

    Parameters
    ----------
    network
        Separable denoiser.
    clean, u, observed
        Prepared images, scaled conditions, mask.
    nodes
        Noise levels.
    n_draw
        Noise draws per node, an even number: each draw is used with both signs.
    seed
        Of the noise draws.

    Raises
    ------
    ValueError
        If ``n_draw`` is not even and positive.
    """
    if n_draw < 2 or n_draw % 2:
        raise ValueError(f"`n_draw` must be even and at least 2 (draws come in pairs), got {n_draw}.")
    generator = torch.Generator().manual_seed(seed)
    all_G, all_b = [], []
    for sigma in nodes:
        level = sigma.to(clean.device).expand(len(clean))
        G: Tensor | float = 0.0
        b: Tensor | float = 0.0
        for _ in range(n_draw // 2):
            eps = torch.randn(clean.shape[1:], generator=generator).to(clean.device)
            for sign in (1.0, -1.0):
                s = residual_statistics(network, clean, level, (sign * eps).expand_as(clean), u, observed)
                G, b = G + s.G / n_draw, b + s.b / n_draw
        all_G.append(torch.as_tensor(G))
        all_b.append(torch.as_tensor(b))
    return torch.stack(all_G, 1), torch.stack(all_b, 1)


def log_likelihood(
    coefficients: Coefficients,
    G: Float[Tensor, "batch node basis basis"],
    b: Float[Tensor, "batch node basis"],
    theta: Float[Tensor, "batch other theta"],
    u: Float[Tensor, "batch column"],
    nodes: Float[Tensor, " node"],
    weight: Float[Tensor, " node"],
) -> Float[Tensor, "batch other"]:
    """Ln p(x_i | theta_ij, u_i) in nats, up to a constant of each image.

    Parameters
    ----------
    coefficients
        Of the denoiser whose statistics ``G`` and ``b`` are, or refitted for it.
    theta, u
        Scaled conditions; several theta for each image.
    nodes, weight
        Noise levels and their weights in the integral over ln sigma.
    """
    n, m, _ = theta.shape
    pair_u = u[:, None].expand(-1, m, -1).reshape(n * m, -1)
    feature = coefficients.feature(theta.reshape(n * m, -1), pair_u)
    mixing = coefficients.mixed(nodes)
    total = torch.zeros(n, m, device=theta.device)
    for k in range(len(nodes)):
        c = (feature @ mixing[k].T).view(n, m, -1)
        quadratic = (torch.bmm(c, G[:, k]) * c).sum(-1)
        linear = torch.bmm(c, b[:, k, :, None])[..., 0]
        total = total - weight[k] * (quadratic - 2 * linear)
    return total


@torch.no_grad()
def information_gain(
    coefficients: Coefficients,
    G: Float[Tensor, "batch node basis basis"],
    b: Float[Tensor, "batch node basis"],
    theta: Float[Tensor, "batch theta"],
    u: Float[Tensor, "batch column"],
    proposal: Float[Tensor, "draw theta"],
    nodes: Float[Tensor, " node"],
    weight: Float[Tensor, " node"],
    *,
    chunk: int = 16,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch theta"]]:
    r"""Information gain of each image in nats, and the posterior's rank of the true theta.

    .. math:: \ln q(\theta_{true} | x) - \ln p(\theta_{true}) = \ln p(x | \theta_{true})
              - \ln \frac1M \sum_m p(x | \theta_m), \quad \theta_m \sim p(\theta)

    Its mean over simulations is at most the mutual information of image and theta, and equal to it for the
    true likelihood. The true theta is one of the draws of the sum, without which the estimate has no bound.

    Returns
    -------
    nats, dimensionless
        Gain; fraction of the posterior below the true value of each property.
    """
    gains, ranks = [], []
    for rows in torch.arange(len(theta)).split(chunk):
        candidates = torch.cat([theta[rows][:, None], proposal[None].expand(len(rows), -1, -1)], dim=1)
        logp = log_likelihood(coefficients, G[rows], b[rows], candidates, u[rows], nodes, weight)
        gains.append(logp[:, 0] - torch.logsumexp(logp, 1) + math.log(logp.shape[1]))
        posterior = torch.softmax(logp[:, 1:], dim=1)
        below = candidates[:, 1:] < candidates[:, :1]
        ranks.append((posterior[..., None] * below).sum(1))
    return torch.cat(gains), torch.cat(ranks)
