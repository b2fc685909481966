"""Galaxies with photometry and images of the same properties, and nothing else in common.

The image half is `generative.mock`, imported when a function is called: that needs the extra `torch`.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from hbm.calibration.faults import Faults
from hbm.catalog import Catalog
from hbm.galaxies import DataBuilder
from hbm.sbc import prior_flux, simulate

DEPTH = 20.0
"""Median flux of the prior over its error, in each band and at each redshift."""

N_REDSHIFT = 4
"""Different redshifts: photometry is compiled once for each."""


class Mock(NamedTuple):
    """Simulated survey."""

    catalog: Catalog
    """Photometry."""
    stamps: Any
    """Images, in the order of the catalogue: `generative.stamps.Stamps`."""
    truth: dict[str, np.ndarray]
    """Parameters and derived quantities, by galaxy."""
    outside: float
    """Part of the prior draws that were left out: of other ages than the image model was trained on."""


def mock_survey(
    builder: DataBuilder,
    model: Any,
    n: int,
    seed: int,
    faults: Faults | None = None,
    *,
    depth: float = DEPTH,
    galaxies: DataBuilder | None = None,
) -> Mock:
    """Galaxies from the interim prior, with the redshifts and conditions of the image model's training.

    Errors of the fluxes depend on band and redshift alone, conditions of the images on nothing. The same seed
    gives the same galaxies, whatever the faults, apart from a wrong prior.

    Parameters
    ----------
    builder
        Its configuration, cut to the image model's domain (`hbm.catalog_images.image_config`), is the prior.
    model
        `generative.checkpoint.Model` of an instrument.
    n
        Galaxies.
    seed
        Of everything.
    faults
        What the model is told wrongly.
    depth
        Median flux of the prior over its error.
    galaxies
        Its configuration is the prior that galaxies are drawn from, if that is another
        (`Faults.of_galaxies`). The survey's errors do not change with it.

    Raises
    ------
    ValueError
        If the model is of no instrument, or too much of the prior is outside of what it was trained on.
    """
    from generative.conditions import THETA
    from generative.mock import ImageFaults, ImageMock, trained_ages

    faults = Faults() if faults is None else faults
    camera = ImageMock(model)
    rng = np.random.default_rng(seed)
    n_drawn = n + max(8, n // 20)
    index = rng.choice(np.linspace(0, len(camera.zred) - 1, N_REDSHIFT).astype(int), n_drawn)
    zred = camera.zred[index]
    error = np.empty((n_drawn, len(builder.filters)))
    for value in np.unique(zred):
        error[zred == value] = prior_flux(builder, float(value)) / depth
    drawn = simulate(builder if galaxies is None else galaxies, zred, faults.depth * error, seed=seed)
    inside = trained_ages(drawn.truth["mwa"], drawn.truth["logssfr"], zred)
    rows = np.flatnonzero(inside)[:n]
    if len(rows) < n:
        raise ValueError("too many galaxies of the prior are outside of what the image model was trained on.")
    catalog = drawn.catalog.select(rows)
    catalog = dataclasses.replace(catalog, flux_err=catalog.flux_err / faults.depth)
    if faults.zred:
        told = wrong_redshifts(np.asarray(catalog.zred), faults.zred, model.instrument.zred, seed)
        catalog = dataclasses.replace(catalog, zred=told)
    stamps = camera.observe(
        catalog.id,
        np.stack([drawn.truth[name][rows] for name in THETA], axis=1),
        index[rows],
        seed,
        told_zred=np.asarray(catalog.zred) if faults.zred else None,
        faults=ImageFaults(faults.psf, faults.depth, faults.mask, faults.bad_pixels),
    )
    truth = {name: value[rows] for name, value in drawn.truth.items()}
    return Mock(catalog, stamps, truth, float(1 - inside.mean()))


def wrong_redshifts(
    zred: Float[np.ndarray, " galaxy"], size: float, within: tuple[float, float], seed: int
) -> Float[np.ndarray, " galaxy"]:
    """Redshifts that are off by ``size`` (1 + z), up or down by chance, and inward at the ends of a range."""
    sign = np.random.default_rng((seed, 2)).choice([-1.0, 1.0], len(zred))
    shift = size * (1 + zred)
    sign = np.where(zred + shift > within[1], -1.0, np.where(zred - shift < within[0], 1.0, sign))
    return np.asarray(zred + sign * shift)
