"""Finished parts of a run, each in a file that is written whole: a run that was killed loses one part."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hbm.results.files import write_atomically


class Pieces:
    """Arrays by key, in a folder.

    Parameters
    ----------
    folder
        Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """Arrays that were put there, or None."""
        path = self._path(key)
        if not path.is_file():
            return None
        with np.load(path) as file:
            return {name: file[name] for name in file.files}

    def put(self, key: str, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Keep arrays."""
        kept = {name: np.asarray(value) for name, value in arrays.items()}
        content = io.BytesIO()
        any_names: dict[str, Any] = kept  # or NumPy's other arguments seem to be meant
        np.savez(content, **any_names)
        data = content.getvalue()
        write_atomically(self._path(key), lambda temporary: temporary.write_bytes(data), overwrite=True)
        return kept

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


def digest(*parts: Any) -> str:
    """Short hash of text and arrays: what a piece was made from."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(str((part.dtype.str, part.shape)).encode() + np.ascontiguousarray(part).tobytes())
        else:
            total.update(repr(part).encode())
    return total.hexdigest()[:16]
