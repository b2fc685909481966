r"""Compiling the likelihood of a denoiser that is not separable: anchors in theta.

The denoiser is run at anchors theta_m and interpolated between them, D(theta) = sum_m a_m(theta) D(theta_m)
with sum_m a_m = 1, which makes the residual linear in a:

.. math:: \ln p(x | \theta) = const - a(\theta)^T R\, a(\theta), \quad
          R_{mn} = \sum_k w_k E_\epsilon \frac{(x - D(\theta_m)) \cdot (x - D(\theta_n))}{\sigma_k^2}

R is one matrix per image, from as many network passes per noise draw as there are anchors. The interpolation
is by polyharmonic splines, r^3 with a linear tail (Duchon 1977): exact for denoisers linear in theta. How
many anchors are enough depends on the network; compare with `generative.likelihood.direct_log_likelihood`.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from generative.likelihood import ConditionalDenoiser
from generative.statistics import draw_pairs, noise_image


class Anchors(NamedTuple):
    """Anchors with what interpolates between them."""

    theta: Float[Tensor, "anchor theta"]
    """Scaled properties."""
    matrix: Float[Tensor, "row anchor"]
    """From distances, a constant and theta to the weights a."""

    def weights(self, theta: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch anchor"]:
        """a(theta), which adds up to one."""
        rows = _rows(theta.reshape(-1, theta.shape[-1]), self.theta.to(theta.device))
        return (rows @ self.matrix.to(theta.device)).reshape(*theta.shape[:-1], -1)


def _rows(theta: Tensor, anchors: Tensor) -> Tensor:
    """Cubes of distances to the anchors, one, theta; in double precision: the system is stiff."""
    theta, anchors = theta.double(), anchors.double()
    cube = torch.linalg.vector_norm(theta[:, None] - anchors, dim=-1) ** 3
    return torch.cat([cube, torch.ones_like(theta[:, :1]), theta], dim=1)


def make_anchors(theta: Float[Tensor, "anchor theta"]) -> Anchors:
    """Anchors at given properties, scaled.

    Raises
    ------
    ValueError
        If there are too few to span theta, or two are the same.
    """
    n, dim = theta.shape
    if n < dim + 1:
        raise ValueError(f"`theta` must have at least {dim + 1} anchors for {dim} properties, got {n}.")
    rows = _rows(theta, theta)
    tail = rows[:, n:]
    top = torch.cat([rows[:, :n], tail], dim=1)
    bottom = torch.cat([tail.T, torch.zeros(dim + 1, dim + 1, dtype=torch.float64)], dim=1)
    system = torch.cat([top, bottom])
    if torch.linalg.matrix_rank(tail) < dim + 1 or torch.linalg.cond(system) > 1e14:
        raise ValueError("`theta` must have anchors that are all different and span every property.")
    right = torch.cat([torch.eye(n, dtype=torch.float64), torch.zeros(dim + 1, n, dtype=torch.float64)])
    return Anchors(theta, torch.linalg.solve(system, right))


def sobol_anchors(n: int, dim: int, seed: int = 0) -> Anchors:
    """Anchors that fill (-1, 1) in every property evenly: a scrambled Sobol sequence."""
    points = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(n)
    return make_anchors(2 * points - 1)


@torch.no_grad()
def anchor_statistics(
    denoiser: ConditionalDenoiser,
    clean: Float[Tensor, "batch band height width"],
    u: Float[Tensor, "batch column"],
    observed: Bool[Tensor, "batch band height width"],
    anchors: Anchors,
    nodes: Float[Tensor, " node"],
    weight: Float[Tensor, " node"],
    *,
    n_draw: int = 2,
    seed: int = 0,
) -> Float[Tensor, "batch anchor anchor"]:
    """R of prepared images; arguments as for `generative.likelihood.direct_log_likelihood`, same noise.

    Raises
    ------
    ValueError
        If ``n_draw`` is not even and positive.
    """
    n, m = len(clean), len(anchors.theta)
    pairs = draw_pairs(n_draw)
    every = anchors.theta.to(clean.device)
    total = torch.zeros(n, m, m, dtype=torch.float64, device=clean.device)
    for k, (sigma, w) in enumerate(zip(nodes, weight, strict=True)):
        level = sigma.to(clean.device).expand(n)
        for pair in pairs:
            eps = noise_image(clean.shape[1:], seed, k, pair).to(clean.device)
            for sign in (1.0, -1.0):
                noisy = clean + sign * sigma * eps
                denoised = [denoiser(noisy, level, theta.expand(n, -1), u, observed) for theta in every]
                residual = torch.stack([(clean - d) * observed / sigma for d in denoised], dim=1).flatten(2)
                total += float(w) / n_draw * torch.bmm(residual, residual.transpose(1, 2)).double()
    return total


def anchor_log_likelihood(
    anchors: Anchors,
    R: Float[Tensor, "batch anchor anchor"],
    theta: Float[Tensor, "batch other theta"],
) -> Float[Tensor, "batch other"]:
    """Ln p(x | theta) in nats, up to a constant of each image."""
    a = anchors.weights(theta)
    return -torch.einsum("nmi,nij,nmj->nm", a, R.double(), a).to(theta.dtype)


def rms_difference(found: Float[Tensor, "batch other"], exact: Float[Tensor, "batch other"]) -> float:
    """Root mean square error of log-likelihood differences in nats: each image's mean does not count."""
    error = found - exact
    return math.sqrt(float(((error - error.mean(dim=1, keepdim=True)) ** 2).mean()))
