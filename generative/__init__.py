"""Generative models of galaxy images in PyTorch: simulator, conditional score model, training, sampling.

Importing this package loads neither torch nor JAX; its modules load torch, and the simulator loads JAX when
it compiles its photometry.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from generative.checkpoint import Model
    from generative.summaries import summarize as summarize


def load(name: str | Path, device: str = "cpu") -> "Model":
    """Load a shipped model by its name, or any model by its file; see `generative.release.load`."""
    from generative.release import load as load_release

    return load_release(name, device)


def __getattr__(name: str) -> Any:
    """`generative.summaries.summarize`, imported when it is first used."""
    if name == "summarize":
        from generative.summaries import summarize

        return summarize
    raise AttributeError(f"module 'generative' has no attribute {name!r}")
