"""A trained separable network on images whose likelihood is known exactly."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from generative.checkpoint import load_model
from generative.config import DataConfig, NetworkOptions, TrainConfig, TrainingOptions
from generative.data import Batch
from generative.preparation import Preparation
from generative.statistics import image_statistics, log_likelihood
from generative.train import run

SIDE = 8
GRID = 33


class GaussianSource:
    """Images A theta + noise of a known covariance, theta uniform in (-1, 1)^2, scaled to unit variance."""

    n_band, n_pixel, n_theta, n_u = 1, SIDE, 2, 0
    n_train: int | None = None

    def __init__(self) -> None:
        y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
        blob = torch.exp(-2 * (x**2 + y**2))
        self.A = torch.stack([1.2 * blob, 2.5 * x * blob]).flatten(1).T
        distance = (
            (x.flatten()[:, None] - x.flatten()) ** 2 + (y.flatten()[:, None] - y.flatten()) ** 2
        ) ** 0.5
        covariance = 0.6 * torch.eye(SIDE**2) + 0.4 * torch.exp(-distance / 0.3)
        scale = torch.sqrt(covariance.diagonal() + (self.A**2).sum(1) / 3)
        self.A = self.A / scale[:, None]
        self.S = covariance / scale[:, None] / scale
        self.root = torch.linalg.cholesky(self.S)

    def batch(self, n: int, generator: torch.Generator) -> Batch:
        theta = 2 * torch.rand(n, 2, generator=generator) - 1
        eps = torch.randn(n, SIDE**2, generator=generator)
        image = (theta @ self.A.T + eps @ self.root.T).view(n, 1, SIDE, SIDE)
        return Batch(
            image, torch.ones(n, 1), torch.ones_like(image, dtype=torch.bool), theta, torch.zeros(n, 0)
        )

    def held_out(self, n: int, generator: torch.Generator) -> Batch:
        return self.batch(n, generator)

    def proposal(self, n: int) -> Tensor:
        return 2 * torch.rand(n, 2, generator=torch.Generator().manual_seed(5)) - 1

    def log_prob(self, image: Tensor, theta: Tensor) -> Tensor:
        """(image, theta)."""
        mean = theta @ self.A.T
        normal = torch.distributions.MultivariateNormal(mean[None], scale_tril=self.root)
        return normal.log_prob(image.flatten(1)[:, None])


@pytest.mark.slow
def test_the_posterior_of_a_trained_network_is_the_exact_one(tmp_path: Path) -> None:
    """KL divergence from the exact posterior, on a grid over the prior: 0.02 nats in the mean at most."""
    source = GaussianSource()
    config = TrainConfig(
        DataConfig(source="simulate", instrument="none"),
        NetworkOptions(n_basis=6, patch=1, channels=(16, 16), hidden=32, n_feature=16, refine=0),
        TrainingOptions(
            steps=800, batch=48, levels=3, lr=2e-3, contrast=5.0, looks=0.1, label_dropout=0.0, holes=False,
            ema=0.995, sigma_likelihood=(0.05, 10.0), sigma_sample=(0.05, 10.0), validate_every=800,
            save_every=800, refit_images=6000, refit_steps=1500, calibration_images=0,
        ),
    )  # fmt: skip
    path = run(
        config, source, Preparation((0.0,), (1.0,), "linear"), tmp_path, instrument=None,
        theta_names=("first", "second"),
    )  # fmt: skip
    assert path is not None
    model = load_model(path)
    assert model.coefficients is not None
    batch = source.held_out(200, torch.Generator().manual_seed(10**12))
    nodes, weight = model.nodes
    G, b, _ = image_statistics(model.network, batch.image, batch.u, batch.observed, nodes, n_draw=32, seed=9)
    axis = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    theta = torch.cartesian_prod(axis, axis)
    every = theta[None].expand(200, -1, -1)
    with torch.no_grad():
        found = torch.log_softmax(
            log_likelihood(model.coefficients, G, b, every, batch.u, nodes, weight), dim=1
        )
    exact = torch.log_softmax(source.log_prob(batch.image, theta), dim=1)
    divergence = (exact.exp() * (exact - found)).sum(1)
    # There is something to get wrong: the posterior is far from the prior.
    information = (exact.exp() * (exact + math.log(GRID**2))).sum(1).mean()
    assert float(information) > 0.8, float(information)
    assert float(divergence.mean()) < 0.02, (float(divergence.mean()), float(divergence.max()))
