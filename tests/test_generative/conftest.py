"""A tiny instrument, network and simulator that the tests of `generative` share."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from generative.data import SimulatedSource
from generative.instrument import SDSS_GRIZ, Instrument
from generative.network import Film, NetworkConfig, Separable, build_network
from generative.simulator.render import Simulator
from generative.simulator.stars import band_tables


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_instrument() -> Instrument:
    """Two bands, 16 pixels."""
    return dataclasses.replace(
        SDSS_GRIZ,
        name="small",
        bands=SDSS_GRIZ.bands[:2],
        psf_fwhm=SDSS_GRIZ.psf_fwhm[:2],
        depth=SDSS_GRIZ.depth[:2],
        n_pixel=16,
    )


@pytest.fixture(scope="session")
def simulator(small_instrument: Instrument) -> Simulator:
    return Simulator(small_instrument, tables=band_tables(small_instrument, [0.06, 0.12]))


@pytest.fixture(scope="session")
def source(small_instrument: Instrument, simulator: Simulator) -> SimulatedSource:
    return SimulatedSource(small_instrument, simulator)


def tiny_config(**changes: object) -> NetworkConfig:
    """A network that runs in milliseconds."""
    base = NetworkConfig(
        n_band=2,
        n_pixel=16,
        n_theta=6,
        n_u=7,
        n_basis=5,
        patch=4,
        channels=(16, 16),
        hidden=16,
        n_feature=8,
        refine=8,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture
def tiny() -> Separable:
    """A separable network with weights that matter."""
    torch.manual_seed(3)
    network = build_network(tiny_config())
    assert isinstance(network, Separable)
    with torch.no_grad():
        network.head.weight.mul_(20.0)
        network.trunk.direct.weight.mul_(20.0)
        assert network.trunk.refinement is not None
        network.trunk.refinement.last.weight.normal_(std=0.1)
    return network


@pytest.fixture
def tiny_film() -> Film:
    torch.manual_seed(3)
    network = build_network(tiny_config(kind="film"))
    assert isinstance(network, Film)
    return network


Inputs = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


@pytest.fixture(scope="session")
def random_inputs() -> Inputs:
    """Makes prepared images with bad pixels, theta, u and masks for the tiny networks."""
    return _random_inputs


def _random_inputs(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    clean = torch.randn(n, 2, 16, 16, generator=g)
    theta = 2 * torch.rand(n, 6, generator=g) - 1
    u = torch.randn(n, 7, generator=g)
    observed = torch.rand(n, 2, 16, 16, generator=g) < 0.9
    return torch.where(observed, clean, 0.0), theta, u, observed


@pytest.fixture(scope="session")
def universe() -> Callable[..., Path]:
    """Writes a file in the layout of the Multimodal Universe."""
    return _universe


def _universe(path: Path, **changes: Any) -> Path:
    """A file in the layout of the Multimodal Universe, bands in another order than the instrument's."""
    rng = np.random.default_rng(1)
    n, side = 10, 20
    content: dict[str, Any] = {
        "image_array": rng.normal(5, 1, (n, 3, side, side)).astype(np.float32),
        "image_band": np.array([[b"SDSS-R", b"SDSS-G", b"SDSS-I"]] * n),
        "image_ivar": np.full((n, 3, side, side), 4.0, np.float32),
        "image_mask": np.ones((n, 3, side, side), bool),
        "image_psf_fwhm": np.full((n, 3), 1.3, np.float32),
        "image_scale": np.full((n, 3), 0.396, np.float32),
        "Z": np.full(n, 0.1, np.float32),
        "logmass": np.where(np.arange(n) < 5, 10.5, np.nan),
    }
    content |= changes
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            if value is not None:
                file[name] = value
    return path


_SIDE = 3


class _LinearGaussian:
    """Images x ~ N(A theta, S) with their optimal denoiser D = mu + S (S + sigma^2)^-1 (x_sigma - mu)."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        n = _SIDE**2
        self.A = torch.randn(n, 2, generator=g)
        half = torch.randn(n, n, generator=g) / 2
        self.S = half @ half.T + 0.3 * torch.eye(n)

    def mean(self, theta: Tensor) -> Tensor:
        return theta @ self.A.T

    def draw(self, theta: Tensor, seed: int) -> Tensor:
        eps = torch.randn(len(theta), _SIDE**2, generator=torch.Generator().manual_seed(seed))
        return (self.mean(theta) + eps @ torch.linalg.cholesky(self.S).T).view(-1, 1, _SIDE, _SIDE)

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        normal = torch.distributions.MultivariateNormal(self.mean(theta), self.S)
        return normal.log_prob(x.flatten(1))

    def __call__(self, noisy: Tensor, sigma: Tensor, theta: Tensor, u: Tensor, observed: Tensor) -> Tensor:
        del u, observed
        mean = self.mean(theta)
        total = self.S + sigma[0] ** 2 * torch.eye(len(self.S))
        moved = torch.linalg.solve(total, (noisy.flatten(1) - mean).T).T @ self.S
        return (mean + moved).view_as(noisy)


@pytest.fixture
def linear_gaussian() -> Any:
    """Images of 3 x 3 pixels whose likelihood is known."""
    return _LinearGaussian()
