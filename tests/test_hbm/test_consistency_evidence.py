"""Integrals from a pool of points and p-values, against those of a linear-Gaussian model."""

import jax
import numpy as np
import pytest
import scipy.stats
from scipy.special import logsumexp

from hbm.consistency.evidence import PoolDensity, error_of, integrate, log_weights
from hbm.consistency.predictive import band_quantiles, p_of_bands, p_of_fluxes, replicates
from hbm.consistency.report import MIN_ESS

DIM = 3
A = np.array([[1.0, 0.4, 0.0], [0.2, 1.0, -0.5], [0.0, 0.3, 1.0], [1.0, 1.0, 1.0]])
SIGMA = 0.3
X, X_ERROR = np.array([0.8, -0.4]), 0.7
"""Image: the first two parameters with this error."""


def likelihood_f(theta: np.ndarray, f: np.ndarray) -> np.ndarray:
    return scipy.stats.norm.logpdf(f, theta @ A.T, SIGMA).sum(axis=1)


def likelihood_x(theta: np.ndarray) -> np.ndarray:
    return scipy.stats.norm.logpdf(X, theta[:, :2], X_ERROR).sum(axis=1)


def exact(f: np.ndarray) -> dict[str, float]:
    """Marginal likelihoods of f, x and both: normal, the parameters being standard normal."""
    both = np.vstack([A, np.eye(DIM)[:2]])
    noise = np.diag([SIGMA**2] * 4 + [X_ERROR**2] * 2)
    whole = both @ both.T + noise
    normal = scipy.stats.multivariate_normal
    return {
        "f": normal.logpdf(f, cov=whole[:4, :4]),
        "x": normal.logpdf(X, cov=whole[4:, 4:]),
        "xf": normal.logpdf(np.concatenate([f, X]), cov=whole),
    }


def pool_of(
    f: np.ndarray, rng: np.random.Generator, n_fit: int, n_each: int = 3000
) -> tuple[np.ndarray, PoolDensity]:
    """Points of the prior, of a density at a wrong place, and of the posterior given f."""
    n = (n_each, n_each)
    covariance = np.linalg.inv(np.eye(DIM) + A.T @ A / SIGMA**2)
    fit = scipy.stats.multivariate_normal(covariance @ A.T @ f / SIGMA**2, covariance)
    shape = scipy.stats.multivariate_normal(np.full(DIM, 0.3), 0.5 * np.eye(DIM))
    prior = scipy.stats.multivariate_normal(np.zeros(DIM), np.eye(DIM))
    theta = np.concatenate(
        [
            prior.rvs(n[0], random_state=rng),
            shape.rvs(n[1], random_state=rng),
            fit.rvs(n_fit, random_state=rng).reshape(-1, DIM),
        ]
    )
    at = prior.logpdf(theta)
    return theta, PoolDensity(at, shape.logpdf(theta), at + likelihood_f(theta, f), (*n, n_fit))


@pytest.mark.parametrize(("n_fit", "largest"), [(0, 0.3), (800, 0.1)])
def test_evidences_are_those_of_normal_distributions(n_fit: int, largest: float) -> None:
    f = np.array([0.9, -1.3, -0.8, -0.4])
    theta, pool = pool_of(f, np.random.default_rng(1), n_fit)
    parts = {"f": likelihood_f(theta, f), "x": likelihood_x(theta)}
    parts["xf"] = parts["f"] + parts["x"]
    found = integrate(pool, np.stack([np.zeros(len(theta)), *parts.values()]))
    expected = np.array([0.0, *exact(f).values()])
    error = np.array([error_of(column) for column in found.blocks.T])
    assert np.all(error < largest)
    assert np.all(np.abs(found.value - expected) < 4 * error + 1e-3)
    same = found.blocks[:, 3] + found.blocks[:, 0] - found.blocks[:, 1] - found.blocks[:, 2]
    truth = expected[3] - expected[1] - expected[2]
    value = found.value[3] + found.value[0] - found.value[1] - found.value[2]
    assert abs(value - truth) < 4 * error_of(same) < 4 * largest


def test_draws_of_the_fit_help_where_the_prior_does_not_reach() -> None:
    """Fluxes 4 sigma out: hardly a point of the prior is near, which the effective number says."""
    f = A @ np.array([2.5, -2.5, 2.5])
    expected = exact(f)["xf"] - exact(f)["f"]
    for n_fit, reaches in ((0, False), (800, True)):
        theta, pool = pool_of(f, np.random.default_rng(2), n_fit)
        log_f = likelihood_f(theta, f)
        found = integrate(pool, np.stack([log_f, log_f + likelihood_x(theta)]))
        assert (found.ess.min() > MIN_ESS) == reaches
        if reaches:
            error = error_of(found.blocks[:, 1] - found.blocks[:, 0])
            assert abs(found.value[1] - found.value[0] - expected) < 4 * error < 1


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=16)
    blocks = (x.sum() - x) / 15
    assert error_of(blocks) == pytest.approx(x.std(ddof=1) / 4)
    assert error_of(np.array([0.0, -np.inf])) == np.inf


def test_a_hypothesis_that_nothing_supports_has_no_evidence() -> None:
    f = np.zeros(4)
    theta, pool = pool_of(f, np.random.default_rng(3), 100)
    found = integrate(pool, np.full((1, len(theta)), -np.inf))
    assert found.value[0] == -np.inf
    assert found.ess[0] == 0


def test_counts_must_be_those_of_the_points() -> None:
    theta, pool = pool_of(np.zeros(4), np.random.default_rng(4), 10)
    del theta
    with pytest.raises(ValueError, match="as many points as `counts`"):
        log_weights(pool._replace(counts=(1, 2, 3)))


def normalised(log_weight: np.ndarray) -> np.ndarray:
    return np.exp(log_weight - logsumexp(log_weight))


def test_band_p_values_are_the_conditional_normal_ones() -> None:
    """Each band given image and other bands, from points of the prior."""
    rng = np.random.default_rng(5)
    f = np.array([0.4, -0.9, 0.5, 1.2])
    theta, pool = pool_of(f, rng, 0, 30000)
    base = log_weights(pool) + pool.prior
    terms = scipy.stats.norm.logpdf(f, theta @ A.T, SIGMA)
    of_band = base + likelihood_x(theta) + terms.sum(axis=1)
    weight = np.stack([normalised(of_band - terms[:, band]) for band in range(4)], axis=1)
    nothing = np.zeros(len(theta))
    both = np.vstack([A, np.eye(DIM)[:2]])
    whole = both @ both.T + np.diag([SIGMA**2] * 4 + [X_ERROR**2] * 2)
    every = np.concatenate([f, X])
    use = np.array([True, True, False, True])
    found = p_of_bands(weight, theta @ A.T, nothing, nothing, f, np.full(4, SIGMA), use)
    quantiles = band_quantiles(weight, theta @ A.T, nothing, nothing, np.full(4, SIGMA), rng)
    for band in range(4):
        rest = [i for i in range(6) if i != band]
        gain = np.linalg.solve(whole[np.ix_(rest, rest)], whole[rest, band])
        conditional = scipy.stats.norm(
            gain @ every[rest], np.sqrt(whole[band, band] - gain @ whole[rest, band])
        )
        expected = 2 * min(conditional.cdf(f[band]), conditional.sf(f[band]))
        if use[band]:
            assert found[band] == pytest.approx(expected, abs=0.05)
        else:
            assert np.isnan(found[band])
        assert np.allclose(quantiles[:, band], conditional.ppf([0.16, 0.5, 0.84]), atol=0.12)


def test_p_of_fluxes_is_uniform_where_nothing_is_wrong_and_small_where_a_band_is_off() -> None:
    rng = np.random.default_rng(6)
    n_point, n_repeat = 3000, 80
    flux = 10 ** (0.3 * rng.normal(size=(n_point, 1)) + 0.05 * rng.normal(size=(n_point, 4)))
    weight = rng.exponential(size=n_point)
    weight /= weight.sum()
    err, observed = np.full(4, 0.05), np.ones(4, bool)
    nothing = np.zeros(n_point)
    floor = np.full(n_point, 0.05)
    truth = rng.choice(n_point, n_repeat, p=weight)
    measured = flux[truth] + np.hypot(err, 0.05 * flux[truth]) * rng.normal(size=(n_repeat, 4))
    off = measured * np.array([1.0, 10**0.4, 1.0, 1.0])
    found, wrong = [], []
    for i in range(n_repeat):
        key = jax.random.key(i)
        predicted = replicates(key, weight, flux, err, observed, floor, nothing)
        found.append(p_of_fluxes(key, predicted, measured[i], err, observed))
        wrong.append(p_of_fluxes(key, predicted, off[i], err, observed))
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.01
    assert np.median(wrong) < 0.02
    assert np.isnan(p_of_fluxes(jax.random.key(0), predicted, measured[0], err, ~observed))


def test_replicates_scatter_as_the_likelihood_says() -> None:
    flux = np.full((10, 2), 3.0)
    weight = np.full(10, 0.1)
    err = np.array([0.1, 0.4])
    found = replicates(
        jax.random.key(0), weight, flux, err, np.ones(2, bool), np.full(10, 0.05), np.zeros(10)
    )
    assert np.allclose(found.mean(axis=0), 3.0, atol=0.04)
    assert np.allclose(found.std(axis=0), np.hypot(err, 0.15), rtol=0.08)
