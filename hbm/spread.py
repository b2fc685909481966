"""One density of many galaxies, spread over all JAX devices of all hosts.

Arrays with an axis of galaxies are divided along it (`jax.sharding`), all else is on every device; XLA
divides the work and adds the parts of a sum up across devices. Results are the same to rounding, which long
chains amplify.

On several hosts every process runs the same program on the same data (`join_hosts` first), and the first one
alone writes files.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = "galaxy"


def join_hosts(coordinator: str | None = None, n_host: int | None = None, host: int | None = None) -> None:
    """Make the devices of several hosts one machine; before JAX has done anything.

    Parameters
    ----------
    coordinator
        ``address:port`` of the first host, which all can reach.
    n_host
        Hosts; one process each.
    host
        Number of this one, from 0.

    With none of the three JAX asks the cluster (SLURM, Open MPI, Cloud TPU): `jax.distributed.initialize`.

    Raises
    ------
    ValueError
        If some are given and some not, or the numbers do not go together.
    """
    given = (coordinator, n_host, host)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise ValueError(
            "`coordinator`, `n_host` and `host` must be given together, or none of them on a cluster that "
            f"JAX knows, got {given}."
        )
    if n_host is not None and host is not None and not 0 <= host < n_host:
        raise ValueError(f"`host` must be from 0 to {n_host - 1}, of `n_host` = {n_host} hosts, got {host}.")
    jax.distributed.initialize(coordinator, n_host, host)


def is_first_host() -> bool:
    """Whether this process writes files."""
    return jax.process_index() == 0


def hosts_meet(where: str) -> None:
    """Wait until all hosts are here; nothing with one."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(where)


class Spread(NamedTuple):
    """Where arrays of some galaxies are."""

    mesh: Mesh
    n_galaxy: int

    def arrays(self, tree: Any, axes: Any = 0) -> Any:
        """Put arrays where they belong, galaxies along ``axes``: as `in_axes` of `jax.vmap`."""

        def put(axis: int | None, part: Any) -> Any:
            return jax.tree.map(lambda leaf: _placed(leaf, self._where(axis)), part)

        return jax.tree.map(put, axes, tree, is_leaf=lambda leaf: leaf is None)

    def draws(self, tree: Any) -> Any:
        """Divide arrays that are no galaxies but are summed over too, along their first axis."""
        n = self.mesh.size

        def put(leaf: Any) -> Any:
            divides = leaf.ndim > 0 and leaf.shape[0] % n == 0
            return _placed(leaf, self._where(0 if divides else None))

        return jax.tree.map(put, tree)

    def state(self, tree: Any) -> Any:
        """Put the state of chains (leading axis chain) where it belongs.

        An array is one of galaxies if its second axis is as long as there are galaxies.
        """

        def put(leaf: Any) -> Any:
            is_of_galaxies = leaf.ndim > 1 and leaf.shape[1] == self.n_galaxy
            return _placed(leaf, self._where(1 if is_of_galaxies else None))

        return jax.tree.map(put, tree)

    def fetch(self, tree: Any) -> Any:
        """Whole arrays on this host. Every host must call it."""
        if jax.process_count() == 1:
            return tree
        whole = jax.jit(lambda leaves: leaves, out_shardings=self._where(None))(tree)
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)

    def agreed(self, answer: bool) -> bool:
        """Answer of the first host to a question of which each may think otherwise, such as the time."""
        if jax.process_count() == 1:
            return answer
        from jax.experimental import multihost_utils

        return bool(multihost_utils.broadcast_one_to_all(np.asarray(answer)))

    def _where(self, axis: int | None) -> NamedSharding:
        spec: Any = PartitionSpec  # it has no annotations
        return NamedSharding(self.mesh, spec() if axis is None else spec(*[None] * axis, _AXIS))


def _placed(leaf: Any, where: NamedSharding) -> Any:
    """An array, where it belongs; on several hosts all have the same one."""
    if jax.process_count() == 1:
        return jax.device_put(leaf, where)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf if leaf.sharding == where else jax.jit(lambda x: x, out_shardings=where)(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        numbers = _placed(np.asarray(jax.random.key_data(leaf)), where)
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, where, lambda index: value[index])


def spread_over_devices(n_galaxy: int) -> Spread | None:
    """Devices for so many galaxies, as many as divide their number; None if that is one.

    Raises
    ------
    ValueError
        If there are several hosts, whose number does not divide that of the galaxies.
    """
    n_host = jax.process_count()
    if n_galaxy % n_host:
        raise ValueError(
            f"the number of galaxies must be a multiple of that of hosts, {n_host}, got {n_galaxy}: leave "
            f"{n_galaxy % n_host} out, or take other hosts."
        )
    per_host = math.gcd(n_galaxy // n_host, jax.local_device_count())
    if n_host * per_host == 1:
        return None
    hosts: dict[int, list[Any]] = {}
    for device in jax.devices():
        hosts.setdefault(device.process_index, []).append(device)
    chosen = [device for host in sorted(hosts) for device in hosts[host][:per_host]]
    return Spread(Mesh(np.asarray(chosen), (_AXIS,)), n_galaxy)
