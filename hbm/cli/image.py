"""``hbm image``: stamps for an image model from the images of a survey."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, progress_bar, stdout


def image(
    images: Annotated[
        list[str],
        typer.Argument(
            help="FITS files (g=a.fits if headers lack the band); names with {id}, {band}; or HDF5."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="HDF5 file of stamps to write.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Image model by name or file: its bands, pixels and PSF.")
    ] = "sdss-griz",
    zred: Annotated[float | None, typer.Option(help="Redshift of the galaxy.")] = None,
    ra: Annotated[float | None, typer.Option(help="Degrees; without it the middle of the image.")] = None,
    dec: Annotated[float | None, typer.Option(help="Degrees.")] = None,
    name: Annotated[str, typer.Option("--id", help="Identifier of the galaxy.")] = "galaxy",
    catalog: Annotated[Path | None, typer.Option(help="Table of many galaxies: id, ra, dec, zred.")] = None,
    survey: Annotated[
        str | None,
        typer.Option(help="sdss, legacy, panstarrs, des, hsc, hst, jwst or generic; told from the header."),
    ] = None,
    zero_point: Annotated[
        float | None, typer.Option(help="AB magnitude of one unit, instead of the header's.")
    ] = None,
    fwhm: Annotated[
        list[str] | None,
        typer.Option(help="Width of point sources, arcsec: 1.2, or g=1.3 once per band, or stars."),
    ] = None,
    psf: Annotated[
        list[str] | None, typer.Option(help="FITS image of a point source: psf.fits, or g=psf_g.fits.")
    ] = None,
    pixel_scale: Annotated[
        float | None, typer.Option(help="arcsec per pixel, for images without coordinates.")
    ] = None,
    hdu: Annotated[int | None, typer.Option(help="Number of the image's HDU, of several.")] = None,
    extinction: Annotated[
        list[str] | None,
        typer.Option(help="Milky Way's, magnitudes: g=0.31,r=0.21; or columns A_g, A_r of the catalogue."),
    ] = None,
    show: Annotated[
        Path | None, typer.Option(help="Figure of each step; a folder for many galaxies.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for gri colour pictures, for models of pictures.")
    ] = None,
    whiten: Annotated[bool, typer.Option(help="Make the pixels' noise independent.")] = True,
    mask: Annotated[bool, typer.Option(help="Mask neighbours.")] = True,
    recentre: Annotated[bool, typer.Option(help="Move to the middle of the galaxy's light.")] = True,
    seed: Annotated[int, typer.Option(help="Of added noise.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if there is one.")] = False,
) -> None:
    """Make stamps for an image model from survey images.

    Units, pixels, PSF, neighbours, sky, noise and fluxes are brought to what the model takes; an image that
    it does not cover is refused or flagged, with numbers. Beside the stamps a table of fluxes and flags is
    written.

    Surveys' images are dimmed by dust of the Milky Way, which the models do not know: give `--extinction`, or
    columns A_BAND in the catalogue. Columns fwhm_BAND of it are used without `--fwhm`.

    `hbm image g.fits r.fits i.fits z.fits --zred 0.11 --fwhm stars --out stamps.h5 --show steps.png`

    `hbm image "cutouts/{id}_{band}.fits" --catalog galaxies.ecsv --fwhm 1.3 --out stamps.h5`

    Then `hbm compile stamps.h5 --model sdss-griz --out stamps.stats.h5`.
    """
    with plain_errors():
        from generative.ingest.command import (
            Galaxy,
            Source,
            ingest_many,
            ingest_records,
            model_instrument,
            read_galaxies,
        )
        from generative.ingest.stamp import IngestOptions, Stamp, plain_band
        from generative.ingest.store import write_flux_table, write_stamps, write_whole

        if out.exists() and not overwrite:
            raise FileExistsError(f"{out} is there: use --overwrite, or choose another --out.")
        instrument = model_instrument(model)
        widths = _by_band(fwhm, "fwhm")
        stars = widths.pop("", None) == "stars" if widths.get("") == "stars" else False
        source = Source(
            survey=survey, zero_point=zero_point, stars=stars, pixel_scale=pixel_scale,
            fwhm={band: _number(value) for band, value in widths.items()},
            psf={band: Path(value) for band, value in _by_band(psf, "psf").items()}, hdu=hdu,
            extinction=_magnitudes(extinction, [plain_band(band) for band in instrument.bands]),
        )  # fmt: skip
        options = IngestOptions(recentre=recentre, whiten=whiten, mask_neighbours=mask)
        many = catalog is not None or images[0].endswith((".h5", ".hdf5"))

        def each(stamp: Stamp) -> None:
            if show is not None:
                import io

                from generative.ingest.show import stamp_figure

                content = io.BytesIO()
                path = show / f"{stamp.id}.png" if many else show
                stamp_figure(stamp).savefig(content, dpi=110, format=path.suffix[1:] or "png")
                write_whole(path, content.getvalue())
            if pictures is not None:
                from generative.ingest.colour import colour_picture, png_bytes

                write_whole(pictures / f"{stamp.id}.png", png_bytes(colour_picture(stamp)))

        with progress_bar("images") as report:
            if images[0].endswith((".h5", ".hdf5")):
                given: dict[str, object] = {"--catalog": catalog, "--zred": zred, "--ra": ra, "--dec": dec}
                given["--id"] = None if name == "galaxy" else name
                given["further files"] = images[1:] or None
                if wrong := [option for option, value in given.items() if value is not None]:
                    raise ValueError(f"{', '.join(wrong)} must not be given with an HDF5 file of images.")
                done = ingest_records(
                    Path(images[0]), instrument, source=source, options=options, seed=seed, progress=report,
                    each=each,
                )  # fmt: skip
            elif catalog is not None:
                done = ingest_many(
                    images, read_galaxies(catalog), instrument, source=source, options=options, seed=seed,
                    progress=report, each=each,
                )  # fmt: skip
            else:
                if zred is None:
                    raise ValueError(
                        "`zred` must be given: image models are conditional on redshift. Use --zred."
                    )
                one = Galaxy(name, zred, ra, dec)
                done = ingest_many(
                    images, [one], instrument, source=source, options=options, seed=seed, on_bad="raise",
                    progress=report, each=each,
                )  # fmt: skip
        for galaxy, reason in done.rejected.items():
            stdout().print(f"[yellow]{escape(galaxy)} is left out:[/] {escape(reason)}", soft_wrap=True)
        if not done.stamps:
            raise ValueError(f"none of {len(done.rejected)} galaxies has a usable image.")
        write_stamps(done.stamps, instrument, out)
        table = out.with_suffix(".fluxes.ecsv")
        write_flux_table(done.stamps, table, done.rejected)
        for stamp in done.stamps:
            for flag in stamp.flags:
                colour = "red" if flag.outside else "yellow"
                stdout().print(
                    f"{escape(stamp.id)}: [{colour}]{flag.name}[/] {escape(flag.text)}", soft_wrap=True
                )
        outside = sum(stamp.outside for stamp in done.stamps)
        stdout().print(
            f"{len(done.stamps)} galaxies in [bold]{escape(str(out))}[/], fluxes in {escape(str(table))}"
        )
        if outside:
            stdout().print(
                f"[red]{outside} of them are unlike what {instrument.name} was trained on (red):[/] do not "
                "trust what the "
                "image says of them."
            )


def _by_band(values: list[str] | None, option: str) -> dict[str, str]:
    """``g=1.2`` to band and value; a value alone is for all bands, under an empty name."""
    result: dict[str, str] = {}
    for text in values or []:
        band, _, value = text.rpartition("=")
        if band in result:
            raise ValueError(f"`{option}` must be given once per band, got {text!r} too.")
        result[band] = value
    return result


def _magnitudes(values: list[str] | None, bands: list[str]) -> dict[str, float]:
    """``g=0.31,r=0.21``, once or several times."""
    result: dict[str, float] = {}
    for text in (part for value in values or [] for part in value.split(",")):
        band, _, number = text.strip().partition("=")
        try:
            result[band] = float(number)
        except ValueError:
            band = ""
        if band not in bands:
            raise ValueError(
                f"`extinction` must be BAND=magnitudes with bands of {', '.join(bands)}, got {text!r}."
            )
    return result


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(
            f"`fwhm` must be a number of arcsec, 'stars', or BAND=number, got {text!r}."
        ) from error
