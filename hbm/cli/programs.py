"""Compiled programs are kept between commands: the second `hbm fit` of a kind need not compile again."""

import hashlib
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

VARIABLE = "HBM_PROGRAMS"
"""Environment: another folder, or nothing to keep no programs."""

_MOST_BYTES = 500_000_000
"""Size of the folder; programs that were not used for longest go first."""


def keep_programs(folder: Path | None = None) -> None:
    """Let JAX keep compiled programs on disk, in a folder or in the user's cache folder.

    What the user told JAX (``JAX_COMPILATION_CACHE_DIR``) or us (``HBM_PROGRAMS``) comes first. Nothing is
    kept where the folder cannot be written to.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or os.environ.get(VARIABLE) == "":
        return
    import jax

    try:
        place = Path(os.environ[VARIABLE]) if VARIABLE in os.environ else folder or user_folder()
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    config: Any = jax.config
    config.update("jax_compilation_cache_dir", str(place))
    config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    if importlib.util.find_spec("filelock") is not None:  # JAX locks the folder with it to remove anything
        config.update("jax_compilation_cache_max_size", _MOST_BYTES)


def user_folder() -> Path:
    """Folder of this kind of processor: machines that share a home may not run each other's code."""
    from astropy.config import get_cache_dir

    return Path(get_cache_dir("galaxy-hbm")) / f"programs-{_processor()}"


def _processor() -> str:
    """Short name of the processor's instructions."""
    info = Path("/proc/cpuinfo")
    words = platform.processor()
    if info.is_file():
        words = next((line for line in info.read_text().splitlines() if line.startswith("flags")), words)
    return hashlib.sha256(f"{platform.machine()} {words}".encode()).hexdigest()[:8]
