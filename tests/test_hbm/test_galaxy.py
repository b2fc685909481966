"""Galaxies described one by one, and the catalogue that they make."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from generative.conditions import Observing
from generative.stamps import Stamps
from hbm import fitting
from hbm.catalog import Catalog
from hbm.galaxy import Galaxy
from hbm.image import CompiledImages, GalaxyImage, ImageError, load_image_likelihood

BANDS = ("sdss_g0", "sdss_r0")
MEASURED = {"flux": [1e-8, 2e-8], "flux_err": [1e-9, 1e-9], "filter_names": BANDS}


def stamp(name: str = "a", n_band: int = 4, n_image: int = 1) -> Stamps:
    shape = (n_image, n_band)
    conditions = Observing(torch.full((n_image,), 0.1), torch.full(shape, 1.2), torch.full(shape, 300.0))
    pixels = torch.zeros(*shape, 8, 8)
    return Stamps(
        np.array([name] * n_image), pixels, torch.ones(shape), torch.ones_like(pixels, dtype=torch.bool),
        conditions,
    )  # fmt: skip


def statistics(name: str = "a", zred: float = 0.1) -> CompiledImages:
    one = np.ones(1, np.float32)
    data = GalaxyImage(np.zeros((1, 6, 6)), np.zeros((1, 6)), np.zeros((1, 1)), 12.4 * one, np.zeros((1, 0)))
    return CompiledImages(np.array([name]), data, 0.02 * one, zred * one, 0.4 * one)


def test_bands_of_a_catalogue_are_those_of_all_galaxies() -> None:
    catalog = Catalog.from_galaxies(
        [
            Galaxy("a", 0.1, **MEASURED),
            Galaxy(
                "b", 0.2, 0.01, flux=[3e-8, np.nan, 5e-9], flux_err=[2e-9, np.nan, 5e-9],
                filter_names=["sdss_r0", "sdss_g0", "twomass_Ks"], upper_limit=[False, False, True],
            ),
            Galaxy("c", 0.3),
        ]
    )  # fmt: skip
    assert (catalog.id, catalog.filter_names) == (("a", "b", "c"), (*BANDS, "twomass_Ks"))
    np.testing.assert_array_equal(catalog.zred, [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(catalog.zred_err, [0, 0.01, 0])
    np.testing.assert_array_equal(catalog.observed, [[1, 1, 0], [0, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(catalog.flux[:2], [[1e-8, 2e-8, np.nan], [np.nan, 3e-8, 5e-9]])
    np.testing.assert_array_equal(catalog.flux_err[:2], [[1e-9, 1e-9, np.nan], [np.nan, 2e-9, 5e-9]])
    np.testing.assert_array_equal(catalog.upper_limit[1], [False, False, True])
    assert catalog.images is None


def test_a_flux_without_an_error_is_refused() -> None:
    galaxy = Galaxy("a", 0.1, flux=[1e-8, 2e-8], flux_err=[1e-9, np.nan], filter_names=BANDS)
    with pytest.raises(ValueError, match="`flux_err` positive where `observed`, got 2e-08 and nan for id a"):
        Catalog.from_galaxies([galaxy])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ""}, "`id` must be the galaxy's name"),
        ({"zred": float("nan")}, "`zred` of galaxy 'a' must be a positive redshift, got nan"),
        ({"zred_err": -0.1}, "`zred_err` of galaxy 'a' must be at least 0, got -0.1"),
        ({"flux": [1e-8]}, r"`flux` of galaxy 'a' must be .* shape \(2,\), got \(1,\)"),
        ({"flux_err": None}, "`flux_err` of galaxy 'a' must be one number .* got None"),
        ({"upper_limit": [True]}, r"`upper_limit` of galaxy 'a' must be .* got \(1,\)"),
        ({"filter_names": ()}, r"`flux` of galaxy 'a' must be .* shape \(0,\), got \(2,\)"),
        ({"filter_names": ("sdss_g0",) * 2}, "`filter_names` of galaxy 'a' must be names of .*, each once"),
        ({"ra": 10.0}, "`ra` of galaxy 'a' must be given together with `dec`"),
        ({"ra": 10.0, "dec": 95.0}, "`dec` within -90 to 90"),
        ({"image_bands": BANDS}, "`image` of galaxy 'a' must be given if `image_bands`"),
        ({"image": stamp("b")}, "`image` of galaxy 'a' must be an image of the same galaxy, .* got 'b'"),
        ({"image": statistics("b")}, "`image` of galaxy 'a' must be an image of the same .* got 'b'"),
        ({"image": stamp(n_image=2)}, "the one image of this galaxy, got '2 images'"),
        ({"image": stamp(), "image_bands": BANDS}, "`image_bands` of galaxy 'a' must be the 4 bands"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Galaxy(**({"id": "a", "zred": 0.1} | MEASURED | changes))


def test_image_and_photometry_must_be_at_the_same_place() -> None:
    def at(ra: float, dec: float, image_ra: float, image_dec: float) -> Galaxy:
        return Galaxy("a", 0.1, image=stamp(), ra=ra, dec=dec, image_ra=image_ra, image_dec=image_dec)

    near = at(0.0001, 60.0, 359.9999, 60.0)  # 0.72 arcsec on the equator, half of it here
    assert near.image_offset_arcsec() == pytest.approx(0.36, rel=1e-4)
    with pytest.raises(ValueError, match=r"to 1 arcsec: these are different galaxies, got '3\.6 arcsec'"):
        at(150.0, 2.0, 150.0, 2.001)
    with pytest.raises(ValueError, match=r"different galaxies, got '1\.4 arcsec'"):
        at(0.0002, 0.0, 359.9998, 0.0)


def test_statistics_of_images_are_matched_to_their_galaxies() -> None:
    likelihood = load_image_likelihood("sdss-griz")
    first = statistics("b")
    galaxies = [Galaxy("a", 0.1, **MEASURED), Galaxy("b", 0.1, image=first)]
    catalog = Catalog.from_galaxies(galaxies, likelihood)
    assert catalog.images is not None
    assert [name in catalog.images for name in ("a", "b")] == [False, True]
    with pytest.raises(ImageError, match="`images` must have the redshifts of `catalog`"):
        Catalog.from_galaxies([Galaxy("b", 0.2, image=first)], likelihood)


def test_one_may_insist_on_a_likelihood_that_was_never_calibrated() -> None:
    likelihood = load_image_likelihood("sdss-griz")
    rash = dataclasses.replace(likelihood, calibration=())
    galaxy = Galaxy("b", 0.1, image=statistics("b"))
    with pytest.raises(ImageError, match="never calibrated"):
        Catalog.from_galaxies([galaxy], rash)
    assert Catalog.from_galaxies([galaxy], rash, insist=True).images is not None


def test_images_need_their_model() -> None:
    with pytest.raises(ValueError, match="`image_model` must be given for images, such as that of 'a'"):
        Catalog.from_galaxies([Galaxy("a", 0.1, image=stamp())])


def test_pixels_need_a_model_by_name() -> None:
    with pytest.raises(ValueError, match="`image_model` must be a name or a file where images"):
        Catalog.from_galaxies([Galaxy("a", 0.1, image=stamp())], load_image_likelihood("sdss-griz"))


@pytest.mark.parametrize(
    ("image", "bands"), [(stamp(n_band=2), ()), (stamp(), ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0"))]
)
def test_images_in_other_bands_than_the_models_are_refused(image: Stamps, bands: tuple[str, ...]) -> None:
    galaxy = Galaxy("a", 0.1, image=image, image_bands=bands)
    with pytest.raises(ValueError, match=r"must be in the bands of sdss-griz, \('sdss_g0', .* got"):
        Catalog.from_galaxies([galaxy], "sdss-griz")


def test_something_else_is_no_galaxy() -> None:
    with pytest.raises(TypeError, match=r"`galaxies` must be hbm.Galaxy objects, got str"):
        Catalog.from_galaxies(["a"])
    with pytest.raises(ValueError, match="`galaxies` must hold at least one galaxy"):
        fitting.fit([])


@pytest.mark.parametrize("as_list", [False, True])
def test_fit_takes_galaxies(monkeypatch: pytest.MonkeyPatch, as_list: bool) -> None:
    class StopError(Exception):
        pass

    def stop(catalog: Catalog, *_: object) -> None:
        assert catalog.id == ("a",)
        raise StopError

    monkeypatch.setattr(fitting, "what_counts", stop)
    galaxy = Galaxy("a", 0.1, **MEASURED)
    with pytest.raises(StopError):
        fitting.fit([galaxy] if as_list else galaxy)


def test_a_catalogue_has_its_image_model_already() -> None:
    catalog = Catalog.from_galaxies([Galaxy("a", 0.1, **MEASURED)])
    with pytest.raises(ValueError, match=r"`image_model` is for `hbm\.Galaxy` objects"):
        fitting.fit(catalog, image_model="sdss-griz")
