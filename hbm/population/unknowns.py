"""Hyperparameters, and whatever else galaxies share, as one vector of about unit scale."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions import biject_to

_N_PRIOR = 500


class Unknowns:
    """Vector of all sites of some `numpyro.sample` statements, and back.

    Sites are put on the real line by NumPyro's transforms, shifted and scaled by the spread of their priors.

    Parameters
    ----------
    statements
        Samples the sites; what it returns is what they mean.
    seed
        Of the draws that measure the spread.
    """

    def __init__(self, statements: Callable[[], Any], seed: int = 0) -> None:
        self._statements = statements

        def traced(key: Array) -> dict[str, Any]:
            found: dict[str, Any] = handlers.trace(handlers.seed(statements, key)).get_trace()
            return {n: s for n, s in found.items() if s["type"] == "sample" and not s["is_observed"]}

        example = traced(jax.random.key(seed))
        self._transforms = {name: biject_to(site["fn"].support) for name, site in example.items()}

        @jax.jit
        def unconstrained(keys: Array) -> dict[str, Array]:
            def one(key: Array) -> dict[str, Array]:
                return {n: self._transforms[n].inv(site["value"]) for n, site in traced(key).items()}

            drawn: dict[str, Array] = jax.vmap(one)(keys)
            return drawn

        some = unconstrained(jax.random.split(jax.random.key(seed), _N_PRIOR))
        middle = jax.tree.map(lambda x: jnp.median(x, axis=0), some)
        self.centre, self._unravel = ravel_pytree(middle)
        low, high = (jax.tree.map(lambda x, q=q: jnp.quantile(x, q, axis=0), some) for q in (0.16, 0.84))
        self.scale = 0.5 * (ravel_pytree(high)[0] - ravel_pytree(low)[0]) + 1e-6
        self.n = int(self.centre.shape[0])

    def drawn(self, vector: Float[Array, " shared"]) -> tuple[Any, dict[str, Array], Float[Array, ""]]:
        """What a vector means.

        Returns
        -------
        what the statements return, values of all sites, log prior of the vector up to a constant
        """
        free = self._unravel(self.centre + self.scale * vector)
        values = {name: self._transforms[name](value) for name, value in free.items()}
        with handlers.block(), handlers.trace() as trace, handlers.substitute(data=values):
            returned = self._statements()
        total = jnp.zeros(())
        for site in trace.values():
            if site["type"] == "sample":
                total = total + jnp.sum(site["fn"].log_prob(site["value"]))
        for name, value in values.items():
            total = total + jnp.sum(self._transforms[name].log_abs_det_jacobian(free[name], value))
        return returned, values, total

    def vector_of(self, values: dict[str, Any]) -> Float[Array, " shared"]:
        """Vector of given values of all sites, the inverse of `drawn`."""
        free = {n: transform.inv(jnp.asarray(values[n])) for n, transform in self._transforms.items()}
        return (ravel_pytree(free)[0] - self.centre) / self.scale
