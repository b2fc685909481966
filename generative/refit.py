r"""The last stage of training: coefficient network and node weights refitted on cached statistics.

The trunk is frozen, so an image is its G and b, and an epoch costs seconds. The loss is the contrastive
one. The denoiser keeps its own coefficients, with which it draws images: the refitted ones serve the
likelihood.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from generative.data import Source, hide_unseen, random_holes
from generative.network import Coefficients, Separable
from generative.noise import likelihood_nodes
from generative.preparation import Preparation
from generative.statistics import image_statistics, log_likelihood

_ONE = math.log(math.e - 1)  # softplus of this is 1


class CachedStatistics(NamedTuple):
    """Statistics of simulations that training never saw."""

    G: Float[Tensor, "image node basis basis"]
    b: Float[Tensor, "image node basis"]
    theta: Float[Tensor, "image theta"]
    u: Float[Tensor, "image column"]
    square: Float[Tensor, "image node"]
    n_observed: Float[Tensor, " image"]
    """Pixels."""
    numbers: Float[Tensor, "image number"]
    """Of the ratio correction; none without one."""


class Refitted(NamedTuple):
    """Result of the refit."""

    coefficients: Coefficients
    node_weight: Float[Tensor, " node"]
    """Relative to equal weights."""
    loss_before: float
    """Contrastive loss on images that the refit did not use, nats, before."""
    loss_after: float
    """And after; not above `loss_before`."""


def cache_statistics(
    network: Separable,
    preparation: Preparation,
    source: Source,
    n: int,
    *,
    sigma: tuple[float, float],
    n_node: int,
    seed: int,
    holes: bool = True,
    chunk: int = 64,
    n_draw: int = 2,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> CachedStatistics:
    """Statistics of ``n`` held-out images, each chunk with noise draws of its own.

    Parameters
    ----------
    holes
        Whether some have bad pixels and missing bands.
    """
    nodes, _ = likelihood_nodes(sigma, n_node)
    parts = []
    for first in range(0, n, chunk):
        generator = torch.Generator(device=torch.device(device)).manual_seed(seed + first)
        batch = source.held_out(min(chunk, n - first), generator)
        observed = random_holes(batch.observed, generator) if holes else batch.observed
        clean = preparation.forward(batch.image, batch.noise, observed)
        u = hide_unseen(batch.u, observed)
        G, b, square = image_statistics(network, clean, u, observed, nodes, seed=seed + first, n_draw=n_draw)
        count = observed.flatten(1).sum(1).to(G.dtype)
        parts.append(CachedStatistics(G, b, batch.theta, u, square, count, u[:, :0]))
        if progress is not None:
            progress(min(first + chunk, n), n, "statistics of held-out images")
    return CachedStatistics(*(torch.cat(items) for items in zip(*parts, strict=True)))


def refit(
    coefficients: Coefficients,
    cached: CachedStatistics,
    *,
    sigma: tuple[float, float],
    steps: int = 600,
    batch: int = 96,
    lr: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Refitted:
    """Refit on cached statistics.

    A tenth of the images chooses the step to stop at; another tenth, which nothing was fitted to or chosen
    by, decides whether the result is better than what was there. If not, nothing is changed.

    Raises
    ------
    ValueError
        If there are fewer than 40 images.
    """
    n = len(cached.theta)
    if n < 40:
        raise ValueError(f"`cached` must hold at least 40 images, got {n}.")
    device = cached.G.device
    nodes, width = likelihood_nodes(sigma, cached.b.shape[1])
    nodes = nodes.to(device)
    net = copy.deepcopy(coefficients).to(device).train().requires_grad_(True)
    raw = torch.full((len(nodes),), _ONE, device=device, requires_grad=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    n_held = max(n // 10, 10)
    held, test, train = (part.to(device) for part in order.tensor_split([n_held, 2 * n_held]))
    optimizer = torch.optim.AdamW([*net.parameters(), raw], lr=lr, weight_decay=1e-2)

    def loss_of(rows: Tensor) -> Tensor:
        theta = cached.theta[rows][None].expand(len(rows), -1, -1)
        weight = width * functional.softplus(raw)
        logp = log_likelihood(net, cached.G[rows], cached.b[rows], theta, cached.u[rows], nodes, weight)
        return -torch.log_softmax(logp, dim=1).diagonal().mean()

    @torch.no_grad()
    def mean_loss(images: Tensor) -> float:
        groups = [rows for rows in images.split(batch) if len(rows) == min(batch, len(images))]
        return float(torch.stack([loss_of(rows) for rows in groups]).mean())

    before, best = mean_loss(test), mean_loss(held)
    first = best
    start = kept = (copy.deepcopy(net.state_dict()), raw.detach().clone())
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * max(0.02, 0.5 * (1 + math.cos(math.pi * step / steps)))
        rows = train[torch.randint(len(train), (min(batch, len(train)),), generator=generator).to(device)]
        optimizer.zero_grad()
        loss = loss_of(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*net.parameters(), raw], 5.0)
        optimizer.step()
        if (step + 1) % 25 == 0 or step + 1 == steps:
            now = mean_loss(held)
            if now < best:
                best, kept = now, (copy.deepcopy(net.state_dict()), raw.detach().clone())
            if progress is not None:
                progress(step + 1, steps, f"refit: {best:.3f} nats (before {first:.3f})")
    with torch.no_grad():
        net.load_state_dict(kept[0])
        raw.copy_(kept[1])
    after = mean_loss(test)
    if after > before:
        kept, after = start, before
        net.load_state_dict(kept[0])
    node_weight = functional.softplus(kept[1]).cpu()
    return Refitted(net.eval().requires_grad_(False), node_weight, before, after)
