"""The table of a check: one row per galaxy, the most suspicious first."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.table import Table

from hbm.consistency.report import KINDS, PRIOR_BAD, Check

DESCRIPTIONS = {
    "id": "identifier",
    "verdict": "in words",
    "probability_bad": "probability that the photometry is corrupted",
    "kind": "most probable error",
    "band": "band that most probably is off, were one",
    "log_corrupted": "ln odds of corrupted photometry against none, kinds and both sides weighing the same",
    "log_corrupted_error": "its Monte Carlo error",
    "log_bayes_same": "ln Bayes factor, image and photometry of one galaxy against of two",
    "log_bayes_same_error": "its Monte Carlo error",
    **{f"log_{kind}": f"ln odds of a {kind} against no error" for kind in KINDS},
    "log_photometry": "as log_corrupted, by photometry alone",
    "p_photometry": "p-value of the fluxes, predicted by the image",
    "p_image": "p-value of the image among simulations (domain check)",
    "p_band": "smallest p-value of a band, for as many bands as there are",
    "chi2": "smallest chi-square of the fluxes",
    "n_band": "bands in it",
    "ess": "effective number of points",
    "n_point": "points that were drawn",
    "flag": "ok, or what is wrong with the check or its data",
}
"""Columns and what they are."""


def row_of(found: Check, prior_bad: float = PRIOR_BAD) -> dict[str, Any]:
    """One row of the table.

    Parameters
    ----------
    found
        From `hbm.check`.
    prior_bad
        Part of the catalogue whose photometry is corrupted, before the data.
    """
    n_p = int(np.isfinite(found.p_band).sum())
    smallest = float(np.nanmin(found.p_band)) if n_p else float("nan")
    without = np.array([found.log_kind_photometry[kind] for kind in KINDS])
    return {
        "id": found.galaxy_id,
        "verdict": found.verdict(prior_bad),
        "probability_bad": found.probability_bad(prior_bad),
        "kind": found.kind,
        "band": found.worst_band,
        "log_corrupted": found.log_corrupted,
        "log_corrupted_error": found.log_corrupted_error,
        "log_bayes_same": found.log_bayes_same,
        "log_bayes_same_error": found.log_bayes_same_error,
        **{f"log_{kind}": found.log_kind[kind] for kind in KINDS},
        "log_photometry": float(np.logaddexp.reduce(without) - np.log(len(KINDS))),
        "p_photometry": found.p_photometry,
        "p_image": found.p_image,
        "p_band": float(-np.expm1(n_p * np.log1p(-min(smallest, 1 - 1e-12)))) if n_p else smallest,
        "chi2": found.chi2,
        "n_band": found.n_band,
        "ess": found.ess,
        "n_point": found.n_point,
        "flag": found.flag,
    }


def check_table(rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any] | None = None) -> Table:
    """Table of rows (`row_of`): images that the model does not know first, then by falling odds.

    Parameters
    ----------
    rows
        Of all galaxies.
    meta
        Settings to keep with the table.

    Raises
    ------
    ValueError
        If there is no row.
    """
    if not rows:
        raise ValueError("`rows` is empty: there is nothing to put in a table.")

    def suspicion(row: Mapping[str, Any]) -> tuple[bool, float]:
        odds = float(row["log_corrupted"])
        return "image_untypical" in str(row["flag"]), odds if np.isfinite(odds) else -np.inf

    ordered = sorted(rows, key=suspicion, reverse=True)
    table = Table({name: [row[name] for row in ordered] for name in DESCRIPTIONS})
    for name, text in DESCRIPTIONS.items():
        table[name].info.description = text
        if table[name].dtype.kind == "f":
            table[name].info.format = ".4g"
    table.meta.update(meta or {})
    return table
