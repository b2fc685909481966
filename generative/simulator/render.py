r"""Images of galaxies with given properties.

A galaxy is a bulge, three discs of different age, and star-forming clumps. Each has its own stars (age bins
of the history that `theta` stands for), metallicity and dust, and their band fluxes come from `sed`'s
tensors. In each band the light is laid out over the stamp, dimmed where the dust is thicker than on
average, blurred by PSF and pixel, and then scaled so that the sum over the stamp is the flux that the
photometric model gives for `theta`. So bands differ in shape, the image has colour gradients, and nothing
that is drawn here can move the photometry. Neighbours come on top of that flux: catalogues give it with
neighbours taken off.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from generative.conditions import Observing, age_universe_gyr, draw_observing, draw_theta
from generative.instrument import Instrument
from generative.simulator.history import mass_in_bins
from generative.simulator.morphology import Morphology, draw_morphology
from generative.simulator.profile import gaussians, grid, rotated, sersic
from generative.simulator.psf import kolmogorov_transform, moffat_transform, pixel_transform
from generative.simulator.stars import BandTables, Population, band_flux, band_tables

_DUST_LENGTH = 1.4
_MARGIN_FWHM = 2.0
_BULGE_BEHIND = 0.6


class Simulated(NamedTuple):
    """A batch of simulated stamps."""

    image: Float[Tensor, "batch band height width"]
    """Maggies per pixel, with noise and neighbours."""
    noise: Float[Tensor, "batch band"]
    """Standard deviation of a pixel, maggies."""
    flux: Float[Tensor, "batch band"]
    """Total flux of the galaxy, maggies: that of the photometric model."""
    theta: Float[Tensor, "batch theta"]
    """Properties, columns of `generative.conditions.THETA`."""
    u: Observing
    """Conditions of observation."""


class Rendered(NamedTuple):
    """Stamps without noise."""

    galaxy: Float[Tensor, "batch band height width"]
    """The galaxy alone, maggies per pixel; its sum over the stamp is `flux`."""
    neighbours: Float[Tensor, "batch band height width"]
    """Everything else, maggies per pixel."""
    flux: Float[Tensor, "batch band"]
    """Flux of the photometric model, maggies."""
    correction: Float[Tensor, "batch band"]
    """What the band was multiplied by to have that flux: for light off the stamp, gradients, dust."""


class Simulator:
    """Draws stamps of an instrument.

    Parameters
    ----------
    instrument
        Bands, pixels, PSF, depth and redshifts.
    tables
        Compiled photometry; made for the instrument's range of redshifts if None, which loads JAX.
    device
        Where to work.
    """

    def __init__(
        self, instrument: Instrument, *, tables: BandTables | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.instrument = instrument
        self.device = torch.device(device)
        self.tables = (band_tables(instrument) if tables is None else tables).to(self.device)
        self._kpc_per_arcsec = _kpc_per_arcsec(self.tables.zred)
        step = instrument.pixel_scale / instrument.oversample
        widest = max(high for _, high in instrument.psf_fwhm)
        margin = int(-(-_MARGIN_FWHM * widest // instrument.pixel_scale))
        self._margin = margin
        self._step = step
        self._xy = grid((instrument.n_pixel + 2 * margin) * instrument.oversample, step, self.device)
        # An even ramp over the bands, for the colours of neighbours.
        centre = torch.linspace(-0.5, 0.5, instrument.n_band, device=self.device)
        self._ramp = centre if instrument.n_band > 1 else torch.zeros(1, device=self.device)

    def draw(self, n: int, generator: torch.Generator) -> Simulated:
        """Draw ``n`` stamps with properties and conditions from the proposal that training uses."""
        index = torch.randint(len(self.tables.zred), (n,), generator=generator, device=self.device)
        zred = self.tables.zred[index].float()
        theta = draw_theta(n, zred, generator)
        u = draw_observing(n, zred, self.instrument, generator)
        return self.observe(theta, index, u, generator)

    def observe(
        self,
        theta: Float[Tensor, "n theta"],
        z_index: Int[Tensor, " n"],
        u: Observing,
        generator: torch.Generator,
    ) -> Simulated:
        """Stamps of galaxies with given properties under given conditions, with noise.

        Parameters
        ----------
        theta
            Properties.
        z_index
            Which of `self.tables.zred` each galaxy is at; ``u.zred`` must be that redshift.
        u
            Conditions; ``u.snr`` sets the noise.
        generator
            Source of randomness on `self.device`.
        """
        rendered = self.render(theta, z_index, u.fwhm, generator)
        noise = rendered.flux / u.snr
        image = rendered.galaxy + rendered.neighbours
        image = image + noise[..., None, None] * torch.randn(
            image.shape, generator=generator, device=self.device
        )
        return Simulated(image, noise, rendered.flux, theta, u)

    def render(
        self,
        theta: Float[Tensor, "n theta"],
        z_index: Int[Tensor, " n"],
        fwhm: Float[Tensor, "n band"],
        generator: torch.Generator,
    ) -> Rendered:
        """Stamps without noise; arguments as those of `observe`."""
        return self.render_morphology(theta, z_index, fwhm, self.structure(theta, z_index, generator))

    def structure(
        self, theta: Float[Tensor, "n theta"], z_index: Int[Tensor, " n"], generator: torch.Generator
    ) -> Morphology:
        """Draw the structure of galaxies; arguments as those of `observe`."""
        zred = self.tables.zred[z_index].float()
        return draw_morphology(
            theta, zred, age_universe_gyr(zred), self._kpc_per_arcsec[z_index].float(),
            pixel=self.instrument.pixel_scale, stamp=self.instrument.pixel_scale * self.instrument.n_pixel,
            generator=generator,
        )  # fmt: skip

    def render_morphology(
        self,
        theta: Float[Tensor, "n theta"],
        z_index: Int[Tensor, " n"],
        fwhm: Float[Tensor, "n band"],
        shape: Morphology,
    ) -> Rendered:
        """Stamps without noise of galaxies of a given structure."""
        total, parts, opacity = self._fluxes(theta.double(), z_index, shape)
        relative = (parts / total[:, None]).float()  # batch, population, band
        light, thickness = self._layout(shape)
        # Where dust is thicker than on average it dims by exp(-opacity (t - 1)), opacity per unit of mean
        # depth.
        depth = (opacity.float() * theta[:, 4, None, None])[..., None, None]
        scene = torch.zeros(len(theta), relative.shape[2], *light.shape[2:], device=self.device)
        for p in range(light.shape[1]):
            dim = torch.exp(-(depth[:, p] * (thickness[:, p, None] - 1)).clamp(-20, 20))
            scene = scene + relative[:, p, :, None, None] * light[:, p, None] * dim
        both = torch.cat([scene, self._neighbours(shape)], dim=1)
        blurred = self._blurred(both, torch.cat([fwhm, fwhm], dim=1))
        galaxy, neighbours = blurred.chunk(2, dim=1)
        correction = 1 / galaxy.sum(dim=(2, 3))
        flux = total.float()
        galaxy = galaxy * (correction * flux)[..., None, None]
        return Rendered(galaxy, neighbours * flux[..., None, None], flux, correction)

    def _fluxes(
        self, theta: Float[Tensor, "n theta"], z_index: Int[Tensor, " n"], shape: Morphology
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Flux of the galaxy, of each population, and each population's opacity per unit of `dust2`."""
        mass = mass_in_bins(theta, self.tables.agebins[z_index])
        logzsol, dust2, gas_logu = theta[:, 3], theta[:, 4], theta[:, 5]
        total = band_flux(self.tables, z_index, Population(mass, logzsol, dust2, dust2, gas_logu))
        split = _split_mass(mass, self.tables.agebins[z_index], shape)
        n_pop = split.shape[1]
        z = z_index[:, None].expand(-1, n_pop)

        def one(value: Tensor) -> Tensor:
            return value[:, None].expand(-1, n_pop)

        metal = (one(logzsol) + shape.logzsol_offset).clamp(
            float(self.tables.logzsol[0]), float(self.tables.logzsol[-1])
        )
        stars = Population(split, metal, one(dust2), one(dust2), one(gas_logu))
        parts = band_flux(self.tables, z, stars)
        more = band_flux(self.tables, z, stars._replace(dust2=one(dust2) + 0.1))
        return total, parts, -10 * torch.log(more / parts.clamp(min=1e-300)).nan_to_num(0.0, 0.0, 0.0)

    def _layout(self, shape: Morphology) -> tuple[Tensor, Tensor]:
        """Light of each population, of unit flux, and the dust in front of it in units of its mean."""
        xy, step = self._xy, self._step
        radius, q = shape.disc_radius, shape.disc_q
        one = torch.ones_like(radius)
        bulge = sersic(
            xy,
            step,
            centre=shape.centre,
            angle=shape.angle,
            r_eff=shape.bulge_radius,
            n=shape.bulge_n,
            q=shape.bulge_q,
        )
        # Inside-out growth: younger discs are larger. Ha discs exceed stellar ones by 1.1 to 1.2 (Nelson et
        # al. 2016, ApJ 828, 27); the rest is ours.
        discs = [
            sersic(xy, step, centre=shape.centre, angle=shape.angle, r_eff=factor * radius, n=one, q=q)
            for factor in (0.85, 1.0, 1.2)
        ]
        along, across = rotated(xy, shape.centre, shape.angle)
        across = across / q[:, None, None]
        r = torch.sqrt(along**2 + across**2 + (0.05 * radius[:, None, None]) ** 2)
        phi = torch.atan2(across, along)

        def wave(m: Tensor, phase: Tensor) -> Tensor:
            return torch.cos(m * phi + phase)

        turn = shape.arm_number * shape.arm_cot_pitch
        spiral = torch.cos(
            shape.arm_number[:, None, None] * phi
            - turn[:, None, None] * torch.log(r / radius[:, None, None])
            + shape.arm_phase[:, None, None]
        )
        # Arms start outside the bulge.
        spiral = spiral * (r / (r + 0.3 * radius[:, None, None])) * shape.arm_strength[:, None, None]
        lopsided = 1 + shape.lopsided[:, None, None] * wave(
            torch.ones_like(phi), shape.lopsided_phase[:, None, None]
        ) * (r / (r + radius[:, None, None]))
        arms = [(1 + contrast * spiral) * lopsided for contrast in (0.35, 0.7, 1.1)]
        discs = [disc * arm.clamp(min=0) for disc, arm in zip(discs, arms, strict=True)]
        clumps = gaussians(
            xy, step, centre=shape.clump_centre, sigma=shape.clump_sigma, flux=shape.clump_flux
        )
        light = torch.stack([bulge, *discs, clumps], dim=1)
        return light, self._dust(shape, light, along, across * q[:, None, None])

    def _dust(self, shape: Morphology, light: Tensor, along: Tensor, across: Tensor) -> Tensor:
        """Optical depth in front of each population over its mean.

        The dust is an exponential disc, thinner than the stars and 1.4 times as long (Xilouris et al. 1999,
        A&A 344, 868). In front of a bulge lies 0.6 of the disc's dust, less on the far side and more on the
        near side of an inclined disc.
        """
        length = _DUST_LENGTH * shape.disc_radius / 1.678
        r = torch.sqrt(along**2 + (across / shape.dust_q[:, None, None]) ** 2)
        dust = torch.exp(-r / length[:, None, None])
        side = torch.tanh(across / (0.3 * shape.disc_radius * shape.disc_q)[:, None, None])
        near = 1 + 0.7 * shape.sin_i[:, None, None] * side
        front = torch.stack([_BULGE_BEHIND * dust * near, dust, dust, dust, dust], dim=1)
        # Normalise over the middle disc: `dust2` is what the galaxy's light as a whole sees.
        weight = light[:, 2] / light[:, 2].sum(dim=(1, 2), keepdim=True)
        return front / (weight * dust).sum(dim=(1, 2))[:, None, None, None]

    def _neighbours(self, shape: Morphology) -> Tensor:
        """Other galaxies, relative to the galaxy's flux in each band."""
        n, k = shape.neighbour_flux.shape
        flat = sersic(
            self._xy, self._step,
            centre=shape.neighbour_centre.reshape(-1, 2), angle=shape.neighbour_angle.reshape(-1),
            r_eff=shape.neighbour_radius.reshape(-1), n=shape.neighbour_n.reshape(-1),
            q=shape.neighbour_q.reshape(-1),
        )  # fmt: skip
        colour = 10 ** (shape.neighbour_colour[..., None] * self._ramp)
        weight = shape.neighbour_flux[..., None] * colour
        return torch.einsum("nkb,nkyx->nbyx", weight, flat.reshape(n, k, *flat.shape[1:]))

    def _blurred(
        self, scene: Float[Tensor, "n channel side side"], fwhm: Float[Tensor, "n channel"]
    ) -> Float[Tensor, "n channel height width"]:
        """Scene through PSF and pixel, at the centres of the pixels of the stamp."""
        ins = self.instrument
        side = scene.shape[-1]
        fy = torch.fft.fftfreq(side, d=self._step, device=self.device)
        fx = torch.fft.rfftfreq(side, d=self._step, device=self.device)
        frequency = torch.sqrt(fy[:, None] ** 2 + fx[None] ** 2)
        if ins.psf == "kolmogorov":
            transfer = kolmogorov_transform(fwhm, frequency)
        else:
            transfer = moffat_transform(fwhm, frequency, ins.psf_beta)
        transfer = transfer * pixel_transform(fx, fy, ins.pixel_scale)
        os = ins.oversample
        spectrum = torch.fft.rfft2(scene) * transfer
        if os % 2 == 0:  # the centre of a pixel lies between two samples
            shift = 0.5 * self._step
            spectrum = spectrum * torch.exp(2j * torch.pi * shift * (fy[:, None] + fx[None]))
        fine = torch.fft.irfft2(spectrum, s=(side, side))
        first = self._margin * os + (os - 1) // 2
        cut = slice(first, first + ins.n_pixel * os, os)
        pixels: Tensor = fine[..., cut, cut] * os**2
        return pixels


def _split_mass(
    mass: Float[Tensor, "n bin"], agebins: Float[Tensor, "n bin 2"], shape: Morphology
) -> Float[Tensor, "n population bin"]:
    """Mass of each population in each age bin; they add up to the galaxy's.

    The bulge takes its part of the old mass, of the oldest stars most (inside-out: Perez et al. 2013, ApJ
    764, L1; the logistic form is ours). Stars of the older half of cosmic time that are not in it are the
    old disc, others the middle-aged disc; those of the last 100 Myr the young disc and clumps.
    """
    old = mass[:, 2:]
    edges = 10.0 ** (agebins - agebins[:, -1:, 1:])
    s = 0.5 * (edges[:, 2:, 0] + edges[:, 2:, 1])
    fraction = old / old.sum(1, keepdim=True)
    low, high = torch.full_like(mass[:, :1], -30.0), torch.full_like(mass[:, :1], 30.0)
    wanted = shape.bulge_fraction[:, None].to(mass.dtype)
    for _ in range(40):
        middle = 0.5 * (low + high)
        above = (torch.sigmoid(middle + 3.0 * s) * fraction).sum(1, keepdim=True) > wanted
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    share = torch.sigmoid(0.5 * (low + high) + 3.0 * s)
    bulge, disc = old * share, old * (1 - share)
    is_old = (s > 0.5).to(mass.dtype)
    zero = torch.zeros_like(mass[:, :2])
    # The second bin's stars (10 to 100 Myr) have half left their clumps.
    clumped = shape.clump_fraction[:, None].to(mass.dtype) * torch.tensor([1.0, 0.5], device=mass.device)
    young = mass[:, :2]
    none = torch.zeros_like(old)
    return torch.stack(
        [
            torch.cat([zero, bulge], 1),
            torch.cat([zero, disc * is_old], 1),
            torch.cat([zero, disc * (1 - is_old)], 1),
            torch.cat([young * (1 - clumped), none], 1),
            torch.cat([young * clumped, none], 1),
        ],
        dim=1,
    )


def _kpc_per_arcsec(zred: Float[Tensor, " z"]) -> Float[Tensor, " z"]:
    """Proper kpc per arcsec, Planck 2018."""
    from astropy.cosmology import Planck18

    value = Planck18.kpc_proper_per_arcmin(zred.cpu().numpy()).to_value("kpc / arcmin") / 60
    return torch.as_tensor(value, dtype=zred.dtype, device=zred.device)
