r"""Resampling that conserves flux: each old pixel's flux goes to the new pixels that lie over it.

With the light of an old pixel j spread evenly over it, new pixel i gets the part

.. math:: W_{ij} = \mathrm{area}(i \cap j) / \mathrm{area}(j)

so that sums are kept, to rounding, for any rotation, shear and scale. The matrix is sparse, and what is
linear in the image (noise, a point source) goes through the same one. New pixels are quadrilaterals in the
old image's plane, where the areas are exact; distortions within a pixel are left out.

Planar on purpose: polygons on the sphere lose their precision at the pixels of HST and JWST.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float


class Grid(NamedTuple):
    """Pixels of an image."""

    wcs: Any
    """`astropy.wcs.WCS`, two celestial axes."""
    shape: tuple[int, int]
    """(height, width)."""


def overlap_matrix(new: Grid, old: Grid) -> Any:
    """Matrix that resamples a flattened image, `scipy.sparse.csr_array` of shape (new pixels, old pixels).

    New pixels outside of the old image have empty rows.
    """
    corner_x, corner_y = new_corners(new, old)
    return matrix_of_corners(corner_x, corner_y, old.shape)


def new_corners(
    new: Grid, old: Grid
) -> tuple[Float[np.ndarray, "rows columns"], Float[np.ndarray, "rows columns"]]:
    """Corners of the new pixels in the old image's pixels; pixel (0, 0) reaches from 0 to 1."""
    height, width = new.shape
    x, y = np.meshgrid(np.arange(width + 1) - 0.5, np.arange(height + 1) - 0.5)
    ra, dec = new.wcs.all_pix2world(x, y, 0)
    old_x, old_y = old.wcs.all_world2pix(ra, dec, 0)
    return np.asarray(old_x) + 0.5, np.asarray(old_y) + 0.5


def matrix_of_corners(
    corner_x: Float[np.ndarray, "rows columns"],
    corner_y: Float[np.ndarray, "rows columns"],
    shape: tuple[int, int],
) -> Any:
    """`overlap_matrix` from the corners of the new pixels in units of the old ones."""
    from scipy.sparse import csr_array

    x, y = (_corners_of_each(c) for c in (corner_x, corner_y))
    n_new = len(x)
    near = np.flatnonzero(
        (x.max(axis=1) > 0) & (x.min(axis=1) < shape[1]) & (y.max(axis=1) > 0) & (y.min(axis=1) < shape[0])
    )
    if near.size == 0:
        return csr_array((n_new, shape[0] * shape[1]))
    x, y = x[near], y[near]
    first_x, first_y = np.floor(x.min(axis=1)).astype(int), np.floor(y.min(axis=1)).astype(int)
    n_x = int((np.ceil(x.max(axis=1)) - first_x).max())
    n_y = int((np.ceil(y.max(axis=1)) - first_y).max())
    # Positions relative to the first cell keep all digits.
    x, y = x - first_x[:, None], y - first_y[:, None]
    below = np.stack(
        [
            np.stack([_area_below(x, y, float(a), float(b)) for a in range(n_x + 1)], axis=-1)
            for b in range(n_y + 1)
        ],
        axis=1,
    )
    area = np.abs(np.diff(np.diff(below, axis=1), axis=2))  # (pixel, n_y, n_x)
    row = np.broadcast_to(near[:, None, None], area.shape)
    column_y = np.broadcast_to((first_y[:, None] + np.arange(n_y))[:, :, None], area.shape)
    column_x = np.broadcast_to((first_x[:, None] + np.arange(n_x))[:, None, :], area.shape)
    inside = (column_y >= 0) & (column_y < shape[0]) & (column_x >= 0) & (column_x < shape[1])
    inside &= area > 1e-13
    column = column_y[inside] * shape[1] + column_x[inside]
    return csr_array((area[inside], (row[inside], column)), shape=(n_new, shape[0] * shape[1]))


def _corners_of_each(corner: np.ndarray) -> np.ndarray:
    """(pixel, 4), around each pixel."""
    around = (corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1])
    return np.stack([part.ravel() for part in around], axis=1)


def _area_below(x: np.ndarray, y: np.ndarray, a: float, b: float) -> np.ndarray:
    r"""Signed area of polygons where x < a and y < b.

    Green's theorem: the sum over edges of :math:`\int \min(y, b)\,dx`, with x no further than a.
    """
    x1, y1 = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    run = np.where(x1 == x, 1.0, x1 - x)
    slope = np.where(x1 == x, 0.0, (y1 - y) / run)
    start, stop = np.minimum(x, a), np.minimum(x1, a)
    width = stop - start
    low, high = y + slope * (start - x) - b, y + slope * (stop - x) - b  # above b at both ends
    top, least = np.maximum(low, high), np.minimum(low, high)
    spread = np.where(top > least, top - least, 1.0)
    crossing = np.where(top > 0, 0.5 * top**2 / spread, 0.0)
    excess = np.where(least >= 0, 0.5 * (low + high), crossing)
    total = width * (0.5 * (low + high) + b - excess)
    return np.asarray(total.sum(axis=1))
