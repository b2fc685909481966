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
from generative.conditions import THETA
from generative.instrument import Instrument
from generative.network import Film, Separable
from generative.preparation import Preparation


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


def test_unknown_names_are_listed() -> None:
    with pytest.raises(FileNotFoundError, match="neither a file nor one of"):
        generative.load("no-such-model")
