"""Where bfloat16 is used."""

import pytest
import torch

from generative.precision import bf16_is_fast


@pytest.fixture
def instructions(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A processor without any, to which a test may give some."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    return monkeypatch


def test_processors_need_instructions(instructions: pytest.MonkeyPatch) -> None:
    assert not bf16_is_fast("cpu")
    instructions.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert bf16_is_fast("cpu")


def test_accelerators_do_as_they_are_told(instructions: pytest.MonkeyPatch) -> None:
    del instructions
    assert bf16_is_fast("cuda:0")


def test_a_torch_that_cannot_tell_is_not_trusted(instructions: pytest.MonkeyPatch) -> None:
    instructions.delattr(torch.cpu, "_is_avx512_bf16_supported")
    instructions.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not bf16_is_fast("cpu")
