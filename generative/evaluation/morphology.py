"""Morphology of stamps: statmorph's statistics, colours and colour gradients."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

STATISTICS = ("concentration", "asymmetry", "smoothness", "gini", "m20", "rhalf")
"""Of one band: C, A, S (Conselice 2003), Gini, M20 (Lotz et al. 2004), half-light radius in pixels."""


class Morphologies(NamedTuple):
    """Statistics of images; nan where they could not be measured."""

    names: tuple[str, ...]
    values: Float[np.ndarray, "image statistic"]

    @property
    def measured(self) -> Bool[np.ndarray, " image"]:
        """Images with all statistics."""
        return np.asarray(np.isfinite(self.values).all(axis=1))


def measure(
    image: Float[np.ndarray, "image band height width"],
    band: int,
    band_names: tuple[str, ...],
    progress: Callable[[int, int, str], None] | None = None,
) -> Morphologies:
    """Measure images given in units of the noise of a pixel.

    Parameters
    ----------
    image
        Stamps.
    band
        Band of the structural statistics.
    band_names
        Names for the colours.
    progress
        Called after each image.

    Returns
    -------
        `STATISTICS`, then for each pair of neighbouring bands a colour (log10 of the ratio of S/N inside the
        half-light ellipse's circle) and its gradient (outside minus inside).
    """
    pairs = list(zip(range(image.shape[1] - 1), range(1, image.shape[1]), strict=True))
    colours = [f"{kind} {band_names[i]}-{band_names[j]}" for i, j in pairs for kind in ("colour", "gradient")]
    rows = []
    for i, stamp in enumerate(image):
        rows.append(_one(stamp, band, pairs))
        if progress is not None:
            progress(i + 1, len(image), "measuring morphology")
    names = (*STATISTICS, *colours)
    return Morphologies(names, np.array(rows, float).reshape(len(image), len(names)))


def _one(stamp: np.ndarray, band: int, pairs: list[tuple[int, int]]) -> list[float]:
    n = len(STATISTICS) + 2 * len(pairs)
    found = _statmorph(stamp[band])
    if found is None:
        return [np.nan] * n
    structure, (x, y) = found
    r_half = max(structure[STATISTICS.index("rhalf")], 1.0)
    rows, columns = np.indices(stamp.shape[1:])
    r = np.hypot(columns - x, rows - y)
    inside, outside = r <= r_half, (r > r_half) & (r <= 2 * r_half)
    result = list(structure)
    for i, j in pairs:
        inner, outer = (
            _ratio(float(stamp[i][part].sum()), float(stamp[j][part].sum())) for part in (inside, outside)
        )
        result += [inner, outer - inner]
    return result


def _ratio(first: float, second: float) -> float:
    """log10 of a ratio of two fluxes; fluxes that noise made negative count as a little light."""
    return float(np.log10(max(first, 1.0) / max(second, 1.0)))


def _statmorph(stamp: np.ndarray) -> tuple[list[float], tuple[float, float]] | None:
    """Statistics and centre of the source in the middle, or None if they cannot be measured."""
    import statmorph
    from photutils.segmentation import detect_sources
    from scipy.ndimage import gaussian_filter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statmorph warns of every stamp that is small for its galaxy
        smooth = gaussian_filter(stamp, 1.0)
        # The noise of white noise after this filter is 0.28.
        segments = detect_sources(smooth, 2.5 * 0.28, 8)
        if segments is None:
            return None
        middle = segments.data[
            stamp.shape[0] // 2 - 2 : stamp.shape[0] // 2 + 3,
            stamp.shape[1] // 2 - 2 : stamp.shape[1] // 2 + 3,
        ]
        labels = middle[middle > 0]
        if len(labels) == 0:
            return None
        label = int(np.bincount(labels).argmax())
        segment = (segments.data == label).astype(np.int32)
        others = (segments.data > 0) & (segments.data != label)
        try:
            m = statmorph.SourceMorphology(
                stamp.astype(float),
                segment,
                label=1,
                mask=others,
                weightmap=np.ones(stamp.shape),
                skybox_size=4,
            )
        except Exception:  # noqa: BLE001 (statmorph fails in many ways on faint sources)
            return None
        if m.flag >= 4:  # catastrophic
            return None
        values = [m.concentration, m.asymmetry, m.smoothness, m.gini, m.m20, m.rhalf_ellip]
    # statmorph marks what it could not measure by -99.
    clean = [float(v) if np.isfinite(v) and v > -90 else np.nan for v in values]
    return (clean, (float(m.xc_centroid), float(m.yc_centroid))) if np.isfinite(clean).all() else None
