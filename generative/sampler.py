r"""Drawing images: integrating from noise to a galaxy.

With D the denoiser, the probability-flow ODE is :math:`dx/d\sigma = (x - D(x; \sigma)) / \sigma` (Karras et
al. 2022, equation 1 with sigma(t) = t). Guidance (Ho & Salimans 2022, arXiv:2207.12598) replaces D by
D_none + scale (D_theta - D_none): 1 draws from the model, above 1 exaggerates what theta asks for.
"""

import itertools
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from generative.network import Denoiser

DenoiseFn = Callable[[Float[Tensor, "batch band height width"], Float[Tensor, ""]], Tensor]
"""Noisy images and one noise level to denoised images."""

Image = Float[Tensor, "batch band height width"]


def sigma_schedule(sigma: tuple[float, float], n_step: int, rho: float = 7.0) -> Float[Tensor, " level"]:
    """Falling noise levels, then zero: Karras et al. 2022, equation 5.

    Raises
    ------
    ValueError
        If ``n_step`` is below 2.
    """
    if n_step < 2:
        raise ValueError(f"`n_step` must be at least 2, got {n_step}.")
    low, high = (value ** (1 / rho) for value in sigma)
    ramp = torch.linspace(0, 1, n_step)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1)])


def denoise_fn(
    network: Denoiser,
    theta: Float[Tensor, "batch theta"],
    u: Float[Tensor, "batch column"],
    *,
    guidance: float = 1.0,
    observed: Bool[Tensor, "batch band height width"] | None = None,
) -> DenoiseFn:
    """Denoiser at fixed conditions, with guidance.

    Parameters
    ----------
    theta, u
        Scaled conditions; nan in ``theta`` for what is not asked for.
    guidance
        1 for the model itself, 0 for the unconditional one.
    observed
        Mask; everything if None.
    """

    def denoise(noisy: Image, sigma: Float[Tensor, ""]) -> Image:
        level = sigma.expand(len(noisy))
        mask = torch.ones_like(noisy, dtype=torch.bool) if observed is None else observed
        with_theta: Tensor = network(noisy, level, theta, u, mask)
        if guidance == 1.0:
            return with_theta
        without: Tensor = network(noisy, level, torch.full_like(theta, torch.nan), u, mask)
        return without + guidance * (with_theta - without)

    return denoise


def heun_steps(fn: DenoiseFn, noise: Image, levels: Float[Tensor, " level"]) -> Iterator[tuple[Image, Image]]:
    """Heun's method, step by step: images and what the denoiser made of the last ones.

    Algorithm 1 of Karras et al. 2022; deterministic given ``noise``, which has unit variance.
    """
    levels = levels.to(noise.device)
    x = noise * levels[0]
    for now, after in itertools.pairwise(levels):
        denoised = fn(x, now)
        slope = (x - denoised) / now
        following = x + (after - now) * slope
        if after > 0:
            again = (following - fn(following, after)) / after
            following = x + (after - now) * 0.5 * (slope + again)
        x = following
        yield x, denoised


@torch.no_grad()
def heun(fn: DenoiseFn, noise: Image, levels: Float[Tensor, " level"]) -> Image:
    """Images by Heun's method: the same for the same noise."""
    last: Image = noise
    for x, _ in heun_steps(fn, noise, levels):
        last = x
    return last


@torch.no_grad()
def ancestral(
    fn: DenoiseFn, noise: Image, levels: Float[Tensor, " level"], generator: torch.Generator
) -> Image:
    r"""Images by ancestral sampling: each step goes to the posterior of a lower noise level and adds noise.

    From sigma to s, the posterior of x_s given x_sigma and the clean image is normal with mean
    :math:`D + (s / \sigma)^2 (x - D)` and variance :math:`s^2 (1 - s^2 / \sigma^2)` (Song et al. 2021,
    arXiv:2011.13456, appendix F). The clean image is taken to be D, so the spread is too small by a first
    power of the step: take several times the steps of `heun`.
    """
    levels = levels.to(noise.device)
    x = noise * levels[0]
    for now, after in itertools.pairwise(levels):
        denoised = fn(x, now)
        ratio = (after / now) ** 2
        x = denoised + ratio * (x - denoised)
        if after > 0:
            fresh = torch.randn(x.shape, generator=generator, device=x.device)
            x = x + after * torch.sqrt(1 - ratio) * fresh
    return x
