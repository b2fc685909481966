"""Pyro over the torch network itself against NumPyro over the compiled likelihood."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from numpyro.infer import MCMC, NUTS

from generative.likelihood import DirectImage, direct_log_likelihood
from generative.network import Separable
from generative.noise import likelihood_nodes
from generative.pyro_fit import sample_joint
from generative.statistics import image_statistics

DIM = 4


def test_the_direct_likelihood_of_one_image(tiny: Separable, random_inputs: Callable[..., Any]) -> None:
    clean, theta, u, observed = random_inputs(1, 7)
    nodes, width = likelihood_nodes((0.15, 10.0), 4)
    weight = torch.full((4,), width)
    image = DirectImage(tiny, clean, u, observed, nodes, weight, n_draw=4, seed=3)
    exact = direct_log_likelihood(tiny, clean, theta[:, None], u, observed, nodes, weight, n_draw=4, seed=3)
    point = theta[0].clone().requires_grad_(True)
    value = image(point)
    torch.testing.assert_close(value.detach(), exact.value[0, 0], rtol=1e-5, atol=0)
    value.backward()
    assert point.grad is not None
    assert point.grad.abs().max() > 0
    with pytest.raises(ValueError, match="`clean` must be one image, got 2"):
        DirectImage(tiny, *random_inputs(2, 7)[::2], observed.expand(2, -1, -1, -1), nodes, weight)


@pytest.mark.slow
def test_pyro_over_the_network_is_numpyro_over_the_compiled(
    tiny: Separable, random_inputs: Callable[..., Any]
) -> None:
    """A prior with correlations, properties that bend, and an image that says a lot."""
    clean, _, u, observed = random_inputs(1, 5)
    nodes, width = likelihood_nodes((0.15, 10.0), 2)
    weight = torch.full((2,), width)
    G, b, _ = (item[0].numpy() for item in image_statistics(tiny, clean, u, observed, nodes, n_draw=2))
    coefficients = tiny.coefficients
    mixing = coefficients.mixed(nodes).detach().numpy()
    M = np.einsum("k,kif,kij,kjh->fh", weight, mixing, G, mixing)
    v = np.einsum("k,kif,ki->f", weight, mixing, b)
    layers = [
        (layer.weight.detach().numpy(), layer.bias.detach().numpy())
        for layer in coefficients.layers
        if isinstance(layer, torch.nn.Linear)
    ]
    chol = np.tril(np.random.default_rng(2).normal(size=(DIM, DIM)), -1) + 2 * np.eye(DIM)
    into = np.random.default_rng(3).normal(size=(6, DIM)) * 0.4

    def prior(x: Any) -> Any:
        return -0.5 * jnp.sum((jnp.asarray(chol, jnp.float32).T @ (x - 0.3)) ** 2)

    def properties(x: Any) -> Any:
        return jnp.tanh(jnp.asarray(into, jnp.float32) @ x)

    def compiled(x: Any) -> Any:
        scaled = properties(x)
        h = jnp.concatenate([scaled, jnp.ones(6), jnp.asarray(u[0].numpy()), jnp.ones(1)])
        for i, (matrix, bias) in enumerate(layers):
            h = matrix @ (jax.nn.silu(h) if i else h) + bias
        return SHARPER * (h @ (2 * v - M @ h))

    mcmc: Any = MCMC(
        NUTS(potential_fn=lambda x: -prior(x) - compiled(x)), num_warmup=400, num_samples=4000,
        progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(0), init_params=jnp.zeros(DIM))
    expected = np.asarray(mcmc.get_samples())
    image = DirectImage(tiny, clean, u, observed, nodes, SHARPER * weight, n_draw=2)
    found = sample_joint(
        DIM, jax.jit(jax.value_and_grad(prior)),
        jax.jit(lambda x: (properties(x), jax.jacobian(properties)(x))), image, n_warmup=100, n_draw=200,
    )  # fmt: skip
    # The image matters: without it the posterior is elsewhere.
    alone = np.linalg.inv(chol @ chol.T)
    assert np.abs((expected.mean(0) - 0.3) / np.sqrt(np.diag(alone))).max() > 0.5
    error = expected.std(0) / np.sqrt(60)
    assert (np.abs(found.mean(0) - expected.mean(0)) < 4 * error).all()
    assert (np.abs(found.std(0) / expected.std(0) - 1) < 0.3).all()


SHARPER = 12.0
"""The image's likelihood is taken so often, that it matters."""
