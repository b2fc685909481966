r"""Surface brightness profiles on a grid of samples. Lengths are in arcsec.

A Sersic profile of effective radius R_e, index n, axis ratio q and unit total flux is

.. math:: I(R) = \frac{b^{2n}}{2\pi n\, \Gamma(2n)\, q\, R_e^2} \exp[-b (R/R_e)^{1/n}]

with b such that half of the light is inside R_e (Sersic 1963; Graham & Driver 2005, PASA 22, 118).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

_N_FINE = 7
_N_PATCH = 7


def sersic_b(n: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """b(n) of Ciotti & Bertin (1999, A&A 352, 447, equation 18); to 2e-4 of the light for n >= 0.8."""
    return 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2) + 131 / (1148175 * n**3)


def sersic_peak(n: Tensor, r_eff: Tensor, q: Tensor) -> Tensor:
    """Central brightness of a profile of unit total flux, per square arcsec."""
    b = sersic_b(n)
    log_gamma = torch.lgamma(2 * n)
    return torch.exp(2 * n * torch.log(b) - log_gamma) / (2 * math.pi * n * q * r_eff**2)


def grid(n_side: int, step: float, device: torch.device | str = "cpu") -> Float[Tensor, "2 side side"]:
    """Coordinates x (to the right) and y (up the rows) of samples around the middle of the grid, arcsec."""
    axis = (torch.arange(n_side, device=device) - 0.5 * (n_side - 1)) * step
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y])


def rotated(
    xy: Float[Tensor, "2 side side"], centre: Float[Tensor, "batch 2"], angle: Float[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch side side"], Float[Tensor, "batch side side"]]:
    """Coordinates along the major and minor axis of a galaxy with a position angle (radians, from x to y)."""
    dx = xy[0][None] - centre[:, 0, None, None]
    dy = xy[1][None] - centre[:, 1, None, None]
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    return dx * cos + dy * sin, dy * cos - dx * sin


def sersic(
    xy: Float[Tensor, "2 side side"],
    step: float,
    *,
    centre: Float[Tensor, "batch 2"],
    angle: Float[Tensor, " batch"],
    r_eff: Float[Tensor, " batch"],
    n: Float[Tensor, " batch"],
    q: Float[Tensor, " batch"],
) -> Float[Tensor, "batch side side"]:
    """Sersic profiles of unit total flux, flux per sample; the samples around the centre are averages.

    Parameters
    ----------
    xy, step : arcsec
        Samples and their distance.
    centre, r_eff : arcsec
        Centre (x, y), semi-major axis of half the light.
    angle : radians
        Of the major axis.
    n, q : dimensionless
        Index (0.8 or more) and axis ratio.
    """
    along, across = rotated(xy, centre, angle)
    image = _brightness(along, across, r_eff, n, q)
    # The cusp: replace the samples nearest to the centre by averages over finer ones.
    side = xy.shape[-1]
    nearest = torch.round(centre / step + 0.5 * (side - 1)).long()
    reach = torch.arange(_N_PATCH, device=xy.device) - _N_PATCH // 2
    cols, rows = ((nearest[:, i, None] + reach).clamp(0, side - 1) for i in (0, 1))
    fine = (torch.arange(_N_FINE, device=xy.device) - 0.5 * (_N_FINE - 1)) * step / _N_FINE
    x = (xy[0, 0][cols][:, :, None] + fine).flatten(1)  # batch, patch * fine
    y = (xy[1, :, 0][rows][:, :, None] + fine).flatten(1)
    dx = (x - centre[:, :1])[:, None, :]
    dy = (y - centre[:, 1:])[:, :, None]
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    patch = _brightness(dx * cos + dy * sin, dy * cos - dx * sin, r_eff, n, q)
    patch = patch.unflatten(2, (_N_PATCH, _N_FINE)).unflatten(1, (_N_PATCH, _N_FINE)).mean(dim=(2, 4))
    # An average is wider than the profile by the variance of a sample, 1 / 12: take that off again.
    inner = patch[:, 1:-1, 1:-1]
    around = patch[:, :-2, 1:-1] + patch[:, 2:, 1:-1] + patch[:, 1:-1, :-2] + patch[:, 1:-1, 2:]
    inner = inner - (around - 4 * inner) / 24
    index = torch.arange(len(image), device=xy.device)[:, None, None]
    image = image.index_put((index, rows[:, 1:-1, None], cols[:, None, 1:-1]), inner)
    return image * (sersic_peak(n, r_eff, q) * step**2)[:, None, None]


def _brightness(along: Tensor, across: Tensor, r_eff: Tensor, n: Tensor, q: Tensor) -> Tensor:
    """exp[-b (R/R_e)^(1/n)]."""
    r_eff_, n_, q_ = (value[:, None, None] for value in (r_eff, n, q))
    squared = (along**2 + (across / q_) ** 2) / r_eff_**2
    return torch.exp(-sersic_b(n_) * (squared + 1e-12) ** (0.5 / n_))


def gaussians(
    xy: Float[Tensor, "2 side side"],
    step: float,
    *,
    centre: Float[Tensor, "batch clump 2"],
    sigma: Float[Tensor, "batch clump"],
    flux: Float[Tensor, "batch clump"],
) -> Float[Tensor, "batch side side"]:
    """Sum of round Gaussians, flux per sample; no narrower than 0.6 samples."""
    sigma = sigma.clamp(min=0.6 * step)

    def factor(axis: Tensor, middle: Tensor) -> Tensor:
        return torch.exp(-0.5 * ((axis - middle[..., None]) / sigma[..., None]) ** 2)

    fx, fy = factor(xy[0, 0], centre[..., 0]), factor(xy[1, :, 0], centre[..., 1])
    weight = flux * step**2 / (2 * math.pi * sigma**2)
    return torch.einsum("bk,bky,bkx->byx", weight, fy, fx)
