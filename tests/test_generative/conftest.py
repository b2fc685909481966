"""A tiny instrument, network and simulator that the tests of `generative` share."""

import dataclasses

import pytest
import torch

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
