"""``hbm sample``: draw galaxies from an image model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, progress_bar, stdout


def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write, .png.")] = Path("galaxies.png"),
    model: Annotated[
        str, typer.Option("--model", "-m", help="Shipped model by name, or a file.")
    ] = "sdss-griz",
    n: Annotated[int, typer.Option("-n", help="Number of galaxies.", min=1)] = 16,
    logmass: Annotated[float | None, typer.Option(help="log10 stellar mass formed, Msun.")] = None,
    logssfr: Annotated[float | None, typer.Option(help="log10 specific star formation rate, 1/yr.")] = None,
    mwa: Annotated[float | None, typer.Option(help="Mass-weighted age, Gyr.")] = None,
    logzsol: Annotated[float | None, typer.Option(help="log10 stellar metallicity, solar.")] = None,
    dust2: Annotated[float | None, typer.Option(help="Optical depth of the dust at 5500 A.")] = None,
    gas_logu: Annotated[float | None, typer.Option(help="log10 ionization parameter.")] = None,
    zred: Annotated[
        float | None, typer.Option(help="Redshift; the middle of the model's range if not set.")
    ] = None,
    snr: Annotated[
        float | None, typer.Option(help="Total flux over the noise of a pixel, in the deepest band.")
    ] = None,
    vary: Annotated[
        str | None, typer.Option(help="Property to vary along a strip: NAME=LOW:HIGH, e.g. logssfr=-12.5:-9.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Label of a model of your own pictures: NAME=VALUE. May be given several times."),
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="1 draws from the model, more exaggerates what is asked for.")
    ] = 1.0,
    method: Annotated[str, typer.Option(help="heun or ancestral.")] = "heun",
    steps: Annotated[int, typer.Option(help="Noise levels.", min=2)] = 24,
    seed: Annotated[int, typer.Option(help="Of the noise: the same seed draws the same galaxies.")] = 0,
    arrays: Annotated[
        Path | None,
        typer.Option(help="Also write the images as arrays, .npz, in units of the noise of a pixel."),
    ] = None,
    film: Annotated[
        Path | None, typer.Option(help="Also write the denoising of the first galaxy, .gif.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Draw galaxies with the properties you name; the others are left open.

    A massive quiescent galaxy, and a star-forming one:

    `hbm sample --logmass 10.8 --logssfr -12 --out red.png`

    `hbm sample --logmass 10.2 --logssfr -9.3 --dust2 0.3 --out blue.png`

    One property varied with all else and the noise held fixed:

    `hbm sample --logmass 10.5 --vary logssfr=-12.5:-9 -n 8 --out strip.png`
    """
    given = {
        "logmass": logmass, "logssfr": logssfr, "mwa": mwa,
        "logzsol": logzsol, "dust2": dust2, "gas_logu": gas_logu,
    }  # fmt: skip
    properties = {name: value for name, value in given.items() if value is not None}
    with plain_errors():
        properties |= dict(parse_label(text) for text in label or [])
        from generative.commands import SampleRequest, sample_picture, write_arrays, write_film

        request = SampleRequest(
            model, n, properties, zred, snr, None if vary is None else parse_range(vary),
            guidance, method, steps, seed, device,
        )  # fmt: skip
        with progress_bar("drawing") as report:
            drawn = sample_picture(request, out, report)
        stdout().print(f"{n} galaxies in [bold]{escape(str(out))}[/]")
        if arrays is not None:
            write_arrays(drawn, arrays)
            stdout().print(f"arrays in [bold]{escape(str(arrays))}[/]")
        if film is not None:
            write_film(request, film)
            stdout().print(f"film in [bold]{escape(str(film))}[/]")


def parse_label(text: str) -> tuple[str, float]:
    """Name and value of ``NAME=VALUE``.

    Raises
    ------
    ValueError
        If the text is not of that form.
    """
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError as error:
        raise ValueError(f"`--label` must be NAME=VALUE, e.g. smooth=0.9, got {text!r}.") from error


def parse_range(text: str) -> tuple[str, float, float]:
    """Name and limits of ``NAME=LOW:HIGH``.

    Raises
    ------
    ValueError
        If the text is not of that form.
    """
    name, _, rest = text.partition("=")
    low, _, high = rest.partition(":")
    try:
        return name.strip(), float(low), float(high)
    except ValueError as error:
        raise ValueError(f"`--vary` must be NAME=LOW:HIGH, e.g. logssfr=-12.5:-9, got {text!r}.") from error
