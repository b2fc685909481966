r"""The properties that shape an image, and the conditions it was taken under.

`theta` are the columns of `THETA`; `u` is the redshift and, per band, the PSF's width and the flux over
noise. The network sees both on the scale (-1, 1) of their ranges. The mass-weighted age enters as a
fraction of the age of the universe: that fraction can be drawn independently of redshift, as everything in
`theta` must be independent of `u` when a contrastive loss is to learn p(x | theta, u) and not p(theta | u).
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from generative.instrument import Instrument

THETA = ("logmass", "logssfr", "mwa", "logzsol", "dust2", "gas_logu")
"""log10 Msun formed; log10 1/yr over 100 Myr; Gyr; log10 solar; optical depth at 5500 A; log10."""

RANGE = {
    "logmass": (8.5, 12.0),
    "logssfr": (-13.0, -8.4),
    "mwa_fraction": (0.02, 0.90),  # what becomes (-1, 1); `OLD_AGE_FRACTION` is what is drawn
    "logzsol": (-1.5, 0.3),
    "dust2": (0.0, 2.5),
    "gas_logu": (-4.0, -1.0),
}
"""What training covers, broader than the population, so that p(image | theta) is good everywhere: a box in
all but the age, whose range depends on `logssfr`."""

OLD_AGE_FRACTION = (0.10, 0.85)
"""Mean age of the stars older than 100 Myr, over the age of the universe: what training covers."""

LOG_AGE_RECENT = 8.0
"""log10 yr: the time over which `logssfr` is the average."""

_MEAN_RECENT_GYR = 0.05


class Observing(NamedTuple):
    """Conditions `u` that an image was taken under."""

    zred: Float[Tensor, " batch"]
    """Redshift."""
    fwhm: Float[Tensor, "batch band"]
    """Full width of the PSF at half maximum, arcsec."""
    snr: Float[Tensor, "batch band"]
    """Total flux over the noise of a pixel; not positive or nan for a band that was not observed."""


@functools.cache
def _age_table() -> tuple[np.ndarray, np.ndarray]:
    from astropy.cosmology import Planck18  # the cosmology of `sed.cosmology.default_cosmology`

    log1z = np.linspace(0.0, np.log(21.0), 512)
    return log1z, np.asarray(Planck18.age(np.expm1(log1z)).to_value("Gyr"))


def age_universe_gyr(zred: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Age of the universe in Gyr at redshifts of 0 to 20, Planck 2018; from a table of astropy's, to 1e-5."""
    log1z, age = _age_table()
    value = np.interp(np.log1p(zred.detach().cpu().double().numpy()), log1z, age)
    return torch.as_tensor(value, dtype=zred.dtype, device=zred.device)


def mean_age_fraction(old: Tensor | float, recent: Tensor) -> Tensor:
    """Mass-weighted age over the age of the universe.

    Parameters
    ----------
    old
        The same of the stars older than 100 Myr.
    recent
        Part of the mass formed in the last 100 Myr, 10^(logssfr + 8). Its age counts as a fraction of 13 Gyr
        at all redshifts, so that the result does not depend on redshift.
    """
    return (1 - recent) * old + recent * _MEAN_RECENT_GYR / 13.0


def old_age_fraction(fraction: Tensor, recent: Tensor) -> Tensor:
    """Inverse of `mean_age_fraction`."""
    return (fraction - recent * _MEAN_RECENT_GYR / 13.0) / (1 - recent)


def draw_theta(n: int, zred: Float[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, "n theta"]:
    """Draw `theta` uniformly over what training covers.

    The mass-weighted age is that of a uniform mean age of the old stars, with the recent ones added.
    """
    device = zred.device
    unit = torch.rand(n, len(RANGE), generator=generator, device=device)
    low, high = torch.tensor(list(RANGE.values()), device=device).T
    box = low + (high - low) * unit
    recent = 10 ** (box[:, 1] + LOG_AGE_RECENT)
    old = OLD_AGE_FRACTION[0] + (OLD_AGE_FRACTION[1] - OLD_AGE_FRACTION[0]) * unit[:, 2]
    # In fractions of the age of the universe throughout: independent of redshift.
    fraction = mean_age_fraction(old, recent)
    theta: Tensor = box.clone()
    theta[:, 2] = fraction * age_universe_gyr(zred)
    return theta


def draw_observing(
    n: int, zred: Float[Tensor, " n"], instrument: Instrument, generator: torch.Generator
) -> Observing:
    """Draw the conditions of observation, independently of `theta`.

    The reference band's flux over noise is uniform in its logarithm; the others follow the depths for a flat
    spectrum, with a scatter of 0.35 dex for the colours of galaxies.
    """
    device = zred.device
    low, high = torch.tensor(instrument.psf_fwhm, device=device).T
    fwhm = low + (high - low) * torch.rand(n, 1, generator=generator, device=device)
    fwhm = fwhm * (1 + 0.05 * (2 * torch.rand(n, len(low), generator=generator, device=device) - 1))
    noise = torch.tensor(instrument.noise, device=device)
    start, stop = instrument.snr_log10
    reference = start + (stop - start) * torch.rand(n, 1, generator=generator, device=device)
    offset = torch.log10(noise[instrument.reference_band] / noise)
    scatter = 0.35 * torch.randn(n, len(low), generator=generator, device=device)
    scatter[:, instrument.reference_band] = 0.0
    return Observing(zred, fwhm, 10 ** (reference + offset + scatter))


def theta_columns(
    theta: Float[Tensor, "batch theta"], zred: Float[Tensor, " batch"]
) -> Float[Tensor, "batch theta"]:
    """`theta` on the scale (-1, 1) of `RANGE`; nan where it is nan, that is, not known."""
    columns = theta.clone()
    columns[:, 2] = theta[:, 2] / age_universe_gyr(zred)
    low, high = torch.tensor(list(RANGE.values()), dtype=theta.dtype, device=theta.device).T
    scaled: Tensor = 2 * (columns - low) / (high - low) - 1
    return scaled


def observing_columns(u: Observing, instrument: Instrument) -> Float[Tensor, "batch column"]:
    """`u` on a scale of about (-1, 1): redshift, then per band log PSF width, log flux over noise, observed.

    A band that was not observed has zeros.
    """

    def unit(value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
        return (2 * value - high - low) / (high - low + 1e-6)

    low, high = torch.tensor(instrument.psf_fwhm, dtype=u.fwhm.dtype, device=u.fwhm.device).T
    observed: Bool[Tensor, "batch band"] = u.snr > 0  # False for nan
    fwhm = torch.where(observed, unit(u.fwhm, low, high), 0.0)
    snr = torch.where(observed, unit(torch.log10(u.snr.clamp(min=1e-6)), *instrument.snr_log10), 0.0)
    zred = unit(u.zred, *instrument.zred)[:, None]
    return torch.cat([zred, fwhm, snr, observed.to(fwhm.dtype)], dim=1)


def n_observing(instrument: Instrument) -> int:
    """Number of columns of `observing_columns`."""
    return 1 + 3 * instrument.n_band


def check_theta(theta: Float[Tensor, "batch theta"], zred: Float[Tensor, " batch"]) -> None:
    """Refuse properties that training does not cover; nan means not known and passes.

    Raises
    ------
    ValueError
        Naming the property, the row, its range and what came.
    """
    if theta.ndim != 2 or theta.shape[1] != len(THETA):
        raise ValueError(f"`theta` must have the columns {THETA}: expected (n, 6), got {tuple(theta.shape)}.")
    scaled = theta_columns(theta.double(), zred.double())
    outside = (scaled.abs() > 1 + 1e-6) | torch.isinf(theta)
    recent = 10 ** (theta[:, 1].double().nan_to_num(-20.0) + LOG_AGE_RECENT)
    fraction = theta[:, 2].double() / age_universe_gyr(zred.double())
    old = old_age_fraction(fraction, recent)
    outside[:, 2] |= (old < OLD_AGE_FRACTION[0] - 1e-3) | (old > OLD_AGE_FRACTION[1] + 1e-3)
    if outside.any():
        row, column = (int(i) for i in outside.nonzero()[0])
        name = THETA[column]
        low, high = RANGE["mwa_fraction" if name == "mwa" else name]
        unit = ""
        if name == "mwa":
            age = float(age_universe_gyr(zred[row : row + 1].double())[0])
            low, high = (float(mean_age_fraction(f, recent[row])) * age for f in OLD_AGE_FRACTION)
            unit = f" Gyr at zred = {float(zred[row]):.3g} and for its `logssfr`"
        raise ValueError(
            f"`{name}` in row {row} must be between {low:.3g} and {high:.3g}{unit} (the range of training), "
            f"got {float(theta[row, column]):.4g}."
        )
