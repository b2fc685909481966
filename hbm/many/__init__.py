"""Thousands of galaxies: batches of a catalogue on the workers of a Dask cluster.

`plan` says which galaxies go together and what becomes of a batch that fails, without disks or Dask; `parts`
is the disk; `work` is what a worker does; `cluster` is the only file that talks to Dask, imported when it is
needed; `progress` and `report` tell how it goes and went; `run` puts them together.
"""

from typing import TYPE_CHECKING, Any

from hbm.many.plan import Failure as Failure
from hbm.many.report import ManyFits as ManyFits
from hbm.many.report import load_summary as load_summary

if TYPE_CHECKING:
    from hbm.many.run import fit_many as fit_many


def __getattr__(name: str) -> Any:
    """Import `fit_many` when it is first used (PEP 562): workers need not."""
    if name != "fit_many":
        raise AttributeError(f"module 'hbm.many' has no attribute {name!r}")
    from hbm.many.run import fit_many

    globals()[name] = fit_many
    return fit_many
