"""Anchors: exact where the denoiser is linear in theta, converging where it is smooth."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from generative.anchors import (
    anchor_log_likelihood,
    anchor_statistics,
    make_anchors,
    rms_difference,
    sobol_anchors,
)
from generative.likelihood import direct_log_likelihood
from generative.network import scalings
from generative.noise import likelihood_nodes


def test_weights_interpolate() -> None:
    anchors = sobol_anchors(20, 3)
    torch.testing.assert_close(
        anchors.weights(anchors.theta), torch.eye(20, dtype=torch.float64), rtol=0, atol=1e-8
    )
    theta = 2 * torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) - 1
    a = anchors.weights(theta)
    torch.testing.assert_close(a.sum(1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(a @ anchors.theta.double(), theta.double(), rtol=0, atol=1e-6)


def test_a_linear_denoiser_needs_no_more_anchors_than_it_has_directions(linear_gaussian: Any) -> None:
    model = linear_gaussian
    theta = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    x = model.draw(theta, 2)
    others = theta[:, None] + torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, -0.7]])
    nodes, width = likelihood_nodes((0.1, 20.0), 12)
    weight, mask = torch.full((12,), width), torch.ones_like(x, dtype=torch.bool)
    anchors = make_anchors(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    R = anchor_statistics(model, x, torch.zeros(3, 0), mask, anchors, nodes, weight, seed=5)
    found = anchor_log_likelihood(anchors, R, others)
    exact = direct_log_likelihood(model, x, others, torch.zeros(3, 0), mask, nodes, weight, seed=5).value
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-3)


class PlainDiffusers:
    """A user's own diffusers model, conditioned through cross-attention."""

    def __init__(self) -> None:
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        self.unet = UNet2DConditionModel(
            sample_size=16, in_channels=2, out_channels=2, block_out_channels=(16, 16), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=8, attention_head_dim=8,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
        ).eval()  # fmt: skip
        self.embed = nn.Linear(6, 16)

    def __call__(self, noisy: Tensor, sigma: Tensor, theta: Tensor, u: Tensor, observed: Tensor) -> Tensor:
        del u, observed
        c_skip, c_out, c_in = scalings(sigma)
        hidden = torch.tanh(self.embed(theta))[:, None]
        return c_skip * noisy + c_out * self.unet(c_in * noisy, 250 * torch.log(sigma), hidden).sample


def test_more_anchors_are_better(tiny_film: nn.Module, random_inputs: Callable[..., Any]) -> None:
    """On FiLM and on a plain diffusers network the error falls as anchors are added."""
    clean, _, u, observed = random_inputs(1, 3)
    nodes, width = likelihood_nodes((0.3, 5.0), 2)
    weight = torch.full((2,), width)
    theta = 2 * torch.rand(1, 12, 6, generator=torch.Generator().manual_seed(9)) - 1
    for denoiser in (tiny_film, PlainDiffusers()):
        exact = direct_log_likelihood(denoiser, clean, theta, u, observed, nodes, weight, seed=2).value
        spread = float(exact.std())
        errors = []
        for n in (7, 60):
            anchors = sobol_anchors(n, 6)
            R = anchor_statistics(denoiser, clean, u, observed, anchors, nodes, weight, seed=2)
            errors.append(rms_difference(anchor_log_likelihood(anchors, R, theta), exact))
        assert errors[1] < 0.5 * errors[0]
        assert errors[1] < 0.5 * spread


def test_anchors_must_span() -> None:
    with pytest.raises(ValueError, match="at least 4 anchors for 3 properties, got 3"):
        make_anchors(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="all different and span"):
        make_anchors(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.2, 0.2]]))
