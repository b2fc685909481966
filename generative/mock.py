"""Images of galaxies whose properties were drawn elsewhere, and what may be wrong with them.

The other half of a simulated survey, its photometry, is `hbm.calibration.mock`. Arguments and results are
NumPy arrays where both halves meet.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped

from generative.checkpoint import Model
from generative.conditions import (
    LOG_AGE_RECENT,
    OLD_AGE_FRACTION,
    Observing,
    age_universe_gyr,
    draw_observing,
    old_age_fraction,
)
from generative.instrument import Instrument
from generative.release import model_path
from generative.simulator.render import Simulator
from generative.stamps import Stamps
from generative.summaries import compile_file

_CHUNK = 100
"""Stamps that are simulated at a time."""


class ImageFaults(NamedTuple):
    """How images differ from what the model is told of them; nothing by default."""

    psf: float = 1.0
    """True width of the PSF over the one told."""
    depth: float = 1.0
    """True noise over the one told."""
    mask: float = 0.0
    """Part of each stamp that is masked, a disc about a random place; the model is told."""
    bad_pixels: float = 0.0
    """Part of the pixels that are zero; the model is not told."""


def trained_ages(
    mwa: Float[np.ndarray, "*shape"], logssfr: Float[np.ndarray, "*shape"], zred: float | np.ndarray
) -> Bool[np.ndarray, "*shape"]:
    """Whether image models were trained on galaxies of these ages.

    Parameters
    ----------
    mwa
        Mass-weighted age, Gyr.
    logssfr
        log10 sSFR over 100 Myr, 1/yr: the range of ages depends on it.
    zred
        Redshift, of all or of each.
    """
    age = age_universe_gyr(torch.as_tensor(np.broadcast_to(zred, mwa.shape).astype(np.float64)))
    old = old_age_fraction(
        torch.as_tensor(np.asarray(mwa)) / age, 10 ** (torch.as_tensor(np.asarray(logssfr)) + LOG_AGE_RECENT)
    ).numpy()
    inside: Bool[np.ndarray, "*shape"] = (old > OLD_AGE_FRACTION[0]) & (old < OLD_AGE_FRACTION[1])
    return inside


class ImageMock:
    """Takes images with an image model's instrument.

    Parameters
    ----------
    model
        Its instrument is used, its network is not.
    simulator
        Of that instrument; made here if None, which takes some seconds.

    Raises
    ------
    ValueError
        If the model is of no instrument.
    """

    def __init__(self, model: Model, simulator: Simulator | None = None) -> None:
        if model.instrument is None:
            raise ValueError("`model` must be of an instrument.")
        self.instrument: Instrument = model.instrument
        self._simulator = Simulator(model.instrument) if simulator is None else simulator

    @property
    def zred(self) -> Float[np.ndarray, " z"]:
        """Redshifts that galaxies can be at."""
        zred: Float[np.ndarray, " z"] = self._simulator.tables.zred.double().numpy()
        return zred

    def observe(
        self,
        names: tuple[str, ...],
        theta: Float[np.ndarray, "galaxy theta"],
        index: Int[np.ndarray, " galaxy"],
        seed: int,
        *,
        told_zred: Float[np.ndarray, " galaxy"] | None = None,
        faults: ImageFaults | None = None,
    ) -> Stamps:
        """Stamps of galaxies under conditions drawn as in training.

        The same seed gives the same galaxies, conditions and noise, whatever the faults.

        Parameters
        ----------
        names
            Of the galaxies.
        theta
            Properties, columns of `generative.conditions.THETA`.
        index
            Which of `zred` each galaxy is at.
        seed
            Of structure, conditions and noise.
        told_zred
            Redshifts that the model is told; the true ones by default.
        faults
            How the images differ from what the model is told.
        """
        faults = ImageFaults() if faults is None else faults
        generator = torch.Generator().manual_seed(seed)
        where = torch.as_tensor(index)
        at = self._simulator.tables.zred[where].float()
        u = draw_observing(len(theta), at, self.instrument, generator)
        columns = torch.as_tensor(theta).float()
        images, noises = [], []
        for first in range(0, len(theta), _CHUNK):
            some = slice(first, min(first + _CHUNK, len(theta)))
            true = Observing(u.zred[some], faults.psf * u.fwhm[some], u.snr[some] / faults.depth)
            taken = self._simulator.observe(columns[some], where[some], true, generator)
            images.append(taken.image)
            noises.append(taken.noise / faults.depth)
        image = torch.cat(images)
        observed = torch.ones_like(image, dtype=torch.bool)
        rng = np.random.default_rng((seed, 1))
        if faults.mask > 0:
            hidden = _discs(faults.mask, len(image), image.shape[-1], rng)
            observed &= ~torch.as_tensor(hidden)[:, None]
        if faults.bad_pixels > 0:
            image = torch.where(torch.as_tensor(rng.random(image.shape) < faults.bad_pixels), 0.0, image)
        if told_zred is not None:
            u = u._replace(zred=torch.as_tensor(told_zred).to(u.zred.dtype))
        return Stamps(np.asarray(names), image, torch.cat(noises), observed, u)


def compile_mock(
    model: Model,
    name: str,
    ids: Shaped[np.ndarray, " image"],
    image: Float[np.ndarray, "image band height width"],
    noise: Float[np.ndarray, "image band"],
    observed: Bool[np.ndarray, "image band height width"],
    u: dict[str, np.ndarray],
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """`generative.summaries.compile_file` of images in NumPy arrays, few at a time.

    Parameters
    ----------
    model, name
        Image model, and its name or file.
    ids, image, noise, observed, u
        As in `generative.stamps.Stamps`; ``u`` by the names of `generative.conditions.Observing`.
    out
        File to write.
    progress
        Told (images done, images in all). What it raises ends the compilation; a later call goes on.
    """
    conditions = Observing(**{key: torch.as_tensor(value) for key, value in u.items()})
    pixels, sigma, mask = (torch.as_tensor(item) for item in (image, noise, observed))
    stamps = Stamps(ids, pixels, sigma, mask, conditions)
    compile_file(model, model_path(name), stamps, out, chunk=16, progress=progress)


def _discs(part: float, n: int, side: int, rng: np.random.Generator) -> Bool[np.ndarray, "n side side"]:
    """The given part of each stamp: the pixels nearest to a random place in it."""
    y, x = np.mgrid[:side, :side]
    centre = rng.uniform(0, side, (n, 2))
    distance = np.hypot(y - centre[:, :1, None], x - centre[:, 1:, None])
    limit = np.quantile(distance.reshape(n, -1), part, axis=1)
    hidden: Bool[np.ndarray, "n side side"] = distance <= limit[:, None, None]
    return hidden
