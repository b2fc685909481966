"""Many results as one table, a row per galaxy."""

import datetime
from collections.abc import Iterable, Sequence

import numpy as np
from astropy.table import Column, Table

from hbm.labels import label_of, split_component
from hbm.results.result import FORMAT, FitResult

_QUANTILES = {"q16": 0.16, "q50": 0.50, "q84": 0.84}
_STATISTICS = {
    "q50": "median",
    "mean": "mean",
    "std": "standard deviation",
    "q16": "16 % quantile",
    "q84": "84 % quantile",
}


def summary_table(results: Iterable[FitResult]) -> Table:
    """One row per galaxy: quantiles, mean and scatter of every posterior variable, and the verdict.

    Returns
    -------
    Table
        Columns ``id``, ``zred``, then per variable ``<name>_q50``, ``_mean``, ``_std``, ``_q16``, ``_q84``
        (components of vectors: ``<name>_<i>_q50``; NaN where a galaxy lacks the variable), ``rhat_max``,
        ``rhat_worst``, ``ess_bulk_min``, ``ess_tail_min``, ``n_divergent``, ``converged``, ``flag``.

    Raises
    ------
    ValueError
        If there is no result, or two have the same id.
    """
    rows = list(results)
    if not rows:
        raise ValueError("`results` must hold at least one result, got none.")
    ids = [row.galaxy_id for row in rows]
    repeated = sorted({name for name in ids if ids.count(name) > 1})
    if repeated:
        raise ValueError(
            f"`results` must have one result per galaxy, got several for {', '.join(repeated[:5])}."
        )
    table = Table()
    table["id"] = Column(ids, description="identifier in the catalogue")
    table["zred"] = Column([row.zred for row in rows], description="catalogue redshift")
    for name in dict.fromkeys(name for row in rows for name in row.components):
        _add_statistics(table, name, rows)
    verdicts = [row.convergence for row in rows]
    for name, text in (
        ("rhat_max", "largest rank-normalised split R-hat over parameters"),
        ("rhat_worst", "parameter with the largest R-hat"),
        ("ess_bulk_min", "smallest bulk effective sample size"),
        ("ess_tail_min", "smallest tail effective sample size"),
        ("n_divergent", "divergent transitions after warm-up"),
        ("converged", "all limits on R-hat, effective sample size and divergences are met"),
    ):
        table[name] = Column([getattr(verdict, name) for verdict in verdicts], description=text)
    table["flag"] = Column([row.flag for row in rows], description="ok, or what is wrong, joined by commas")
    table.meta["format"] = FORMAT
    table.meta["versions"] = rows[0].provenance.versions
    table.meta["created"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return table


def _add_statistics(table: Table, name: str, rows: Sequence[FitResult]) -> None:
    """Add the five columns of one posterior component."""
    label = label_of(name)
    base, index = split_component(name)
    values = np.full((len(rows), len(_STATISTICS)), np.nan)
    for i, row in enumerate(rows):
        if name in row.components:
            draws = row.draws(name).ravel()
            quantiles = dict(zip(_QUANTILES, np.quantile(draws, list(_QUANTILES.values())), strict=True))
            moments = {"mean": draws.mean(), "std": draws.std(ddof=1)}
            values[i] = [(quantiles | moments)[key] for key in _STATISTICS]
    stem = "_".join([base, *(str(i) for i in index)])
    for j, (key, text) in enumerate(_STATISTICS.items()):
        # The scatter of a logarithm is in dex, whatever the argument of the logarithm.
        unit = "dex" if key == "std" and label.unit.startswith("dex") else label.unit
        table[f"{stem}_{key}"] = Column(
            values[:, j], unit=unit or None, description=f"{label.description}, {text}"
        )
