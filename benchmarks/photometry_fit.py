"""How long do fits take, and do they agree with Prospector's prediction under another sampler?

Galaxies are drawn from the prior (as in `benchmarks.photometry_sbc`) in eleven bands, unless --data names the
folder of 3D-HST, whose COSMOS galaxies are then fitted.

(a) One galaxy at a time until every sampled parameter has a bulk ESS of 400 and R-hat < 1.01 (and a tail ESS of
    400), compile time apart: each galaxy is fitted twice, the second counts. Goal: 5 s (median).
(b) 100 galaxies side by side, with compilation and without. Goal: 60 a minute.
(c) The same galaxies, data and prior with Prospector's spectra and nautilus. The likelihood is written down again
    here in NumPy; the prior goes from the unit cube through the quantile functions of the same statement of the
    model. Prospector's spectrum is integrated over the bands on a grid that holds the wavelengths of the filters
    too: its own sum over the spectrum's wavelengths is off by 1 % in J. Goal: posterior means within 0.1 sigma,
    standard deviations within 15 %. For this our chains are run with four times the draws, so that the
    sampling error of a mean is about 0.02 sigma; the time given is that of a normal run.

    python -m benchmarks.photometry_fit [--n 100] [--prospector 3] [--prospector-only 3] [--data FOLDER]

Each galaxy of (c) takes nautilus minutes to an hour; it resumes from results/.cache.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
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
from benchmarks._common import print_table, write_result
from benchmarks.photometry_sbc import simulated_galaxies
from hbm.catalog import Catalog
from hbm.config import InterimPrior, ModelConfig
from hbm.distributions import NormalReparam
from hbm.galaxies import DataBuilder
from hbm.model import GalaxyData, derived_quantities, parameters_from_sites, photometric_model
from hbm.results import FitResult
from hbm.sampler import SamplerConfig
from sed.filters import FilterSet
from sed.io import load_grid
from sed.photometry import band_matrix
from sed.ssp import SSPGrid

BANDS = (
    "galex_NUV", "sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0", "twomass_J", "twomass_H", "twomass_Ks",
    "spitzer_irac_ch1", "spitzer_irac_ch2",
)  # fmt: skip
QUANTITIES = (
    "logmass", "logssfr", "logsfr_ratio_recent", *(f"logsfr_ratios[{i}]" for i in range(4)), "logzsol", "dust2",
    "dust1_fraction", "dust_index", "gas_logu", "mwa", "logsfr_100", "logmstar",
)  # fmt: skip
SECONDS_GOAL, PER_MINUTE_GOAL, MEAN_GOAL, WIDTH_GOAL = 5.0, 60.0, 0.1, 0.15
SEED = 21
_SLICE_S = 60.0
"""nautilus writes how long it ran after pieces of this length."""


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
    catalog: Catalog, batch: int, config: ModelConfig, sampler: SamplerConfig, grid: SSPGrid
) -> tuple[list[FitResult], list[float]]:
    """Results, and the wall time of each batch: data, sampling, reruns, diagnostics."""
    marks: list[float] = []

    def progress(done: int, total: int, text: str) -> None:
        del total
        if done == 0 and text.startswith("compiling"):
            marks.append(time.perf_counter())

    results = hbm.fit(
        catalog, config=config, sampler=sampler, grid=grid, seed=SEED, batch_size=batch, progress=progress
    )
    return results, np.diff([*marks, time.perf_counter()]).tolist()


def speed(
    catalog: Catalog, config: ModelConfig, sampler: SamplerConfig, grid: SSPGrid, n: int, n_single: int
) -> dict[str, Any]:
    """Time parts (a) and (b)."""
    result: dict[str, Any] = {}
    if n_single > 0:
        pairs = [row for row in range(n_single) for _ in range(2)]
        fits, seconds = timed_fit(repeated(catalog, pairs), 1, config, sampler, grid)
        verdicts = [fit.convergence for fit in fits[1::2]]
        warm = seconds[1::2]
        rows = [
            [catalog.id[i], f"{first:.1f}", f"{s:.1f}", f"{v.ess_bulk_min:.0f}", f"{v.rhat_max:.4f}", v.flag]
            for i, (first, s, v) in enumerate(zip(seconds[::2], warm, verdicts, strict=True))
        ]
        print_table(["one galaxy", "first s", "second s", "bulk ESS", "R-hat", "flag"], rows)
        result["single"] = {
            "cold_s": seconds[0],
            "warm_s": warm,
            "warm_median_s": float(np.median(warm)),
            "ess_bulk_min": [v.ess_bulk_min for v in verdicts],
            "rhat_max": [v.rhat_max for v in verdicts],
            "converged": [v.converged for v in verdicts],
            "passed": bool(np.median(warm) <= SECONDS_GOAL and all(v.converged for v in verdicts)),
        }
    if n > 0:
        rows_two = [row % len(catalog) for row in range(2 * n)]
        fits, seconds = timed_fit(repeated(catalog, rows_two), n, config, sampler, grid)
        converged = [np.mean([fit.convergence.converged for fit in part]) for part in (fits[:n], fits[n:])]
        rate = [60 * n / s for s in seconds]
        table = [
            [name, n, f"{s:.1f}", f"{r:.0f}", f"{c:.0%}"]
            for name, s, r, c in zip(("cold", "warm"), seconds, rate, converged, strict=True)
        ]
        print_table(["batch", "galaxies", "s", "per minute", "converged"], table)
        result["batch"] = {
            "n": n,
            "cold_s": seconds[0],
            "warm_s": seconds[1],
            "cold_per_minute": rate[0],
            "warm_per_minute": rate[1],
            "fraction_converged": [float(c) for c in converged],
            "passed": bool(rate[1] >= PER_MINUTE_GOAL),
        }
    return result


def cube_to_sites(
    galaxy: GalaxyData, config: ModelConfig
) -> tuple[Callable[[Any], dict[str, jax.Array]], int]:
    """Prior transform: from standard normals, whose quantiles are the unit cube, to the sites of the model."""

    def through_normal(site: dict[str, Any]) -> NormalReparam | None:
        return None if site["name"].endswith("_base") else NormalReparam()

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
        """Largest relative difference from sedpy on a fine grid (ours) and of Prospector's own fluxes (its)."""
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
    print(f"{catalog.id[row]}: integration over bands {errors[0]:.1e} from sedpy on a fine grid, Prospector's own "
          f"{errors[1]:.1e}", flush=True)  # fmt: skip
    flux, err = catalog.flux[row], catalog.flux_err[row]
    floor = float(config.error_floor)

    def loglike(cube: np.ndarray) -> float:
        sites = sites_jit(ndtri(np.clip(cube, 1e-12, 1 - 1e-12)))
        model = flux_of(sites)
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
        seed=SEED,
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


def prospector(
    catalog: Catalog,
    n: int,
    config: ModelConfig,
    sampler: SamplerConfig,
    grid: SSPGrid,
    n_live: int,
    n_eff: int,
) -> dict[str, Any]:
    """Compare part (c)."""
    settings = {"config": json.loads(config.to_json()), "bands": catalog.filter_names, "n_live": n_live,
                "n_eff": n_eff, "seed": SEED, "flux": catalog.flux[:n].tolist()}  # fmt: skip
    # Each galaxy's file must not depend on how many are asked for.
    settings["flux"] = float(np.float32(catalog.flux[0, 0]))
    cache = BatchCache("photometry_fit", settings)
    theirs = [run_nautilus(catalog, row, config, grid, cache, n_live, n_eff) for row in range(n)]
    rows_twice = [row for row in range(n) for _ in range(2)]
    _, seconds = timed_fit(repeated(catalog, rows_twice), 1, config, sampler, grid)
    longer = sampler._replace(n_draw=4 * sampler.n_draw)
    fits, _ = timed_fit(repeated(catalog, list(range(n))), n, config, longer, grid)
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
            [catalog.id[i], f"{shift[worst]:+.2f} ({QUANTITIES[worst]})", f"{width[widest]:+.0%} ({QUANTITIES[widest]})",
             f"{fit.convergence.ess_bulk_min:.0f}", f"{float(other['n_eff']):.0f}", f"{int(other['n_call'])}",
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
                "nautilus_n_eff": float(other["n_eff"]),
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="galaxies of part (b); 0 leaves it out")
    parser.add_argument("--single", type=int, default=5, help="galaxies of part (a); 0 leaves it out")
    parser.add_argument("--prospector", type=int, default=3, help="galaxies of part (c); 0 leaves it out")
    parser.add_argument(
        "--prospector-only", type=int, default=0, metavar="K", help="part (c) alone, K galaxies"
    )
    parser.add_argument("--data", type=Path, default=None, help="folder of 3D-HST for parts (a) and (b)")
    parser.add_argument("--n-live", type=int, default=500, help="live points of nautilus")
    parser.add_argument(
        "--n-eff", type=int, default=4000, help="effective sample size at which nautilus ends"
    )
    parser.add_argument(
        "--draws", type=int, default=None, help="draws per chain; the sampler's default without it"
    )
    parser.add_argument("--warmup", type=int, default=None, help="steps of warm-up; likewise")
    args = parser.parse_args(argv)
    n_compare = args.prospector_only or args.prospector
    if n_compare and not os.environ.get("SPS_HOME"):
        raise SystemExit("part (c) needs SPS_HOME, the folder of FSPS's data; --prospector 0 leaves it out.")
    # FSPS has Madau (1995) alone.
    config = ModelConfig(igm="madau", prior=InterimPrior(logmass=(9.0, 11.5)))
    sampler = SamplerConfig()
    sampler = sampler._replace(n_draw=args.draws or sampler.n_draw, n_warmup=args.warmup or sampler.n_warmup)
    grid = load_grid()
    n_drawn = max(args.n, args.single, n_compare)
    simulated = simulated_galaxies(DataBuilder(grid, config, BANDS), n_drawn, SEED).catalog
    result: dict[str, Any] = {}
    if not args.prospector_only:
        catalog, speed_config = simulated, config
        if args.data is not None:
            from benchmarks.photometry_real import read_field

            catalog, speed_config = read_field(args.data, "COSMOS", n_drawn, SEED).catalog, ModelConfig()
        result = speed(catalog, speed_config, sampler, grid, args.n, args.single)
        result["data"] = "simulated" if args.data is None else "3D-HST COSMOS"
        result["n_band"] = len(catalog.filter_names)
    if n_compare:
        result["prospector"] = prospector(
            simulated, n_compare, config, sampler, grid, args.n_live, args.n_eff
        )
    settings = {
        "bands": BANDS, "config": json.loads(config.to_json()), "sampler": sampler._asdict(), "seed": SEED,
        "goals": {"single_s": SECONDS_GOAL, "per_minute": PER_MINUTE_GOAL, "mean_sigma": MEAN_GOAL, "width": WIDTH_GOAL},
        "compilation_cache": jax.config.jax_compilation_cache_dir,
    }  # fmt: skip
    write_result("photometry_prospector" if args.prospector_only else "photometry_fit", settings, result)


if __name__ == "__main__":
    main()
