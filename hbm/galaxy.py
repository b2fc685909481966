"""One galaxy as its observer knows it: fluxes, redshift, image, place on the sky; any part may be missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, isfinite, radians
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from generative.stamps import Stamps
    from hbm.image import CompiledImages

MATCH_ARCSEC = 1.0
"""Farther apart, photometry and image are of different galaxies."""


@dataclass(frozen=True, eq=False)
class Galaxy:
    """What was observed of one galaxy; `hbm.fit` takes one, or a list of them.

    Raises
    ------
    ValueError
        If fluxes, errors, limits and filters are not of the same bands, a number cannot be used, or image
        and photometry are of different galaxies: another identifier, or more than 1 arcsec apart.
    """

    id: str
    """Identifier."""
    zred: float
    """Redshift."""
    zred_err: float = 0.0
    """One standard deviation of the redshift; 0 where it is taken as exact."""
    flux: Sequence[float] | np.ndarray | None = None
    """Flux of each band, maggies; nan where not observed."""
    flux_err: Sequence[float] | np.ndarray | None = None
    """One standard deviation, maggies; nan where not observed."""
    filter_names: Sequence[str] = ()
    """Filters as `sed.filters.load_filters` takes them, one for each flux."""
    upper_limit: Sequence[bool] | np.ndarray | None = None
    """True where `flux` is an upper limit, softened by `flux_err`; none by default."""
    image: "Stamps | CompiledImages | None" = None
    """One image: pixels with noise, mask and conditions of observation (`generative.stamps.Stamps`, needs the
    extra ``torch``), or its statistics (`hbm.image.read_compiled_images`)."""
    image_bands: Sequence[str] = ()
    """Filters of the image's bands; if given they must be the image model's."""
    ra: float | None = None
    """Right ascension of the photometry, degrees."""
    dec: float | None = None
    """Declination, degrees."""
    image_ra: float | None = None
    """Right ascension of the image's centre, degrees."""
    image_dec: float | None = None
    """Declination, degrees."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("`id` must be the galaxy's name, got an empty one.")
        if not (isfinite(self.zred) and self.zred > 0):
            raise self._wrong("zred", "a positive redshift", self.zred)
        if not (isfinite(self.zred_err) and self.zred_err >= 0):
            raise self._wrong("zred_err", "at least 0", self.zred_err)
        self._check_bands()
        self._check_place()
        if self.image is not None:
            self._check_image()
        elif len(self.image_bands) or self.image_ra is not None:
            raise self._wrong("image", "given if `image_bands` or `image_ra` are", None)

    def _wrong(self, name: str, expected: str, got: object) -> ValueError:
        return ValueError(f"`{name}` of galaxy {self.id!r} must be {expected}, got {got!r}.")

    def _check_bands(self) -> None:
        names = self.filter_names
        if isinstance(names, str) or len(set(names)) != len(names):
            raise self._wrong("filter_names", "names of filters, each once", names)
        for field in ("flux", "flux_err", "upper_limit"):
            value = getattr(self, field)
            if value is None and (len(names) == 0 or field == "upper_limit"):
                continue
            shape = np.shape(value)
            if value is None or shape != (len(names),):
                what = f"one number for each of `filter_names`, shape ({len(names)},)"
                raise self._wrong(field, what, None if value is None else shape)

    def _check_place(self) -> None:
        for first, second in (("ra", "dec"), ("image_ra", "image_dec")):
            ra, dec = getattr(self, first), getattr(self, second)
            if (ra is None) != (dec is None):
                raise self._wrong(first, f"given together with `{second}`", (ra, dec))
            if ra is not None and not (-360 <= ra <= 360 and -90 <= dec <= 90):
                raise self._wrong(first, f"degrees, and `{second}` within -90 to 90", (ra, dec))
        distance = self.image_offset_arcsec()
        if distance is not None and distance > MATCH_ARCSEC:
            expected = f"those of the photometry to {MATCH_ARCSEC:g} arcsec: these are different galaxies"
            raise self._wrong("image_ra` and `image_dec", expected, f"{distance:.1f} arcsec")

    def image_offset_arcsec(self) -> float | None:
        """Distance between photometry and image on the sky; None if a position is not known."""
        if self.ra is None or self.dec is None or self.image_ra is None or self.image_dec is None:
            return None
        across = (self.image_ra - self.ra + 180) % 360 - 180
        return 3600 * hypot(across * cos(radians(self.dec)), self.image_dec - self.dec)

    def _check_image(self) -> None:
        ids = [str(name) for name in np.atleast_1d(self.image.id)]  # type: ignore[union-attr]
        if len(ids) != 1:
            raise self._wrong("image", "the one image of this galaxy", f"{len(ids)} images")
        if ids[0] != self.id:
            raise self._wrong("image", "an image of the same galaxy, by its `id`", ids[0])
        if self.image_bands and not self.is_compiled():
            n = int(self.image.image.shape[1])  # type: ignore[union-attr]
            if n != len(self.image_bands):
                raise self._wrong("image_bands", f"the {n} bands of `image`", tuple(self.image_bands))

    def is_compiled(self) -> bool:
        """Whether the image comes as statistics."""
        from hbm.image import CompiledImages

        return isinstance(self.image, CompiledImages)
