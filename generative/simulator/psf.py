r"""Point spread functions and the response of a pixel, in Fourier space.

Frequencies f are in cycles per arcsec, k = 2 pi f. Both transforms are exact and one at f = 0.

- Kolmogorov, the long exposure through turbulence (Fried 1966): exp[-(k l / 2.992934)^(5/3)], l = lambda /
r0,
  FWHM = 0.9758634 l.
- Moffat (1969, A&A 3, 455), (1 + r^2 / a^2)^-beta: 2 (k a / 2)^(beta - 1) K_{beta - 1}(k a) / Gamma(beta -
1),
  FWHM = 2 a sqrt(2^(1 / beta) - 1).
"""

import functools
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_FWHM_PER_L = 0.9758634299
_K_PER_L = 2.992934
_X_MAX, _N_X = 40.0, 8192


def kolmogorov_transform(
    fwhm: Float[Tensor, "*batch"], frequency: Float[Tensor, "y x"]
) -> Float[Tensor, "*batch y x"]:
    """Transform at frequencies in cycles per arcsec, for widths in arcsec."""
    scale = (2 * math.pi / _FWHM_PER_L / _K_PER_L * fwhm)[..., None, None]
    return torch.exp(-((frequency * scale) ** (5 / 3)))


def moffat_transform(
    fwhm: Float[Tensor, "*batch"], frequency: Float[Tensor, "y x"], beta: float
) -> Float[Tensor, "*batch y x"]:
    """Transform at frequencies in cycles per arcsec, for widths in arcsec.

    Raises
    ------
    ValueError
        If ``beta`` is not above 1.
    """
    if not beta > 1:
        raise ValueError(f"`beta` must exceed 1, else the profile has no total, got {beta}.")
    scale = 0.5 / math.sqrt(2 ** (1 / beta) - 1)
    x = frequency * (2 * math.pi * scale * fwhm)[..., None, None]
    table = torch.tensor(_moffat_table(beta), dtype=x.dtype, device=x.device)
    position = (x * ((_N_X - 1) / _X_MAX)).clamp(max=_N_X - 1.001)
    low = position.long()
    fraction = position - low
    return (1 - fraction) * table[low] + fraction * table[low + 1]


@functools.cache
def _moffat_table(beta: float) -> np.ndarray:
    """The transform as a function of k a; below 1e-15 where the table ends."""
    from scipy.special import gamma, kv

    x = np.linspace(0.0, _X_MAX, _N_X)
    x[0] = 1.0
    value = 2 * (x / 2) ** (beta - 1) * kv(beta - 1, x) / gamma(beta - 1)
    value[0] = 1.0
    return np.asarray(value)


def pixel_transform(fx: Float[Tensor, " x"], fy: Float[Tensor, " y"], pixel: float) -> Float[Tensor, "y x"]:
    """Transform of a square pixel of side ``pixel`` arcsec."""
    return torch.sinc(fy * pixel)[:, None] * torch.sinc(fx * pixel)[None, :]
