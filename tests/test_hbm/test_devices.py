"""Galaxies over several devices, in fresh interpreters: the number of devices is fixed when JAX starts."""

import subprocess
import sys

import pytest

SMALL = """
from hbm.devices import over_devices, use_cpu_cores
use_cpu_cores({n})
import jax, jax.numpy as jnp, numpy as np
assert len(jax.devices()) == {n}

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **more: compiled.append(more.get("fun_name")) if "backend_compile" in event else None
)

def run(x, y, shared):
    # A loop as long as the slowest galaxy of a device.
    def body(carry):
        i, z = carry
        return i + 1, jnp.where(z < 1, z * shared, z)
    _, z = jax.lax.while_loop(lambda c: jnp.any(c[1] < 1), body, (0, x))
    return z, y * 2

call = over_devices(run, lambda x, y, shared: (0, 1, None), (0, 1))
x, y = jnp.array([0.1, 0.4, 0.9, 0.001]), jnp.arange(12.0).reshape(3, 4)
z, twice = call(x, y, 1.5)
expected = run(x, y, 1.5)
np.testing.assert_array_equal(z, expected[0])
np.testing.assert_array_equal(twice, expected[1])
assert len(z.sharding.device_set) == {used}
n_before = len(compiled)
assert n_before > 0
again = call(z, np.asarray(y), 1.5)  # from the devices and from elsewhere: not compiled again
np.testing.assert_array_equal(again[1], twice)
assert len(compiled) == n_before, compiled[n_before:]
three = call(x[:3], y[:, :3], 1.5)[0]  # does not divide: fewer devices
np.testing.assert_array_equal(three, expected[0][:3])
print("same")
"""

SAMPLER = """
from hbm.devices import use_cpu_cores
use_cpu_cores(2)
import jax, jax.numpy as jnp, numpy as np, hbm
from hbm.galaxies import DataBuilder, stack_galaxies
from hbm.sampler import NutsSampler, SamplerConfig
from hbm.catalog import Catalog
from sed.io import load_grid
filters = ("sdss_g0", "sdss_r0", "sdss_i0")
flux = np.array([[1e-8, 2e-8, 3e-8], [3e-8, 4e-8, 4e-8]])
catalog = Catalog(
    id=("a", "b"), zred=np.array([0.1, 0.2]), zred_err=np.zeros(2), flux=flux, flux_err=0.05 * flux,
    observed=np.ones((2, 3), bool), upper_limit=np.zeros((2, 3), bool), filter_names=filters,
)
config = hbm.ModelConfig(n_node=4, n_old=3, dust_emission=False)
build = DataBuilder(load_grid(), config, filters)
data = jax.device_put(stack_galaxies([build(catalog, 0), build(catalog, 1)]))
sampler = NutsSampler(config, SamplerConfig(n_point=200, n_chain=2), build(catalog, 0))
keys = jax.random.split(jax.random.key(1), 2)
proposal = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (2, *leaf.shape)), sampler._pilot.reference)
x, potential = sampler._propose(proposal, data, keys)
assert len(x.sharding.device_set) == 2
plain_x, plain = jax.jit(sampler._propose_points)(proposal, data, keys)
np.testing.assert_allclose(x, plain_x, rtol=1e-6)
np.testing.assert_allclose(potential, plain, rtol=1e-4, atol=1e-2)
print("same")
"""


def in_new_interpreter(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.parametrize(("n", "used"), [(2, 2), (4, 4)])
def test_several_devices_give_what_one_gives(n: int, used: int) -> None:
    assert in_new_interpreter(SMALL.format(n=n, used=used)) == "same"


@pytest.mark.slow
def test_potentials_of_a_sampler_on_two_devices_are_those_of_one() -> None:
    """To rounding; draws of long chains differ, as chains amplify rounding."""
    assert in_new_interpreter(SAMPLER) == "same"
