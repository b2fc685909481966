"""The direct likelihood and absolute densities, against cases with a known answer."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from generative.flow import flow_log_density
from generative.likelihood import direct_log_likelihood, placed_nodes
from generative.network import Film, Separable
from generative.noise import NoiseDensity, likelihood_nodes
from generative.statistics import image_statistics, log_likelihood

SIDE = 3  # of the linear-Gaussian images


def test_the_integral_is_the_likelihood_of_a_linear_gaussian_image(linear_gaussian: Any) -> None:
    """Differences and gradients agree to the part of the integral outside the nodes' range."""
    model = linear_gaussian
    theta = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    x = model.draw(theta, 2)
    others = theta[:, None] + torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, -0.7], [0.5001, 0.0]])
    nodes, width = likelihood_nodes((0.01, 100.0), 48)
    found = direct_log_likelihood(
        model, x, others, torch.zeros(4, 0), torch.ones_like(x, dtype=torch.bool), nodes,
        torch.full((48,), width), n_draw=4,
    )  # fmt: skip
    exact = torch.stack([model.log_prob(x, others[:, j]) for j in range(4)], dim=1)
    difference = found.value - found.value[:, :1]
    torch.testing.assert_close(difference[:, 1:], (exact - exact[:, :1])[:, 1:], rtol=1e-3, atol=2e-3)
    # Antithetic draws leave no noise in differences when the denoiser is linear.
    assert float(found.difference_error().max()) < 1e-3
    with pytest.raises(ValueError, match="at least 4"):
        found._replace(pairs=found.pairs[:1]).difference_error()


def test_a_short_range_of_levels_loses_what_theory_says(linear_gaussian: Any) -> None:
    """With one pixel of variance s the part kept is s / (s + low^2) - s / (s + high^2)."""
    model = linear_gaussian
    model.S, model.A = 0.5 * torch.eye(SIDE**2), model.A
    x = model.draw(torch.zeros(2, 2), 3)
    others = torch.tensor([[0.0, 0.0], [1.0, 0.3]]).expand(2, 2, 2)
    nodes, width = likelihood_nodes((0.15, 10.0), 64)
    mask = torch.ones_like(x, dtype=torch.bool)
    value = direct_log_likelihood(
        model, x, others, torch.zeros(2, 0), mask, nodes, torch.full((64,), width)
    ).value
    exact = model.log_prob(x, others[:, 1]) - model.log_prob(x, others[:, 0])
    part = 0.5 / (0.5 + 0.15**2) - 0.5 / (0.5 + 100)
    torch.testing.assert_close(value[:, 1] - value[:, 0], part * exact, rtol=1e-3, atol=2e-3)


def test_placed_nodes_integrate() -> None:
    """Weights add up to the range, and nodes crowd where the density is high."""
    density = NoiseDensity.start((0.1, 10.0))
    nodes, weight = placed_nodes(density, 8)
    plain, width = likelihood_nodes((0.1, 10.0), 8)
    torch.testing.assert_close(nodes, plain, rtol=1e-5, atol=0)
    torch.testing.assert_close(weight, torch.full((8,), width), rtol=1e-5, atol=0)
    square = density.square.clone()
    square[:4] = 100.0
    nodes, weight = placed_nodes(density._replace(square=square), 24)
    assert abs(float(weight.sum()) - math.log(100)) < 1e-4
    assert (nodes < 10**-0.5).sum() > 12
    integral = float((weight * torch.log(nodes) ** 2).sum())
    exact = (math.log(10.0) ** 3 - math.log(0.1) ** 3) / 3
    assert abs(integral / exact - 1) < 0.02


def test_direct_is_compiled_to_rounding(tiny: Separable, random_inputs: Callable[..., Any]) -> None:
    clean, theta, u, observed = random_inputs(2, 7)
    nodes, width = likelihood_nodes((0.15, 10.0), 4)
    weight = torch.full((4,), width)
    candidates = torch.stack([theta, -theta], dim=1)
    direct = direct_log_likelihood(tiny, clean, candidates, u, observed, nodes, weight, n_draw=4, seed=11)
    G, b, square = image_statistics(tiny, clean, u, observed, nodes, n_draw=4, seed=11)
    compiled = log_likelihood(tiny.coefficients, G, b, candidates, u, nodes, weight)
    compiled = compiled - (weight * square).sum(1, keepdim=True)
    torch.testing.assert_close(compiled.detach(), direct.value, rtol=2e-6, atol=2e-2)
    difference = direct.value[:, 0] - direct.value[:, 1]
    assert difference.abs().min().item() > 1e-3
    torch.testing.assert_close((compiled[:, 0] - compiled[:, 1]).detach(), difference, rtol=1e-3, atol=2e-3)


def test_a_network_that_is_not_separable_has_a_likelihood_too(
    tiny_film: Film, random_inputs: Callable[..., Any]
) -> None:
    clean, theta, u, observed = random_inputs(2, 3)
    nodes, width = likelihood_nodes((0.15, 10.0), 2)
    found = direct_log_likelihood(
        tiny_film, clean, theta[:, None], u, observed, nodes, torch.full((2,), width)
    )
    assert found.value.isfinite().all()
    assert (found.value < 0).all()


@pytest.mark.parametrize("exact", [True, False])
def test_flow_density_of_a_gaussian(exact: bool, linear_gaussian: Any) -> None:
    model = linear_gaussian
    theta = torch.tensor([[0.2, -0.4], [1.0, 0.3]])
    x = model.draw(theta, 5)

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        return model(noisy, sigma.expand(2), theta, theta, noisy > 0)

    low, high = 0.05, 200.0
    found = flow_log_density(denoise, x, (low, high), exact=exact, n_probe=400, rtol=1e-6, atol=1e-6)
    total = model.S + low**2 * torch.eye(SIDE**2)
    normal = torch.distributions.MultivariateNormal(model.mean(theta), total)
    expected = normal.log_prob(x.flatten(1))
    if exact:
        torch.testing.assert_close(found.value, expected, rtol=0, atol=0.02)
        assert (found.error == 0).all()
    else:
        assert ((found.value - expected).abs() < 4 * found.error + 0.02).all()
        assert (found.error < 0.5).all()


def test_flow_density_leaves_masked_pixels_out() -> None:
    """Independent pixels: the density is the product over those that are observed."""

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        return noisy * 0.5 / (0.5 + sigma**2)

    x = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[:, :, 0] = False
    found = flow_log_density(denoise, x, (0.02, 300.0), observed=observed, exact=True)
    scale = torch.tensor(0.5 + 0.02**2).sqrt()
    each = torch.distributions.Normal(0.0, scale).log_prob(x)
    expected = torch.where(observed, each, 0.0).flatten(1).sum(1)
    torch.testing.assert_close(found.value, expected, rtol=0, atol=0.02)
    with pytest.raises(ValueError, match="`sigma` must be two rising"):
        flow_log_density(denoise, x, (2.0, 1.0))
    with pytest.raises(ValueError, match="`n_probe` must be at least 1"):
        flow_log_density(denoise, x, (1.0, 2.0), n_probe=0)
