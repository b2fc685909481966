"""What ``hbm download`` does: images of one galaxy or many, and a table of what came."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from generative.ingest.command import Galaxy, Progress
from generative.ingest.download import DownloadError
from generative.ingest.download.services import Downloaded, fetch_legacy, fetch_sdss, fetch_zcut
from generative.ingest.download.transport import Fetcher
from generative.ingest.store import write_whole

ARCHIVES = ("sdss", "legacy", "hst")


class Result(NamedTuple):
    """Of `download_many`."""

    found: dict[str, Downloaded]
    missing: dict[str, str]
    """Galaxies without an image, and why."""


def service(archive: str, **settings: Any) -> Callable[[Fetcher, str, float, float, Path], Downloaded]:
    """Function that fetches a galaxy's images from an archive; settings that are None are its defaults.

    Raises
    ------
    ValueError
        If there is no such archive.
    """
    functions: dict[str, Callable[..., Downloaded]] = {
        "sdss": fetch_sdss,
        "legacy": fetch_legacy,
        "hst": fetch_zcut,
    }
    if archive not in functions:
        raise ValueError(f"`archive` must be one of {', '.join(ARCHIVES)}, got {archive!r}.")
    given = {name: value for name, value in settings.items() if value is not None}

    def fetch(fetcher: Fetcher, name: str, ra: float, dec: float, folder: Path) -> Downloaded:
        return functions[archive](fetcher, name, ra, dec, folder, **given)

    return fetch


def download_many(
    fetcher: Fetcher,
    galaxies: Sequence[Galaxy],
    folder: Path,
    fetch: Callable[[Fetcher, str, float, float, Path], Downloaded],
    progress: Progress | None = None,
) -> Result:
    """Images of galaxies; those an archive does not have are left out, with the reason.

    So are those whose position makes no sense.

    Raises
    ------
    ValueError
        If a galaxy has no position.
    """
    found: dict[str, Downloaded] = {}
    missing: dict[str, str] = {}
    places = []
    for galaxy in galaxies:
        if galaxy.ra is None or galaxy.dec is None:
            raise ValueError(f"`ra` and `dec` must be given for {galaxy.id}.")
        places.append((galaxy.ra, galaxy.dec))
    for i, (galaxy, (ra, dec)) in enumerate(zip(galaxies, places, strict=True)):
        try:
            found[galaxy.id] = fetch(fetcher, galaxy.id, ra, dec, folder)
        except (DownloadError, ValueError) as error:
            missing[galaxy.id] = str(error)
        if progress is not None:
            progress(i + 1, len(galaxies), galaxy.id)
    return Result(found, missing)


def write_result(result: Result, galaxies: Sequence[Galaxy], path: Path) -> None:
    """Table of what came, ECSV: ``id``, ``ra``, ``dec``, ``zred``, ``fwhm_<band>``, ``files``.

    What did not come is in its ``meta["missing"]``.
    """
    from astropy.table import Table

    there = [galaxy for galaxy in galaxies if galaxy.id in result.found]
    table = Table(
        {
            "id": [g.id for g in there],
            "ra": [float(g.ra or 0.0) for g in there],
            "dec": [float(g.dec or 0.0) for g in there],
            "zred": [_redshift(g, result.found[g.id]) for g in there],
        }
    )
    bands = list(dict.fromkeys(band for d in result.found.values() for band in d.fwhm))
    for band in bands:
        table[f"fwhm_{band}"] = [result.found[g.id].fwhm.get(band, float("nan")) for g in there]
    table["files"] = [" ".join(str(p.name) for p in result.found[g.id].files.values()) for g in there]
    table.meta["missing"] = dict(result.missing)
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    write_whole(path, text.getvalue().encode())


def _redshift(galaxy: Galaxy, found: Downloaded) -> float:
    """Redshift of the catalogue, or the archive's."""
    known = galaxy.zred == galaxy.zred  # not nan
    return galaxy.zred if known else float(found.notes.get("z", "nan"))
