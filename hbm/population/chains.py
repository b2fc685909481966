"""Chains in pieces, with a checkpoint every few minutes, from which a killed run goes on.

A checkpoint is one ``.npz`` of arrays, without pickles: the state of all chains (with their random keys) and
the draws so far, written under a temporary name and renamed. It names the settings and a hash of the data;
chains of other settings or data do not go on from it. A resumed run gives the draws that the uninterrupted
one gives.
"""

import hashlib
import json
import os
import time
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hbm.results import settings_that_differ
from hbm.spread import Spread, is_first_host

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is being done)."""

PIECE = 10
"""Steps of one call of the program: the least that a checkpoint can be apart."""

_FORMAT = "galaxy-hbm chains 1"


class Schedule(NamedTuple):
    """How long, and where to keep the state meanwhile."""

    n_warmup: int
    n_draw: int
    """Draws kept per chain."""
    n_keep: int = 200
    """Draws per chain of which the galaxies' properties are kept."""
    checkpoint: Path | None = None
    """File of the state; None for none."""
    resume: bool = False
    """Go on from the file if it is there."""
    every_s: float = 120.0
    """Seconds between two checkpoints."""

    @property
    def n_thin(self) -> int:
        """Galaxies' properties are kept of every so many draws."""
        return -(-self.n_draw // max(self.n_keep, 1))


def fingerprint(settings: dict[str, Any], arrays: Any) -> dict[str, Any]:
    """Settings with a hash of all arrays: what a checkpoint must agree in."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(arrays):
        value = np.asarray(leaf)
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return {**settings, "data": digest.hexdigest()}


def in_pieces(step: Callable[[Any, Any], tuple[Any, dict[str, Any]]]) -> Callable[[Any, Any], Any]:
    """Program of so many steps of all chains as `run_chains` takes at once."""

    @jax.jit
    def advance(state: Any, arrays: Any) -> tuple[Any, Any]:
        by_chain = jax.vmap(step, in_axes=(0, None))
        return jax.lax.scan(lambda carry, _: by_chain(carry, arrays), state, None, length=PIECE)

    program: Callable[[Any, Any], Any] = advance
    return program


def run_chains(
    step: Callable[[Any, Any], tuple[Any, dict[str, Any]]],
    state: Any,
    arrays: Any,
    schedule: Schedule,
    identity: dict[str, Any],
    progress: Progress | None = None,
    text: str = "sampling",
    *,
    program: Callable[[Any, Any], Any] | None = None,
    spread: Spread | None = None,
) -> dict[str, Any]:
    """Advance all chains to the end.

    Parameters
    ----------
    step
        One step of one chain: state and arrays to the next state and what is kept. Of this, ``properties``
        are kept of every ``schedule.n_thin``-th draw, all else of every draw.
    state
        Of all chains, leading axis chain, at the start.
    arrays
        Given to every step.
    schedule
        Lengths and checkpoint.
    identity
        What a checkpoint must agree in (`fingerprint`).
    progress, text
        Told how far the run is, in these words.
    program
        That of ``step``, of `in_pieces`, if there is one already: it need not be compiled again.
    spread
        Where the arrays are, if on several devices.

    Returns
    -------
    dict
        What is kept, axes (chain, draw, ...).

    Raises
    ------
    FileExistsError
        If the checkpoint exists and ``schedule.resume`` is False.
    ValueError
        If it is of other settings or data, or no checkpoint.
    """
    advance = in_pieces(step) if program is None else program
    total = schedule.n_warmup + schedule.n_draw
    done, kept = 0, dict[str, np.ndarray]()
    path = schedule.checkpoint
    if path is not None and path.exists():
        if not schedule.resume:
            raise FileExistsError(
                f"`checkpoint` {path} exists already. Give `resume` to go on from it, or another name."
            )
        done, state, kept = read_checkpoint(path, identity, state)
    written = time.monotonic()
    parts = [kept] if kept else []
    while done < total:
        if spread is not None:  # always alike, or the program would be compiled again
            state = spread.state(state)
        state, output = advance(state, arrays)
        first, done = done, done + PIECE
        here = output if spread is None else spread.fetch(output)
        new = _kept(jax.device_get(here), first, schedule)
        if new:
            parts.append(new)
        if progress is not None:
            progress(min(done, total), total, text if first >= schedule.n_warmup else f"{text}: warm-up")
        if path is None:
            continue
        is_time = time.monotonic() - written >= schedule.every_s or done >= total
        if is_time if spread is None else spread.agreed(is_time):
            parts = [_joined(parts)] if parts else []
            whole = state if spread is None else spread.fetch(state)
            if is_first_host():
                write_checkpoint(path, identity, done, whole, parts[0] if parts else {})
            written = time.monotonic()
    return _unflattened(_joined(parts))


def write_checkpoint(
    path: Path, identity: dict[str, Any], done: int, state: Any, kept: dict[str, np.ndarray]
) -> None:
    """Write a checkpoint whole or not at all, in place of an older one."""
    leaves = {f"state.{i}": _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    outputs = {f"kept.{name}": value for name, value in kept.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp.npz"
    try:
        with temporary.open("wb") as file:
            header = {"format": np.array(_FORMAT), "identity": np.array(json.dumps(identity))}
            np.savez(file, **header, done=np.array(done), **leaves, **outputs)  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(
    path: Path, identity: dict[str, Any], like: Any
) -> tuple[int, Any, dict[str, np.ndarray]]:
    """Steps done, state and draws of a checkpoint.

    Parameters
    ----------
    path
        The file.
    identity
        What it must agree in.
    like
        A state of the same structure.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or one of other settings or data.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"`checkpoint` {path} cannot be read: {error}. Remove it to start anew.") from error
    if str(content.get("format")) != _FORMAT or "identity" not in content:
        raise ValueError(f"`checkpoint` {path} must be {_FORMAT!r}, got {content.get('format')}.")
    made = json.loads(str(content["identity"]))
    differences = settings_that_differ(made, json.loads(json.dumps(identity)))
    if differences:
        raise ValueError(
            f"`checkpoint` {path} is of another run: {'; '.join(differences[:4])}. Give the same data and "
            "settings, or another file."
        )
    leaves, structure = jax.tree.flatten(like)
    wanted = [_plain(leaf).shape for leaf in leaves]
    found = [content[f"state.{i}"].shape for i in range(len(leaves)) if f"state.{i}" in content]
    if found != wanted:
        raise ValueError(f"`checkpoint` {path} is of another model: its state has other shapes. Start anew.")
    stored = [content[f"state.{i}"] for i in range(len(leaves))]
    state = jax.tree.unflatten(structure, [_as(old, new) for old, new in zip(leaves, stored, strict=True)])
    kept = {name[5:]: value for name, value in content.items() if name.startswith("kept.")}
    return int(content["done"]), state, kept


def _plain(leaf: Any) -> np.ndarray:
    """Array of numbers of a leaf, which may be a random key."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _as(old: Any, new: np.ndarray) -> Any:
    """Stored numbers as the kind of leaf that was stored."""
    if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(new), impl=jax.random.key_impl(old))
    return jnp.asarray(new, old.dtype)


def _kept(output: dict[str, Any], first: int, schedule: Schedule) -> dict[str, np.ndarray]:
    """What is kept of the steps from ``first`` on, axes (chain, draw, ...), flat names."""
    index = np.arange(first, first + PIECE) - schedule.n_warmup
    is_draw = (index >= 0) & (index < schedule.n_draw)
    if not is_draw.any():
        return {}
    is_kept = is_draw & (index % schedule.n_thin == 0)
    flat: dict[str, np.ndarray] = {}
    for name, value in output.items():
        parts = {f"{name}/{k}": (v, is_kept) for k, v in value.items()} if isinstance(value, dict) else {}
        for each, (array, which) in (parts or {name: (value, is_draw)}).items():
            flat[each] = np.moveaxis(np.asarray(array)[which], 0, 1)
    return flat


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def _unflattened(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        outer, _, inner = name.partition("/")
        if inner:
            nested.setdefault(outer, {})[inner] = value
        else:
            nested[outer] = value
    return nested
