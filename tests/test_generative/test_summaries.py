"""Compiled statistics: independent of batches, with a true error, in a file that resumes."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import generative
import generative.summaries
from generative.checkpoint import Model, save_model
from generative.conditions import THETA
from generative.data import SimulatedSource, proposal_columns
from generative.network import Separable
from generative.preparation import fit_preparation
from generative.stamps import Stamps
from generative.statistics import image_statistics, log_likelihood, paired_statistics
from generative.summaries import (
    SummaryError,
    compile_file,
    error_bound,
    packed,
    posterior_error,
    unpacked,
)
from hbm.cli import app

N = 7
TARGET = 0.04


@pytest.fixture(scope="module")
def stamps(source: SimulatedSource) -> Stamps:
    s = source.simulator.draw(N, torch.Generator().manual_seed(0))
    observed = torch.ones_like(s.image, dtype=torch.bool)
    observed[1, 0] = False
    names = np.asarray([f"galaxy {i}" for i in range(N)])
    return Stamps(names, s.image, s.noise, observed, s.u)


@pytest.fixture
def model(tiny: Separable, source: SimulatedSource, stamps: Stamps) -> Model:
    preparation = fit_preparation(stamps.image, stamps.noise, stamps.observed)
    tiny.eval().requires_grad_(False)
    return Model(
        tiny, tiny.coefficients, preparation, source.instrument, THETA, (0.05, 20.0), (0.15, 10.0),
        torch.tensor([1.2, 0.8, 1.0]), {},
    )  # fmt: skip


def test_packing() -> None:
    half = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    G = half + half.transpose(-1, -2)
    assert packed(G).shape == (2, 3, 15)
    torch.testing.assert_close(unpacked(packed(G)), G, rtol=0, atol=0)


def test_statistics_do_not_depend_on_the_batch(model: Model, stamps: Stamps) -> None:
    told: list[tuple[int, int]] = []
    args = {"target_error": TARGET, "max_draw": 16}
    together = generative.summarize(model, stamps, **args, progress=lambda *a: told.append(a))
    apart = generative.summarize(model, stamps, **args, chunk=3)
    assert told == [(N, N)]
    np.testing.assert_array_equal(together.id, stamps.id)
    np.testing.assert_array_equal(together.n_draw, apart.n_draw)
    assert set(together.n_draw) == {8, 16}  # some need more draws than others
    assert (error_bound(4) * together.error[together.n_draw == 8] <= TARGET).all()
    for name in ("G", "b", "square", "error"):
        np.testing.assert_allclose(getattr(together, name), getattr(apart, name), rtol=2e-4, atol=1e-4)
    assert together.n_observed.tolist() == [2 * 256 if i != 1 else 256 for i in range(N)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_statistics_do_not_depend_on_the_device(model: Model, stamps: Stamps) -> None:
    args = {"target_error": 1e-6, "max_draw": 8}
    here = generative.summarize(model, stamps, **args)
    assert model.coefficients is not None
    there = model._replace(network=model.network.to("cuda"), coefficients=model.coefficients.to("cuda"))
    found = generative.summarize(there, stamps, **args)
    for name in ("G", "b", "square", "error"):
        one, other = getattr(here, name), getattr(found, name)
        np.testing.assert_allclose(other, one, rtol=5e-3, atol=5e-3 * np.abs(one).max())  # TF32


def test_statistics_are_means_over_the_draws(model: Model, stamps: Stamps) -> None:
    found = generative.summarize(model, stamps, target_error=1e-6, max_draw=8, seed=4)
    assert isinstance(model.network, Separable)
    clean = model.preparation.forward(stamps.image, stamps.noise, stamps.observed)
    nodes, _ = model.nodes
    u = torch.as_tensor(found.u)
    direct = image_statistics(model.network, clean, u, stamps.observed, nodes, n_draw=8, seed=4)
    np.testing.assert_allclose(unpacked(torch.as_tensor(found.G)), direct.G, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.b, direct.b, rtol=1e-4, atol=1e-4)
    assert (found.n_draw == 8).all()


def test_the_error_is_the_scatter_between_seeds(model: Model, stamps: Stamps) -> None:
    """Reported errors against the scatter of log-likelihood differences over independent draws."""
    assert isinstance(model.network, Separable)
    nodes, weight = model.nodes
    clean = model.preparation.forward(stamps.image, stamps.noise, stamps.observed)
    u = torch.as_tensor(generative.summarize(model, stamps, max_draw=8, target_error=9.0).u)
    pairs = paired_statistics(model.network, clean, u, stamps.observed, nodes, range(48), seed=1)
    proposal = proposal_columns(64, "cpu")
    error = posterior_error(model.network.coefficients, pairs, u, proposal, nodes, weight)
    theta = proposal[None].expand(N, -1, -1)
    logp = torch.stack(
        [
            log_likelihood(
                model.network.coefficients,
                pairs.G[k : k + 12].mean(0),
                pairs.b[k : k + 12].mean(0),
                theta,
                u,
                nodes,
                weight,
            )
            for k in range(0, 48, 12)
        ]
    )
    posterior = torch.softmax(logp.mean(0), dim=1)
    centred = logp - (posterior * logp).sum(2, keepdim=True)
    scatter = torch.sqrt((posterior * centred.var(0) / 4).sum(1))
    ratio = scatter / error
    assert 0.5 < float(ratio.median()) < 2.0


def test_the_error_does_not_vanish_for_narrow_posteriors() -> None:
    """One draw with all the weight has no error of its own: the posterior is widened."""
    logp = -1e4 * torch.linspace(0, 1, 512)[None]
    weight = generative.summaries._tempered(logp)
    assert abs(float(1 / (weight**2).sum()) - 50) < 1
    flat = torch.zeros(1, 512)
    torch.testing.assert_close(generative.summaries._tempered(flat), torch.full((1, 512), 1 / 512))


def test_the_bound_holds_in_nine_cases_of_ten() -> None:
    scatter = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0)).std(dim=1)
    assert abs(float((error_bound(4) * scatter > 1).float().mean()) - 0.9) < 0.02


def test_unseen_bands_tell_nothing(model: Model, stamps: Stamps) -> None:
    """PSF and depth of a band without pixels do not matter; conditions out of range are named."""
    found = generative.summarize(model, stamps, max_draw=8, target_error=9.0)
    snr = stamps.u.snr.clone()
    snr[1, 0] = 7.0
    other = generative.summarize(
        model, stamps._replace(u=stamps.u._replace(snr=snr)), max_draw=8, target_error=9.0
    )
    np.testing.assert_array_equal(found.u, other.u)
    snr[0, :] = 1.0
    faint = stamps._replace(u=stamps.u._replace(snr=snr))
    p = generative.summarize(model, faint, max_draw=8, target_error=9.0).p_typical
    assert p[0] == 0
    assert np.isnan(p[1:]).all()


def test_a_killed_run_goes_on(
    model: Model, stamps: Stamps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, out = tmp_path / "m.safetensors", tmp_path / "s.h5"
    save_model(checkpoint, model)
    settings = {"target_error": 9.0, "max_draw": 8, "chunk": 2}
    with pytest.raises(KeyboardInterrupt):
        compile_file(model, checkpoint, stamps, out, **settings, progress=_stop_at(4))
    assert not out.exists()
    other = stamps._replace(id=np.asarray([f"{i}" for i in range(N)]))
    with pytest.raises(SummaryError, match="with another images_hash"):
        compile_file(model, checkpoint, other, out, **settings)
    moved = stamps._replace(noise=1.1 * stamps.noise)
    with pytest.raises(SummaryError, match="with another images_hash"):
        compile_file(model, checkpoint, moved, out, **settings)
    with pytest.raises(SummaryError, match="with another seed: 0, now 3"):
        compile_file(model, checkpoint, stamps, out, **settings, seed=3)
    seen: list[int] = []
    original = generative.summaries.paired_statistics

    def counting(network: Separable, clean: torch.Tensor, *args: object, **more: object) -> object:
        seen.append(len(clean))
        return original(network, clean, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(generative.summaries, "paired_statistics", counting)
    compile_file(model, checkpoint, stamps, out, **settings)
    assert sum(seen) == N - 4
    assert not (tmp_path / "s.h5.part").exists()
    whole = generative.summarize(model, stamps, **settings)  # type: ignore[arg-type]
    with h5py.File(out) as file:
        np.testing.assert_allclose(file["G"][()], whole.G, rtol=1e-5, atol=1e-6)
        assert [name.decode() for name in file["id"]] == stamps.id.tolist()
        assert file.attrs["model_hash"] == generative.summaries.file_hash(checkpoint)
    with pytest.raises(FileExistsError, match="overwrite"):
        compile_file(model, checkpoint, stamps, out, **settings)


def _stop_at(n: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        del total
        if done >= n:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"target_error": 0.0}, "`target_error` must be positive"),
        ({"max_draw": 6}, "`max_draw` must be even and at least 8, got 6"),
        ({"max_draw": 9}, "`max_draw` must be even"),
    ],
)
def test_bad_settings(model: Model, stamps: Stamps, changes: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        generative.summarize(model, stamps, **changes)  # type: ignore[arg-type]


def test_bad_images_and_models(model: Model, stamps: Stamps) -> None:
    with pytest.raises(ValueError, match=r"of \(2, 16, 16\) bands and pixels for small, got \(7, 2, 8, 8\)"):
        generative.summarize(model, stamps._replace(image=stamps.image[..., :8, :8]))
    nothing = stamps.observed.clone()
    nothing[2] = False
    with pytest.raises(ValueError, match="but galaxy 2 has none"):
        generative.summarize(model, stamps._replace(observed=nothing))
    with pytest.raises(ValueError, match="must be separable"):
        generative.summarize(model._replace(coefficients=None), stamps)


def test_the_command(model: Model, tmp_path: Path, universe: Callable[..., Path]) -> None:
    assert model.instrument is not None
    checkpoint, images = tmp_path / "m.safetensors", universe(tmp_path / "images.h5")
    save_model(checkpoint, model)
    args = ["compile", str(images), "--model", str(checkpoint), "--out", str(tmp_path / "s.h5")]
    done = CliRunner().invoke(app, [*args, "--max-draw", "8"])
    assert done.exit_code == 0, done.output
    assert "Monte Carlo error" in done.output
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 1
    assert "exists" in done.output
