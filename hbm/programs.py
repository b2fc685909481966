"""Compiled programs, kept between fits: the second fit of a kind need not compile again."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hbm.catalog_images import CatalogImages
from hbm.config import ModelConfig
from hbm.devices import over_devices
from hbm.ensemble import EnsembleSampler
from hbm.galaxies import galaxy_axes
from hbm.model import GalaxyData, derived_quantities
from hbm.sampler import NutsSampler, SamplerConfig
from hbm.terms import Term

_N_KEPT = 4


class Programs(NamedTuple):
    """What a fit runs for galaxies of one shape."""

    sampler: NutsSampler | EnsembleSampler
    derived: Callable[[dict[str, Any], GalaxyData], dict[str, Any]]
    """Derived quantities of sites with axes (galaxy, chain, draw, ...)."""


_kept: OrderedDict[Any, Programs] = OrderedDict()


def programs(
    config: ModelConfig, sampler: SamplerConfig, example: GalaxyData, method: str, terms: tuple[Term, ...]
) -> Programs:
    """Programs for galaxies shaped like ``example``, those of an earlier fit if it was alike.

    Nothing is kept for terms of the user's, which may change between fits without our knowledge.
    """
    if not all(isinstance(term, CatalogImages) for term in terms):
        return _make(config, sampler, example, method, terms)
    leaves, structure = jax.tree.flatten(example)
    shapes = tuple((np.shape(leaf), np.asarray(leaf).dtype.str) for leaf in leaves)
    key = (config, sampler, method, terms, structure, shapes, jnp.result_type(float))
    if key not in _kept:
        _kept[key] = _make(config, sampler, example, method, terms)
    _kept.move_to_end(key)
    while len(_kept) > _N_KEPT:
        _kept.popitem(last=False)
    return _kept[key]


def _make(
    config: ModelConfig, sampler: SamplerConfig, example: GalaxyData, method: str, terms: tuple[Term, ...]
) -> Programs:
    def derive(sites: dict[str, Any], data: GalaxyData) -> dict[str, Any]:
        def one(site: dict[str, Any], galaxy: GalaxyData) -> dict[str, Any]:
            return derived_quantities(site, galaxy, config)

        by_draw = jax.vmap(jax.vmap(one, in_axes=(0, None)), in_axes=(0, None))
        return jax.vmap(by_draw, in_axes=(0, galaxy_axes(data)))(sites, data)

    derived = over_devices(derive, lambda _sites, data: (0, galaxy_axes(data)), 0)
    if method == "nuts":
        return Programs(NutsSampler(config, sampler, example, terms), derived)
    return Programs(EnsembleSampler(config, sampler, example, method, terms), derived)
