"""What the check takes: fits of photometry alone, and the images of their galaxies."""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from hbm.catalog import Catalog
from hbm.fitting import config_of
from hbm.image import CompiledImages, GalaxyImage
from hbm.results import FitResult
from sed.ssp import SSPGrid


def photometry_of(results: Sequence[FitResult]) -> Catalog:
    """Catalogue of the photometry that was fitted.

    Raises
    ------
    ValueError
        If there are no results, identifiers repeat, images or other likelihoods were used, a redshift was
        free, or settings or bands differ.
    """
    if not results:
        raise ValueError("`results` is empty: there is nothing to check.")
    names = tuple(result.galaxy_id for result in results)
    if len(set(names)) < len(names):
        raise ValueError("`results` must be of different galaxies, but some identifiers repeat.")
    config, bands = config_of(results[0]), [result.bands for result in results]
    for result, band in zip(results, bands, strict=True):
        name, used = result.galaxy_id, result.provenance.model_config.get("use", {"photometry": True})
        if used != {"photometry": True}:
            raise ValueError(
                f"`results` must be fits of photometry alone, but that of {name} used {sorted(used)}. Fit "
                "with `use=('photometry',)`, on the command line `--use photometry`."
            )
        if "zred" in result.components:
            raise ValueError(f"`results` must have exact redshifts, but that of {name} was free.")
        if config_of(result) != config:
            raise ValueError(f"`results` must have one prior and model, but that of {name} has another.")
        if band.filter_names != bands[0].filter_names:
            raise ValueError(f"`results` must have the same bands in one order, but {name} has others.")
    return Catalog(
        id=names,
        zred=np.array([result.zred for result in results]),
        zred_err=np.zeros(len(results)),
        flux=np.stack([np.asarray(band.flux, np.float64) for band in bands]),
        flux_err=np.stack([np.asarray(band.flux_err, np.float64) for band in bands]),
        observed=np.stack([band.observed for band in bands]),
        upper_limit=np.stack([band.upper_limit for band in bands]),
        filter_names=bands[0].filter_names,
    )


def refuse_other_fluxes(catalog: Catalog, results: Sequence[FitResult]) -> None:
    """Refuse fits of other fluxes than a catalogue's: it changed since.

    Raises
    ------
    ValueError
        If the catalogue lacks a galaxy or a band of the results, or a flux or error differs by more than
        rounding.
    """
    row = {name: i for i, name in enumerate(catalog.id)}
    column = {name: i for i, name in enumerate(catalog.filter_names)}
    for result in results:
        name, bands = result.galaxy_id, result.bands
        lost = [band for band in bands.filter_names if band not in column]
        if name not in row or lost:
            what = f"band {lost[0]}" if lost else f"id {name}"
            raise ValueError(f"`catalog` must hold what `results` are of, but has no {what}.")
        place = [column[band] for band in bands.filter_names]
        for ours, theirs in ((bands.flux, catalog.flux), (bands.flux_err, catalog.flux_err)):
            now = np.where(bands.observed, theirs[row[name], place], 0.0)
            if not np.allclose(np.where(bands.observed, ours, 0.0), now, rtol=1e-5, atol=0.0):
                raise ValueError(
                    f"`catalog` must have the fluxes that `results` were fitted to, but those of {name} "
                    "differ. Fit again."
                )


def refuse_another_grid(result: FitResult, grid: SSPGrid) -> None:
    """Refuse another grid of stellar populations than that of a fit, by a ValueError."""
    made = result.provenance.grid
    if made and made != cast("dict[str, Any]", grid.provenance):
        raise ValueError(
            f"`grid` must be the one that {result.galaxy_id} was fitted with, but its provenance differs. "
            "Give that grid, or fit again."
        )


def images_of(images: CompiledImages, names: Sequence[str]) -> CompiledImages:
    """Images of some galaxies; a ValueError if there are none."""
    wanted = set(names)
    keep = np.array([str(name) in wanted for name in images.id], bool)
    if not keep.any():
        raise ValueError(
            f"`images` must be of galaxies of `results`, but none of {len(keep)} is (the images have "
            f"{', '.join(str(name) for name in images.id[:3])}, the results {', '.join(list(names)[:3])}). "
            "Make the identifiers the same."
        )
    arrays = {field: getattr(images, field)[keep] for field in ("id", "error", "zred", "p_typical")}
    data = GalaxyImage(*(np.asarray(leaf)[keep] for leaf in images.data))
    return images._replace(data=data, **arrays)


def only(catalog: Catalog, names: Sequence[str]) -> Catalog:
    """Rows of some galaxies, in the order of the catalogue; without images."""
    wanted = set(names)
    rows = np.array([name in wanted for name in catalog.id])
    return dataclasses.replace(catalog.select(rows), images=None)
