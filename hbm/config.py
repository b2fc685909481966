"""Settings of a photometric fit: what the model is, in one frozen record that goes into every result."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class InterimPrior:
    """Numbers of the prior on one galaxy's parameters; the formulas are in `hbm.prior`.

    It is called interim because a population model later divides it out again.
    """

    logmass: tuple[float, float] = (6.0, 12.7)
    """Range of log10 mass formed (Msun), uniform."""
    logssfr: tuple[float, float] = (-14.0, -8.0)
    """Range of log10 sSFR over 100 Myr (1/yr)."""
    logssfr_scatter: tuple[float, float] = (1.6, 0.5)
    """Widths below and above the star-forming sequence, dex: wide enough for quiescent galaxies below,
    about twice the observed scatter above."""
    logzsol: tuple[float, float] = (-2.0, 0.5)
    """Range of log10 metallicity (Zsun)."""
    logzsol_scatter: float = 0.5
    """Scatter about the mass-metallicity relation, dex: about twice the observed one."""
    dust2: tuple[float, float, float] = (0.3, 1.0, 4.0)
    """Centre, width and upper end of the diffuse optical depth; its lower end is 0."""
    dust1_fraction: tuple[float, float, float] = (1.0, 0.3, 2.0)
    """Centre, width and upper end of dust1 / dust2."""
    dust_index: tuple[float, float, float, float] = (-0.2, 0.4, -1.0, 0.4)
    """Centre, width, lower and upper end of the slope offset."""
    gas_logu: tuple[float, float, float, float] = (-2.7, 0.6, -4.0, -1.0)
    """Centre, width, lower and upper end of the ionization parameter."""
    sfr_ratio: tuple[float, float] = (0.3, 2.0)
    """Scale and bound, dex, of the Student t (2 degrees of freedom) of log10 ratios of adjacent rates. The
    scale is that of Leja et al. (2019); the bound cuts 2 % of it, where rates differ a hundredfold and
    more, a tail that only slows the sampler."""
    logtau: tuple[float, float] = (-1.0, 1.5)
    """Range of log10 e-folding time (Gyr), uniform, for the delayed exponential."""
    error_floor: tuple[float, float] = (0.005, 0.3)
    """Range of a free error floor, uniform in the logarithm."""
    outlier_fraction: float = 19.0
    """b of the Beta(1, b) distribution of the fraction of bad bands: mean 1 / (1 + b)."""


@dataclass(frozen=True)
class ModelConfig:
    """What is fitted."""

    sfh: Literal["binned", "delayed_tau"] = "binned"
    """Star formation history."""
    n_old: int = 5
    """Age bins older than 100 Myr, for the binned history."""
    curve: Literal["kriek_conroy", "calzetti"] = "kriek_conroy"
    """Diffuse attenuation curve."""
    igm: Literal["inoue", "madau", "none"] = "inoue"
    """Absorption by the intergalactic medium."""
    nebular: bool = True
    """Emission lines."""
    dust_emission: bool = True
    """Infrared light from dust, with energy balance."""
    free_dust_emission: bool = False
    """Fit the three parameters of the dust emission instead of fixing them at FSPS-like values."""
    error_floor: float | Literal["free"] = 0.05
    """Model error as a fraction of the model flux, added in quadrature."""
    outliers: bool = False
    """Mix in a broad Gaussian for bad bands, with the fraction of bad bands free."""
    zero_point_sigma: float = 0.0
    """Width (mag) of free offsets of each band's zero point; 0 for none."""
    cosmology: str = "Planck18"
    """Name of an astropy cosmology."""
    n_node: int | None = None
    """Wavelengths per band at which dust is evaluated; None chooses by the band's width."""
    n_zred: int = 15
    """Redshifts at which photometry is compiled where the redshift has an error."""
    prior: InterimPrior = dataclasses.field(default_factory=InterimPrior)
    """The interim prior."""

    def __post_init__(self) -> None:
        if isinstance(self.error_floor, str) and self.error_floor != "free":
            raise ValueError(f"`error_floor` must be a number or 'free', got {self.error_floor!r}.")
        if not isinstance(self.error_floor, str) and not 0 <= self.error_floor < 1:
            raise ValueError(f"`error_floor` must be a fraction in [0, 1), got {self.error_floor}.")
        if self.zero_point_sigma < 0:
            raise ValueError(f"`zero_point_sigma` must be >= 0 mag, got {self.zero_point_sigma}.")
        choices = {
            "sfh": ("binned", "delayed_tau"),
            "curve": ("kriek_conroy", "calzetti"),
            "igm": ("inoue", "madau", "none"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}.")

    def to_json(self) -> str:
        """The settings as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """Settings from `to_json`."""
        content = json.loads(text)
        stored: dict[str, Any] = content.pop("prior")
        prior: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}
        return cls(prior=InterimPrior(**prior), **content)
