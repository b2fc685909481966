"""`hbm image` from the outside."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from generative.ingest.exposure import plain_wcs
from generative.ingest.psf import moffat_image
from hbm.cli import app


@pytest.fixture
def cutouts(tmp_path: Path) -> Path:
    """SDSS cutouts of two galaxies, and a table that names a third."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for band, flux in zip("griz", (15.0, 40.0, 55.0, 70.0), strict=True):
            image = flux * moffat_image(101, 6.0, 3.0) + 0.01 * rng.standard_normal((101, 101))
            header = plain_wcs((101, 101), 0.396, ra=10.0, dec=1.0).to_header()
            header["BUNIT"] = "nanomaggy"
            fits.PrimaryHDU(image.astype(np.float32), header).writeto(tmp_path / f"{name}_{band}.fits")
    rows = {"id": ["a", "b", "c"], "ra": [10.0] * 3, "dec": [1.0] * 3, "zred": [0.1, 0.9, 0.1]}
    Table(rows).write(tmp_path / "galaxies.ecsv")
    return tmp_path


def test_many_galaxies_with_figures_and_pictures(cutouts: Path) -> None:
    out = cutouts / "stamps.h5"
    args = ["image", str(cutouts / "{id}_{band}.fits"), "--catalog", str(cutouts / "galaxies.ecsv")]
    args += ["--fwhm", "1.4", "--out", str(out), "--show", str(cutouts / "steps")]
    done = CliRunner().invoke(app, [*args, "--pictures", str(cutouts / "pictures")])
    assert done.exit_code == 0, done.output
    assert "c is left out" in done.output
    assert "redshift 0.9" in done.output  # outside of training, and said so
    with h5py.File(out) as file:
        assert [name.decode() for name in file["object_id"]] == ["a", "b"]
        first, second = (flag.decode() for flag in file["flags"])
        assert "*" not in first
        assert "redshift*" in second
        assert file["flux"][0, 1] == pytest.approx(40.0, rel=0.08)
    assert sorted(p.name for p in (cutouts / "steps").iterdir()) == ["a.png", "b.png"]
    assert sorted(p.name for p in (cutouts / "pictures").iterdir()) == ["a.png", "b.png"]
    table = Table.read(cutouts / "stamps.fluxes.ecsv")
    assert "c" in table.meta["rejected"]
    again = CliRunner().invoke(app, args)
    assert again.exit_code == 1
    assert "--overwrite" in again.output


def test_one_galaxy_needs_a_redshift_and_a_width(cutouts: Path) -> None:
    files = [str(cutouts / f"a_{band}.fits") for band in "griz"]
    out = ["--out", str(cutouts / "one.h5")]
    done = CliRunner().invoke(app, ["image", *files, *out])
    assert done.exit_code == 1
    assert "--zred" in done.output
    done = CliRunner().invoke(app, ["image", *files, *out, "--zred", "0.1", "--fwhm", "r=wide"])
    assert "arcsec" in done.output
    done = CliRunner().invoke(app, ["image", *files, *out, "--zred", "0.1"])
    assert done.exit_code == 1
    assert not (cutouts / "one.h5").exists()


def test_bands_are_told_with_the_files(cutouts: Path) -> None:
    for band in "griz":
        with fits.open(cutouts / f"a_{band}.fits", mode="update") as hdus:
            hdus[0].header.remove("BAND", ignore_missing=True)
    files = [f"{band}={cutouts / f'a_{band}.fits'}" for band in "griz"]
    args = ["image", *files, "--out", str(cutouts / "one.h5"), "--zred", "0.1", "--fwhm", "1.4"]
    bare = CliRunner().invoke(app, [args[0], str(cutouts / "a_r.fits"), *args[5:]])
    assert "`band` must be given" in bare.output
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    with h5py.File(cutouts / "one.h5") as file:
        assert file["flux"][0] == pytest.approx([15.0, 40.0, 55.0, 70.0], rel=0.08)


def test_a_file_of_the_multimodal_universe(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path, n = tmp_path / "mmu.h5", 120
    with h5py.File(path, "w") as file:
        light = np.stack([f * moffat_image(n, 8.0, 3.0) for f in (15.0, 40.0, 55.0, 70.0)])
        file["image_array"] = (light + 0.02 * rng.standard_normal((1, 4, n, n))).astype(np.float32)
        file["image_band"] = np.asarray([["DES-G", "DES-R", "DES-I", "DES-Z"]], dtype="S")
        file["image_ivar"] = np.full((1, 4, n, n), 2500.0, np.float32)
        file["image_psf_fwhm"] = np.full((1, 4), 1.3, np.float32)
        file["image_scale"] = np.full((1, 4), 0.262, np.float32)
        file["Z"] = np.asarray([0.12])
    done = CliRunner().invoke(app, ["image", str(path), "--out", str(tmp_path / "stamps.h5")])
    assert done.exit_code == 0, done.output
    with h5py.File(tmp_path / "stamps.h5") as file:
        assert file["image_array"].shape == (1, 4, 32, 32)
        assert np.allclose(file["flux"][0], [15.0, 40.0, 55.0, 70.0], rtol=0.08)
