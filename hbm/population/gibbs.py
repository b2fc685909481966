"""Gibbs: what is shared given the galaxies, then each galaxy given what is shared.

A sweep is

1. a few NUTS steps of hyperparameters and calibration at fixed galaxies. Their fluxes are known there, so
   that this costs no evaluation of the SED model;
2. independence jumps of each galaxy from the mixture that approximates its own posterior (`Hierarchy.jump`);
3. a few steps of Hamiltonian Monte Carlo of each galaxy, each with its own step size and accepted for itself.

Given what is shared, galaxies are independent: a galaxy that rejects does not hold up the others, whatever
their number. Each part leaves the joint density as it is. Step sizes and the mass matrix of part 1 adapt
during warm-up and are fixed then.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from hbm.population.hierarchy import Arrays, Hierarchy
from hbm.population.survey import GalaxyPoint


class GibbsConfig(NamedTuple):
    """Switches of the Gibbs sampler."""

    n_hyper: int = 3
    """NUTS steps of what is shared, per sweep."""
    n_jump: int = 2
    """Independent proposals to each galaxy, per sweep."""
    n_local: int = 2
    """Hamiltonian steps of each galaxy, per sweep."""
    n_leapfrog: int = 6
    """Leapfrog steps of each of these."""
    target_accept: float = 0.8
    """Acceptance probability that step sizes aim at."""
    max_tree_depth: int = 6
    """NUTS of what is shared doubles its path at most this often."""


class GibbsState(NamedTuple):
    """One chain."""

    shared: Any
    """State of NumPyro's kernel of what is shared."""
    w: Float[Array, "galaxy dim"]
    log_step: Float[Array, " galaxy"]
    """Log step size of each galaxy's Hamiltonian steps."""
    mean_log_step: Float[Array, " galaxy"]
    """Its mean over the second half of the warm-up, which holds afterwards."""
    i: Array
    """Sweeps done."""
    key: Array


class GibbsSampler:
    """Sweeps of Gibbs chains; parameters as `hbm.population.joint.JointSampler`."""

    def __init__(self, hierarchy: Hierarchy, config: GibbsConfig, n_warmup: int) -> None:
        self.hierarchy, self.config, self.n_warmup = hierarchy, config, n_warmup
        self._init, self._kernel = cast(Any, hmc)(
            potential_fn_gen=lambda point, arrays, before: (
                lambda shared: hierarchy.potential_given(shared, point, arrays, before)
            ),
            algo="NUTS",
        )

    def init(self, shared: Array, w: Array, key: Array) -> GibbsState:
        """State of one chain; not under jit, because NumPyro's kernel keeps constants from this call."""
        key_shared, key = jax.random.split(key)
        kernel = self._init(
            ParamInfo(shared, jnp.zeros(()), jnp.zeros_like(shared)),
            self.n_warmup * self.config.n_hyper,
            step_size=0.1,
            dense_mass=True,
            target_accept_prob=self.config.target_accept,
            max_tree_depth=self.config.max_tree_depth,
            model_args=(None, None, None),
            rng_key=key_shared,
        )
        log_step = jnp.full(w.shape[0], -1.0)
        return GibbsState(kernel, w, log_step, jnp.zeros_like(log_step), jnp.zeros((), int), key)

    def step(self, state: GibbsState, arrays: Arrays) -> tuple[GibbsState, dict[str, Any]]:
        """One sweep of one chain."""
        key, key_jump, key_local = jax.random.split(state.key, 3)
        hierarchy = self.hierarchy
        _, point = hierarchy.galaxies(state.w, hierarchy.drawn(state.shared.z), arrays)
        kernel, diverging, n_steps = self._update_shared(state.shared, point, arrays)
        shared = kernel.z
        w, jumped = hierarchy.jump(key_jump, state.w, shared, arrays, self.config.n_jump)
        is_warmup = state.i < self.n_warmup
        log_step = jnp.where(is_warmup, state.log_step, state.mean_log_step)
        w, accept = self._update_galaxies(key_local, w, shared, log_step, arrays)
        moved = self._adapted(state, accept)
        new = GibbsState(kernel, w, *moved, state.i + 1, key)
        _, after = hierarchy.galaxies(w, hierarchy.drawn(shared), arrays)
        kept = {
            "shared": shared,
            "properties": after.properties,
            "diverging": diverging,
            "n_steps": n_steps,
            "acceptance_rate": jnp.mean(accept),
            "jump_rate": jnp.mean(jumped),
        }
        return new, kept

    def _update_shared(self, kernel: Any, point: GalaxyPoint, arrays: Arrays) -> tuple[Any, Array, Array]:
        """NUTS of what is shared; also whether one diverged, and the leapfrog steps."""
        hierarchy = self.hierarchy
        before = hierarchy.calibrated(point, hierarchy.drawn(kernel.z).calibration, arrays)
        energy, slope = jax.value_and_grad(hierarchy.potential_given)(kernel.z, point, arrays, before)
        kernel = kernel._replace(potential_energy=energy, z_grad=slope)

        def one(state: Any, _: None) -> tuple[Any, tuple[Array, Array]]:
            new = self._kernel(state, (point, arrays, before), {})
            return new, (new.diverging, new.num_steps)

        kernel, (diverging, n_steps) = jax.lax.scan(one, kernel, None, length=self.config.n_hyper)
        return kernel, jnp.any(diverging), jnp.sum(n_steps)

    def _update_galaxies(
        self, key: Array, w: Array, shared: Array, log_step: Array, arrays: Arrays
    ) -> tuple[Float[Array, "galaxy dim"], Float[Array, " galaxy"]]:
        """Hamiltonian steps of each galaxy; also their mean acceptance probability."""
        drawn = self.hierarchy.drawn(shared)

        def total(w: Array) -> tuple[Array, Array]:
            each, _ = self.hierarchy.galaxies(w, drawn, arrays)
            return jnp.sum(each), each

        # Galaxies are independent here: the gradient of the sum has that of each.
        value_and_grad = jax.value_and_grad(total, has_aux=True)

        def energy_and_slope(w: Array) -> tuple[Array, Array]:
            (_, each), slope = value_and_grad(w)
            return each, slope

        def leapfrog(carry: Any, _: None) -> tuple[Any, None]:
            w, momentum, _, slope, size = carry
            momentum = momentum - 0.5 * size * slope
            w = w + size * momentum
            energy, slope = energy_and_slope(w)
            return (w, momentum - 0.5 * size * slope, energy, slope, size), None

        def one(carry: tuple[Array, Array, Array], key: Array) -> tuple[tuple[Array, Array, Array], Array]:
            w, energy, slope = carry
            keys = jax.random.split(key, 3)
            momentum = jax.random.normal(keys[0], w.shape)
            # Of random length: a fixed one could be a whole period of a direction, which would not move then.
            jitter = jax.random.uniform(keys[1], log_step.shape, minval=0.5, maxval=1.0)
            size = (jnp.exp(log_step) * jitter)[:, None]
            start = (w, momentum, energy, slope, size)
            (new, turned, energy_new, slope_new, _), _ = jax.lax.scan(
                leapfrog, start, None, length=self.config.n_leapfrog
            )
            change = energy_new - energy + 0.5 * jnp.sum(turned**2 - momentum**2, axis=1)
            chance = jnp.where(jnp.isfinite(change), jnp.exp(-jnp.maximum(change, 0.0)), 0.0)
            accept = jax.random.uniform(keys[2], chance.shape) < chance
            moved = (
                jnp.where(accept[:, None], new, w),
                jnp.where(accept, energy_new, energy),
                jnp.where(accept[:, None], slope_new, slope),
            )
            return moved, chance

        if self.config.n_local == 0:
            return w, jnp.ones(w.shape[0])
        keys = jax.random.split(key, self.config.n_local)
        (w, _, _), chance = jax.lax.scan(one, (w, *energy_and_slope(w)), keys)
        return w, jnp.mean(chance, axis=0)

    def _adapted(self, state: GibbsState, accept: Array) -> tuple[Array, Array]:
        """Log step sizes after a sweep of the warm-up (Robbins & Monro 1951), and their running mean."""
        half = self.n_warmup // 2
        rate = (state.i + 1.0) ** -0.6
        log_step = jnp.clip(state.log_step + rate * (accept - self.config.target_accept), -8.0, 1.0)
        n_mean = jnp.maximum(state.i - half + 1, 1)
        mean = jnp.where(
            state.i <= half, log_step, state.mean_log_step + (log_step - state.mean_log_step) / n_mean
        )
        is_warmup = state.i < self.n_warmup
        return (
            jnp.where(is_warmup, log_step, state.log_step),
            jnp.where(is_warmup, mean, state.mean_log_step),
        )
