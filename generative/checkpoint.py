"""Checkpoints: weights in safetensors with a JSON header. No pickles.

The header (metadata key ``galaxy-hbm``) holds the format's version, the network's configuration, the
preparation of pixels, the instrument, the range of noise levels, and where the weights come from. Files are
written under a temporary name and renamed.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from generative.conditions import RANGE
from generative.correction import Correction, CorrectionConfig
from generative.instrument import Instrument
from generative.network import Coefficients, Denoiser, NetworkConfig, Separable, build_network
from generative.noise import likelihood_nodes
from generative.preparation import Preparation
from generative.typical import TypicalReference

VERSION = 1
_KEY = "galaxy-hbm"


class Model(NamedTuple):
    """A trained denoiser with all that is needed to use it."""

    network: Denoiser
    """Weights, in evaluation mode."""
    coefficients: Coefficients | None
    """The coefficient network of the likelihood: the denoiser's own, or the refitted one; None for `Film`."""
    preparation: Preparation
    """From pixels to what the network sees."""
    instrument: Instrument | None
    """Bands, pixels and conditions; None for a model of pictures."""
    theta_names: tuple[str, ...]
    """Names of the properties; empty for a model without."""
    sigma_sample: tuple[float, float]
    """Noise levels that sampling runs between."""
    sigma_likelihood: tuple[float, float]
    """Noise levels of the likelihood's integral."""
    node_weight: Float[Tensor, " node"]
    """Weights of the integral's nodes relative to equal ones, from the refit."""
    provenance: dict[str, Any]
    """How it was made."""
    calibration: dict[str, Any] | None = None
    """Information gain and coverage on held-out simulations (`generative.calibration`); None if not
    measured."""
    reference: TypicalReference | None = None
    """What typical images have, for the domain check; None if there is none."""
    correction: Correction | None = None
    """Of the likelihood (`generative.correction`); None for the score model's own."""

    @property
    def nodes(self) -> tuple[Float[Tensor, " node"], Float[Tensor, " node"]]:
        """Noise levels of the integral and their weights in ln sigma."""
        nodes, width = likelihood_nodes(self.sigma_likelihood, len(self.node_weight))
        return nodes, width * self.node_weight


class CheckpointError(ValueError):
    """A checkpoint that cannot be read."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it: it is there whole, or as it was.

    Raises
    ------
    OSError
        If it cannot be written (full disk, no permission); the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header, atomically.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    from safetensors.torch import save

    # Clones: the format refuses tensors that share memory.
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    content = save(plain, metadata={_KEY: json.dumps({"version": VERSION, **header})})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `save_tensors` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is truncated, not ours, or of another version.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}") from error
    if _KEY not in metadata:
        raise CheckpointError(f"{path} has no header of galaxy-hbm: it was not written by this program.")
    header = json.loads(metadata[_KEY])
    if header.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is of version {header.get('version')}, this program reads version {VERSION}. Use "
            "the release that wrote it, or train again."
        )
    return tensors, header


def save_model(path: Path, model: Model) -> None:
    """Write a model.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    header = {
        "network": model.network.config.to_dict(),
        "preparation": dataclasses.asdict(model.preparation),
        "instrument": None if model.instrument is None else dataclasses.asdict(model.instrument),
        "theta_names": model.theta_names,
        # What becomes (-1, 1), for readers without this package; mwa as a fraction of the universe's age.
        "theta_range": None if model.instrument is None else list(RANGE.values()),
        "sigma_sample": model.sigma_sample,
        "sigma_likelihood": model.sigma_likelihood,
        "provenance": model.provenance,
        "calibration": model.calibration,
        "correction": None if model.correction is None else model.correction.config.to_dict(),
    }
    tensors = {f"network.{name}": value for name, value in model.network.state_dict().items()}
    if model.coefficients is not None:
        tensors |= {f"likelihood.{name}": value for name, value in model.coefficients.state_dict().items()}
    if model.reference is not None:
        tensors |= {f"typical.{name}": value for name, value in model.reference._asdict().items()}
    if model.correction is not None:
        for name, value in model.correction.state_dict().items():
            # The encoder is most of the file; its weights were rounded before anything was fitted.
            tensors[f"correction.{name}"] = value.half() if name.startswith("encoder.") else value
    save_tensors(path, tensors | {"node_weight": model.node_weight}, {"kind": "model", **header})


def load_model(path: Path, device: torch.device | str = "cpu") -> Model:
    """Read a model, in evaluation mode.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is truncated, of another kind or version, or does not fit its own header.
    """
    tensors, header = load_tensors(path)
    if header.get("kind") != "model":
        raise CheckpointError(f"{path} holds a {header.get('kind')}, not a model.")
    try:
        network = build_network(NetworkConfig.from_dict(header["network"]))
        network.load_state_dict(_part(tensors, "network."))
        coefficients = Coefficients(network.config) if isinstance(network, Separable) else None
        if coefficients is not None:
            coefficients.load_state_dict(_part(tensors, "likelihood."))
            coefficients = coefficients.eval().requires_grad_(False)
        preparation = read_preparation(header["preparation"])
        instrument = None if header["instrument"] is None else Instrument(**_tuples(header["instrument"]))
        model = Model(
            network.eval().requires_grad_(False), coefficients, preparation, instrument,
            tuple(header["theta_names"]), _pair(header["sigma_sample"]), _pair(header["sigma_likelihood"]),
            tensors["node_weight"].float(), header["provenance"], header.get("calibration"),
            TypicalReference(**_part(tensors, "typical.")) if "typical.slope" in tensors else None,
            _correction(header.get("correction"), _part(tensors, "correction.")),
        )  # fmt: skip
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit its header: {error}") from error
    model.network.to(device)
    for part in (model.coefficients, model.correction):
        if part is not None:
            part.to(device)
    return model


def _correction(config: dict[str, Any] | None, tensors: dict[str, Tensor]) -> Correction | None:
    if config is None:
        return None
    correction = Correction(CorrectionConfig.from_dict(config))
    correction.load_state_dict(tensors)
    return correction.eval().requires_grad_(False)


def read_preparation(values: dict[str, Any]) -> Preparation:
    """Preparation from a header."""
    return Preparation(**_tuples(values))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names start with a prefix, without it, in single precision."""
    return {name.removeprefix(prefix): v.float() for name, v in tensors.items() if name.startswith(prefix)}


def _pair(values: list[float]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    def tupled(value: Any) -> Any:
        return tuple(tupled(item) for item in value) if isinstance(value, list) else value

    return {key: tupled(value) for key, value in values.items()}
