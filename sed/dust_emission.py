"""Light re-emitted by dust, with energy balance, from the templates of Draine & Li (2007).

Dust heated by a range of radiation fields is the mix of two templates, (1 - gamma) at the field
``umin`` and gamma in a power law above it (their equation 33). The mix is scaled to the energy that
the dust absorbs, and the diffuse dust dims it in turn. FSPS heats the dust again by what is absorbed then,
until that is less than 0.01 Lsun; we stop after one pass, which loses up to 0.2 % of the dust emission at
dust2 = 4 and 0.02 % at 0.3.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sed.nebular import bracket, interpolate_pair
from sed.parameters import SEDParams


def mixed_template(
    qpah_nodes: Float[ArrayLike, " qpah"],
    umin_nodes: Float[ArrayLike, " umin"],
    table: Float[ArrayLike, "qpah umin 2 out"],
    params: SEDParams,
) -> Float[Array, " out"]:
    """Template of the dust emission for one galaxy, up to a factor.

    Parameters
    ----------
    qpah_nodes, umin_nodes
        Nodes of the table: PAH mass in percent, radiation field.
    table
        Templates, or any linear functional of them such as band fluxes.
    params
        ``duste_qpah``, ``duste_umin`` (clipped to the nodes) and ``duste_gamma`` are used.
    """
    pair = interpolate_pair(
        table, bracket(qpah_nodes, params.duste_qpah), bracket(umin_nodes, params.duste_umin)
    )
    gamma = jnp.clip(jnp.asarray(params.duste_gamma), 0.0, 1.0)
    return (1 - gamma) * pair[0] + gamma * pair[1]
