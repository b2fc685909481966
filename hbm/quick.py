"""Posteriors in seconds, by importance weights of prior draws: a look before `hbm.fit`, or for many galaxies.

One set of prior draws at each redshift (`hbm.library`) serves all galaxies there, whatever their fluxes and
images. Nothing is sampled, so several modes are no difficulty; what limits it is the number of draws that the
data leave. Results are as those of `hbm.fit`; the effective number of draws stands for convergence, and is
flagged where it is small. Data that leave one prior draw in a million, such as fluxes in dozens of bands,
need `hbm.fit`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hbm.calibration.importance import LARGEST_K, image_log_prob
from hbm.catalog import Catalog
from hbm.catalog_images import CatalogImages
from hbm.config import ModelConfig
from hbm.convergence import Convergence, ConvergenceRule, import_arviz
from hbm.counted import settings_of, what_counts
from hbm.galaxies import DataBuilder
from hbm.library import PROPERTIES, Library, Weighted, make_library, photometry_posterior
from hbm.model import GalaxyData, derived_quantities, galaxy_state, parameters_from_sites
from hbm.results import FitResult, ObservedBands, make_provenance, make_result
from hbm.sampler import SamplerConfig
from hbm.terms import Term
from sed.io import load_grid
from sed.ssp import SSPGrid

_N_IMAGE = 50_000
"""Prior draws at most that an image alone is asked about: it leaves one in tens."""

_N_CHAIN = 4
_BLOCK = 4096


def quick_fit(
    catalog: Catalog,
    *,
    config: ModelConfig | None = None,
    grid: SSPGrid | str | Path | None = None,
    n_prior: int = 100_000,
    n_draw: int = 600,
    seed: int = 0,
    use: Sequence[str] | None = None,
    rule: ConvergenceRule | None = None,
    terms: Sequence[Term] = (),
) -> list[FitResult]:
    """Posterior of every galaxy of a catalogue by importance weights.

    Parameters
    ----------
    catalog
        Fluxes, exact redshifts and, if they are there, images; no upper limits. Galaxies at the same redshift
        share their prior draws: with many redshifts that is most of the work.
    config
        What is fitted, with a fixed error floor; ``ModelConfig()`` by default.
    grid
        Stellar populations; the shipped grid by default.
    n_prior
        Prior draws.
    n_draw
        Draws kept per chain, of four: the weighted draws are resampled, so that some are there several times.
    seed
        Of all randomness.
    use, terms
        As for `hbm.fit`.
    rule
        Its smallest effective sample size is asked of the weights.

    Returns
    -------
    list of FitResult
        In the order of the catalogue. ``rhat`` is nan: there are no chains.

    Raises
    ------
    ValueError
        For upper limits, redshifts with errors, and as `hbm.fit` and `hbm.library.make_library`.
    """
    config = ModelConfig() if config is None else config
    rule = ConvergenceRule() if rule is None else rule
    catalog, config, every = what_counts(catalog, config, use, tuple(terms))
    if np.any(catalog.upper_limit) or np.any(np.asarray(catalog.zred_err) > 0):
        raise ValueError("`catalog` must have exact redshifts and no upper limits: use `hbm.fit`.")
    loaded = grid if isinstance(grid, SSPGrid) else load_grid(grid)
    builder = DataBuilder(loaded, config, catalog.filter_names)
    provenance = make_provenance(
        settings_of(catalog, config, SamplerConfig(n_draw=n_draw, n_chain=_N_CHAIN), "importance", every),
        grid=loaded.provenance, filters=catalog.filter_names, seed=seed,
    )  # fmt: skip
    libraries: dict[float, Library] = {}
    results = []
    for row, name in enumerate(catalog.id):
        data = builder(catalog, row)
        zred = float(catalog.zred[row])
        if zred not in libraries:
            libraries[zred] = make_library(data, config, n_prior, seed=seed)
        library = libraries[zred]
        found = _posterior(catalog, row, library, data, every, seed)
        rng = np.random.default_rng((seed, row, 1))
        place = (np.arange(_N_CHAIN * n_draw) + rng.uniform()) / (_N_CHAIN * n_draw)
        chosen = np.minimum(np.searchsorted(np.cumsum(found.weight), place), len(found.weight) - 1)
        chosen = rng.permutation(chosen)
        sites = {key: value[found.rows[chosen]] for key, value in library.sites.items() if key != "mwa"}
        sites["logmass"] = found.logmass[chosen]
        derived = _derived(sites, data, config)
        flux = derived.pop("flux")

        def shaped(value: np.ndarray) -> np.ndarray:
            return value.reshape(_N_CHAIN, n_draw, *value.shape[1:])

        everything = {key: shaped(np.asarray(value)) for key, value in {**sites, **derived}.items()}
        flags = tuple(flag for term in every if isinstance(term, CatalogImages) for flag in term.flags(name))
        results.append(
            make_result(
                name, zred, posterior=everything,
                sample_stats={"diverging": np.zeros((_N_CHAIN, n_draw), bool)},
                flux=shaped(np.asarray(flux, np.float64)), bands=_bands(catalog, row, builder, config),
                convergence=_verdict(found, rule), provenance=provenance,
                agebins=np.asarray(data.photometry.agebins, np.float64), flags=flags,
            )
        )  # fmt: skip
    return results


def _posterior(
    catalog: Catalog, row: int, library: Library, data: GalaxyData, terms: tuple[Term, ...], seed: int
) -> Weighted:
    """Weighted draws of one galaxy's posterior."""
    if np.any(catalog.observed[row]):
        found = photometry_posterior(
            library, catalog.flux[row], catalog.flux_err[row], observed=catalog.observed[row], seed=seed
        )
    else:
        n = min(library.n, _N_IMAGE)
        found = Weighted(np.arange(n), library.sites["logmass"][:n], np.full(n, 1 / n))
    name = catalog.id[row]
    for term in terms:
        if not isinstance(term, CatalogImages):
            found = found.times(_term_log_prob(term, name, library, data, found))
        elif name in term:
            found = found.times(_image_log_prob(term, name, library, found))
    return found


def _image_log_prob(
    images: CatalogImages, name: str, library: Library, draws: Weighted
) -> Float[np.ndarray, " draw"]:
    """Log-likelihood of a galaxy's image at weighted draws."""
    galaxy = images.galaxy(name)
    theta = draws.theta(library)
    # The age is the same fraction of the universe's in the fit's cosmology and in the simulations'.
    theta[:, PROPERTIES.index("mwa")] *= float(galaxy.age_gyr) / library.age_universe
    theta = theta[:, [PROPERTIES.index(each) for each in images.likelihood.names]].astype(np.float32)
    n = len(theta)
    padded = np.resize(theta, (-(-n // _BLOCK) * _BLOCK, theta.shape[1]))
    blocks = [
        np.asarray(
            image_log_prob(images.likelihood, jnp.asarray(padded[first : first + _BLOCK]), galaxy), np.float64
        )
        for first in range(0, len(padded), _BLOCK)
    ]
    return np.concatenate(blocks)[:n]


def _term_log_prob(
    term: Term, name: str, library: Library, data: GalaxyData, draws: Weighted
) -> Float[np.ndarray, " draw"]:
    """Log-likelihood of another term at weighted draws."""
    n = len(draws.weight)
    rows = np.resize(np.arange(n), -(-n // _BLOCK) * _BLOCK)
    sites = {key: value[draws.rows][rows] for key, value in library.sites.items() if key != "mwa"}
    sites["logmass"] = draws.logmass[rows]
    single = {key: jnp.asarray(value, jnp.float32) for key, value in sites.items()}

    @jax.jit
    def log_prob(site: dict[str, Array]) -> Array:
        def one(each: dict[str, Array]) -> Array:
            params = parameters_from_sites(each, library.config)
            return term.log_prob(galaxy_state(params, jnp.asarray(data.zred), data), term.galaxy(name))

        return jax.vmap(one)(site)

    return np.asarray(log_prob(single), np.float64)[:n]


@eqx.filter_jit
def _derive(sites: dict[str, Array], data: GalaxyData, config: ModelConfig) -> dict[str, Array]:
    values: dict[str, Array] = jax.vmap(lambda site: derived_quantities(site, data, config))(sites)
    return values


def _derived(sites: dict[str, np.ndarray], data: GalaxyData, config: ModelConfig) -> dict[str, np.ndarray]:
    """Derived quantities of draws."""
    single = {name: jnp.asarray(value, jnp.float32) for name, value in sites.items()}
    return {name: np.asarray(value) for name, value in _derive(single, data, config).items()}


def _bands(catalog: Catalog, row: int, builder: DataBuilder, config: ModelConfig) -> ObservedBands:
    n_band = len(catalog.filter_names)
    return ObservedBands(
        filter_names=catalog.filter_names, wave_pivot=builder.filters.wave_pivot,
        flux=np.asarray(catalog.flux[row], np.float64),
        flux_err=np.asarray(catalog.flux_err[row], np.float64),
        observed=np.asarray(catalog.observed[row]), upper_limit=np.asarray(catalog.upper_limit[row]),
        error_floor=np.full(n_band, float(config.error_floor)),
    )  # fmt: skip


def _verdict(found: Weighted, rule: ConvergenceRule) -> Convergence:
    """Effective number of draws, and the Pareto k of the weights, in the place of chains' diagnostics."""
    effective = found.effective
    failures = {}
    if effective < rule.ess_bulk:
        failures["ess_bulk"] = (
            f"{effective:.0f} effective draws, fewer than {rule.ess_bulk:g}: take more prior draws, or "
            "`hbm.fit`"
        )
    az: Any = import_arviz()
    _, k = az.psislw(np.log(np.maximum(found.weight, 1e-300)))
    if not float(k) <= LARGEST_K:
        failures.setdefault(
            "ess_tail", f"Pareto k of the weights is {float(k):.2f}, above {LARGEST_K}: take more prior draws"
        )
    return Convergence(
        rhat_max=float("nan"), rhat_worst="", ess_bulk_min=effective, ess_tail_min=effective, n_divergent=0,
        converged=not failures, flag=",".join(failures) or "ok", reason="; ".join(failures.values()),
    )  # fmt: skip
