"""Galaxies described one by one (`hbm.Galaxy`) to a catalogue."""

import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from hbm.catalog import Catalog
from hbm.catalog_images import with_images
from hbm.galaxy import Galaxy

if TYPE_CHECKING:
    from hbm.image import CompiledImages, ImageLikelihood

_ANY_BAND = "sdss_r0"
"""A catalogue needs a band, also where no flux was measured."""


def catalog_of(
    galaxies: Sequence[object],
    image_model: "ImageLikelihood | str | Path | None" = None,
    *,
    insist: bool = False,
) -> Catalog:
    """Catalogue of galaxies, which may have been observed in different bands.

    Parameters
    ----------
    galaxies
        The galaxies. Its bands are all of theirs, in the order in which they come.
    image_model
        Of the images, if there are any: name of a shipped model or checkpoint; a likelihood that was loaded
        will do if all images are statistics.
    insist
        Use a likelihood that is not calibrated, or is overconfident.

    Raises
    ------
    TypeError
        If something is no galaxy.
    ValueError
        If there is none, identifiers repeat, a flux has no positive error, images lack their model, or the
        bands of an image are not the model's.
    ImageError
        As `hbm.with_images`.
    """
    every: list[Galaxy] = []
    for galaxy in galaxies:
        if not isinstance(galaxy, Galaxy):
            raise TypeError(f"`galaxies` must be hbm.Galaxy objects, got {type(galaxy).__name__}.")
        every.append(galaxy)
    if not every:
        raise ValueError("`galaxies` must hold at least one galaxy, got none.")
    bands = tuple(dict.fromkeys(name for galaxy in every for name in galaxy.filter_names)) or (_ANY_BAND,)
    shape = (len(every), len(bands))
    flux, flux_err, limit = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, bool)
    for row, galaxy in enumerate(every):
        if not len(galaxy.filter_names):
            continue
        at = [bands.index(name) for name in galaxy.filter_names]
        flux[row, at] = np.asarray(galaxy.flux, np.float64)
        flux_err[row, at] = np.asarray(galaxy.flux_err, np.float64)
        if galaxy.upper_limit is not None:
            limit[row, at] = np.asarray(galaxy.upper_limit, bool)
    catalog = Catalog(
        id=tuple(galaxy.id for galaxy in every),
        zred=np.array([galaxy.zred for galaxy in every], np.float64),
        zred_err=np.array([galaxy.zred_err for galaxy in every], np.float64),
        flux=flux,
        flux_err=flux_err,
        observed=~(np.isnan(flux) & np.isnan(flux_err)),
        upper_limit=limit,
        filter_names=bands,
    )
    pictured = [galaxy for galaxy in every if galaxy.image is not None]
    if not pictured:
        return catalog
    if image_model is None:
        raise ValueError(
            f"`image_model` must be given for images, such as that of {pictured[0].id!r}: the name of a "
            "shipped model (sdss-griz) or a checkpoint."
        )
    return _with_images(catalog, pictured, image_model, insist=insist)


def _with_images(
    catalog: Catalog, galaxies: Sequence[Galaxy], image_model: "ImageLikelihood | str | Path", *, insist: bool
) -> Catalog:
    from hbm.image import CompiledImages, ImageLikelihood, load_image_likelihood

    if isinstance(image_model, ImageLikelihood):
        likelihood, name = image_model, None
    else:
        likelihood, name = load_image_likelihood(image_model), image_model
    parts: list[CompiledImages] = []
    for galaxy in galaxies:
        if isinstance(galaxy.image, CompiledImages):
            parts.append(galaxy.image)
        elif name is None:
            raise ValueError(
                "`image_model` must be a name or a file where images come as pixels, got a likelihood."
            )
        else:
            parts.append(_compiled(galaxy, name, likelihood))
    one_model = len({part.hash for part in parts}) == 1
    if not one_model or len({leaf.shape[1:] for part in parts for leaf in part.data[:1]}) != 1:
        raise ValueError("`image` must be statistics of one image model for all galaxies.")
    arrays = [(part.id, part.data, part.error, part.zred, part.p_typical) for part in parts]
    names, data, error, zred, p = jax.tree.map(lambda *leaves: np.concatenate(leaves), *arrays)
    joined = CompiledImages(names, data, error, zred, p, parts[0].hash)
    return with_images(catalog, joined, likelihood, insist=insist)


def _compiled(galaxy: Galaxy, name: str | Path, likelihood: "ImageLikelihood") -> "CompiledImages":
    """Statistics of pixels; the one place here that loads torch."""
    from generative.release import load, model_path
    from generative.stamps import Stamps
    from generative.summaries import compile_file
    from hbm.image import read_compiled_images

    if not isinstance(galaxy.image, Stamps):
        raise TypeError(
            f"`image` of galaxy {galaxy.id!r} must be generative.stamps.Stamps or hbm.image.CompiledImages, "
            f"got {type(galaxy.image).__name__}."
        )
    model = load(name)
    if model.instrument is not None:
        expected, n = tuple(model.instrument.bands), int(galaxy.image.image.shape[1])
        if n != len(expected) or (len(galaxy.image_bands) and tuple(galaxy.image_bands) != expected):
            got = tuple(galaxy.image_bands) or f"{n} bands"
            raise ValueError(
                f"`image` of galaxy {galaxy.id!r} must be in the bands of {name}, {expected}, got {got}."
            )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.h5"
        compile_file(model, model_path(name), galaxy.image, file, seed=zlib.crc32(galaxy.id.encode()))
        return read_compiled_images(file, likelihood)
