from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from scipy.integrate import quad

from sed.compile import compile_photometry
from sed.constants import HPLANCK_CGS, LIGHT_AA, LSUN_CGS
from sed.filters import load_filters
from sed.io import load_grid, save_grid
from sed.ssp import DustEmissionTable, NebularTable, SSPGrid, ionizing_photons

RNG = np.random.default_rng(3)
WAVE = np.geomspace(100.0, 1e5, 80)


def small_grid(*, nebular: bool = True, dust: bool = True, mstar: bool = True) -> SSPGrid:
    n_met, n_age = 3, 6
    table = NebularTable(
        gas_logz=np.array([-1.0, 0.0]),
        gas_logu=np.array([-4.0, -2.0, -1.0]),
        line_wave=np.array([4862.7, 6564.6]),
        line_sigma=np.array([10.0, 12.0]),
        line_loglum=RNG.normal(size=(2, 3, 2, 2)),
        line_name=("H beta", "H alpha"),
        continuum=RNG.normal(size=(2, 3, 2, WAVE.size)),
    )
    templates = DustEmissionTable(
        np.array([0.5, 4.0]), np.array([0.1, 25.0]), RNG.random((2, 2, 2, WAVE.size))
    )
    return SSPGrid(
        wave=WAVE,
        log_age=np.linspace(5.5, 10.0, n_age),
        logzsol=np.array([-1.0, 0.0, 0.3]),
        flux=RNG.random((n_met, n_age, WAVE.size)).astype(np.float32),
        mstar=RNG.random((n_met, n_age)) if mstar else None,
        nebular=table if nebular else None,
        dust_emission=templates if dust else None,
        provenance_json='{"made_by": "a test"}',
    )


@pytest.mark.parametrize("parts", [True, False])
def test_round_trip(tmp_path: Path, parts: bool) -> None:
    grid = small_grid(nebular=parts, dust=parts, mstar=parts)
    save_grid(grid, tmp_path / "grid.h5")
    back = load_grid(tmp_path / "grid.h5")
    assert jax.tree.structure(back) == jax.tree.structure(grid)
    for mine, theirs in zip(jax.tree.leaves(grid), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    assert back.provenance == {"made_by": "a test"}
    assert [path.name for path in tmp_path.iterdir()] == ["grid.h5"]


def test_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "grid.h5"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_grid(small_grid(), path)
    assert path.read_text() == "precious"
    save_grid(small_grid(), path, overwrite=True)
    assert load_grid(path).flux.shape == (3, 6, 80)


def test_dsps_layout(tmp_path: Path) -> None:
    path = tmp_path / "dsps.h5"
    flux = RNG.random((3, 4, 80)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["ssp_lgmet"] = np.log10(0.019) + np.array([-1.0, 0.0, 0.2])
        file["ssp_lg_age_gyr"] = np.array([-3.0, -2.0, 0.0, 1.0])
        file["ssp_wave"] = WAVE
        file["ssp_flux"] = flux
    grid = load_grid(path, zsun=0.019)
    np.testing.assert_allclose(grid.logzsol, [-1.0, 0.0, 0.2], atol=1e-12)
    np.testing.assert_allclose(grid.log_age, [6, 7, 9, 10])
    np.testing.assert_array_equal(grid.flux, flux)
    assert grid.nebular is None
    assert grid.dust_emission is None
    shifted = load_grid(path)  # solar metallicity of the isochrones, 0.0142
    np.testing.assert_allclose(shifted.logzsol - grid.logzsol, np.log10(0.019 / 0.0142))
    compiled = compile_photometry(grid, load_filters(["sdss_r0"]), 0.1)
    assert compiled.lines is None
    assert compiled.dust is None


def test_refuses_what_is_not_a_grid(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is none at"):
        load_grid(tmp_path / "nowhere.h5")
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    with pytest.raises(ValueError, match="must be an HDF5 file"):
        load_grid(text)
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["ssp_wave"] = WAVE
    with pytest.raises(ValueError, match=r"must hold a grid.*holds \['ssp_wave'\]"):
        load_grid(other)


def test_grid_checks_its_arrays() -> None:
    good = {"wave": WAVE, "log_age": np.arange(4.0), "logzsol": np.array([-1.0, 0.0]), "mstar": None}
    good |= {"flux": np.ones((2, 4, 80)), "nebular": None, "dust_emission": None}
    SSPGrid(**good)
    with pytest.raises(ValueError, match="`flux` must be finite"):
        SSPGrid(**(good | {"flux": -np.ones((2, 4, 80))}))
    with pytest.raises(ValueError, match="`log_age` must increase"):
        SSPGrid(**(good | {"log_age": np.array([0.0, 2.0, 1.0, 3.0])}))


def test_ionizing_photons_of_a_power_law() -> None:
    wave = np.linspace(200.0, 911.75, 4000)
    flux = wave[None] ** 1.5
    nu_low, nu_high = LIGHT_AA / 911.75, LIGHT_AA / 200.0
    expected = quad(lambda nu: (LIGHT_AA / nu) ** 1.5 / (HPLANCK_CGS * nu), nu_low, nu_high)[0] * LSUN_CGS
    assert float(ionizing_photons(wave, flux)[0]) * 1e46 == pytest.approx(expected, rel=1e-5)
