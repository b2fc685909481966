"""Stamps of the same galaxies under chosen conditions: experiments where one thing changes at a time.

Structure, noise and conditions are drawn with seeds of their own, galaxy by galaxy. Two surveys of the same
seed that differ in depth have the same galaxies, the same noise in units of its standard deviation, and the
same of everything else.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from generative.conditions import Observing, check_theta, draw_observing
from generative.simulator.morphology import Morphology
from generative.simulator.render import Simulator
from generative.stamps import Stamps

_N_TRIED = 96
"""Structures of which the one with the axis ratio nearest to that asked for is taken."""


class Chosen(NamedTuple):
    """Conditions; None draws them as in training."""

    log_snr: float | None = None
    """log10 of flux over noise in the instrument's reference band; other bands scatter as in training."""
    is_survey: bool = False
    """Noise of the bands as in the instrument's survey: flux over noise then follows the galaxy's colours."""
    psf: float | None = None
    """Width of the PSF, from 0, the sharpest of training, to 1, the widest."""
    axis_ratio: float | None = None
    """Of the disc: 1 face-on, 0.2 edge-on."""
    bands: tuple[str, ...] | None = None
    """Bands that are seen; all by default."""


def controlled_stamps(
    simulator: Simulator,
    names: tuple[str, ...],
    theta: Float[np.ndarray, "galaxy theta"],
    z_index: int,
    chosen: Chosen,
    *,
    seed: int = 0,
) -> Stamps:
    """Stamps of galaxies with given properties.

    Parameters
    ----------
    simulator
        Of the instrument.
    names
        Of the galaxies.
    theta
        Properties, columns of `generative.conditions.THETA`.
    z_index
        Which of ``simulator.tables.zred`` all galaxies are at.
    chosen
        Conditions.
    seed
        Of structure, conditions and noise. Those of the first galaxies stay when there are more.

    Raises
    ------
    ValueError
        If properties or conditions are outside of what training covers, or a band is not the instrument's.
    """
    instrument = simulator.instrument
    if chosen.psf is not None and not 0 <= chosen.psf <= 1:
        raise ValueError(f"`psf` must be from 0 (sharp) to 1 (wide), got {chosen.psf}.")
    low, high = instrument.snr_log10
    if chosen.log_snr is not None and not low <= chosen.log_snr <= high:
        raise ValueError(f"`log_snr` must be from {low} to {high}, got {chosen.log_snr}.")
    unknown = sorted(set(chosen.bands or ()) - set(instrument.bands))
    if unknown or chosen.bands == ():
        raise ValueError(f"`bands` must be some of {', '.join(instrument.bands)}, got {chosen.bands}.")
    columns = torch.as_tensor(theta).float()
    zred = simulator.tables.zred[z_index].float().expand(len(columns))
    check_theta(columns, zred)
    images, noises, conditions = [], [], []
    for row in range(len(columns)):
        one = columns[row : row + 1]
        u = _conditions(
            simulator, zred[:1], chosen, torch.Generator().manual_seed(3 * (seed + 1) + 10_007 * row)
        )
        shape = _structure(simulator, one, z_index, chosen.axis_ratio, seed=(seed + 1) * 20_011 + row)
        where = torch.full((1,), z_index)
        rendered = simulator.render_morphology(one, where, u.fwhm, shape)
        if chosen.is_survey:
            snr = rendered.flux / torch.tensor(instrument.noise)
            reference = slice(instrument.reference_band, instrument.reference_band + 1)
            u = u._replace(snr=snr * (u.snr / snr)[:, reference])
        noise = rendered.flux / u.snr
        light = rendered.galaxy + rendered.neighbours
        eps = torch.randn(light.shape, generator=torch.Generator().manual_seed((seed + 1) * 30_011 + row))
        images.append(light + noise[..., None, None] * eps)
        noises.append(noise)
        conditions.append(u)
    image = torch.cat(images)
    seen = torch.tensor([chosen.bands is None or band in chosen.bands for band in instrument.bands])
    observed = seen[None, :, None, None].expand(image.shape).clone()
    together = Observing(*(torch.cat(items) for items in zip(*conditions, strict=True)))
    return Stamps(np.asarray(names), image, torch.cat(noises), observed, together)


def _conditions(
    simulator: Simulator, zred: Float[Tensor, " one"], chosen: Chosen, generator: torch.Generator
) -> Observing:
    instrument = simulator.instrument
    u = draw_observing(len(zred), zred, instrument, generator)
    fwhm, snr = u.fwhm, u.snr
    if chosen.psf is not None:
        low, high = torch.tensor(instrument.psf_fwhm).T
        fwhm = (low + chosen.psf * (high - low)).expand_as(fwhm)
    if chosen.log_snr is not None:
        reference = instrument.reference_band
        snr = snr * (10**chosen.log_snr / snr[:, reference : reference + 1])
    return Observing(u.zred, fwhm, snr)


def _structure(
    simulator: Simulator,
    theta: Float[Tensor, "one theta"],
    z_index: int,
    axis_ratio: float | None,
    *,
    seed: int,
) -> Morphology:
    """One structure; of many, that with the axis ratio asked for: everything else follows inclination."""
    n = 1 if axis_ratio is None else _N_TRIED
    where, generator = torch.full((n,), z_index), torch.Generator().manual_seed(seed)
    drawn = simulator.structure(theta.expand(n, -1), where, generator)
    row = 0 if axis_ratio is None else int(torch.argmin((drawn.disc_q - axis_ratio).abs()))
    return Morphology(*(item[row : row + 1] for item in drawn))
