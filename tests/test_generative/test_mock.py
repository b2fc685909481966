"""Images of given properties: what each fault changes, and what it leaves alone."""

import numpy as np
import pytest
import torch

from generative.conditions import RANGE, THETA, draw_theta
from generative.mock import ImageFaults, ImageMock, trained_ages
from generative.release import load
from generative.simulator.render import Simulator
from generative.stamps import Stamps

N = 24
FAINT = 1e-3


@pytest.fixture(scope="module")
def camera(simulator: Simulator) -> ImageMock:
    return ImageMock(load("sdss-griz")._replace(instrument=simulator.instrument), simulator)


@pytest.fixture(scope="module")
def theta(camera: ImageMock) -> np.ndarray:
    zred = torch.full((N,), float(camera.zred[1]))
    return draw_theta(N, zred, torch.Generator().manual_seed(1)).numpy()


def take(camera: ImageMock, theta: np.ndarray, **faults: float) -> Stamps:
    names = tuple(f"g{i}" for i in range(N))
    return camera.observe(names, theta, np.ones(N, int), 4, faults=ImageFaults(**faults))


def test_nothing_wrong_is_what_the_simulator_gives(
    camera: ImageMock, theta: np.ndarray, simulator: Simulator
) -> None:
    from generative.conditions import draw_observing

    stamps = take(camera, theta)
    generator = torch.Generator().manual_seed(4)
    zred = simulator.tables.zred[torch.ones(N, dtype=torch.long)].float()
    u = draw_observing(N, zred, simulator.instrument, generator)
    expected = simulator.observe(
        torch.as_tensor(theta).float(), torch.ones(N, dtype=torch.long), u, generator
    )
    torch.testing.assert_close(stamps.image, expected.image)
    torch.testing.assert_close(stamps.noise, expected.noise)
    assert bool(stamps.observed.all())


def test_noise_is_larger_than_told(camera: ImageMock, theta: np.ndarray) -> None:
    plain, deep = take(camera, theta), take(camera, theta, depth=1.5)
    torch.testing.assert_close(deep.noise, plain.noise)
    torch.testing.assert_close(deep.u.snr, plain.u.snr)
    # The same noise is scaled: what it adds is half of the plain image's noise.
    extra = (deep.image - plain.image) / plain.noise[..., None, None]
    assert float(extra.std()) == pytest.approx(0.5, rel=0.02)


def test_a_wider_psf_takes_light_from_the_centre(camera: ImageMock, theta: np.ndarray) -> None:
    plain, wide = take(camera, theta), take(camera, theta, psf=1.5)
    torch.testing.assert_close(wide.u.fwhm, plain.u.fwhm)
    torch.testing.assert_close(wide.noise, plain.noise)
    middle = slice(6, 10)
    change = (wide.image - plain.image)[..., middle, middle].sum((2, 3)) / plain.noise / plain.u.snr
    assert float(change.mean()) < -0.01


def test_masked_and_bad_pixels(camera: ImageMock, theta: np.ndarray) -> None:
    plain = take(camera, theta)
    masked, bad = take(camera, theta, mask=0.25), take(camera, theta, bad_pixels=0.1)
    torch.testing.assert_close(masked.image, plain.image)
    hidden = (~masked.observed).float().mean((2, 3))
    torch.testing.assert_close(hidden, torch.full_like(hidden, 0.25), atol=0.01, rtol=0)
    assert bool(bad.observed.all())
    assert float((bad.image == 0).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_the_redshift_told(camera: ImageMock, theta: np.ndarray) -> None:
    names = tuple(f"g{i}" for i in range(N))
    told = camera.zred[1] + np.linspace(-0.01, 0.01, N)
    stamps = camera.observe(names, theta, np.ones(N, int), 4, told_zred=told)
    np.testing.assert_allclose(stamps.u.zred.numpy(), told, rtol=1e-6)
    torch.testing.assert_close(stamps.image, take(camera, theta).image)


def test_trained_ages_are_those_of_training(theta: np.ndarray) -> None:
    mwa, logssfr = (theta[:, THETA.index(name)].astype(float) for name in ("mwa", "logssfr"))
    assert trained_ages(mwa, logssfr, 0.12).all()
    assert not trained_ages(3 * mwa.max() * np.ones(N), logssfr, 0.12).any()
    assert not trained_ages(FAINT * np.ones(N), np.full(N, RANGE["logssfr"][0]), 0.12).any()


def test_a_model_of_pictures_is_refused(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="`model` must be of an instrument"):
        ImageMock(load("sdss-griz")._replace(instrument=None), simulator)
