"""The domain check, and the calibration that is kept with a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import generative
from generative.calibration import calibrated
from generative.checkpoint import Model, load_model, save_model
from generative.conditions import THETA
from generative.data import SimulatedSource
from generative.network import Separable
from generative.noise import likelihood_nodes
from generative.preparation import fit_preparation
from generative.stamps import Stamps
from generative.statistics import image_statistics, noise_image
from generative.typical import fit_reference, unconditional_loss


def losses(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-normal losses that depend on the conditions, correlated between nodes."""
    g = torch.Generator().manual_seed(seed)
    u = 2 * torch.rand(n, 3, generator=g) - 1
    noise = torch.randn(n, 4, generator=g) @ torch.tensor([[1.0, 0.9, 0, 0], [0, 0.4, 0, 0], [0, 0, 1, 1],
                                                           [0, 0, 0, 0.2]])  # fmt: skip
    return torch.exp(u[:, :1] * 2 - u[:, 1:2] ** 2 + 0.05 * noise), u


def test_p_values_are_uniform_for_images_like_the_reference() -> None:
    reference = fit_reference(*losses(4000, 0))
    p = reference.p_value(*losses(2000, 1))
    assert abs(float(p.mean()) - 0.5) < 0.03
    for level in (0.01, 0.1, 0.9):
        assert (
            abs(float((p < level).float().mean()) - level) < 3.5 * (level * (1 - level) / 2000) ** 0.5 + 0.01
        )
    loss, u = losses(5, 2)
    loss[:, 1] *= 1.2  # large against the scatter at given other nodes, not by itself
    assert (reference.p_value(loss, u) <= 2 / 2001).all()
    with pytest.raises(ValueError, match="at least 100 simulations, got 40"):
        fit_reference(*losses(40, 0))


def test_the_loss_is_that_of_the_denoiser_without_properties(
    tiny: Separable, random_inputs: Callable[..., Any]
) -> None:
    clean, theta, u, observed = random_inputs(3, 1)
    nodes, _ = likelihood_nodes((0.15, 10.0), 3)
    statistics = image_statistics(tiny, clean, u, observed, nodes, n_draw=2, seed=7)
    count = observed.flatten(1).sum(1).float()
    found = unconditional_loss(tiny.coefficients, statistics, u, count, nodes)
    unknown = torch.full_like(theta, torch.nan)
    for k, sigma in enumerate(nodes):
        expected = torch.zeros(3)
        for sign in (1, -1):
            noisy = clean + sign * sigma * noise_image(clean.shape[1:], 7, k, 0)
            denoised = tiny(noisy, sigma.expand(3), unknown, u, observed)
            expected += 0.5 * (((clean - denoised) * observed / sigma) ** 2).flatten(1).sum(1) / count
        torch.testing.assert_close(found[:, k], expected, rtol=1e-4, atol=1e-5)


def test_calibration_is_kept_with_the_model(tiny: Separable, source: SimulatedSource, tmp_path: Path) -> None:
    batch = source.batch(64, torch.Generator().manual_seed(0))
    tiny.eval().requires_grad_(False)
    model = Model(
        tiny, tiny.coefficients, fit_preparation(batch.image, batch.noise, batch.observed), source.instrument,
        THETA, (0.05, 20.0), (0.15, 10.0), torch.ones(3), {},
    )  # fmt: skip
    model = calibrated(model, source, 150)
    assert model.calibration is not None
    assert model.calibration["refitted"] == model.calibration["before"]
    assert set(model.calibration["refitted"]["deviation"]) == set(THETA)
    assert model.calibration["refitted"]["n"] == 150
    save_model(tmp_path / "m.safetensors", model)
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.calibration == model.calibration
    assert loaded.reference is not None
    torch.testing.assert_close(loaded.reference, model.reference)
    s = source.simulator.draw(40, torch.Generator().manual_seed(5))
    image = s.image.clone()
    image[0] = 1000 * s.noise[0, :, None, None] * (torch.arange(16) % 2)  # stripes
    stamps = Stamps(np.arange(40).astype(str), image, s.noise, torch.ones_like(image, dtype=torch.bool), s.u)
    p = generative.summarize(loaded, stamps, target_error=9.0, max_draw=8).p_typical
    assert p[0] <= 1.5 / 151
    assert 0.2 < np.median(p[1:]) < 0.8
    assert np.isnan(generative.summarize(loaded._replace(reference=None), stamps).p_typical).all()
