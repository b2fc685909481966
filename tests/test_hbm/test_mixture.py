"""Mixtures of Gaussians against scipy, and fits against the mixture that made the points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from hbm.mixture import Mixture, as_proposal, fit_mixture, moments, standard_mixture

WEIGHT = np.array([0.3, 0.7])
MEAN = np.array([[-3.0, 0.0], [2.0, 1.0]])
COVARIANCE = np.array([[[1.0, 0.6], [0.6, 0.8]], [[0.3, -0.1], [-0.1, 0.5]]])
FIT = jax.jit(fit_mixture, static_argnums=2)
TWO = Mixture(jnp.log(WEIGHT), jnp.asarray(MEAN), jnp.asarray(np.linalg.cholesky(COVARIANCE)))


def scipy_log_prob(x):
    parts = [multivariate_normal(m, c).logpdf(x) for m, c in zip(MEAN, COVARIANCE, strict=True)]
    return logsumexp(np.log(WEIGHT)[:, None] + np.array(parts), axis=0)


def test_density_is_that_of_scipy():
    x = np.random.default_rng(0).normal(scale=4, size=(50, 2)).astype(np.float32)
    np.testing.assert_allclose(TWO.log_prob(jnp.asarray(x)), scipy_log_prob(x), rtol=2e-5, atol=1e-4)


def test_draws_have_the_moments_of_the_mixture():
    x = np.asarray(TWO.sample(jax.random.key(0), 40_000))
    mean = WEIGHT @ MEAN
    offset = MEAN - mean
    covariance = np.einsum("k,kij->ij", WEIGHT, COVARIANCE + offset[:, :, None] * offset[:, None, :])
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.12)


def test_fit_finds_the_mixture():
    x = TWO.sample(jax.random.key(1), 4000)
    fitted = FIT(jax.random.key(2), x, 2)
    order = np.argsort(np.asarray(fitted.mean[:, 0]))
    np.testing.assert_allclose(np.exp(fitted.logweight)[order], WEIGHT, atol=0.03)
    np.testing.assert_allclose(np.asarray(fitted.mean)[order], MEAN, atol=0.1)


def test_more_components_than_clusters_do_not_collapse():
    x = jnp.concatenate([jnp.zeros((200, 3)), jnp.ones((200, 3))]) + 1e-3 * jax.random.normal(
        jax.random.key(0), (400, 3)
    )
    fitted = FIT(jax.random.key(1), x, 6)
    assert np.isfinite(np.asarray(fitted.log_prob(x))).all()
    assert np.sum(np.exp(fitted.logweight)) == pytest.approx(1, abs=1e-5)


def test_proposal_is_broader_and_normalised():
    x = TWO.sample(jax.random.key(3), 2000)
    proposal = as_proposal(TWO, *moments(x, jnp.full(2000, 1 / 2000)))
    assert np.sum(np.exp(proposal.logweight)) == pytest.approx(1, abs=1e-5)
    far = jnp.asarray([[8.0, 8.0]])
    assert float(proposal.log_prob(far)[0]) > float(TWO.log_prob(far)[0]) + 5


def test_standard_mixture_is_a_gaussian():
    x = jnp.asarray([[0.5, -1.0]])
    expected = multivariate_normal([0, 0], np.diag([4.0, 1.0])).logpdf([0.5, -1.0])
    assert float(standard_mixture(jnp.asarray([2.0, 1.0]), 3).log_prob(x)[0]) == pytest.approx(
        expected, rel=1e-5
    )
