"""Fluxes, and chi-squares with their gradient, per second.

Each galaxy has a redshift, compiled photometry and data of its own; chi-square is differentiated with
respect to all its free parameters (12 for the binned history); ten bands, single precision. FSPS and
Prospector run in the same process with parameters that change every call. Goal: 100,000 values with gradient
per second at batches of 1000 on two cores.

    python -m benchmarks.sed_speed [--quick] [--no-fsps]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._common import Timing, measure, print_table, write_result
from benchmarks.draws import BANDS, Draws, draw_galaxies
from benchmarks.sed_accuracy import galaxy_agebins, madau
from sed.compile import DustEmissionParams, PhotometryCompiler
from sed.compiled import CompiledPhotometry, stack, stacked_axes
from sed.cosmology import default_cosmology
from sed.filters import FilterSet, load_filters
from sed.io import load_grid
from sed.parameters import SEDParams
from sed.photometry import band_matrix, maggies_per_luminosity
from sed.sfh import bin_weights
from sed.spectrum import SpectrumModel
from sed.ssp import SSPGrid

GOAL = 100_000
"""Values with gradient per second at `GOAL_BATCH`."""
GOAL_BATCH = 1000
BATCHES = (1, 10, 100, 1000, 10_000)
FULL_BATCHES = (1, 10, 100)

_N_COMPILED = 50
_REL_ERR = 0.05


def rows_of(tree: Any, n: int) -> Any:
    """First ``n`` rows, from the start again where there are fewer."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[np.arange(n) % len(leaf)]), tree)


def compiled_batch(stacked: CompiledPhotometry, n: int) -> CompiledPhotometry:
    """Give every galaxy a tensor of its own in memory."""
    bare = eqx.tree_at(lambda tree: tree.lines, stacked, None)
    lines = jax.tree.map(jnp.asarray, stacked.lines)
    batch: CompiledPhotometry = eqx.tree_at(
        lambda tree: tree.lines, rows_of(bare, n), lines, is_leaf=lambda leaf: leaf is None
    )
    return batch


def timings(
    flux: Callable[[Any, SEDParams], jax.Array], galaxy: Any, axes: Any, params: SEDParams, rounds: int
) -> tuple[Timing, Timing]:
    """Time fluxes, and chi-square with gradient, of a batch."""

    def chi2(params: SEDParams, galaxy: Any, data: jax.Array) -> jax.Array:
        return jnp.sum(((flux(galaxy, params) - data) / (_REL_ERR * data)) ** 2)

    value = jax.jit(jax.vmap(flux, in_axes=(axes, 0)))
    both = jax.jit(jax.vmap(jax.value_and_grad(chi2), in_axes=(0, axes, 0)))
    value_time = measure(lambda: value(galaxy, params), rounds=rounds)
    data = 1.1 * value(galaxy, params)
    return value_time, measure(lambda: both(params, galaxy, data), rounds=rounds)


def full_inputs(draws: Draws, grid: SSPGrid, filters: FilterSet, n: int) -> tuple[Any, ...]:
    """Age bins, their weights and the band matrix of each galaxy."""
    rows = []
    for zred in draws.zred[:n].tolist():
        bins = galaxy_agebins(zred, grid)
        unit = maggies_per_luminosity(zred, float(default_cosmology().luminosity_distance_np(zred)))
        rows.append(
            (bins, bin_weights(bins, grid.log_age), band_matrix(grid.wave, filters, zred, igm=madau) * unit)
        )
    return tuple(jnp.asarray(np.stack(part), jnp.float32) for part in zip(*rows, strict=True))


def full_flux(model: SpectrumModel) -> Callable[[Any, SEDParams], jax.Array]:
    """Fluxes through the whole spectrum."""

    def flux(galaxy: Any, params: SEDParams) -> jax.Array:
        bins, weight, matrix = galaxy
        mine = eqx.tree_at(lambda m: (m.agebins, m.bin_weight), model, (bins, weight))
        return jnp.matmul(matrix, mine(params).luminosity)

    return flux


def reference_per_second(draws: Draws, grid: SSPGrid, filters: FilterSet, n: int) -> dict[str, float]:
    """Fluxes per second of python-fsps and of Prospector: one redshift, parameters that change."""
    from sed.prospector import prospector_model
    from sed.reference import FSPSReference, sedpy_filters

    zred = float(draws.zred[0])
    bins = galaxy_agebins(zred, grid)
    reference = FSPSReference(dust_emission=True)
    # Near one metallicity, so that FSPS does not rebuild its spectra: an advantage to it.
    draws = Draws(draws.columns | {"logzsol": -0.3 + 1e-3 * np.arange(len(draws.zred))}, draws.zred)

    def fsps_once(i: int) -> None:
        reference.band_flux(draws.one(i), filters, zred, agebins=bins, union_grid=False)

    galaxy = prospector_model(draws.one(0), zred, reference=reference, agebins=bins)
    obs = {"filters": sedpy_filters(filters), "wavelength": None, "spectrum": None}
    index = galaxy.model.theta_index

    def prospector_once(i: int) -> None:
        one, theta = draws.one(i), galaxy.theta.copy()
        for name, where in index.items():
            theta[where] = getattr(one, name, getattr(one.sfh, name, None))
        galaxy.model.predict(theta, obs, sps=galaxy.sps)

    result = {}
    for name, once in (("python-fsps", fsps_once), ("prospector", prospector_once)):
        once(0)
        start = time.perf_counter()
        for i in range(1, n + 1):
            once(i)
        result[name] = n / (time.perf_counter() - start)
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batches up to 1000, fewer rounds")
    parser.add_argument("--no-fsps", action="store_true", help="leave out python-fsps and Prospector")
    parser.add_argument("--grid", type=Path, default=None, help="grid file; the shipped one by default")
    args = parser.parse_args(argv)
    grid, filters = load_grid(args.grid), load_filters(BANDS)
    rounds = 3 if args.quick else 6
    draws = draw_galaxies("binned", 1000, seed=7, max_age_gyr=grid.max_age_gyr)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), draws.stacked())
    start = time.perf_counter()
    compiler = PhotometryCompiler(grid, filters, igm=madau, duste_fixed=DustEmissionParams())
    prepared = time.perf_counter() - start
    start = time.perf_counter()
    stacked = stack([compiler(zred) for zred in draws.zred[:_N_COMPILED].tolist()])
    per_galaxy = (time.perf_counter() - start) / _N_COMPILED
    bytes_each = sum(leaf.nbytes for leaf in jax.tree.leaves(eqx.tree_at(lambda s: s.lines, stacked, None)))
    results: dict[str, Any] = {
        "prepare_s": prepared, "compile_per_galaxy_s": per_galaxy,
        "bytes_per_galaxy": bytes_each / _N_COMPILED,
    }  # fmt: skip
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), SpectrumModel.from_grid(
        grid, agebins=galaxy_agebins(1.0, grid)
    ))  # fmt: skip
    jobs = [("compiled", n) for n in BATCHES if n <= 1000 or not args.quick]
    jobs += [("full", n) for n in FULL_BATCHES if n <= 10 or not args.quick]
    rows = []
    for path, n in jobs:
        if path == "compiled":
            galaxy: Any = compiled_batch(stacked, n)
            value, both = timings(
                lambda one, p: one.flux(p), galaxy, stacked_axes(galaxy), rows_of(params, n), rounds
            )
        else:
            galaxy = full_inputs(draws, grid, filters, n)
            value, both = timings(full_flux(model), galaxy, 0, rows_of(params, n), rounds)
        results[f"{path}_{n}"] = {
            "value_per_s": n / value.run_s, "value_and_grad_per_s": n / both.run_s,
            "jit_value_s": value.first_s, "jit_value_and_grad_s": both.first_s,
        }  # fmt: skip
        rows.append([path, n, f"{n / value.run_s:.0f}", f"{n / both.run_s:.0f}", f"{both.first_s:.1f}"])
    if not args.no_fsps:
        reference = reference_per_second(draws, grid, filters, 20 if args.quick else 100)
        results |= {f"{name}_value_per_s": speed for name, speed in reference.items()}
        rows += [[name, 1, f"{speed:.1f}", "-", "-"] for name, speed in reference.items()]
    print_table(["path", "batch", "values/s", "values+gradients/s", "jit s"], rows)
    speed = results[f"compiled_{GOAL_BATCH}"]["value_and_grad_per_s"]
    print(f"goal {GOAL} at batch {GOAL_BATCH}: {'PASS' if speed >= GOAL else 'FAIL'} ({speed:.0f})")
    settings = {"bands": BANDS, "dtype": "float32", "sfh": "binned", "quick": args.quick, "goal": GOAL}
    write_result("sed_speed", settings, results | {"passed": bool(speed >= GOAL)})


if __name__ == "__main__":
    main()
