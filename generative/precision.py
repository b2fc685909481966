"""Where bfloat16 saves time.

Processors without instructions for it compute it by conversions: measured on an AMD processor with AVX2
alone, one step of a convolutional network took 11 to 17 times as long as in single precision.
"""

import torch

_FLAGS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
"""Of `torch.cpu`: what oneDNN multiplies bfloat16 matrices with."""


def bf16_is_fast(device: torch.device | str) -> bool:
    """Whether a device computes in bfloat16 at least as fast as in single precision.

    Accelerators do as they are told: True. Of processors, those with AVX-512 BF16 or AMX; False where this
    version of torch cannot tell.
    """
    if torch.device(device).type != "cpu":
        return True
    return any(bool(flag()) for name in _FLAGS if (flag := getattr(torch.cpu, name, None)) is not None)
