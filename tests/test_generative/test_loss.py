"""The losses against direct evaluation of the denoiser."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from generative.loss import Losses, TrainingBatch, residual_statistics, squared_residual
from generative.network import Film, Separable
from generative.noise import NoiseDensity, likelihood_nodes
from generative.statistics import image_statistics, information_gain


@pytest.mark.parametrize("holes", [True, False])
def test_statistics_give_the_residual_of_the_denoiser(
    tiny: Separable, holes: bool, random_inputs: Callable[..., Any]
) -> None:
    clean, theta, u, observed = random_inputs(4)
    if not holes:
        observed = torch.ones_like(observed)
    sigma = torch.tensor([0.2, 0.7, 2.0, 9.0])
    eps = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    s = residual_statistics(tiny, clean, sigma, eps, u, observed)
    c = tiny.coefficients(sigma, theta, u)
    noisy = clean + sigma[:, None, None, None] * eps
    direct = ((clean - tiny(noisy, sigma, theta, u, observed)) * observed) ** 2
    expected = direct.flatten(1).sum(1) / sigma**2
    torch.testing.assert_close(squared_residual(s, c[:, None])[:, 0], expected, rtol=1e-4, atol=1e-3)
    assert s.G.abs().max().item() > 1e-3  # the basis does something


def test_losses_are_those_of_the_denoiser(tiny: Separable, random_inputs: Callable[..., Any]) -> None:
    n, n_level = 3, 2
    clean, theta, u, observed = random_inputs(n, 5)
    g = torch.Generator().manual_seed(2)
    sigma, weight = NoiseDensity.start((0.15, 10.0)).draw(n_level, n, g)
    sigma, weight = torch.cat([sigma, torch.ones(1, n)]), torch.cat([weight, torch.zeros(1, n)])
    eps = torch.randn(n_level + 1, *clean.shape, generator=g)
    batch = TrainingBatch(clean, theta, theta, u, observed, sigma, weight, eps)
    parts = Losses(tiny, contrast=20.0, looks=0.5)(batch)

    def residual(i: int, j: int, k: int) -> Tensor:
        s = sigma[k, i : i + 1]
        noisy = clean[i : i + 1] + s * eps[k, i : i + 1]
        d = tiny(noisy, s, theta[j : j + 1], u[i : i + 1], observed[i : i + 1])
        return (((clean[i : i + 1] - d) * observed[i : i + 1] / s) ** 2).sum()

    logp = torch.stack(
        [
            torch.stack([-sum(weight[k, i] * residual(i, j, k) for k in range(n_level)) for j in range(n)])
            for i in range(n)
        ]
    )
    contrast = -torch.log_softmax(logp, 1).diagonal().mean()
    torch.testing.assert_close(parts.contrast, contrast, rtol=1e-3, atol=1e-3)
    seen = observed.flatten(1).sum(1)
    denoise = (
        torch.stack(
            [sum(weight[k, i] * residual(i, i, k) for k in range(n_level)) / seen[i] for i in range(n)]
        ).mean()
        / weight[:n_level].sum(0).mean()
    )
    torch.testing.assert_close(parts.denoise, denoise, rtol=1e-4, atol=1e-5)
    looks = torch.stack([residual(i, i, n_level) / seen[i] * 2.0 for i in range(n)]).mean()
    torch.testing.assert_close(parts.looks, looks, rtol=1e-4, atol=1e-5)
    total = denoise + 0.5 * looks + 20.0 / clean[0].numel() * contrast
    torch.testing.assert_close(parts.total, total, rtol=1e-3, atol=1e-3)


def test_a_batch_of_missing_labels_still_trains(tiny: Separable, random_inputs: Callable[..., Any]) -> None:
    clean, theta, u, observed = random_inputs(3)
    sigma, weight = torch.ones(2, 3), torch.ones(2, 3)
    unknown = torch.full_like(theta, torch.nan)
    batch = TrainingBatch(clean, theta, unknown, u, observed, sigma, weight, torch.randn(2, *clean.shape))
    parts = Losses(tiny, contrast=1.0, looks=0.1)(batch)
    parts.total.backward()
    grads = [p.grad for p in tiny.parameters() if p.grad is not None]
    assert torch.isfinite(parts.total)
    assert all(torch.isfinite(g).all() for g in grads)


def test_images_of_unknown_theta_take_no_part_in_the_contrast(
    tiny: Separable, random_inputs: Callable[..., Any]
) -> None:
    clean, theta, u, observed = random_inputs(5)
    sigma, weight, eps = torch.ones(3, 5), torch.ones(3, 5), torch.randn(3, *clean.shape)
    partly = theta.clone()
    partly[[1, 3], 2] = torch.nan
    losses = Losses(tiny, contrast=1.0, looks=0.1)
    found = losses(TrainingBatch(clean, partly, partly, u, observed, sigma, weight, eps)).contrast
    keep = [0, 2, 4]
    alone = TrainingBatch(
        clean[keep],
        theta[keep],
        theta[keep],
        u[keep],
        observed[keep],
        sigma[:, keep],
        weight[:, keep],
        eps[:, keep],
    )
    torch.testing.assert_close(found, losses(alone).contrast, rtol=1e-4, atol=1e-4)


def test_film_has_the_denoising_loss_alone(tiny_film: Film, random_inputs: Callable[..., Any]) -> None:
    clean, theta, u, observed = random_inputs(3)
    batch = TrainingBatch(
        clean, theta, theta, u, observed, torch.ones(2, 3), torch.ones(2, 3), torch.randn(2, *clean.shape)
    )
    parts = Losses(tiny_film, contrast=20.0, looks=0.1)(batch)
    assert torch.isnan(parts.contrast)
    assert torch.isfinite(parts.total)


def test_noise_density_integrates_without_bias() -> None:
    density = NoiseDensity.start((0.15, 10.0))
    g = torch.Generator().manual_seed(0)
    # Make it uneven first.
    for _ in range(300):
        sigma, _ = density.draw(4, 32, g)
        sigma = sigma.flatten()
        density = density.updated(sigma, torch.randn(len(sigma), generator=g) / sigma)
    probability = density.probability()
    assert abs(float(probability.sum()) - 1) < 1e-5
    assert float(probability.max() / probability.min()) > 2
    sigma, weight = density.draw(4, 20000, g)
    integral = (weight * torch.log(sigma) ** 2).sum(0)
    low, high = density.low, density.high
    exact = (high**3 - low**3) / 3
    error = float(integral.std()) / len(integral) ** 0.5
    assert abs(float(integral.mean()) - exact) < 5 * error
    assert error < 0.02 * exact


def test_information_gain_of_a_known_posterior(tiny: Separable, random_inputs: Callable[..., Any]) -> None:
    """With G = 0 and b = 0 nothing is learnt: the gain is zero and the ranks are those of the prior."""
    _, theta, u, _ = random_inputs(8)
    nodes, width = likelihood_nodes((0.15, 10.0), 3)
    G, b = torch.zeros(8, 3, 5, 5), torch.zeros(8, 3, 5)
    proposal = 2 * torch.rand(4000, 6, generator=torch.Generator().manual_seed(1)) - 1
    gain, rank, _ = information_gain(
        tiny.coefficients, G, b, theta, u, proposal, nodes, torch.full((3,), width)
    )
    torch.testing.assert_close(gain, torch.zeros(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(rank, 0.5 * (theta + 1), rtol=0, atol=0.05)


def test_statistics_refuse_odd_draws(tiny: Separable, random_inputs: Callable[..., Any]) -> None:
    clean, _, u, observed = random_inputs(1)
    with pytest.raises(ValueError, match="`n_draw` must be even"):
        image_statistics(tiny, clean, u, observed, torch.ones(1), n_draw=3)
