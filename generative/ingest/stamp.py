"""One galaxy's stamp: from exposures in any pixels to the pixels, PSF and noise of an image model.

In order: the wide field is blurred and resampled onto the instrument's pixels in one linear step; the
galaxy is found, and the grid moved to its middle; sky and noise are measured between the sources; the noise
is made independent; neighbours are masked; the flux is measured; all is held against what the model knows.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from generative.data import LARGEST_HOLE, LARGEST_MASKED
from generative.ingest import IngestError
from generative.ingest.checks import Flag, domain_flags
from generative.ingest.exposure import Exposure, plain_wcs
from generative.ingest.noise import NoiseModel, measured_noise, whitening_noise
from generative.ingest.overlap import Grid
from generative.ingest.resample import NoPixelsError, Resampled, resample_exposure
from generative.ingest.sources import (
    Aperture,
    Field,
    Sky,
    aperture_flux,
    filled,
    find_sources,
    kron_aperture,
    light_beyond,
    sky_level,
)
from generative.instrument import Instrument

LARGEST_LOST = 0.03
"""Part of a galaxy's light beyond the image up to which noise may take its place."""
LEAST_EMPTY = 0.01
"""Part of a stamp that an image does not reach, below which nothing is said of it."""
UNKNOWN_SKY = 0.2
"""Error of a sky that could not be measured, in a pixel's noise: the file's may be off by that much."""


@dataclass(frozen=True)
class IngestOptions:
    """Choices of `make_stamp`."""

    recentre: bool = True
    """Move the grid to the middle of the galaxy's light."""
    whiten: bool = True
    """Add noise that makes the pixels' noise independent, as image models take it."""
    mask_neighbours: bool = True
    """Mask other sources."""
    fill: bool = True
    """Put noise of the sky where the image does not reach, if hardly any of the galaxy's light is there."""
    field_factor: int = 3
    """Side of the field that sky and noise come from, in stamps."""
    largest_shift: float = 2.0
    """arcsec, or 5 pixels if that is more: a galaxy further from the position asked for is refused."""


class Step(NamedTuple):
    """What was done, for figures."""

    title: str
    images: dict[str, np.ndarray]
    """By band; nan is drawn as masked."""


@dataclass(frozen=True, eq=False)
class Stamp:
    """A galaxy's image as an image model takes it, with fluxes and flags."""

    id: str
    ra: float
    """Degrees, of the middle."""
    dec: float
    zred: float
    bands: tuple[str, ...]
    image: Float[np.ndarray, "band side side"]
    """Maggies per pixel, sky subtracted."""
    noise: Float[np.ndarray, " band"]
    """Standard deviation of a pixel of sky, maggies; nan for a band without an image."""
    observed: Bool[np.ndarray, "band side side"]
    fwhm: Float[np.ndarray, " band"]
    """arcsec, of point sources in the stamp, with the pixel left out."""
    flux: Float[np.ndarray, " band"]
    """Maggies: in the Kron aperture, as far as it is in the stamp."""
    flux_err: Float[np.ndarray, " band"]
    """Of sky noise with its correlations and of the sky's level; without the galaxy's own photons."""
    flux_field: Float[np.ndarray, " band"]
    """Maggies: in the whole aperture."""
    filters: tuple[str, ...]
    """Filter that each flux is of, sedpy's name: the survey's where it is known, else the instrument's."""
    flags: tuple[Flag, ...]
    steps: tuple[Step, ...] = field(default=(), repr=False)

    @property
    def outside(self) -> bool:
        """Whether the model was not trained on such images."""
        return any(flag.outside for flag in self.flags)


def make_stamp(
    exposures: Sequence[Exposure],
    instrument: Instrument,
    *,
    zred: float,
    ra: float | None = None,
    dec: float | None = None,
    name: str = "galaxy",
    options: IngestOptions | None = None,
    seed: int = 0,
) -> Stamp:
    """Stamp of a galaxy in an instrument's bands and pixels.

    Parameters
    ----------
    exposures
        One for each band of the instrument; bands that are missing are masked and flagged.
    instrument
        Of the image model.
    zred
        Redshift.
    ra, dec
        Degrees; the middle of the first exposure if not given.
    name
        Identifier.
    options
        Defaults of `IngestOptions`.
    seed
        Of simulated and added noise, with the name.

    Raises
    ------
    IngestError
        If no band is the instrument's; if point sources are wider than the model knows; if no galaxy is in
        the middle; if there is neither sky nor an error image to tell the noise from.
    """
    options = options or IngestOptions()
    if not np.isfinite(zred):
        raise IngestError(f"`zred` must be a redshift, got {zred}.")
    if (ra is None) != (dec is None):
        raise IngestError("`ra` and `dec` must be given together.")
    matched = _by_band(exposures, instrument)
    first = next(e for e in matched if e is not None)
    if ra is None or dec is None:
        ra, dec = _middle_of(first)
    rng_seed = zlib.crc32(f"{seed}/{name}".encode())
    wide = _wide_grid(instrument, ra, dec, options.field_factor)
    bands = _resample(matched, instrument, wide, rng_seed)
    found, levels = _find(bands, instrument)
    if options.recentre:
        moved_ra, moved_dec = (float(v) for v in wide.wcs.all_pix2world(found.x, found.y, 0))
        shift = np.hypot(found.x - (wide.shape[1] - 1) / 2, found.y - (wide.shape[0] - 1) / 2)
        largest = max(options.largest_shift, 5 * instrument.pixel_scale)
        if shift * instrument.pixel_scale > largest:
            raise IngestError(
                f"`ra` and `dec` must be of the galaxy: the nearest is {shift * instrument.pixel_scale:.2f} "
                "arcsec "
                f"away, more than {largest:.2f}."
            )
        if shift > 0.1:
            ra, dec = moved_ra % 360.0, moved_dec
            wide = _wide_grid(instrument, ra, dec, options.field_factor)
            bands = _resample(matched, instrument, wide, rng_seed)
            found, levels = _find(bands, instrument)
    flags: list[Flag] = [
        Flag("missing_band", f"no image in {band}")
        for band, b in zip(instrument.bands, bands, strict=True)
        if b is None
    ]
    return _assemble(
        bands, found, levels, matched, instrument, wide,
        name=name, ra=ra, dec=dec, zred=zred, options=options, seed=rng_seed, flags=flags,
    )  # fmt: skip


def plain_band(name: str) -> str:
    """Letter or short name of a filter: ``sdss_g0``, ``DES-G`` and ``g`` are ``g``."""
    return name.lower().replace("-", "_").rstrip("0").split("_")[-1]


def survey_filter(survey: str, name: str, band: str) -> str:
    """Filter of a flux: that of the survey, if it is known by its name or that of its band.

    Parameters
    ----------
    survey
        As in `Exposure`.
    name
        Of the exposure's band.
    band
        The instrument's band that it stands for, which is the answer otherwise.
    """
    letter = plain_band(name)
    of_name = next((s for s in _FILTERS if name.lower().startswith(s)), survey)
    start, letters, end = _FILTERS.get(of_name, ("", "", ""))
    return next((f"{start}{known}{end}" for known in letters if known.lower() == letter), band)


_FILTERS = {
    "sdss": ("sdss_", "ugriz", "0"),
    "legacy": ("decam_", "griz", ""),
    "des": ("decam_", "grizY", ""),
    "panstarrs": ("panstarrs_", "grizy", ""),
    "ps1": ("panstarrs_", "grizy", ""),
    "hsc": ("hsc_", "grizy", ""),
}
"""Beginning, bands and end of sedpy's names of a survey's filters. North of +32 degrees the Legacy Surveys'
are those of BASS and MzLS, for which sedpy has none."""


def _by_band(exposures: Sequence[Exposure], instrument: Instrument) -> list[Exposure | None]:
    names = [e.band for e in exposures]
    plain = [plain_band(n) for n in names]
    if len(set(names)) != len(names):
        raise IngestError(f"`exposures` must be one of each band, got {', '.join(names)}.")
    matched: list[Exposure | None] = []
    for band in instrument.bands:
        if band in names:
            matched.append(exposures[names.index(band)])
        elif plain.count(plain_band(band)) == 1:
            matched.append(exposures[plain.index(plain_band(band))])
        else:
            matched.append(None)
    if all(e is None for e in matched):
        raise IngestError(
            f"`exposures` must be in bands of {instrument.name} ({', '.join(instrument.bands)}), got "
            f"{', '.join(names)}."
        )
    return matched


def _middle_of(exposure: Exposure) -> tuple[float, float]:
    height, width = exposure.image.shape
    ra, dec = exposure.wcs.all_pix2world((width - 1) / 2, (height - 1) / 2, 0)
    return float(ra), float(dec)


def _wide_grid(instrument: Instrument, ra: float, dec: float, factor: int) -> Grid:
    side = instrument.n_pixel * factor
    side += (side - instrument.n_pixel) % 2  # the stamp is exactly in the middle
    return Grid(plain_wcs((side, side), instrument.pixel_scale, ra=ra, dec=dec), (side, side))


def _resample(
    exposures: Sequence[Exposure | None], instrument: Instrument, wide: Grid, seed: int
) -> list[Resampled | None]:
    """Bands on the grid; None for those without a usable pixel there, unless all are."""
    known: dict[Any, Any] = {}
    result: list[Resampled | None] = []
    empty = None
    for i, e in enumerate(exposures):
        try:
            one = None if e is None else resample_exposure(
                e, instrument, wide, band=i, seed=seed + i, known=known
            )  # fmt: skip
        except NoPixelsError as error:
            one, empty = None, error
        result.append(one)
    if empty is not None and all(b is None for b in result):
        raise empty
    return result


def _find(bands: Sequence[Resampled | None], instrument: Instrument) -> tuple[Field, list[Sky]]:
    """Sources of all bands together, and each band's sky; the second look knows the first one's sky."""
    there = [b for b in bands if b is not None]
    fwhm = float(np.median([b.fwhm for b in there])) / instrument.pixel_scale
    good = np.logical_or.reduce([b.good for b in there])
    sky = good
    for _ in range(2):
        total, weight = np.zeros(good.shape), np.zeros(good.shape)
        for b in there:
            values = b.image[b.good & sky] if (b.good & sky).sum() > 50 else b.image[b.good]
            if values.size == 0:
                continue
            middle = np.median(values)
            spread = 1.4826 * np.median(np.abs(values - middle)) or 1.0
            total += np.where(b.good, (b.image - middle) / spread, 0.0)
            weight += b.good
        field_now = find_sources(
            total / np.sqrt(np.maximum(weight, 1)), good, fwhm=max(fwhm, instrument.n_pixel / 16)
        )
        if field_now.sky.sum() < 50:
            break
        sky = field_now.sky
    levels = [
        Sky(0.0, np.nan, 0) if b is None else sky_level(np.nan_to_num(b.image), field_now.sky & b.good)
        for b in bands
    ]
    return field_now, levels


def _assemble(
    bands: Sequence[Resampled | None],
    found: Field,
    levels: Sequence[Sky],
    exposures: Sequence[Exposure | None],
    instrument: Instrument,
    wide: Grid,
    *,
    name: str,
    ra: float,
    dec: float,
    zred: float,
    options: IngestOptions,
    seed: int,
    flags: list[Flag],
) -> Stamp:
    n, side = instrument.n_pixel, wide.shape[0]
    first = (side - n) // 2
    part = (slice(first, first + n), slice(first, first + n))
    in_stamp = np.zeros(wide.shape, bool)
    in_stamp[part] = True
    n_band = instrument.n_band
    filters = list(instrument.bands)
    image, observed = np.full((n_band, n, n), np.nan), np.zeros((n_band, n, n), bool)
    noise, fwhm, flux, flux_err, flux_field = (np.full(n_band, np.nan) for _ in range(5))
    looked = [
        None if b is None else _looked(b, sky.level, found) for b, sky in zip(bands, levels, strict=True)
    ]
    aperture = _aperture([v for v in looked if v is not None], found, instrument)
    rng = np.random.default_rng(seed)
    steps: list[dict[str, np.ndarray]] = [{} for _ in range(4)]
    for i, (view, exposure) in enumerate(zip(looked, exposures, strict=True)):
        if view is None or exposure is None:
            continue
        b, band, sky = view.band, instrument.bands[i], levels[i]
        filters[i] = survey_filter(exposure.survey, exposure.band, band)
        if filters[i] != band:
            flags.append(
                Flag(
                    "other_filter",
                    f"the image is of {filters[i]}, {instrument.name} of {band}: its flux is written as that "
                    "of its own filter, but the image model takes it for the other",
                )
            )
        if sky.n_pixel == 0:
            flags.append(Flag("no_sky", f"too little sky to measure it in {band}: that of the file is kept"))
        measured = measured_noise(view.image, found.sky & b.good)
        if measured is None:
            measured = b.noise_before(found.sky & b.good, seed)
        model = _chosen_noise(measured, b.noise, band, flags)
        flux_field[i], area = aperture_flux(view.whole, aperture)
        flux[i], _ = aperture_flux(np.where(in_stamp, view.whole, 0.0), aperture)
        known = np.isfinite(sky.error)
        sky_error = float(sky.error if known else UNKNOWN_SKY * model.sigma) * area
        flux_err[i] = np.hypot(model.sigma * model.sum_factor * np.sqrt(area), sky_error)
        if sky_error > 0.05 * abs(flux[i]):
            flags.append(
                Flag(
                    "sky_uneven",
                    f"the sky is known to {100 * sky_error / abs(flux[i]):.0f} % of the flux in {band}",
                )
            )
        if flux_field[i] > 0 and (part_lost := 1 - flux[i] / flux_field[i]) > 0.05:
            flags.append(
                Flag(
                    "larger_than_stamp",
                    f"{100 * part_lost:.0f} % of the flux in {band} is outside of the stamp",
                    bool(part_lost > 0.2),
                )
            )
        extra, sigma = (
            whitening_noise(model, (n, n), rng) if options.whiten else (np.zeros((n, n)), model.sigma)
        )
        if sigma > 1.3 * model.sigma:
            flags.append(
                Flag(
                    "noise_correlated",
                    f"pixels share noise in {band} (neighbours {model.neighbour:.2f}): making it independent "
                    "raised it "
                    f"by {100 * (sigma / model.sigma - 1):.0f} %",
                    bool(sigma > 2.2 * model.sigma),  # half a pixel's shift doubles it, as measured +- 5 %
                )
            )
        if not options.whiten and model.neighbour > 0.1:
            flags.append(
                Flag(
                    "noise_correlated",
                    f"neighbouring pixels share noise in {band}: {model.neighbour:.2f}",
                    True,
                )
            )
        seen = b.good[part] & (~found.neighbours[part] if options.mask_neighbours else True)
        empty = ~b.reached[part]
        if options.fill and empty.mean() > LEAST_EMPTY:
            lost = light_beyond(view.whole, view.usable, b.reached, found.x, found.y)
            where = f"the image in {band} does not reach {100 * empty.mean():.0f} % of the pixels, and about "
            if lost <= LARGEST_LOST:
                flags.append(Flag("filled", f"{where}{100 * lost:.1f} % of the light: noise is put there"))
                extra = np.where(empty, sigma * rng.standard_normal((n, n)), extra)
                seen = seen | empty
            else:
                flags.append(
                    Flag("cutout_small", f"{where}{100 * lost:.0f} % of the light: give a larger image", True)
                )
        masked = float(1 - seen.mean())
        if masked > LARGEST_HOLE:
            few = masked <= LARGEST_MASKED
            text = (
                f"{100 * masked:.0f} % of the pixels in {band} are masked, at most {100 * LARGEST_HOLE:.0f} "
            )
            flags.append(Flag("masked", f"{text}% in training", not few))
        hole = (found.target & ~b.good)[part].sum() / max(found.target[part].sum(), 1)
        if hole > 0.05:
            flags.append(
                Flag("holes_in_galaxy", f"{100 * hole:.0f} % of the galaxy's pixels in {band} are bad")
            )
        noise[i], fwhm[i] = sigma, b.fwhm
        image[i], observed[i] = np.where(empty, 0.0, view.image[part]) + extra, seen
        for step, picture in zip(
            steps,
            (
                exposure.image,
                b.image,
                np.where(view.usable, view.image, np.nan),
                np.where(seen, image[i], np.nan),
            ),
            strict=True,
        ):
            step[band] = picture
    if (flux[np.isfinite(flux)] <= 0).all():
        raise IngestError(
            f"`image` must show a galaxy: its flux is not positive in any band, {flux.tolist()} maggies."
        )
    if found.n_neighbour and (share := (found.neighbours & in_stamp).sum() / in_stamp.sum()) > 0.1:
        flags.append(Flag("crowded", f"neighbours cover {100 * share:.0f} % of the stamp"))
    flags += domain_flags(instrument, zred=zred, fwhm=fwhm, snr=flux / noise)
    titles = ("as it came", "blurred, resampled", "sky off, neighbours out", "stamp")
    return Stamp(
        name, ra, dec, zred, instrument.bands, image, noise, observed, fwhm, flux, flux_err, flux_field,
        tuple(filters), tuple(flags), tuple(Step(t, s) for t, s in zip(titles, steps, strict=True)),
    )  # fmt: skip


class _Looked(NamedTuple):
    """A band with its sky taken off."""

    band: Resampled
    image: np.ndarray
    """Zero where not good."""
    usable: np.ndarray
    """Good, and no neighbour."""
    whole: np.ndarray
    """Neighbours and holes filled (`filled`)."""


def _looked(band: Resampled, level: float, found: Field) -> _Looked:
    image = np.where(band.good, band.image - level, 0.0)
    usable = band.good & ~found.neighbours
    return _Looked(band, image, usable, filled(image, usable, found.x, found.y))


def _aperture(looked: Sequence[_Looked], found: Field, instrument: Instrument) -> Aperture:
    """Kron aperture of the bands' sum, each in units of its sky noise."""
    total = np.zeros(found.target.shape)
    for view in looked:
        sky = found.sky & view.band.good
        values = view.image[sky] if sky.sum() > 50 else view.image[view.band.good]
        total += view.whole / (1.4826 * float(np.median(np.abs(values - np.median(values)))) or 1.0)
    fwhm = float(np.median([view.band.fwhm for view in looked])) / instrument.pixel_scale
    return kron_aperture(total, found.target, fwhm=fwhm)


def _chosen_noise(
    measured: NoiseModel | None, told: NoiseModel | None, band: str, flags: list[Flag]
) -> NoiseModel:
    """Noise of the sky where there is enough; else what the survey's error image becomes."""
    if measured is None:
        if told is None:
            raise IngestError(
                f"`error` must be given in {band}: less than 400 pixels of the field are sky, too few to "
                "measure "
                "the noise. Or give a larger image."
            )
        flags.append(
            Flag("noise_not_measured", f"too little sky in {band}: noise is that of the error image")
        )
        return told
    if told is None or 0.8 < measured.sigma / told.sigma < 1.25:
        return measured
    text = f"the sky scatters {measured.sigma / told.sigma:.2f} times what the error image says in {band}; "
    # Faint light of galaxies scatters too, but neighbouring pixels alike.
    if measured.sigma > told.sigma and measured.neighbour > told.neighbour + 0.3:
        flags.append(Flag("noise_disagrees", f"{text}it is not empty, and the error image is believed"))
        return told
    flags.append(Flag("noise_disagrees", f"{text}the sky is believed"))
    return measured
