"""Prepared simulations in files, for what is trained on the same ones many times."""

import dataclasses
import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from generative.checkpoint import write_atomically
from generative.data import SimulatedSource
from generative.instrument import Instrument
from generative.preparation import Preparation

_CHUNK = 2000


class SimulatedSet(NamedTuple):
    """Simulations of one instrument, without holes."""

    image: Float16[np.ndarray, "image band height width"]
    """Prepared, in half precision: rounding is far below the noise."""
    theta: Float[Tensor, "image theta"]
    """Scaled."""
    u: Float[Tensor, "image column"]
    """Scaled."""
    seconds: float
    """Processor time that they took."""


def simulated_set(
    instrument: Instrument,
    preparation: Preparation,
    n: int,
    folder: Path,
    *,
    seed: int = 4 * 10**9,
    until: float = math.inf,
    progress: Callable[[int, int], None] | None = None,
) -> SimulatedSet | None:
    """Simulations from files in a folder, which are made where they are missing.

    Parameters
    ----------
    n
        Simulations.
    folder
        Holds one file per 2,000 and ``set.json``, which says what they are of.
    seed
        Of the simulations; each file has its own, so that a longer set begins with a shorter one.
    until
        `time.monotonic` after which no further file is begun.
    progress
        Told how many are there.

    Returns
    -------
    SimulatedSet or None
        None if the time was up before all were made.

    Raises
    ------
    ValueError
        If the folder holds simulations of another instrument, preparation or seed.
    """
    header = {"instrument": dataclasses.asdict(instrument), "preparation": dataclasses.asdict(preparation)}
    check_header(folder, json.loads(json.dumps({**header, "seed": seed})))
    source = SimulatedSource(instrument)
    parts: list[dict[str, np.ndarray]] = []
    for first in range(0, n, _CHUNK):
        path = folder / f"{first:09d}.npz"
        if not path.is_file():
            if time.monotonic() > until:
                return None
            start = time.process_time()
            batch = source.batch(_CHUNK, torch.Generator().manual_seed(seed + first))
            clean = preparation.forward(batch.image, batch.noise, batch.observed)
            content = io.BytesIO()
            seconds = time.process_time() - start
            np.savez(content, image=clean.half(), theta=batch.theta, u=batch.u, seconds=seconds)
            write_atomically(path, content.getvalue())
        with np.load(path) as stored:
            parts.append({name: stored[name] for name in stored.files})
        if progress is not None:
            progress(min(first + _CHUNK, n), n)
    image, theta, u = (np.concatenate([part[name] for part in parts])[:n] for name in ("image", "theta", "u"))
    return SimulatedSet(
        image, torch.as_tensor(theta), torch.as_tensor(u), sum(float(part["seconds"]) for part in parts)
    )


def check_header(folder: Path, header: dict[str, object]) -> None:
    """Write what a folder's files are of into ``set.json``, or compare with what is there.

    Raises
    ------
    ValueError
        If they are of something else.
    """
    path = folder / "set.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(header).encode())
        return
    before = json.loads(path.read_text())
    for key, value in header.items():
        if before.get(key) != value:
            raise ValueError(f"{folder} holds files of another {key}. Choose another folder.")
