"""`hbm image` from the outside."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from generative.ingest import IngestError
from generative.ingest.command import Galaxy, Source, ingest_many, read_all
from generative.ingest.exposure import plain_wcs
from generative.ingest.psf import moffat_image
from generative.ingest.stamp import Stamp
from generative.instrument import HST_F814W, SDSS_GRIZ
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
    assert "b is left out" in done.output
    assert "redshift 0.9" in done.output  # which `hbm compile` would refuse, and the whole file with it
    with h5py.File(out) as file:
        assert [name.decode() for name in file["object_id"]] == ["a"]
        assert b"*" not in file["flags"][0]
        assert file["flux"][0, 1] == pytest.approx(40.0, rel=0.08)
    assert sorted(p.name for p in (cutouts / "steps").iterdir()) == ["a.png"]
    assert sorted(p.name for p in (cutouts / "pictures").iterdir()) == ["a.png"]
    table = Table.read(cutouts / "stamps.fluxes.ecsv")
    assert {"b", "c"} == set(table.meta["rejected"])
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


def test_extinction_and_widths_of_the_catalogue(cutouts: Path) -> None:
    table = Table.read(cutouts / "galaxies.ecsv")[:1]
    for band, width in zip("griz", (1.5, 1.4, 1.3, 1.2), strict=True):
        table[f"fwhm_{band}"] = [width]
    table.write(cutouts / "widths.ecsv")
    table["A_g"] = [0.5]
    table.write(cutouts / "extinction.ecsv")
    flux = {}
    for name, more in (("widths", []), ("extinction", []), ("option", ["--extinction", "g=0.5,r=1"])):
        catalog = cutouts / ("extinction.ecsv" if name == "extinction" else "widths.ecsv")
        args = ["image", str(cutouts / "{id}_{band}.fits"), "--catalog", str(catalog), *more]
        done = CliRunner().invoke(app, [*args, "--out", str(cutouts / f"{name}.h5")])
        assert done.exit_code == 0, done.output
        with h5py.File(cutouts / f"{name}.h5") as file:
            flux[name] = np.stack([file["flux"][0], file["flux_err"][0]])
            assert file["image_psf_fwhm"][0] == pytest.approx([1.5, 1.4, 1.3, 1.2], rel=0.1)
    assert flux["extinction"] / flux["widths"] == pytest.approx(
        np.tile([10**0.2, 1.0, 1.0, 1.0], (2, 1)), rel=0.03
    )
    assert flux["option"][:, 1] / flux["widths"][:, 1] == pytest.approx(10**0.4, rel=0.03)
    wrong = CliRunner().invoke(app, [*args[:4], "--extinction", "0.3", "--out", str(cutouts / "w.h5")])
    assert wrong.exit_code == 1
    assert "BAND=magnitudes" in wrong.output


def test_one_galaxy_does_not_stop_the_others(cutouts: Path) -> None:
    galaxies = [Galaxy(name, 0.1, 10.0, 1.0) for name in ("a", "b")]
    patterns = [str(cutouts / "{id}_{band}.fits")]

    def each(stamp: Stamp) -> None:
        if stamp.id == "a":
            raise ValueError("no figure")

    source = Source(fwhm={"": 1.4})
    done = ingest_many(patterns, galaxies, SDSS_GRIZ, source=source, each=each)
    assert [stamp.id for stamp in done.stamps] == ["b"]
    assert done.rejected == {"a": "no figure"}
    behind = [Galaxy("a", 0.1, 190.0, -1.0)]  # no place on the tangent plane, or far outside
    done = ingest_many(patterns, behind, SDSS_GRIZ, source=source)
    assert "`ra` and `dec`" in done.rejected["a"]


def test_the_filter_of_a_header_is_not_overruled(tmp_path: Path) -> None:
    header = plain_wcs((40, 40), 0.05, ra=10.0, dec=1.0).to_header()
    header["FILTER"] = "F606W"
    fits.PrimaryHDU(np.ones((40, 40)), header).writeto(tmp_path / "a.fits")
    source = Source(zero_point=25.9)
    with pytest.raises(IngestError, match=r"must be in f814w.*F606W"):
        read_all([(tmp_path / "a.fits", None)], source, HST_F814W)
    (told,) = read_all([(tmp_path / "a.fits", "f814w")], source, HST_F814W)
    assert told.band == "f814w"


def test_images_without_coordinates_are_where_the_galaxy_is(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.ones((41, 41))).writeto(tmp_path / "a.fits")
    source = Source(zero_point=25.9, pixel_scale=0.05)
    (exposure,) = read_all([(tmp_path / "a.fits", None)], source, HST_F814W, Galaxy("a", 0.5, 150.0, 2.0))
    assert exposure.band == "f814w"
    assert [float(v) for v in exposure.wcs.all_pix2world(20, 20, 0)] == pytest.approx([150.0, 2.0])


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
    wrong = ["image", str(path), "--out", str(tmp_path / "stamps.h5")]
    for option, value in (("--ra", "3"), ("--survey", "des"), ("--fwhm", "stars")):
        refused = CliRunner().invoke(app, [*wrong, option, value])
        assert refused.exit_code == 1, refused.output
        assert "must not be given" in refused.output or "does not apply" in refused.output
    done = CliRunner().invoke(app, ["image", str(path), "--out", str(tmp_path / "stamps.h5")])
    assert done.exit_code == 0, done.output
    with h5py.File(tmp_path / "stamps.h5") as file:
        assert file["image_array"].shape == (1, 4, 32, 32)
        assert np.allclose(file["flux"][0], [15.0, 40.0, 55.0, 70.0], rtol=0.08)
    with h5py.File(path, "a") as file:
        del file["image_psf_fwhm"], file["image_scale"]
    again = [*wrong, "--overwrite", "--pixel-scale", "0.262", "--fwhm", "1.3"]
    done = CliRunner().invoke(app, again)
    assert done.exit_code == 0, done.output
