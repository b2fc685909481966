"""The images of a catalogue's galaxies: matched, checked, and a factor of each galaxy's posterior."""

import dataclasses
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.image import (
    CompiledImages,
    GalaxyImage,
    ImageError,
    ImageLikelihood,
    load_image_likelihood,
    read_compiled_images,
    require_calibrated,
)
from hbm.terms import GalaxyState

UNTYPICAL = 0.002
"""Images with a smaller p-value are flagged: the model knows nothing like them."""

_EDGE = 1.05
"""Largest redshift column of the conditions that training covers, with a little room."""


@dataclass(frozen=True, eq=False)
class CatalogImages:
    """Compiled images by galaxy: the term ``image`` of a fit. Make it with `with_images`."""

    likelihood: ImageLikelihood
    """Of the image model."""
    compiled: CompiledImages
    """Images of some or all galaxies of the catalogue."""

    name = "image"

    @cached_property
    def _row(self) -> dict[str, int]:
        return {str(name): row for row, name in enumerate(self.compiled.id)}

    def __contains__(self, galaxy_id: object) -> bool:
        """Whether there is an image of a galaxy."""
        return galaxy_id in self._row

    def galaxy(self, galaxy_id: str) -> GalaxyImage:
        """Statistics of one galaxy; zeros, of which the likelihood is constant, if it has no image."""
        row = self._row.get(galaxy_id)
        data = self.compiled.data
        if row is None:
            one: GalaxyImage = GalaxyImage(*(np.zeros_like(leaf[0]) for leaf in data))
            return one._replace(age_gyr=np.ones_like(data.age_gyr[0]))
        return GalaxyImage(*(np.asarray(leaf[row]) for leaf in data))

    def log_prob(self, state: GalaxyState, data: GalaxyImage) -> Float[Array, ""]:
        """Ln p(image | properties) in nats, up to a constant of the image.

        Beyond the properties that training covered it is that of the nearest point which it did.
        """
        theta = self.properties(state, jnp.asarray(data.age_gyr))
        inside = jnp.clip(self.likelihood.scaled(theta, jnp.asarray(data.age_gyr)), -1.0, 1.0)
        return self.likelihood.log_prob_scaled(inside, data)

    def properties(self, state: GalaxyState, age_gyr: Float[Array, ""]) -> Float[Array, " theta"]:
        """Properties in the order of the likelihood.

        The age is the same fraction of the universe's in the fit's cosmology and in the simulations'.
        """
        params = state.params
        values: dict[str, Any] = {
            "logmass": params.sfh.logmass,
            "logssfr": state.logssfr,
            "mwa": state.mean_age / state.age_universe * age_gyr,
            "logzsol": params.logzsol,
            "dust2": params.dust2,
            "gas_logu": params.gas_logu,
        }
        return jnp.stack([jnp.asarray(values[name]) for name in self.likelihood.names])

    def flags(self, galaxy_id: str) -> tuple[str, ...]:
        """What is wrong with a galaxy's image, single words."""
        row = self._row.get(galaxy_id)
        if row is None:
            return ("no_image",)
        p = float(self.compiled.p_typical[row])
        return ("image_untypical",) if p < UNTYPICAL else ()

    def settings(self) -> dict[str, Any]:
        """What a result keeps."""
        corrected = {"ratio_correction": True} if self.likelihood.psi else {}
        return {"model_hash": self.likelihood.hash, **corrected}


def with_images(
    catalog: Catalog,
    images: CompiledImages | str | Path,
    model: ImageLikelihood | str | Path,
    *,
    insist: bool = False,
    correction: bool = True,
) -> Catalog:
    """Catalogue with its galaxies' images.

    Parameters
    ----------
    catalog
        Photometry and redshifts; may hold galaxies that no image is of.
    images
        What `hbm compile` wrote, or read from it. All must be of galaxies in the catalogue, by identifier.
    model
        Its likelihood: name of a shipped model, checkpoint, or loaded.
    insist
        Use a likelihood that is not calibrated, or is overconfident.
    correction
        Whether the model's ratio correction, if it has one, counts (`hbm.image.load_image_likelihood`); not
        used if ``model`` is loaded already.

    Raises
    ------
    ImageError
        If an image is of no galaxy of the catalogue or its redshift is another one; if a redshift is outside
        of what the image model was trained on, or not exact; if the statistics belong to another checkpoint;
        or if the likelihood is overconfident.
    """
    likelihood = model
    if not isinstance(likelihood, ImageLikelihood):
        likelihood = load_image_likelihood(likelihood, correction=correction)
    compiled = images if isinstance(images, CompiledImages) else read_compiled_images(images, likelihood)
    if compiled.hash not in ("", likelihood.hash):
        raise ImageError(
            f"`images` were compiled with another checkpoint ({compiled.hash[:12]}) than that of `model` "
            f"({likelihood.hash[:12]}). Compile them again."
        )
    require_calibrated(likelihood, insist=insist)
    names = [str(name) for name in compiled.id]
    if len(set(names)) != len(names):
        raise ImageError("`images` must hold one image per galaxy, but some identifiers repeat.")
    position = {name: row for row, name in enumerate(catalog.id)}
    strange = [name for name in names if name not in position]
    if strange:
        raise ImageError(
            f"`images` must be of galaxies in `catalog`, but {len(strange)} of {len(names)} are not, such as "
            f"{', '.join(strange[:3])} (the catalogue has {', '.join(catalog.id[:3])}, ...). Select the "
            "images, or make the identifiers the same."
        )
    rows = np.asarray([position[name] for name in names])
    _check_redshifts(catalog, compiled, rows)
    untypical = compiled.p_typical < UNTYPICAL
    if untypical.any():
        some = ", ".join(name for name, is_odd in zip(names, untypical, strict=True) if is_odd)
        warnings.warn(
            f"{int(untypical.sum())} of {len(names)} images are unlike anything the image model knows: "
            f"{some[:200]}. Do not trust what they say; the results are flagged `image_untypical`.",
            stacklevel=2,
        )
    return dataclasses.replace(catalog, images=CatalogImages(likelihood, compiled))


def _check_redshifts(catalog: Catalog, compiled: CompiledImages, rows: np.ndarray) -> None:
    """Refuse images of another redshift than the photometry, or of one that the model does not know."""
    zred = np.asarray(catalog.zred)[rows]
    off = np.abs(compiled.zred - zred) > 0.002 * (1 + zred)
    free = np.asarray(catalog.zred_err)[rows] > 0
    outside = np.abs(np.asarray(compiled.data.u)[:, 0]) > _EDGE
    for is_bad, text in (
        (off, "`images` must have the redshifts of `catalog`: image and photometry are of different "
              "galaxies, or one redshift is wrong"),
        (free, "`catalog` must have exact redshifts where there are images: their likelihood is known at "
               "the redshift alone that they were compiled at. Set `zred_err` to 0"),
        (outside, "`images` must have redshifts that the image model was trained on"),
    ):  # fmt: skip
        if is_bad.any():
            row = int(np.argmax(is_bad))
            error = catalog.zred_err[rows[row]]
            raise ImageError(
                f"{text}. {int(is_bad.sum())} are not so, such as id {compiled.id[row]}: zred "
                f"{compiled.zred[row]:.4f} of the image, {zred[row]:.4f} +- {error:.4f} of the catalogue."
            )


def image_config(config: ModelConfig, likelihood: ImageLikelihood) -> ModelConfig:
    """Settings whose prior ends where the image model's training ended, and is the same inside.

    Parameters
    ----------
    config
        Of a fit of photometry. Its prior is truncated, except for the mean age, which is no parameter.
    likelihood
        Of the image model.

    Raises
    ------
    ValueError
        If nothing is left of a range.
    """
    box = {
        name: (round(float(low), 6), round(float(high), 6))
        for name, low, high in zip(likelihood.names, likelihood.low, likelihood.high, strict=True)
    }
    prior = config.prior

    def within(name: str, low: float, high: float) -> tuple[float, float]:
        if name not in box:
            return low, high
        start, stop = max(low, box[name][0]), min(high, box[name][1])
        if not start < stop:
            raise ValueError(
                f"`config` must have a prior of {name} that overlaps with {box[name]}, which the image model "
                f"was trained on, got ({low}, {high})."
            )
        return start, stop

    centre, width, top = prior.dust2
    logu = prior.gas_logu
    changed = dataclasses.replace(
        prior,
        logmass=within("logmass", *prior.logmass),
        logssfr=within("logssfr", *prior.logssfr),
        logzsol=within("logzsol", *prior.logzsol),
        dust2=(centre, width, within("dust2", 0.0, top)[1]),
        gas_logu=(*logu[:2], *within("gas_logu", *logu[2:])),
    )
    return dataclasses.replace(config, prior=changed)
