"""Profiles, PSFs and pixels against GalSim."""

import galsim
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from generative.instrument import HST_F814W, SDSS_GRIZ, Instrument
from generative.simulator.profile import gaussians, grid, sersic, sersic_b
from generative.simulator.render import Simulator


def blurred(simulator: Simulator, fwhm: float, **profile: float) -> NDArray[np.float64]:
    """A Sersic profile through the instrument, as the simulator does it."""
    values = {name: torch.tensor([value]) for name, value in profile.items() if name not in ("x", "y")}
    centre = torch.tensor([[profile["x"], profile["y"]]])
    scene = sersic(simulator._xy, simulator._step, centre=centre, **values)
    n_band = simulator.instrument.n_band
    image = simulator._blurred(scene[:, None].expand(-1, n_band, -1, -1), torch.full((1, n_band), fwhm))
    return image[0, 0].double().numpy()


def by_galsim(instrument: Instrument, fwhm: float, **p: float) -> NDArray[np.float64]:
    galaxy = galsim.Sersic(n=p["n"], half_light_radius=p["r_eff"] * np.sqrt(p["q"]))
    galaxy = galaxy.shear(q=p["q"], beta=p["angle"] * galsim.radians).shift(p["x"], p["y"])
    psf = (
        galsim.Kolmogorov(fwhm=fwhm)
        if instrument.psf == "kolmogorov"
        else galsim.Moffat(beta=instrument.psf_beta, fwhm=fwhm)
    )
    n = instrument.n_pixel
    image = galsim.Convolve(galaxy, psf).drawImage(nx=n, ny=n, scale=instrument.pixel_scale)
    return np.asarray(image.array, float)


class _Bare(Simulator):
    """A simulator without photometry: only its optics are used."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.device = torch.device("cpu")
        widest = max(high for _, high in instrument.psf_fwhm)
        self._margin = int(-(-2.0 * widest // instrument.pixel_scale))
        self._step = instrument.pixel_scale / instrument.oversample
        self._xy = grid((instrument.n_pixel + 2 * self._margin) * instrument.oversample, self._step)


@pytest.mark.parametrize("instrument", [SDSS_GRIZ, HST_F814W], ids=lambda i: i.name)
@pytest.mark.parametrize(
    ("n", "size", "q"), [(1.0, 4.0, 0.4), (1.0, 8.0, 0.8), (2.5, 3.0, 0.7), (4.0, 3.0, 0.9)]
)
def test_sersic_through_the_instrument_is_galsim(
    instrument: Instrument, n: float, size: float, q: float
) -> None:
    """Within 1 % of the peak everywhere, and of the flux inside the stamp."""
    scale = instrument.pixel_scale
    p = {"n": n, "r_eff": size * scale, "q": q, "angle": 0.6, "x": 0.3 * scale, "y": -0.2 * scale}
    low, high = instrument.psf_fwhm[0]
    ours = blurred(_Bare(instrument), 0.5 * (low + high), **p)
    theirs = by_galsim(instrument, 0.5 * (low + high), **p)
    assert np.abs(ours - theirs).max() < 0.01 * theirs.max()
    assert abs(ours.sum() / theirs.sum() - 1) < 0.01


def test_half_of_the_light_is_inside_the_effective_radius() -> None:
    from scipy.special import gammainc

    n = np.array([0.8, 1.0, 2.0, 4.0, 6.0])
    b = sersic_b(torch.tensor(n)).numpy()
    np.testing.assert_allclose(gammainc(2 * n, b), 0.5, atol=2e-4)


def test_gaussians_keep_their_flux() -> None:
    xy = grid(101, 0.1)
    image = gaussians(
        xy,
        0.1,
        centre=torch.tensor([[[0.5, -0.3], [0.0, 1.0]]]),
        sigma=torch.tensor([[0.3, 0.01]]),
        flux=torch.tensor([[2.0, 1.0]]),
    )
    assert abs(float(image.sum()) - 3.0) < 1e-2
    row, column = (int(i) for i in np.unravel_index(int(image[0].argmax()), (101, 101)))
    assert (row, column) == (60, 50)  # y is up the rows, the narrow one is brightest
