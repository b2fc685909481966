r"""A survey to sample together with its population: data, coordinates, a first picture of each galaxy.

A galaxy's vector is :math:`z_i = m_i + L_i w_i`, with the mean and Cholesky factor of the stored draws of its
own fit, so that samplers see about unit spheres. The draws also make a mixture of Gaussians, the proposal of
jumps between modes. Neither changes the posterior.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro import handlers

from hbm.catalog import Catalog
from hbm.catalog_images import CatalogImages
from hbm.config import InterimPrior, ModelConfig
from hbm.coordinates import build_posterior
from hbm.counted import what_counts
from hbm.fitting import config_of
from hbm.galaxies import DataBuilder, galaxy_axes, stack_galaxies, take_galaxy
from hbm.mixture import FLOOR, Mixture, as_proposal, factored, fit_mixture, moments
from hbm.model import Calibration, GalaxyData, flux_log_prob, sample_calibration
from hbm.population.draws import PROPERTIES, PosteriorDraws, gather_draws
from hbm.results import FitResult
from hbm.terms import Term
from sed.io import load_grid
from sed.ssp import SSPGrid

Shared = dict[str, Any]
"""Calibration that all galaxies share, by site: ``error_floor``, ``outlier_fraction``, ``zero_point``."""


class GalaxyPoint(NamedTuple):
    """One galaxy at one point."""

    potential: Float[Array, ""]
    """Minus log of its posterior density under the interim prior, with the Jacobian, up to a constant."""
    properties: dict[str, Float[Array, ""]]
    """What relations describe, and ``age_universe`` in Gyr."""
    flux: Float[Array, "..."]
    """Model flux, which ``calibrated`` of the survey takes."""


class Survey(NamedTuple):
    """Galaxies for ``fit_population(method="joint")`` and ``"gibbs"``; make it with `gather_survey`."""

    id: tuple[str, ...]
    """Galaxies."""
    evaluate: Callable[[Array, Any, Shared], GalaxyPoint]
    """One galaxy at a vector z (dim,), of its data and the shared calibration."""
    calibrated: Callable[[Array, Any, Shared], Array]
    """The part of the log-likelihood that depends on the calibration: of model flux, data, calibration."""
    sample_calibration: Callable[[], Shared]
    """`numpyro.sample` statements of the shared calibration; an empty dictionary if there is none."""
    data: Any
    """Stacked along a galaxy axis."""
    axes: Any
    """Where that axis is, as `in_axes` of `jax.vmap`."""
    mean: Float[Array, "galaxy dim"]
    chol: Float[Array, "galaxy dim dim"]
    proposal: Mixture
    """In the coordinates w; leading axis galaxy."""
    start: Float[Array, "galaxy point dim"]
    """Stored draws, w."""
    draws: PosteriorDraws
    """The same draws' properties, and the interim prior."""
    settings: dict[str, Any]
    """What the densities were made of, as plain JSON: a checkpoint of other settings is refused."""


def make_survey(
    names: tuple[str, ...],
    evaluate: Callable[[Array, Any, Shared], GalaxyPoint],
    data: Any,
    vectors: Float[Array, "galaxy point dim"],
    prior: InterimPrior,
    *,
    axes: Any = 0,
    calibrated: Callable[[Array, Any, Shared], Array] | None = None,
    sample_calibration: Callable[[], Shared] | None = None,
    n_component: int = 4,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
) -> Survey:
    """Survey from the density of one galaxy and draws from each, for models that are not this package's.

    Parameters
    ----------
    names
        Of the galaxies.
    evaluate, data, axes, calibrated, sample_calibration
        As in `Survey`; without ``sample_calibration`` nothing is shared.
    vectors
        Draws of each galaxy's z from about the density of ``evaluate``.
    prior
        What ``evaluate`` contains as the prior of the properties (`hbm.prior`), divided out.
    n_component
        Gaussians of the proposal of jumps.
    seed
        Of their start.
    settings
        What ``evaluate`` and the calibration were made of, as plain JSON.
    """
    shared: Shared = {}
    if sample_calibration is not None:
        with handlers.block(), handlers.seed(rng_seed=jax.random.key(seed)):
            shared = sample_calibration()
    data = jax.device_put(data)

    def prepared(points: Array, key: Array) -> tuple[Array, Array, Array, Mixture]:
        weight = jnp.full(points.shape[0], 1.0 / points.shape[0])
        mean, covariance = moments(points, weight)
        chol, inverse = factored(covariance + FLOOR * jnp.eye(points.shape[1]))
        w = jnp.einsum("ij,nj->ni", inverse, points - mean, precision="highest")
        proposal = as_proposal(fit_mixture(key, w, n_component), *moments(w, weight))
        return mean, chol, w, proposal

    @jax.jit
    def properties_of(vectors: Array, data: Any) -> dict[str, Array]:
        by_point = jax.vmap(evaluate, in_axes=(0, None, None))
        found: GalaxyPoint = jax.vmap(by_point, in_axes=(0, axes, None))(vectors, data, shared)
        return found.properties

    keys = jax.random.split(jax.random.key(seed), len(names))
    mean, chol, w, proposal = jax.jit(jax.vmap(prepared))(vectors, keys)
    draws = PosteriorDraws(names, properties_of(vectors, data), prior)
    nothing: Callable[[], Shared] = dict
    return Survey(
        names,
        evaluate,
        (lambda _flux, _data, _shared: jnp.zeros(())) if calibrated is None else calibrated,
        nothing if sample_calibration is None else sample_calibration,
        data,
        axes,
        mean,
        chol,
        proposal,
        w,
        draws,
        settings or {},
    )


def gather_survey(
    results: Sequence[FitResult],
    catalog: Catalog | None = None,
    *,
    grid: SSPGrid | str | Path | None = None,
    terms: Sequence[Term] = (),
    share: bool = True,
    error_floor: float | Literal["free"] | None = None,
    outliers: bool | None = None,
    zero_point_sigma: float | None = None,
    n_draw: int = 400,
    seed: int = 0,
) -> Survey:
    """Survey from fits of single galaxies.

    Parameters
    ----------
    results
        As for `hbm.population.gather_draws`.
    catalog
        The galaxies' fluxes and images, by identifier. Only needed where images were used: fluxes are in the
        results.
    grid
        Stellar populations that were fitted with; the shipped grid by default.
    terms
        Likelihoods besides photometry and image, those of the fits.
    share
        One error floor, outlier fraction and zero point per band for all galaxies, where they are free. If
        False, each galaxy has its own.
    error_floor, outliers, zero_point_sigma
        As in `hbm.ModelConfig`, to share what the fits kept fixed, or the other way; as fitted by default.
    n_draw
        Draws kept per galaxy.
    seed
        Of the proposals' start.

    Raises
    ------
    ValueError
        As `hbm.population.gather_draws`; or if the catalogue lacks a galaxy, images were used and are not
        there, or the grid is another one.
    """
    gather_draws(results, n_draw=n_draw)  # refuses what cannot be used
    fitted = config_of(results[0])
    counted = results[0].provenance.model_config.get("use", {"photometry": True})
    if not isinstance(grid, SSPGrid):
        grid = load_grid(grid)
    _refuse_another_grid(results[0], grid)
    names = tuple(result.galaxy_id for result in results)
    whole = _catalog_of(results) if catalog is None else _rows(catalog, names)
    for result in results:
        used = result.provenance.model_config.get("use", {"photometry": True})
        if used != counted:
            raise ValueError(
                f"`results` must all have used the same, but {names[0]} used {counted} and "
                f"{result.galaxy_id} {used}."
            )
    if "image" in counted:
        if whole.images is None:
            raise ValueError("`catalog` must have the images that `results` used: see `hbm.with_images`.")
        if whole.images.settings() != counted["image"]:
            raise ValueError(
                f"`catalog` must have its images under the likelihood of `results`, {counted['image']}, got "
                f"{whole.images.settings()}."
            )
    use = tuple(name for name in ("photometry", "image") if counted.get(name))
    whole, _, every = what_counts(whole, fitted, use, tuple(terms))
    absent = set(counted) - {"photometry"} - {term.name for term in every}
    if absent:
        raise ValueError(f"`terms` must hold those that `results` used, but {sorted(absent)} are missing.")
    changes = {"error_floor": error_floor, "outliers": outliers, "zero_point_sigma": zero_point_sigma}
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    config = dataclasses.replace(fitted, **given)
    builder = DataBuilder(grid, config, whole.filter_names, every)
    stacked = stack_galaxies([builder(whole, i) for i in range(len(whole))])
    vectors = _vectors(results, config, stacked, every, n_draw=n_draw, share=share)
    return survey_of(names, config, stacked, every, vectors, share=share, seed=seed)


def survey_of(
    names: tuple[str, ...],
    config: ModelConfig,
    data: GalaxyData,
    terms: tuple[Term, ...],
    vectors: Float[Array, "galaxy point dim"],
    *,
    share: bool,
    seed: int,
) -> Survey:
    """Survey of this package's model, of galaxies that `hbm.galaxies.stack_galaxies` made.

    Parameters
    ----------
    names
        Of the galaxies.
    config, data, terms
        What is fitted to what.
    vectors
        Draws of each galaxy in the coordinates of `hbm.coordinates.build_posterior`, ``shared`` as ``share``.
    share
        Whether error floor, outliers and zero points are those of all galaxies.
    seed
        Of the proposals' start.
    """
    posterior = build_posterior(config, _first(data), terms, shared=share)
    n_band = int(np.shape(data.flux)[-1])

    def calibration_of(shared: Shared) -> Calibration:
        with handlers.block(), handlers.substitute(data=shared):
            return sample_calibration(config, n_band)

    def sample_shared() -> Shared:
        sampled = sample_calibration(config, n_band)._asdict()
        return {name: value for name, value in sampled.items() if isinstance(value, jax.Array)}

    def evaluate(z: Array, galaxy: Any, shared: Shared) -> GalaxyPoint:
        found = posterior.evaluate(z, galaxy, calibration_of(shared) if share else None)
        properties = {name: found.sites[name] for name in PROPERTIES}
        zred = found.sites.get("zred", jnp.asarray(galaxy.zred))
        return GalaxyPoint(found.potential, properties | {"age_universe": galaxy.age_at(zred)}, found.flux)

    def calibrated(flux: Array, galaxy: Any, shared: Shared) -> Array:
        return flux_log_prob(galaxy, flux, calibration_of(shared))

    return make_survey(
        names, evaluate, data, vectors, config.prior, axes=galaxy_axes(data),
        calibrated=calibrated if share else None,
        sample_calibration=sample_shared if share else None, seed=seed,
        settings={"config": json.loads(config.to_json()), "share": share, "terms": _settings(terms)},
    )  # fmt: skip


def _settings(terms: Sequence[Term]) -> dict[str, Any]:
    """What is known of further likelihoods."""
    return {
        term.name: term.settings() if isinstance(term, CatalogImages) else type(term).__qualname__
        for term in terms
    }


def _vectors(
    results: Sequence[FitResult],
    config: ModelConfig,
    data: GalaxyData,
    terms: tuple[Term, ...],
    *,
    n_draw: int,
    share: bool,
) -> Float[Array, "galaxy point dim"]:
    """Stored draws in the sampler's coordinates."""
    posterior = build_posterior(config, _first(data), terms, shared=share)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in posterior.sampled}
    for result in results:
        for name, into in rows.items():
            if name not in result.posterior:
                raise ValueError(
                    f"`results` must hold draws of `{name}`, which is free for each galaxy, but that of "
                    f"{result.galaxy_id} has none. Fit with it free, or share it."
                )
            values = np.asarray(result.draws(name), np.float32)
            values = values.reshape(-1, *values.shape[2:])
            pick = ((np.arange(n_draw) + 0.5) * len(values) / n_draw).astype(int)
            into.append(values[pick])
    sites = {name: jnp.asarray(np.stack(value)) for name, value in rows.items()}
    by_draw = jax.vmap(posterior.unconstrain, in_axes=(0, None))
    vectors: Array = jax.jit(jax.vmap(by_draw, in_axes=(0, galaxy_axes(data))))(sites, data)
    return vectors


def _first(data: GalaxyData) -> GalaxyData:
    return take_galaxy(data, 0)


def _catalog_of(results: Sequence[FitResult]) -> Catalog:
    """Photometry as it was fitted."""
    bands = [result.bands for result in results]
    if any(band.filter_names != bands[0].filter_names for band in bands):
        raise ValueError("`results` must all have the same bands, in the same order.")
    return Catalog(
        id=tuple(result.galaxy_id for result in results),
        zred=np.array([result.zred for result in results]),
        zred_err=np.zeros(len(results)),
        flux=np.stack([band.flux for band in bands]),
        flux_err=np.stack([band.flux_err for band in bands]),
        observed=np.stack([band.observed for band in bands]),
        upper_limit=np.stack([band.upper_limit for band in bands]),
        filter_names=bands[0].filter_names,
    )


def _rows(catalog: Catalog, names: tuple[str, ...]) -> Catalog:
    """Rows of the galaxies, in their order, with exact redshifts."""
    position = {name: i for i, name in enumerate(catalog.id)}
    absent = [name for name in names if name not in position]
    if absent:
        raise ValueError(
            f"`catalog` must have every galaxy of `results`, but {len(absent)} are missing, such as "
            f"{', '.join(absent[:3])}."
        )
    return catalog.select([position[name] for name in names])


def _refuse_another_grid(result: FitResult, grid: SSPGrid) -> None:
    made = result.provenance.grid
    if made and made != cast("dict[str, Any]", grid.provenance):
        raise ValueError(
            f"`grid` must be the one that {result.galaxy_id} was fitted with, but its provenance differs. "
            "Give that grid, or fit again."
        )
