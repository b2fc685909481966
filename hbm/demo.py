"""The galaxy of ``hbm demo``: a real one, with published fluxes, redshift, mass and star formation rate."""

from importlib import resources
from typing import NamedTuple

import numpy as np
from astropy.table import Table

from hbm.catalog import Catalog


class DemoGalaxy(NamedTuple):
    """A galaxy of the 3D-HST survey in the COSMOS field, and what others found for it."""

    catalog: Catalog
    """Its photometry and spectroscopic redshift: a catalogue of one."""
    logmstar_fast: float
    """log10 of the stellar mass (Msun) by FAST, Chabrier initial mass function."""
    logsfr_fast: float
    """log10 of the star formation rate (Msun/yr) by FAST."""
    av_fast: float
    """Attenuation in V (mag) by FAST."""
    sfr_uvir: float
    """Star formation rate (Msun/yr) from the ultraviolet and 24 micron light."""
    notes: tuple[str, ...]
    """Where the numbers come from and what was left out."""
    references: tuple[str, ...]
    """What to cite."""


def load_demo() -> DemoGalaxy:
    """Read the galaxy of ``hbm demo``, which comes with the package.

    Its table has a row for each band: filter, flux and error in maggies.

    References
    ----------
    Skelton et al. 2014, ApJS 214, 24 (photometry); Momcheva et al. 2016, ApJS 225, 27 (redshift and
    star formation rate).
    """
    with resources.as_file(resources.files("hbm") / "data" / "demo_3dhst_cosmos.ecsv") as path:
        table = Table.read(path, format="ascii.ecsv")
    meta = table.meta
    n_band = len(table)
    catalog = Catalog(
        id=(str(meta["id"]),),
        zred=np.array([float(meta["zred"])]),
        zred_err=np.zeros(1),
        flux=np.asarray(table["flux"], dtype=np.float64)[None],
        flux_err=np.asarray(table["flux_err"], dtype=np.float64)[None],
        observed=np.ones((1, n_band), dtype=bool),
        upper_limit=np.zeros((1, n_band), dtype=bool),
        filter_names=tuple(str(name) for name in table["filter"]),
        meta={"path": "hbm/data/demo_3dhst_cosmos.ecsv", "columns": "demo", "unit": "maggies"},
    )
    return DemoGalaxy(
        catalog=catalog,
        logmstar_fast=float(meta["logmstar_fast"]),
        logsfr_fast=float(meta["logsfr_fast"]),
        av_fast=float(meta["av_fast"]),
        sfr_uvir=float(meta["sfr_uvir"]),
        notes=tuple(meta["notes"]),
        references=tuple(meta["references"]),
    )
