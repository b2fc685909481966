r"""Points in one galaxy's parameter space, at which all integrals of the check are evaluated.

Three kinds, whose densities are known: (A) draws of the prior; (B) shapes of the spectrum from the prior at
a rough mass :math:`M_0`, with masses near that which fits the fluxes best, density
:math:`p(shape | M_0)\,q(\log M | shape)`; (C) stored draws of the fit, density :math:`p(\theta)
p(f | \theta) / Z_f` with the constant solved for (`hbm.consistency.evidence`). A covers what the image alone
allows, B what corrupted fluxes allow, C what good ones do, however precise they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from jaxtyping import Array, Bool, Float
from numpyro import handlers

from hbm.amplitude import best_amplitude
from hbm.catalog_images import CatalogImages
from hbm.config import ModelConfig
from hbm.consistency.corruption import Corruptions, FluxLogLike, Measured, flux_loglikes
from hbm.image import GalaxyImage
from hbm.model import (
    Calibration,
    GalaxyData,
    computed_once,
    galaxy_model,
    galaxy_state,
    parameters_from_sites,
)

Sites = dict[str, Array]
"""Sampled parameters by name."""

_BLOCK = 512
"""Points that are evaluated at a time: bounds the memory."""

_WIDE, _WIDE_WEIGHT = 0.5, 0.5
"""Width (dex) and weight of the broad part of the masses of kind B: corruptions move masses by as much."""

_EDGE = 1e-3
"""How far beyond the box of the image model's training a point may be, half the box being 1: rounding."""

_INNER = 0.01
"""How far inside of the prior's range (dex) the rough mass is kept."""


class Points(NamedTuple):
    """What is known of each point; leading axis point."""

    log_prior: Float[Array | np.ndarray, "*point"]
    """Log density of the prior, nats; minus infinity outside."""
    log_shape: Float[Array | np.ndarray, "*point"]
    """Log density of kind B."""
    image: Float[Array | np.ndarray, "*point"]
    """Ln p(image | theta), up to a constant."""
    inside: Bool[Array | np.ndarray, "*point"]
    """Whether the image model was trained there; its mean age apart, as in fits."""
    theta: Float[Array | np.ndarray, "*point property"]
    """Properties in the order of the image likelihood."""
    flux: Float[Array | np.ndarray, "*point band"]
    """Model flux with zero points, maggies."""
    error_floor: Float[Array | np.ndarray, "*point"]
    outlier_fraction: Float[Array | np.ndarray, "*point"]
    fluxes: FluxLogLike
    """Likelihoods of the fluxes."""


class Rough(NamedTuple):
    """Each point's shape at the galaxy's rough mass."""

    log_shape: Float[Array, "*point"]
    """Log prior of all but the mass."""
    flux: Float[Array, "*point band"]
    """maggies."""
    best: Float[Array, "*point"]
    """log10 of the mass that fits the fluxes best."""


class PoolMaker:
    """Draws and evaluates points for galaxies of one model, compiled once.

    Parameters
    ----------
    config
        Of the fits.
    images
        Image likelihood.
    log_wave
        As `hbm.consistency.corruption.flux_loglikes` takes it.
    corruptions
        Priors of errors.
    n_prior, n_shape
        Points of kind A and B.
    """

    def __init__(
        self,
        config: ModelConfig,
        images: CatalogImages,
        log_wave: Float[np.ndarray, " band"],
        corruptions: Corruptions,
        n_prior: int,
        n_shape: int,
    ) -> None:
        self.config, self.images, self.corruptions = config, images, corruptions
        self.n_prior, self.n_shape = n_prior, n_shape
        self._log_wave = jnp.asarray(log_wave, jnp.float32)
        box = [name != "mwa" for name in images.likelihood.names]
        self._in_box = jnp.asarray(box)
        self._floor = 0.05 if isinstance(config.error_floor, str) else config.error_floor
        self._draw = jax.jit(self._drawn)
        self._rough = jax.jit(self._roughly)
        self._evaluate = jax.jit(self._evaluated)

    def points(self, data: GalaxyData, image: GalaxyImage, stored: Sites, key: Array) -> Points:
        """All points of a galaxy: A, B, then C.

        Parameters
        ----------
        data
            The galaxy, without terms.
        image
            Its image.
        stored
            Draws of its fit, (draw, ...), by sampled site.
        key
            Source of randomness.
        """
        draw_key, mass_key, shift_key = jax.random.split(key, 3)
        drawn = self._draw(data, draw_key)
        absent = [name for name in drawn if name not in stored]
        if absent:
            raise ValueError(
                f"`results` must hold draws of `{absent[0]}`, which the model samples, but there are none."
            )
        n = len(drawn["logmass"]) + len(stored["logmass"])
        # Whole blocks: the rest would be compiled once more, by itself.
        index = jnp.arange(-(-n // _BLOCK) * _BLOCK) % n
        every = {name: jnp.concatenate([drawn[name], stored[name]])[index] for name in drawn}
        rough = self._rough(every, data)
        every["logmass"] = self._masses(every["logmass"], rough.best, data, mass_key)
        shifts = jax.random.uniform(shift_key, (len(every["logmass"]), 2))
        whole = self._evaluate(every, rough, shifts, data, image)
        found: Points = jax.tree.map(lambda leaf: np.asarray(leaf)[:n], whole)
        return found

    def _masses(self, given: Array, best: Array, data: GalaxyData, key: Array) -> Array:
        """Masses, with new ones for kind B: about those that fit best."""
        key_wide, key_normal = jax.random.split(key)
        is_wide = jax.random.bernoulli(key_wide, _WIDE_WEIGHT, best.shape)
        width = jnp.where(is_wide, _WIDE, self._narrow(data))
        place = jnp.arange(len(best))
        is_shape = (place >= self.n_prior) & (place < self.n_prior + self.n_shape)
        return jnp.where(is_shape, best + width * jax.random.normal(key_normal, best.shape), given)

    def _guess(self, data: GalaxyData) -> Array:
        """Rough mass within the prior's range."""
        low, high = self.config.prior.logmass
        return jnp.clip(jnp.asarray(data.logmass_guess), low + _INNER, high - _INNER)

    def _trace(self, data: GalaxyData, sites: Sites, key: Array | None = None) -> dict[str, Any]:
        model: Callable[..., Any] = handlers.substitute(galaxy_model, data=sites)
        if key is not None:
            model = handlers.seed(model, key)
        traced: dict[str, Any] = handlers.trace(model).get_trace(data, self.config, use_data=False)
        return traced

    def _drawn(self, data: GalaxyData, key: Array) -> Sites:
        """Sampled sites of kinds A and B; B is at the rough mass."""
        key_a, key_b = jax.random.split(key)

        def sampled(sites: Sites, key: Array) -> Sites:
            traced = self._trace(data, sites, key)
            return {name: site["value"] for name, site in traced.items() if site["type"] == "sample"}

        prior = jax.vmap(lambda key: sampled({}, key))(jax.random.split(key_a, self.n_prior))
        rough = {"logmass": self._guess(data)}
        shape = jax.vmap(lambda key: sampled(rough, key))(jax.random.split(key_b, self.n_shape))
        return {name: jnp.concatenate([prior[name], shape[name]]) for name in prior}

    def _narrow(self, data: GalaxyData) -> Array:
        """Error of the mass that fits best at a given shape, dex, with room."""
        flux, err = jnp.asarray(data.flux), jnp.asarray(data.flux_err)
        use = jnp.asarray(data.observed) & ~jnp.asarray(data.upper_limit)
        snr2 = jnp.sum(jnp.where(use, 1 / ((err / flux) ** 2 + self._floor**2), 0.0))
        return jnp.clip(1.5 / (jnp.log(10.0) * jnp.sqrt(snr2)), 0.003, _WIDE)

    def _roughly(self, sites: Sites, data: GalaxyData) -> Rough:
        """Each point's shape at the rough mass."""
        use = jnp.asarray(data.observed) & ~jnp.asarray(data.upper_limit)
        mass = self._guess(data)

        def one(sites: Sites) -> Rough:
            traced = self._trace(data, sites | {"logmass": mass})
            values = {name: site["value"] for name, site in traced.items()}
            params = computed_once(parameters_from_sites(values, self.config))
            flux = data.model_flux(params, jnp.asarray(data.zred))
            factor = best_amplitude(flux, data.flux, data.flux_err, use, self._floor)
            return Rough(_log_prior(traced, leave="logmass"), flux, mass + jnp.log10(factor))

        found: Rough = jax.lax.map(one, sites, batch_size=_BLOCK)
        return found

    def _evaluated(
        self, sites: Sites, rough: Rough, shifts: Array, data: GalaxyData, image: GalaxyImage
    ) -> Points:
        def one(given: tuple[Sites, Rough, Array]) -> Points:
            return self._point(*given, data, image)

        found: Points = jax.lax.map(one, (sites, rough, shifts), batch_size=_BLOCK)
        return found

    def _point(
        self, sites: Sites, rough: Rough, shift: Array, data: GalaxyData, image: GalaxyImage
    ) -> Points:
        offset = sites["logmass"] - rough.best
        parts = jnp.stack(
            [
                norm.logpdf(offset, 0.0, _WIDE) + np.log(_WIDE_WEIGHT),
                norm.logpdf(offset, 0.0, self._narrow(data)) + np.log(1 - _WIDE_WEIGHT),
            ]
        )
        flux = rough.flux * 10.0 ** (sites["logmass"] - self._guess(data))
        traced = self._trace(data, sites)
        values = {name: site["value"] for name, site in traced.items()}
        params = parameters_from_sites(values, self.config)
        state = galaxy_state(params, jnp.asarray(data.zred), data)
        age = jnp.asarray(image.age_gyr)
        theta = self.images.properties(state, age)
        scaled = self.images.likelihood.scaled(theta, age)
        inside = jnp.all(jnp.where(self._in_box, jnp.abs(scaled), 0.0) <= 1 + _EDGE)
        calibration = self._calibration(values)
        measured = Measured(data.flux, data.flux_err, data.observed, data.upper_limit)
        fluxes = flux_loglikes(flux, calibration, measured, self._log_wave, shift, self.corruptions)
        moved = flux
        if calibration.zero_point is not None:
            moved = flux * 10.0 ** (-0.4 * jnp.asarray(calibration.zero_point))
        return Points(
            _log_prior(traced), rough.log_shape + logsumexp(parts), self.images.log_prob(state, image),
            inside, theta, moved, jnp.asarray(calibration.error_floor, jnp.float32),
            jnp.asarray(calibration.outlier_fraction, jnp.float32), fluxes,
        )  # fmt: skip

    def _calibration(self, values: Sites) -> Calibration:
        floor = self.config.error_floor
        return Calibration(
            values["error_floor"] if isinstance(floor, str) else float(floor),
            values["outlier_fraction"] if self.config.outliers else 0.0,
            values.get("zero_point"),
        )


def _log_prior(traced: dict[str, Any], *, leave: str = "") -> Float[Array, ""]:
    """Log density of all sampled sites but one; minus infinity outside of their ranges."""
    total = jnp.zeros(())
    for name, site in traced.items():
        if site["type"] == "sample" and name != leave:
            value, fn = site["value"], site["fn"]
            inside = jnp.all(fn.support(value))
            total = total + jnp.where(inside, jnp.sum(fn.log_prob(value)), -jnp.inf)
    return total
