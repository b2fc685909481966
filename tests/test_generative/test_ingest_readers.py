from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits

from generative.ingest import IngestError
from generative.ingest.exposure import plain_wcs
from generative.ingest.readers import read_exposures, read_record

RNG = np.random.default_rng(4)


def header_of(shape: tuple[int, int], scale: float, **cards: object) -> fits.Header:
    header = plain_wcs(shape, scale, ra=180.0, dec=1.0).to_header()
    for key, value in cards.items():
        header[key] = value
    return header


def test_sdss_frame(tmp_path: Path) -> None:
    data = RNG.normal(size=(20, 30)).astype(np.float32)
    path = tmp_path / "frame-r.fits"
    fits.PrimaryHDU(data, header_of((20, 30), 0.396, BUNIT="nanomaggy", FILTER="r")).writeto(path)
    (exposure,) = read_exposures(path)
    assert (exposure.survey, exposure.band) == ("sdss", "r")
    assert np.allclose(exposure.image, data * 1e-9)
    assert exposure.pixel_scale == pytest.approx(0.396, rel=1e-5)


def test_legacy_cube_with_invvar_and_maskbits(tmp_path: Path) -> None:
    data = RNG.normal(size=(3, 16, 16)).astype(np.float32)
    invvar = np.full((3, 16, 16), 25.0, np.float32)
    invvar[1, 3, 3] = 0.0
    bits = np.zeros((16, 16), np.int16)
    bits[5, 6], bits[7, 7] = 2, 1  # a bright star; not primary, which spoils nothing
    hdus = [
        fits.PrimaryHDU(
            data, header_of((16, 16), 0.262, SURVEY="LegacySurvey", BANDS="grz", IMAGETYP="IMAGE")
        )
    ]
    for array, kind in ((invvar, "invvar"), (bits, "maskbits")):
        hdus.append(fits.ImageHDU(array))
        hdus[-1].header["IMAGETYP"] = kind
    fits.HDUList(hdus).writeto(tmp_path / "cube.fits")
    g, r, z = read_exposures(tmp_path / "cube.fits", fwhm={"g": 1.3, "r": 1.2, "z": 1.1})
    assert (g.band, r.band, z.band) == ("g", "r", "z")
    assert np.allclose(z.image[g.good], data[2][g.good] * 1e-9)
    assert r.error is not None
    assert np.allclose(r.error[r.good], 0.2e-9)
    assert not r.good[3, 3]
    assert g.good[3, 3]
    assert not g.good[5, 6]
    assert g.good[7, 7]
    assert (g.fwhm, z.fwhm) == (1.3, 1.1)


def test_hsc_planes_and_des_weights(tmp_path: Path) -> None:
    data = RNG.normal(size=(12, 12))
    mask = np.zeros((12, 12), np.int32)
    mask[2, 2], mask[3, 3] = 1 << 4, 1 << 5
    planes = fits.ImageHDU(mask, name="MASK")
    planes.header["MP_SAT"], planes.header["HIERARCH MP_DETECTED"] = 4, 5
    fits.HDUList(
        [
            fits.PrimaryHDU(header=fits.Header({"FLUXMAG0": 10**10.8, "FILTER": "HSC-I"})),
            fits.ImageHDU(data, header_of((12, 12), 0.168), name="IMAGE"),
            planes,
            fits.ImageHDU(np.full((12, 12), 4.0), name="VARIANCE"),
        ]
    ).writeto(tmp_path / "hsc.fits")
    (hsc,) = read_exposures(tmp_path / "hsc.fits")
    assert hsc.survey == "hsc"
    assert not hsc.good[2, 2]
    assert hsc.good[3, 3]
    assert hsc.error is not None
    assert hsc.error[0, 0] == pytest.approx(2 * 10 ** (-0.4 * 27))
    fits.HDUList(
        [
            fits.PrimaryHDU(data, header_of((12, 12), 0.263, MAGZERO=30.0, TILENAME="X", BAND="r")),
            fits.ImageHDU(np.full((12, 12), 0.0625), name="WGT"),
        ]
    ).writeto(tmp_path / "des.fits")
    (des,) = read_exposures(tmp_path / "des.fits")
    assert des.error is not None
    assert des.error[0, 0] == pytest.approx(4e-12)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="names no file"):
        read_exposures(tmp_path / "none.fits")
    (tmp_path / "text.fits").write_text("no FITS at all")
    with pytest.raises(IngestError, match="not a FITS file"):
        read_exposures(tmp_path / "text.fits")
    fits.PrimaryHDU(np.zeros((9, 9))).writeto(tmp_path / "bare.fits")
    with pytest.raises(IngestError, match="survey"):
        read_exposures(tmp_path / "bare.fits")
    with pytest.raises(IngestError, match="pixel_scale"):
        read_exposures(tmp_path / "bare.fits", zero_point=25.0, band="r")
    good = read_exposures(tmp_path / "bare.fits", zero_point=25.0, band="r", pixel_scale=0.2)
    assert good[0].pixel_scale == pytest.approx(0.2)
    content = (tmp_path / "bare.fits").read_bytes()
    (tmp_path / "short.fits").write_bytes(content[: len(content) // 2])
    with pytest.raises(IngestError, match="truncated"):
        read_exposures(tmp_path / "short.fits", zero_point=25.0, band="r", pixel_scale=0.2)


def test_multimodal_universe_record(tmp_path: Path) -> None:
    path = tmp_path / "mmu.h5"
    with h5py.File(path, "w") as file:
        file["image_array"] = RNG.normal(size=(2, 2, 20, 20)).astype(np.float32)
        file["image_band"] = np.asarray([["DES-G", "DES-R"]] * 2, dtype="S")
        file["image_ivar"] = np.full((2, 2, 20, 20), 4.0, np.float32)
        file["image_psf_fwhm"] = np.asarray([[1.3, 1.2]] * 2, np.float32)
        file["image_scale"] = np.full((2, 2), 0.262, np.float32)
    first, second = read_record(path, 1)
    assert (first.band, second.band) == ("DES-G", "DES-R")
    assert first.error is not None
    assert first.error[0, 0] == pytest.approx(0.5e-9)
    assert second.fwhm == pytest.approx(1.2)
    with pytest.raises(IngestError, match="below 2"):
        read_record(path, 2)
