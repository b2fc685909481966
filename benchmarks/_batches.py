"""Results of finished batches on disk, so that an interrupted benchmark goes on where it stopped."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks._common import RESULTS

CACHE = RESULTS / ".cache"
"""Not part of the repository."""


class BatchCache:
    """Arrays of each batch of a benchmark with given settings, one file per batch.

    Parameters
    ----------
    name
        Of the benchmark.
    settings
        Everything that shapes the numbers of a batch; other settings have files of their own.
    fresh
        Delete what is there.
    """

    def __init__(self, name: str, settings: dict[str, Any], *, fresh: bool = False) -> None:
        key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
        self.folder = CACHE / name / key
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "settings.json").write_text(json.dumps(settings, indent=1, default=str) + "\n")
        if fresh:
            for path in self.folder.iterdir():
                if path.is_file() and path.name != "settings.json":
                    path.unlink()

    def get(self, batch: str) -> dict[str, np.ndarray] | None:
        """Arrays of a batch, or None where it is not done."""
        path = self.folder / f"{batch}.npz"
        if not path.is_file():
            return None
        with np.load(path) as file:
            return {name: file[name] for name in file.files}

    def put(self, batch: str, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
        """Keep the arrays of a batch, with the state of the code that made them."""
        kept = {name: np.asarray(value) for name, value in arrays.items()} | {
            "code": np.asarray(code_digest())
        }
        temporary = self.folder / f".{batch}.npz"
        np.savez(temporary, **kept)
        os.replace(temporary, self.folder / f"{batch}.npz")
        return kept


def code_digest() -> str:
    """Hash of the sources of `sed` and `hbm`: batches made by different code should not be mixed."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for package in ("sed", "hbm") for path in (root / package).rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def keep_compiled_programs() -> None:
    """Let JAX take compiled programs from disk, so that later batches need not compile."""
    jax.config.update("jax_compilation_cache_dir", str(CACHE / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
