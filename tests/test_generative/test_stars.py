"""Band fluxes in torch against `sed`, and the history that theta stands for."""

import jax
import numpy as np
import pytest
import torch

from generative.conditions import age_universe_gyr, draw_theta
from generative.instrument import Instrument
from generative.simulator.history import log_ratios, mass_in_bins
from generative.simulator.render import Simulator
from generative.simulator.stars import Population, band_flux
from sed.compile import compile_photometry
from sed.filters import load_filters
from sed.io import load_grid
from sed.parameters import BinnedSFH, SEDParams


def test_fluxes_are_those_of_the_photometric_model(
    small_instrument: Instrument, simulator: Simulator
) -> None:
    tables = simulator.tables
    n = 6
    index = torch.tensor([0, 1] * 3)
    zred = tables.zred[index]
    theta = draw_theta(n, zred.float(), torch.Generator().manual_seed(4)).double()
    edges = tables.agebins[index]
    mass = mass_in_bins(theta, edges)
    ours = band_flux(tables, index, Population(mass, theta[:, 3], theta[:, 4], theta[:, 4], theta[:, 5]))
    ratios = log_ratios(theta, edges)
    with jax.enable_x64(True):
        for i in range(n):
            compiled = compile_photometry(
                load_grid(), load_filters(small_instrument.bands), float(zred[i]), dtype=np.float64,
                dust_emission=False,
            )  # fmt: skip
            logmass, logssfr, mwa, logzsol, dust2, gas_logu = theta[i].tolist()
            sfh = BinnedSFH(logmass, logssfr, 0.0, ratios[i].numpy())
            params = SEDParams(sfh, logzsol, dust2, dust2, 0.0, gas_logu)
            np.testing.assert_allclose(ours[i].numpy(), np.asarray(compiled.flux(params)), rtol=1e-6)
            assert abs(float(compiled.mean_age(params)) - mwa) < 1e-6


def test_light_of_populations_adds_up(simulator: Simulator) -> None:
    index = torch.tensor([0, 1])
    theta = draw_theta(2, simulator.tables.zred[index].float(), torch.Generator().manual_seed(1)).double()
    mass = mass_in_bins(theta, simulator.tables.agebins[index])
    one = Population(mass, theta[:, 3], theta[:, 4], theta[:, 4], theta[:, 5])
    share = torch.rand(mass.shape, generator=torch.Generator().manual_seed(2)).double()
    parts = [band_flux(simulator.tables, index, one._replace(mass=mass * s)) for s in (share, 1 - share)]
    torch.testing.assert_close(parts[0] + parts[1], band_flux(simulator.tables, index, one))


def test_history_has_the_mass_the_rate_and_the_age(simulator: Simulator) -> None:
    index = torch.zeros(50, dtype=torch.long)
    edges = simulator.tables.agebins[index]
    theta = draw_theta(50, simulator.tables.zred[index].float(), torch.Generator().manual_seed(3)).double()
    mass = mass_in_bins(theta, edges)
    total = mass.sum(1)
    torch.testing.assert_close(torch.log10(total), theta[:, 0], rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.log10(mass[:, :2].sum(1) / total / 1e8), theta[:, 1], rtol=0, atol=1e-9)
    middle = 10.0 ** (edges - 9)
    age = (mass * middle.mean(-1)).sum(1) / total
    torch.testing.assert_close(age, theta[:, 2], rtol=1e-6, atol=1e-6)


def test_an_impossible_age_is_refused(simulator: Simulator) -> None:
    theta = torch.tensor([[10.0, -10.0, 13.5, 0.0, 0.3, -2.5]])
    with pytest.raises(ValueError, match=r"`mwa` in row 0 must be between .* got 13.5"):
        mass_in_bins(theta.double(), simulator.tables.agebins[:1])


def test_age_of_the_universe_is_astropys() -> None:
    from astropy.cosmology import Planck18

    zred = torch.tensor([0.0, 0.05, 0.5, 3.0])
    np.testing.assert_allclose(age_universe_gyr(zred).numpy(), Planck18.age(zred.numpy()).value, rtol=1e-5)
