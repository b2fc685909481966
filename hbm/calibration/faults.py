"""What may be wrong: differences between how galaxies are simulated and what a fit is told of them."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from hbm.config import ModelConfig

_NEUTRAL = {"psf": 1.0, "depth": 1.0, "zred": 0.0, "mask": 0.0, "bad_pixels": 0.0, "prior": 0.0}

MEANING = {
    "psf": "the true PSF is wider by this factor than the one told",
    "depth": "true noise of pixels and fluxes is larger by this factor than the one told",
    "zred": "the redshift told is off by this times (1 + z), up or down by chance",
    "mask": "this part of each stamp is masked, which the model is told: nothing is wrong here",
    "bad_pixels": "this part of the pixels is zero, which the model is not told",
    "prior": "galaxies have more dust than the prior says: its centre is higher by so many of its widths",
}
"""What the number behind each name is."""


class Faults(NamedTuple):
    """What is wrong; nothing by default. `MEANING` says what the numbers are."""

    psf: float = 1.0
    depth: float = 1.0
    zred: float = 0.0
    mask: float = 0.0
    bad_pixels: float = 0.0
    prior: float = 0.0

    @property
    def name(self) -> str:
        """Such as ``psf=1.1``; ``none`` if nothing is wrong."""
        wrong = [f"{k}={v:g}" for k, v in self._asdict().items() if v != _NEUTRAL[k]]
        return ",".join(wrong) or "none"

    @property
    def description(self) -> str:
        """In words."""
        wrong = [f"{MEANING[k]} ({v:g})" for k, v in self._asdict().items() if v != _NEUTRAL[k]]
        return "; ".join(wrong) or "the model is told the truth"

    def of_galaxies(self, config: ModelConfig) -> ModelConfig:
        """Model that the galaxies are drawn from, where fits assume ``config``."""
        centre, width, top = config.prior.dust2
        prior = dataclasses.replace(config.prior, dust2=(centre + self.prior * width, width, top))
        return dataclasses.replace(config, prior=prior)


def parse_faults(words: Sequence[str]) -> tuple[Faults, ...]:
    """One case for each word, such as ``psf=1.1``; several at once are joined by commas.

    Raises
    ------
    ValueError
        If a name is not known, a number is none, or it is out of range.
    """
    return tuple(_parse(word) for word in words)


def _parse(word: str) -> Faults:
    values: dict[str, float] = {}
    for part in word.split(","):
        name, _, number = (text.strip() for text in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if name not in _NEUTRAL or value != value:
            raise ValueError(
                f"`wrong` must be a name and a number, such as psf=1.1, with one of {', '.join(_NEUTRAL)}, "
                f"got {part!r}."
            )
        if name in ("psf", "depth") and not 0.2 <= value <= 5:
            raise ValueError(f"`wrong` must have a factor from 0.2 to 5 for {name}, got {value:g}.")
        if name in ("mask", "bad_pixels") and not 0 <= value <= 0.9:
            raise ValueError(f"`wrong` must have a part from 0 to 0.9 for {name}, got {value:g}.")
        if name == "zred" and not 0 <= value <= 0.1:
            raise ValueError(f"`wrong` must have an error from 0 to 0.1 for zred, got {value:g}.")
        if name == "prior" and not -3 <= value <= 3:
            raise ValueError(f"`wrong` must have a shift from -3 to 3 for prior, got {value:g}.")
        values[name] = value
    faults = Faults(**values)
    if faults == Faults():
        raise ValueError(f"`wrong` must change something, got {word!r}.")
    return faults
