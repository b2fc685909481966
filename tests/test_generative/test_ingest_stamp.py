"""Stamps of simulated fields, whose fluxes, PSF and noise are known; and of real ones where there are."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from generative.datasets import read_survey_images
from generative.ingest import IngestError
from generative.ingest.checks import domain_flags
from generative.ingest.exposure import Exposure, plain_wcs
from generative.ingest.psf import blur_sigma, fitted_fwhm, moffat_image, point_source
from generative.ingest.sources import light_beyond
from generative.ingest.stamp import IngestOptions, Stamp, make_stamp, survey_filter
from generative.ingest.stars import measured_fwhm
from generative.ingest.store import flux_table, write_flux_table, write_stamps
from generative.instrument import HST_F814W, SDSS_GRIZ
from hbm.catalog import read_catalog

REAL = Path(__file__).parents[2].parent / "shared" / "real"
FLUX = {"g": 2.0e-8, "r": 4.0e-8, "i": 5.5e-8, "z": 7.0e-8}
NOISE = {"g": 5.0e-12, "r": 7.0e-12, "i": 1.2e-11, "z": 3.0e-11}


def galaxy(shape: tuple[int, int], x: float, y: float, size: float, flux: float) -> np.ndarray:
    """Round Moffat profile with PSF already in it, of known total."""
    reach = max(shape)
    column, row = round(x), round(y)
    small = moffat_image(2 * reach + 1, size, 3.0, x=x - column, y=y - row, oversample=3)
    image = np.zeros(shape)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image[:] = small[rows - row + reach, columns - column + reach]
    return flux * image


def exposures(
    *, scale: float = 0.262, shape: tuple[int, int] = (170, 170), fwhm: float = 1.25, seed: int = 0,
    sky: float = 3e-11, neighbour: bool = True, offset: tuple[float, float] = (2.3, -1.2), noise: float = 1.0,
) -> list[Exposure]:  # fmt: skip
    rng = np.random.default_rng(seed)
    wcs = plain_wcs(shape, scale, ra=150.0, dec=2.0)
    x, y = (shape[1] - 1) / 2 + offset[0], (shape[0] - 1) / 2 + offset[1]
    result = []
    for band, flux in FLUX.items():
        image = (
            galaxy(shape, x, y, 2.2 / scale, flux) + sky + noise * NOISE[band] * rng.standard_normal(shape)
        )
        if neighbour:
            star = point_source(shape, x + 15.0, y + 10.0, psf=None, fwhm=fwhm / scale, beta=4.765)
            image += 0.5 * flux * star
        error = np.full(shape, noise * NOISE[band])
        result.append(Exposure(band, image, np.ones(shape, bool), wcs, error, None, fwhm, "legacy"))
    return result


@pytest.fixture(scope="module")
def stamp() -> Stamp:
    return make_stamp(exposures(), SDSS_GRIZ, zred=0.1, name="one")


def test_flux_sky_and_centre(stamp: Stamp) -> None:
    # A Kron aperture of 2.5 radii holds most, not all, of a Moffat profile's light.
    truth = np.array(list(FLUX.values()))
    assert np.all(np.abs(stamp.flux_field - 0.957 * truth) < 3.0 * stamp.flux_err)
    assert np.all(stamp.flux_err < 0.025 * truth)
    rows, columns = np.mgrid[11:21, 11:21]
    light = stamp.image[1, 11:21, 11:21]
    assert (light * columns).sum() / light.sum() == pytest.approx(15.5, abs=0.1)
    assert (light * rows).sum() / light.sum() == pytest.approx(15.5, abs=0.1)
    assert not stamp.outside


def test_a_band_without_pixels_at_the_galaxy_is_missing() -> None:
    shots = exposures()
    good = np.zeros(shots[2].image.shape, bool)
    good[0, 0] = True  # far from the galaxy
    shots[2] = dataclasses.replace(shots[2], good=good)
    made = make_stamp(shots, SDSS_GRIZ, zred=0.1)
    assert [flag.text for flag in made.flags if flag.name == "missing_band"] == ["no image in sdss_i0"]
    assert not made.observed[2].any()
    assert made.observed[[0, 1, 3]].any(axis=(1, 2)).all()


def cutout(side: int, size: float, *, correlation: np.ndarray | None = None, fill: bool = True) -> Stamp:
    """Stamp of hst-f814w from an image of so many of its own pixels, of a galaxy of some width (arcsec)."""
    rng = np.random.default_rng(4)
    scale, shape = HST_F814W.pixel_scale, (side, side)
    middle = (side - 1) / 2
    light = galaxy(shape, middle, middle, size / scale, 2e-8)
    image = light + 2e-12 * rng.standard_normal(shape)
    shot = Exposure(
        "f814w", image, np.ones(shape, bool), plain_wcs(shape, scale), np.full(shape, 2e-12), None,
        float(np.mean(HST_F814W.psf_fwhm[0])), correlation=correlation,
    )  # fmt: skip
    return make_stamp([shot], HST_F814W, zred=0.5, options=IngestOptions(fill=fill))


def test_noise_is_put_where_a_small_cutout_does_not_reach() -> None:
    side = HST_F814W.n_pixel // 2
    made, plain = cutout(side, 0.25), cutout(side, 0.25, fill=False)
    assert made.observed.all()
    assert "filled" in {flag.name for flag in made.flags}
    assert not plain.observed.all()
    assert [flag.outside for flag in plain.flags if flag.name == "masked"] == [True]
    reached = plain.observed[0]
    np.testing.assert_array_equal(made.image[0][reached], plain.image[0][reached])
    beyond = made.image[0][~reached]
    assert beyond.std() == pytest.approx(made.noise[0], rel=0.05)
    assert abs(beyond.mean()) < 4 * made.noise[0] / np.sqrt(beyond.size)
    # A galaxy that goes on beyond the image stays masked there.
    large = cutout(side, 0.6)
    assert {"cutout_small", "masked"} <= {flag.name for flag in large.flags if flag.outside}
    assert not large.observed.all()


def test_light_beyond_the_image_is_that_of_an_exponential_disc() -> None:
    rows, columns = np.mgrid[:201, :201] - 100.0
    radius = np.hypot(rows, columns)
    disc = np.exp(-radius / 8.0)
    for edge in (20.0, 30.0, 40.0):
        reached = radius < edge
        truth = disc[~reached].sum() / disc.sum()
        found = light_beyond(np.where(reached, disc, 0.0), reached, reached, 100.0, 100.0)
        assert found == pytest.approx(truth, rel=0.35)
    assert light_beyond(np.zeros((9, 9)), np.ones((9, 9), bool), np.ones((9, 9), bool), 4.0, 4.0) == 1.0


def test_correlation_that_is_known_raises_the_noise() -> None:
    """Of pixels of half the size: two by two of them scatter more if they share noise."""
    correlation = np.zeros((9, 9))
    correlation[3:6, 3:6] = [[0.2, 0.45, 0.2], [0.45, 1.0, 0.45], [0.2, 0.45, 0.2]]
    side = HST_F814W.n_pixel // 2
    told, plain = cutout(side, 0.25, correlation=correlation), cutout(side, 0.25)
    assert "noise_not_measured" in {flag.name for flag in plain.flags}
    assert told.noise[0] > 1.3 * plain.noise[0]
    with pytest.raises(IngestError, match="`correlation` must be of 9 by 9 lags"):
        cutout(side, 0.25, correlation=np.ones((3, 3)))


def test_a_sky_that_is_not_known_has_an_error() -> None:
    shots = exposures(shape=(60, 60), neighbour=False, offset=(0.0, 0.0))
    made = make_stamp(shots, SDSS_GRIZ, zred=0.1)
    assert "no_sky" in {flag.name for flag in made.flags}
    # An aperture has hundreds of pixels: the sky's error counts more than their noise.
    assert np.all(made.flux_err > 0.2 * made.noise / 2 * 100)


def test_flux_is_that_of_photutils_on_the_original_pixels() -> None:
    from photutils.aperture import CircularAperture, aperture_photometry

    shown = make_stamp(exposures(neighbour=False, noise=0.01, sky=0.0), SDSS_GRIZ, zred=0.1)
    first = exposures(neighbour=False, noise=0.01, sky=0.0)[1]
    radius = 5.0  # arcsec
    middle = ((170 - 1) / 2 + 2.3, (170 - 1) / 2 - 1.2)
    before = aperture_photometry(first.image, CircularAperture(middle, radius / 0.262))["aperture_sum"][0]
    after = aperture_photometry(shown.image[1], CircularAperture((15.5, 15.5), radius / 0.396))[
        "aperture_sum"
    ][0]
    assert after == pytest.approx(before, rel=0.01)


def test_neighbour_is_masked_and_its_light_is_not_counted(stamp: Stamp) -> None:
    x, y = 15.5 + 15.0 * 0.262 / 0.396, 15.5 + 10.0 * 0.262 / 0.396  # east is left in both
    assert not stamp.observed[:, round(y), round(x)].any()
    assert stamp.observed[:, 12:19, 12:19].all()
    alone = make_stamp(exposures(neighbour=False), SDSS_GRIZ, zred=0.1)
    assert np.allclose(stamp.flux_field, alone.flux_field, rtol=0.02)


def test_told_noise_is_that_of_many_realisations_and_independent() -> None:
    options = IngestOptions(recentre=False, mask_neighbours=False)
    made = [
        make_stamp(
            exposures(seed=seed, neighbour=False), SDSS_GRIZ, zred=0.1, name=f"n{seed}", options=options
        )
        for seed in range(5)
    ]
    images = np.stack([stamp.image for stamp in made])
    told = np.stack([stamp.noise for stamp in made])
    residual = (images - images.mean(axis=0)) / told.mean(axis=0)[:, None, None] * np.sqrt(5 / 4)
    assert residual.std() == pytest.approx(1.0, abs=0.03)
    for lag in ((0, 1), (1, 0), (1, 1), (0, 2)):
        shifted = np.roll(residual, lag, axis=(2, 3))[:, :, 2:, 2:]
        assert abs((shifted * residual[:, :, 2:, 2:]).mean()) < 0.05
    assert np.all(np.std(told, axis=0) / np.mean(told, axis=0) < 0.06)


def test_without_whitening_the_noise_is_lower_but_shared() -> None:
    plain = make_stamp(exposures(), SDSS_GRIZ, zred=0.1, options=IngestOptions(whiten=False))
    white = make_stamp(exposures(), SDSS_GRIZ, zred=0.1)
    assert np.all(plain.noise < white.noise)
    assert any(flag.name == "noise_correlated" and flag.outside for flag in plain.flags)


def test_a_sharp_image_is_blurred_to_the_range_and_a_blunt_one_refused() -> None:
    sharp = make_stamp(exposures(fwhm=0.7), SDSS_GRIZ, zred=0.1)
    low = np.array([pair[0] for pair in SDSS_GRIZ.psf_fwhm])
    assert np.all(sharp.fwhm >= 0.998 * low)
    assert np.all(sharp.fwhm < 1.05 * low)
    with pytest.raises(IngestError, match=r"2\.\d+ arcsec wide.*trained on 1\.1 to 1\.8"):
        make_stamp(exposures(fwhm=2.4), SDSS_GRIZ, zred=0.1)


def test_told_psf_is_that_of_a_star_put_through_the_same_steps() -> None:
    shape, scale = (170, 170), 0.262
    wcs = plain_wcs(shape, scale, ra=150.0, dec=2.0)
    star = point_source(shape, 84.9, 84.3, psf=None, fwhm=0.8 / scale, beta=4.765)
    rng = np.random.default_rng(1)
    shots = [
        Exposure(
            b, 3e-8 * star + 1e-14 * rng.standard_normal(shape), np.ones(shape, bool), wcs, None, None, 0.8
        )
        for b in "griz"
    ]
    made = make_stamp(shots, SDSS_GRIZ, zred=0.1, options=IngestOptions(mask_neighbours=False))
    measured = [fitted_fwhm(made.image[k][4:29, 4:29], 4.765) * 0.396 for k in (0, 3)]
    assert np.allclose(measured, made.fwhm[[0, 3]], rtol=0.02)


def test_a_psf_image_says_the_same_as_its_width() -> None:
    shots = exposures(fwhm=0.9)[1:2]
    psf = moffat_image(31, 0.9 / 0.262, 4.765)
    with_image = [Exposure(e.band, e.image, e.good, e.wcs, e.error, psf) for e in shots]
    a, b = (make_stamp(s, SDSS_GRIZ, zred=0.1) for s in (shots, with_image))
    assert a.fwhm[1] == pytest.approx(b.fwhm[1], rel=0.02)
    with pytest.raises(IngestError, match="`fwhm` or `psf`"):
        make_stamp([Exposure(e.band, e.image, e.good, e.wcs) for e in shots], SDSS_GRIZ, zred=0.1)


def test_missing_band_holes_and_domain_are_flagged() -> None:
    shots = exposures()
    holed = shots[1].good.copy()
    holed[88:98, 84:98] = False
    shots[1] = Exposure(
        "r", np.where(holed, shots[1].image, np.nan), holed, shots[1].wcs, shots[1].error, None, 1.25
    )
    made = make_stamp([shots[0], shots[1], shots[3]], SDSS_GRIZ, zred=0.4)
    names = {flag.name for flag in made.flags}
    assert {"missing_band", "redshift", "holes_in_galaxy"} <= names
    assert not made.observed[2].any()
    assert made.outside
    text = next(flag.text for flag in made.flags if flag.name == "redshift")
    assert "0.4" in text
    assert "0.05 to 0.25" in text
    # The mask covers what the hole spoiled; the flux is from the other side of the galaxy.
    assert made.flux_field[1] == pytest.approx(FLUX["r"], rel=0.08)


def test_empty_or_wrong_places_are_refused() -> None:
    shots = exposures(offset=(0.0, 0.0))
    with pytest.raises(IngestError, match=r"nothing within|away"):
        make_stamp(shots, SDSS_GRIZ, zred=0.1, ra=150.0, dec=2.0 - 10 / 3600)
    with pytest.raises(IngestError, match="must be in the image"):
        make_stamp(shots, SDSS_GRIZ, zred=0.1, ra=151.0, dec=2.0)
    with pytest.raises(IngestError, match="bands of hst-f814w"):
        make_stamp(shots, HST_F814W, zred=0.5)
    with pytest.raises(IngestError, match="given together"):
        make_stamp(shots, SDSS_GRIZ, zred=0.1, ra=150.0)


def test_domain_is_that_of_compile() -> None:
    import torch

    from generative.conditions import Observing, observing_columns
    from generative.summaries import _outside

    rng = np.random.default_rng(11)
    for _ in range(60):
        fwhm = rng.uniform(0.8, 2.2, 4)
        snr = 10 ** rng.uniform(1.0, 6.0, 4)
        u = Observing(torch.tensor([0.1]), torch.tensor(fwhm[None]).float(), torch.tensor(snr[None]).float())
        theirs = bool(_outside(observing_columns(u, SDSS_GRIZ), 4, SDSS_GRIZ.reference_band)[0])
        assert bool(domain_flags(SDSS_GRIZ, zred=0.1, fwhm=fwhm, snr=snr)) == theirs


def test_files_are_read_back(tmp_path: Path, stamp: Stamp) -> None:
    path = tmp_path / "stamps.h5"
    write_stamps([stamp], SDSS_GRIZ, path)
    read = read_survey_images(path, SDSS_GRIZ).stamps
    assert read.id.tolist() == ["one"]
    assert np.allclose(read.noise[0].numpy(), stamp.noise * 1e9, rtol=1e-5)
    assert np.allclose(read.u.snr[0].numpy(), stamp.flux / stamp.noise, rtol=1e-4)
    assert np.array_equal(read.observed[0].numpy(), stamp.observed)
    assert np.allclose(read.image[0].numpy()[stamp.observed], stamp.image[stamp.observed] * 1e9, rtol=1e-5)
    table = tmp_path / "stamps.fluxes.ecsv"
    write_flux_table([stamp], table, {"two": "no image"})
    # The Legacy Surveys' filters, which the image was taken with, not those of the instrument.
    assert read_catalog(table).filter_names == ("decam_g", "decam_r", "decam_i", "decam_z")
    other = dataclasses.replace(stamp, id="other", filters=("sdss_g0", "sdss_r0", "decam_i", "sdss_z0"))
    both = flux_table([stamp, other])
    assert np.isnan(both["sdss_g0"]).tolist() == [True, False]
    assert both["sdss_g0"][1] == both["decam_g"][0] == stamp.flux_field[0]
    assert not np.isnan(both["decam_i_err"]).any()
    assert flux_table([stamp], {"two": "no image"}).meta["rejected"] == {"two": "no image"}
    with pytest.raises(IngestError, match="repeats"):
        write_stamps([stamp, stamp], SDSS_GRIZ, path)
    with h5py.File(path) as file:
        assert file.attrs["instrument"] == "sdss-griz"
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["stamps.fluxes.ecsv", "stamps.h5"]


def test_filters_of_surveys_are_those_that_sedpy_has() -> None:
    from sed.filters import load_filters

    named = [
        ("sdss", "u"),
        ("legacy", "z"),
        ("des", "Y"),
        ("panstarrs", "y"),
        ("hsc", "i"),
        ("generic", "DES-G"),
    ]
    filters = [survey_filter(survey, name, "sdss_g0") for survey, name in named]
    assert filters == ["sdss_u0", "decam_z", "decam_Y", "panstarrs_y", "hsc_i", "decam_g"]
    load_filters(filters)
    assert survey_filter("hst", "F814W", "acs_wfc_f814w") == "acs_wfc_f814w"


def test_stars_tell_the_width() -> None:
    rng = np.random.default_rng(2)
    shape, scale = (240, 240), 0.262
    image = 1e-11 * rng.standard_normal(shape) + 2e-10
    for x, y in rng.uniform(20, 220, (9, 2)):
        image += 3e-8 * point_source(shape, x, y, psf=None, fwhm=1.1 / scale, beta=4.765)
    image += galaxy(shape, 120.0, 120.0, 2.5 / scale, 4e-8)
    shot = Exposure("r", image, np.ones(shape, bool), plain_wcs(shape, scale))
    assert measured_fwhm(shot) == pytest.approx(1.1, rel=0.03)
    empty = Exposure("r", 1e-11 * rng.standard_normal(shape), np.ones(shape, bool), plain_wcs(shape, scale))
    with pytest.raises(IngestError, match="none arcsec wide"):
        measured_fwhm(empty)


def test_width_of_a_gaussian_blur_adds_in_quadrature() -> None:
    assert blur_sigma(3.0, 5.0) == pytest.approx(4.0 / 2.3548, rel=1e-4)
    assert blur_sigma(5.0, 3.0) == 0.0


@pytest.mark.skipif(not (REAL / "hostphot_stripe82").is_dir(), reason="the real images are not at hand")
def test_one_galaxy_of_three_surveys_has_one_flux() -> None:
    from generative.ingest.readers import read_exposures

    folder = REAL / "hostphot_stripe82"
    field, widths = {}, {"DES": 1.0, "PS1": 1.15, "SDSS": 1.3}
    # Coordinates of the SDSS crops are wrong by arcminutes: there the galaxy is named by its pixel.
    for survey, width in widths.items():
        shots = [read_exposures(folder / f"{survey}_{b}.fits", band=b, fwhm=width)[0] for b in "griz"]
        if survey == "SDSS":
            wcs = plain_wcs(shots[0].image.shape, 0.396, ra=27.952, dec=0.264)
            shots = [
                Exposure(e.band, np.roll(e.image, (-2, -2), (0, 1)), e.good, wcs, None, None, width)
                for e in shots
            ]
        made = make_stamp(shots, SDSS_GRIZ, zred=0.06, name=survey)
        field[survey] = made.flux_field
        # A galaxy of a minute of arc is no galaxy of the model's, and that is said.
        assert any(flag.name == "larger_than_stamp" and flag.outside for flag in made.flags)
    # Filters differ by a few per cent, apertures and sky by more: zero points 0.2 mag off would show.
    for survey in ("PS1", "SDSS"):
        assert np.all(np.abs(field[survey] / field["DES"] - 1) < 0.2)


@pytest.mark.skipif(not (REAL / "cosmos_hst_btk100").is_dir(), reason="the real images are not at hand")
def test_hst_fluxes_are_those_of_the_catalogue() -> None:
    from astropy.io import fits

    from generative.ingest.units import from_zero_point

    folder, unit = REAL / "cosmos_hst_btk100", from_zero_point(25.94)
    table = fits.getdata(folder / "real_galaxy_catalog_26_extension_example.fits", 1)
    differences, widths = [], []
    with (
        fits.open(folder / "real_galaxy_images_extension.fits") as images,
        fits.open(folder / "real_galaxy_PSF_images_extension.fits") as points,
    ):
        for row in np.flatnonzero(table["MAG"] < 23.5)[:4]:
            image = np.asarray(images[int(table["GAL_HDU"][row])].data, float) * unit
            psf = np.asarray(points[int(table["PSF_HDU"][row])].data, float)
            error = np.full(image.shape, np.sqrt(table["NOISE_VARIANCE"][row]) * unit)
            shot = Exposure("f814w", image, np.isfinite(image), plain_wcs(image.shape, 0.03), error, psf)
            made = make_stamp([shot], HST_F814W, zred=0.5, name=str(row))
            differences.append(-2.5 * np.log10(made.flux_field[0]) - table["MAG"][row])
            widths.append(made.fwhm[0])
    assert abs(np.median(differences)) < 0.1
    assert np.max(np.abs(differences)) < 0.3
    assert 0.1 < np.median(widths) < 0.12  # ACS in F814W
