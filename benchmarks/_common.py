"""What every benchmark writes down: the machine, the versions, the numbers."""

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

RESULTS = Path(__file__).parent / "results"
"""Where results go."""

_PACKAGES = ("jax", "jaxlib", "numpy", "numpyro", "equinox", "astro-sedpy", "fsps", "astro-prospector")


def machine() -> dict[str, Any]:
    """Processor, memory, JAX devices, versions."""
    return {
        "cpu": _cpu_name(),
        "n_cpu": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "devices": [str(device.device_kind) for device in jax.devices()],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Timing(NamedTuple):
    """Time of one function."""

    first_s: float
    """First call, which compiles."""
    run_s: float
    """One call afterwards: the best of several rounds, because other programs only ever slow it down."""


def measure(call: Callable[[], Any], *, rounds: int = 5, seconds: float = 0.4) -> Timing:
    """Time a call, waiting for its result; each round repeats it for ``seconds``."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - start
    best = float("inf")
    for _ in range(rounds):
        start, n_call = time.perf_counter(), 0
        while n_call == 0 or time.perf_counter() - start < seconds:
            jax.block_until_ready(call())
            n_call += 1
        best = min(best, (time.perf_counter() - start) / n_call)
    return Timing(first, best)


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns aligned to the right, the first to the left."""
    text = [[str(cell) for cell in row] for row in (head, *rows)]
    width = [max(len(row[i]) for row in text) for i in range(len(head))]
    for row in text:
        cells = [cell.rjust(w) for cell, w in zip(row[1:], width[1:], strict=True)]
        print(row[0].ljust(width[0]), *cells, sep="  ")


def write_result(name: str, settings: dict[str, Any], result: dict[str, Any]) -> Path:
    """Write ``results/NAME.json`` and print the same object as one line, the last."""
    content = {"benchmark": name, "settings": settings, "machine": machine(), "result": result}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content))
    return path
