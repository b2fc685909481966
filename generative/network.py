r"""Denoisers of prepared images.

A denoiser is preconditioned as in Karras et al. (2022, arXiv:2206.00364, table 1, "EDM"), with sigma_data =
1:

.. math:: D = c_{skip} x_\sigma + c_{out} F(c_{in} x_\sigma; \sigma, \theta, u), \quad
          c_{skip} = \frac{1}{1 + \sigma^2}, \; c_{out} = \frac{\sigma}{\sqrt{1 + \sigma^2}}, \;
          c_{in} = \frac{1}{\sqrt{1 + \sigma^2}}

`Separable` is linear in functions of theta, F = phi_0 + sum_j c_j(sigma, theta, u) phi_j, where the phi do
not know theta: a likelihood of theta then needs the large network once per image. `Film` is the ordinary
way, theta in the embedding that scales and shifts every layer.

The trunk of both is diffusers' `UNet2DModel` on blocks of pixels. Conditions are given on the scale of about
(-1, 1) (`generative.conditions`), nan where they are not known; all nan is the unconditional model.
"""

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

Image = Float[Tensor, "batch band height width"]


@dataclass(frozen=True)
class NetworkConfig:
    """Size and kind of a denoiser.

    Raises
    ------
    ValueError
        If the sizes do not fit together.
    """

    n_band: int
    n_pixel: int
    n_theta: int
    """Properties; 0 for a model without."""
    n_u: int
    """Conditions of observation; 0 for a model without."""
    kind: Literal["separable", "film"] = "separable"
    n_basis: int = 32
    """J, the number of basis images (separable only)."""
    patch: int = 4
    """Side of the blocks of pixels that become channels before the U-Net."""
    channels: tuple[int, ...] = (96, 128)
    """Width of the U-Net at each resolution, each half the one before."""
    layers: int = 1
    """Residual layers per resolution."""
    attention: bool = False
    """Self-attention at the lowest resolution."""
    hidden: int = 128
    """Width of the coefficient network."""
    n_feature: int = 64
    """Numbers per theta that the mixing over noise levels starts from."""
    n_mix: int = 8
    """Functions of the noise level that mix them."""
    refine: int = 24
    """Width of the convolutions at full resolution that correct phi_0; 0 for none."""
    sigma: tuple[float, float] = (0.02, 40.0)
    """Noise levels that the embedding resolves."""

    def __post_init__(self) -> None:
        if self.kind not in ("separable", "film"):
            raise ValueError(f"`kind` must be 'separable' or 'film', got {self.kind!r}.")
        block = self.patch * 2 ** (len(self.channels) - 1)
        if self.n_pixel % block:
            raise ValueError(
                f"`n_pixel` must be a multiple of {block} (patch, times 2 for each further resolution), got "
                f"{self.n_pixel}."
            )
        if any(c % 16 for c in self.channels):
            raise ValueError(f"`channels` must be multiples of 16, got {self.channels}.")
        if self.kind == "separable" and self.n_basis < 1:
            raise ValueError(f"`n_basis` must be at least 1, got {self.n_basis}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NetworkConfig":
        """Inverse of `to_dict`."""
        lists: dict[str, Any] = {}
        for key, value in values.items():
            lists[key] = tuple(value) if isinstance(value, list) else value
        return cls(**lists)


def scalings(sigma: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out and c_in, shaped to multiply images."""
    sigma = sigma[:, None, None, None]
    root = torch.sqrt(1 + sigma**2)
    return 1 / root**2, sigma / root, 1 / root


def with_missing(values: Float[Tensor, "batch column"]) -> Float[Tensor, "batch twice"]:
    """Values with zeros for nan, and beside them 1 where known."""
    known = ~torch.isnan(values)
    return torch.cat([torch.where(known, values, 0.0), known.to(values.dtype)], dim=1)


class Refinement(nn.Module):
    """What the U-Net on blocks cannot do: denoise pixel by pixel, at full resolution. Three convolutions."""

    def __init__(self, config: NetworkConfig, n_extra: int) -> None:
        super().__init__()
        width, n_band = config.refine, config.n_band
        self.config = config
        self.first = nn.Conv2d(3 * n_band, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, n_band, 3, padding=1)
        gate = nn.Linear(4 * width, 4 * width)
        for layer in (self.last, gate):
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        n_in = config.n_mix + config.n_u + n_extra
        self.tune = nn.Sequential(nn.Linear(n_in, 4 * width), nn.SiLU(), gate)

    def forward(
        self, scaled: Image, observed: Image, image: Image, sigma: Float[Tensor, " batch"], extra: Tensor
    ) -> Image:
        """Correction of an image."""
        waves = level_waves(self.config, sigma)
        a, b, c, d = self.tune(torch.cat([waves, extra], dim=1))[..., None, None].chunk(4, dim=1)
        hidden = functional.silu(self.first(torch.cat([scaled, observed, image], dim=1)) * (1 + a) + b)
        hidden = functional.silu(self.second(hidden) * (1 + c) + d)
        correction: Tensor = self.last(hidden)
        return correction


def level_waves(config: NetworkConfig, sigma: Float[Tensor, " level"]) -> Float[Tensor, "level mix"]:
    """Cosines of ln sigma, the first one constant."""
    low, high = (math.log(value) for value in config.sigma)
    s = (torch.log(sigma) - low) / (high - low)
    order = torch.arange(config.n_mix, dtype=s.dtype, device=s.device)
    return torch.cos(math.pi * order * s[:, None])


class Trunk(nn.Module):
    """U-Net over blocks of pixels: its features, and one image made from them."""

    def __init__(self, config: NetworkConfig, n_extra: int) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of libraries that diffusers imports
            from diffusers import UNet2DModel

        self.config = config
        self.bf16 = False
        """Whether to compute in bfloat16; the result is in single precision."""
        depth = len(config.channels)
        block = config.patch**2
        width = config.channels[0]
        kinds = ["DownBlock2D"] * depth
        ups = ["UpBlock2D"] * depth
        if config.attention:
            kinds[-1], ups[0] = "AttnDownBlock2D", "AttnUpBlock2D"
        self.unet: Any = UNet2DModel(
            in_channels=2 * config.n_band * block,
            out_channels=width,
            block_out_channels=config.channels,
            down_block_types=tuple(kinds),
            up_block_types=tuple(ups),
            layers_per_block=config.layers,
            norm_num_groups=16,
            attention_head_dim=16,
            add_attention=config.attention,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )
        self.embed = nn.Sequential(
            nn.Linear(config.n_u + n_extra + 1, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width)
        )
        self.image = nn.Conv2d(width, config.n_band * block, 1)
        # The input goes to the image directly: pixelwise shrinkage needs no detour through the U-Net's width.
        self.direct = nn.Conv2d(2 * config.n_band * block, config.n_band * block, 1)
        for layer in (self.image, self.direct):
            _start_small(layer)
        self.refinement = Refinement(config, n_extra) if config.refine > 0 else None

    def forward(
        self,
        scaled: Image,
        sigma: Float[Tensor, " batch"],
        observed: Image,
        extra: Float[Tensor, "batch column"],
    ) -> tuple[Float[Tensor, "batch channel rows columns"], Float[Tensor, "batch feature rows columns"]]:
        """One image, as blocks, and the features; ``extra`` are conditions, ``observed`` is 1 or 0."""
        low, high = (math.log(value) for value in self.config.sigma)
        time = 1000 * (torch.log(sigma) - low) / (high - low)
        one = torch.ones(len(scaled), 1, dtype=scaled.dtype, device=scaled.device)
        blocks = self.to_blocks(torch.cat([scaled * observed, observed], dim=1))
        with torch.autocast(scaled.device.type, torch.bfloat16, enabled=self.bf16):
            hidden = self.unet(blocks, time, class_labels=self.embed(torch.cat([extra, one], dim=1))).sample
            first = self.image(hidden) + self.direct(blocks)
            if self.refinement is not None:
                image = self.to_images(first)
                first = first + self.to_blocks(
                    self.refinement(scaled * observed, observed, image, sigma, extra)
                )
        return first.float(), hidden.float()

    def to_images(
        self, blocks: Float[Tensor, "*batch channel rows columns"]
    ) -> Float[Tensor, "*batch band height width"]:
        """Blocks as images."""
        return functional.pixel_shuffle(blocks, self.config.patch)

    def to_blocks(
        self, images: Float[Tensor, "*batch band height width"]
    ) -> Float[Tensor, "*batch channel rows columns"]:
        """Images as blocks."""
        return functional.pixel_unshuffle(images, self.config.patch)


def _start_small(layer: nn.Conv2d) -> None:
    nn.init.normal_(layer.weight, std=0.02 / math.sqrt(layer.in_channels))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Coefficients(nn.Module):
    """c(sigma, theta, u) = A(sigma) h(theta, u): a small network that runs once for all noise levels."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        n_in = 2 * config.n_theta + config.n_u + 1
        self.layers = nn.Sequential(
            nn.Linear(n_in, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.hidden), nn.SiLU(),
            nn.Linear(config.hidden, config.n_feature),
        )  # fmt: skip
        mixing = torch.randn(config.n_mix, config.n_basis, config.n_feature)
        self.mixing = nn.Parameter(mixing / math.sqrt(config.n_mix * config.n_feature))

    def feature(
        self, theta: Float[Tensor, "batch theta"], u: Float[Tensor, "batch column"]
    ) -> Float[Tensor, "batch feature"]:
        """h(theta, u), once for all noise levels."""
        one = torch.ones(len(theta), 1, dtype=theta.dtype, device=theta.device)
        features: Tensor = self.layers(torch.cat([with_missing(theta), u, one], dim=1))
        return features

    def mixed(self, sigma: Float[Tensor, " level"]) -> Float[Tensor, "level basis feature"]:
        """A(sigma): cosines of ln sigma mix the features into coefficients."""
        waves = level_waves(self.config, sigma)
        return torch.einsum("lm,mjh->ljh", waves, self.mixing) / math.sqrt(self.config.n_basis)

    def forward(
        self,
        sigma: Float[Tensor, " batch"],
        theta: Float[Tensor, "batch theta"],
        u: Float[Tensor, "batch column"],
    ) -> Float[Tensor, "batch basis"]:
        """Coefficients of one noise level and theta per row."""
        return torch.einsum("njh,nh->nj", self.mixed(sigma), self.feature(theta, u))


class Separable(nn.Module):
    """Denoiser that is linear in functions of theta."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config, 0)
        self.head = nn.Conv2d(config.channels[0], config.n_basis * config.n_band * config.patch**2, 1)
        _start_small(self.head)
        self.coefficients = Coefficients(config)

    def features(
        self,
        noisy: Image,
        sigma: Float[Tensor, " batch"],
        u: Float[Tensor, "batch column"],
        observed: Bool[Tensor, "batch band height width"],
    ) -> tuple[Float[Tensor, "batch channel rows columns"], Float[Tensor, "batch feature rows columns"]]:
        """phi_0, before c_out and as blocks, and what phi_1 to phi_J are made of by `head`."""
        _, _, c_in = scalings(sigma)
        parts: tuple[Tensor, Tensor] = self.trunk(c_in * noisy, sigma, observed.to(noisy.dtype), u)
        return parts

    def basis(
        self, features: Float[Tensor, "batch feature rows columns"]
    ) -> Float[Tensor, "batch basis channel rows columns"]:
        """phi_1 to phi_J, before c_out, as blocks (`Trunk.to_images` puts them in order)."""
        images: Tensor = self.head(features)
        basis: Tensor = images.unflatten(1, (self.config.n_basis, -1))
        return basis

    def forward(
        self,
        noisy: Image,
        sigma: Float[Tensor, " batch"],
        theta: Float[Tensor, "batch theta"],
        u: Float[Tensor, "batch column"],
        observed: Bool[Tensor, "batch band height width"],
    ) -> Image:
        """Denoised images, D."""
        c_skip, c_out, _ = scalings(sigma)
        first, features = self.features(noisy, sigma, u, observed)
        c = self.coefficients(sigma, theta, u)
        blocks = first + torch.einsum("nj,njcyx->ncyx", c, self.basis(features))
        return c_skip * noisy + c_out * self.trunk.to_images(blocks)


class Film(nn.Module):
    """Denoiser with theta in the embedding: for comparison, and an example of one that is not separable."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config, 2 * config.n_theta)

    def forward(
        self,
        noisy: Image,
        sigma: Float[Tensor, " batch"],
        theta: Float[Tensor, "batch theta"],
        u: Float[Tensor, "batch column"],
        observed: Bool[Tensor, "batch band height width"],
    ) -> Image:
        """Denoised images, D."""
        c_skip, c_out, c_in = scalings(sigma)
        extra = torch.cat([u, with_missing(theta)], dim=1)
        first, _ = self.trunk(c_in * noisy, sigma, observed.to(noisy.dtype), extra)
        return c_skip * noisy + c_out * self.trunk.to_images(first)


Denoiser = Separable | Film
"""A conditional denoiser of prepared images."""


def build_network(config: NetworkConfig) -> Denoiser:
    """Network of a configuration, with random weights."""
    return Separable(config) if config.kind == "separable" else Film(config)


def n_parameter(network: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
