"""The check of catalogues: whether image and photometry are of one galaxy, and which photometry is bad.

From stored fits of photometry alone, p(theta | f), and compiled images, p(x | theta); docs/check.md derives
each number.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from hbm.catalog_images import CatalogImages, with_images
from hbm.consistency.corruption import Corruptions
from hbm.consistency.evidence import PoolDensity, log_weights
from hbm.consistency.inputs import images_of, only, photometry_of, refuse_another_grid
from hbm.consistency.odds import Odds, odds_of
from hbm.consistency.pool import Points, PoolMaker
from hbm.consistency.predictive import band_quantiles, p_of_bands, p_of_fluxes, replicates
from hbm.consistency.report import Check, Detail
from hbm.consistency.rounds import is_enough, joined
from hbm.fitting import config_of
from hbm.galaxies import DataBuilder
from hbm.image import CompiledImages, ImageLikelihood, load_image_likelihood, read_compiled_images
from hbm.results import FitResult
from sed.io import load_grid
from sed.ssp import SSPGrid

_MIN_INSIDE = 0.1
"""Part of the fit that must be where the image model was trained."""

_N_SHOWN = 400

_ROUND = 1000
"""Randomness of further rounds is the galaxy's with this and their number folded in."""


def check(
    results: Sequence[FitResult],
    images: CompiledImages | str | Path,
    model: ImageLikelihood | str | Path,
    *,
    corruptions: Corruptions | None = None,
    grid: SSPGrid | str | Path | None = None,
    n_point: int = 16384,
    max_point: int = 131072,
    n_draw: int = 1000,
    seed: int = 0,
    insist: bool = False,
    correction: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Check]:
    """Consistency of image and photometry, galaxy by galaxy.

    Parameters
    ----------
    results
        Fits of photometry alone (`hbm.fit` with ``use=("photometry",)``).
    images
        What `hbm compile` wrote, or read from it; images of other galaxies are left out.
    model, insist, correction
        The image likelihood, as in `hbm.with_images`.
    corruptions
        Priors of the sizes of errors.
    grid
        Stellar populations that were fitted with; the shipped grid by default.
    n_point
        Points: a quarter from the prior, the others shapes with fitting masses (`hbm.consistency.pool`).
    max_point
        A galaxy whose odds have a Monte Carlo error above 1 nat, or rest on fewer than 10 effective points,
        gets twice as many points, and again, up to this number; the time goes with it.
    n_draw
        Draws of each fit that join them.
    seed
        The same seed gives the same numbers; those of a galaxy do not depend on the others.
    progress
        Called with (galaxies done, of how many, text).

    Returns
    -------
    list of Check
        In the order of ``results``, of those that have an image; a warning says how many have none.

    Raises
    ------
    ValueError
        If there are no results, they are not of photometry alone, of free redshifts, or of different
        settings, bands or grids; if no image is of any of their galaxies.
    ImageError
        As of `hbm.with_images`: another checkpoint or redshift, a likelihood that is not calibrated.
    """
    checker = Checker(
        results, images, model, corruptions=corruptions, grid=grid, n_point=n_point, max_point=max_point,
        n_draw=n_draw, seed=seed, insist=insist, correction=correction,
    )  # fmt: skip
    found = []
    for done, name in enumerate(checker.ids):
        if progress is not None:
            progress(done, len(checker.ids), "checking")
        found.append(checker(name)[0])
    return found


class Checker:
    """`check` galaxy by galaxy, with what a figure shows; arguments and errors as there."""

    def __init__(
        self,
        results: Sequence[FitResult],
        images: CompiledImages | str | Path,
        model: ImageLikelihood | str | Path,
        *,
        corruptions: Corruptions | None = None,
        grid: SSPGrid | str | Path | None = None,
        n_point: int = 16384,
        max_point: int = 131072,
        n_draw: int = 1000,
        seed: int = 0,
        insist: bool = False,
        correction: bool = True,
    ) -> None:
        if n_point < 64 or n_draw < 0:
            raise ValueError(
                f"`n_point` must be at least 64 and `n_draw` at least 0, got {n_point} and {n_draw}."
            )
        if max_point < n_point:
            raise ValueError(f"`max_point` must be at least `n_point`, {n_point}, got {max_point}.")
        whole = photometry_of(results)
        if not isinstance(grid, SSPGrid):
            grid = load_grid(grid)
        refuse_another_grid(results[0], grid)
        if not isinstance(model, ImageLikelihood):
            model = load_image_likelihood(model, correction=correction)
        if not isinstance(images, CompiledImages):
            images = read_compiled_images(images, model)
        chosen = images_of(images, whole.id)
        catalog = with_images(only(whole, [str(name) for name in chosen.id]), chosen, model, insist=insist)
        if len(catalog) < len(whole):
            warnings.warn(
                f"{len(whole) - len(catalog)} of {len(whole)} galaxies have no image and are left out.",
                stacklevel=3,
            )
        self.ids = catalog.id
        """Galaxies that can be checked."""
        self._catalog = catalog
        self._images = CatalogImages(model, chosen)
        self._p_image = dict(zip((str(name) for name in chosen.id), chosen.p_typical, strict=True))
        self._results = {result.galaxy_id: result for result in results}
        self._seed, self._n_draw = seed, n_draw
        self._max_round = max_point // n_point
        config = config_of(results[0])
        self._builder = DataBuilder(grid, config, catalog.filter_names)
        self._wave = self._builder.filters.wave_pivot
        log_wave = np.log(self._wave / np.sqrt(self._wave.min() * self._wave.max()))
        priors = (Corruptions() if corruptions is None else corruptions).checked()
        self._pool = PoolMaker(config, self._images, log_wave, priors, n_point // 4, n_point - n_point // 4)

    def __call__(self, galaxy_id: str) -> tuple[Check, Detail]:
        """Check one galaxy; a ValueError if it is not among ``ids``."""
        if galaxy_id not in self.ids:
            raise ValueError(
                f"`galaxy_id` must be one of the galaxies with fit and image, got {galaxy_id!r}."
            )
        row, result = self.ids.index(galaxy_id), self._results[galaxy_id]
        digest = int.from_bytes(hashlib.sha256(galaxy_id.encode()).digest()[:4], "big")
        key = jax.random.fold_in(jax.random.key(self._seed), digest)
        data = self._builder(self._catalog, row)
        stored, n_stored = self._stored(result)
        image = self._images.galaxy(galaxy_id)
        counts = (self._pool.n_prior, self._pool.n_shape, n_stored)
        observed = np.asarray(self._catalog.observed[row])
        rounds = [self._pool.points(data, image, stored, key)]
        while True:
            points, n_each = joined(rounds, counts)
            pool = _pool_of(points, n_each)
            odds = odds_of(pool, points, observed)
            n_next = min(2 * len(rounds), self._max_round)
            if is_enough(odds) or n_next == len(rounds):
                return self._judge(row, result, points, pool, odds, observed, jax.random.fold_in(key, 1))
            for place in range(len(rounds), n_next):
                again = jax.random.fold_in(key, _ROUND + place)
                rounds.append(self._pool.points(data, image, stored, again))

    def _stored(self, result: FitResult) -> tuple[dict[str, jax.Array], int]:
        """Draws of a fit, spread evenly over its chains, by variable."""
        n = result.draws("logmass").size
        pick = ((np.arange(min(self._n_draw, n)) + 0.5) * n / max(min(self._n_draw, n), 1)).astype(int)
        values = {}
        for name in map(str, result.posterior.data_vars):
            flat = result.draws(name)
            values[name] = jnp.asarray(flat.reshape(-1, *flat.shape[2:])[pick], jnp.float32)
        return values, len(pick)

    def _judge(
        self,
        row: int,
        result: FitResult,
        points: Points,
        pool: PoolDensity,
        odds: Odds,
        observed: np.ndarray,
        key: jax.Array,
    ) -> tuple[Check, Detail]:
        catalog = self._catalog
        limit = np.asarray(catalog.upper_limit[row])
        use = observed & ~limit
        flux = np.where(observed, catalog.flux[row], 0.0)
        err = np.where(observed, catalog.flux_err[row], 1.0)
        prior, good = pool.prior, np.asarray(points.fluxes.good, np.float64)
        inside = np.where(points.inside, prior, -np.inf)
        base = log_weights(pool) + np.where(np.isfinite(inside), inside, 0.0)
        base = np.where(np.isfinite(inside), base, -np.inf)
        image = np.asarray(points.image, np.float64)
        by_image = _normalised(base + image)
        others = base[:, None] + image[:, None] + good[:, None] - points.fluxes.of_band
        by_others = np.stack([_normalised(column) for column in others.T], axis=1)
        scatter = tuple(
            np.asarray(part) for part in (points.flux, points.error_floor, points.outlier_fraction)
        )
        predicted = replicates(key, by_image, scatter[0], err, observed, scatter[1], scatter[2])
        p_photometry = p_of_fluxes(jax.random.fold_in(key, 1), predicted, flux, err, use)
        p_band = p_of_bands(by_others, scatter[0], scatter[1], scatter[2], flux, err, use)
        variance = err**2 + (points.error_floor[:, None] * np.asarray(points.flux, np.float64)) ** 2
        chi2 = (np.where(use, (flux - points.flux) ** 2 / variance, 0.0)).sum(axis=1)
        p_image = float(self._p_image[result.galaxy_id])
        found = Check(
            result.galaxy_id, odds.same, odds.same_error, p_photometry, p_image, odds.corrupted,
            odds.corrupted_error, odds.kinds, odds.kinds_photometry, catalog.filter_names, odds.bands, p_band,
            float(np.nanmin(chi2)), int(use.sum()), odds.ess, sum(pool.counts[:2]),
            self._flag(result, odds, points, pool),
        )  # fmt: skip
        rng = np.random.default_rng(self._seed)
        by_flux = _normalised(base + good)
        theta = np.asarray(points.theta, np.float64)
        weights = (_normalised(base), by_image, by_flux)
        of_prior, of_image, of_flux = (theta[rng.choice(len(w), _N_SHOWN, p=w)] for w in weights)
        shown = np.where(observed, flux, np.nan)
        quantiles = np.quantile(predicted, (0.16, 0.5, 0.84), axis=0)
        return found, Detail(
            self._images.likelihood.names, of_prior, of_image, of_flux, self._wave, shown, err, quantiles,
            band_quantiles(by_others, scatter[0], scatter[1], scatter[2], err, rng),
        )  # fmt: skip

    def _flag(self, result: FitResult, odds: Odds, points: Points, pool: PoolDensity) -> str:
        """Flags of image, fit and check."""
        flags = [flag for flag in result.flag.split(",") if flag != "ok"]
        flags += self._images.flags(result.galaxy_id)
        fit = log_weights(pool) + pool.fit
        where = np.isfinite(pool.prior)
        weight = _normalised(np.where(where, fit, -np.inf))
        if float(weight[np.asarray(points.inside)].sum()) < _MIN_INSIDE:
            flags.append("outside_training")
        if not is_enough(odds):
            flags.append("few_points")
        return ",".join(dict.fromkeys(flags)) or "ok"


def _pool_of(points: Points, counts: tuple[int, int, int]) -> PoolDensity:
    prior, good = (np.asarray(value, np.float64) for value in (points.log_prior, points.fluxes.good))
    return PoolDensity(prior, np.asarray(points.log_shape, np.float64), prior + good, counts)


def _normalised(log_weight: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
    """Weights that sum to one; even ones if all are zero."""
    total = logsumexp(log_weight)
    if not np.isfinite(total):
        return np.full(len(log_weight), 1 / len(log_weight))
    weight: np.ndarray = np.exp(log_weight - total)
    weight /= weight.sum()
    return weight
