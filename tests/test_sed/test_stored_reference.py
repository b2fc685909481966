"""Full and compiled photometry against fluxes of python-fsps, stored by ``scripts/make_sed_reference.py``."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sed.compile import DustEmissionParams, PhotometryCompiler
from sed.cosmology import default_cosmology
from sed.filters import load_filters
from sed.igm import igm_transmission_madau
from sed.parameters import BinnedSFH, DelayedTauSFH, SEDParams
from sed.photometry import band_matrix, maggies_per_luminosity
from sed.sfh import agebins, bin_weights
from sed.spectrum import SpectrumModel
from sed.ssp import SSPGrid

FILE = Path(__file__).parent.parent / "data" / "sed_reference.npz"
N_GALAXY = 10
"""Of each history, the first ones: the rest is for `benchmarks.sed_accuracy`."""

HISTORY = {"binned": BinnedSFH, "delayed_tau": DelayedTauSFH}
SFH_NAMES = ("logmass", "logssfr", "logsfr_ratio_recent", "logsfr_ratios", "tage", "tau")


madau_jit = jax.jit(igm_transmission_madau)


def madau(wave: np.ndarray, zred: float) -> np.ndarray:
    return np.asarray(madau_jit(wave, zred))


def galaxy(columns: dict[str, np.ndarray], kind: str, index: int) -> SEDParams:
    row = {name: jnp.asarray(column[index]) for name, column in columns.items()}
    history = {name: row.pop(name) for name in SFH_NAMES if name in row}
    return SEDParams(HISTORY[kind](**history), **row)


def check(flux: np.ndarray, truth: np.ndarray, bands: list[str]) -> None:
    """The goal of `benchmarks.sed_accuracy`: of so few galaxies, the worst stands for the 99th percentile."""
    bright = truth > 1e-3 * truth.max(axis=1, keepdims=True)
    assert bright.mean() > 0.7
    off = np.where(bright, np.abs(flux / truth - 1), np.nan)
    goal = np.where([band.startswith("galex") for band in bands], 1e-2, 3e-3)
    np.testing.assert_array_less(np.nanmedian(off, axis=0), 1e-3)
    np.testing.assert_array_less(np.nanmax(off, axis=0), goal)


@pytest.mark.parametrize("kind", ["binned", "delayed_tau"])
def test_agrees_with_fsps(grid: SSPGrid, kind: str) -> None:
    with np.load(FILE) as file:
        bands = file["bands"].tolist()
        columns = {name.split("/")[1]: file[name] for name in file.files if name.startswith(f"{kind}/")}
    truth, zreds = columns.pop("flux"), columns.pop("zred").tolist()
    truth, zreds = truth[:N_GALAXY], zreds[:N_GALAXY]
    filters = load_filters(bands)
    full, compiled = [], []
    with jax.enable_x64(True):
        maker = PhotometryCompiler(
            grid, filters, sfh=kind, igm=madau, duste_fixed=DustEmissionParams(), dtype=np.float64
        )
        model = SpectrumModel.from_grid(grid, agebins=agebins(10.0))
        spectrum = eqx.filter_jit(lambda model, params: model(params).luminosity)
        flux = eqx.filter_jit(lambda photometry, params: photometry.flux(params))
        for i, zred in enumerate(zreds):
            params = galaxy(columns, kind, i)
            bins = agebins(min(float(default_cosmology().age_np(zred)), grid.max_age_gyr))
            weight = jnp.asarray(bin_weights(bins, grid.log_age))
            mine = eqx.tree_at(lambda m: (m.agebins, m.bin_weight), model, (jnp.asarray(bins), weight))
            unit = maggies_per_luminosity(zred, float(default_cosmology().luminosity_distance_np(zred)))
            matrix = band_matrix(grid.wave, filters, zred, igm=madau) * unit
            full.append(matrix @ np.asarray(spectrum(mine, params)))
            compiled.append(np.asarray(flux(jax.tree.map(jnp.asarray, maker(zred)), params)))
    check(np.array(full), truth, bands)
    check(np.array(compiled), truth, bands)
