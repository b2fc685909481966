r"""The star formation history that (logmass, logssfr, mwa) stand for.

An image may depend on the history only through numbers among the conditions: anything else that moved both
the image and the photometry would couple them. So the history is a function of these three: the recent rate
is constant over 100 Myr, and older bins follow a rate proportional to exp(k s), s = age / age of the oldest
stars, with k such that the mass-weighted age is `mwa`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from generative.conditions import LOG_AGE_RECENT

_STEEPEST = 80.0


def _edges(agebins: Float[Tensor, "batch bin 2"]) -> tuple[Tensor, Tensor]:
    """Widths and middles of the bins, Gyr."""
    edges = 10.0 ** (agebins - 9)
    return edges[..., 1] - edges[..., 0], 0.5 * (edges[..., 1] + edges[..., 0])


def steepness(
    theta: Float[Tensor, "batch theta"], agebins: Float[Tensor, "batch bin 2"]
) -> Float[Tensor, " batch"]:
    """Slope k of the older star formation rate; by bisection, for the mean age grows with k.

    Raises
    ------
    ValueError
        If no history of this form has the mass-weighted age asked for.
    """
    recent = 10.0 ** (theta[:, 1] + LOG_AGE_RECENT)
    width, middle = _edges(agebins)
    recent_age = (width[:, :2] * middle[:, :2]).sum(1) / width[:, :2].sum(1)
    wanted = (theta[:, 2] - recent * recent_age) / (1 - recent)
    tmax = 10.0 ** (agebins[:, -1, 1] - 9)
    low = torch.full_like(wanted, -_STEEPEST)
    high = -low
    youngest, oldest = (_mean_age(k, width, middle, tmax) for k in (low, high))
    bad = ~((wanted > youngest) & (wanted < oldest))
    if bad.any():
        i = int(bad.nonzero()[0])
        least, most = ((1 - recent[i]) * age[i] + recent[i] * recent_age[i] for age in (youngest, oldest))
        raise ValueError(
            f"`mwa` in row {i} must be between {float(least):.3g} and {float(most):.3g} Gyr for its "
            f"`logssfr` of "
            f"{float(theta[i, 1]):.3g} and its redshift, got {float(theta[i, 2]):.4g}."
        )
    for _ in range(60):
        k = 0.5 * (low + high)
        above = _mean_age(k, width, middle, tmax) > wanted
        low, high = torch.where(above, low, k), torch.where(above, k, high)
    return 0.5 * (low + high)


def _old_fractions(k: Tensor, width: Tensor, middle: Tensor, tmax: Tensor) -> Tensor:
    log_rate = k[:, None] * middle[:, 2:] / tmax[:, None]
    return torch.softmax(log_rate + torch.log(width[:, 2:]), dim=1)


def _mean_age(k: Tensor, width: Tensor, middle: Tensor, tmax: Tensor) -> Tensor:
    return (_old_fractions(k, width, middle, tmax) * middle[:, 2:]).sum(1)


def mass_in_bins(
    theta: Float[Tensor, "batch theta"], agebins: Float[Tensor, "batch bin 2"]
) -> Float[Tensor, "batch bin"]:
    """Msun formed in each age bin, youngest first; their sum is 10**logmass and their mean age `mwa`.

    Raises
    ------
    ValueError
        As `steepness`.
    """
    k = steepness(theta, agebins)
    width, middle = _edges(agebins)
    recent = 10.0 ** (theta[:, 1] + LOG_AGE_RECENT)
    young = recent[:, None] * width[:, :2] / width[:, :2].sum(1, keepdim=True)
    old = (1 - recent)[:, None] * _old_fractions(k, width, middle, 10.0 ** (agebins[:, -1, 1] - 9))
    return 10.0 ** theta[:, :1] * torch.cat([young, old], dim=1)


def log_ratios(
    theta: Float[Tensor, "batch theta"], agebins: Float[Tensor, "batch bin 2"]
) -> Float[Tensor, "batch ratio"]:
    """`logsfr_ratios` of `sed.parameters.BinnedSFH` for this history; its `logsfr_ratio_recent` is zero."""
    k = steepness(theta, agebins)
    _, middle = _edges(agebins)
    s = middle[:, 2:] / 10.0 ** (agebins[:, -1, 1] - 9)[:, None]
    log_rate = k[:, None] * s / torch.log(torch.tensor(10.0, dtype=s.dtype, device=s.device))
    return log_rate[:, :-1] - log_rate[:, 1:]
