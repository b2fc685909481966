r"""What a galaxy with given properties looks like: structure from published relations.

Everything here is a *nuisance* given `theta` and redshift: it changes the image and, because the simulator
scales each band to the photometric model's flux, never the photometry. The relations are idealised: where a
paper gives a trend without a formula for our variables, the constants here are ours and say so.

Masses in the relations are those of living stars, about 0.2 dex below `logmass`, the mass formed; that is
neglected.

Populations, in the order of `POPULATIONS`: bulge, old disc, middle-aged disc, young disc, clumps.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

POPULATIONS = ("bulge", "old disc", "middle disc", "young disc", "clumps")
N_CLUMP = 10
N_NEIGHBOUR = 2

_KM_PER_S = 299792.458


class Morphology(NamedTuple):
    """Structure of galaxies; lengths in arcsec, angles in radians."""

    bulge_fraction: Float[Tensor, " batch"]
    """Part of the mass older than 100 Myr in the bulge."""
    clump_fraction: Float[Tensor, " batch"]
    """Part of the light of the youngest stars in clumps."""
    bulge_radius: Float[Tensor, " batch"]
    bulge_n: Float[Tensor, " batch"]
    bulge_q: Float[Tensor, " batch"]
    disc_radius: Float[Tensor, " batch"]
    """Half-light radius of the middle-aged disc."""
    disc_q: Float[Tensor, " batch"]
    dust_q: Float[Tensor, " batch"]
    """Axis ratio of the dust, which lies in a thinner disc."""
    sin_i: Float[Tensor, " batch"]
    angle: Float[Tensor, " batch"]
    centre: Float[Tensor, "batch 2"]
    arm_strength: Float[Tensor, " batch"]
    arm_number: Float[Tensor, " batch"]
    arm_cot_pitch: Float[Tensor, " batch"]
    arm_phase: Float[Tensor, " batch"]
    lopsided: Float[Tensor, " batch"]
    lopsided_phase: Float[Tensor, " batch"]
    clump_centre: Float[Tensor, "batch clump 2"]
    clump_sigma: Float[Tensor, "batch clump"]
    clump_flux: Float[Tensor, "batch clump"]
    """Part of the clumps' light in each."""
    logzsol_offset: Float[Tensor, "batch population"]
    """dex, relative to the galaxy's."""
    neighbour_flux: Float[Tensor, "batch neighbour"]
    """Relative to the galaxy's; zero for none."""
    neighbour_colour: Float[Tensor, "batch neighbour"]
    """dex from the first to the last band, relative to the galaxy's colour."""
    neighbour_centre: Float[Tensor, "batch neighbour 2"]
    neighbour_radius: Float[Tensor, "batch neighbour"]
    neighbour_n: Float[Tensor, "batch neighbour"]
    neighbour_q: Float[Tensor, "batch neighbour"]
    neighbour_angle: Float[Tensor, "batch neighbour"]


def quiescence(logssfr: Tensor, age_gyr: Tensor) -> Tensor:
    """From 0, star forming, to 1: half where sSFR = 0.2 / age of the universe.

    Pacifici et al. (2016, ApJ 832, 79). The width of the transition, 0.25 dex, is ours.
    """
    return torch.sigmoid((torch.log10(0.2 / (age_gyr * 1e9)) - logssfr) / 0.25)


def late_type_radius(logmass: Tensor, zred: Tensor) -> Tensor:
    """Median half-light radius of late types, kpc: 8.9 (1 + z)^-0.75 (M / 5e10 Msun)^0.22.

    van der Wel et al. (2014, ApJ 788, 28): evolution at 5e10 Msun and slope.
    """
    return 8.9 * (1 + zred) ** -0.75 * 10 ** (0.22 * (logmass - math.log10(5e10)))


def early_type_radius(logmass: Tensor, zred: Tensor) -> Tensor:
    """Median half-light radius of early types, kpc: 5.6 (1 + z)^-1.48 (M / 5e10 Msun)^0.75 above 2e10 Msun.

    van der Wel et al. (2014), as above; the slope below 2e10 Msun, where they find it flatter, is ours.
    """
    break_ = math.log10(2e10)
    slope = 0.75 * (logmass.clamp(min=break_) - math.log10(5e10)) + 0.2 * (logmass.clamp(max=break_) - break_)
    return 5.6 * (1 + zred) ** -1.48 * 10**slope


def draw_morphology(
    theta: Float[Tensor, "batch theta"],
    zred: Float[Tensor, " batch"],
    age_gyr: Float[Tensor, " batch"],
    kpc_per_arcsec: Float[Tensor, " batch"],
    *,
    pixel: float,
    stamp: float,
    generator: torch.Generator,
) -> Morphology:
    """Draw the structure of galaxies.

    Parameters
    ----------
    theta
        Columns of `generative.conditions.THETA`.
    zred, age_gyr, kpc_per_arcsec
        Redshift, age of the universe there (Gyr), scale.
    pixel, stamp : arcsec
        Pixel, for how well stamps are centred, and side of the stamp, for where neighbours can be.
    generator
        Source of randomness, on the device of ``theta``.
    """
    n, device = len(theta), theta.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator, device=device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator, device=device)

    logmass, logssfr, _, _, _, _ = theta.T
    quiet = quiescence(logssfr, age_gyr)

    # Bulges grow with mass and in quiescent galaxies: Lang et al. 2014 (ApJ 788, 11), Bluck et al. 2014
    # (MNRAS 441, 599). The logistic form and its constants are ours, to resemble their medians.
    bulge_fraction = torch.sigmoid(-2.0 + 0.9 * (logmass - 10.3) + 2.3 * quiet + 0.7 * normal()).clamp(
        max=0.97
    )
    # Scatter in size at fixed mass: 0.16 dex late, 0.12 early (van der Wel et al. 2014, table 1, rounded).
    late = late_type_radius(logmass, zred) * 10 ** (0.16 * normal())
    early = early_type_radius(logmass, zred) * 10 ** (0.12 * normal())
    disc_radius = late ** (1 - 0.5 * quiet) * early ** (0.5 * quiet)
    # Bulges of discs have r_e / h = 0.22 +- 0.09, h = r_disc / 1.678 (MacArthur et al. 2003, ApJ 582, 689).
    # With growing share of the light the bulge is the early type itself.
    small = 0.22 / 1.678 * disc_radius * 10 ** (0.17 * normal())
    bulge_radius = small ** (1 - bulge_fraction) * early**bulge_fraction
    # n from 1-2 in small, late bulges to 4 and more in massive ones: Fisher & Drory 2008 (AJ 136, 773),
    # Caon et al. 1993 (MNRAS 265, 1013). Interpolation ours.
    classical = torch.sigmoid(1.2 * (logmass - 10.4) + 3.0 * (bulge_fraction - 0.4))
    bulge_n = 10 ** (0.15 + 0.5 * classical + 0.08 * normal())

    # Discs are thin ellipsoids of random orientation: 0.2 is the usual ratio (e.g. Unterborn & Ryden 2008).
    cos_i = uniform()
    disc_q = torch.sqrt(cos_i**2 + 0.2**2 * (1 - cos_i**2))
    dust_q = torch.sqrt(cos_i**2 + 0.08**2 * (1 - cos_i**2))
    flattening = 0.55 + 0.35 * uniform()
    bulge_q = torch.sqrt(cos_i**2 + flattening**2 * (1 - cos_i**2))

    # Arms weaken with falling sSFR (Yu et al. 2021, ApJ 917, 88) and open at low mass: pitch angles of 10
    # to 30 degrees (Yu & Ho 2019, ApJ 871, 194). Mostly two arms; more of them at low
    # mass is ours.
    arm_strength = (
        0.9 * (1 - quiet) * torch.sigmoid(1.5 * (logssfr + 10.6)) * (0.4 + 0.6 * uniform())
    ).clamp(max=0.9)
    pitch = (19 - 3.0 * (logmass - 10.5) + 5 * normal()).clamp(8, 40) * math.pi / 180
    many = uniform() < torch.sigmoid(-1.0 - 0.8 * (logmass - 10.5))
    arm_number = 2.0 + many.to(theta.dtype) * torch.round(2 * uniform())

    # Young stars sit in clumps where the sSFR is high, more so at low mass: Guo et al. 2015 (ApJ 800, 39).
    # Constants ours; for the youngest bin, whose HII regions are the clumps.
    clump_fraction = torch.sigmoid(-0.4 + 1.1 * (logssfr + 9.6) - 0.5 * (logmass - 10.0) + 0.5 * normal())
    # Luminosities follow L^-2 (Kennicutt, Edgar & Hodge 1989, ApJ 337, 761) over a factor of 30.
    brightness = 1 / (1 - uniform(N_CLUMP) * (1 - 1 / 30))
    radius = 1.25 * disc_radius[:, None] / 1.678 * _exponential_radius(uniform(N_CLUMP), uniform(N_CLUMP))
    phi = 2 * math.pi * uniform(N_CLUMP)
    along, across = radius * torch.cos(phi), radius * torch.sin(phi) * disc_q[:, None]
    angle = math.pi * uniform()
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    clump_size = 0.25 * 10 ** (0.2 * (logmass - 10.0)[:, None] + 0.15 * normal(N_CLUMP))  # kpc; ours

    # Stellar metallicity falls by about 0.1 dex per effective radius (Goddard et al. 2017, MNRAS 466, 4731).
    offsets = torch.tensor([0.12, 0.03, 0.0, -0.08, -0.08], device=device)
    scatter = 0.04 * normal(1) * torch.tensor([1.0, 0.0, 0.0, -1.0, -1.0], device=device)

    scale = 1 / kpc_per_arcsec
    centre = 0.5 * pixel * (2 * uniform(2) - 1) + 0.3 * pixel * normal(2)
    clump_centre = scale[:, None, None] * torch.stack(
        [along * cos - across * sin, along * sin + across * cos], dim=-1
    )
    there = uniform(N_NEIGHBOUR) < 0.15
    far = stamp * (0.25 + 0.3 * uniform(N_NEIGHBOUR))
    where = 2 * math.pi * uniform(N_NEIGHBOUR)
    return Morphology(
        bulge_fraction=bulge_fraction,
        clump_fraction=clump_fraction,
        bulge_radius=(bulge_radius * scale).clamp(min=0.1 * pixel),
        bulge_n=bulge_n.clamp(0.8, 6.0),
        bulge_q=bulge_q,
        disc_radius=(disc_radius * scale).clamp(min=0.2 * pixel),
        disc_q=disc_q,
        dust_q=dust_q,
        sin_i=torch.sqrt(1 - cos_i**2),
        angle=angle,
        centre=centre,
        arm_strength=arm_strength,
        arm_number=arm_number,
        arm_cot_pitch=1 / torch.tan(pitch),
        arm_phase=2 * math.pi * uniform(),
        # 30 % of discs have a first Fourier amplitude above 0.2 (Zaritsky & Rix 1997, ApJ 477, 118): half a
        # normal distribution of that quantile.
        lopsided=(0.193 * normal().abs()).clamp(max=0.6),
        lopsided_phase=2 * math.pi * uniform(),
        clump_centre=centre[:, None] + clump_centre,
        clump_sigma=clump_size * scale[:, None],
        clump_flux=brightness / brightness.sum(1, keepdim=True),
        logzsol_offset=offsets + scatter,
        neighbour_flux=there * 10 ** (-1.7 + 1.4 * uniform(N_NEIGHBOUR)),
        neighbour_colour=0.4 * normal(N_NEIGHBOUR),
        neighbour_centre=torch.stack([far * torch.cos(where), far * torch.sin(where)], dim=-1),
        neighbour_radius=pixel * 10 ** (0.1 + 0.4 * uniform(N_NEIGHBOUR)),
        neighbour_n=1 + 1.5 * uniform(N_NEIGHBOUR),
        neighbour_q=0.3 + 0.7 * uniform(N_NEIGHBOUR),
        neighbour_angle=math.pi * uniform(N_NEIGHBOUR),
    )


def _exponential_radius(first: Tensor, second: Tensor) -> Tensor:
    """Radii of points of an exponential disc, in scale lengths: gamma distributed with shape 2."""
    return -torch.log(first.clamp(min=1e-6)) - torch.log(second.clamp(min=1e-6))
