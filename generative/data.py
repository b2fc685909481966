r"""Where training images come from: one interface, several sources.

A source gives the batch of a step from the step's generator alone, so that a resumed run sees what an
uninterrupted one would have seen.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from generative.conditions import THETA, draw_theta, n_observing, observing_columns, theta_columns
from generative.instrument import Instrument
from generative.simulator.render import Simulator


class Batch(NamedTuple):
    """Images as they are, with scaled conditions."""

    image: Float[Tensor, "batch band height width"]
    """Pixels, in the unit of ``noise``."""
    noise: Float[Tensor, "batch band"]
    """Standard deviation of a pixel."""
    observed: Bool[Tensor, "batch band height width"]
    """False for pixels without a measurement."""
    theta: Float[Tensor, "batch theta"]
    """Properties on the scale (-1, 1); nan where not known."""
    u: Float[Tensor, "batch column"]
    """Conditions of observation on the scale (-1, 1)."""


@runtime_checkable
class Source(Protocol):
    """Gives batches of images."""

    n_band: int
    n_pixel: int
    n_theta: int
    n_u: int
    n_train: int | None
    """Different images that `batch` gives, each once before any comes again; None if they do not end."""

    def batch(self, n: int, generator: torch.Generator) -> Batch:
        """Draw ``n`` images with the generator's randomness."""
        ...

    def held_out(self, n: int, generator: torch.Generator) -> Batch:
        """Draw ``n`` images that `batch` never gives."""
        ...

    def proposal(self, n: int) -> Float[Tensor, "n theta"] | None:
        """Scaled theta from the distribution of the images', if it is known and independent of `u`."""
        ...


_CHUNK = 256
"""Stamps that are simulated at a time."""


def proposal_columns(n: int, device: torch.device | str, seed: int = 5) -> Float[Tensor, "n theta"]:
    """Scaled theta drawn as simulations draw it."""
    zred = torch.full((n,), 0.1)
    theta = draw_theta(n, zred, torch.Generator().manual_seed(seed))
    return theta_columns(theta, zred).to(device)


class SimulatedSource:
    """Images simulated on the fly. None is ever repeated: all are held out from each other."""

    def __init__(
        self, instrument: Instrument, simulator: Simulator | None = None, device: str = "cpu"
    ) -> None:
        self.instrument = instrument
        self.simulator = Simulator(instrument, device=device) if simulator is None else simulator
        self.n_band, self.n_pixel = instrument.n_band, instrument.n_pixel
        self.n_theta, self.n_u = len(THETA), n_observing(instrument)
        self.n_train: int | None = None

    def batch(self, n: int, generator: torch.Generator) -> Batch:
        """Simulate ``n`` stamps."""
        parts = [self._some(min(_CHUNK, n - first), generator) for first in range(0, n, _CHUNK)]
        return Batch(*(torch.cat(items) for items in zip(*parts, strict=True)))

    def _some(self, n: int, generator: torch.Generator) -> Batch:
        s = self.simulator.draw(n, generator)
        return Batch(
            s.image,
            s.noise,
            torch.ones_like(s.image, dtype=torch.bool),
            theta_columns(s.theta, s.u.zred),
            observing_columns(s.u, self.instrument),
        )

    def held_out(self, n: int, generator: torch.Generator) -> Batch:
        """Simulate ``n`` stamps."""
        return self.batch(n, generator)

    def proposal(self, n: int) -> Float[Tensor, "n theta"]:
        """Scaled theta as simulations have it."""
        return proposal_columns(n, self.simulator.device)


class ArraySource:
    """Images held in memory, split once into training and held-out ones.

    Parameters
    ----------
    image
        All images; integers are kept as they are until a batch is made.
    noise
        Standard deviation of a pixel in each band; ones for pictures.
    theta
        Properties on the scale (-1, 1), nan where not known; no columns for a model without.
    u
        Conditions of observation on the scale (-1, 1); no columns for a model without.
    observed
        False for pixels without a measurement; all observed if None.
    theta_error
        Widths below and above ``theta`` of the labels' errors, on its scale: training images get labels drawn
        from two halves of normal distributions, within (-1, 1); zero where the error is not known.
    augment
        Whether to turn by quarters and mirror images at random.
    fraction_held_out
        Part that is only given by `held_out`.
    seed
        Of the split.

    Raises
    ------
    ValueError
        If the shapes differ, or too few images are left on either side.
    """

    def __init__(
        self,
        image: Tensor,
        noise: Float[Tensor, "_ band"],
        theta: Float[Tensor, "_ theta"],
        u: Float[Tensor, "_ column"],
        *,
        observed: Tensor | None = None,
        theta_error: Float[Tensor, "_ theta 2"] | None = None,
        augment: bool = True,
        fraction_held_out: float = 0.1,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        n = len(image)
        if image.ndim != 4 or image.shape[2] != image.shape[3]:
            raise ValueError(f"`image` must be (image, band, side, side), got {tuple(image.shape)}.")
        for name, value in (("noise", noise), ("theta", theta), ("u", u)):
            if len(value) != n:
                raise ValueError(f"`{name}` must have one row per image: expected {n}, got {len(value)}.")
        if observed is not None and observed.shape != image.shape:
            raise ValueError(
                f"`observed` must have the shape of `image`, {tuple(image.shape)}, got "
                f"{tuple(observed.shape)}."
            )
        if theta_error is not None and (
            theta_error.shape != (*theta.shape, 2) or not bool((theta_error >= 0).all())
        ):
            raise ValueError(
                f"`theta_error` must be widths of at least 0, of shape {(*theta.shape, 2)}, got "
                f"{tuple(theta_error.shape)}."
            )
        n_held = round(fraction_held_out * n)
        if n_held < 1 or n - n_held < 1:
            raise ValueError(
                f"`fraction_held_out` must leave images on both sides, got {fraction_held_out} of {n} images."
            )
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        self._held, self._train = order[:n_held], order[n_held:]
        self._image, self._noise, self._theta, self._u, self._observed = image, noise, theta, u, observed
        self._augment, self._device, self._theta_error = augment, device, theta_error
        self.n_band, self.n_pixel = image.shape[1], image.shape[2]
        self.n_theta, self.n_u = theta.shape[1], u.shape[1]
        self.n_train: int | None = len(self._train)

    def batch(self, n: int, generator: torch.Generator) -> Batch:
        """Draw ``n`` training images, with replacement between batches."""
        return self._draw(self._train, n, generator, self._augment, is_training=True)

    def held_out(self, n: int, generator: torch.Generator) -> Batch:
        """Draw ``n`` held-out images as they are, or all of them if there are fewer."""
        return self._draw(self._held, min(n, len(self._held)), generator, False)

    def proposal(self, n: int) -> None:
        """None: properties of real galaxies go with redshift and brightness."""
        del n

    def _labels(self, rows: Tensor, generator: torch.Generator, is_training: bool) -> Tensor:
        theta = self._theta[rows]
        if self._theta_error is None or not is_training:
            return theta
        normal = torch.randn(theta.shape, generator=generator, device=generator.device).to(theta)
        width = torch.where(normal < 0, self._theta_error[rows, :, 0], self._theta_error[rows, :, 1])
        return (theta + width * normal).clamp(-1.0, 1.0)  # nan stays nan

    def _draw(
        self, rows: Tensor, n: int, generator: torch.Generator, augment: bool, *, is_training: bool = False
    ) -> Batch:
        device = self._device
        pick = torch.cat([torch.randperm(len(rows), generator=generator, device=generator.device)
                          for _ in range(-(-n // len(rows)))])[:n].cpu()  # fmt: skip
        rows = rows[pick]
        image = self._image[rows].to(device).float()
        seen = self._observed[rows].to(device) if self._observed is not None else None
        observed = torch.isfinite(image) if seen is None else seen & torch.isfinite(image)
        if augment:
            turn = torch.randint(8, (n,), generator=generator, device=generator.device).cpu()
            image, observed = turned(image, turn), turned(observed, turn)
        return Batch(
            image,
            self._noise[rows].to(device),
            observed,
            self._labels(rows, generator, is_training).to(device),
            self._u[rows].to(device),
        )


def turned(image: Tensor, turn: Tensor) -> Tensor:
    """Each image mirrored (4 and above) and turned by quarters."""
    out = image.clone()
    for k in range(8):
        rows = (turn == k).nonzero()[:, 0].to(image.device)
        if len(rows):
            part = image[rows].flip(3) if k >= 4 else image[rows]
            out[rows] = torch.rot90(part, k % 4, dims=(2, 3))
    return out


def hide_unseen(
    u: Float[Tensor, "batch column"], observed: Bool[Tensor, "batch band height width"]
) -> Float[Tensor, "batch column"]:
    """Conditions with zeros for bands that have no observed pixel, as `observing_columns` has them."""
    n_band = observed.shape[1]
    if u.shape[1] != 1 + 3 * n_band:
        return u
    seen = observed.flatten(2).any(dim=2)[:, None]
    bands = torch.where(seen, u[:, 1:].unflatten(1, (3, n_band)), 0.0)
    return torch.cat([u[:, :1], bands.flatten(1)], dim=1)


LARGEST_HOLE = 0.09
"""Part of an image's pixels in the largest hole of training (`random_holes`)."""
LARGEST_MASKED = 0.3
"""Beyond, likelihoods are not to be trusted: a third of the pixels is several times what training masks."""


def random_holes(
    observed: Bool[Tensor, "batch band height width"],
    generator: torch.Generator,
    *,
    p_pixels: float = 0.1,
    p_band: float = 0.1,
) -> Bool[Tensor, "batch band height width"]:
    """Mask with holes added: rectangles of bad pixels in some images, whole bands missing in others.

    At least one band stays. Training with them makes the model right for images with holes.
    """
    n, n_band, height, width = observed.shape
    device = observed.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    start, size = uniform(n, 1, 2), 0.05 + 0.25 * uniform(n, 1, 2)

    def inside(axis: Tensor, first: Tensor, length: Tensor, side: int) -> Tensor:
        position = axis / side
        return (position >= first[..., None]) & (position < (first + length)[..., None])

    hole = inside(y, start[..., 0], size[..., 0], height)[..., :, None]
    hole = hole & inside(x, start[..., 1], size[..., 1], width)[..., None, :]
    hole = hole & (uniform(n, 1, 1, 1) < p_pixels)
    gone = (uniform(n, 1) < p_band) & (uniform(n, n_band) < 0.4)
    keep = torch.randint(n_band, (n,), generator=generator, device=device)
    gone[torch.arange(n, device=device), keep] = False
    return observed & ~hole & ~gone[..., None, None]
