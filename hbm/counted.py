"""What counts in a fit: photometry, images, likelihoods of the user's; and what its results keep of that."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from hbm.catalog import Catalog
from hbm.catalog_images import CatalogImages, image_config
from hbm.config import ModelConfig
from hbm.sampler import SamplerConfig
from hbm.terms import Term

USES = ("photometry", "image")
"""What a fit may use."""


def what_counts(
    catalog: Catalog, config: ModelConfig, use: Sequence[str] | None, terms: tuple[Term, ...]
) -> tuple[Catalog, ModelConfig, tuple[Term, ...]]:
    """Catalogue, settings and terms that count in a fit; errors as of `hbm.fitting.fit`."""
    images = catalog.images
    used = tuple(use) if use is not None else USES if images is not None else ("photometry",)
    if isinstance(use, str) or not used or set(used) - set(USES):
        raise ValueError(f"`use` must be some of {USES}, got {use!r}.")
    for position, term in enumerate(terms):
        if not isinstance(term, Term):
            raise TypeError(f"`terms` must be objects as in `hbm.terms`, got {type(term).__name__}.")
        if term.name in {*USES, *(other.name for other in terms[:position])}:
            raise ValueError(f"`terms` must have names of their own, got {term.name!r} again.")
    if images is not None:  # whatever is used: fits of the same galaxies are under the same prior
        config = image_config(config, images.likelihood)
    is_measured = (catalog.observed & ~catalog.upper_limit).any(axis=1)
    if "photometry" not in used:
        blank = np.zeros_like(catalog.observed)
        catalog = dataclasses.replace(catalog, observed=blank, upper_limit=blank)
        is_measured[:] = False
    if "image" in used:
        if images is None:
            raise ValueError("`use` has 'image', but the catalogue has no images: see `hbm.with_images`.")
        is_measured |= np.asarray([name in images for name in catalog.id])
        terms = (images, *terms)
    if not is_measured.all():
        name = catalog.id[int(np.argmin(is_measured))]
        what = " or ".join("a measured flux" if name == "photometry" else "an image" for name in used)
        raise ValueError(
            f"`catalog` must have {what} of every galaxy, but id {name} has none"
            f"{', or upper limits alone' if 'photometry' in used else ''}."
        )
    return catalog, config, terms


def settings_of(
    catalog: Catalog, config: ModelConfig, sampler: SamplerConfig, method: str, terms: tuple[Term, ...]
) -> dict[str, Any]:
    """What a result keeps of how it was made; `use` is left out for photometry alone."""
    settings = {"config": json.loads(config.to_json()), "sampler": sampler._asdict(), "method": method}
    if terms:
        used: dict[str, Any] = {"photometry": bool(catalog.observed.any())}
        for term in terms:
            used[term.name] = term.settings() if isinstance(term, CatalogImages) else type(term).__name__
        settings["use"] = used
    return settings


def fit_settings(
    catalog: Catalog,
    config: ModelConfig,
    sampler: SamplerConfig,
    method: str = "nuts",
    use: Sequence[str] | None = None,
    terms: Sequence[Term] = (),
) -> dict[str, Any]:
    """Settings that results of `hbm.fitting.fit` with these arguments keep; errors as there."""
    counted, config, every = what_counts(catalog, config, use, tuple(terms))
    return settings_of(counted, config, sampler, method, every)
