"""Models by name: those shipped with the package, and files."""

from pathlib import Path

import torch

from generative.checkpoint import Model, load_model

_FOLDER = Path(__file__).parent / "data"


def available() -> tuple[str, ...]:
    """Names of the shipped models."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))


def model_path(name: str | Path) -> Path:
    """File of a shipped model by its name, or the path itself.

    Raises
    ------
    FileNotFoundError
        If there is neither; the message lists the names.
    """
    shipped = _FOLDER / f"{name}.safetensors"
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"no model {str(name)!r}: it is neither a file nor one of "
            f"{', '.join(available()) or '(none shipped)'}."
        )
    return path


def load(name: str | Path, device: torch.device | str = "cpu") -> Model:
    """Load a shipped model by its name, or any model by its file.

    Raises
    ------
    FileNotFoundError
        If there is neither; the message lists the names.
    CheckpointError
        If the file cannot be used.
    """
    return load_model(model_path(name), device)
