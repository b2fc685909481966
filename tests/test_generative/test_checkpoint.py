"""Files: what is written is read, what is broken is named, nothing is half written."""

import json
from pathlib import Path

import pytest
import torch

import generative
from generative.checkpoint import (
    CheckpointError,
    Model,
    load_model,
    load_tensors,
    save_model,
    save_tensors,
    write_atomically,
)
from generative.conditions import THETA, Observing
from generative.draw import draw, theta_rows
from generative.instrument import Instrument
from generative.network import Film, Separable
from generative.preparation import Preparation
from generative.release import available, model_path


def wrap(network: Separable | Film, instrument: Instrument) -> Model:
    coefficients = network.coefficients if isinstance(network, Separable) else None
    preparation = Preparation((0.1, 0.2), (1.1, 0.9))
    return Model(
        network, coefficients, preparation, instrument, THETA, (0.03, 30.0), (0.15, 10.0), torch.rand(4) + 1,
        {"note": "a test"},
    )  # fmt: skip


def test_a_model_comes_back(tiny: Separable, small_instrument: Instrument, tmp_path: Path) -> None:
    model = wrap(tiny, small_instrument)
    save_model(tmp_path / "m.safetensors", model)
    again = load_model(tmp_path / "m.safetensors")
    assert again.instrument == small_instrument
    assert again.preparation == model.preparation
    assert again.provenance == {"note": "a test"}
    assert again.theta_names == THETA
    torch.testing.assert_close(again.nodes[1], model.nodes[1])
    x, u, theta = torch.randn(2, 2, 16, 16), torch.randn(2, 7), torch.rand(2, 6)
    mask, sigma = torch.ones_like(x, dtype=torch.bool), torch.ones(2)
    tiny.eval()
    torch.testing.assert_close(again.network(x, sigma, theta, u, mask), tiny(x, sigma, theta, u, mask))
    assert not any(p.requires_grad for p in again.network.parameters())


def test_film_has_no_likelihood(tiny_film: Film, small_instrument: Instrument, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", wrap(tiny_film, small_instrument))
    assert load_model(tmp_path / "m.safetensors").coefficients is None


def test_a_truncated_file(tiny: Separable, small_instrument: Instrument, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, wrap(tiny, small_instrument))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        load_model(path)


def test_another_version(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "m.safetensors"
    save_file({"x": torch.ones(1)}, path, metadata={"galaxy-hbm": json.dumps({"version": 99})})
    with pytest.raises(CheckpointError, match="of version 99, this program reads version 1"):
        load_tensors(path)
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="no header of galaxy-hbm"):
        load_tensors(path)


def test_a_header_that_does_not_fit(tiny: Separable, small_instrument: Instrument, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, wrap(tiny, small_instrument))
    tensors, header = load_tensors(path)
    header["network"]["n_basis"] = 9
    save_tensors(path, tensors, header)
    with pytest.raises(CheckpointError, match="does not fit its header"):
        load_model(path)
    save_tensors(path, tensors, {"kind": "state"})
    with pytest.raises(CheckpointError, match="holds a state, not a model"):
        load_model(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.bin"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        del descriptor
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*m.bin: No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.bin"]


@pytest.mark.parametrize("name", ["sdss-griz", "hst-f814w"])
def test_shipped_models_draw(name: str) -> None:
    assert name in available()
    assert model_path(name).stat().st_size < 16e6
    model = generative.load(name)
    assert model.instrument is not None
    assert model.instrument.name == name
    assert model.coefficients is not None
    assert (model.node_weight > 0).all()
    low, _ = model.instrument.zred
    u = Observing(
        torch.full((2,), low),
        torch.tensor(model.instrument.psf_fwhm).mean(1).expand(2, -1),
        torch.full((2, model.instrument.n_band), 1000.0),
    )
    image = draw(model, theta_rows({"logmass": 10.5}, 2), u, n_step=4).image
    assert image.shape == (2, model.instrument.n_band, model.instrument.n_pixel, model.instrument.n_pixel)
    assert torch.isfinite(image).all()
    # The galaxy is in the middle.
    side = model.instrument.n_pixel
    middle = image[:, 0, side // 4 : -side // 4, side // 4 : -side // 4]
    assert float(middle.mean()) > float(image[:, 0].mean())


def test_unknown_names_are_listed() -> None:
    with pytest.raises(FileNotFoundError, match="neither a file nor one of"):
        generative.load("no-such-model")
