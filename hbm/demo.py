"""The galaxies of ``hbm demo``: a simulated one with an image, and a real one with published properties."""

from importlib import resources
from typing import NamedTuple

import numpy as np
from astropy.table import Table
from jaxtyping import Float

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
    """Read the galaxy of ``hbm demo --real``, which comes with the package.

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


class JointDemo(NamedTuple):
    """A simulated galaxy with photometry and an image of the same properties."""

    catalog: Catalog
    """Two rows of the same photometry: ``photometry`` alone, and ``both`` with the image."""
    truth: dict[str, float]
    """Properties that both were made with."""
    picture: Float[np.ndarray, "height width 3"]
    """The image in colours, on the scale (0, 1)."""
    note: str
    """How the galaxy was made and chosen."""


def load_joint_demo() -> JointDemo:
    """Read the simulated galaxy of ``hbm demo``, which comes with the package.

    Its file is one of image statistics (`generative.summaries`) with the photometry, the picture and the
    truth added, by ``python -m benchmarks.demo_galaxy``.
    """
    import h5py

    from hbm.catalog_images import with_images
    from hbm.image import load_image_likelihood, model_of, read_compiled_images

    with resources.as_file(resources.files("hbm") / "data" / "demo_joint.h5") as path:
        likelihood = load_image_likelihood(model_of(path))
        images = read_compiled_images(path, likelihood)
        with h5py.File(path) as file:
            demo = file["demo"]
            flux, error = (np.asarray(demo[name], np.float64) for name in ("flux", "flux_err"))
            filters = tuple(name.decode() for name in demo["filter"])
            truth = {str(name): float(value) for name, value in demo["truth"].attrs.items()}
            picture, note = np.asarray(demo["picture"], np.float64) / 255, str(demo.attrs["note"])
    shape = (2, len(filters))
    catalog = Catalog(
        id=("photometry", "both"),
        zred=np.full(2, float(images.zred[0])),
        zred_err=np.zeros(2),
        flux=np.broadcast_to(flux, shape).copy(),
        flux_err=np.broadcast_to(error, shape).copy(),
        observed=np.ones(shape, bool),
        upper_limit=np.zeros(shape, bool),
        filter_names=filters,
        meta={"path": "hbm/data/demo_joint.h5", "columns": "demo", "unit": "maggies"},
    )
    return JointDemo(
        with_images(catalog, images._replace(id=np.asarray(["both"])), likelihood), truth, picture, note
    )
