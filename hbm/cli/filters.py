"""``hbm filters``: which filters there are."""

from typing import Annotated

import typer

from hbm.cli.console import plain_errors, stdout


def filters(
    pattern: Annotated[
        str,
        typer.Argument(
            help="Part of a name, or a pattern with \\* and ?; upper and lower case are the same."
        ),
    ] = "*",
) -> None:
    """List the filters that a catalogue may name, from blue to red.

    These are the filters of sedpy. Any other curve can be used too: give the path of a VOTable from the SVO
    Filter Profile Service, or of two columns of text (wavelength in Angstrom, signal per photon).

    **Examples**

    `hbm filters`

    `hbm filters sdss`

    `hbm filters "subaru*ia*"`
    """
    with plain_errors():
        from rich.table import Table

        from sed.filters import load_filters

        chosen = sorted(load_filters(_matching(pattern)).filters, key=lambda curve: curve.wave_pivot)
        table = Table(title=f"{len(chosen)} filters", title_justify="left")
        table.add_column("name", no_wrap=True)
        for heading in ("pivot [Å]", "from [Å]", "to [Å]"):
            table.add_column(heading, justify="right", no_wrap=True)
        for curve in chosen:
            numbers = (curve.wave_pivot, curve.wave_min, curve.wave_max)
            table.add_row(curve.name, *(f"{number:.0f}" for number in numbers))
        stdout().print(table)


def _matching(pattern: str) -> list[str]:
    """Names that match, or ValueError with close ones."""
    import fnmatch

    from hbm.columns import suggest
    from sed.filters import available_filters

    text = pattern.lower()
    wild = text if any(sign in text for sign in "*?[") else f"*{text}*"
    names = [name for name in available_filters() if fnmatch.fnmatchcase(name.lower(), wild)]
    if not names:
        raise ValueError(
            f"`pattern` must match the name of a filter, got {pattern!r}."
            f"{suggest(text, available_filters())} `hbm filters` lists all."
        )
    return names
