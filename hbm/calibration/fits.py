"""Posteriors of a case's galaxies from photometry, from images and from both.

Photometry is always sampled by NUTS (`hbm.fit`). The other two come from importance weights where those are
good enough (`hbm.calibration.importance`) and from NUTS where not; some galaxies get both ways, to compare.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hbm.calibration.importance import N_KEPT, image_log_prob, reweight
from hbm.calibration.pieces import Pieces, digest
from hbm.catalog import Catalog
from hbm.catalog_images import CatalogImages
from hbm.config import ModelConfig
from hbm.galaxies import DataBuilder
from hbm.labels import split_component
from hbm.model import GalaxyData
from hbm.queue import default_batch_size
from hbm.results import FitResult
from hbm.sampler import SamplerConfig
from hbm.sbc import draw_prior
from sed.ssp import SSPGrid

Use = Literal["photometry", "image", "joint"]
USES: tuple[Use, ...] = ("photometry", "image", "joint")
"""What posteriors may be from."""

PROPERTIES = ("logmass", "logssfr", "mwa", "logzsol", "dust2", "gas_logu")
"""What images depend on: TARP is of these together."""

PIECE = 32
"""Galaxies fitted between two savings."""

_N_WEIGHTED = 2400
"""Draws of a photometric posterior that are weighted."""

_N_POOL, _BLOCK = 65536, 4096
"""Draws of the prior at each redshift, and how many are made at a time."""

_WORD = {"photometry": ("photometry",), "image": ("image",), "joint": ("photometry", "image")}

Domain = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""Of mass-weighted ages, logssfr and a redshift: whether galaxies of the mock can be like that."""


class TimeUpError(Exception):
    """The time that was given is over; everything finished is saved."""


class Posteriors(NamedTuple):
    """Draws of equal weight of each galaxy's posterior."""

    draws: np.ndarray
    """(galaxy, draw, quantity), `N_KEPT` draws."""
    converged: np.ndarray
    """Whether the chains converged, or the weights are good."""
    sampled: np.ndarray
    """True for NUTS, False for importance weights."""
    effective: np.ndarray
    """Effective number of draws: smallest bulk one of the chains, or that of the weights."""


class Agreement(NamedTuple):
    """Importance weights against NUTS, of galaxies that have both."""

    n: int
    mean: float
    """Root mean square over galaxies and properties of the difference of means, in standard deviations."""
    expected: float
    """What so few effective draws give for it where both ways draw from the same posterior."""
    largest: float
    """Largest of them."""
    width: float
    """Median ratio of the standard deviations, weights over NUTS."""


def quantities(config: ModelConfig) -> tuple[str, ...]:
    """Names of the quantities whose calibration is looked at, the six properties first."""
    if config.sfh != "binned":
        history = ["tage", "logtau"]
    else:
        history = ["logsfr_ratio_recent", *(f"logsfr_ratios[{i}]" for i in range(config.n_old - 1))]
    dust = ["dust1_fraction", *(["dust_index"] if config.curve == "kriek_conroy" else [])]
    return (*PROPERTIES, *history, *dust, "logmstar", "logsfr_100")


class Fitter:
    """Fits of one case. What is finished is saved and found again.

    Parameters
    ----------
    catalog
        Galaxies with images.
    config
        What is fitted, its prior cut to the image model's domain.
    builder
        Compiles photometry of that configuration.
    sampler, grid, seed
        As for `hbm.fit`.
    method
        Whether image and joint posteriors are from ``importance`` weights where these are good, or all from
        ``nuts``.
    n_check
        Galaxies for which both ways are compared, at least.
    domain
        What galaxies there are. Posteriors are restricted to it, as the mock is.
    pieces
        Where finished parts are kept.
    is_over
        Whether the time is up.
    progress
        Told (done, total, text).
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        config: ModelConfig,
        builder: DataBuilder,
        sampler: SamplerConfig,
        grid: SSPGrid | str | Path | None,
        seed: int,
        method: Literal["importance", "nuts"],
        n_check: int,
        domain: Domain,
        pieces: Pieces,
        is_over: Callable[[], bool],
        progress: Callable[[int, int, str], None],
    ) -> None:
        if catalog.images is None:
            raise ValueError("`catalog` must have images.")
        self.catalog, self.config, self.builder, self.sampler = catalog, config, builder, sampler
        self.images: CatalogImages = catalog.images
        self.grid, self.seed, self.method, self.n_check = grid, seed, method, n_check
        self.domain, self.pieces, self.is_over, self.progress = domain, pieces, is_over, progress
        self.names = quantities(config)
        self._pool: dict[float, np.ndarray] = {}
        self.agreement: dict[Use, Agreement] = {}
        """By use, once `posteriors` has been called."""

    def posteriors(self, use: Use) -> Posteriors:
        """All galaxies' posteriors.

        Raises
        ------
        TimeUpError
            If the time is over before they are done.
        """
        every = list(range(len(self.catalog)))
        if use == "photometry" or self.method == "nuts":
            return _together([self._kept(piece, rows) for rows, piece in self._sampled(use, every)])
        weighted = _together([self._weighted(use, rows) for rows in _groups(every)])
        poor = np.flatnonzero(~weighted.converged).tolist()
        return self._with_sampled(use, weighted, poor)

    def _with_sampled(self, use: Use, weighted: Posteriors, poor: list[int]) -> Posteriors:
        """Put draws of NUTS where the weights are not good, and compare both ways elsewhere."""
        # Others fill the places of a leg up, so that one compiled program serves all legs.
        others = [row for row in range(len(self.catalog)) if row not in set(poor)]
        width = min(default_batch_size(), len(self.catalog))
        n_more = min(self.n_check, len(others))
        n_more = min(len(others), n_more + -(len(poor) + n_more) % width)
        rows = [*poor, *others[:n_more]]
        if not rows:
            return weighted
        parts = [self._kept(piece, some) for some, piece in self._sampled(use, rows)]
        sampled = _together(parts)
        both = np.arange(len(poor), len(rows))
        if len(both):
            mine = Posteriors(*(item[rows[len(poor) :]] for item in weighted))
            self.agreement[use] = _agreement(mine, Posteriors(*(item[both] for item in sampled)))
        merged = [np.array(item) for item in weighted]
        for item, new in zip(merged, sampled, strict=True):
            item[poor] = new[: len(poor)]
        return Posteriors(*merged)

    def _sampled(self, use: Use, rows: Sequence[int]) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """Fit by NUTS, some galaxies at a time."""
        for n_done, some in enumerate(_groups(rows)):
            key = self._key(use, "nuts", some)
            piece = self.pieces.get(key)
            if piece is None:
                self._stop_if_over()
                piece = self.pieces.put(key, self._fit(use, some, f"{n_done * PIECE} of {len(rows)}"))
            yield some, piece

    def _fit(self, use: Use, rows: list[int], text: str) -> dict[str, np.ndarray]:
        from hbm.fitting import fit

        results: list[FitResult] = fit(
            self.catalog.select(rows), config=self.config, sampler=self.sampler, grid=self.grid,
            seed=self.seed, use=_WORD[use],
            progress=lambda done, total, what: self.progress(done, total, f"{use}, {text}: {what}"),
        )  # fmt: skip
        draws = [np.stack([np.ravel(one.draws(n)) for n in self.names], axis=1) for one in results]
        verdicts = [one.convergence for one in results]
        return {
            "draws": np.stack([_evenly(one, _N_WEIGHTED) for one in draws]).astype(np.float32),
            "converged": np.array([v.converged for v in verdicts]),
            "effective": np.array([v.ess_bulk_min for v in verdicts]),
            "efficiency": np.array(
                [v.ess_bulk_min / len(d) for v, d in zip(verdicts, draws, strict=True)]
            ),
        }  # fmt: skip

    def _kept(self, piece: dict[str, np.ndarray], rows: Sequence[int]) -> Posteriors:
        """Draws of NUTS inside the domain."""
        kept = []
        for row, draws in zip(rows, piece["draws"], strict=True):
            inside = draws[self._inside(draws, row)]
            kept.append(_evenly(inside if len(inside) else draws, N_KEPT))
        return Posteriors(np.stack(kept), piece["converged"], np.ones(len(rows), bool), piece["effective"])

    def _weighted(self, use: Use, rows: list[int]) -> Posteriors:
        """Draws by importance weights."""
        key = self._key(use, "importance", rows)
        piece = self.pieces.get(key)
        if piece is None:
            base = None
            if use == "joint":
                base = next(piece for _, piece in self._sampled("photometry", rows))
            self._stop_if_over()
            found = []
            for place, row in enumerate(rows):
                self.progress(row, len(self.catalog), f"{use}: weighting draws")
                found.append(self._reweighted(row, None if base is None else (base, place)))
            piece = self.pieces.put(key, {name: np.stack([f[name] for f in found]) for name in found[0]})
        good = piece["converged"]
        return Posteriors(piece["draws"], good, np.zeros(len(good), bool), piece["effective"])

    def _reweighted(self, row: int, base: tuple[dict[str, np.ndarray], int] | None) -> dict[str, Any]:
        """One galaxy: from its photometric posterior, or from the prior if there is none."""
        is_sound, efficiency = True, 1.0
        if base is None:
            draws = self._prior(row)
        else:
            piece, place = base
            draws = piece["draws"][place]
            is_sound = bool(piece["converged"][place])
            efficiency = float(np.clip(np.nan_to_num(piece["efficiency"][place]), 1e-3, 1.0))
        theta = jnp.asarray(draws[:, : len(PROPERTIES)], jnp.float32)
        order = [PROPERTIES.index(name) for name in self.images.likelihood.names]
        galaxy = jax.tree.map(jnp.asarray, self.images.galaxy(self.catalog.id[row]))
        log_weight = np.asarray(image_log_prob(self.images.likelihood, theta[:, order], galaxy), np.float64)
        log_weight = np.where(self._inside(draws, row), log_weight, -np.inf)
        if not np.any(log_weight > -np.inf):
            return {"draws": draws[:N_KEPT], "converged": False, "effective": 0.0, "k": np.inf}
        rng = np.random.default_rng((self.seed, row))
        found = reweight(log_weight, rng, efficiency=efficiency)
        return {
            "draws": draws[found.rows], "converged": is_sound and found.is_good,
            "effective": found.effective, "k": found.k,
        }  # fmt: skip

    def _prior(self, row: int) -> np.ndarray:
        """Draws of the prior at a galaxy's redshift, (draw, quantity)."""
        zred = float(self.catalog.zred[row])
        if zred not in self._pool:
            data = self.builder(self.catalog, row)
            self._pool[zred] = prior_pool(data, self.config, self.names, _N_POOL, self.seed)
        return self._pool[zred]

    def _inside(self, draws: np.ndarray, row: int) -> np.ndarray:
        mwa, logssfr = (draws[:, self.names.index(name)] for name in ("mwa", "logssfr"))
        return self.domain(mwa, logssfr, float(self.catalog.zred[row]))

    def _key(self, use: Use, method: str, rows: Sequence[int]) -> str:
        """Name of a piece: of what the posteriors depend on, so that cases share what is the same."""
        some = self.catalog.select(list(rows))
        parts: list[Any] = [use, method, some.id, some.zred, self.seed]
        if use != "image":
            parts += [some.flux, some.flux_err]
        if use != "photometry":
            parts += [np.asarray(leaf) for name in some.id for leaf in self.images.galaxy(name)]
        return f"{use}-{method}-{digest(*parts)}"

    def _stop_if_over(self) -> None:
        if self.is_over():
            raise TimeUpError


_draw_block = jax.jit(draw_prior, static_argnums=1)
_STREAM = 0x9001


def prior_pool(data: GalaxyData, config: ModelConfig, names: Sequence[str], n: int, seed: int) -> np.ndarray:
    """Draws of the prior at a galaxy's redshift, (draw, quantity), in single precision."""
    parts = []
    # Apart from those of `hbm.sbc.simulate`: with its seed, the pool would hold the truths themselves.
    root = jax.random.fold_in(jax.random.key(seed), _STREAM)
    for block in range(-(-n // _BLOCK)):
        keys = jax.random.split(jax.random.fold_in(root, block), _BLOCK)
        drawn = jax.device_get(_draw_block(data, config, keys))
        columns = []
        for component in names:
            name, index = split_component(component)
            where: tuple[slice | int, ...] = (slice(None), *index)
            columns.append(np.asarray(drawn[name])[where])
        parts.append(np.stack(columns, axis=1))
    return np.concatenate(parts)[:n].astype(np.float32)


def _groups(rows: Sequence[int]) -> list[list[int]]:
    return [list(rows[first : first + PIECE]) for first in range(0, len(rows), PIECE)]


def _evenly(draws: np.ndarray, n: int) -> np.ndarray:
    """``n`` of the rows, spread evenly; some twice if there are fewer."""
    chosen: np.ndarray = draws[((np.arange(n) + 0.5) * len(draws) / n).astype(int)]
    return chosen


def _together(parts: Sequence[Posteriors]) -> Posteriors:
    return Posteriors(*(np.concatenate(items) for items in zip(*parts, strict=True)))


def _agreement(weighted: Posteriors, sampled: Posteriors) -> Agreement:
    """Difference of two ways of drawing the same posteriors, in the six properties."""
    n = len(PROPERTIES)
    a, b = weighted.draws[..., :n].astype(np.float64), sampled.draws[..., :n].astype(np.float64)
    off = (a.mean(1) - b.mean(1)) / b.std(1)
    chance = 1 / weighted.effective + 1 / N_KEPT + 1 / np.minimum(sampled.effective, N_KEPT)
    return Agreement(
        len(a),
        float(np.sqrt(np.mean(off**2))),
        float(np.sqrt(np.mean(chance))),
        float(np.abs(off).max()),
        float(np.median(a.std(1) / b.std(1))),
    )
