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
    fits.PrimaryHDU(np.ones((9, 9))).writeto(tmp_path / "bare.fits")
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


def test_the_default_band_is_for_headers_without_a_filter(tmp_path: Path) -> None:
    data = RNG.normal(size=(9, 9))
    cards = {"PHOTFLAM": 7e-20, "PHOTPLAM": 8045.0, "BUNIT": "ELECTRONS/S"}
    for name, more in (("said", {"FILTER1": "CLEAR1L", "FILTER2": "F606W"}), ("silent", {})):
        header = header_of((9, 9), 0.05, **cards, **more)
        fits.PrimaryHDU(data, header).writeto(tmp_path / f"{name}.fits")
    bands = [read_exposures(tmp_path / f"{n}.fits", default_band="f814w")[0].band for n in ("said", "silent")]
    assert bands == ["F606W", "f814w"]
    assert read_exposures(tmp_path / "said.fits", band="f814w")[0].band == "f814w"
    # A zero point does not make the survey unknown.
    assert read_exposures(tmp_path / "said.fits", zero_point=25.9)[0].survey == "hst"


def hst_file(path: Path, *, extensions: dict[str, np.ndarray], n_chip: int = 1) -> Path:
    hdus: list[object] = [fits.PrimaryHDU()]
    cards = {"PHOTFLAM": 7e-20, "PHOTPLAM": 8045.0, "BUNIT": "ELECTRONS/S", "FILTER": "F814W"}
    for chip in range(1, n_chip + 1):
        for name, values in extensions.items():
            header = header_of((9, 9), 0.05, **cards) if name == "SCI" else None
            hdus.append(fits.ImageHDU(values * (chip if name == "ERR" else 1), header, name=name, ver=chip))
    fits.HDUList(hdus).writeto(path)
    return path


def test_bad_pixels_of_hst(tmp_path: Path) -> None:
    science, flags, weight = np.ones((9, 9)), np.zeros((9, 9), np.int16), np.ones((9, 9))
    science[0, 0] = 0.0
    for pixel, flag in enumerate((0, 32, 64, 96, 1, 4, 16, 256, 4096, 8192)):
        flags[1 + pixel // 8, pixel % 8] = flag
    weight[4, 4], weight[4, 5] = 0.0, -1.0
    (flt,) = read_exposures(hst_file(tmp_path / "flt.fits", extensions={"SCI": science, "DQ": flags}))
    assert flt.good[1].tolist() == [True] * 4 + [False] * 4 + [True]
    assert flt.good[2, :3].tolist() == [False, False, True]
    (drz,) = read_exposures(hst_file(tmp_path / "drz.fits", extensions={"SCI": science, "WHT": weight}))
    assert (~drz.good).sum() == 2
    assert not drz.good[4, 4:6].any()
    (bare,) = read_exposures(hst_file(tmp_path / "bare.fits", extensions={"SCI": science}))
    assert np.argwhere(~bare.good).tolist() == [[0, 0]]


def test_of_several_science_images_one_must_be_chosen(tmp_path: Path) -> None:
    planes = {"SCI": np.ones((9, 9)), "ERR": np.ones((9, 9))}
    path = hst_file(tmp_path / "flc.fits", extensions=planes, n_chip=2)
    with pytest.raises(IngestError, match=r"`hdu` must be given.* 1 \(SCI\), 3 \(SCI\)"):
        read_exposures(path)
    first, second = (read_exposures(path, hdu=hdu)[0].error for hdu in (1, 3))
    assert first is not None
    assert second is not None
    assert second[0, 0] == pytest.approx(2 * first[0, 0])  # the error image of the same chip


def test_empty_planes_of_a_cube_are_left_out_and_bits_are_of_their_band(tmp_path: Path) -> None:
    data = RNG.normal(size=(4, 9, 9)).astype(np.float32)
    data[2] = 0.0
    bits = np.zeros((9, 9), np.int32)
    bits[1, 1], bits[2, 2], bits[3, 3], bits[4, 4] = 1 << 14, 1 << 15, 1 << 2, 1 << 1
    mask = fits.ImageHDU(bits)
    mask.header["IMAGETYP"] = "maskbits"
    header = header_of((9, 9), 0.262, SURVEY="LegacySurvey", BANDS="griz")
    fits.HDUList([fits.PrimaryHDU(data, header), mask]).writeto(tmp_path / "cube.fits")
    g, r, z = read_exposures(tmp_path / "cube.fits")
    assert [e.band for e in (g, r, z)] == ["g", "r", "z"]
    assert [e.good[k, k] for e in (g, r) for k in (1, 2, 3, 4)] == [True, True, False, False] + [True] * 3 + [
        False
    ]
    data[:] = 0.0
    fits.HDUList([fits.PrimaryHDU(data, header), mask]).writeto(tmp_path / "empty.fits")
    with pytest.raises(IngestError, match="no usable pixel in g, r, i, z"):
        read_exposures(tmp_path / "empty.fits")
    data[2] = 1.0
    fits.HDUList([fits.PrimaryHDU(data, header), mask]).writeto(tmp_path / "i.fits")
    (i,) = read_exposures(tmp_path / "i.fits")
    assert np.argwhere(~i.good).tolist() == [[1, 1], [2, 2], [4, 4]]


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


def test_records_of_other_units_and_masks(tmp_path: Path) -> None:
    path = tmp_path / "jwst.h5"
    one, two = np.ones((1, 20, 20), bool), np.zeros((1, 2, 20, 20), np.int32)
    one[0, 3, 4], two[0, 1, 5, 6] = False, 8
    with h5py.File(path, "w") as file:
        file["image_array"] = np.ones((1, 2, 20, 20), np.float32)
        file["image_band"] = np.asarray([["F115W", "F200W"]], dtype="S")
        file["image_ivar"] = np.ones((1, 2, 20, 20), np.float32)
        file["image_scale"] = np.full((1, 2), 0.04, np.float32)
        file["image_mask"], file["bit_mask"] = one, two
    with pytest.raises(IngestError, match=r"`zero_point` must be given .* F115W .* 10 nJy: 28\.9"):
        read_record(path, 0)
    first, second = read_record(path, 0, zero_point=28.9)
    assert first.image[0, 0] == pytest.approx(1e-8 / 3631, rel=2e-4)  # AB: 3631 Jy
    assert np.argwhere(~first.good).tolist() == [[3, 4]]
    assert np.argwhere(~second.good).tolist() == [[3, 4], [5, 6]]
