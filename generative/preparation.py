r"""From pixels to what the network sees, and back: the one place where pixels are transformed.

A band's image is divided by the band's total flux F, and taken in units of the noise of a pixel, sigma / F:
the quotient is image / sigma, and the flux over noise F / sigma is told to the network as a condition, not
learned from the image. With n = image / sigma,

.. math:: y = \frac{\mathrm{asinh}(n / s) - m_b}{d_b}, \qquad
          \ln\left|\frac{dy}{d\,\mathrm{image}}\right| = -\ln(d_b\, s\, \sigma) - \tfrac12 \ln(1 + (n / s)^2)

with softening s and mean m and standard deviation d of each band. A linear stretch, y = (n - m) / d, is for
pictures. Pixels that were not observed are zero.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Preparation:
    """The transform of pixels.

    Raises
    ------
    ValueError
        If a field is not usable; the message names it.
    """

    mean: tuple[float, ...]
    """Per band, of the stretched pixels."""
    std: tuple[float, ...]
    """Per band, of the stretched pixels."""
    stretch: Literal["asinh", "linear"] = "asinh"
    softening: float = 1.5
    """In units of the noise: where asinh turns from linear to logarithmic."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"`mean` and `std` must have one entry per band, got {len(self.mean)} and {len(self.std)}."
            )
        if not (min(self.std) > 0 and self.softening > 0):
            raise ValueError(f"`std` and `softening` must be positive, got {self.std} and {self.softening}.")

    def forward(
        self,
        image: Float[Tensor, "batch band height width"],
        noise: Float[Tensor, "batch band"],
        observed: Bool[Tensor, "batch band height width"],
    ) -> Float[Tensor, "batch band height width"]:
        """Prepared pixels; zero where not observed.

        Parameters
        ----------
        image
            Pixels, in any unit of flux.
        noise
            Standard deviation of a pixel in the same unit.
        observed
            False where a pixel is bad or its band is missing; such pixels may be nan.
        """
        image, sigma = torch.where(observed, image, 0.0), self._noise(noise, observed)
        y = self._stretch(image / sigma)
        mean, std = self._constants(image)
        return torch.where(observed, (y - mean) / std, 0.0)

    def inverse(
        self, pixels: Float[Tensor, "batch band height width"], noise: Float[Tensor, "batch band"]
    ) -> Float[Tensor, "batch band height width"]:
        """Image in the unit of ``noise``."""
        mean, std = self._constants(pixels)
        y = pixels * std + mean
        units = y if self.stretch == "linear" else self.softening * torch.sinh(y)
        return units * noise[..., None, None]

    def log_jacobian(
        self,
        image: Float[Tensor, "batch band height width"],
        noise: Float[Tensor, "batch band"],
        observed: Bool[Tensor, "batch band height width"],
    ) -> Float[Tensor, " batch"]:
        """Log of |d prepared / d image| in nats, over the observed pixels."""
        image, sigma = torch.where(observed, image, 0.0), self._noise(noise, observed)
        _, std = self._constants(image)
        slope = -torch.log(std * sigma)
        if self.stretch == "asinh":
            units = image / sigma / self.softening
            slope = slope - torch.log(torch.tensor(self.softening)) - 0.5 * torch.log1p(units**2)
        return torch.where(observed, slope.expand_as(image), 0.0).sum(dim=(1, 2, 3))

    def _stretch(self, units: Tensor) -> Tensor:
        return units if self.stretch == "linear" else torch.asinh(units / self.softening)

    def _noise(self, noise: Tensor, observed: Tensor) -> Tensor:
        """Noise, and one in bands of which nothing was observed."""
        return torch.where(observed.any(dim=(2, 3)), noise, 1.0)[..., None, None]

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        def tensor(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]

        return tensor(self.mean), tensor(self.std)


def fit_preparation(
    image: Float[Tensor, "batch band height width"],
    noise: Float[Tensor, "batch band"],
    observed: Bool[Tensor, "batch band height width"],
    *,
    stretch: Literal["asinh", "linear"] = "asinh",
    softening: float = 1.5,
) -> Preparation:
    """Preparation whose result has mean zero and unit variance in each band over these images.

    Raises
    ------
    ValueError
        If a band has fewer than two observed pixels, or they are all the same.
    """
    ones = (1.0,) * image.shape[1]
    plain = Preparation((0.0,) * image.shape[1], ones, stretch, softening)
    y = plain.forward(image, noise, observed).double()
    bands = [y[:, b][observed[:, b]] for b in range(y.shape[1])]
    if any(len(band) < 2 or float(band.std()) == 0 for band in bands):
        raise ValueError("`image` must have observed pixels that differ in every band.")
    mean, std = (tuple(round(float(f(band)), 4) for band in bands) for f in (torch.mean, torch.std))
    return Preparation(mean, std, stretch, softening)
