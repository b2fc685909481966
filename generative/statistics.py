r"""Sufficient statistics of images under a separable model, and the likelihood they give.

On nodes sigma_k with weights w_k,

.. math:: \ln p(x | \theta, u) = const(x) - \sum_k w_k \left[c_k^T G_k c_k - 2 b_k^T c_k\right],
          \quad c_k = A(\sigma_k)\, h(\theta, u)

G and b are averages over antithetic noise draws, the same draws for all images.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from generative.correction import Correction
from generative.loss import residual_statistics
from generative.network import Coefficients, Separable


class ImageStatistics(NamedTuple):
    """What the likelihood of an image depends on; leading axes (pair,) where draws are kept apart."""

    G: Float[Tensor, "*pair batch node basis basis"]
    b: Float[Tensor, "*pair batch node basis"]
    square: Float[Tensor, "*pair batch node"]
    """r_0 . r_0: no part of the likelihood of theta, but of how well the model knows the image."""

    def mean(self) -> "ImageStatistics":
        """Average over the first axis."""
        return ImageStatistics(*(item.mean(dim=0) for item in self))


def noise_image(shape: torch.Size, seed: int, node: int, pair: int) -> Float[Tensor, "band height width"]:
    """The noise of one antithetic pair: the same for all images and theta, whatever else is drawn."""
    generator = torch.Generator().manual_seed((seed * 10_007 + node) * 10_007 + pair)
    return torch.randn(shape, generator=generator)


@torch.no_grad()
def paired_statistics(
    network: Separable,
    clean: Float[Tensor, "batch band height width"],
    u: Float[Tensor, "batch column"],
    observed: Bool[Tensor, "batch band height width"],
    nodes: Float[Tensor, " node"],
    pairs: range,
    *,
    seed: int = 0,
) -> ImageStatistics:
    """Statistics of prepared images for each antithetic pair of noise draws; arguments as below."""
    by_pair = []
    for pair in pairs:
        by_node = []
        for k, sigma in enumerate(nodes):
            level = sigma.to(clean.device).expand(len(clean))
            eps = noise_image(clean.shape[1:], seed, k, pair).to(clean.device).expand_as(clean)
            both = [
                residual_statistics(network, clean, level, sign * eps, u, observed) for sign in (1.0, -1.0)
            ]
            by_node.append([0.5 * (x + y) for x, y in zip(*both, strict=True)])
        square, b, G = (torch.stack(items, dim=1) for items in zip(*by_node, strict=True))
        by_pair.append(ImageStatistics(G, b, square))
    return ImageStatistics(*(torch.stack(items) for items in zip(*by_pair, strict=True)))


def image_statistics(
    network: Separable,
    clean: Float[Tensor, "batch band height width"],
    u: Float[Tensor, "batch column"],
    observed: Bool[Tensor, "batch band height width"],
    nodes: Float[Tensor, " node"],
    *,
    n_draw: int = 2,
    seed: int = 0,
) -> ImageStatistics:
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
        Of the noise draws, which do not depend on what else is in the batch.

    Raises
    ------
    ValueError
        If ``n_draw`` is not even and positive.
    """
    return paired_statistics(network, clean, u, observed, nodes, draw_pairs(n_draw), seed=seed).mean()


def draw_pairs(n_draw: int) -> range:
    """Antithetic pairs of a number of noise draws.

    Raises
    ------
    ValueError
        If ``n_draw`` is not even and positive.
    """
    if n_draw < 2 or n_draw % 2:
        raise ValueError(f"`n_draw` must be even and at least 2 (draws come in pairs), got {n_draw}.")
    return range(n_draw // 2)


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


class Corrected(NamedTuple):
    """Ratio correction of images whose numbers are known."""

    correction: Correction
    numbers: Float[Tensor, "image number_and_one"]

    def of(self, rows: Tensor) -> "Corrected":
        """That of some of the images."""
        return Corrected(self.correction, self.numbers[rows])

    def __call__(
        self,
        logp: Float[Tensor, "image other"],
        theta: Float[Tensor, "image other theta"],
        u: Float[Tensor, "image column"],
    ) -> Float[Tensor, "image other"]:
        """Log-likelihood of the score model, corrected."""
        return self.correction.scale * logp + self.correction.log_ratio(self.numbers, theta, u)


class Folded(NamedTuple):
    """Statistics with mixing and weights folded in, so that ln p = 2 v . h - h . M h for h(theta, u)."""

    M: Float[Tensor, "image feature feature"]
    v: Float[Tensor, "image feature"]


@torch.no_grad()
def fold(
    coefficients: Coefficients,
    G: Float[Tensor, "image node basis basis"],
    b: Float[Tensor, "image node basis"],
    nodes: Float[Tensor, " node"],
    weight: Float[Tensor, " node"],
) -> Folded:
    """M = sum_k w_k A_k^T G_k A_k and v = sum_k w_k A_k^T b_k."""
    A = coefficients.mixed(nodes)
    heavy = weight[:, None, None] * A
    M = sum(A[k].T @ (G[:, k] @ heavy[k]) for k in range(len(nodes)))
    return Folded(torch.as_tensor(M), torch.einsum("kif,nki->nf", heavy, b))


def folded_log_likelihood(
    coefficients: Coefficients,
    folded: Folded,
    theta: Float[Tensor, "image other theta"],
    u: Float[Tensor, "image column"],
) -> Float[Tensor, "image other"]:
    """`log_likelihood` from folded statistics."""
    n, m, _ = theta.shape
    pair_u = u[:, None].expand(-1, m, -1).reshape(n * m, -1)
    h = coefficients.feature(theta.reshape(n * m, -1), pair_u).view(n, m, -1)
    quadratic = (torch.bmm(h, folded.M) * h).sum(-1)
    found: Tensor = 2 * torch.bmm(h, folded.v[:, :, None])[..., 0] - quadratic
    return found


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
    corrected: Corrected | None = None,
    chunk: int = 16,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch theta"], Float[Tensor, " batch"]]:
    r"""Information gain of each image in nats, the posterior's rank of the true theta, and how sure that is.

    .. math:: \ln q(\theta_{true} | x) - \ln p(\theta_{true}) = \ln p(x | \theta_{true})
              - \ln \frac1M \sum_m p(x | \theta_m), \quad \theta_m \sim p(\theta)

    Its mean over simulations is at most the mutual information of image and theta, and equal to it for the
    true likelihood. The true theta is one of the draws of the sum, without which the estimate has no bound.

    Parameters
    ----------
    proposal
        Scaled theta from the distribution of the images'.
    corrected
        Ratio correction with the numbers of the images; none by default.
    chunk
        Images at a time.

    Returns
    -------
    nats, dimensionless, draws
        Gain; fraction of the posterior below the true value of each property; effective number of the
        proposal's draws in the posterior.
    """
    gains, ranks, numbers = [], [], []
    for rows in torch.arange(len(theta)).split(chunk):
        candidates = torch.cat([theta[rows][:, None], proposal[None].expand(len(rows), -1, -1)], dim=1)
        logp = log_likelihood(coefficients, G[rows], b[rows], candidates, u[rows], nodes, weight)
        if corrected is not None:
            logp = corrected.of(rows)(logp, candidates, u[rows])
        gains.append(logp[:, 0] - torch.logsumexp(logp, 1) + math.log(logp.shape[1]))
        posterior = torch.softmax(logp[:, 1:], dim=1)
        below = candidates[:, 1:] < candidates[:, :1]
        ranks.append((posterior[..., None] * below).sum(1))
        numbers.append(1 / (posterior**2).sum(1))
    return torch.cat(gains), torch.cat(ranks), torch.cat(numbers)
