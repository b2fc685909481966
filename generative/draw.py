"""Galaxies with given properties from a trained model: what `hbm sample` calls."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from generative.checkpoint import Model
from generative.conditions import (
    LOG_AGE_RECENT,
    THETA,
    Observing,
    check_theta,
    observing_columns,
    theta_columns,
)
from generative.instrument import Instrument
from generative.sampler import ancestral, denoise_fn, heun, sigma_schedule


class Drawn(NamedTuple):
    """Images that a model drew."""

    image: Float[Tensor, "batch band height width"]
    """In units of the noise of a pixel; pictures in their own unit."""
    prepared: Float[Tensor, "batch band height width"]
    """As the network makes them."""
    theta: Float[Tensor, "batch theta"]
    """What was asked for; nan where nothing was."""


def theta_rows(properties: Mapping[str, float], n: int) -> Float[Tensor, "n theta"]:
    """Rows of `theta` with the same properties; nan for those not named.

    Raises
    ------
    ValueError
        If a name is not one of `generative.conditions.THETA`.
    """
    theta = torch.full((n, len(THETA)), torch.nan)
    for name, value in properties.items():
        if name not in THETA:
            raise ValueError(f"`properties` must be among {', '.join(THETA)}, got {name!r}.")
        theta[:, THETA.index(name)] = value
    return theta


TYPICAL = {"logmass": 10.3, "logssfr": -10.3, "logzsol": -0.1, "dust2": 0.3, "gas_logu": -2.5}
"""What a galaxy's colours are made with where a property is not given; the age follows the sSFR."""


def usual_conditions(
    instrument: Instrument,
    theta: Float[Tensor, "n theta"],
    *,
    zred: float | None = None,
    snr: float | None = None,
) -> Observing:
    """Conditions in the middle of an instrument's ranges, with the colours of the photometric model.

    An image model knows the shape of each band, not its flux: how bright a galaxy is in one band and another
    is the photometric model's, for ``theta`` with `TYPICAL` values where it is nan. Loads JAX if the
    instrument has more than one band.

    Parameters
    ----------
    theta
        Properties.
    zred
        Redshift; the middle of the range if None.
    snr
        Flux over noise in the deepest band; three quarters up its range if None. Other bands follow the
        depths and the galaxy's colours.

    Raises
    ------
    ValueError
        If a value is not in the range that training covered, or no history has these properties.
    """
    n = len(theta)
    z_low, z_high = instrument.zred
    zred = 0.5 * (z_low + z_high) if zred is None else zred
    if not z_low <= zred <= z_high:
        raise ValueError(f"`zred` must be between {z_low} and {z_high} for {instrument.name}, got {zred}.")
    low, high = instrument.snr_log10
    snr = 10 ** (low + 0.75 * (high - low)) if snr is None else snr
    if not 10**low * 0.999 <= snr <= 10**high * 1.001:
        raise ValueError(
            f"`snr` must be between {10**low:.0f} and {10**high:.0f} for {instrument.name}, got {snr:g}."
        )
    noise = torch.tensor(instrument.noise)
    fwhm = torch.tensor(instrument.psf_fwhm).mean(dim=1)
    band = instrument.reference_band
    flux = torch.ones(n, instrument.n_band)
    if instrument.n_band > 1:
        flux = photometric_flux(instrument, theta, float(zred))
    ratio = flux / flux[:, band, None] * noise[band] / noise
    return Observing(torch.full((n,), float(zred)), fwhm.expand(n, -1), snr * ratio)


def photometric_flux(
    instrument: Instrument, theta: Float[Tensor, "n theta"], zred: float
) -> Float[Tensor, "n band"]:
    """Maggies of the photometric model, with `TYPICAL` values where ``theta`` is nan.

    Raises
    ------
    ValueError
        If no history has the mass-weighted age asked for.
    """
    from generative.simulator.history import mass_in_bins
    from generative.simulator.stars import Population, band_flux, band_tables

    tables = band_tables(instrument, [zred])
    full = theta.double().clone()
    for name, value in TYPICAL.items():
        i = THETA.index(name)
        full[:, i] = torch.where(full[:, i].isnan(), value, full[:, i])
    recent = 10 ** (full[:, 1] + LOG_AGE_RECENT)
    # Old stars of half the age of the universe, of three quarters where star formation has ended.
    old = 0.5 + 0.25 * torch.sigmoid((-11.0 - full[:, 1]) / 0.3)
    usual_age = (1 - recent) * old * float(tables.tmax[0])
    full[:, 2] = torch.where(full[:, 2].isnan(), usual_age, full[:, 2])
    index = torch.zeros(len(theta), dtype=torch.long)
    mass = mass_in_bins(full, tables.agebins[index])
    stars = Population(mass, full[:, 3], full[:, 4], full[:, 4], full[:, 5])
    return band_flux(tables, index, stars).float()


@torch.no_grad()
def draw(
    model: Model,
    theta: Float[Tensor, "batch theta"] | None,
    u: Observing | None,
    *,
    n: int | None = None,
    seed: int = 0,
    n_step: int = 24,
    guidance: float = 1.0,
    method: Literal["heun", "ancestral"] = "heun",
    same_noise: bool = False,
    chunk: int = 64,
    progress: Callable[[int, int, str], None] | None = None,
) -> Drawn:
    """Draw images.

    Parameters
    ----------
    model
        Trained model.
    theta, u
        Properties and conditions, one row per image; None for a model of pictures.
    n
        Number of images, for a model without conditions.
    seed
        Of the noise.
    n_step
        Noise levels.
    guidance
        1 for the model itself; see `generative.sampler`.
    method
        Heun's ODE solver, or ancestral sampling.
    same_noise
        Whether all images start from one noise image: what differs is then due to the conditions.
    chunk
        Images at a time.

    Raises
    ------
    ValueError
        If a property is out of the range of training, or conditions are missing.
    """
    config = model.network.config
    device = next(model.network.parameters()).device
    if model.instrument is not None and theta is not None and u is not None:
        check_theta(theta, u.zred)
        columns, conditions = theta_columns(theta, u.zred), observing_columns(u, model.instrument)
        n = len(theta)
    elif config.n_theta == 0 or theta is None:
        if n is None:
            raise ValueError("`n`, the number of images, must be given without `theta`.")
        if config.n_u > 0:
            raise ValueError("`u` must be given: this model knows its images' conditions of observation.")
        columns, conditions = torch.full((n, config.n_theta), torch.nan), torch.zeros(n, 0)
    else:
        columns, conditions = theta, torch.zeros(len(theta), 0)
        n = len(theta)
    if method not in ("heun", "ancestral"):
        raise ValueError(f"`method` must be 'heun' or 'ancestral', got {method!r}.")
    generator = torch.Generator().manual_seed(seed)
    size = (config.n_band, config.n_pixel, config.n_pixel)
    noise = torch.randn(1 if same_noise else n, *size, generator=generator)
    noise = noise.expand(n, *size)
    levels = sigma_schedule(model.sigma_sample, n_step)
    parts = []
    for rows in torch.arange(n).split(chunk):
        fn = denoise_fn(
            model.network, columns[rows].to(device), conditions[rows].to(device), guidance=guidance
        )
        start = noise[rows].to(device)
        if method == "heun":
            parts.append(heun(fn, start, levels).cpu())
        else:
            fresh = torch.Generator(device=device).manual_seed(seed + 1 + int(rows[0]))
            parts.append(ancestral(fn, start, levels, fresh).cpu())
        if progress is not None:
            progress(int(rows[-1]) + 1, n, "drawing")
    prepared = torch.cat(parts)
    image = model.preparation.inverse(prepared, torch.ones(n, config.n_band))
    return Drawn(image, prepared, columns if theta is None else theta)
