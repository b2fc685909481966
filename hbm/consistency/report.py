"""What the check says of a galaxy, and the settings and sizes of it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

KINDS = ("swap", "shred", "blend", "band")
"""What may be wrong with photometry; equally probable before the data."""

PRIOR_BAD = 0.05
"""Part of galaxies whose photometry is corrupted, before the data."""

SMALL_P = 0.01
"""p-values below are worth a word."""

MAX_ERROR = 1.0
"""Monte Carlo error (nats) of the odds above which a galaxy is flagged ``few_points``."""

MIN_ESS = 10.0
"""Effective number of points below which it is too: with very few, the error itself is not known."""

_WORDS = {
    "swap": "photometry of another galaxy",
    "shred": "a part of the light is lost",
    "blend": "light of something else is added",
}


class Check(NamedTuple):
    """How well one galaxy's image and photometry go together. Logarithms are natural."""

    galaxy_id: str
    log_bayes_same: float
    """Ln p(x, f | one galaxy) / [p(x) p(f)]: positive where they belong together."""
    log_bayes_same_error: float
    """Its Monte Carlo error."""
    p_photometry: float
    """p-value of the fluxes, predicted by the image."""
    p_image: float
    """p-value of the image among simulations: the domain check; nan where not known."""
    log_corrupted: float
    """Ln p(x, f | photometry corrupted) / p(x, f | one galaxy), all `KINDS` weighing the same."""
    log_corrupted_error: float
    """Its Monte Carlo error."""
    log_kind: dict[str, float]
    """The same for each of `KINDS`."""
    log_kind_photometry: dict[str, float]
    """The same without the image: ln p(f | kind) / p(f); 0 for ``swap``."""
    bands: tuple[str, ...]
    """Filters."""
    log_band: Float[np.ndarray, " band"]
    """Ln p(x, f | that band off) / p(x, f | one galaxy); nan where not observed."""
    p_band: Float[np.ndarray, " band"]
    """Two-sided p-value of each band, predicted by the image and the other bands; nan for none and limits."""
    chi2: float
    """Smallest chi-square of the fluxes over all points."""
    n_band: int
    """Bands in it."""
    ess: float
    """Effective number of points: the smallest for image, fluxes, both, and both with the likeliest error."""
    n_point: int
    """Points that were drawn, those of the fit apart."""
    flag: str
    """``ok``, or what is wrong with the check or its data, joined by commas."""

    def probability_bad(self, prior_bad: float = PRIOR_BAD) -> float:
        """Probability that the photometry is corrupted, if a part ``prior_bad`` of the catalogue is."""
        if not 0 < prior_bad < 1:
            raise ValueError(f"`prior_bad` must be between 0 and 1, got {prior_bad}.")
        odds = np.log(prior_bad / (1 - prior_bad)) + self.log_corrupted
        return float(1 / (1 + np.exp(-np.clip(odds, -700, 700))))

    @property
    def kind(self) -> str:
        """Most probable error, were there one."""
        return max(self.log_kind, key=lambda name: self.log_kind[name])

    @property
    def worst_band(self) -> str:
        """Band that most probably is off, were one; empty if none is observed."""
        if np.isnan(self.log_band).all():
            return ""
        return self.bands[int(np.nanargmax(self.log_band))]

    def verdict(self, prior_bad: float = PRIOR_BAD) -> str:
        """One line in words."""
        flags = set(self.flag.split(","))
        if "image_untypical" in flags:
            return "image unlike anything the image model knows: look at it"
        if "outside_training" in flags:
            return "unclear: photometry allows little that the image model was trained on"
        if "few_points" in flags:
            return "unclear: too few points, give more"
        if self.probability_bad(prior_bad) >= 0.5:
            kind = self.kind
            return f"{self.worst_band} is off" if kind == "band" else _WORDS[kind]
        if self.p_photometry < SMALL_P:
            return "photometry unlike what the image lets expect, of no kind known"
        return "consistent"


class Detail(NamedTuple):
    """What a figure of one galaxy shows."""

    names: tuple[str, ...]
    """Properties."""
    prior: Float[np.ndarray, "draw property"]
    """Draws of the prior."""
    image: Float[np.ndarray, "draw property"]
    """Draws given the image alone."""
    photometry: Float[np.ndarray, "draw property"]
    """Draws given the fluxes alone."""
    wave: Float[np.ndarray, " band"]
    """Pivot wavelengths, Angstrom."""
    flux: Float[np.ndarray, " band"]
    """Measured, maggies; nan where not observed."""
    flux_err: Float[np.ndarray, " band"]
    """One standard deviation, maggies."""
    from_image: Float[np.ndarray, "3 band"]
    """16, 50 and 84 % quantiles of what would be measured, given the image."""
    from_others: Float[np.ndarray, "3 band"]
    """The same, given the image and the other bands."""
