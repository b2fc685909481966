"""Training: it learns, it resumes exactly, it refuses what does not fit."""

import csv
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from generative.checkpoint import load_model, load_tensors
from generative.conditions import THETA
from generative.config import TrainConfig, parse_config, read_config
from generative.data import Batch, SimulatedSource, hide_unseen, random_holes
from generative.network import Coefficients, NetworkConfig, Separable
from generative.preparation import Preparation, fit_preparation
from generative.refit import CachedStatistics, cache_statistics, refit
from generative.setup import config_path, shipped_configs
from generative.train import LOG_NAME, STATE_NAME, TrainState, run, train_steps

TINY = {
    "data": {"source": "simulate", "instrument": "sdss-griz"},
    "network": {"n_basis": 4, "channels": [16, 16], "hidden": 16, "n_feature": 8},
    "training": {
        "steps": 6, "batch": 8, "levels": 2, "validate_every": 3, "save_every": 2, "n_validate": 8,
        "n_node": 3, "refit_images": 40, "refit_steps": 30, "warmup": 2, "calibration_images": 0,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return parse_config(TINY)


@pytest.fixture(scope="module")
def preparation(source: SimulatedSource) -> Preparation:
    batch = source.batch(64, torch.Generator().manual_seed(0))
    return fit_preparation(batch.image, batch.noise, batch.observed)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_tensors(path / STATE_NAME)[0]


def start(
    config: TrainConfig, source: SimulatedSource, preparation: Preparation, out: Path, **options: object
) -> Path | None:
    return run(
        config,
        source,
        preparation,
        out,
        instrument=getattr(source, "instrument", None),
        theta_names=THETA,
        **options,  # type: ignore[arg-type]
    )


def test_a_killed_run_ends_with_the_same_weights(
    config: TrainConfig, source: SimulatedSource, preparation: Preparation, tmp_path: Path
) -> None:
    model = start(config, source, preparation, tmp_path / "whole")
    assert model is not None

    class Killed(Exception):  # noqa: N818
        pass

    def kill(result: object) -> None:
        if result.step == 3:  # type: ignore[attr-defined]
            raise Killed

    with pytest.raises(Killed):
        start(config, source, preparation, tmp_path / "cut", on_step=kill)
    with pytest.raises(FileExistsError, match="holds a run"):
        start(config, source, preparation, tmp_path / "cut")
    # Time runs out at once: nothing is done, nothing is lost.
    assert start(config, source, preparation, tmp_path / "cut", resume=True, minutes=0.0) is None
    resumed = start(config, source, preparation, tmp_path / "cut", resume=True)
    assert resumed is not None
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, msg=name)
    left, right = load_tensors(model)[0], load_tensors(resumed)[0]
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=0, atol=0, msg=name)
    with (tmp_path / "cut" / LOG_NAME).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[2]["held_gain"] != "nan"
    assert rows[3]["held_gain"] == "nan"
    loaded = load_model(model)
    assert loaded.provenance["steps"] == 6
    assert loaded.provenance["refit"]["after"] <= loaded.provenance["refit"]["before"]


def test_other_settings_are_refused(
    config: TrainConfig, source: SimulatedSource, preparation: Preparation, tmp_path: Path
) -> None:
    short = dataclasses.replace(
        config, training=dataclasses.replace(config.training, steps=1, refit_images=0)
    )
    start(short, source, preparation, tmp_path)
    other = dataclasses.replace(short, training=dataclasses.replace(short.training, lr=0.5))
    with pytest.raises(ValueError, match=r"other settings: `training.lr` was 0.001, now 0.5"):
        start(other, source, preparation, tmp_path, resume=True)


def test_starting_from_another_model(
    config: TrainConfig, source: SimulatedSource, preparation: Preparation, tmp_path: Path
) -> None:
    """The weights are taken; what is new starts as it would; what does not fit is named."""
    plain = dataclasses.replace(config, network=dataclasses.replace(config.network, refine=0))
    first = TrainState(plain, source, preparation)
    list(train_steps(first, source))
    first.save(tmp_path / STATE_NAME)

    def starting(**network: object) -> TrainState:
        options = dataclasses.replace(config.training, start_from=str(tmp_path / STATE_NAME))
        sizes = dataclasses.replace(config.network, **network)  # type: ignore[arg-type]
        return TrainState(dataclasses.replace(config, training=options, network=sizes), source, preparation)

    second = starting(refine=8)
    for name, value in first.average.state_dict().items():
        torch.testing.assert_close(second.network.state_dict()[name], value, rtol=0, atol=0)
    x, u, theta = torch.randn(2, 2, 16, 16), torch.randn(2, 7), torch.rand(2, 6)
    mask, sigma = torch.ones_like(x, dtype=torch.bool), torch.ones(2)
    # The new part is zero at first: the same denoiser.
    torch.testing.assert_close(
        second.network.eval()(x, sigma, theta, u, mask), first.average(x, sigma, theta, u, mask)
    )
    with pytest.raises(ValueError, match=r"does not fit the network: coefficients.mixing has the shape"):
        starting(n_basis=3)
    options = dataclasses.replace(
        config.training, start_from=str(tmp_path / STATE_NAME), sigma_sample=(0.01, 90.0)
    )
    with pytest.raises(ValueError, match=r"it resolves noise levels \(0.03, 30.0\), here \(0.01, 90.0\)"):
        TrainState(dataclasses.replace(config, training=options), source, preparation)


@pytest.mark.parametrize("is_fast", [False, True])
def test_bfloat16_where_it_saves_time(
    is_fast: bool,
    config: TrainConfig,
    source: SimulatedSource,
    preparation: Preparation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("generative.train.bf16_is_fast", lambda _device: is_fast)
    wanted = dataclasses.replace(config, training=dataclasses.replace(config.training, bf16=True))
    assert TrainState(wanted, source, preparation).network.trunk.bf16 is is_fast
    assert TrainState(config, source, preparation).network.trunk.bf16 is False


def test_training_lowers_the_loss(
    config: TrainConfig, source: SimulatedSource, preparation: Preparation
) -> None:
    """On one batch again and again, the loss falls well below that of a network that knows nothing."""
    fixed = source.batch(16, torch.Generator().manual_seed(3))

    class OneBatch:
        n_band, n_pixel, n_theta, n_u = 2, 16, 6, 7
        n_train = None

        def batch(self, n: int, generator: torch.Generator) -> Batch:
            del n, generator
            return fixed

        held_out = batch

        def proposal(self, n: int) -> torch.Tensor:
            return source.proposal(n)

    options = dataclasses.replace(
        config.training,
        steps=120,
        batch=16,
        levels=3,
        validate_every=1000,
        lr=5e-3,
        label_dropout=0.0,
        holes=False,
    )
    state = TrainState(dataclasses.replace(config, training=options), OneBatch(), preparation)
    results = list(train_steps(state, OneBatch()))
    before = sum(r.total for r in results[:5]) / 5
    after = sum(r.total for r in results[-5:]) / 5
    assert after < 0.85 * before
    assert sum(r.contrast for r in results[-5:]) / 5 < sum(r.contrast for r in results[:5]) / 5


def test_the_refit_reaches_the_exact_likelihood() -> None:
    """Statistics of a linear-Gaussian image, x = 4 theta + noise, whose likelihood is known."""
    generator = torch.Generator().manual_seed(0)
    n, width = 1500, math.log(10.0 / 0.15)
    theta = 2 * torch.rand(n, 2, generator=generator) - 1
    x = 4 * theta + torch.randn(n, 2, generator=generator)
    # -|x - c|^2 / 2 = -(c G c - 2 b c) width + const with these, where c = 4 theta
    G = torch.eye(2).expand(n, 1, 2, 2) / (2 * width)
    cached = CachedStatistics(
        G, x[:, None] / (2 * width), theta, torch.zeros(n, 0), torch.zeros(n, 1), torch.ones(n),
        torch.zeros(n, 0),
    )  # fmt: skip
    torch.manual_seed(1)
    sizes = NetworkConfig(n_band=2, n_pixel=16, n_theta=2, n_u=0, n_basis=2, hidden=16, n_feature=8)
    net = Coefficients(sizes)
    done = refit(net, cached, sigma=(0.15, 10.0), steps=600, batch=50, lr=1e-2, seed=2)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(2))
    exact = []
    for rows in order[n // 10 : 2 * (n // 10)].split(50):
        logp = -0.5 * torch.cdist(x[rows], 4 * theta[rows]) ** 2
        exact.append(-torch.log_softmax(logp, dim=1).diagonal().mean())
    best = float(torch.stack(exact).mean())
    assert done.loss_before > best + 0.5
    assert done.loss_after < best + 0.05
    assert (done.node_weight > 0).all()
    few = CachedStatistics(*(item[:10] for item in cached))
    with pytest.raises(ValueError, match="at least 40 images"):
        refit(net, few, sigma=(0.15, 10.0))


def test_a_refit_that_does_not_help_changes_nothing(
    tiny: Separable, source: SimulatedSource, preparation: Preparation
) -> None:
    cached = cache_statistics(
        tiny, preparation, source, 60, sigma=(0.15, 10.0), n_node=2, seed=1, holes=False
    )
    done = refit(tiny.coefficients, cached, sigma=(0.15, 10.0), steps=25, batch=30, lr=3.0)
    assert done.loss_after == done.loss_before
    torch.testing.assert_close(done.node_weight, torch.ones(2))
    for name, value in tiny.coefficients.state_dict().items():
        torch.testing.assert_close(done.coefficients.state_dict()[name], value, rtol=0, atol=0)


def test_holes_leave_a_band() -> None:
    observed = torch.ones(500, 3, 12, 12, dtype=torch.bool)
    holes = random_holes(observed, torch.Generator().manual_seed(0), p_pixels=0.5, p_band=0.5)
    bands = holes.flatten(2).any(2)
    assert bands.any(1).all()
    assert 0.1 < 1 - float(bands.float().mean()) < 0.3
    partly = holes.flatten(2).float().mean(2)
    assert bool(((partly > 0) & (partly < 1)).any())
    assert not random_holes(~observed, torch.Generator().manual_seed(0)).any()


def test_a_band_that_training_hides_has_no_conditions(source: SimulatedSource) -> None:
    """As for a band that was never observed: else its flag would mean nothing."""
    batch = source.batch(4, torch.Generator().manual_seed(0))
    observed = batch.observed.clone()
    observed[1, 0] = False
    observed[2, 1, :3] = False
    u = hide_unseen(batch.u, observed)
    torch.testing.assert_close(u[[0, 2, 3]], batch.u[[0, 2, 3]])
    assert u[1, [1, 3, 5]].tolist() == [0, 0, 0]
    torch.testing.assert_close(u[1, [0, 2, 4, 6]], batch.u[1, [0, 2, 4, 6]])


def test_a_step_that_is_not_finite_spoils_nothing(
    config: TrainConfig, source: SimulatedSource, preparation: Preparation, tmp_path: Path
) -> None:
    class Broken:
        n_band, n_pixel, n_theta, n_u = 2, 16, 6, 7
        n_train = None
        held_out, proposal = source.held_out, source.proposal
        calls = 0

        def batch(self, n: int, generator: torch.Generator) -> Batch:
            self.calls += 1
            good = source.batch(n, generator)
            return good if self.calls < 3 else good._replace(noise=torch.zeros_like(good.noise))

    with pytest.raises(FloatingPointError, match="what was saved before is sound"):
        start(config, Broken(), preparation, tmp_path)  # type: ignore[arg-type]
    tensors, header = load_tensors(tmp_path / STATE_NAME)
    assert header["step"] == 2
    assert all(torch.isfinite(value).all() for value in tensors.values())


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configurations_are_read(name: str) -> None:
    read_config(config_path(name))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model": {}}, "unknown table 'model'"),
        ({"training": {"stepz": 3}}, "unknown key 'stepz'"),
        ({"data": {"labels": {"smooth": [0, "one"]}}}, "`labels.smooth` must be two numbers, got"),
        ({"training": {"steps": "many"}}, "`steps` must be of the type of 20000"),
        ({"training": {"steps": 0}}, "`steps` must be at least 1"),
        ({"training": {"sigma_sample": [3.0, 1.0]}}, "`sigma_sample` must be two rising"),
        ({"data": {"source": "simulate"}}, "`instrument` must be set"),
        ({"data": {"source": "npz"}}, "`path` must be set"),
        (
            {"data": {"source": "ftp"}},
            "`source` must be one of 'simulate', 'hdf5', 'folder', 'npz', got 'ftp'",
        ),
    ],
)
def test_settings_are_checked(changes: dict[str, dict[str, object]], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        parse_config({"data": {"instrument": "sdss-griz"}} | changes)


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a file nor one of"):
        config_path("nothing")
    bad = tmp_path / "bad.toml"
    bad.write_text("steps = = 3")
    with pytest.raises(ValueError, match="not valid TOML"):
        read_config(bad)
