"""Fits with Prospector's spectra and the sampler nautilus, to check posteriors of this package against.

Model, data and prior are the same. The likelihood is written down again in NumPy; the prior goes from the
unit cube through the quantile functions of the plain statement of the model. Prospector's spectra are
integrated over the bands on a grid that holds the wavelengths of the filters too: its own sum over the
spectrum's wavelengths is off by 1 % in J. For the comparison our chains are run with four times the draws,
so that the sampling error of a mean is about 0.02 sigma; the time given is that of a normal run. FSPS has
the absorption of Madau (1995) alone: compare models with ``igm="madau"``.
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from numpyro import handlers
from scipy.special import ndtri

import hbm
from benchmarks._batches import BatchCache
from benchmarks._common import print_table
from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.distributions import NormalReparam
from hbm.galaxies import DataBuilder
from hbm.model import GalaxyData, derived_quantities, parameters_from_sites, photometric_model
from hbm.results import FitResult
from hbm.sampler import SamplerConfig
from sed.filters import FilterSet
from sed.photometry import band_matrix
from sed.ssp import SSPGrid

QUANTITIES = (
    "logmass", "logssfr", "logsfr_ratio_recent", *(f"logsfr_ratios[{i}]" for i in range(4)), "logzsol",
    "dust2", "dust1_fraction", "dust_index", "gas_logu", "mwa", "logsfr_100", "logmstar",
)  # fmt: skip
MEAN_GOAL, WIDTH_GOAL = 0.1, 0.15
_SEED = 21
_SLICE_S = 60.0
"""nautilus notes how long it ran after pieces of this length."""


def repeated(catalog: Catalog, rows: Sequence[int]) -> Catalog:
    """Galaxies by position, some of them several times, with new identifiers."""
    rows_array = np.asarray(rows)
    arrays = ("zred", "zred_err", "flux", "flux_err", "observed", "upper_limit")
    return Catalog(
        id=tuple(f"{i}_{catalog.id[row]}" for i, row in enumerate(rows)),
        **{name: getattr(catalog, name)[rows_array] for name in arrays},
        filter_names=catalog.filter_names,
        meta=catalog.meta,
    )


def timed_fit(
    catalog: Catalog, batch: int, config: ModelConfig, sampler: SamplerConfig, grid: SSPGrid, seed: int
) -> tuple[list[FitResult], list[float]]:
    """Results, and the wall time of each batch: data, sampling, reruns, diagnostics."""
    marks: list[float] = []

    def progress(done: int, total: int, text: str) -> None:
        del total
        if done == 0 and text.startswith("compiling"):
            marks.append(time.perf_counter())

    results = hbm.fit(
        catalog, config=config, sampler=sampler, grid=grid, seed=seed, batch_size=batch, progress=progress
    )
    return results, np.diff([*marks, time.perf_counter()]).tolist()


def cube_to_sites(
    galaxy: GalaxyData, config: ModelConfig
) -> tuple[Callable[[Any], dict[str, jax.Array]], int]:
    """Prior transform: from standard normals, the quantiles of the unit cube, to the sites of the model."""

    def through_normal(site: dict[str, Any]) -> NormalReparam | None:
        return None if site["name"].endswith("_base") else NormalReparam(source=None)

    model = handlers.seed(handlers.reparam(photometric_model, config=through_normal), jax.random.key(0))

    def trace(normals: dict[str, jax.Array]) -> dict[str, Any]:
        sites: dict[str, Any] = handlers.trace(handlers.substitute(model, data=normals)).get_trace(
            galaxy, config, use_data=False
        )
        return sites

    latent = {name: site["value"] for name, site in trace({}).items() if name.endswith("_base")}
    flat, unravel = ravel_pytree(latent)

    def sites_of(vector: Any) -> dict[str, jax.Array]:
        sites = trace(unravel(jnp.asarray(vector, flat.dtype)))
        return {
            name: jnp.asarray(site["value"]) for name, site in sites.items() if not name.endswith("_base")
        }

    return sites_of, int(flat.shape[0])


class ProspectorFlux:
    """Fluxes of Prospector's spectra, for sites of our model, in our solar luminosity.

    Parameters
    ----------
    galaxy
        Its redshift and age bins are used.
    config
        The model.
    filters
        Bands.
    sites
        Any galaxy of the model, for the shapes.
    """

    def __init__(
        self, galaxy: GalaxyData, config: ModelConfig, filters: FilterSet, sites: dict[str, Any]
    ) -> None:
        from sed.prospector import PROSPECTOR_LSUN_RATIO, prospector_model
        from sed.reference import FSPSReference, sedpy_filters

        self.zred, self.filters = float(galaxy.zred), filters
        params = parameters_from_sites(sites, config)
        self._built = prospector_model(
            params,
            self.zred,
            reference=FSPSReference(dust_emission=True),
            agebins=np.asarray(galaxy.photometry.agebins, np.float64),
            igm=config.igm == "madau",
            fixed=("duste_umin", "duste_qpah", "duste_gamma"),
        )
        self._none: dict[str, Any] = {"filters": None, "wavelength": None, "spectrum": None}
        self._curves = {**self._none, "filters": sedpy_filters(filters)}
        self._ratio = PROSPECTOR_LSUN_RATIO
        self._matrix: np.ndarray | None = None

    def __call__(self, sites: dict[str, Any]) -> Float[np.ndarray, " band"]:
        """Fluxes in maggies."""
        wave, spectrum = self._spectrum(sites, self._none)
        if self._matrix is None:
            self._matrix = band_matrix(wave, self.filters, self.zred)
        return np.asarray(self._matrix @ spectrum) / self._ratio

    def _theta(self, sites: dict[str, Any]) -> np.ndarray:
        theta = self._built.theta.copy()
        for name, where in self._built.model.theta_index.items():
            theta[where] = np.asarray(sites[name], np.float64)
        return theta

    def _spectrum(self, sites: dict[str, Any], obs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Rest-frame wavelength (A) and spectrum (maggies) of Prospector's own ``predict``."""
        model = self._built.model
        model.predict(self._theta(sites), obs, sps=self._built.sps)
        return np.asarray(model._wave, np.float64), np.asarray(model._norm_spec, np.float64)

    def integration_errors(self, sites: dict[str, Any]) -> tuple[float, float]:
        """Largest relative difference from sedpy on a fine grid, here and in Prospector's own fluxes."""
        from sed.reference import spectrum_maggies

        ours = self(sites)
        wave, spectrum = self._spectrum(sites, self._none)
        fine = spectrum_maggies(wave * (1 + self.zred), spectrum, self.filters) / self._ratio
        _, own, _ = self._built.model.predict(self._theta(sites), self._curves, sps=self._built.sps)
        return float(np.max(np.abs(ours / fine - 1))), float(np.max(np.abs(own / self._ratio / fine - 1)))


def run_nautilus(
    catalog: Catalog, row: int, config: ModelConfig, grid: SSPGrid, cache: BatchCache, n_live: int, n_eff: int
) -> dict[str, np.ndarray]:
    """Posterior of one galaxy from Prospector's spectra: weighted points of QUANTITIES, time and calls."""
    key = f"nautilus{row:02d}"
    done = cache.get(key)
    if done is not None:
        return done
    from nautilus import Sampler

    builder = DataBuilder(grid, config, catalog.filter_names)
    galaxy = builder(catalog, row)
    sites_of, dim = cube_to_sites(galaxy, config)
    sites_jit = jax.jit(sites_of)
    flux_of = ProspectorFlux(galaxy, config, builder.filters, sites_jit(np.zeros(dim)))
    errors = flux_of.integration_errors(sites_jit(np.zeros(dim)))
    text = f"fluxes differ from sedpy on a fine grid by {errors[0]:.1e}, Prospector's own by {errors[1]:.1e}"
    print(f"{catalog.id[row]}: {text}", flush=True)
    if np.any(catalog.upper_limit[row]):
        raise ValueError(f"{catalog.id[row]} has upper limits, which this comparison does not treat.")
    use = catalog.observed[row]
    flux, err = catalog.flux[row][use], catalog.flux_err[row][use]
    floor = float(config.error_floor)

    def loglike(cube: np.ndarray) -> float:
        sites = sites_jit(ndtri(np.clip(cube, 1e-12, 1 - 1e-12)))
        model = flux_of(sites)[use]
        variance = err**2 + (floor * model) ** 2
        return float(-0.5 * np.sum((flux - model) ** 2 / variance + np.log(2 * np.pi * variance)))

    clock = cache.folder / f"{key}_seconds.json"
    seconds = float(json.loads(clock.read_text())) if clock.is_file() else 0.0
    path = cache.folder / f"{key}.hdf5"
    if not path.is_file():
        seconds = 0.0
        start = time.perf_counter()
        loglike(np.full(dim, 0.5))
        print(f"first call {time.perf_counter() - start:.1f} s", flush=True)
    sampler = Sampler(
        lambda cube: cube,
        loglike,
        n_dim=dim,
        n_live=n_live,
        n_networks=4,
        seed=_SEED,
        filepath=path,
        resume=True,
    )
    finished = False
    while not finished:
        start = time.perf_counter()
        finished = bool(sampler.run(n_eff=n_eff, timeout=_SLICE_S))
        seconds += time.perf_counter() - start
        clock.write_text(json.dumps(seconds))
        print(
            f"{catalog.id[row]}: {seconds:.0f} s, {sampler.n_like} calls, n_eff {sampler.n_eff:.0f}",
            flush=True,
        )
    points, log_weight, _ = sampler.posterior()
    normals = ndtri(np.clip(points, 1e-12, 1 - 1e-12))

    def all_of(vector: Any) -> dict[str, jax.Array]:
        sites = sites_of(vector)
        return sites | derived_quantities(sites, galaxy, config)

    values = jax.jit(lambda vectors: jax.lax.map(all_of, vectors))(jnp.asarray(normals, jnp.float32))
    columns = np.stack([_component(values, name) for name in QUANTITIES], axis=-1)
    return cache.put(
        key,
        {
            "values": columns,
            "weight": np.exp(log_weight - log_weight.max()),
            "seconds": seconds,
            "n_call": sampler.n_like,
            "n_eff": sampler.n_eff,
            "log_evidence": sampler.log_z,
            "integration_errors": errors,
        },
    )


def _component(values: dict[str, Any], name: str) -> Float[np.ndarray, " point"]:
    base, _, index = name.partition("[")
    column = np.asarray(values[base], np.float64)
    return column[:, int(index[:-1])] if index else column


def compare_with_prospector(
    catalog: Catalog,
    n: int,
    config: ModelConfig,
    sampler: SamplerConfig,
    grid: SSPGrid,
    seed: int,
    *,
    n_live: int,
    n_eff: int,
) -> dict[str, Any]:
    """Fit the first galaxies of a catalogue both ways: table and numbers."""
    # Each galaxy's file must not depend on how many are asked for.
    first = [catalog.id[0], *(f"{value:.3g}" for value in catalog.flux[0])]
    settings = {"config": json.loads(config.to_json()), "bands": catalog.filter_names, "n_live": n_live,
                "n_eff": n_eff, "seed": seed, "first": first}  # fmt: skip
    cache = BatchCache("photometry_fit", settings)
    theirs = [run_nautilus(catalog, row, config, grid, cache, n_live, n_eff) for row in range(n)]
    rows_twice = [row for row in range(n) for _ in range(2)]
    _, seconds = timed_fit(repeated(catalog, rows_twice), 1, config, sampler, grid, seed)
    longer = sampler._replace(n_draw=4 * sampler.n_draw)
    fits, _ = timed_fit(repeated(catalog, list(range(n))), n, config, longer, grid, seed)
    galaxies, rows = [], []
    for i, (fit, other) in enumerate(zip(fits, theirs, strict=True)):
        weight = other["weight"] / other["weight"].sum()
        mean = weight @ other["values"]
        sigma = np.sqrt(weight @ (other["values"] - mean) ** 2)
        ours = np.stack([fit.draws(name).ravel() for name in QUANTITIES], axis=-1)
        shift, width = (ours.mean(axis=0) - mean) / sigma, ours.std(axis=0) / sigma - 1
        worst, widest = int(np.argmax(np.abs(shift))), int(np.argmax(np.abs(width)))
        fast = seconds[2 * i + 1]
        rows.append(
            [catalog.id[i], f"{shift[worst]:+.2f} ({QUANTITIES[worst]})",
             f"{width[widest]:+.0%} ({QUANTITIES[widest]})",
             f"{fit.convergence.ess_bulk_min:.0f}", f"{1 / np.sum(weight**2):.0f}", f"{int(other['n_call'])}",
             f"{fast:.1f}", f"{float(other['seconds']):.0f}", f"{float(other['seconds']) / fast:.0f}"]
        )  # fmt: skip
        galaxies.append(
            {
                "id": catalog.id[i],
                "zred": float(catalog.zred[i]),
                "mean_shift_sigma": dict(zip(QUANTITIES, shift.tolist(), strict=True)),
                "width_difference": dict(zip(QUANTITIES, width.tolist(), strict=True)),
                "our_ess_bulk_min": fit.convergence.ess_bulk_min,
                "our_flag": fit.convergence.flag,
                "our_warm_s": fast,
                "nautilus_s": float(other["seconds"]),
                "nautilus_calls": int(other["n_call"]),
                "nautilus_n_eff": float(1 / np.sum(weight**2)),
                "integration_errors": other["integration_errors"].tolist(),
                "nautilus_code": str(other["code"]),
            }
        )
    print_table(
        ["galaxy", "mean shift, sigma", "width", "ESS", "n_eff", "calls", "our s", "nautilus s", "ratio"],
        rows,
    )
    shifts = [abs(v) for g in galaxies for v in g["mean_shift_sigma"].values()]
    widths = [abs(v) for g in galaxies for v in g["width_difference"].values()]
    passed = bool(max(shifts) <= MEAN_GOAL and max(widths) <= WIDTH_GOAL)
    print(f"means: median {np.median(shifts):.3f}, largest {max(shifts):.3f} sigma; widths: median "
          f"{np.median(widths):.1%}, largest {max(widths):.1%}: {'PASS' if passed else 'FAIL'}")  # fmt: skip
    return {
        "galaxies": galaxies,
        "largest_shift_sigma": max(shifts),
        "median_shift_sigma": float(np.median(shifts)),
        "largest_width_difference": max(widths),
        "time_ratio_median": float(np.median([g["nautilus_s"] / g["our_warm_s"] for g in galaxies])),
        "n_live": n_live,
        "n_eff_goal": n_eff,
        "passed": passed,
    }
