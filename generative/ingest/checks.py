"""What an image model was trained on, against what came: every disagreement is a flag with its numbers."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from generative.instrument import Instrument


class Flag(NamedTuple):
    """Something that a user should know of an image."""

    name: str
    """One word."""
    text: str
    """What is so, with numbers."""
    outside: bool = False
    """Whether the image model was not trained on such images."""


def domain_flags(
    instrument: Instrument,
    *,
    zred: float,
    fwhm: Float[np.ndarray, " band"],
    snr: Float[np.ndarray, " band"],
) -> list[Flag]:
    """Conditions outside of what a model was trained on.

    The limits are those by which `hbm compile` distrusts an image: on the scale (-1, 1) of the ranges of
    training, 1.1 for flux over noise of the deepest band that was observed, 1.6 for the width of the point
    spread function, which scatters between bands; other bands' flux over noise may be 4 times as far. The
    redshift must be inside.

    Parameters
    ----------
    zred
        Redshift.
    fwhm
        arcsec; nan for a band without an image.
    snr
        Total flux over the noise of a pixel.
    """
    flags = []
    low, high = instrument.zred
    if not low <= zred <= high:
        flags.append(
            Flag("redshift", f"redshift {zred:.4g}, {instrument.name} was trained on {low} to {high}", True)
        )
    start, stop = instrument.snr_log10
    for i, band in enumerate(instrument.bands):
        if not np.isfinite(fwhm[i]):
            continue
        small, large = instrument.psf_fwhm[i]
        if abs(_unit(float(fwhm[i]), small, large)) > 1.6:
            text = f"point sources {fwhm[i]:.3g} arcsec wide in {band}, trained on {small} to {large}"
            flags.append(Flag("psf", text, True))
        scaled = _unit(math.log10(max(float(snr[i]), 1e-6)), start, stop)
        is_reference = i == instrument.reference_band
        if abs(scaled) > (1.1 if is_reference else 4.0):
            where = "" if is_reference else ", with room for colours"
            flags.append(
                Flag(
                    "depth",
                    f"flux over noise {snr[i]:.3g} in {band}, trained on {10**start:.3g} to "
                    f"{10**stop:.3g}{where}",
                    True,
                )
            )
    return flags


def _unit(value: float, low: float, high: float) -> float:
    """On the scale (-1, 1) of a range."""
    return (2 * value - high - low) / (high - low + 1e-6)
