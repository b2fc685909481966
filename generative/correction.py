r"""The ratio correction: what the score model's likelihood has not learnt of the properties.

.. math:: \ln p(x | \theta, u) = a\, \ell(x, \theta, u) + s(x, u) \cdot \psi(\theta, u) + const(x, u)

l is the compiled likelihood of the frozen score model, s the R numbers of a small image encoder (and a
constant one, for what depends on theta alone), psi a small network. For a perfect score model a = 1 and psi
vanishes. An image is R more numbers then, and the compiled form stays.

The encoder's numbers are averages over the eight turns and mirror images of the stamp, between which the
likelihood cannot tell.
"""

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from generative.data import turned


@dataclass(frozen=True)
class CorrectionConfig:
    """Sizes of a correction.

    Raises
    ------
    ValueError
        If they are not positive, or the image is too small to be halved so often.
    """

    n_band: int
    n_pixel: int
    n_theta: int
    n_u: int
    n_number: int = 64
    """R."""
    channels: tuple[int, ...] = (48, 96, 160)
    """Width after each halving of the image."""
    hidden: int = 128
    """Width of psi."""

    def __post_init__(self) -> None:
        if min(self.n_number, self.hidden, *self.channels) < 1:
            raise ValueError(
                f"`n_number`, `channels` and `hidden` must be positive, got {self.n_number}, {self.channels} "
                f"and {self.hidden}."
            )
        if self.n_pixel % 2 ** len(self.channels):
            raise ValueError(
                f"`n_pixel` must be a multiple of {2 ** len(self.channels)} for {len(self.channels)} "
                f"`channels`, got {self.n_pixel}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CorrectionConfig":
        """Inverse of `to_dict`."""
        return cls(**{**values, "channels": tuple(values["channels"])})


class Encoder(nn.Module):
    """Convolutions that halve the image, with a residual layer at each size, and a small head."""

    def __init__(self, config: CorrectionConfig) -> None:
        super().__init__()
        widths = (32, *config.channels)
        self.stem = nn.Conv2d(2 * config.n_band, widths[0], 3, padding=1)
        self.halve = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.residual = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Conv2d(b, b, 3, padding=1), nn.SiLU(), nn.Conv2d(b, b, 3, padding=1))
            for b in widths[1:]
        )
        side = config.n_pixel // 2 ** len(config.channels)
        self.flat = nn.Linear(widths[-1] * side**2 + config.n_u, 256)
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(256 + config.n_u, config.n_number))
        self.bf16 = False
        """Whether convolutions run in bfloat16."""

    def forward(
        self,
        clean: Float[Tensor, "batch band height width"],
        u: Float[Tensor, "batch column"],
        observed: Bool[Tensor, "batch band height width"],
    ) -> Float[Tensor, "batch number"]:
        """Numbers of prepared images as they lie."""
        seen = observed.to(clean.dtype)
        with torch.autocast(clean.device.type, torch.bfloat16, enabled=self.bf16):
            x = self.stem(torch.cat([clean * seen, seen], dim=1))
            for halve, residual in zip(self.halve, self.residual, strict=True):
                x = halve(functional.silu(x))
                x = x + residual(x)
            x = self.flat(torch.cat([functional.silu(x).flatten(1), u.to(x.dtype)], dim=1)).float()
        numbers: Tensor = self.head(torch.cat([x, u], dim=1))
        return numbers


class Correction(nn.Module):
    """The encoder, psi, and the weight of the score model's likelihood."""

    def __init__(self, config: CorrectionConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        last = nn.Linear(config.hidden, config.n_number + 1)
        with torch.no_grad():
            last.weight /= math.sqrt(config.n_number)
        self.psi = nn.Sequential(
            nn.Linear(config.n_theta + config.n_u, config.hidden), nn.SiLU(),
            nn.Linear(config.hidden, config.hidden), nn.SiLU(), last,
        )  # fmt: skip
        self.scale = nn.Parameter(torch.ones(()))
        """a"""

    @torch.no_grad()
    def numbers(
        self,
        clean: Float[Tensor, "batch band height width"],
        u: Float[Tensor, "batch column"],
        observed: Bool[Tensor, "batch band height width"],
    ) -> Float[Tensor, "batch number_and_one"]:
        """s(x, u), the last of them one.

        Parameters
        ----------
        clean, u, observed
            Prepared images, scaled conditions of observation (zeros for bands that were not observed), mask.
        """
        total = torch.zeros(len(clean), self.config.n_number, device=clean.device)
        for k in range(8):
            turn = torch.full((len(clean),), k)
            total = total + self.encoder(turned(clean, turn), u, turned(observed, turn))
        return with_one(total / 8)

    def log_ratio(
        self,
        numbers: Float[Tensor, "batch number_and_one"],
        theta: Float[Tensor, "batch other theta"],
        u: Float[Tensor, "batch column"],
    ) -> Float[Tensor, "batch other"]:
        """S . psi for several scaled theta of each image."""
        wide = u[:, None].expand(-1, theta.shape[1], -1)
        psi = self.psi(torch.cat([theta, wide], dim=2))
        found: Tensor = torch.bmm(psi, numbers[:, :, None])[..., 0]
        return found


def with_one(numbers: Float[Tensor, "batch number"]) -> Float[Tensor, "batch number_and_one"]:
    """Numbers and a constant one."""
    return torch.cat([numbers, torch.ones_like(numbers[:, :1])], dim=1)


def default_config(n_band: int, n_pixel: int, n_theta: int, n_u: int, n_number: int = 64) -> CorrectionConfig:
    """Sizes that end at four pixels a side, or as near as the image's side allows."""
    n_half = 0
    while n_pixel % 2 ** (n_half + 1) == 0 and n_pixel // 2**n_half > 4:
        n_half += 1
    widths = (32,) * max(n_half - 4, 0) + (32, 48, 96, 160)[max(4 - n_half, 0) :]
    return CorrectionConfig(n_band, n_pixel, n_theta, n_u, n_number, widths)
