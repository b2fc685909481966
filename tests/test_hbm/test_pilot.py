"""The pilot and the jumps on densities that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from hbm.mixture import Mixture, standard_mixture
from hbm.pilot import SETTLED, PilotConfig, PilotSampler
from hbm.sampler import jumped

WEIGHT = np.array([0.2, 0.8])
MEAN = np.array([[-2.5, 0.0, 0.0], [2.0, 1.0, 0.0]])
FACTOR = np.array([np.diag([0.2, 0.3, 1.0]), np.diag([0.4, 0.1, 1.0])])
TARGET = Mixture(jnp.log(WEIGHT), jnp.asarray(MEAN), jnp.asarray(FACTOR), jnp.asarray(np.linalg.inv(FACTOR)))
CONFIG = PilotConfig(n_point=500, n_round=12, n_component=3)


@pytest.fixture(scope="module")
def pilot():
    sampler = PilotSampler(np.ones(3), CONFIG)

    @jax.jit
    def turn(state, i, proposal, key):
        key_points, key_fit = jax.random.split(key)
        x = proposal.sample(key_points, CONFIG.n_point)
        return sampler.update(state, i, proposal, x, -TARGET.log_prob(x), key_fit)

    state, proposal = sampler.empty(), sampler.reference
    for i in range(CONFIG.n_round):
        state, proposal = turn(state, jnp.asarray(i), proposal, jax.random.fold_in(jax.random.key(0), i))
    return sampler, state, jax.jit(sampler.finish, static_argnums=2)(state, jax.random.key(1), 400)


def test_pilot_reaches_the_target(pilot):
    assert float(pilot[2].beta) == 1
    assert float(pilot[2].ess) > 500


def test_modes_get_starting_points_in_proportion(pilot):
    share = np.mean(np.asarray(pilot[2].start)[:, 0] < 0)
    assert share == pytest.approx(WEIGHT[0], abs=0.06)


def test_covariance_is_that_of_the_target(pilot):
    mean = WEIGHT @ MEAN
    within = np.einsum("kij,klj->kil", FACTOR, FACTOR)
    between = (MEAN - mean)[:, :, None] * (MEAN - mean)[:, None, :]
    expected = np.einsum("k,kij->ij", WEIGHT, within + between)
    np.testing.assert_allclose(pilot[2].covariance, expected, atol=0.25)


def test_a_settled_pilot_stays_as_it_is(pilot):
    """So that a galaxy's draws do not depend on how long others beside it take."""
    sampler, state, _ = pilot
    assert bool(state.is_settled)
    assert int(state.n_full) == SETTLED
    x = sampler.reference.sample(jax.random.key(9), CONFIG.n_point)
    again, proposal = jax.jit(sampler.update)(
        state, jnp.asarray(CONFIG.n_round), sampler.reference, x, -TARGET.log_prob(x), jax.random.key(9)
    )
    jax.tree.map(np.testing.assert_array_equal, (again, proposal), (state, sampler.reference))


def test_a_pilot_on_its_way_is_not_settled():
    sampler = PilotSampler(np.ones(3), CONFIG)
    x = sampler.reference.sample(jax.random.key(9), CONFIG.n_point)
    narrow = -0.5 * jnp.sum(((x - 2.0) / 0.01) ** 2, axis=1)
    state, _ = jax.jit(sampler.update)(
        sampler.empty(), jnp.asarray(0), sampler.reference, x, -narrow, jax.random.key(9)
    )
    assert float(state.beta) < 1
    assert int(state.n_full) == 0
    assert not bool(state.is_settled)


def test_refit_covers_what_chains_have_seen(pilot):
    sampler, state, first = pilot
    tail = jnp.asarray([[6.0, 6.0, 6.0]]) + 0.1 * jax.random.normal(jax.random.key(2), (100, 3))
    second = jax.jit(sampler.refit)(state, tail, jax.random.key(3))
    assert float(second.log_prob(tail[:1])[0]) > float(first.proposal.log_prob(tail[:1])[0]) + 5


def test_zero_density_is_never_sampled():
    sampler = PilotSampler(np.ones(2), CONFIG)
    state, proposal = sampler.empty(), sampler.reference
    update = jax.jit(sampler.update)
    for i in range(3):
        key = jax.random.fold_in(jax.random.key(5), i)
        x = proposal.sample(key, CONFIG.n_point)
        potential = jnp.where(x[:, 0] > 0, 0.5 * jnp.sum(x**2, axis=1), jnp.inf)
        state, proposal = update(state, jnp.asarray(i), proposal, x, potential, key)
    start = np.asarray(jax.jit(sampler.finish, static_argnums=2)(state, jax.random.key(6), 200).start)
    assert (start[:, 0] > 0).all()


def test_jumps_leave_the_target_as_it_is():
    """Chains that start in the target stay in it, whatever the proposal: here a poor one."""
    proposal = standard_mixture(jnp.asarray([3.0, 2.0, 1.5]), 1)
    n_chain, n_jump = 4000, 60
    z = TARGET.sample(jax.random.key(0), n_chain)

    def one(z, key):
        key_x, key_jump = jax.random.split(key)
        x = proposal.sample(key_x, n_jump)
        return jumped(proposal, z, -TARGET.log_prob(z[None])[0], x, -TARGET.log_prob(x), key_jump)

    moved, energy, n_accept = jax.jit(jax.vmap(one))(z, jax.random.split(jax.random.key(1), n_chain))
    np.testing.assert_allclose(energy, -TARGET.log_prob(moved), rtol=1e-4, atol=1e-3)
    assert np.mean(n_accept) > 0.1
    assert np.mean(np.asarray(moved[:, 0]) < 0) == pytest.approx(WEIGHT[0], abs=0.03)
    assert scipy.stats.ks_2samp(np.asarray(z[:, 1]), np.asarray(moved[:, 1])).pvalue > 1e-3


def test_jumps_reach_the_target_from_elsewhere():
    proposal = standard_mixture(jnp.asarray([3.0, 1.0, 1.0]), 1)
    z = jnp.broadcast_to(jnp.asarray(MEAN[0], jnp.float32), (1000, 3))

    def one(z, key):
        key_x, key_jump = jax.random.split(key)
        x = proposal.sample(key_x, 400)
        return jumped(proposal, z, -TARGET.log_prob(z[None])[0], x, -TARGET.log_prob(x), key_jump)[0]

    moved = jax.jit(jax.vmap(one))(z, jax.random.split(jax.random.key(2), 1000))
    assert np.mean(np.asarray(moved[:, 0]) < 0) == pytest.approx(WEIGHT[0], abs=0.05)


def test_no_jumps():
    z = jnp.zeros(3)
    same, energy, n_accept = jumped(
        TARGET, z, jnp.asarray(2.0), jnp.zeros((0, 3)), jnp.zeros(0), jax.random.key(0)
    )
    np.testing.assert_array_equal(same, z)
    assert (float(energy), int(n_accept)) == (2.0, 0)
