"""Populations over several devices and hosts give what one device gives."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbm.spread import join_hosts, spread_over_devices

FIT = """
import sys, json
sys.path.insert(0, sys.argv[1])
n_device, n_host, host, address, out, methods = json.loads(sys.argv[2])
from hbm.devices import use_cpu_cores
from hbm.spread import is_first_host, join_hosts, spread_over_devices
use_cpu_cores(n_device)
if n_host > 1:
    join_hosts(address, n_host, host)
import jax, jax.numpy as jnp, numpy as np
from pathlib import Path
import test_population_together as together
from hbm.population import fit_population
from hbm.population.hierarchy import Hierarchy
from hbm.population.joint import JointConfig
from hbm.population.relations import Population
from hbm.population.selection import Selection

assert len(jax.devices()) == n_device * n_host
survey, _ = together.line_survey(12, 3, shared=True)
population = Population((together.Line(),))
rng = np.random.default_rng(0)
names = ("logmass", "logzsol")
galaxies = {name: jnp.asarray(rng.normal(size=64), jnp.float32) for name in names}
selection = Selection(galaxies, jnp.zeros(64), jnp.asarray(rng.uniform(-2, 0, 64), jnp.float32))
spread = spread_over_devices(12)
assert (spread is None) == (n_device * n_host == 1)
hierarchy = Hierarchy(survey, population, selection)
shared, w = hierarchy.start(2, 0)
arrays = hierarchy.arrays if spread is None else hierarchy.spread_arrays(spread)
if spread is not None:
    assert len(arrays.mean.sharding.device_set) == n_device * n_host
    assert arrays.mean.addressable_shards[0].data.shape[0] == 12 // (n_device * n_host)
    w = spread.state(w)
both = jax.jit(jax.vmap(jax.value_and_grad(hierarchy.potential, (0, 1)), (0, 0, None)))(shared, w, arrays)
both = both if spread is None else spread.fetch(both)
value, (by_shared, by_galaxy) = (jax.device_get(part) for part in both)
found = {"value": value, "by_shared": by_shared, "by_galaxy": by_galaxy}
for method in methods:
    more = {"checkpoint": Path(out).with_suffix(f".{method}.npz")} if method != "reweight" else {}
    fit = fit_population(
        survey, population, method=method, selection=selection, n_warmup=1, n_draw=9, n_chain=2, **more
    )
    found[method] = fit.idata.posterior["level"].values
if is_first_host():
    np.savez(out, **found)
"""


def run(
    out: Path, *, n_device: int = 1, n_host: int = 1, methods: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Densities and short chains in fresh interpreters: the devices are fixed when JAX starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    here = str(Path(__file__).parent)
    running = []
    for host in range(n_host):
        given = json.dumps([n_device, n_host, host, address, str(out), list(methods)])
        command = [sys.executable, "-c", FIT, here, given]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for one in running:
        _, errors = one.communicate(timeout=600)
        assert one.returncode == 0, errors[-3000:]
    with np.load(out) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def one_device(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return run(tmp_path_factory.mktemp("one") / "found.npz")


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], *methods: str) -> None:
    """To the rounding of a sum in another order, in single precision; of chains the first draws."""
    for name in ("value", "by_shared", "by_galaxy"):
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=2e-5)
    for method in methods:
        np.testing.assert_allclose(found[method][:, 0], expected[method][:, 0], atol=1e-3)


def test_several_devices_give_what_one_gives(one_device: Any, tmp_path: Path) -> None:
    same(run(tmp_path / "found.npz", n_device=4), one_device)


def test_several_hosts_give_what_one_gives(one_device: Any, tmp_path: Path) -> None:
    same(run(tmp_path / "found.npz", n_device=2, n_host=2), one_device)


@pytest.mark.slow
@pytest.mark.parametrize(("n_device", "n_host"), [(4, 1), (2, 2)])
def test_chains(n_device: int, n_host: int, tmp_path: Path) -> None:
    methods = ("reweight", "gibbs", "joint")
    expected = run(tmp_path / "one.npz", methods=methods)
    found = run(tmp_path / "found.npz", n_device=n_device, n_host=n_host, methods=methods)
    same(found, expected, *methods)
    for method in methods[1:]:  # written by the first host
        assert (tmp_path / f"found.{method}.npz").is_file()


def test_one_device_needs_no_spreading() -> None:
    assert spread_over_devices(7) is None


def test_galaxies_are_divided_evenly_over_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.process_count", lambda: 4)
    with pytest.raises(ValueError, match=r"must be a multiple of that of hosts, 4, got 10: leave 2 out"):
        spread_over_devices(10)


def test_hosts_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="must be given together"):
        join_hosts("here:1234", None, 0)
    with pytest.raises(ValueError, match="`host` must be from 0 to 1"):
        join_hosts("here:1234", 2, 2)
