"""The evaluation: it sees a difference where there is one, and none where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from generative.checkpoint import Model
from generative.conditions import THETA
from generative.data import SimulatedSource
from generative.draw import draw, theta_rows, usual_conditions
from generative.evaluation.compare import distances
from generative.evaluation.morphology import STATISTICS, Morphologies, measure
from generative.evaluation.neighbours import memorisation
from generative.evaluation.report import evaluate
from generative.instrument import Instrument
from generative.network import Separable
from generative.preparation import fit_preparation


def stamps(r_eff: float, n: int) -> np.ndarray:
    """Round exponentials of S/N 100 in the middle of 48 pixels, two bands, the second redder outside."""
    y, x = np.indices((48, 48)) - 23.5
    r = np.hypot(x, y)
    images = np.stack([60 * np.exp(-1.678 * r / r_eff), 60 * np.exp(-1.678 * r / (1.3 * r_eff))])
    return images + np.random.default_rng(0).normal(size=(n, 2, 48, 48))


def test_half_light_radius_of_known_profiles() -> None:
    found = [measure(stamps(r, 3), 0, ("g", "r")) for r in (4.0, 6.0)]
    radius = [m.values[m.measured, STATISTICS.index("rhalf")].mean() for m in found]
    # The Petrosian aperture misses a little of the light of an exponential.
    np.testing.assert_allclose(radius, [4.0, 6.0], rtol=0.1)
    assert all(m.measured.all() for m in found)
    assert found[0].names[-2:] == ("colour g-r", "gradient g-r")
    assert (found[0].values[:, -1] < -0.02).all()  # relatively less of the first band outside


def test_an_empty_stamp_is_not_measured() -> None:
    noise = np.random.default_rng(1).normal(size=(2, 1, 32, 32))
    assert not measure(noise, 0, ("i",)).measured.any()


def test_distances_see_what_differs() -> None:
    rng = np.random.default_rng(0)
    theta = rng.uniform(size=(900, 1))
    same = Morphologies(("a", "b"), rng.normal(size=(900, 2)))
    reference = Morphologies(("a", "b"), rng.normal(size=(900, 2)))
    shifted = Morphologies(("a", "b"), same.values + np.array([0.5, 0.0]) * (theta > 2 / 3))
    found = {(d.where, d.statistic): d for d in distances(same, reference, theta, theta, ("x",))}
    assert len(found) == 8
    assert sum(d.wasserstein > d.floor_95 for d in found.values()) <= 2
    found = {(d.where, d.statistic): d for d in distances(shifted, reference, theta, theta, ("x",))}
    last = next(where for where, _ in found if where.endswith("to 1"))
    assert abs(found[last, "a"].wasserstein - 0.5) < 0.15
    assert found[last, "a"].wasserstein > found[last, "a"].floor_95
    assert found[last, "b"].wasserstein < 1.5 * found[last, "b"].floor_95
    assert found["all", "a"].wasserstein < 0.25


def test_memorised_images_are_found() -> None:
    g = torch.Generator().manual_seed(0)
    training, held = torch.randn(300, 1, 8, 8, generator=g), torch.randn(200, 1, 8, 8, generator=g)
    fresh = torch.randn(200, 1, 8, 8, generator=g)
    assert memorisation(fresh, held, training).closer < 0.06
    copied = memorisation(training[:200] + 0.01 * fresh, held, training)
    assert copied.closer > 0.99
    np.testing.assert_array_equal(copied.nearest, np.arange(200))
    mirrored = memorisation(training[:200].rot90(1, (2, 3)).flip(3), held, training)
    assert mirrored.closer > 0.99
    np.testing.assert_array_equal(mirrored.nearest, np.arange(200))


@pytest.fixture
def model(tiny: Separable, source: SimulatedSource) -> Model:
    batch = source.batch(64, torch.Generator().manual_seed(0))
    preparation = fit_preparation(batch.image, batch.noise, batch.observed)
    tiny.eval().requires_grad_(False)
    return Model(
        tiny, tiny.coefficients, preparation, source.instrument, THETA, (0.05, 20.0), (0.15, 10.0),
        torch.ones(3), {},
    )  # fmt: skip


def test_the_report_is_whole(model: Model, source: SimulatedSource, tmp_path: Path) -> None:
    result = evaluate(model, source, tmp_path, n=11, n_information=16)
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored["n"] == 11
    assert set(stored["information"]["cover_68"]) == set(THETA)
    assert len(stored["levels"]["sigma"]) == 12
    # With untrained weights and refitted ones the same, the two agree.
    assert result["information"] == result["information_before_refit"]
    for name in ("generated", "reference", "morphology", "distances", "losses"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_conditions_have_the_colours_of_the_photometric_model(small_instrument: Instrument) -> None:
    """A quiescent galaxy is redder than a star-forming one: less flux over noise in the first band."""
    theta = torch.cat([theta_rows({"logssfr": s, "dust2": 0.2}, 1) for s in (-12.5, -9.0)])
    u = usual_conditions(small_instrument, theta, zred=0.1, snr=2000.0)
    torch.testing.assert_close(u.snr[:, small_instrument.reference_band], torch.full((2,), 2000.0))
    ratio = u.snr[:, 0] / u.snr[:, 1]
    noise = small_instrument.noise
    colour = -2.5 * torch.log10(ratio * noise[0] / noise[1])  # g - r
    assert 0.65 < float(colour[0]) < 1.1
    assert float(colour[1]) < 0.3
    with pytest.raises(ValueError, match="`mwa` in row 0"):
        usual_conditions(small_instrument, theta_rows({"logssfr": -8.5, "mwa": 11.0}, 1))


def test_drawing_is_repeatable_and_checked(model: Model) -> None:
    assert model.instrument is not None
    theta = theta_rows({"logmass": 10.5}, 3)
    assert theta[:, 0].tolist() == [10.5] * 3
    assert theta[:, 1:].isnan().all()
    u = usual_conditions(model.instrument, theta)
    first, second = (draw(model, theta, u, seed=4, n_step=3) for _ in range(2))
    torch.testing.assert_close(first.image, second.image, rtol=0, atol=0)
    assert first.image.shape == (3, 2, 16, 16)
    alike = draw(model, theta, u, seed=4, n_step=3, same_noise=True)
    torch.testing.assert_close(alike.image[0], alike.image[2], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="`properties` must be among"):
        theta_rows({"mass": 3.0}, 1)
    with pytest.raises(ValueError, match="`logmass` in row 0"):
        draw(model, theta_rows({"logmass": 3.0}, 3), u, n_step=3)
    with pytest.raises(ValueError, match="`zred` must be between"):
        usual_conditions(model.instrument, theta, zred=3.0)
    with pytest.raises(ValueError, match="`snr` must be between"):
        usual_conditions(model.instrument, theta, snr=3.0)
