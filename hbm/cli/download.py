"""``hbm download``: images from archives."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, progress_bar, stdout


def download(
    archive: Annotated[str, typer.Argument(help="sdss, legacy, or hst (CANDELS and other deep fields).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the images.")],
    ra: Annotated[float | None, typer.Option(help="Degrees.")] = None,
    dec: Annotated[float | None, typer.Option(help="Degrees.")] = None,
    name: Annotated[str, typer.Option("--id", help="Identifier of the galaxy.")] = "galaxy",
    catalog: Annotated[Path | None, typer.Option(help="Table of many galaxies: id, ra, dec, zred.")] = None,
    size: Annotated[float | None, typer.Option(help="arcsec along a side: 60, for hst 6.")] = None,
    bands: Annotated[str | None, typer.Option(help="Letters, for sdss and legacy.")] = None,
    layer: Annotated[str | None, typer.Option(help="Of the Legacy Surveys: ls-dr10, ls-dr9, ...")] = None,
    field: Annotated[str | None, typer.Option(help="Deep field of MAST's Zcut.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of what was fetched before: OUT/.cache.")] = None,
    interval: Annotated[float, typer.Option(help="Seconds between requests, at least.", min=0.2)] = 1.0,
    retries: Annotated[int, typer.Option(help="Further tries after a failure.", min=0, max=10)] = 4,
) -> None:
    """Download images of galaxies for `hbm image`.

    `hbm download legacy --ra 146.714 --dec -1.041 --id m1 --out cutouts`

    `hbm download sdss --catalog galaxies.ecsv --out cutouts`

    Nothing is fetched twice: answers are kept with their checksums. OUT/downloaded.ecsv says what came, with
    the width of point sources where the archive knows it.
    """
    with plain_errors():
        from generative.ingest.command import Galaxy, read_galaxies
        from generative.ingest.download.command import download_many, service, write_result
        from generative.ingest.download.transport import Fetcher

        if catalog is not None:
            galaxies = read_galaxies(catalog)
        elif ra is None or dec is None:
            raise ValueError("`ra` and `dec` must be given, or `catalog`.")
        else:
            galaxies = [Galaxy(name, float("nan"), ra, dec)]
        settings: dict[str, object] = {"size": size}
        for option, value, archives in (
            ("bands", bands, ("sdss", "legacy")),
            ("layer", layer, ("legacy",)),
            ("survey", field, ("hst",)),
        ):
            if value is not None and archive not in archives:
                raise ValueError(
                    f"`{'field' if option == 'survey' else option}` is for {', '.join(archives)} alone."
                )
            settings[option] = value
        fetch = service(archive, **settings)
        fetcher = Fetcher(cache or out / ".cache", interval=interval, retries=retries)
        with progress_bar("downloading") as report:
            result = download_many(fetcher, galaxies, out, fetch, report)
        for galaxy, reason in result.missing.items():
            stdout().print(f"[yellow]{escape(galaxy)} is left out:[/] {escape(reason)}", soft_wrap=True)
        if not result.found:
            raise ValueError(f"no image of {len(galaxies)} galaxies could be had.")
        write_result(result, galaxies, out / "downloaded.ecsv")
        stdout().print(
            f"{len(result.found)} galaxies in [bold]{escape(str(out))}[/], {fetcher.n_request} requests"
        )
