"""Samplers on a denoiser that is known in closed form."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from generative.network import Separable
from generative.sampler import ancestral, denoise_fn, heun, sigma_schedule

MEAN, SPREAD = 1.5, 0.6


def gaussian(noisy: Tensor, sigma: Tensor) -> Tensor:
    """The best denoiser of pixels that are independent normals."""
    return (SPREAD**2 * noisy + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def by_heun(noise: Tensor) -> Tensor:
    return heun(gaussian, noise, sigma_schedule((0.002, 80.0), 60))


def by_ancestral(noise: Tensor) -> Tensor:
    """Of first order in the step: 60 steps would give a spread of 0.54."""
    return ancestral(gaussian, noise, sigma_schedule((0.002, 80.0), 600), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", [by_heun, by_ancestral])
def test_a_normal_distribution_is_drawn(method: Callable[[Tensor], Tensor]) -> None:
    noise = torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    # From 80 the mean has been lost to 1e-4; the ODE maps each normal deviate to one.
    images = method(noise)
    assert abs(float(images.mean()) - MEAN) < 0.02
    assert abs(float(images.std()) - SPREAD) < 0.01


def test_heun_is_of_second_order() -> None:
    """Halving the steps divides the error by four."""
    noise = torch.linspace(-2, 2, 16).view(1, 1, 4, 4).double()
    exact = MEAN + SPREAD * noise * 80.0 / (80.0**2 + SPREAD**2) ** 0.5 - MEAN * SPREAD / 80.0
    errors = [
        float((heun(gaussian, noise, sigma_schedule((0.002, 80.0), n).double()) - exact).abs().max())
        for n in (40, 80)
    ]
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 2.5


def test_schedule_falls_to_zero() -> None:
    levels = sigma_schedule((0.03, 30.0), 10)
    assert abs(float(levels[0]) - 30) < 1e-4
    assert abs(float(levels[-2]) - 0.03) < 1e-6
    assert float(levels[-1]) == 0
    assert (levels[1:] < levels[:-1]).all()
    with pytest.raises(ValueError, match="`n_step` must be at least 2"):
        sigma_schedule((0.03, 30.0), 1)


def test_guidance_goes_between_and_beyond(tiny: Separable) -> None:
    g = torch.Generator().manual_seed(0)
    noisy, theta, u = torch.randn(2, 2, 16, 16, generator=g), torch.rand(2, 6), torch.randn(2, 7)
    sigma = torch.tensor(1.0)
    none, full, more = (denoise_fn(tiny, theta, u, guidance=s)(noisy, sigma) for s in (0.0, 1.0, 3.0))
    torch.testing.assert_close(more, none + 3 * (full - none), rtol=1e-4, atol=1e-5)
    unknown = denoise_fn(tiny, torch.full_like(theta, torch.nan), u)(noisy, sigma)
    torch.testing.assert_close(none, unknown)
    assert not torch.allclose(none, full)
