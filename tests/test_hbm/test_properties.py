"""Readers of property catalogues on tables made here, and on 3D-HST where it is at hand."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from hbm.cli import app
from hbm.properties import read_properties
from hbm.properties.catalogs import GSWLC_COLUMNS
from hbm.properties.conventions import FORMED_OVER_SURVIVING, SOLAR_METALLICITY
from hbm.properties.crossmatch import match_ids, match_positions
from hbm.properties.dataset import join, sky_cells, split_by_sky
from hbm.tables import CatalogError
from sed.ssp import SSPGrid

REAL = Path(__file__).parents[2].parent / "shared" / "real"


def mpa_jhu(folder: Path) -> tuple[Path, Path]:
    extra = Table(
        {
            "specObjID": [299489677444933632, 299489677444933633, 5, 6],
            "lgm_tot_p16": [10.3, -9999.0, -1.0, 10.0],
            "lgm_tot_p50": [10.4, -9999.0, -1.0, 10.1],
            "lgm_tot_p84": [10.5, -9999.0, -1.0, 10.2],
            "specsfr_tot_p16": [-10.5, -9999.0, -11.0, -10.2],
            "specsfr_tot_p50": [-10.2, -9999.0, -10.7, -10.0],
            "specsfr_tot_p84": [-9.9, -9999.0, -10.4, -9.8],
        }
    )
    info = Table(
        {
            "specObjID": [6, 5, 299489677444933633, 299489677444933632],
            "z": [0.2, 0.15, 0.12, 0.08],
            "ra": [4.0, 3.0, 2.0, 1.0],
            "dec": [0.4, 0.3, 0.2, 0.1],
            "reliable": [0, 1, 1, 1],
        }
    )
    extra.write(folder / "extra.fits")
    info.write(folder / "info.fits")
    return folder / "extra.fits", folder / "info.fits"


def test_mpa_jhu(tmp_path: Path) -> None:
    extra, info = mpa_jhu(tmp_path)
    table = read_properties(extra, "mpa-jhu", info=info)
    assert table.id[0] == "299489677444933632"  # all digits
    assert table.zred.tolist() == [0.08, 0.12, 0.15, 0.2]
    # Kroupa to Chabrier, surviving to formed.
    low, middle, high = table.values["logmass"][0]
    hubble = 2 * np.log10(0.70 / 0.6766)  # masses for H0 = 70 are too small here
    assert middle == pytest.approx(10.4 - 0.034 + hubble + FORMED_OVER_SURVIVING)
    assert high - middle == pytest.approx(np.hypot(0.1, 0.02))
    assert middle - low == pytest.approx(np.hypot(0.1, 0.02))
    specific = table.values["logssfr"]
    assert specific[0, 1] == pytest.approx(-10.2 - 0.027 + 0.034 - FORMED_OVER_SURVIVING)
    assert np.isnan(table.values["logmass"][1:, 1]).all()  # -9999, -1, not reliable
    assert np.isfinite(specific[:, 1]).tolist() == [True, False, True, False]
    with pytest.raises(CatalogError, match="galSpecInfo"):
        read_properties(extra, "mpa-jhu")


def test_gswlc(tmp_path: Path) -> None:
    row = dict.fromkeys(GSWLC_COLUMNS, 0.0) | {
        "ObjID": 1237646587710014999, "RA": 10.0, "Dec": 1.0, "z": 0.1, "logM": 10.5, "logM_err": 0.05,
        "logSFR": 0.3, "logSFR_err": 0.1, "AV": 0.5, "AV_err": 0.1,
    }  # fmt: skip
    bad = row | {"ObjID": 2, "logM": -99.0, "logSFR": -99.0, "AV": -99.0}
    odd = row | {"ObjID": 3, "flag_sed": 1}
    lines = [" ".join(str(r[name]) for name in GSWLC_COLUMNS) for r in (row, bad, odd)]
    (tmp_path / "gswlc.dat").write_text("\n".join(lines) + "\n")
    table = read_properties(tmp_path / "gswlc.dat", "gswlc")
    assert table.id == ("1237646587710014999", "2", "3")
    made = 10.5 + FORMED_OVER_SURVIVING
    assert table.values["logmass"][0, 1] == pytest.approx(made)
    assert table.values["logssfr"][0, 1] == pytest.approx(0.3 - made)
    assert table.values["dust2"][0].tolist() == pytest.approx([0.4 / 1.086, 0.5 / 1.086, 0.6 / 1.086])
    assert all(np.isnan(value[1:]).all() for value in table.values.values())
    (tmp_path / "short.dat").write_text("1 2 3\n")
    with pytest.raises(CatalogError, match="24 columns"):
        read_properties(tmp_path / "short.dat", "gswlc")


def test_fastspecfit_hubble_constant(tmp_path: Path) -> None:
    meta = Table({"TARGETID": [39633345008634465, 7], "RA": [10.0, 11.0], "DEC": [1.0, 1.0], "Z": [0.1, 0.2]})
    fit = Table(
        {
            "LOGMSTAR": [10.0, 0.0],
            "LOGMSTAR_IVAR": [100.0, 0.0],
            "SFR": [1.0, 0.0],
            "SFR_IVAR": [25.0, 0.0],
            "ZZSUN": [-0.1, 0.0],
            "TAUV": [0.3, 0.0],
        }
    )
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(meta), fits.table_to_hdu(fit)]
    hdus[1].name, hdus[2].name = "METADATA", "SPECPHOT"
    fits.HDUList(hdus).writeto(tmp_path / "fast.fits")
    table = read_properties(tmp_path / "fast.fits", "fastspecfit")
    # A luminosity for H0 = 100 grows by 1 / h^2; the ratio of rate and mass stays.
    h = 0.6766
    assert table.values["logmass"][0, 1] == pytest.approx(np.log10(1e10 / h**2) + FORMED_OVER_SURVIVING)
    assert table.values["logmass"][0, 2] - table.values["logmass"][0, 1] == pytest.approx(np.hypot(0.1, 0.02))
    assert table.values["logssfr"][0, 1] == pytest.approx(-10.0 - FORMED_OVER_SURVIVING)
    assert np.isnan(table.values["logmass"][1, 1])
    assert np.isnan(table.values["logzsol"][0, 0])  # no error given, none made up
    assert table.values["logzsol"][0, 1] == pytest.approx(-0.1)
    for value in table.values.values():  # a fit that failed: its zeros are no labels
        assert np.isnan(value[1]).all()


def test_fastspecfit_without_a_variance_is_no_measurement(tmp_path: Path) -> None:
    meta = Table({"TARGETID": [1, 2], "RA": [10.0, 11.0], "DEC": [1.0, 1.0], "Z": [0.1, 0.2]})
    fit = Table({"LOGMSTAR": [10.0, 10.0], "SFR": [1.0, 1.0], "ZZSUN": [-0.1, 0.0], "TAUV": [0.3, 0.0]})
    fit["ZZSUN_IVAR"], fit["TAUV_IVAR"] = [25.0, 0.0], [100.0, 0.0]
    hdus = [fits.PrimaryHDU(), fits.table_to_hdu(meta), fits.table_to_hdu(fit)]
    hdus[1].name, hdus[2].name = "METADATA", "SPECPHOT"
    fits.HDUList(hdus).writeto(tmp_path / "fast.fits")
    values = read_properties(tmp_path / "fast.fits", "fastspecfit").values
    np.testing.assert_allclose(values["logzsol"][0], [-0.3, -0.1, 0.1])
    np.testing.assert_allclose(values["dust2"][0], [0.2, 0.3, 0.4])
    assert np.isnan([values["logzsol"][1], values["dust2"][1]]).all()
    assert np.isfinite(values["logmass"][:, 1]).all()


def test_provabgs_masses_are_formed_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.5, 0.1, (2, 400, 13))
    draws[:, :, 0] = rng.normal([[10.3], [11.0]], 0.05, (2, 400))
    with h5py.File(tmp_path / "provabgs.h5", "w") as file:
        file["PROVABGS_MCMC"] = draws
        file["LOG_MSTAR"] = [10.05, 10.75]
        file["Z_MW"], file["TAGE_MW"], file["Z_HP"] = [0.01524, 0.0], [9.0, 8.0], [0.1, 0.2]
        file["ra"], file["dec"] = [1.0, 2.0], [0.0, 0.0]
        file["object_id"] = np.asarray(["39633448888962529", "2"], dtype="S")
    table = read_properties(tmp_path / "provabgs.h5", "provabgs")
    assert table.values["logmass"][:, 1] == pytest.approx([10.3, 11.0], abs=0.01)
    assert np.ptp(table.values["logmass"][0]) == pytest.approx(0.1, rel=0.15)
    assert table.values["logzsol"][0, 1] == pytest.approx(0.0)
    assert np.isnan(table.values["logzsol"][1, 1])
    assert table.values["mwa"][:, 1].tolist() == [9.0, 8.0]
    assert "logssfr" not in table.values  # an average over 1 Gyr is not one over 100 Myr


def test_solar_is_what_the_grid_calls_so(grid: SSPGrid) -> None:
    told = json.loads(grid.provenance_json)["solar_metallicity"]
    assert told == pytest.approx(SOLAR_METALLICITY, rel=1e-6)


def test_mass_formed_over_surviving_is_that_of_the_grid(grid: SSPGrid) -> None:
    solar = int(np.argmin(np.abs(np.asarray(grid.logzsol))))
    age = np.linspace(1e6, 1e10, 20000)
    survives = np.interp(np.log10(age), np.asarray(grid.log_age), np.asarray(grid.mstar)[solar])
    constant, old = float(survives.mean()), float(survives[-1])
    for fraction in (constant, old):
        assert -np.log10(fraction) == pytest.approx(FORMED_OVER_SURVIVING, abs=0.025)


def test_what_is_no_such_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="mpa-jhu, gswlc"):
        read_properties(tmp_path / "x.fits", "sdss")
    with pytest.raises(FileNotFoundError, match=r"x\.fits"):
        read_properties(tmp_path / "x.fits", "mpa-jhu")
    Table({"specObjID": [1]}).write(tmp_path / "y.fits")
    with pytest.raises(CatalogError, match="no redshift"):
        read_properties(tmp_path / "y.fits", "mpa-jhu")
    Table({"specObjID": [1], "z": [0.1]}).write(tmp_path / "z.fits")
    with pytest.raises(CatalogError, match="lgm_tot_p16"):
        read_properties(tmp_path / "z.fits", "mpa-jhu")


def test_matches_are_mutual_alone_and_near() -> None:
    arcsec = 1 / 3600
    ra, dec = (
        np.array([10.0, 20.0, 30.0, 30.0, 359.9999, np.nan]),
        np.array([60.0, 0.0, 0.0, 1.2 * arcsec, 0.0, 0.0]),
    )
    known_ra = np.array([10.0 + arcsec, 20.0, 20.0, 30.0, 0.0001])
    known_dec = np.array([60.0, 0.5 * arcsec, -0.8 * arcsec, 0.1 * arcsec, 0.0])
    row = match_positions(ra, dec, known_ra, known_dec, radius=1.5)
    # 1 arcsec in right ascension is half of one at declination 60; two candidates are none; 30.0 goes to the
    # nearer of two galaxies; 0.72 arcsec across right ascension 0.
    assert row.tolist() == [0, -1, 3, -1, 4, -1]
    assert match_ids(["b", "x"], ["a", "b"]).tolist() == [1, -1]
    with pytest.raises(ValueError, match="repeat"):
        match_ids(["a"], ["a", "a"])


def test_splits_keep_cells_together_and_are_as_large_as_asked() -> None:
    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(0, 360, 4000), np.degrees(np.arcsin(rng.uniform(-1, 1, 4000)))
    split = split_by_sky(ra, dec, size=5.0, seed=1)
    cells = sky_cells(ra, dec, 5.0)
    assert all(len(set(split[cells == cell])) == 1 for cell in np.unique(cells))
    assert np.bincount(split) / 4000 == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    assert np.array_equal(split, split_by_sky(ra, dec, size=5.0, seed=1))
    assert not np.array_equal(split, split_by_sky(ra, dec, size=5.0, seed=2))
    with pytest.raises(ValueError, match="1 cells of 5 degrees"):
        split_by_sky(np.full(10, 1.0), np.full(10, 1.0), size=5.0)


def test_other_redshifts_and_labels_out_of_range_are_counted(tmp_path: Path) -> None:
    table = read_properties(*mpa_jhu(tmp_path)[:1], "mpa-jhu", info=tmp_path / "info.fits")
    names, zred = list(table.id), table.zred + np.array([0.0, 0.0, 0.1, 0.0])
    joined = join(names, table.ra, table.dec, zred, table, by="id", ranges={"logmass": (8.0, 10.0)})
    assert joined.rows.tolist() == [0]
    assert np.isnan(joined.labels["logmass"][0]).all()
    assert (joined.n_redshift, joined.n_unlabelled, joined.n_outside["logmass"]) == (1, 2, 1)
    with pytest.raises(CatalogError, match="not in the catalogue"):
        join(["no"], np.array([0.0]), np.array([50.0]), np.array([0.1]), table)


def test_dataset_from_the_command_line_trains(tmp_path: Path) -> None:
    from generative.datasets import read_multimodal_universe
    from generative.instrument import SDSS_GRIZ

    n, rng = 60, np.random.default_rng(0)
    ra, dec = np.linspace(100, 160, n), np.zeros(n)
    names = np.arange(10**18, 10**18 + n)
    mass = np.where(np.arange(n) == 3, 6.0, 10.0)
    columns = {
        f"{name}_{p}": v + offset
        for name, v in (("lgm_tot", mass), ("specsfr_tot", np.full(n, -10.0)))
        for p, offset in (("p16", -0.1), ("p50", 0.0), ("p84", 0.2))
    }
    Table({"specObjID": names, "z": np.full(n, 0.1), "ra": ra, "dec": dec, **columns}).write(
        tmp_path / "c.fits"
    )
    with h5py.File(tmp_path / "stamps.h5", "w") as file:
        file["image_array"] = rng.normal(size=(n, 4, 32, 32)).astype(np.float32) + 1.0
        file["image_ivar"] = np.ones((n, 4, 32, 32), np.float32)
        file["image_band"] = np.asarray([SDSS_GRIZ.bands] * n, dtype="S")
        file["image_psf_fwhm"] = np.full((n, 4), 1.3, np.float32)
        file["object_id"] = np.asarray([f"g{i}" for i in range(n)], dtype="S")
        file["ra"], file["dec"], file["zred"] = ra + 0.3 / 3600, dec, np.full(n, 0.1)
    out = tmp_path / "sets"
    args = [
        "dataset",
        str(tmp_path / "stamps.h5"),
        "--catalog",
        str(tmp_path / "c.fits"),
        "--kind",
        "mpa-jhu",
    ]
    done = CliRunner().invoke(app, [*args, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "logmass: 1 outside" in done.output
    sets = {name: h5py.File(out / f"{name}.h5") for name in ("train", "validation", "test")}
    together = [row for file in sets.values() for row in file["object_id"][()]]
    assert len(together) == len(set(together)) == n
    with sets["train"] as file:
        assert {"logmass", "logmass_p16", "logmass_p84", "logssfr"} <= set(file)
    plain = read_multimodal_universe(out / "test.h5", SDSS_GRIZ)  # reads what was written
    drawn = read_multimodal_universe(out / "test.h5", SDSS_GRIZ, draw_labels=True)
    first, second = (
        torch.cat([s.batch(200, torch.Generator().manual_seed(i)).theta[:, 0] for i in range(20)])
        for s in (plain, drawn)
    )
    offset = (second - first[~first.isnan()].median()).numpy() * (12.0 - 8.5) / 2  # dex
    offset = offset[np.isfinite(offset)]
    # The catalogue's errors, with 0.02 dex for the mass that stars have lost.
    assert np.sqrt(np.mean(offset[offset < 0] ** 2)) == pytest.approx(np.hypot(0.1, 0.02), rel=0.06)
    assert np.sqrt(np.mean(offset[offset > 0] ** 2)) == pytest.approx(np.hypot(0.2, 0.02), rel=0.06)
    for file in sets.values():
        file.close()


@pytest.mark.skipif(not (REAL / "hst3d").is_dir(), reason="the real catalogue is not at hand")
def test_3dhst_lies_on_the_main_sequence() -> None:
    table = read_properties(REAL / "hst3d" / "COSMOS_td.fout", "3dhst")
    mass, specific = table.values["logmass"][:, 1], table.values["logssfr"][:, 1]
    both = np.isfinite(mass) & np.isfinite(specific) & (table.zred > 0.5) & (table.zred < 1.0)
    assert both.sum() > 50
    # Whitaker et al. (2014), table 1, 0.5 < z < 1, in surviving masses; half of the galaxies within 0.5 dex.
    survived = mass[both] - FORMED_OVER_SURVIVING
    rate = specific[both] + mass[both]
    sequence = -27.40 + 5.02 * survived - 0.22 * survived**2
    forming = rate - survived > -9.8
    assert forming.sum() > 20
    assert np.median(np.abs(rate - sequence)[forming]) < 0.5
    assert np.nanmax(mass) < 12.2
    rates = Table.read(REAL / "hst3d" / "COSMOS_td.dat", format="ascii.commented_header", header_start=0)
    infrared = dict(zip(map(str, rates["phot_id"]), rates["sfr_IR"], strict=True))
    dark = np.array([infrared[name] <= 0 for name in table.id])
    assert dark.any()
    assert not np.isfinite(specific[dark]).any()
    assert np.all((table.ra > 149.9) & (table.ra < 150.4))
