"""Distance of the full and the compiled photometry from python-fsps, on the draws of `benchmarks.draws`.

Goal: in each band, over fluxes above 1e-3 of the galaxy's brightest band, median difference <= 0.1 % and
99th percentile <= 0.5 % (2 % in the GALEX bands).

    python -m benchmarks.sed_accuracy --n 1000

FSPS takes about 30 ms a galaxy and 10 s for each new pair of metallicities, so its fluxes are kept (and an
interrupted run is taken up again) in the folder that ``--reference`` names; where that holds enough galaxies,
FSPS is not needed. "sedpy's grid" is FSPS's spectrum integrated as Prospector does it, for information.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from benchmarks._common import RESULTS, print_table, write_result
from benchmarks.draws import BANDS, Draws, SFHKind, draw_galaxies
from sed.compile import DustEmissionParams, PhotometryCompiler
from sed.cosmology import default_cosmology
from sed.filters import FilterSet, load_filters
from sed.igm import igm_transmission_madau
from sed.io import load_grid
from sed.photometry import band_matrix, maggies_per_luminosity
from sed.reference import FSPSReference, spectrum_maggies
from sed.sfh import agebins, bin_weights
from sed.spectrum import SpectrumModel
from sed.ssp import SSPGrid

MEDIAN_GOAL = 1e-3
P99_GOAL = 5e-3
P99_GOAL_UV = 2e-2
BRIGHT = 1e-3
"""Bands fainter than this times the galaxy's brightest are left out."""
SEED = 20

_CHUNK = 25


class ReferenceFlux(NamedTuple):
    """python-fsps's fluxes in maggies."""

    exact: Float[np.ndarray, "galaxy band"]
    """Spectrum linear between its points, integrated exactly."""
    sedpy_grid: Float[np.ndarray, "galaxy band"]
    """As Prospector integrates it."""


def madau(wave: Float[np.ndarray, " wave"], zred: float) -> Float[np.ndarray, " wave"]:
    """FSPS's intergalactic absorption."""
    return np.asarray(igm_transmission_madau(wave, zred))


def galaxy_agebins(zred: float, grid: SSPGrid) -> Float[np.ndarray, "bin 2"]:
    """Age bins at a redshift, as `PhotometryCompiler` makes them."""
    return agebins(min(float(default_cosmology().age_np(zred)), grid.max_age_gyr))


def fsps_flux(draws: Draws, filters: FilterSet, grid: SSPGrid, path: Path) -> ReferenceFlux:
    """Fluxes from FSPS, or from the file where it has them."""
    columns = draws.columns | {"zred": draws.zred}
    done = _read_reference(path, columns)
    exact, coarse = list(done.exact), list(done.sedpy_grid)
    reference = FSPSReference(dust_emission=True)
    start, first = time.perf_counter(), len(exact)
    for i in range(first, len(draws.zred)):
        zred = float(draws.zred[i])
        wave, lnu, _ = reference.rest_spectrum(draws.one(i), galaxy_agebins(zred, grid), zred, igm=True)
        unit = maggies_per_luminosity(zred, float(default_cosmology().luminosity_distance_np(zred)))
        exact.append(spectrum_maggies(wave * (1 + zred), lnu * unit, filters))
        coarse.append(spectrum_maggies(wave * (1 + zred), lnu * unit, filters, union_grid=False))
        if (i + 1) % _CHUNK == 0 or i + 1 == len(draws.zred):
            _write_reference(path, columns, ReferenceFlux(np.array(exact), np.array(coarse)))
            print(f"{path.stem}: {i + 1} galaxies, {time.perf_counter() - start:.0f} s", flush=True)
    return ReferenceFlux(np.array(exact), np.array(coarse))


def _read_reference(path: Path, columns: dict[str, np.ndarray]) -> ReferenceFlux:
    """Read the galaxies of a file, from the first, that are the ones asked for."""
    if not path.is_file():
        return ReferenceFlux(np.zeros((0, len(BANDS))), np.zeros((0, len(BANDS))))
    with np.load(path) as file:
        n = min(len(file["exact"]), len(columns["zred"]))
        same = np.ones(n, bool)
        for name, value in columns.items():
            equal = np.isclose(file[name][:n], value[:n], rtol=1e-9, atol=1e-12)
            same &= equal.reshape(n, -1).all(axis=1)
        n = n if same.all() else int(np.argmin(same))
        return ReferenceFlux(file["exact"][:n], file["sedpy_grid"][:n])


def _write_reference(path: Path, columns: dict[str, np.ndarray], flux: ReferenceFlux) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    n = len(flux.exact)
    arrays: dict[str, Any] = flux._asdict() | {name: value[:n] for name, value in columns.items()}
    np.savez(partial, **arrays)
    os.replace(partial, path)


def our_flux(
    draws: Draws, filters: FilterSet, grid: SSPGrid, sfh: SFHKind, n_node: int | None = None
) -> tuple[Float[np.ndarray, "galaxy band"], Float[np.ndarray, "galaxy band"]]:
    """Full and compiled fluxes in maggies, in the precision of JAX at the time."""
    dtype = jnp.zeros(()).dtype.type
    compiler = PhotometryCompiler(
        grid, filters, sfh=sfh, igm=madau, n_node=n_node, duste_fixed=DustEmissionParams(), dtype=dtype
    )
    model = SpectrumModel.from_grid(grid, agebins=galaxy_agebins(1.0, grid))
    spectrum = eqx.filter_jit(lambda model, params: model(params).luminosity)
    compiled_flux = eqx.filter_jit(lambda compiled, params: compiled.flux(params))
    full, compiled = [], []
    for i, zred in enumerate(draws.zred.tolist()):
        bins = galaxy_agebins(zred, grid)
        weight = jnp.asarray(bin_weights(bins, grid.log_age))
        mine = eqx.tree_at(lambda m: (m.agebins, m.bin_weight), model, (jnp.asarray(bins), weight))
        params = jax.tree.map(jnp.asarray, draws.one(i))
        unit = maggies_per_luminosity(zred, float(default_cosmology().luminosity_distance_np(zred)))
        matrix = band_matrix(grid.wave, filters, zred, igm=madau) * unit
        full.append(matrix @ np.asarray(spectrum(mine, params), np.float64))
        galaxy = jax.tree.map(jnp.asarray, compiler(zred))
        compiled.append(np.asarray(compiled_flux(galaxy, params), np.float64))
    return np.array(full), np.array(compiled)


class Difference(NamedTuple):
    """Fractional difference of two sets of fluxes in each band."""

    median: Float[np.ndarray, " band"]
    p99: Float[np.ndarray, " band"]
    worst: Float[np.ndarray, " band"]


def difference(flux: Float[np.ndarray, "galaxy band"], truth: Float[np.ndarray, "galaxy band"]) -> Difference:
    """Compare where ``truth`` is bright."""
    bright = truth > BRIGHT * truth.max(axis=1, keepdims=True)
    off = np.abs(flux / np.where(bright, truth, 1.0) - 1)
    used = [column[mask] for column, mask in zip(off.T, bright.T, strict=True)]
    return Difference(
        np.array([np.median(x) for x in used]),
        np.array([np.quantile(x, 0.99) for x in used]),
        np.array([x.max() for x in used]),
    )


def passes(result: Difference) -> np.ndarray:
    """Whether each band meets the goal."""
    p99_goal = np.where([name.startswith("galex") for name in BANDS], P99_GOAL_UV, P99_GOAL)
    return np.asarray((result.median <= MEDIAN_GOAL) & (result.p99 <= p99_goal))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="galaxies in all")
    parser.add_argument("--sfh", choices=["both", "binned", "delayed_tau"], default="both")
    parser.add_argument("--grid", type=Path, default=None, help="grid file; the shipped one by default")
    parser.add_argument("--reference", type=Path, default=RESULTS / ".cache", help="folder of FSPS's fluxes")
    parser.add_argument(
        "--n-node", type=int, default=None, help="wavelengths per band; by its width if not set"
    )
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]
    grid, filters = load_grid(args.grid), load_filters(BANDS)
    kinds: list[SFHKind] = ["binned", "delayed_tau"] if args.sfh == "both" else [args.sfh]
    parts = []
    for kind in kinds:
        draws = draw_galaxies(kind, args.n // len(kinds), seed=SEED, max_age_gyr=grid.max_age_gyr)
        reference = fsps_flux(draws, filters, grid, args.reference / f"sed_fsps_{kind}.npz")
        parts.append((*reference, *our_flux(draws, filters, grid, kind, args.n_node)))
    exact, coarse, full, compiled = (np.concatenate(x) for x in zip(*parts, strict=True))
    compared = {
        "full_vs_fsps": difference(full, exact),
        "compiled_vs_fsps": difference(compiled, exact),
        "compiled_vs_full": difference(compiled, full),
        "sedpy_grid_vs_exact": difference(coarse, exact),
    }
    print(f"{len(exact)} galaxies; difference in percent: median / 99th percentile / worst; float64")
    rows = []
    for i, band in enumerate(BANDS):
        cells = [
            f"{100 * d.median[i]:.4f}/{100 * d.p99[i]:.3f}/{100 * d.worst[i]:.2f}" for d in compared.values()
        ]
        rows.append([band, *cells])
    print_table(["band", *compared], rows)
    met = {name: passes(compared[name]) for name in ("full_vs_fsps", "compiled_vs_fsps")}
    for name, ok in met.items():
        missed = [band for band, good in zip(BANDS, ok, strict=True) if not good]
        print(f"{name}: {'PASS' if not missed else 'FAIL in ' + ', '.join(missed)}")
    result = {
        name: {
            field: dict(zip(BANDS, map(float, value), strict=True)) for field, value in d._asdict().items()
        }
        for name, d in compared.items()
    }
    settings = {"n": len(exact), "sfh": kinds, "n_node": args.n_node, "dtype": "float64", "seed": SEED}
    settings |= {
        "grid": grid.provenance,
        "goal": {"median": MEDIAN_GOAL, "p99": P99_GOAL, "p99_uv": P99_GOAL_UV},
    }
    passed = {name: bool(ok.all()) for name, ok in met.items()}
    write_result("sed_accuracy", settings, {"passed": passed, **result})


if __name__ == "__main__":
    main()
