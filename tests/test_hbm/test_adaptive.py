"""Adaptive importance sampling against densities whose integrals are known."""

import math

import numpy as np
import pytest
import scipy.stats

from hbm.adaptive import (
    StudentMixture,
    WeightedDraws,
    adapt_by_regions,
    blend,
    importance_sample,
    tempered,
)

DIM = 6


def mixture() -> StudentMixture:
    rng = np.random.default_rng(1)
    factors = rng.normal(size=(2, DIM, DIM)) / 3 + np.eye(DIM)
    return StudentMixture(
        np.array([0.3, 0.7]), rng.normal(size=(2, DIM)), factors @ factors.transpose(0, 2, 1)
    )


def test_density_is_scipys():
    one = mixture()
    x = np.random.default_rng(2).normal(size=(50, DIM)) * 3
    expected = sum(
        weight * scipy.stats.multivariate_t(mean, scale, df=8).pdf(x)
        for weight, mean, scale in zip(*one, strict=True)
    )
    np.testing.assert_allclose(one.log_prob(x), np.log(expected), rtol=1e-10)
    both = blend(one, StudentMixture(np.ones(1), one.mean[:1], one.scale[:1]), 0.25)
    first = scipy.stats.multivariate_t(one.mean[0], one.scale[0], df=8).pdf(x)
    np.testing.assert_allclose(np.exp(both.log_prob(x)), 0.75 * expected + 0.25 * first, rtol=1e-10)


def test_draws_have_the_moments():
    one = mixture()
    x = one.sample(np.random.default_rng(3), 200_000)
    mean = one.weight @ one.mean
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=0.03)
    offset = one.mean - mean
    spread = np.einsum("k,kij->ij", one.weight, one.scale * 8 / 6)
    spread += np.einsum("k,ki,kj->ij", one.weight, offset, offset)
    np.testing.assert_allclose(np.cov(x.T), spread, atol=0.05 * np.abs(spread).max())


def modes(weight: float, apart: float) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Two curved or stretched Gaussians of different volume, far apart in the first dimension."""
    rng = np.random.default_rng(4)
    factor = rng.normal(size=(DIM, DIM)) / 2 + np.eye(DIM)
    covariances = [0.05 * factor @ factor.T, np.diag(np.geomspace(0.01, 1.0, DIM))]
    return np.array([1 - weight, weight]), [np.zeros(DIM), np.eye(DIM)[0] * apart], covariances


@pytest.mark.parametrize(("weight", "apart"), [(0.3, 8.0), (0.02, 20.0)])
def test_two_modes_get_their_weights(weight: float, apart: float):
    weights, means, covariances = modes(weight, apart)
    parts = [scipy.stats.multivariate_normal(m, c) for m, c in zip(means, covariances, strict=True)]

    def log_density(x: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return 3.0 + np.log(weights[0] * parts[0].pdf(x) + weights[1] * parts[1].pdf(x))

    rng = np.random.default_rng(5)
    # A first guess that knows of both, at wrong places, with wrong widths and weights.
    group = np.repeat([0, 1], [700, 300])
    start = rng.normal(size=(1000, DIM)) + np.outer(group, means[1]) + 0.5
    proposal = adapt_by_regions(log_density, start, group, 0, rng, n_component=4)
    found = importance_sample(log_density, proposal, rng, effective=4000.0)
    assert found.k < 0.7
    assert found.effective >= 4000
    assert found.weight.sum() == pytest.approx(1.0)
    assert found.log_evidence == pytest.approx(3.0, abs=4 / math.sqrt(found.effective))
    is_second = found.x[:, 0] > apart / 2
    error = math.sqrt(weight * (1 - weight) / found.effective)
    assert found.weight[is_second].sum() == pytest.approx(weight, abs=4 * error)
    x = found.resampled(rng, 4000)
    assert np.mean(x[:, 0] > apart / 2) == pytest.approx(weight, abs=5 * error)
    mine = x[x[:, 0] < apart / 2]
    np.testing.assert_allclose(np.cov(mine.T), covariances[0], atol=0.12 * np.abs(covariances[0]).max())
    assert abs(np.corrcoef(x[:-1, 1], x[1:, 1])[0, 1]) < 0.08  # in random order


def test_weights_of_a_narrow_proposal_are_not_trusted():
    target = scipy.stats.multivariate_t(np.zeros(DIM), np.eye(DIM), df=2)
    narrow = StudentMixture(np.ones(1), np.zeros((1, DIM)), 0.05 * np.eye(DIM)[None])
    found = importance_sample(target.logpdf, narrow, np.random.default_rng(6), effective=1e9)
    assert found.k > 0.7


def test_nothing_to_sample_is_refused():
    one = mixture()
    with pytest.raises(ValueError, match="must be finite somewhere"):
        importance_sample(lambda x: np.full(len(x), -np.inf), one, np.random.default_rng(0))


def test_tempered_weights():
    log_weight = np.concatenate([-0.5 * np.linspace(0, 30, 500) ** 2, np.full(500, -np.inf)])
    weight, power = tempered(log_weight, 50.0)
    assert 0 < power < 1
    assert 1 / np.sum(weight**2) == pytest.approx(50.0, rel=1e-3)
    assert np.all(weight[500:] == 0)
    assert weight.sum() == pytest.approx(1.0)
    few = np.array([0.0, -1000.0, -np.inf, -np.inf])
    weight, _ = tempered(few, 100.0)
    assert np.all(weight[2:] == 0)
    same, power = tempered(np.zeros(100), 50.0)
    assert power == 1.0
    np.testing.assert_allclose(same, 0.01)


def test_resampling_keeps_weights():
    weight = np.array([0.5, 0.25, 0.125, 0.125])
    draws = WeightedDraws(np.arange(4.0)[:, None], weight, 0.0, 0.1)
    x = draws.resampled(np.random.default_rng(0), 800)[:, 0]
    assert np.bincount(x.astype(int)).tolist() == [400, 200, 100, 100]
    assert draws.effective == pytest.approx(1 / np.sum(weight**2))
