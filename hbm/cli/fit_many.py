"""``hbm fit`` on several workers: progress, and the report of what failed and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from hbm.cli.console import progress_bar, stdout

if TYPE_CHECKING:
    from hbm.catalog import Catalog


def fit_on_workers(catalog: "Catalog", out: Path, summary: str, **settings: Any) -> None:
    """Fit a catalogue by `hbm.fit_many`, write the table of the folder and say how it went.

    Parameters
    ----------
    catalog
        Galaxies.
    out
        Folder.
    summary
        Name of the table in it.
    settings
        Arguments of `hbm.fit_many`.
    """
    from hbm.many import fit_many, load_summary
    from hbm.many.report import FAILURES
    from hbm.results import write_table

    with progress_bar(f"fitting {len(catalog)} galaxies") as progress:
        found = fit_many(catalog, out, progress=progress, **settings)
    console = stdout()
    first, *others = found.lines()
    console.print(f"[bold {'yellow' if found.failures else 'green'}]{escape(first)}[/]")
    for line in others:
        console.print(f"  [yellow]{escape(line)}[/]", soft_wrap=True)
    if found.failures:
        failures = escape(str(out / FAILURES))
        console.print(f"Failures: {failures}. `--resume` tries them again, each by itself.", soft_wrap=True)
    if found.n_fitted + found.n_there:
        table = write_table(load_summary(out), out / summary, overwrite=True)
        console.print(f"Results: {escape(str(out))}  Table: {escape(str(table))}", soft_wrap=True)
