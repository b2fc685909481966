r"""Bayes factors of one galaxy, from the integrals over its pool of points.

All are integrals over the prior inside the box that the image model was trained on; its own integral,
:math:`Z_0`, normalises it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import logsumexp

from hbm.consistency.evidence import PoolDensity, error_of, integrate
from hbm.consistency.pool import Points
from hbm.consistency.report import KINDS


class Odds(NamedTuple):
    """Logarithms of Bayes factors, nats; fields as in `hbm.consistency.report.Check`."""

    same: float
    same_error: float
    corrupted: float
    corrupted_error: float
    kinds: dict[str, float]
    kinds_photometry: dict[str, float]
    bands: Float[np.ndarray, " band"]
    ess: float


def odds_of(pool: PoolDensity, points: Points, observed: Bool[np.ndarray, " band"]) -> Odds:
    """Bayes factors.

    Parameters
    ----------
    pool, points
        Densities, likelihoods.
    observed
        Bands that may be off.
    """
    box = np.where(points.inside, 0.0, -np.inf)
    image = np.asarray(points.image, np.float64)
    fluxes = points.fluxes
    which = np.flatnonzero(observed)
    parts = [fluxes.good, fluxes.shred, fluxes.blend, *(fluxes.band[:, band] for band in which)]
    alone = np.stack([box + np.asarray(part, np.float64) for part in parts])
    log_h = np.concatenate([np.stack([box, box + image]), alone, alone + image])
    found = integrate(pool, log_h)
    rows = np.vstack([found.value, found.blocks])
    nothing, image_alone = rows[:, 0], rows[:, 1]
    n = len(parts)
    flux_alone, both = rows[:, 2 : 2 + n], rows[:, 2 + n :]
    same = both[:, 0] + nothing - image_alone - flux_alone[:, 0]
    with_image = _kinds(both, -same)
    without = _kinds(flux_alone, np.zeros(len(rows)))
    corrupted = logsumexp(with_image, axis=1) - np.log(len(KINDS))
    bands = np.full(len(observed), np.nan)
    bands[which] = both[0, 3:] - both[0, 0]
    return Odds(
        float(same[0]),
        error_of(same[1:]),
        float(corrupted[0]),
        error_of(corrupted[1:]),
        dict(zip(KINDS, with_image[0].tolist(), strict=True)),
        dict(zip(KINDS, without[0].tolist(), strict=True)),
        bands,
        float(found.ess[[1, 2, 2 + n, 2 + n + int(np.argmax(both[0]))]].min()),
    )


def _kinds(
    rows: Float[np.ndarray, "row part"], swap: Float[np.ndarray, " row"]
) -> Float[np.ndarray, "row kind"]:
    """Log odds of each kind against nothing being wrong, of which all bands share one."""
    shred, blend = (rows[:, part] - rows[:, 0] for part in (1, 2))
    band = logsumexp(rows[:, 3:], axis=1) - np.log(max(rows.shape[1] - 3, 1)) - rows[:, 0]
    return np.stack([swap, shred, blend, band], axis=1)
