"""From the settings of a run to its source of images, its preparation and its names."""

from pathlib import Path
from typing import NamedTuple

import torch

from generative.checkpoint import load_tensors, read_preparation
from generative.conditions import THETA
from generative.config import TrainConfig
from generative.data import SimulatedSource, Source
from generative.datasets import read_folder, read_multimodal_universe, read_npz
from generative.instrument import Instrument, instrument
from generative.preparation import Preparation, fit_preparation
from generative.release import model_path

_FOLDER = Path(__file__).parent / "configs"
_PREPARATION_SEED = 7


class Setup(NamedTuple):
    """What a run needs besides its settings."""

    source: Source
    preparation: Preparation
    instrument: Instrument | None
    theta_names: tuple[str, ...]


def shipped_configs() -> tuple[str, ...]:
    """Names of the configurations in the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def config_path(name: str | Path) -> Path:
    """File of a configuration: a path, or the name of a shipped one.

    Raises
    ------
    FileNotFoundError
        If there is neither; the message lists the names.
    """
    shipped = _FOLDER / f"{name}.toml"
    path = Path(name)
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    raise FileNotFoundError(
        f"no configuration {str(name)!r}: it is neither a file nor one of {', '.join(shipped_configs())}."
    )


def data_folder(path: Path) -> Path:
    """Folder that a configuration's relative paths start from: its own, the current one for shipped ones."""
    return Path() if path.parent == _FOLDER else path.parent


def set_up(config: TrainConfig, base: Path, device: str = "cpu") -> Setup:
    """Open a run's data.

    Parameters
    ----------
    config
        Settings.
    base
        Folder that relative paths start from.
    device
        Where images are simulated and kept.

    Raises
    ------
    FileNotFoundError, ValueError
        If the data are not there or cannot be used.
    """
    data = config.data
    device_ = torch.device(device)
    generator = torch.Generator(device=device_).manual_seed(_PREPARATION_SEED)
    if data.source in ("simulate", "hdf5"):
        chosen = instrument(data.instrument)
        source: Source = (
            SimulatedSource(chosen, device=device)
            if data.source == "simulate"
            else read_multimodal_universe(base / data.path, chosen, device, draw_labels=data.draw_labels)
        )
        batch = source.held_out(512, generator) if data.source == "simulate" else source.batch(512, generator)
        preparation = _started(config) or fit_preparation(batch.image, batch.noise, batch.observed)
        return Setup(source, preparation, chosen, THETA)
    if data.source == "npz":
        source = read_npz(data, base / data.path, device)
    else:
        source = read_folder(data, base / data.path, base / data.table if data.table else None, device)
    batch = source.batch(512, generator)
    preparation = _started(config) or fit_preparation(
        batch.image, batch.noise, batch.observed, stretch="linear"
    )
    return Setup(source, preparation, None, tuple(data.labels))


def _started(config: TrainConfig) -> Preparation | None:
    """Preparation of the model that a run starts from: its weights know no other."""
    if not config.training.start_from:
        return None
    _, header = load_tensors(model_path(config.training.start_from))
    return read_preparation(header["preparation"])
