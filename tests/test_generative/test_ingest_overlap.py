import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from generative.ingest.exposure import plain_wcs
from generative.ingest.overlap import Grid, matrix_of_corners, new_corners, overlap_matrix


def turned(shape: tuple[int, int], scale: float, degrees: float, *, flip: bool = False):
    wcs = plain_wcs(shape, scale, ra=150.1, dec=2.2)
    angle = np.deg2rad(degrees)
    sign = -1 if flip else 1
    wcs.wcs.pc = [[sign * np.cos(angle), -np.sin(angle)], [sign * np.sin(angle), np.cos(angle)]]
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize(
    ("scale", "degrees", "flip"), [(0.262, 0.0, False), (0.03, 33.0, False), (0.7, 91.0, True)]
)
def test_flux_is_conserved_to_rounding(scale: float, degrees: float, flip: bool) -> None:
    image = np.random.default_rng(1).normal(1.0, 1.0, (24, 20))
    n = int(40 * scale / 0.2) + 12
    matrix = overlap_matrix(
        Grid(plain_wcs((n, n), 0.2, ra=150.1, dec=2.2), (n, n)),
        Grid(turned((24, 20), scale, degrees, flip=flip), (24, 20)),
    )
    assert (matrix @ image.ravel()).sum() == pytest.approx(image.sum(), rel=1e-9)
    # Every old pixel lies wholly under the new ones.
    assert np.allclose(matrix.sum(axis=0), 1.0, atol=1e-9)


def test_same_grid_is_the_identity_and_two_by_two_is_a_sum() -> None:
    image = np.random.default_rng(2).normal(size=(8, 8))
    grid = Grid(plain_wcs((8, 8), 0.1), (8, 8))
    assert np.allclose((overlap_matrix(grid, grid) @ image.ravel()).reshape(8, 8), image, atol=1e-8)
    half = Grid(plain_wcs((4, 4), 0.2), (4, 4))
    summed = image.reshape(4, 2, 4, 2).sum(axis=(1, 3))
    assert np.allclose((overlap_matrix(half, grid) @ image.ravel()).reshape(4, 4), summed, atol=1e-7)


@pytest.mark.parametrize("degrees", [0.0, 17.0, 45.0, 90.0])
def test_areas_are_those_of_the_drizzle_library(degrees: float) -> None:
    drizzle = pytest.importorskip("drizzle.resample")
    shape, n = (30, 30), 24
    old = Grid(turned(shape, 0.262, degrees), shape)
    new = Grid(plain_wcs((n, n), 0.396, ra=150.1, dec=2.2), (n, n))
    image = np.random.default_rng(3).normal(5.0, 1.0, shape).astype(np.float32)
    x, y = np.meshgrid(np.arange(30.0), np.arange(30.0))
    pixmap = np.dstack(new.wcs.all_world2pix(*old.wcs.all_pix2world(x, y, 0), 0))
    driz = drizzle.Drizzle(kernel="square", out_shape=(n, n), fillval=0.0)
    driz.add_image(image, exptime=1.0, pixmap=pixmap, pixfrac=1.0, in_units="cps")
    mine = overlap_matrix(new, old)
    covered = (mine @ np.ones(900)).reshape(n, n)
    # Drizzle gives means over the covered area; in single precision.
    mean = (mine @ image.astype(float).ravel()).reshape(n, n) / np.where(covered > 0, covered, 1)
    # Drizzle lays out the edge of an image otherwise: compare where the old pixels lie all around.
    inside = binary_erosion(covered > (1 - 1e-6) * covered.max())
    assert inside.sum() > 80
    assert np.allclose(mean[inside], driz.out_img[inside], rtol=2e-4)


def test_a_quadrilateral_against_areas_by_hand() -> None:
    # A square of side sqrt(2) stood on its corner in the middle of four pixels: half of each.
    x, y = np.array([[0.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 0.0], [2.0, 1.0]])
    matrix = matrix_of_corners(x, y, (2, 2))
    assert np.allclose(matrix.toarray(), 0.5)


def test_corners_count_from_the_edge_of_the_first_pixel() -> None:
    grid = Grid(plain_wcs((5, 7), 1.0), (5, 7))
    x, y = new_corners(grid, grid)
    assert np.allclose(x[0], np.arange(8), atol=1e-7)
    assert np.allclose(y[:, 0], np.arange(6), atol=1e-7)
