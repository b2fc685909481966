"""The simulator: flux, colours, and that nothing but theta moves the photometry."""

import torch

from generative.conditions import THETA, Observing
from generative.simulator.render import Simulator


def rows(n: int, **changes: float) -> torch.Tensor:
    base = dict(zip(THETA, (10.5, -10.0, 5.0, 0.0, 0.5, -2.5), strict=True)) | changes
    return torch.tensor([list(base.values())]).expand(n, -1)


def conditions(simulator: Simulator, n: int, snr: float = 1000.0) -> tuple[torch.Tensor, Observing]:
    index = torch.ones(n, dtype=torch.long)
    zred = simulator.tables.zred[index].float()
    return index, Observing(zred, torch.full((n, 2), 1.3), torch.full((n, 2), snr))


def test_the_stamp_has_the_flux_of_the_photometric_model(simulator: Simulator) -> None:
    """Whatever structure is drawn: the photometry of one theta is one number per band."""
    n = 40
    index, u = conditions(simulator, n)
    rendered = simulator.render(rows(n), index, u.fwhm, torch.Generator().manual_seed(0))
    total = rendered.galaxy.double().sum(dim=(2, 3))
    torch.testing.assert_close(total, rendered.flux.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(rendered.flux, rendered.flux[:1].expand(n, -1), rtol=1e-6, atol=0)
    # ... while the images differ.
    shapes = rendered.galaxy / rendered.flux[..., None, None]
    assert float(shapes.std(dim=0).mean() / shapes.mean()) > 0.3


def test_noise_and_neighbours_come_on_top(simulator: Simulator) -> None:
    n = 64
    index, u = conditions(simulator, n, snr=300.0)
    g = torch.Generator().manual_seed(5)
    observed = simulator.observe(rows(n), index, u, g)
    rendered = simulator.render(rows(n), index, u.fwhm, torch.Generator().manual_seed(5))
    noise = observed.image - rendered.galaxy - rendered.neighbours
    torch.testing.assert_close(observed.noise, observed.flux / 300.0)
    scaled = noise / observed.noise[..., None, None]
    assert abs(float(scaled.std()) - 1) < 0.01
    assert abs(float(scaled.mean())) < 0.01
    # 2 places, each taken in 15 % of the stamps.
    there = rendered.neighbours.sum(dim=(1, 2, 3)) > 0
    assert 0.1 < float(there.float().mean()) < 0.5


def test_red_and_dead_is_smoother_and_more_concentrated(simulator: Simulator) -> None:
    n = 100
    index, u = conditions(simulator, n)

    def clumpiness_and_core(logssfr: float, mwa: float) -> tuple[float, float]:
        r = simulator.render(
            rows(n, logssfr=logssfr, mwa=mwa), index, u.fwhm, torch.Generator().manual_seed(1)
        )
        shape = r.galaxy[:, 0] / r.flux[:, :1, None]
        turned = torch.rot90(shape, 2, dims=(1, 2))
        core = shape[:, 6:10, 6:10].sum(dim=(1, 2))
        return float((shape - turned).abs().sum(dim=(1, 2)).median()), float(core.median())

    rough, spread = clumpiness_and_core(-9.0, 3.0)
    smooth, core = clumpiness_and_core(-12.0, 8.0)
    assert rough > 1.15 * smooth
    assert core > 1.2 * spread


def test_dust_reddens_the_middle(simulator: Simulator) -> None:
    """Dust is thickest inside: with more of it the first band loses its centre relative to the second."""
    n = 100
    index, u = conditions(simulator, n)

    def gradient(dust2: float) -> float:
        r = simulator.render(rows(n, dust2=dust2), index, u.fwhm, torch.Generator().manual_seed(1))
        shape = r.galaxy / r.flux[..., None, None]
        ratio = shape[:, 0, 6:10, 6:10].sum(dim=(1, 2)) / shape[:, 1, 6:10, 6:10].sum(dim=(1, 2))
        return float(ratio.median())

    assert gradient(1.5) < 0.97 * gradient(0.0)


def test_the_same_generator_draws_the_same(simulator: Simulator) -> None:
    first, second = (simulator.draw(3, torch.Generator().manual_seed(8)) for _ in range(2))
    torch.testing.assert_close(first.image, second.image, rtol=0, atol=0)
    assert torch.isfinite(first.image).all()
    other = simulator.draw(3, torch.Generator().manual_seed(9))
    assert not torch.equal(first.image, other.image)
