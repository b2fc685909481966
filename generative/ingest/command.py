"""What ``hbm image`` does: files of one galaxy, or of many, to stamps on disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from generative.ingest import IngestError
from generative.ingest.exposure import Exposure
from generative.ingest.psf import profile_beta
from generative.ingest.readers import read_exposures, read_record
from generative.ingest.stamp import IngestOptions, Stamp, make_stamp, plain_band
from generative.ingest.units import SURVEYS, Survey
from generative.instrument import Instrument

Progress = Callable[[int, int, str], None]

_NOTHING: Mapping[str, float] = MappingProxyType({})


class Galaxy(NamedTuple):
    """A galaxy to make a stamp of."""

    id: str
    zred: float
    ra: float | None
    dec: float | None
    fwhm: Mapping[str, float] = _NOTHING
    """arcsec by band, where the catalogue has the width of point sources (``fwhm_<band>``)."""
    extinction: Mapping[str, float] = _NOTHING
    """Magnitudes by band, of the Milky Way, where the catalogue has them (``A_<band>``)."""


@dataclass(frozen=True)
class Source:
    """How files are read."""

    survey: str | None = None
    zero_point: float | None = None
    fwhm: Mapping[str, float] | None = None
    """arcsec by band; ``""`` for all bands."""
    stars: bool = False
    """Measure widths from stars where they are not given."""
    psf: Mapping[str, Path] | None = None
    """Images of point sources by band; ``""`` for all bands."""
    pixel_scale: float | None = None
    hdu: int | None = None
    extinction: Mapping[str, float] | None = None
    """Magnitudes by band that dust of the Milky Way took: image and noise are brightened by them."""


class Ingested(NamedTuple):
    """Result of `ingest_many`."""

    stamps: list[Stamp]
    rejected: dict[str, str]
    """Galaxies without a stamp, and why."""


def model_instrument(name: str) -> Instrument:
    """Instrument of a name, of a shipped model or of a model's file; torch is loaded for the latter alone.

    Raises
    ------
    ValueError
        If there is none.
    """
    from generative.instrument import INSTRUMENTS

    if name in INSTRUMENTS:
        return INSTRUMENTS[name]
    from generative.release import load

    found = load(name, "cpu").instrument
    if found is None:
        raise ValueError(f"`model` {name!r} is of pictures: it has no instrument. Use --pictures.")
    return found


def read_galaxies(path: Path) -> list[Galaxy]:
    """Galaxies of a table with the columns ``id``, ``zred`` (or ``z``, ``Z``), ``ra`` and ``dec`` (degrees).

    Columns ``fwhm_<band>`` (arcsec) and ``A_<band>`` (the Milky Way's extinction in magnitudes) are read
    where they are there.

    Raises
    ------
    FileNotFoundError, IngestError
        If there is no such file, a column is missing, or identifiers repeat.
    """
    from astropy.table import Table

    if not path.is_file():
        raise FileNotFoundError(f"`catalog` names no file: {path}.")
    table = Table.read(path)
    names = {name.lower(): name for name in table.colnames}
    redshift = next((names[n] for n in ("zred", "z", "redshift") if n in names), None)
    missing = [n for n in ("id", "ra", "dec") if n not in names] + ([] if redshift else ["zred"])
    if missing:
        raise IngestError(
            f"{path} must have the columns id, ra, dec and zred, but lacks {', '.join(missing)}; it has "
            f"{', '.join(table.colnames)}."
        )

    def by_band(row: Any, start: str) -> dict[str, float]:
        found = {
            n[len(start) :]: row[n] for n in table.colnames if n.startswith(start) and len(n) > len(start)
        }
        return {
            plain_band(band): float(value)
            for band, value in found.items()
            if np.issubdtype(np.asarray(value).dtype, np.number)
            and np.ndim(value) == 0
            and not np.ma.is_masked(value)
        }

    galaxies = [
        Galaxy(
            str(row[names["id"]]), float(row[redshift]), float(row[names["ra"]]), float(row[names["dec"]]),
            {band: width for band, width in by_band(row, "fwhm_").items() if 0 < width < np.inf},
            by_band(row, "A_"),
        )
        for row in table
    ]  # fmt: skip
    ids = [galaxy.id for galaxy in galaxies]
    if len(set(ids)) != len(ids):
        raise IngestError(f"{path}: identifiers must differ, but some repeat.")
    return galaxies


def files_of(
    patterns: Sequence[str], galaxy: Galaxy, instrument: Instrument
) -> list[tuple[Path, str | None]]:
    """Files of a galaxy and their bands, from names with ``{id}`` and ``{band}``.

    ``{band}`` stands for each of the instrument's bands (its short name) for which there is a file. A name
    may begin with its band, as in ``g=image.fits``, which overrules the header.

    Raises
    ------
    FileNotFoundError
        If no file is there.
    """
    found: list[tuple[Path, str | None]] = []
    tried = []
    for pattern in patterns:
        named = pattern.replace("{id}", galaxy.id)
        if "{band}" not in named:
            start, _, rest = named.partition("=")
            has_band = bool(rest) and start.replace("-", "").replace("_", "").isalnum()
            found.append((Path(rest), start) if has_band else (Path(named), None))
            continue
        for band in instrument.bands:
            path = Path(named.replace("{band}", plain_band(band)))
            tried.append(str(path))
            if path.is_file():
                found.append((path, plain_band(band)))
    if not found:
        raise FileNotFoundError(
            f"`images` must name files of {galaxy.id}: none of {', '.join(tried[:5])} is there."
        )
    return found


def read_all(
    files: Sequence[tuple[Path, str | None]],
    source: Source,
    instrument: Instrument,
    galaxy: Galaxy | None = None,
) -> list[Exposure]:
    """Exposures of a galaxy's files, with widths of point sources, without the Milky Way's extinction.

    Raises
    ------
    FileNotFoundError, IngestError
        As `read_exposures`; if stars do not tell the width; if a file's filter is not that of an instrument
        of one band.
    """
    import dataclasses

    from generative.ingest.stars import measured_fwhm

    if source.survey is not None and source.survey not in SURVEYS:
        raise IngestError(f"`survey` must be one of {', '.join(SURVEYS)}, got {source.survey!r}.")
    survey: Survey | None = source.survey
    exposures: list[Exposure] = []
    wanted = {plain_band(band) for band in instrument.bands}
    only = plain_band(instrument.bands[0]) if instrument.n_band == 1 else None
    position = None
    if galaxy is not None and galaxy.ra is not None and galaxy.dec is not None:
        position = (galaxy.ra, galaxy.dec)
    for path, band in files:
        read = read_exposures(
            path, survey=survey, band=band, zero_point=source.zero_point, pixel_scale=source.pixel_scale,
            hdu=source.hdu, default_band=only, position=position,
        )  # fmt: skip
        if only is not None and only not in [plain_band(e.band) for e in read]:
            raise IngestError(
                f"`images` must be in {only} for {instrument.name}: the filter of {path} is "
                f"{', '.join(e.band for e in read)}. If its header is wrong, name it {only}={path.name}."
            )
        exposures += [e for e in read if plain_band(e.band) in wanted or len(read) == 1]
    done = []
    for exposure in exposures:
        letter = plain_band(exposure.band)
        psf = _by_band(source.psf, letter)
        fwhm = _by_band(source.fwhm, letter)
        if psf is not None:
            from generative.ingest.readers import read_psf

            exposure = dataclasses.replace(exposure, psf=read_psf(psf))  # noqa: PLW2901
        elif fwhm is not None:
            exposure = dataclasses.replace(exposure, fwhm=float(fwhm))  # noqa: PLW2901
        elif source.stars:
            width = measured_fwhm(exposure, beta=profile_beta(instrument))
            exposure = dataclasses.replace(exposure, fwhm=width)  # noqa: PLW2901
        elif galaxy is not None and letter in galaxy.fwhm:
            exposure = dataclasses.replace(exposure, fwhm=galaxy.fwhm[letter])  # noqa: PLW2901
        done.append(exposure)
    return without_extinction(done, {**(galaxy.extinction if galaxy else {}), **(source.extinction or {})})


def without_extinction(exposures: Sequence[Exposure], extinction: Mapping[str, float]) -> list[Exposure]:
    """Exposures as bright as without dust of the Milky Way: image and error times 10^(0.4 A).

    Parameters
    ----------
    exposures
        As observed.
    extinction
        Magnitudes by short name of the band; none for bands that are not there.

    Raises
    ------
    IngestError
        If a band's extinction is not a number between 0 and 20.
    """
    import dataclasses

    done = []
    for exposure in exposures:
        lost = float(extinction.get(plain_band(exposure.band), 0.0))
        if not 0 <= lost < 20:
            raise IngestError(f"`A_{plain_band(exposure.band)}` must be between 0 and 20 mag, got {lost}.")
        factor = 10 ** (0.4 * lost)
        error = None if exposure.error is None else exposure.error * factor
        done.append(dataclasses.replace(exposure, image=exposure.image * factor, error=error))
    return done


def _checked_redshift(zred: float, instrument: Instrument) -> float:
    """Redshift, if the image model knows it: `hbm compile` takes no other."""
    low, high = instrument.zred
    if not low <= zred <= high:
        raise IngestError(f"`zred`: redshift {zred:.4g}, {instrument.name} was trained on {low} to {high}.")
    return zred


def _by_band(values: Mapping[str, Any] | None, band: str) -> Any:
    return None if not values else values.get(band, values.get(""))


def ingest_many(
    patterns: Sequence[str],
    galaxies: Sequence[Galaxy],
    instrument: Instrument,
    *,
    source: Source,
    options: IngestOptions | None = None,
    seed: int = 0,
    on_bad: str = "skip",
    progress: Progress | None = None,
    each: Callable[[Stamp], None] | None = None,
) -> Ingested:
    """Stamps of many galaxies.

    Parameters
    ----------
    patterns
        Names of files with ``{id}`` and ``{band}``, or of the files of a single galaxy.
    galaxies
        What to make stamps of.
    instrument
        Of the image model.
    source
        How files are read.
    options
        Of `make_stamp`.
    seed
        Of added noise.
    on_bad
        ``"skip"`` goes on after an image that cannot be used, ``"raise"`` does not.
    progress
        Told how many are done.
    each
        Called with each stamp; what it is of is then freed of the pictures of its steps.

    Raises
    ------
    FileNotFoundError, IngestError
        With ``on_bad="raise"``, of the first image that cannot be used.
    """
    import dataclasses

    stamps: list[Stamp] = []
    rejected: dict[str, str] = {}
    for i, galaxy in enumerate(galaxies):
        try:
            files = files_of(patterns, galaxy, instrument)
            zred = _checked_redshift(galaxy.zred, instrument)
            exposures = read_all(files, source, instrument, galaxy)
            stamp = make_stamp(
                exposures, instrument, zred=zred, ra=galaxy.ra, dec=galaxy.dec, name=galaxy.id,
                options=options, seed=seed,
            )  # fmt: skip
            if each is not None:
                each(stamp)
        except (ValueError, FileNotFoundError) as error:  # IngestError, and what libraries raise
            if on_bad == "raise":
                raise
            rejected[galaxy.id] = str(error)
        else:
            stamps.append(dataclasses.replace(stamp, steps=()))
        if progress is not None:
            progress(i + 1, len(galaxies), galaxy.id)
    return Ingested(stamps, rejected)


def ingest_records(
    path: Path,
    instrument: Instrument,
    *,
    source: Source | None = None,
    options: IngestOptions | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    each: Callable[[Stamp], None] | None = None,
) -> Ingested:
    """Stamps of all galaxies of a Multimodal Universe file, which must have redshifts and names.

    Of ``source``, ``pixel_scale``, ``fwhm`` and ``zero_point`` are for records that do not tell, and
    ``extinction`` for all.

    Raises
    ------
    FileNotFoundError, IngestError
        If the file is not there or has no redshifts; if ``source`` says what does not apply.
    """
    import dataclasses

    import h5py

    source = source or Source()
    for option in ("survey", "stars", "psf", "hdu"):
        if getattr(source, option) not in (None, False, {}):
            raise IngestError(
                f"`{option}` does not apply to {path}: HDF5 files say it, or have no place for it."
            )
    if not path.is_file():
        raise FileNotFoundError(f"`images` names no file: {path}.")
    with h5py.File(path, "r") as file:
        redshift = next((name for name in ("zred", "Z", "z") if name in file), None)
        if redshift is None:
            raise IngestError(f"{path} has no redshift: `zred`, `Z` or `z`.")
        zred = np.asarray(file[redshift], float)
        raw = file["object_id"][()] if "object_id" in file else np.arange(len(zred))
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in raw]
    stamps: list[Stamp] = []
    rejected: dict[str, str] = {}
    for row, name in enumerate(names):
        try:
            known = _checked_redshift(float(zred[row]), instrument)
            exposures = [
                e
                if e.fwhm is not None
                else dataclasses.replace(e, fwhm=_by_band(source.fwhm, plain_band(e.band)))
                for e in read_record(
                    path, row, default_scale=source.pixel_scale, zero_point=source.zero_point
                )
            ]
            exposures = without_extinction(exposures, source.extinction or {})
            stamp = make_stamp(exposures, instrument, zred=known, name=name, options=options, seed=seed)
            if each is not None:
                each(stamp)
        except ValueError as error:
            rejected[name] = str(error)
        else:
            stamps.append(dataclasses.replace(stamp, steps=()))
        if progress is not None:
            progress(row + 1, len(names), name)
    return Ingested(stamps, rejected)
