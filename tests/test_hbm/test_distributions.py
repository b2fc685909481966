"""Prior distributions against scipy, and sampling through normals."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import Predictive
from numpyro.infer.util import log_density
from scipy import integrate, stats

from hbm.distributions import (
    BetaOne,
    NormalReparam,
    SplitNormal,
    StudentT2,
    TruncatedNormal,
    coordinate_distribution,
)


def truncnorm(loc: float, scale: float, low: float, high: float) -> Any:
    return stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)


def ks(draws: Any, cdf: Any) -> float:
    """Probability of a larger distance between draws and distribution (Kolmogorov-Smirnov)."""
    return float(stats.kstest(np.asarray(draws, np.float64), cdf, method="asymp").pvalue)


class TruncatedT2:
    """Student t of scipy with 2 degrees of freedom between -bound and bound."""

    def __init__(self, scale: float, bound: float) -> None:
        self.full, self.low = stats.t(2, scale=scale), stats.t(2, scale=scale).cdf(-bound)

    def logpdf(self, x: Any) -> Any:
        return self.full.logpdf(x) - np.log(1 - 2 * self.low)

    def cdf(self, x: Any) -> Any:
        return (self.full.cdf(x) - self.low) / (1 - 2 * self.low)

    def ppf(self, q: Any) -> Any:
        return self.full.ppf(self.low + q * (1 - 2 * self.low))


WIDE = (-14.0, -8.0)
MADE = {
    "normal": (lambda: TruncatedNormal(-0.2, 0.4, -1.0, 0.4), truncnorm(-0.2, 0.4, -1.0, 0.4), (-1.0, 0.4)),
    "half normal": (lambda: TruncatedNormal(0.3, 1.0, 0.0, 4.0), truncnorm(0.3, 1.0, 0.0, 4.0), (0.0, 4.0)),
    "t": (lambda: StudentT2(0.3, 2.0), TruncatedT2(0.3, 2.0), (-2.0, 2.0)),
    "beta": (lambda: BetaOne(19.0), stats.beta(1, 19), (0.0, 1.0)),
    "equal widths": (
        lambda: SplitNormal(-9.5, 0.7, 0.7, low=WIDE[0], high=WIDE[1]),
        truncnorm(-9.5, 0.7, *WIDE),
        WIDE,
    ),
}
SPLIT = (-9.3, 1.6, 0.5, -14.0, -8.0)


def split() -> SplitNormal:
    loc, below, above, low, high = SPLIT
    return SplitNormal(loc, below, above, low=low, high=high)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", MADE)
def test_density_and_functions_are_those_of_scipy(name: str) -> None:
    make, reference, (low, high) = MADE[name]
    ours = make()
    x = np.linspace(low, high, 41)[1:-1]
    q = np.linspace(0.001, 0.999, 41)
    np.testing.assert_allclose(ours.log_prob(x), reference.logpdf(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours.cdf(x), reference.cdf(x), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.icdf(q), reference.ppf(q), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", [*MADE, "split"])
def test_density_integrates_to_the_distribution_function(name: str) -> None:
    make, (low, high) = (split, WIDE) if name == "split" else MADE[name][::2]
    ours = make()
    density = jax.jit(lambda x: jnp.exp(ours.log_prob(x)))
    kinks = [SPLIT[0]] if name == "split" else None
    total = integrate.quad(density, low, high, points=kinks, epsabs=1e-10)[0]
    assert total == pytest.approx(1.0, abs=1e-9)
    for part in (0.15, 0.6, 0.9):  # on both sides of the mode of the split normal
        x = low + part * (high - low)
        below = integrate.quad(density, low, x, points=[p for p in kinks or [] if p < x] or None)[0]
        assert float(ours.cdf(x)) == pytest.approx(below, abs=1e-9)
        if below < 1 - 1e-6:  # beyond, the probability has no digits left
            assert float(ours.icdf(ours.cdf(x))) == pytest.approx(x, abs=1e-7)
    assert (float(ours.cdf(low)), float(ours.cdf(high))) == pytest.approx((0.0, 1.0), abs=1e-12)


def test_split_normal_has_its_widths() -> None:
    loc, below, above, _, _ = SPLIT
    peak = float(split().log_prob(loc))
    for x, width in ((-12.0, below), (-9.8, below), (-9.0, above), (-8.2, above)):
        assert float(split().log_prob(x)) - peak == pytest.approx(-0.5 * ((x - loc) / width) ** 2)


def test_student_t_is_wider_than_its_bound_by_two_percent() -> None:
    # The bound of 2 dex at scale 0.3, in words of `hbm.config.InterimPrior`.
    assert 2 * stats.t(2, scale=0.3).sf(2.0) == pytest.approx(0.02, abs=0.002)


def test_only_the_student_t_has_another_coordinate_distribution() -> None:
    assert isinstance(coordinate_distribution(split()), SplitNormal)
    inner = coordinate_distribution(StudentT2(0.3, 2.0).expand([3]).to_event(1))
    np.testing.assert_allclose(inner.log_prob(0.7), truncnorm(0.0, 0.6, -2.0, 2.0).logpdf(0.7))


@pytest.mark.parametrize("name", [*MADE, "split"])
def test_draws_follow_the_distribution_in_single_precision(name: str) -> None:
    make = split if name == "split" else MADE[name][0]
    with jax.enable_x64(False):
        draws = make().sample(jax.random.key(3), (4000,))
        assert draws.dtype == jnp.float32
    cdf = (lambda x: np.asarray(split().cdf(x))) if name == "split" else MADE[name][1].cdf
    assert ks(np.asarray(draws, np.float64), cdf) > 1e-3


def model() -> None:
    numpyro.sample("normal", TruncatedNormal(-0.2, 0.4, -1.0, 0.4))
    numpyro.sample("t", StudentT2(0.3, 2.0).expand([3]).to_event(1))
    numpyro.sample("beta", BetaOne(19.0))
    numpyro.sample("uniform", dist.Uniform(6.0, 12.7))
    numpyro.sample("log uniform", dist.LogUniform(0.005, 0.3))
    numpyro.sample("offset", dist.Normal(0.0, 0.02).expand([2]).to_event(1))
    numpyro.sample("split", split())


NAMES = ("normal", "t", "beta", "uniform", "log uniform", "offset", "split")
REFERENCES = {
    "normal": MADE["normal"][1],
    "t": truncnorm(0.0, 0.6, -2.0, 2.0),  # in place of the heavy tails
    "beta": MADE["beta"][1],
    "uniform": stats.uniform(6.0, 6.7),
    "log uniform": stats.loguniform(0.005, 0.3),
    "offset": stats.norm(0.0, 0.02),
}


def through_normals() -> Any:
    return numpyro.handlers.reparam(model, config={name: NormalReparam() for name in NAMES})


def at_normals(normals: list[float]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Values of all sites, and the log density, where every normal has each of the given values."""
    shapes = {"t": (3,), "offset": (2,)}

    @jax.jit
    @jax.vmap
    def evaluate(n: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        bases = {f"{name}_base": jnp.full(shapes.get(name, ()), n) for name in NAMES}
        density, trace = log_density(through_normals(), (), {}, bases)
        return {name: trace[name]["value"] for name in NAMES}, density

    values, density = evaluate(jnp.asarray(normals))
    return {name: np.asarray(value) for name, value in values.items()}, np.asarray(density)


def test_a_normal_goes_to_the_same_quantile() -> None:
    normals = [-3.0, -0.4, 0.0, 1.3, 3.0]
    values, density = at_normals(normals)
    for name, reference in REFERENCES.items():
        expected = reference.ppf(stats.norm.cdf(normals))
        for column in values[name].reshape(5, -1).T:
            np.testing.assert_allclose(column, expected, rtol=1e-6, atol=1e-8, err_msg=name)
    # Ten normals, and nothing else: the density is in the quantile functions.
    np.testing.assert_allclose(density, 10 * stats.norm.logpdf(normals))


def test_sampling_through_normals_gives_the_coordinate_distributions() -> None:
    draws = jax.jit(Predictive(through_normals(), num_samples=4000, parallel=True))(jax.random.key(1))
    assert {name for name in draws if not name.endswith("_base")} == set(NAMES)
    for name, reference in REFERENCES.items():
        values = np.asarray(draws[name]).reshape(4000, -1)
        for column in values.T:
            assert ks(column, reference.cdf) > 1e-3, name
    assert ks(np.asarray(split().cdf(draws["split"])), "uniform") > 1e-3


def test_without_a_source_the_prior_itself_gives_the_quantiles() -> None:
    plain = numpyro.handlers.reparam(model, config={"t": NormalReparam(source=None)})
    for normal in (-2.5, 0.7, 3.1):
        seeded = numpyro.handlers.seed(numpyro.handlers.substitute(plain, {"t_base": jnp.full(3, normal)}), 0)
        trace = numpyro.handlers.trace(seeded).get_trace()
        expected = TruncatedT2(0.3, 2.0).ppf(stats.norm.cdf(normal))
        np.testing.assert_allclose(trace["t"]["value"], expected, rtol=1e-6)


def test_far_normals_stay_finite_inside_the_range() -> None:
    with jax.enable_x64(False):
        values, _ = at_normals([-30.0, 30.0])
    ranges = {name: MADE[name][2] for name in ("normal", "t", "beta")} | {"split": WIDE}
    for name, (low, high) in ranges.items():
        assert values[name].dtype == np.float32
        assert np.all((values[name] >= low - 1e-5) & (values[name] <= high + 1e-5)), name


def test_observed_sites_are_refused() -> None:
    def observed() -> None:
        numpyro.sample("x", BetaOne(2.0), obs=jnp.asarray(0.5))

    with pytest.raises(ValueError, match="site `x` is observed"):
        numpyro.handlers.reparam(observed, config={"x": NormalReparam()})()
