"""Chosen conditions: one thing changes, all else stays."""

import numpy as np
import pytest
import torch

from generative.conditions import THETA
from generative.controlled import Chosen, controlled_stamps
from generative.simulator.render import Simulator
from generative.stamps import Stamps

GALAXY = {"logmass": 10.4, "logssfr": -9.9, "mwa": 5.0, "logzsol": -0.1, "dust2": 0.8, "gas_logu": -2.7}
THETA_ROWS = np.tile([GALAXY[name] for name in THETA], (3, 1))


def stamps(simulator: Simulator, chosen: Chosen, n: int = 3, seed: int = 0) -> Stamps:
    return controlled_stamps(simulator, tuple("abc"[:n]), THETA_ROWS[:n], 1, chosen, seed=seed)


def test_depth_changes_the_noise_alone(simulator: Simulator) -> None:
    deep, shallow = (stamps(simulator, Chosen(log_snr=snr, psf=0.5)) for snr in (4.0, 3.0))
    reference = simulator.instrument.reference_band
    np.testing.assert_allclose(deep.u.snr[:, reference], 1e4, rtol=1e-4)
    np.testing.assert_allclose(shallow.noise / deep.noise, 10, rtol=1e-3)
    # The same noise in units of its deviation: ten times the deep noise minus the shallow one is 9 galaxies.
    light = (10 * deep.image - shallow.image) / 9
    np.testing.assert_allclose(light.sum(dim=(2, 3)), (deep.u.snr * deep.noise), rtol=0.25)
    assert torch.equal(deep.u.fwhm, shallow.u.fwhm)


def test_first_galaxies_stay_and_seeds_differ(simulator: Simulator) -> None:
    three, one = stamps(simulator, Chosen()), stamps(simulator, Chosen(), n=1)
    torch.testing.assert_close(three.image[:1], one.image, rtol=1e-4, atol=1e-16)
    torch.testing.assert_close(three.u.snr[:1], one.u.snr)
    other = stamps(simulator, Chosen(), n=1, seed=1)
    assert not torch.allclose(other.image, one.image, rtol=0.1, atol=0)


def test_axis_ratio(simulator: Simulator) -> None:
    """Second moments of bright stamps: edge-on galaxies are flatter."""

    def flattening(ratio: float) -> float:
        found = stamps(simulator, Chosen(log_snr=4.2, psf=0.0, axis_ratio=ratio))
        image = torch.where(found.image > 5 * found.noise[..., None, None], found.image, 0.0)[:, 0].double()
        side = image.shape[-1]
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        values = []
        for one in image:
            weight = one / one.sum()
            dx, dy = x - (weight * x).sum(), y - (weight * y).sum()
            xx, yy, xy = ((weight * a).sum() for a in (dx * dx, dy * dy, dx * dy))
            moments = torch.linalg.eigvalsh(torch.stack([torch.stack([xx, xy]), torch.stack([xy, yy])]))
            values.append(float(torch.sqrt(moments[0] / moments[1])))
        return float(np.median(values))

    assert flattening(0.25) < flattening(0.95) - 0.1


def test_survey_noise_follows_colours(simulator: Simulator) -> None:
    found = stamps(simulator, Chosen(log_snr=3.5, is_survey=True))
    ratio = found.noise / torch.tensor(simulator.instrument.noise)
    torch.testing.assert_close(ratio[:, 0], ratio[:, 1], rtol=1e-4, atol=0.0)


def test_bands_and_psf(simulator: Simulator) -> None:
    bands = simulator.instrument.bands
    found = stamps(simulator, Chosen(psf=1.0, bands=bands[1:]))
    assert found.observed[:, 1].all()
    assert not found.observed[:, 0].any()
    np.testing.assert_allclose(
        found.u.fwhm[0], [high for _, high in simulator.instrument.psf_fwhm], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        (Chosen(psf=1.2), "`psf` must be from 0"),
        (Chosen(log_snr=9.0), "`log_snr` must be from"),
        (Chosen(bands=("x",)), "`bands` must be some of"),
        (Chosen(bands=()), "`bands` must be some of"),
    ],
)
def test_refusals(simulator: Simulator, chosen: Chosen, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        stamps(simulator, chosen, n=1)
