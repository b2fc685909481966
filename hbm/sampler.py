"""NUTS for many galaxies side by side, in one vectorised program.

Each galaxy has its own chains, step size and mass matrix; `jax.vmap` runs all of them in step. Chains
start from the best of many prior draws after a short optimisation, apart from each other.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro.infer.hmc import hmc
from numpyro.infer.util import initialize_model

from hbm.config import ModelConfig
from hbm.model import GalaxyData, photometric_model

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


class SamplerConfig(NamedTuple):
    """Lengths and switches of the sampler."""

    n_warmup: int = 400
    """Steps that adapt step size and mass matrix."""
    n_draw: int = 500
    """Draws kept per chain."""
    n_chain: int = 4
    """Chains per galaxy."""
    target_accept: float = 0.85
    """Acceptance probability that the step size aims at."""
    max_tree_depth: int = 8
    """NUTS doubles its path at most this often."""
    n_start: int = 128
    """Prior draws from which starting points are chosen."""
    n_optimise: int = 150
    """Steps of the optimiser from each starting point."""


class Draws(NamedTuple):
    """Raw output of the sampler."""

    sites: dict[str, np.ndarray]
    """Values of all sites, axes (galaxy, chain, draw, ...)."""
    potential: np.ndarray
    """Minus the log posterior density in unconstrained space, up to a constant; (galaxy, chain, draw)."""
    diverging: np.ndarray
    """True where the integrator diverged; (galaxy, chain, draw)."""
    accept: np.ndarray
    """Acceptance probability; (galaxy, chain, draw)."""
    n_step: np.ndarray
    """Leapfrog steps; (galaxy, chain, draw)."""


class Posterior(NamedTuple):
    """The posterior of one galaxy as functions of a flat unconstrained vector; everything may be vmapped."""

    potential: Callable[[Float[Array, " dim"], GalaxyData], Float[Array, ""]]
    """Minus log density, with the Jacobian of the transform."""
    constrain: Callable[[Float[Array, " dim"], GalaxyData], dict[str, Array]]
    """Values of all sites, deterministic ones too."""
    unconstrain: Callable[[dict[str, Array], GalaxyData], Float[Array, " dim"]]
    """Inverse of `constrain` for the sampled sites."""
    sampled: tuple[str, ...]
    """Names of the sampled sites."""


def build_posterior(config: ModelConfig, example: GalaxyData, model: Callable[..., None] = photometric_model) -> Posterior:
    """Posterior functions of a NumPyro model ``model(data, config)`` for one galaxy."""
    from numpyro.infer.util import unconstrain_fn

    info = initialize_model(jax.random.key(0), model, model_args=(example, config), dynamic_args=True)
    flat, unravel = ravel_pytree(info.param_info.z)
    del flat

    def potential(vector: Float[Array, " dim"], data: GalaxyData) -> Float[Array, ""]:
        value = info.potential_fn(data, config)(unravel(vector))
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    def constrain(vector: Float[Array, " dim"], data: GalaxyData) -> dict[str, Array]:
        sites: dict[str, Array] = info.postprocess_fn(data, config)(unravel(vector))
        return sites

    names = tuple(info.param_info.z)

    def unconstrain(sites: dict[str, Array], data: GalaxyData) -> Float[Array, " dim"]:
        chosen = {name: sites[name] for name in names}
        return ravel_pytree(unconstrain_fn(model, (data, config), {}, chosen))[0]

    return Posterior(potential, constrain, unconstrain, names)


def starting_points(
    posterior: Posterior,
    config: ModelConfig,
    data: GalaxyData,
    key: Array,
    sampler: SamplerConfig,
    model: Callable[..., None] = photometric_model,
) -> tuple[Float[Array, "chain dim"], Float[Array, "chain dim"]]:
    """Starting points of one galaxy's chains, and a rough standard deviation per direction.

    The best of ``n_start`` prior draws, one from each of ``n_chain`` equal groups so that chains begin
    apart, each improved by ``n_optimise`` steps of Adam.
    """
    from numpyro import handlers

    def prior_draw(draw_key: Array) -> Float[Array, " dim"]:
        trace = handlers.trace(handlers.seed(model, draw_key)).get_trace(data, config, use_data=False)
        sites = {name: site["value"] for name, site in trace.items() if name in posterior.sampled}
        return posterior.unconstrain(sites, data)

    vectors = jax.vmap(prior_draw)(jax.random.split(key, sampler.n_start))
    energy = jax.vmap(lambda vector: posterior.potential(vector, data))(vectors)
    groups = energy.reshape(sampler.n_chain, -1)
    pick = jnp.argmin(groups, axis=1) + jnp.arange(sampler.n_chain) * groups.shape[1]
    start = vectors[pick]
    optimiser = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(0.1, sampler.n_optimise)))
    gradient = jax.value_and_grad(lambda vector: posterior.potential(vector, data))

    def improve(vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
        def step(carry: tuple[Any, Any, Any, Any], _: None) -> tuple[tuple[Any, Any, Any, Any], None]:
            current, state, best, best_value = carry
            value, slope = gradient(current)
            better = value < best_value
            best = jnp.where(better, current, best)
            best_value = jnp.where(better, value, best_value)
            slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
            change, state = optimiser.update(slope, state)
            return (current + change, state, best, best_value), None

        first = (vector, optimiser.init(vector), vector, jnp.inf * jnp.ones((), vector.dtype))
        (_, _, best, _), _ = jax.lax.scan(step, first, None, length=sampler.n_optimise)
        return best

    return jax.vmap(improve)(start), vectors
