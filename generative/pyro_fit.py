"""The joint fit of one galaxy in Pyro, its image through the torch network itself: nothing is compiled.

Thousands of times slower than `hbm.fit`, and its cross-check; and the way for a likelihood that lives in
torch. The photometric posterior, a function in JAX, enters through `torch.autograd.Function`, in the
coordinates that `hbm.coordinates` samples in.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.infer import MCMC, NUTS
from torch import Tensor

ValueAndGradient = Callable[[Float[np.ndarray, " dim"]], tuple[Any, Any]]
"""Value, and gradient by the vector; for a vector of values, the Jacobian (value, dim)."""

TorchLikelihood = Callable[[Tensor], Tensor]
"""Ln p(image | theta), differentiable."""


class _Foreign(torch.autograd.Function):
    """A function from elsewhere that comes with its derivative."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, function: ValueAndGradient) -> Tensor:
        """Evaluate, and keep the derivative."""
        value, slope = function(vector.detach().cpu().numpy())
        ctx.save_for_backward(torch.as_tensor(np.array(slope), dtype=vector.dtype))
        return torch.as_tensor(np.array(value), dtype=vector.dtype)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        """Chain rule."""
        (slope,) = ctx.saved_tensors
        return (grad[0] * slope if slope.ndim == 1 else grad[0] @ slope), None


def joint_model(
    dim: int, log_prob: ValueAndGradient, properties: ValueAndGradient, image: TorchLikelihood
) -> None:
    """Pyro model of a galaxy.

    Parameters
    ----------
    dim
        Coordinates.
    log_prob
        Log density of the coordinates under prior and photometry, with its gradient.
    properties
        What the image depends on, at the coordinates, as ``image`` takes it; with its Jacobian.
    image
        Log-likelihood of the image.
    """
    call: Any = _Foreign.apply
    base = dist.Normal(torch.zeros(dim), torch.ones(dim)).to_event(1)
    vector = pyro.sample("vector", base)
    pyro.factor("photometry", call(vector, log_prob) - base.log_prob(vector))
    pyro.factor("image", image(call(vector, properties)))


def sample_joint(
    dim: int,
    log_prob: ValueAndGradient,
    properties: ValueAndGradient,
    image: TorchLikelihood,
    *,
    n_warmup: int = 200,
    n_draw: int = 300,
    seed: int = 0,
    start: Float[np.ndarray, " dim"] | None = None,
    progress: bool = False,
) -> Float[np.ndarray, "draw dim"]:
    """Draws of the coordinates by Pyro's NUTS; the first arguments are those of `joint_model`.

    Parameters
    ----------
    n_warmup, n_draw
        Steps.
    seed
        Of all randomness; it is Pyro's global one.
    start
        Coordinates to start at; the origin if None.
    progress
        Show a bar.
    """
    pyro.set_rng_seed(seed)
    kernel = NUTS(joint_model, target_accept_prob=0.8, max_tree_depth=6, full_mass=True)
    first = torch.zeros(dim) if start is None else torch.as_tensor(start, dtype=torch.float32)
    mcmc = MCMC(
        kernel, num_samples=n_draw, warmup_steps=n_warmup, initial_params={"vector": first},
        disable_progbar=not progress,
    )  # fmt: skip
    mcmc.run(dim, log_prob, properties, image)
    drawn: np.ndarray = mcmc.get_samples()["vector"].numpy()
    return drawn
