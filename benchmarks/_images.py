"""What the benchmarks of image models share: the machine, and the information gain."""

import importlib.metadata
import json
import math
import os
import platform
from typing import Any

import torch
from torch import Tensor

from benchmarks._common import RESULTS

_PACKAGES = ("torch", "diffusers", "accelerate", "jax", "numpy", "statmorph", "galsim")


def machine(device: str) -> dict[str, Any]:
    """Processor or GPU, threads, versions."""
    cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "n_cpu": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_result(name: str, device: str, settings: dict[str, Any], result: dict[str, Any]) -> None:
    """Write ``results/NAME.json`` and print the same object as one line, the last."""
    content = {"benchmark": name, "settings": settings, "machine": machine(device), "result": result}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content))


def gain_among(log_prob: Tensor) -> tuple[float, float]:
    """Mean information gain in nats and its error; the first column is the truth. At most ln(columns)."""
    gain = log_prob[:, 0] - torch.logsumexp(log_prob, 1) + math.log(log_prob.shape[1])
    return float(gain.mean()), float(gain.std() / len(gain) ** 0.5)
