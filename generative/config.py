"""Settings of a training run, from a TOML file."""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints


@dataclass(frozen=True)
class DataConfig:
    """Where images come from."""

    source: Literal["simulate", "hdf5", "folder", "npz"] = "simulate"
    instrument: str = ""
    """Name of an instrument (`generative.instrument`); needed to simulate and for hdf5."""
    path: str = ""
    """File or folder, relative to the configuration file; not for simulations."""
    table: str = ""
    """Table of labels beside an image folder; none for an unconditional model."""
    key: str = ""
    """Array of an npz file; the only one if empty."""
    labels: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Labels of a table or file to condition on, with the range that becomes (-1, 1)."""
    draw_labels: bool = False
    """Draw each label anew from its error distribution whenever an image is shown: by ``<label>_p16`` and
    ``<label>_p84`` beside the labels, for hdf5 (as `hbm dataset` writes) and folders."""
    n_pixel: int = 0
    """Side that images are box-averaged to; 0 leaves them."""


@dataclass(frozen=True)
class NetworkOptions:
    """Size of the network; see `generative.network.NetworkConfig`."""

    kind: Literal["separable", "film"] = "separable"
    n_basis: int = 32
    patch: int = 4
    channels: tuple[int, ...] = (96, 128)
    layers: int = 1
    attention: bool = False
    hidden: int = 128
    n_feature: int = 64
    refine: int = 24


@dataclass(frozen=True)
class TrainingOptions:
    """How to train."""

    steps: int = 20000
    batch: int = 64
    levels: int = 5
    """Noise levels per image of the likelihood's integral; one more covers the range of sampling."""
    lr: float = 1e-3
    warmup: int = 200
    """Steps in which the learning rate rises; it then falls along a cosine."""
    ema: float = 0.999
    """Memory of the running mean of the weights."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    contrast: float = 20.0
    """Weight of the contrastive loss; see `generative.loss.Losses`. 0 for none; none for surveys' images,
    where properties go with redshift and brightness."""
    looks: float = 0.2
    """Weight of the error at all levels that sampling uses."""
    label_dropout: float = 0.15
    """Part of the images whose labels are dropped: half of them all labels, half each label by a coin."""
    holes: bool = True
    """Bad pixels and missing bands at random."""
    sigma_likelihood: tuple[float, float] = (0.15, 10.0)
    sigma_sample: tuple[float, float] = (0.03, 30.0)
    n_node: int = 16
    """Nodes of the likelihood's integral."""
    validate_every: int = 250
    n_validate: int = 128
    save_every: int = 250
    bf16: bool = False
    """Compute the trunk in bfloat16, on devices that have instructions for it."""
    seed: int = 1
    start_from: str = ""
    """Model to start from, to refine it or move it to other images: a file, a run's state, or a shipped name.
    What the network has and the file has not starts as usual; the preparation of pixels is the file's."""
    refit_images: int = 2000
    """Held-out images of the final refit; 0 for none."""
    refit_steps: int = 600
    calibration_images: int = 1000
    """Simulations that the likelihood's information gain and coverage, and the domain check, are measured on;
    0 for none."""


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run."""

    data: DataConfig
    network: NetworkOptions
    training: TrainingOptions

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a header."""
        return dataclasses.asdict(self)


_SECTIONS = {"data": DataConfig, "network": NetworkOptions, "training": TrainingOptions}


def read_config(path: Path) -> TrainConfig:
    """Read a TOML file with the tables ``data``, ``network`` and ``training``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not TOML, or has a table, key or value that is not known; the message names it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no configuration at {path}.")
    try:
        content = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    return parse_config(content, str(path))


def parse_config(content: dict[str, Any], where: str = "the configuration") -> TrainConfig:
    """Settings from nested dictionaries.

    Raises
    ------
    ValueError
        If a table, key or value is not known; the message names it.
    """
    unknown = set(content) - set(_SECTIONS)
    if unknown:
        raise ValueError(
            f"{where} has the unknown table {sorted(unknown)[0]!r}; expected {', '.join(_SECTIONS)}."
        )
    parts = {
        name: _section(kind, content.get(name, {}), f"{where}, table [{name}]")
        for name, kind in _SECTIONS.items()
    }
    config = TrainConfig(**parts)
    _check(config, where)
    return config


def _section(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    defaults = kind()
    result = {}
    for key, value in values.items():
        if key not in fields:
            raise ValueError(f"{where} has the unknown key {key!r}; expected one of {', '.join(fields)}.")
        expected = getattr(defaults, key)
        converted = value
        if isinstance(expected, float) and isinstance(value, int) and not isinstance(value, bool):
            converted = float(value)
        elif isinstance(expected, tuple) and isinstance(value, list):
            converted = tuple(value)
        elif isinstance(expected, dict) and isinstance(value, dict):
            converted = {name: _pair(pair, f"{where}: `{key}.{name}`") for name, pair in value.items()}
        if type(converted) is not type(expected):
            raise ValueError(f"{where}: `{key}` must be of the type of {expected!r}, got {value!r}.")
        choices = get_args(get_type_hints(kind)[key])
        if isinstance(converted, str) and choices and converted not in choices:
            names = ", ".join(repr(choice) for choice in choices)
            raise ValueError(f"{where}: `{key}` must be one of {names}, got {value!r}.")
        result[key] = converted
    return kind(**result)


def _pair(value: Any, where: str) -> tuple[float, float]:
    """Two numbers."""
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or not all(isinstance(v, int | float) for v in value)
    ):
        raise ValueError(f"{where} must be two numbers, got {value!r}.")
    return float(value[0]), float(value[1])


def _check(config: TrainConfig, where: str) -> None:
    """Values that no step of training would survive."""
    data, training = config.data, config.training
    if data.source in ("simulate", "hdf5") and not data.instrument:
        raise ValueError(f"{where}: `instrument` must be set for the source {data.source!r}.")
    if data.source != "simulate" and not data.path:
        raise ValueError(f"{where}: `path` must be set for the source {data.source!r}.")
    for name in (
        "steps",
        "batch",
        "levels",
        "warmup",
        "validate_every",
        "save_every",
        "n_node",
        "n_validate",
    ):
        if getattr(training, name) < 1:
            raise ValueError(f"{where}: `{name}` must be at least 1, got {getattr(training, name)}.")
    if training.contrast > 0 and training.batch < 2:
        raise ValueError(
            f"{where}: `batch` must be at least 2 for the contrastive loss, got {training.batch}."
        )
    for name in ("sigma_likelihood", "sigma_sample"):
        pair = getattr(training, name)
        if len(pair) != 2 or not 0 < pair[0] < pair[1]:
            raise ValueError(f"{where}: `{name}` must be two rising positive levels, got {pair}.")
    if not 0 <= training.ema < 1:
        raise ValueError(f"{where}: `ema` must be in [0, 1), got {training.ema}.")
