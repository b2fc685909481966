"""Galaxies over the JAX devices of this host: each device runs its own galaxies, and nothing is exchanged.

A program that is vectorised over galaxies steps them together: a loop ends when the last one is done. On
several devices each share of the galaxies has a loop of its own (`jax.shard_map`). Results are the same to
rounding, which long chains amplify. What adds galaxies up, on one host or several, is `hbm.spread`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = "galaxy"


def use_cpu_cores(n: int) -> None:
    """Make ``n`` devices of the processor; before JAX has done anything, or it raises RuntimeError."""
    config: Any = jax.config
    config.update("jax_num_cpu_devices", n)


def over_devices(
    function: Callable[..., Any], in_axes: Callable[..., tuple[Any, ...]], out_axes: Any
) -> Callable[..., Any]:
    """Compile a function of many galaxies; its galaxies are divided over the devices.

    Parameters
    ----------
    function
        Of arrays with a galaxy axis, by which galaxies do not depend on each other.
    in_axes
        Gives, for the arguments, where that axis is: 0, 1, or None for what all galaxies share; a tree that
        is a prefix of the arguments.
    out_axes
        The same of the result.

    Returns
    -------
        Function of the same arguments. It uses as many devices as divide the number of galaxies.
    """

    def run(*arguments: Any) -> Any:
        axes = in_axes(*arguments)
        n_device = math.gcd(_n_galaxy(arguments, axes), len(jax.local_devices()))
        if n_device == 1:
            return function(*arguments)
        mesh = Mesh(np.asarray(jax.local_devices()[:n_device]), (_AXIS,))
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=_specs(axes), out_specs=_specs(out_axes), check_vma=False
        )
        return mapped(*arguments)

    compiled = jax.jit(run)

    def placed(*arguments: Any) -> Any:
        axes = in_axes(*arguments)
        n_device = math.gcd(_n_galaxy(arguments, axes), len(jax.local_devices()))
        if n_device > 1:
            # Arguments that come from elsewhere than from such a function would have it compiled once more.
            mesh = Mesh(np.asarray(jax.local_devices()[:n_device]), (_AXIS,))
            where = jax.tree.map(lambda spec: NamedSharding(mesh, spec), _specs(axes))
            arguments = jax.device_put(arguments, where)
        return compiled(*arguments)

    return placed


def _specs(axes: Any) -> Any:
    spec: Any = PartitionSpec  # it has no annotations
    table = {None: spec(), 0: spec(_AXIS), 1: spec(None, _AXIS)}
    return jax.tree.map(lambda axis: table[axis], axes, is_leaf=lambda leaf: leaf is None)


def _n_galaxy(arguments: tuple[Any, ...], axes: tuple[Any, ...]) -> int:
    """Galaxies, from the first argument that has an axis of them as a whole."""
    for argument, axis in zip(arguments, axes, strict=True):
        if isinstance(axis, int):
            return int(jax.tree.leaves(argument)[0].shape[axis])
    raise ValueError("`in_axes` must give one argument an axis of galaxies.")
