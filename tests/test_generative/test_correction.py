"""The ratio correction: what its numbers depend on, that it learns a known likelihood, that runs go on."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from generative.checkpoint import Model, load_model
from generative.conditions import THETA
from generative.correct import corrected_model
from generative.correction import Correction, CorrectionConfig, default_config
from generative.correction_training import (
    Compiled,
    CorrectionOptions,
    compiled_simulations,
    fit_correction,
    train_encoder,
)
from generative.data import SimulatedSource, turned
from generative.network import Coefficients, NetworkConfig, Separable
from generative.preparation import Preparation
from generative.simulated_set import SimulatedSet, simulated_set
from generative.statistics import Folded, fold, folded_log_likelihood, log_likelihood

SIDE = 8


def small(**changes: Any) -> Correction:
    torch.manual_seed(0)
    base = CorrectionConfig(1, SIDE, 2, 4, n_number=8, channels=(8, 16), hidden=32)
    return Correction(dataclasses.replace(base, **changes)).eval().requires_grad_(False)


def gaussian_images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of a disc whose brightness is theta_0, in unit noise; theta_1 does nothing."""
    g = torch.Generator().manual_seed(seed)
    theta = 2 * torch.rand(n, 2, generator=g) - 1
    return theta[:, 0, None, None, None] * disc() + torch.randn(n, 1, SIDE, SIDE, generator=g), theta


def disc() -> Tensor:
    y, x = torch.meshgrid(*(torch.arange(SIDE) - (SIDE - 1) / 2,) * 2, indexing="ij")
    return (x**2 + y**2 < 8).float()


def mutual_information() -> float:
    """Of brightness and image, nats: a uniform variable behind normal noise, by quadrature."""
    precision = float((disc() ** 2).sum())
    theta = torch.linspace(-1, 1, 801).double()
    estimate = torch.linspace(-2.5, 2.5, 2001).double()
    density = torch.exp(-0.5 * precision * (estimate[:, None] - theta) ** 2) * math.sqrt(
        precision / (2 * math.pi)
    )
    whole = torch.trapezoid(density, theta, dim=1) / 2
    entropy = -torch.trapezoid(whole * torch.log(whole.clamp(min=1e-300)), estimate)
    return float(entropy) - 0.5 * math.log(2 * math.pi * math.e / precision)


def gaussian_set(n: int, seed: int) -> SimulatedSet:
    image, theta = gaussian_images(n, seed)
    return SimulatedSet(image.half().numpy(), theta, torch.zeros(n, 4), 0.0)


PROPOSAL = 2 * torch.rand(2048, 2, generator=torch.Generator().manual_seed(9)) - 1
OPTIONS = CorrectionOptions(
    steps=500, batch=64, lr=3e-3, valid=500, images=400, fit_steps=200, numbers=8, bf16=False
)


@pytest.fixture(scope="module")
def preparation() -> Preparation:
    return Preparation((0.1, 0.1), (1.2, 1.2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Correction:
    folder = tmp_path_factory.mktemp("encoder")
    done = train_encoder(small(), gaussian_set(6500, 1), PROPOSAL, folder, OPTIONS)
    assert done is not None
    return done


def gain(logp: Tensor) -> float:
    """Information gain, nats; the true theta is the first."""
    return float((logp[:, 0] - torch.logsumexp(logp, 1) + math.log(logp.shape[1])).mean())


def test_numbers_do_not_know_turns_or_what_bad_pixels_hold() -> None:
    net = small()
    clean, _ = gaussian_images(8, 0)
    observed = torch.rand(clean.shape, generator=torch.Generator().manual_seed(1)) < 0.8
    u = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))
    numbers = net.numbers(clean, u, observed)
    assert numbers.shape == (8, 9)
    assert (numbers[:, -1] == 1).all()
    assert numbers[:, :-1].std(dim=0).min() > 1e-4
    turn = torch.arange(8)
    torch.testing.assert_close(net.numbers(turned(clean, turn), u, turned(observed, turn)), numbers)
    other = torch.where(observed, clean, 100.0)
    torch.testing.assert_close(net.numbers(other, u, observed), numbers)


def test_the_encoder_learns_a_known_likelihood(trained: Correction) -> None:
    """The information gain on fresh images is the mutual information, which nothing can exceed."""
    image, theta = gaussian_images(3000, 5)
    u = torch.zeros(3000, 4)
    numbers = trained.numbers(image, u, torch.ones_like(image, dtype=torch.bool))
    every = torch.cat([theta[:, None], PROPOSAL[None].expand(3000, -1, -1)], dim=1)
    found = gain(trained.log_ratio(numbers, every, u))
    exact = mutual_information()
    assert exact == pytest.approx(1.1, abs=0.3)
    assert 0.9 * exact < found < exact + 0.05


def test_a_correction_supplies_what_the_likelihood_lacks(
    trained: Correction, tiny: Separable, source: SimulatedSource, preparation: Preparation
) -> None:
    """On top of a likelihood that knows nothing it gets to the encoder's; the rest stays as it was."""
    n = 1200
    image, theta = gaussian_images(n, 7)
    torch.manual_seed(2)
    sizes = NetworkConfig(n_band=2, n_pixel=16, n_theta=2, n_u=4, n_basis=2, hidden=16, n_feature=8)
    coefficients = Coefficients(sizes).eval().requires_grad_(False)
    noise = torch.randn(n, 8, generator=torch.Generator().manual_seed(3))
    data = Compiled(
        Folded(torch.zeros(n, 8, 8), 10 * noise), image, torch.ones_like(image, dtype=torch.bool), theta,
        torch.zeros(n, 4),
    )  # fmt: skip
    model = Model(
        tiny, coefficients, preparation, source.instrument, THETA, (0.02, 40.0), (0.15, 10.0), torch.ones(2),
        {},
    )  # fmt: skip
    fitted = fit_correction(model, trained, data, PROPOSAL, OPTIONS)
    assert fitted.loss_after < fitted.loss_before - 0.8
    # The likelihood given is noise: its weight falls from where it starts.
    assert 0 < float(fitted.correction.scale) < 0.15
    for one, other in zip(fitted.correction.encoder.parameters(), trained.encoder.parameters(), strict=True):
        assert torch.equal(one, other.half().float())
    few = Compiled(Folded(*(f[:10] for f in data.folded)), *(item[:10] for item in data[1:]))
    with pytest.raises(ValueError, match="at least 40 images, got 10"):
        fit_correction(model, trained, few, PROPOSAL, OPTIONS)


def test_a_run_that_was_stopped_goes_on_the_same(tmp_path: Path) -> None:
    data = gaussian_set(700, 1)
    options = OPTIONS._replace(steps=6, batch=16, valid=100)
    whole = train_encoder(small(), data, PROPOSAL, tmp_path / "a", options)
    assert whole is not None
    times = 0
    while (
        part := train_encoder(small(), data, PROPOSAL, tmp_path / "b", options, until=time.monotonic())
    ) is None:
        times += 1
    assert times == 5
    for one, other in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="holds a run with other options"):
        train_encoder(small(), data, PROPOSAL, tmp_path / "b", options._replace(steps=7))


def test_folded_statistics_give_the_same_likelihood(tiny: Separable) -> None:
    g = torch.Generator().manual_seed(0)
    n, k = 3, 4
    half = torch.randn(n, k, 5, 5, generator=g)
    G, b = half @ half.transpose(2, 3), torch.randn(n, k, 5, generator=g)
    theta, u = torch.rand(n, 6, 6, generator=g), torch.randn(n, 7, generator=g)
    nodes, weight = torch.tensor([0.2, 0.5, 1.0, 4.0]), torch.tensor([1.0, 0.3, 0.7, 2.0])
    coefficients = tiny.coefficients.requires_grad_(False)
    exact = log_likelihood(coefficients, G, b, theta, u, nodes, weight)
    folded = fold(coefficients, G, b, nodes, weight)
    torch.testing.assert_close(
        folded_log_likelihood(coefficients, folded, theta, u), exact, rtol=1e-4, atol=1e-4
    )


def test_simulations_are_kept_and_taken_up(
    source: SimulatedSource, tiny: Separable, preparation: Preparation, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("generative.simulated_set._CHUNK", 20)
    monkeypatch.setattr("generative.simulated_set.SimulatedSource", lambda _: source)
    told: list[int] = []
    assert simulated_set(source.instrument, preparation, 40, tmp_path, until=time.monotonic()) is None
    found = simulated_set(source.instrument, preparation, 30, tmp_path, progress=lambda i, _: told.append(i))
    assert found is not None
    assert told == [20, 30]
    assert found.image.shape == (30, 2, 16, 16)
    batch = source.batch(20, torch.Generator().manual_seed(4 * 10**9))
    clean = preparation.forward(batch.image, batch.noise, batch.observed)
    np.testing.assert_allclose(found.image[:20], clean.numpy(), atol=2e-3)
    assert torch.equal(found.theta[:20], batch.theta)
    again = simulated_set(source.instrument, preparation, 30, tmp_path)
    assert again is not None
    assert np.array_equal(again.image, found.image)
    with pytest.raises(ValueError, match="holds files of another seed"):
        simulated_set(source.instrument, preparation, 30, tmp_path, seed=1)
    model = Model(
        tiny.eval().requires_grad_(False), tiny.coefficients, preparation, source.instrument, THETA,
        (0.02, 40.0), (0.15, 10.0), torch.ones(2), {},
    )  # fmt: skip
    assert (
        compiled_simulations(model, source, 8, tmp_path / "statistics", chunk=4, until=time.monotonic())
        is None
    )
    compiled = compiled_simulations(model, source, 6, tmp_path / "statistics", chunk=4)
    assert compiled is not None
    assert compiled.theta.shape == (6, 6)
    assert compiled.folded.M.shape == (6, 8, 8)
    again_compiled = compiled_simulations(model, source, 6, tmp_path / "statistics", chunk=4)
    assert again_compiled is not None
    assert torch.equal(again_compiled.folded.v, compiled.folded.v)
    torch.manual_seed(8)
    other = Separable(tiny.config).eval().requires_grad_(False)
    with pytest.raises(ValueError, match="holds files of another model"):
        compiled_simulations(model._replace(network=other), source, 6, tmp_path / "statistics", chunk=4)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="`n_pixel` must be a multiple of 8 for 3 `channels`, got 12"):
        CorrectionConfig(1, 12, 2, 4)
    with pytest.raises(ValueError, match="must be positive"):
        CorrectionConfig(1, 16, 2, 4, n_number=0)
    assert default_config(4, 32, 6, 13).channels == (48, 96, 160)
    assert default_config(1, 64, 6, 4).channels == (32, 48, 96, 160)
    assert default_config(2, 12, 6, 4).channels == (96, 160)


def test_a_model_is_corrected_and_loads(
    tiny: Separable, preparation: Preparation, source: SimulatedSource, tmp_path: Path, monkeypatch: Any
) -> None:
    """The whole of it in small: what is written is a model whose likelihood has the correction."""
    monkeypatch.setattr("generative.simulated_set.SimulatedSource", lambda _: source)
    monkeypatch.setattr("generative.correct.SimulatedSource", lambda *_, **__: source)
    monkeypatch.setattr("generative.simulated_set._CHUNK", 50)
    model = Model(
        tiny.eval().requires_grad_(False), tiny.coefficients, preparation, source.instrument, THETA,
        (0.02, 40.0), (0.15, 10.0), torch.ones(2), {"command": "x"},
    )  # fmt: skip
    options = CorrectionOptions(steps=2, batch=8, valid=10, images=40, fit_steps=3, numbers=3, bf16=False)

    def corrected(**changes: Any) -> Path | None:
        return corrected_model(model, tmp_path, options, **({"simulations": 60, "calibration": 20} | changes))

    assert corrected(minutes=0.0) is None
    path = corrected()
    assert path is not None
    found = load_model(path)
    assert found.correction is not None
    assert found.calibration is not None
    assert set(found.calibration) == {"refitted", "before", "corrected"}
    assert found.calibration["corrected"]["n"] == 20
    assert found.provenance["command"] == "x"
    assert found.provenance["correction"]["simulations"] == 60
    with pytest.raises(ValueError, match="`simulations` must be at least 18"):
        corrected(simulations=10)
    with pytest.raises(ValueError, match="must be separable and of an instrument"):
        corrected_model(model._replace(instrument=None), tmp_path, options, simulations=60)
