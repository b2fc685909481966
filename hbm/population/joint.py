"""NUTS over all galaxies, the shared calibration and the hyperparameters at once.

Every transition is followed by independence jumps of each galaxy (`Hierarchy.jump`), which take galaxies with
several modes from one to another; NUTS cannot. The mass matrix is dense for what is shared and diagonal for
galaxies, whose coordinates are whitened already; it and the step size adapt during warm-up alone.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array
from numpyro.infer.hmc import hmc
from numpyro.infer.util import ParamInfo

from hbm.population.hierarchy import Arrays, Hierarchy


class JointConfig(NamedTuple):
    """Switches of joint NUTS."""

    n_jump: int = 2
    """Independent proposals to each galaxy after each transition."""
    target_accept: float = 0.8
    """Acceptance probability that the step size aims at."""
    max_tree_depth: int = 7
    """NUTS doubles its path at most this often."""


class JointSampler:
    """Steps of chains of joint NUTS.

    Parameters
    ----------
    hierarchy
        The density.
    config
        Switches.
    n_warmup
        Steps that adapt.
    """

    def __init__(self, hierarchy: Hierarchy, config: JointConfig, n_warmup: int) -> None:
        self.hierarchy, self.config, self.n_warmup = hierarchy, config, n_warmup
        self._init, self._kernel = cast(Any, hmc)(
            potential_fn_gen=lambda arrays: lambda z: self._potential(z, arrays), algo="NUTS"
        )

    def _potential(self, z: dict[str, Array], arrays: Arrays) -> Array:
        return self.hierarchy.potential(z["shared"], z["galaxies"], arrays)

    def init(self, shared: Array, w: Array, key: Array) -> Any:
        """State of one chain; not under jit, because NumPyro's kernel keeps constants from this call."""
        z = {"shared": shared, "galaxies": w}
        # Energy and gradient are placeholders: every step begins by computing them.
        return self._init(
            ParamInfo(z, jnp.zeros(()), jax.tree.map(jnp.zeros_like, z)),
            self.n_warmup,
            step_size=0.1,
            dense_mass=[("shared",)],
            target_accept_prob=self.config.target_accept,
            max_tree_depth=self.config.max_tree_depth,
            model_args=(None,),
            rng_key=key,
        )

    def step(self, state: Any, arrays: Arrays) -> tuple[Any, dict[str, Any]]:
        """One transition of one chain."""
        energy, slope = jax.value_and_grad(self._potential)(state.z, arrays)
        new = self._kernel(state._replace(potential_energy=energy, z_grad=slope), (arrays,), {})
        key, key_jump = jax.random.split(new.rng_key)
        shared = new.z["shared"]
        w, jumped = self.hierarchy.jump(key_jump, new.z["galaxies"], shared, arrays, self.config.n_jump)
        new = new._replace(z={"shared": shared, "galaxies": w}, rng_key=key)
        _, point = self.hierarchy.galaxies(w, self.hierarchy.drawn(shared), arrays)
        kept = {
            "shared": shared,
            "properties": point.properties,
            "diverging": new.diverging,
            "n_steps": new.num_steps,
            "acceptance_rate": new.accept_prob,
            "jump_rate": jnp.mean(jumped),
        }
        return new, kept
