"""The noise of resampled pixels: how large, how correlated, and made independent again.

An image model takes the noise of pixels as independent. Resampling and blurring make neighbours share
noise, and many surveys' images come resampled already. What a linear operation makes of the noise is found
by sending simulated noise through the operation itself, so nothing about it is assumed. `whitening_noise`
then adds noise whose correlations are the opposite, so that the sum is independent: Rowe et al. (2015, A&C
10, 121), section 4, for noise that is the same everywhere. It costs depth, and the cost is reported.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

LAG = 4
"""Pixels: correlations are followed up to so far."""

_LEAST_POOLED = 1000
_SMOOTH = 6.0
"""Pixels: standard deviation of the Gaussian that the sky's slow variation is smoothed with."""


class NoiseModel(NamedTuple):
    """Noise of pixels, the same everywhere."""

    sigma: float
    """Standard deviation of a pixel."""
    correlation: Float[np.ndarray, "lag lag"]
    """Of pixels (dy, dx) apart, from -LAG to LAG; 1 in the middle."""

    @property
    def neighbour(self) -> float:
        """Mean correlation of pixels that share a side."""
        c = self.correlation
        return float((c[LAG, LAG + 1] + c[LAG + 1, LAG] + c[LAG, LAG - 1] + c[LAG - 1, LAG]) / 4)

    @property
    def sum_factor(self) -> float:
        """How much larger the error of the sum over many pixels is than that with independent noise."""
        return float(np.sqrt(max(self.correlation.sum(), 0.0)))


def independent(sigma: float) -> NoiseModel:
    """Noise without correlations."""
    correlation = np.zeros((2 * LAG + 1, 2 * LAG + 1))
    correlation[LAG, LAG] = 1.0
    return NoiseModel(sigma, correlation)


def measured_noise(
    image: Float[np.ndarray, "height width"], sky: Bool[np.ndarray, "height width"], least: int = 400
) -> NoiseModel | None:
    """Noise of the sky's pixels and its correlations; None from fewer than ``least`` pixels.

    What varies over `_SMOOTH` pixels and more is taken out first: that is sky, and the outskirts of galaxies.
    Pixels beyond 4 sigma are left out.
    """
    if int(sky.sum()) < least:
        return None
    residual = np.where(sky, image - smooth_sky(image, sky), 0.0)
    spread = 1.4826 * float(np.median(np.abs(residual[sky])))
    used = sky & (np.abs(residual) < 4.0 * spread)
    residual = np.where(used, residual, 0.0)
    total, count = (_lag_sums(part) for part in (residual, used.astype(float)))
    covariance = _with_what_was_taken_out(total / np.maximum(count, 1))
    variance = float(covariance[LAG, LAG])
    if not variance > 0:
        return None
    correlation = np.where(count > least / 2, covariance / variance, 0.0)
    # What cannot be told from chance is zero.
    chance = 3.0 / np.sqrt(np.maximum(count, 1))
    return NoiseModel(np.sqrt(variance), np.where(np.abs(correlation) > chance, correlation, 0.0))


def pooled_correlation(
    images: Sequence[Float[np.ndarray, "_height _width"]], skies: Sequence[Bool[np.ndarray, "_height _width"]]
) -> Float[np.ndarray, "lag lag"]:
    """Correlations of the noise that small cutouts of one survey share, each too small to tell by itself.

    Parameters
    ----------
    images
        Cutouts, each in any unit.
    skies
        Their pixels of sky. What is 4 sigma from their median is left out.

    Returns
    -------
    correlation of pixels (dy, dx) apart, from -LAG to LAG; zero where it cannot be told from chance

    Raises
    ------
    ValueError
        If all cutouts together have fewer than 1,000 pixels of sky.
    """
    total, count = (np.zeros((2 * LAG + 1, 2 * LAG + 1)) for _ in range(2))
    n_image = 0
    for image, sky in zip(images, skies, strict=True):
        if not sky.any():
            continue
        middle = float(np.median(image[sky]))
        spread = 1.4826 * float(np.median(np.abs(image[sky] - middle)))
        if not spread > 0:
            continue
        used = sky & (np.abs(np.where(sky, image, middle) - middle) < 4.0 * spread)
        residual = np.where(used, np.where(sky, image, middle) - float(image[used].mean()), 0.0) / spread
        total += _lag_sums(residual)
        count += _lag_sums(used.astype(float))
        n_image += 1
    if count[LAG, LAG] < _LEAST_POOLED:
        raise ValueError(
            f"`skies` must have at least {_LEAST_POOLED} pixels together, got {int(count[LAG, LAG])}."
        )
    covariance = total / np.maximum(count, 1)
    # The mean of n pixels, which was taken off, takes the sum of all covariances over n out of each.
    n_each = float(count[LAG, LAG]) / n_image
    whole = covariance.sum() / max(1 - covariance.size / n_each, 0.2)
    covariance = covariance + max(whole, covariance[LAG, LAG]) / n_each
    correlation = covariance / covariance[LAG, LAG]
    # Bartlett (1946, J. R. Stat. Soc. Suppl. 8, 27): correlations make those of a sample scatter more.
    chance = 4.0 * np.sqrt(np.sum(correlation**2) / np.maximum(count, 1))
    return np.where(np.abs(correlation) > chance, correlation, 0.0)


def _with_what_was_taken_out(covariance: Float[np.ndarray, "lag lag"]) -> Float[np.ndarray, "lag lag"]:
    r"""Covariance of noise, from that of noise less itself smoothed.

    Smoothing with a kernel K as wide as s takes :math:`(2 K - K * K) * C` out of the covariance C: for lags
    and correlations much shorter than s, :math:`k \sum C` everywhere, with :math:`k = 3 / (4 \pi s^2)` for a
    Gaussian.
    """
    k = 3 / (4 * np.pi * _SMOOTH**2)
    whole = covariance.sum() / (1 - k * covariance.size)
    return np.asarray(covariance + k * max(whole, covariance[LAG, LAG]))


def smooth_sky(
    image: Float[np.ndarray, "height width"], sky: Bool[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width"]:
    """The sky's slow variation, from its own pixels; elsewhere it goes on."""
    from scipy.ndimage import gaussian_filter

    middle = float(np.median(image[sky]))
    spread = 1.4826 * float(np.median(np.abs(image[sky] - middle)))
    used = sky & (np.abs(image - middle) < 4 * spread)
    weight = gaussian_filter(used.astype(float), _SMOOTH)
    total = gaussian_filter(np.where(used, image - middle, 0.0), _SMOOTH)
    return np.asarray(middle + total / np.maximum(weight, 1e-6))


def _lag_sums(field: Float[np.ndarray, "*draw height width"]) -> Float[np.ndarray, "lag lag"]:
    """Sums of products of pixels (dy, dx) apart, over all leading axes."""
    height, width = field.shape[-2:]
    padded = np.fft.rfft2(field, s=(height + LAG, width + LAG))
    power = np.abs(padded) ** 2
    sums = np.fft.irfft2(power.reshape(-1, *power.shape[-2:]).sum(axis=0), s=(height + LAG, width + LAG))
    middle = np.roll(sums, (LAG, LAG), axis=(0, 1))
    return np.asarray(middle[: 2 * LAG + 1, : 2 * LAG + 1])


def draw_noise(
    model: NoiseModel, shape: tuple[int, int], rng: np.random.Generator
) -> Float[np.ndarray, "height width"]:
    """One field of noise with a model's correlations; periodic."""
    return _coloured(_spectrum(model, shape), rng)


def _spectrum(model: NoiseModel, shape: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Variance per Fourier mode, mean sigma^2; negative values, of truncated correlations, are zero."""
    height, width = max(shape[0], 2 * LAG + 1), max(shape[1], 2 * LAG + 1)
    field = np.zeros((height, width))
    field[: 2 * LAG + 1, : 2 * LAG + 1] = model.correlation
    field = np.roll(field, (-LAG, -LAG), axis=(0, 1))
    power = np.clip(np.fft.fft2(field).real, 0.0, None)
    scale = power.mean() or 1.0
    return np.asarray(model.sigma**2 * power / scale)


def _coloured(power: Float[np.ndarray, "height width"], rng: np.random.Generator) -> np.ndarray:
    white = rng.standard_normal(power.shape)
    return np.asarray(np.fft.ifft2(np.fft.fft2(white) * np.sqrt(power)).real)


def after(
    model: NoiseModel,
    shape: tuple[int, int],
    operation: Callable[[np.ndarray], np.ndarray],
    *,
    inside: Bool[np.ndarray, "rows columns"] | None = None,
    n_draw: int = 64,
    seed: int = 0,
) -> NoiseModel:
    """Noise that a linear operation leaves.

    Parameters
    ----------
    model
        Noise before.
    shape
        Of the image before.
    operation
        Makes the new image of the old one.
    inside
        New pixels that count: those wholly covered.
    n_draw
        Simulated fields: with 64 of 32 by 32 pixels the standard deviation is known to 0.4 %.
    seed
        Of the fields.
    """
    rng = np.random.default_rng(seed)
    fields = np.stack(
        [operation(draw_noise(model, shape, rng)[: shape[0], : shape[1]]) for _ in range(n_draw)]
    )
    mask = np.ones(fields.shape[1:], bool) if inside is None else inside
    total = _lag_sums(np.where(mask, fields, 0.0))
    count = n_draw * _lag_sums(mask.astype(float))
    covariance = np.where(count > 0.5, total / np.maximum(count, 1), 0.0)
    variance = float(covariance[LAG, LAG])
    return NoiseModel(float(np.sqrt(variance)), covariance / variance if variance > 0 else covariance)


def whitening_noise(
    model: NoiseModel, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "height width"], float]:
    """Noise to add so that all is independent, and the standard deviation of the sum.

    Fourier modes get what they lack of the strongest, up to 1 in 200 of the modes, which stay a little too
    strong. Without correlations beyond 0.02 nothing is added.
    """
    off = model.correlation.copy()
    off[LAG, LAG] = 0.0
    if np.abs(off).max() < 0.02:
        return np.zeros(shape), model.sigma
    power = _spectrum(model, shape)
    top = float(np.quantile(power, 0.995))
    lacking = np.clip(top - power, 0.0, None)
    field = _coloured(lacking, rng)[: shape[0], : shape[1]]
    return field, float(np.sqrt((power + lacking).mean()))
