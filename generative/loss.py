r"""The two losses, and the statistics that both come from.

With r_0 = (x - c_skip x_sigma - c_out phi_0) / sigma and Phi_j = c_out phi_j / sigma, a separable denoiser's
residual is r_0 - sum_j c_j Phi_j, and

.. math:: \|x - D\|^2 / \sigma^2 = r_0 \cdot r_0 - 2 b \cdot c + c^T G c, \quad b = \Phi r_0, \; G = \Phi
\Phi^T

1. Denoising: its integral over ln sigma, the likelihood's own weighting (Kingma et al. 2021, Kong et al.
2023). 2. Contrastive: over a batch, the cross-entropy of picking the true theta_i for image x_i among the
batch's
   theta_j by the model's own ln p(x_i | theta_j) = -integral. Both are least at the true p(x | theta).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from generative.network import Denoiser, Film, Separable, scalings
from generative.noise import NoiseDensity


class Statistics(NamedTuple):
    """What a separable denoiser's squared residual depends on, per image."""

    square: Float[Tensor, " batch"]
    """r_0 . r_0"""
    b: Float[Tensor, "batch basis"]
    G: Float[Tensor, "batch basis basis"]


def residual_statistics(
    network: Separable,
    clean: Float[Tensor, "batch band height width"],
    sigma: Float[Tensor, " batch"],
    eps: Float[Tensor, "batch band height width"],
    u: Float[Tensor, "batch column"],
    observed: Bool[Tensor, "batch band height width"],
) -> Statistics:
    """Statistics of one noise draw per image, over the observed pixels."""
    level = sigma[:, None, None, None]
    noisy = clean + level * eps
    c_skip, c_out, _ = scalings(sigma)
    first, features = network.features(noisy, sigma, u, observed)
    scale = c_out / level
    r0 = network.trunk.to_blocks((clean - c_skip * noisy) / level) - scale * first
    whole = observed.flatten(1).all(1)
    if bool(whole.all()):
        square, b, G = _products(network, r0, features)
    else:
        parts = []
        for rows, mask in ((whole, None), (~whole, network.trunk.to_blocks(observed.to(clean.dtype)))):
            index = rows.nonzero()[:, 0]
            part = None if mask is None else mask[index]
            parts.append((index, _products(network, r0[index], features[index], part)))
        back = torch.argsort(torch.cat([index for index, _ in parts]))
        square, b, G = (torch.cat(items)[back] for items in zip(*(p for _, p in parts), strict=True))
    factor = scale.flatten()
    return Statistics(square, factor[:, None] * b, factor[:, None, None] ** 2 * G)


def _products(
    network: Separable, r0: Tensor, features: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """r_0 . r_0, phi r_0 and phi phi^T over the pixels of a mask.

    The basis is linear in the features, so without a mask its products follow from the features' own second
    moments, and the J basis images need not be made: that would cost more than the U-Net.
    """
    if mask is not None:
        r0 = mask * r0
        phi = network.basis(features).flatten(2)
        masked = mask.flatten(1)[:, None] * phi
        b = torch.bmm(phi, r0.flatten(1)[:, :, None])[..., 0]
        return (r0**2).flatten(1).sum(1), b, torch.bmm(masked, phi.transpose(1, 2))
    n_basis = network.config.n_basis
    weight, bias = network.head.weight[:, :, 0, 0], network.head.bias
    if bias is None:
        raise TypeError("the head of a separable network has a bias.")
    weight = torch.cat([weight, bias[:, None]], dim=1).unflatten(0, (n_basis, -1))  # basis, channel, feature
    rows = features.flatten(2)
    rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
    second = torch.bmm(rows, rows.transpose(1, 2)).flatten(1)
    cross = torch.bmm(rows, r0.flatten(2).transpose(1, 2)).flatten(1)  # feature, channel
    pairs = torch.einsum("jdf,kdg->jkfg", weight, weight).flatten(2).flatten(0, 1)
    G = (second @ pairs.T).unflatten(1, (n_basis, n_basis))
    b = cross @ weight.transpose(1, 2).flatten(1).T
    return (r0**2).flatten(1).sum(1), b, G


def squared_residual(s: Statistics, c: Float[Tensor, "batch other basis"]) -> Float[Tensor, "batch other"]:
    """||x_i - D(theta_j)||^2 / sigma^2 for coefficients of several theta per image."""
    return s.square[:, None] - 2 * torch.einsum("nmj,nj->nm", c, s.b) + (torch.bmm(c, s.G) * c).sum(-1)


class TrainingBatch(NamedTuple):
    """Prepared images and scaled conditions of one step, with the random numbers it uses."""

    clean: Float[Tensor, "batch band height width"]
    theta: Float[Tensor, "batch theta"]
    """nan where not known."""
    dropped: Float[Tensor, "batch theta"]
    """The same with labels dropped at random, for the denoising loss."""
    u: Float[Tensor, "batch column"]
    observed: Bool[Tensor, "batch band height width"]
    sigma: Float[Tensor, "level batch"]
    """Levels of the likelihood's integral; the last row is over the range that sampling uses."""
    weight: Float[Tensor, "level batch"]
    """Weights of the integral over ln sigma; the last row is not used."""
    eps: Float[Tensor, "level batch band height width"]


class LossParts(NamedTuple):
    """Losses of one step."""

    total: Float[Tensor, ""]
    """What is minimised."""
    denoise: Float[Tensor, ""]
    """Mean squared residual per pixel and unit of ln sigma."""
    contrast: Float[Tensor, ""]
    """Cross-entropy of the true theta, nats; nan without."""
    looks: Float[Tensor, ""]
    """Mean squared error of F per pixel over all levels."""
    per_level: Float[Tensor, "level batch"]
    """Squared residual per pixel of each image and level of the integral, detached."""


class Losses(nn.Module):
    """The losses as a module, so that a wrapped (distributed) network sees one forward pass.

    Parameters
    ----------
    network
        Denoiser.
    contrast
        Weight of the contrastive loss relative to a nat in the denoising loss, which is per pixel and unit of
        ln sigma; 0 for none. Only images whose theta is known take part.
    looks
        Weight of the error of F at the levels that only sampling uses.
    """

    def __init__(self, network: Denoiser, *, contrast: float, looks: float) -> None:
        super().__init__()
        self.network = network
        self.contrast = contrast
        self.looks = looks

    def forward(self, batch: TrainingBatch) -> LossParts:
        """Losses of a batch."""
        n_level, n = batch.sigma.shape
        repeat = (n_level, 1, 1, 1)
        clean = batch.clean.repeat(repeat)
        u, observed = batch.u.repeat(n_level, 1), batch.observed.repeat(repeat)
        dropped = batch.dropped.repeat(n_level, 1)
        sigma, eps = batch.sigma.flatten(), batch.eps.flatten(0, 1)
        n_seen = observed.flatten(1).sum(1).clamp(min=1).to(clean.dtype)
        logp = None
        if isinstance(self.network, Separable):
            s = residual_statistics(self.network, clean, sigma, eps, u, observed)
            mixing = self.network.coefficients.mixed(sigma)
            feature = self.network.coefficients.feature(batch.dropped, batch.u).repeat(n_level, 1)
            own = torch.einsum("njh,nh->nj", mixing, feature)
            residual = squared_residual(s, own[:, None])[:, 0]
            if self.contrast > 0:
                logp = self._log_prob(batch, s, mixing)
        else:
            residual = _film_residual(self.network, clean, sigma, eps, dropped, u, observed)
        per_pixel = (residual / n_seen).view(n_level, n)
        weight, main = batch.weight[:-1], per_pixel[:-1]
        denoise = (weight * main).sum(0).mean() / weight.sum(0).mean()
        # ||x - D||^2 / sigma^2 = ||F - target||^2 c_out^2 / sigma^2, and c_out^2 / sigma^2 = 1 / (1 +
        # sigma^2).
        looks = (per_pixel[-1] * (1 + batch.sigma[-1] ** 2)).mean()
        total = denoise + self.looks * looks
        contrast = torch.full_like(denoise, torch.nan)
        if logp is not None and len(logp) > 1:
            contrast = -torch.log_softmax(logp, dim=1).diagonal().mean()
            total = total + self.contrast / float(batch.clean[0].numel()) * contrast
        return LossParts(total, denoise, contrast, looks, main.detach())

    def _log_prob(
        self, batch: TrainingBatch, s: Statistics, mixing: Float[Tensor, "levels basis feature"]
    ) -> Float[Tensor, "batch batch"]:
        """Log of p(x_i | theta_j, u_i), up to a constant of image i."""
        if not isinstance(self.network, Separable):
            raise TypeError("the contrastive loss needs a separable network.")
        n_level, n_all = batch.sigma.shape
        known = (~batch.theta.isnan().any(dim=1)).nonzero()[:, 0]  # nobody can pick an unknown theta
        n, u = len(known), batch.u[known]
        pair_u = u[:, None].expand(-1, n, -1).reshape(n * n, -1)
        pair_theta = batch.theta[known][None].expand(n, -1, -1).reshape(n * n, -1)
        feature = self.network.coefficients.feature(pair_theta, pair_u).view(n, n, -1)
        logp = torch.zeros(n, n, device=batch.clean.device)
        for k in range(n_level - 1):
            rows = known + k * n_all
            c = torch.einsum("njh,nmh->nmj", mixing[rows], feature)
            part = Statistics(*(item[rows] for item in s))
            logp = logp - batch.weight[k][known][:, None] * (squared_residual(part, c) - part.square[:, None])
        return logp


def _film_residual(
    network: Film, clean: Tensor, sigma: Tensor, eps: Tensor, theta: Tensor, u: Tensor, observed: Tensor
) -> Float[Tensor, " batch"]:
    level = sigma[:, None, None, None]
    denoised = network(clean + level * eps, sigma, theta, u, observed)
    squared: Tensor = (((clean - denoised) * observed / level) ** 2).flatten(1).sum(1)
    return squared


def sampling_levels(
    density: NoiseDensity,
    full: tuple[float, float],
    n_level: int,
    n: int,
    generator: torch.Generator,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Levels and weights of a step: the integral's, then one uniform in ln sigma over the full range."""
    sigma, weight = density.draw(n_level, n, generator, device)
    low, high = (torch.log(torch.tensor(value)).item() for value in full)
    position = (torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)) / n
    anywhere = torch.exp(low + (high - low) * position)
    return torch.cat([sigma, anywhere[None]]), torch.cat([weight, torch.zeros(1, n, device=device)])
