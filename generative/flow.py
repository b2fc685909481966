r"""Absolute densities: the probability-flow equation of a denoiser.

With noise that grows as sigma (Karras et al. 2022, arXiv:2206.00364, eq. 1 and 3; density as in Song et al.
2021, arXiv:2011.13456, eq. 39),

.. math:: \frac{dx}{d\ln\sigma} = x - D(x; \sigma), \qquad
          \ln p_{low}(x) = \ln p_{high}(x_{high})
          + \int d\ln\sigma \, [N - \mathrm{tr}\,\partial D / \partial x]

where p_low is the density of images with noise of the lowest level added, and p_high is taken as normal with
variance 1 + sigma^2: prepared pixels have unit variance. Only observed pixels move and count.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from generative.sampler import DenoiseFn


class FlowDensity(NamedTuple):
    """Log densities of prepared images, nats."""

    value: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]
    """Standard error from the random traces; zero for exact ones, nan for a single probe."""


def flow_log_density(
    denoise: DenoiseFn,
    clean: Float[Tensor, "batch band height width"],
    sigma: tuple[float, float],
    *,
    observed: Bool[Tensor, "batch band height width"] | None = None,
    exact: bool = False,
    n_probe: int = 4,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    seed: int = 0,
) -> FlowDensity:
    """Log density of prepared images with noise of level ``sigma[0]``.

    Parameters
    ----------
    denoise
        Denoiser at fixed conditions, from `generative.sampler.denoise_fn`; with theta of nan, the
        unconditional one.
    clean
        Images: their log density is evaluated where they are; no noise is added.
    sigma
        Lowest and highest noise level.
    observed
        Pixels that count; all if None. ``denoise`` must have been told the same.
    exact
        Exact trace, at the cost of one pass per pixel: for small images. Otherwise Hutchinson's estimate
        with ``n_probe`` random signs per image, the same all along the path.
    rtol, atol
        Tolerances of torchdiffeq's ``dopri5``.
    seed
        Of the probes.

    Raises
    ------
    ValueError
        If ``sigma`` does not rise, or ``n_probe`` is not positive.
    """
    from torchdiffeq import odeint

    low, high = sigma
    if not 0 < low < high:
        raise ValueError(f"`sigma` must be two rising positive levels, got {sigma}.")
    if n_probe < 1:
        raise ValueError(f"`n_probe` must be at least 1, got {n_probe}.")
    mask = torch.ones_like(clean) if observed is None else observed.to(clean.dtype)
    n, n_pixel = len(clean), clean[0].numel()
    count = mask.flatten(1).sum(1)
    if exact:
        probes = torch.eye(n_pixel, device=clean.device).view(n_pixel, 1, *clean.shape[1:]) * mask
    else:
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(2, (n_probe, *clean.shape), generator=generator).to(clean) * 2 - 1
        probes = signs * mask

    def velocity(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        level = torch.exp(t).to(clean.dtype)
        with torch.enable_grad():
            x = state[0].detach().requires_grad_(True)
            denoised = denoise(x, level) * mask
            traces = []
            for i, probe in enumerate(probes):
                last = i + 1 == len(probes)
                (slope,) = torch.autograd.grad(denoised, x, probe.expand_as(x), retain_graph=not last)
                traces.append((slope * probe).flatten(1).sum(1))
        divergence = torch.stack(traces)
        divergence = divergence.sum(0, keepdim=True) if exact else divergence
        return ((x - denoised) * mask).detach(), count - divergence.detach()

    times = torch.tensor([math.log(low), math.log(high)], dtype=torch.float64, device=clean.device)
    start = (clean * mask, torch.zeros(1 if exact else n_probe, n, device=clean.device))
    path, change = odeint(velocity, start, times, rtol=rtol, atol=atol, method="dopri5")
    variance = 1 + high**2
    square = ((path[-1] * mask) ** 2).flatten(1).sum(1)
    last = -0.5 * square / variance - 0.5 * count * math.log(2 * math.pi * variance)
    values = last + change[-1]
    error = torch.zeros(n, device=clean.device)
    if not exact:  # nan for one probe
        error = values.std(dim=0) / n_probe**0.5 if n_probe > 1 else torch.full_like(error, torch.nan)
    return FlowDensity(values.mean(dim=0), error)
