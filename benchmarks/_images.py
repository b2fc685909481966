"""What the benchmarks of image models share: the machine, and a likelihood by direct evaluation."""

import importlib.metadata
import json
import math
import os
import platform
from typing import Any

import torch
from torch import Tensor

from benchmarks._common import RESULTS
from generative.network import Denoiser

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


@torch.no_grad()
def direct_log_prob(
    network: Denoiser,
    clean: Tensor,
    u: Tensor,
    observed: Tensor,
    theta: Tensor,
    nodes: Tensor,
    width: float,
    seed: int,
) -> Tensor:
    """Ln p(x_i | theta_ij) up to a constant of the image, by running the network for each; any denoiser.

    The same antithetic noise for all theta.
    """
    n, m, _ = theta.shape
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(n, m, device=clean.device)
    for sigma in nodes:
        eps = torch.randn(clean.shape[1:], generator=generator).to(clean.device)
        level = sigma.to(clean.device).expand(n)
        for sign in (1.0, -1.0):
            noisy = clean + sigma * sign * eps
            for j in range(m):
                denoised = network(noisy, level, theta[:, j], u, observed)
                square = (((clean - denoised) * observed) ** 2).flatten(1).sum(1)
                total[:, j] -= 0.5 * width * square / sigma**2
    return total


def gain_among(log_prob: Tensor) -> tuple[float, float]:
    """Mean information gain in nats and its error; the first column is the truth. At most ln(columns)."""
    gain = log_prob[:, 0] - torch.logsumexp(log_prob, 1) + math.log(log_prob.shape[1])
    return float(gain.mean()), float(gain.std() / len(gain) ** 0.5)
