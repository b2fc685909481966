"""The transform of pixels: inverse, Jacobian, masks."""

import math

import numpy as np
import pytest
import torch

from generative.preparation import Preparation, fit_preparation


@pytest.fixture
def preparation() -> Preparation:
    return Preparation((0.3, -0.2), (1.2, 0.7))


def stamps(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    noise = torch.tensor([[2e-12, 5e-12]]).expand(n, -1)
    return 20 * noise[..., None, None] * torch.randn(n, 2, 8, 8, generator=g), noise


def test_inverse_undoes_it(preparation: Preparation) -> None:
    image, noise = stamps()
    pixels = preparation.forward(image, noise, torch.ones_like(image, dtype=torch.bool))
    torch.testing.assert_close(preparation.inverse(pixels, noise), image, rtol=1e-4, atol=1e-14)


def test_formula(preparation: Preparation) -> None:
    image = torch.full((1, 2, 8, 8), 6.0)
    noise = torch.tensor([[2.0, 3.0]])
    pixels = preparation.forward(image, noise, torch.ones_like(image, dtype=torch.bool))
    assert abs(float(pixels[0, 0, 0, 0]) - (math.asinh(3 / 1.5) - 0.3) / 1.2) < 1e-6
    assert abs(float(pixels[0, 1, 0, 0]) - (math.asinh(2 / 1.5) + 0.2) / 0.7) < 1e-6


@pytest.mark.parametrize("stretch", ["asinh", "linear"])
def test_log_jacobian_is_that_of_autograd(stretch: str) -> None:
    preparation = Preparation((0.3, -0.2), (1.2, 0.7), stretch=stretch)  # type: ignore[arg-type]
    image, noise = stamps(2)
    image, noise = 1e12 * image.double(), 1e12 * noise.double()
    observed = torch.rand(image.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    image.requires_grad_(True)
    # Each pixel has its own output: the gradient of the sum holds the diagonal.
    preparation.forward(image, noise, observed).sum().backward()
    slope = image.grad
    assert slope is not None
    expected = torch.where(observed, torch.log(slope), 0.0).sum(dim=(1, 2, 3))
    found = preparation.log_jacobian(image.detach(), noise, observed)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_density_keeps_its_mass_through_the_transform() -> None:
    """p(image) = p(prepared) |d prepared / d image| integrates to one over images."""
    preparation = Preparation((0.5,), (0.8,))
    x = torch.linspace(-3000, 3000, 600001, dtype=torch.float64)
    image, one = x[:, None, None, None], torch.ones(len(x), 1, dtype=torch.float64)
    seen = torch.ones_like(image, dtype=torch.bool)
    y = preparation.forward(image, one, seen)[:, 0, 0, 0]
    logp = -0.5 * y**2 - 0.5 * math.log(2 * math.pi) + preparation.log_jacobian(image, one, seen)
    assert abs(np.trapezoid(np.exp(logp.numpy()), x.numpy()) - 1) < 1e-4


def test_what_was_not_observed_is_zero_and_harmless(preparation: Preparation) -> None:
    image, noise = stamps()
    observed = torch.ones_like(image, dtype=torch.bool)
    observed[0, 1] = False
    observed[1, 0, 2, 3] = False
    broken = torch.where(observed, image, torch.nan)
    noise = noise.clone()
    noise[0, 1] = torch.nan
    pixels = preparation.forward(broken, noise, observed)
    assert torch.isfinite(pixels).all()
    assert (pixels[~observed] == 0).all()
    assert torch.isfinite(preparation.log_jacobian(broken, noise, observed)).all()


def test_fit_standardises() -> None:
    image, noise = stamps(50)
    seen = torch.ones_like(image, dtype=torch.bool)
    fitted = fit_preparation(image, noise, seen)
    pixels = fitted.forward(image, noise, seen)
    broken = torch.where(
        torch.rand(image.shape, generator=torch.Generator().manual_seed(1)) < 0.1, torch.nan, image
    )
    partly = fit_preparation(broken, noise, ~broken.isnan())
    assert abs(partly.std[0] / fitted.std[0] - 1) < 0.05
    with pytest.raises(ValueError, match="observed pixels that differ"):
        fit_preparation(image, noise, ~seen)
    torch.testing.assert_close(pixels.mean(dim=(0, 2, 3)), torch.zeros(2), rtol=0, atol=1e-3)
    torch.testing.assert_close(pixels.std(dim=(0, 2, 3)), torch.ones(2), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"mean": (0.0,), "std": (1.0, 1.0)}, "one entry per band"),
        ({"mean": (0.0,), "std": (0.0,)}, "must be positive"),
    ],
)
def test_refusals(fields: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Preparation(**fields)  # type: ignore[arg-type]
