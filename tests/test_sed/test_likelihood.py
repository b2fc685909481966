"""Densities of band fluxes against scipy, by quadrature and by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from sed.likelihood import band_loglike, chi, photometry_loglike, posterior_predictive_flux

FLUX = np.array([1.00, 2.50, 0.10, -0.05, 7.0]) * 1e-9
ERR = np.array([0.10, 0.20, 0.05, 0.05, 0.1]) * 1e-9
MODEL = np.array([1.10, 2.00, 0.12, 0.03, 6.0]) * 1e-9
ZERO = np.array([0.05, -0.1, 0.0, 0.02, 0.2])
LIMIT = np.array([False, False, True, True, False])
ALL = np.ones(5, bool)


def _arrays(*values):
    return [jnp.asarray(v) for v in values]


def _sigma(model, floor):
    return np.sqrt(ERR**2 + (floor * model) ** 2)


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("floor", [0.0, 0.05, 0.3])
def test_gaussian_matches_scipy(x64, floor):
    """Sum of normal log-densities; float32 does not lose maggies squared."""
    expected = stats.norm.logpdf(FLUX, MODEL, _sigma(MODEL, floor)).sum()
    with jax.enable_x64(x64):
        got = photometry_loglike(*_arrays(FLUX, ERR, MODEL, ALL), error_floor=floor)
        assert got.dtype == (jnp.float64 if x64 else jnp.float32)
    np.testing.assert_allclose(got, expected, rtol=1e-12 if x64 else 2e-6)


def test_floor_per_band_and_zero_point():
    """One floor per band; a catalogue 0.1 mag too faint has fluxes 10**-0.04 of the truth."""
    floor = np.array([0.0, 0.1, 0.2, 0.05, 0.01])
    shifted = MODEL * 10 ** (-0.4 * ZERO)
    expected = stats.norm.logpdf(FLUX, shifted, _sigma(shifted, floor))
    with jax.enable_x64(True):
        got = band_loglike(
            *_arrays(FLUX, ERR, MODEL, ALL), error_floor=jnp.asarray(floor), zero_point=jnp.asarray(ZERO)
        )
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    magnitude_offset = -2.5 * np.log10(shifted / MODEL)
    np.testing.assert_allclose(magnitude_offset, ZERO, atol=1e-12)


@pytest.mark.parametrize("x64", [True, False])
def test_upper_limits_match_scipy(x64):
    """Limits give the log of the normal distribution function, without underflow far above the limit."""
    model = MODEL.copy()
    model[3] = 5e-9  # 100 sigma above the limit
    s = _sigma(model, 0.05)
    density = stats.norm.logpdf(FLUX, model, s)
    expected = np.where(LIMIT, stats.norm.logcdf(FLUX, model, s), density)
    with jax.enable_x64(x64):
        arrays = _arrays(FLUX, ERR, model, ALL)
        got = band_loglike(*arrays, upper_limit=jnp.asarray(LIMIT))
        slope = jax.grad(
            lambda m: photometry_loglike(*arrays[:2], m, arrays[3], upper_limit=jnp.asarray(LIMIT))
        )(arrays[2])
    np.testing.assert_allclose(got, expected, rtol=1e-10 if x64 else 1e-5)
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("x64", [True, False])
def test_mixture_matches_scipy(x64):
    """Weighted sum of two normals, for densities and for limits, also 200 sigma out."""
    flux = FLUX.copy()
    flux[0] += 200 * ERR[0]
    s, p, scale = _sigma(MODEL, 0.05), 0.02, 7.0
    wide = s * np.sqrt(1 + scale**2)
    density = np.logaddexp(
        np.log1p(-p) + stats.norm.logpdf(flux, MODEL, s), np.log(p) + stats.norm.logpdf(flux, MODEL, wide)
    )
    below = np.log((1 - p) * stats.norm.cdf(flux, MODEL, s) + p * stats.norm.cdf(flux, MODEL, wide))
    with jax.enable_x64(x64):
        got = band_loglike(
            *_arrays(flux, ERR, MODEL, ALL),
            outlier_fraction=p,
            outlier_scale=scale,
            upper_limit=jnp.asarray(LIMIT),
        )
    np.testing.assert_allclose(got, np.where(LIMIT, below, density), rtol=1e-10 if x64 else 1e-5)


@pytest.mark.parametrize(("floor", "p"), [(0.0, 0.0), (0.2, 0.0), (0.1, 0.05), (0.0, 0.5)])
def test_integrates_to_one(floor, p):
    """The density over one band's flux is normalised, whatever the settings."""
    with jax.enable_x64(True):
        density = jax.jit(
            lambda d: jnp.exp(
                photometry_loglike(
                    d[None] * 1e-9,
                    jnp.array([1e-10]),
                    jnp.array([1e-9]),
                    jnp.array([True]),
                    error_floor=floor,
                    outlier_fraction=p,
                )
            )
        )
        area, _ = integrate.quad(
            lambda d: 1e-9 * float(density(jnp.asarray(d))),
            -30,
            32,
            points=[0.0, 0.8, 1.0, 1.2, 2.0],
            limit=200,
        )
    np.testing.assert_allclose(area, 1.0, rtol=1e-6)


def test_outlier_fraction_zero_is_gaussian():
    """A traced p = 0 gives exactly the plain value with finite gradients, and p -> 0 tends to it."""
    arrays = _arrays(FLUX, ERR, MODEL, ALL)
    with jax.enable_x64(True):
        arrays = _arrays(FLUX, ERR, MODEL, ALL)
        plain, plain_slope = jax.value_and_grad(lambda m: photometry_loglike(*arrays[:2], m, arrays[3]))(
            arrays[2]
        )

        def free(m, p):
            return photometry_loglike(*arrays[:2], m, arrays[3], outlier_fraction=p)

        value, (slope, slope_p) = jax.jit(jax.value_and_grad(free, argnums=(0, 1)))(
            arrays[2], jnp.asarray(0.0)
        )
        np.testing.assert_allclose(free(arrays[2], jnp.asarray(1e-13)), plain, rtol=1e-8)
    np.testing.assert_allclose(value, plain, rtol=1e-14)
    np.testing.assert_allclose(slope, plain_slope, rtol=1e-12)
    assert np.isfinite(slope_p)


def test_gradient_matches_finite_differences():
    """Every free quantity: model flux, floor, outlier fraction and scale, zero points."""
    with jax.enable_x64(True):
        flux, err, observed, limit = _arrays(FLUX, ERR, ALL, LIMIT)

        def loglike(x):
            return photometry_loglike(
                flux,
                err,
                x[:5] * 1e-9,
                observed,
                error_floor=x[5],
                outlier_fraction=x[6],
                outlier_scale=x[7],
                zero_point=x[8:],
                upper_limit=limit,
            )

        point = np.concatenate([MODEL * 1e9, [0.07, 0.03, 8.0], ZERO])
        slope = jax.jit(jax.grad(loglike))(jnp.asarray(point))
        value = jax.jit(loglike)
        finite = [(value(point + h) - value(point - h)) / 2e-6 for h in 1e-6 * np.eye(len(point))]
    np.testing.assert_allclose(slope, np.asarray(finite), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("p", [0.0, 0.05])
def test_missing_bands_are_absent(p):
    """NaN in a missing band changes neither value nor gradient: the band might as well not exist."""
    observed = np.array([True, False, True, False, True])
    holes = [np.where(observed, x, np.nan) for x in (FLUX, ERR)]
    holes[1][3] = 0.0
    with jax.enable_x64(True):

        def loglike(m, z, keep, flux, err):
            mask, limit = jnp.ones_like(keep) if len(flux) == 3 else keep, jnp.asarray(LIMIT)
            limit = limit if len(flux) == 5 else limit[observed]
            return photometry_loglike(flux, err, m, mask, upper_limit=limit, outlier_fraction=p, zero_point=z)

        grad = jax.value_and_grad(loglike, argnums=(0, 1))
        value, slopes = grad(*_arrays(MODEL, ZERO, observed, *holes))
        expected, kept = grad(*_arrays(*(x[observed] for x in (MODEL, ZERO, observed, FLUX, ERR))))
        residual = chi(*_arrays(*holes, MODEL, observed))
        nothing = photometry_loglike(*_arrays(*holes, MODEL, np.zeros(5, bool)), outlier_fraction=p)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for slope, want in zip(slopes, kept, strict=True):
        np.testing.assert_allclose(slope[observed], want, rtol=1e-12)
        np.testing.assert_array_equal(slope[~observed], 0.0)
    np.testing.assert_array_equal(np.isnan(residual), ~observed)
    assert float(nothing) == 0.0


def test_nan_in_an_observed_band_stays_visible():
    """A prediction that failed is not hidden."""
    model = MODEL.copy()
    model[0] = np.nan
    assert np.isnan(photometry_loglike(*_arrays(FLUX, ERR, model, ALL)))


def test_chi():
    """Residuals in units of the total scatter, of the shifted model."""
    shifted = MODEL * 10 ** (-0.4 * ZERO)
    got = chi(*_arrays(FLUX, ERR, MODEL, ALL), error_floor=0.1, zero_point=jnp.asarray(ZERO))
    np.testing.assert_allclose(got, (FLUX - shifted) / _sigma(shifted, 0.1), rtol=1e-5)


def test_predictive_draws_follow_the_density():
    """Replicates of each band pass a Kolmogorov-Smirnov test against the mixture that is evaluated."""
    p, scale, floor = 0.2, 5.0, 0.1
    observed = np.array([True, True, False, True, True])
    keys = jax.random.split(jax.random.key(3), 4000)
    draw = jax.jit(
        jax.vmap(
            lambda key: posterior_predictive_flux(
                key,
                *_arrays(ERR, MODEL, observed),
                error_floor=floor,
                outlier_fraction=p,
                outlier_scale=scale,
                zero_point=jnp.asarray(ZERO),
            )
        )
    )
    flux = np.asarray(draw(keys))
    assert np.all(np.isnan(flux[:, 2]))
    model = MODEL * 10 ** (-0.4 * ZERO)
    s = _sigma(model, floor)
    for b in np.flatnonzero(observed):
        narrow, wide = stats.norm(model[b], s[b]), stats.norm(model[b], s[b] * np.sqrt(1 + scale**2))
        test = stats.kstest(flux[:, b], lambda x, n=narrow, w=wide: (1 - p) * n.cdf(x) + p * w.cdf(x))
        assert test.pvalue > 1e-3
    assert abs(np.corrcoef(flux[:, 0], flux[:, 1])[0, 1]) < 0.06


def test_vmap_over_galaxies():
    """Written for one galaxy, mapped by the caller, with one shared traced floor."""
    many = [jnp.stack([x, x[::-1]]) for x in _arrays(FLUX, ERR, MODEL, ALL)]
    got = jax.jit(jax.vmap(lambda f, *a: photometry_loglike(*a, error_floor=f), in_axes=(None, 0, 0, 0, 0)))(
        jnp.asarray(0.1), *many
    )
    np.testing.assert_allclose(got[0], got[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"error_floor": -0.01}, "`error_floor` must be >= 0"),
        ({"error_floor": np.array([0.1, 0.1, -0.1, 0.1, 0.1])}, "`error_floor` must be >= 0"),
        ({"outlier_fraction": -0.1}, r"`outlier_fraction` must be in \[0, 1\)"),
        ({"outlier_fraction": 1.0}, r"`outlier_fraction` must be in \[0, 1\)"),
        ({"outlier_scale": -1.0}, "`outlier_scale` must be >= 0"),
    ],
)
def test_refusals(setting, match):
    """Impossible settings are refused by density and draws alike."""
    with pytest.raises(ValueError, match=match):
        photometry_loglike(*_arrays(FLUX, ERR, MODEL, ALL), **setting)
    with pytest.raises(ValueError, match=match):
        posterior_predictive_flux(jax.random.key(0), *_arrays(ERR, MODEL, ALL), **setting)
