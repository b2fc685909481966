"""Hierarchical Bayesian models of galaxies.

Catalogues, NumPyro models, inference, convergence checks, results and plots, and the command line program
``hbm``. Imports `sed`, and never torch. The names below are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hbm.catalog import Catalog as Catalog
    from hbm.catalog import read_catalog as read_catalog
    from hbm.catalog_images import CatalogImages as CatalogImages
    from hbm.catalog_images import image_config as image_config
    from hbm.catalog_images import with_images as with_images
    from hbm.config import InterimPrior as InterimPrior
    from hbm.config import ModelConfig as ModelConfig
    from hbm.consistency import check as check
    from hbm.convergence import ConvergenceRule as ConvergenceRule
    from hbm.fitting import fit as fit
    from hbm.galaxy import Galaxy as Galaxy
    from hbm.many import fit_many as fit_many
    from hbm.redshifts import ZredPrior as ZredPrior
    from hbm.redshifts import photoz as photoz
    from hbm.redshifts import photoz_table as photoz_table
    from hbm.redshifts import redshift_summary as redshift_summary
    from hbm.results import FitResult as FitResult
    from hbm.results import load_result as load_result
    from hbm.results import save_result as save_result
    from hbm.results import summary_table as summary_table
    from hbm.results import write_table as write_table
    from hbm.sampler import SamplerConfig as SamplerConfig
    from hbm.spectra import posterior_spectrum as posterior_spectrum
    from hbm.terms import GalaxyState as GalaxyState
    from hbm.terms import Term as Term

_HOME = {
    "Catalog": "hbm.catalog",
    "read_catalog": "hbm.catalog",
    "CatalogImages": "hbm.catalog_images",
    "image_config": "hbm.catalog_images",
    "with_images": "hbm.catalog_images",
    "InterimPrior": "hbm.config",
    "ModelConfig": "hbm.config",
    "check": "hbm.consistency",
    "ConvergenceRule": "hbm.convergence",
    "fit": "hbm.fitting",
    "Galaxy": "hbm.galaxy",
    "fit_many": "hbm.many",
    "ZredPrior": "hbm.redshifts",
    "photoz": "hbm.redshifts",
    "photoz_table": "hbm.redshifts",
    "redshift_summary": "hbm.redshifts",
    "FitResult": "hbm.results",
    "load_result": "hbm.results",
    "save_result": "hbm.results",
    "summary_table": "hbm.results",
    "write_table": "hbm.results",
    "SamplerConfig": "hbm.sampler",
    "posterior_spectrum": "hbm.spectra",
    "GalaxyState": "hbm.terms",
    "Term": "hbm.terms",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'hbm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names."""
    return sorted(_HOME)
