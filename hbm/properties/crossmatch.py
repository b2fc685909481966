"""Which row of a catalogue is which galaxy: by identifier, or by position on the sky."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def match_ids(wanted: Sequence[str], known: Sequence[str]) -> Int[np.ndarray, " wanted"]:
    """Row in ``known`` of each identifier; -1 where there is none.

    Raises
    ------
    ValueError
        If identifiers of ``known`` repeat.
    """
    row = {name: i for i, name in enumerate(known)}
    if len(row) != len(known):
        raise ValueError(
            f"`known` must have different identifiers; {len(known) - len(row)} of {len(known)} repeat."
        )
    return np.asarray([row.get(name, -1) for name in wanted], dtype=int)


def match_positions(
    ra: Float[np.ndarray, " wanted"],
    dec: Float[np.ndarray, " wanted"],
    known_ra: Float[np.ndarray, " known"],
    known_dec: Float[np.ndarray, " known"],
    *,
    radius: float = 1.5,
) -> Int[np.ndarray, " wanted"]:
    """Row of the nearest entry within ``radius`` arcsec; -1 where there is none, or none that is certain.

    A match has to be mutual (nearest from both sides) and alone: where a second entry is within the radius
    too, which one is meant is not known. Positions in degrees; nan matches nothing.

    Raises
    ------
    ValueError
        If the radius is not positive.
    """
    from astropy import units
    from astropy.coordinates import SkyCoord

    if not radius > 0:
        raise ValueError(f"`radius` must be positive (arcsec), got {radius}.")
    result = np.full(len(ra), -1)
    mine = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    theirs = np.flatnonzero(np.isfinite(known_ra) & np.isfinite(known_dec))
    if mine.size == 0 or theirs.size == 0:
        return result
    here = SkyCoord(ra[mine], dec[mine], unit="deg")
    there = SkyCoord(known_ra[theirs], known_dec[theirs], unit="deg")
    nearest, distance, _ = here.match_to_catalog_sky(there)
    back, _, _ = there.match_to_catalog_sky(here)
    limit = radius * units.arcsec
    good = (distance <= limit) & (back[nearest] == np.arange(mine.size))
    if theirs.size > 1:
        _, second, _ = here.match_to_catalog_sky(there, nthneighbor=2)
        good &= second > limit
    result[mine[good]] = theirs[nearest[good]]
    return result
