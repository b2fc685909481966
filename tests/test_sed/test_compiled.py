from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from sed.compile import DustEmissionParams, PhotometryCompiler, compile_photometry
from sed.compiled import CompiledPhotometry, stack, stacked_axes, take
from sed.cosmology import default_cosmology
from sed.dust import Calzetti
from sed.filters import FilterSet, load_filters
from sed.igm import igm_transmission_inoue
from sed.nebular import photon_rates
from sed.parameters import BinnedSFH, DelayedTauSFH, SEDParams
from sed.photometry import band_matrix, maggies_per_luminosity
from sed.sfh import agebins
from sed.spectrum import SpectrumModel
from sed.ssp import NebularTable, SSPGrid

ZREDS = (0.03, 0.8, 1.9)
KINDS = ("binned", "delayed_tau")
ONE_FAST = ("binned", pytest.param("delayed_tau", marks=pytest.mark.slow))
N_DRAW = 25


@pytest.fixture(scope="module")
def filters() -> FilterSet:
    return load_filters(["galex_NUV", "sdss_u0", "sdss_g0", "sdss_i0", "twomass_Ks", "wise_w1"])


def igm(wave: np.ndarray, zred: float) -> np.ndarray:
    return np.asarray(igm_transmission_inoue(wave, zred))


@pytest.fixture(scope="module")
def compiled(grid: SSPGrid, filters: FilterSet) -> dict[str, list[CompiledPhotometry]]:
    """In double precision."""
    with jax.enable_x64(True):
        makers = {
            kind: PhotometryCompiler(
                grid, filters, sfh=kind, igm=igm, duste_fixed=DustEmissionParams(), dtype=np.float64
            )
            for kind in KINDS
        }
        return {kind: [maker(zred) for zred in ZREDS] for kind, maker in makers.items()}


def draw(kind: str, n: int = N_DRAW, seed: int = 0) -> SEDParams:
    """Parameters over the ranges of the fitting prior, leading axis galaxy."""
    rng = np.random.default_rng(seed)
    every = []
    for _ in range(n):
        mass = np.float64(rng.uniform(6, 12.7))
        if kind == "binned":
            ssfr, recent = np.float64(rng.uniform(-13, -8.1)), np.float64(0.3 * rng.standard_t(2))
            sfh: Any = BinnedSFH(mass, ssfr, recent, 0.3 * rng.standard_t(2, 4))
        else:
            sfh = DelayedTauSFH(
                mass, np.float64(rng.uniform(0.05, 3.3)), np.float64(10 ** rng.uniform(-1, 1.5))
            )
        dust2 = np.float64(np.abs(rng.normal(0.3, 1)))
        rest = {"dust2": dust2, "dust1": dust2 * rng.uniform(0, 2), "dust_index": rng.uniform(-1, 0.4)}
        every.append(SEDParams(sfh, rng.uniform(-2, 0.5), **rest, gas_logu=rng.uniform(-4, -1)))
    result: SEDParams = jax.tree.map(lambda *leaves: np.stack(leaves), *every)
    return result


def as_jax(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


@eqx.filter_jit
def fluxes(photometry: CompiledPhotometry, params: SEDParams) -> jax.Array:
    """One redshift, many galaxies."""
    return jax.vmap(photometry.flux)(params)


@eqx.filter_jit
def one_flux(photometry: CompiledPhotometry, params: SEDParams) -> jax.Array:
    return photometry.flux(params)


@pytest.mark.parametrize("kind", ONE_FAST)
def test_agrees_with_the_full_spectrum(
    grid: SSPGrid, filters: FilterSet, compiled: dict[str, list[CompiledPhotometry]], kind: str
) -> None:
    params = draw(kind)
    unit = {z: maggies_per_luminosity(z, float(default_cosmology().luminosity_distance_np(z))) for z in ZREDS}
    off = []
    with jax.enable_x64(True):
        spectra = eqx.filter_jit(lambda model, params: jax.lax.map(lambda p: model(p).luminosity, params))
        for zred, photometry in zip(ZREDS, compiled[kind], strict=True):
            bins = agebins(min(float(default_cosmology().age_np(zred)), grid.max_age_gyr))
            model = SpectrumModel.from_grid(grid, agebins=bins)
            full = np.asarray(spectra(model, as_jax(params)))
            full = full @ (band_matrix(grid.wave, filters, zred, igm=igm) * unit[zred]).T
            bright = full > 1e-3 * full.max(axis=1, keepdims=True)
            result = np.asarray(fluxes(as_jax(photometry), as_jax(params)))
            off.append(np.where(bright, np.abs(result / full - 1), np.nan))
    off = np.concatenate(off)
    median, p99 = np.nanmedian(off, axis=0), np.nanquantile(off, 0.99, axis=0)
    # GALEX: a third of these galaxies are at zred = 1.9, where it sees 800 Angstrom and dust is steepest.
    assert median[0] < 5e-4
    assert p99[0] < 1e-2
    assert np.max(median[1:]) < 5e-4
    assert np.max(p99[1:]) < 3e-3


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_enough(compiled: dict[str, list[CompiledPhotometry]], kind: str) -> None:
    params = draw(kind)
    for photometry in compiled[kind]:
        with jax.enable_x64(True):
            double = np.asarray(fluxes(as_jax(photometry), as_jax(params)))
        single = np.asarray(fluxes(as_jax(photometry), as_jax(params)))
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, double, rtol=2e-4)


@pytest.mark.parametrize("kind", ONE_FAST)
def test_gradient_is_that_of_finite_differences(
    compiled: dict[str, list[CompiledPhotometry]], kind: str
) -> None:
    with jax.enable_x64(True):
        photometry = as_jax(compiled[kind][1])
        params = as_jax(jax.tree.map(lambda leaf: leaf[3], draw(kind)))
        vector, unravel = jax.flatten_util.ravel_pytree(params)
        flux: Callable[[jax.Array], jax.Array] = jax.jit(lambda x: jnp.log(photometry.flux(unravel(x))))
        jacobian = np.asarray(jax.jacrev(flux)(vector))
        step = 1e-6
        for i in range(vector.size):
            shift = jnp.zeros(vector.size).at[i].set(step)
            expected = np.asarray(flux(vector + shift) - flux(vector - shift)) / (2 * step)
            np.testing.assert_allclose(jacobian[:, i], expected, rtol=1e-5, atol=1e-7)
        # mass: d ln f / d log10 M = ln 10; the last three are the fixed dust emission
        np.testing.assert_allclose(jacobian[:, 0], np.log(10), rtol=1e-9)
        assert np.all(np.any(jacobian[:, :-3] != 0, axis=0))


def test_stack_take_and_vmap_are_single_galaxies(compiled: dict[str, list[CompiledPhotometry]]) -> None:
    for kind in KINDS:
        stacked = stack(compiled[kind])
        params = as_jax(draw(kind, n=len(ZREDS)))
        single = [
            np.asarray(one_flux(one, jax.tree.map(lambda leaf, i=i: leaf[i], params)))
            for i, one in enumerate(as_jax(compiled[kind]))
        ]
        many = jax.jit(jax.vmap(one_flux, in_axes=(stacked_axes(stacked), 0)))(as_jax(stacked), params)
        np.testing.assert_allclose(many, single, rtol=1e-4)
        second = one_flux(take(stacked, 1), jax.tree.map(lambda leaf: leaf[1], params))
        np.testing.assert_allclose(second, single[1], rtol=1e-4)


def test_mass_is_a_factor(compiled: dict[str, list[CompiledPhotometry]]) -> None:
    for kind in KINDS:
        photometry, params = as_jax(compiled[kind][0]), as_jax(draw(kind, n=4))
        more = eqx.tree_at(lambda p: p.sfh.logmass, params, params.sfh.logmass + 1)
        once, tenfold = fluxes(photometry, params), fluxes(photometry, more)
        np.testing.assert_allclose(tenfold, 10 * once, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_derived_quantities(grid: SSPGrid, compiled: dict[str, list[CompiledPhotometry]], kind: str) -> None:
    with jax.enable_x64(True):
        photometry = as_jax(compiled[kind][1])
        one = as_jax(jax.tree.map(lambda leaf: leaf[5], draw(kind)))
        bins = agebins(float(default_cosmology().age_np(ZREDS[1])))
        model = SpectrumModel.from_grid(grid, agebins=bins, nebular=False, dust_emission=False)
        assert float(photometry.mfrac(one)) == pytest.approx(float(model(one).mfrac), rel=1e-6)
        weight = np.asarray(model.age_weights(one))
        expected = np.sum(weight * 10.0 ** (grid.log_age - 9)) / np.sum(weight)
        # Bins have their exact mean age; on the grid's ages, log-linear weights shift it a little.
        assert float(photometry.mean_age(one)) == pytest.approx(expected, rel=1e-2)


def test_absorbed_energy_comes_back(grid: SSPGrid) -> None:
    """Far-infrared bands brighten by what the others lose: the templates' share of the absorbed energy."""
    far = load_filters(["herschel_pacs_100", "herschel_spire_250"])
    photometry = as_jax(compile_photometry(grid, far, 0.05))
    params = as_jax(jax.tree.map(lambda leaf: leaf[0], draw("binned", n=1)))
    flux = [
        np.asarray(one_flux(photometry, eqx.tree_at(lambda p: p.dust2, params, jnp.asarray(d))))
        for d in (0.1, 2.0)
    ]
    ratio = flux[1] / flux[0]
    assert ratio[0] > 1.5
    assert ratio[1] == pytest.approx(ratio[0], rel=0.02)  # one template, scaled


def test_free_and_fixed_dust_emission_agree(grid: SSPGrid) -> None:
    far = load_filters(["wise_w3", "herschel_pacs_100"])
    fixed = DustEmissionParams(umin=3.3, qpah=1.7, gamma=0.05)
    params = as_jax(jax.tree.map(lambda leaf: leaf[0], draw("binned", n=1)))
    free_params = eqx.tree_at(
        lambda p: (p.duste_umin, p.duste_qpah, p.duste_gamma),
        params,
        as_jax((fixed.umin, fixed.qpah, fixed.gamma)),
    )
    free = one_flux(as_jax(PhotometryCompiler(grid, far)(0.1)), free_params)
    result = one_flux(as_jax(PhotometryCompiler(grid, far, duste_fixed=fixed)(0.1)), params)
    np.testing.assert_allclose(result, free, rtol=1e-3)
    assert not np.allclose(free, one_flux(as_jax(PhotometryCompiler(grid, far)(0.1)), params), rtol=0.05)


def with_continuum(grid: SSPGrid) -> SSPGrid:
    """Coarser in age, with a made-up nebular continuum of realistic size and change."""
    table = grid.nebular
    assert table is not None
    age, n_age = slice(None, None, 3), (table.n_age + 2) // 3
    logu, kept = table.gas_logu, table.line_wave < 7000
    met = int(np.argmin(np.abs(grid.logzsol)))
    stars = np.interp(3600.0, grid.wave, grid.flux[met, 0]) / photon_rates(grid)[met, 0]
    spectrum = np.log10(0.3 * stars) + 0.7 * np.log10(grid.wave / 3600) - 0.3 * (grid.wave > 3646)
    ages = 0.1 * np.sin(np.arange(n_age))[:, None]
    continuum = (
        spectrum + ages - 0.15 * table.gas_logz[:, None, None, None] + 0.05 * (logu[:, None, None] + 2)
    )
    nebular = NebularTable(
        gas_logz=table.gas_logz,
        gas_logu=logu,
        line_wave=table.line_wave[kept],
        line_sigma=table.line_sigma[kept],
        line_loglum=table.line_loglum[:, :, age][..., kept],
        line_name=tuple(name for name, keep in zip(table.line_name, kept, strict=True) if keep),
        continuum=np.where(grid.wave < 912, -60.0, continuum),
    )
    return SSPGrid(
        wave=grid.wave, log_age=grid.log_age[age], logzsol=grid.logzsol, flux=grid.flux[:, age],
        mstar=None, nebular=nebular, dust_emission=grid.dust_emission,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ONE_FAST)
def test_nebular_continuum_is_that_of_the_full_spectrum(grid: SSPGrid, filters: FilterSet, kind: str) -> None:
    grid, zred = with_continuum(grid), 0.1
    params = draw(kind, n=12, seed=4)
    if kind == "binned":
        params = eqx.tree_at(lambda p: p.sfh.logssfr, params, np.linspace(-8.1, -9.5, 12))
    else:
        params = eqx.tree_at(lambda p: p.sfh.tage, params, np.linspace(0.02, 0.5, 12))
    distance = float(default_cosmology().luminosity_distance_np(zred))
    matrix = band_matrix(grid.wave, filters, zred) * maggies_per_luminosity(zred, distance)
    results = []
    with jax.enable_x64(True):
        bins = agebins(min(float(default_cosmology().age_np(zred)), grid.max_age_gyr))
        spectra = eqx.filter_jit(lambda model, params: jax.lax.map(lambda p: model(p).luminosity, params))
        for one in (grid, eqx.tree_at(lambda g: g.nebular.continuum, grid, None)):
            full = np.asarray(spectra(SpectrumModel.from_grid(one, agebins=bins), as_jax(params))) @ matrix.T
            compiled = compile_photometry(one, filters, zred, sfh=kind, dtype=np.float64)
            results.append((full, np.asarray(fluxes(as_jax(compiled), as_jax(params)))))
            assert (compiled.continuum is None) == (one is not grid)
    (full, compiled), (full_without, compiled_without) = results
    part = 1 - full_without / full
    assert 0.1 < np.max(part) < 0.6
    assert np.all(np.median(part, axis=0) > 0.005)
    # Linear between the nodes of a table that is not: 0.6 % of what the gas adds. What the wavelength nodes
    # miss of dusty light, tested above, is there without the continuum too, band for band.
    missed = np.max(np.abs(compiled_without / full_without - 1), axis=0)
    assert np.all(np.abs(compiled / full - 1) < 0.006 * part + 2 * missed + 1e-4)
    assert np.median(np.abs(compiled / full - 1)) < 1e-3


def test_distance_alone_scales(grid: SSPGrid, filters: FilterSet) -> None:
    compiler = PhotometryCompiler(grid, filters, curve=Calzetti)
    params = as_jax(jax.tree.map(lambda leaf: leaf[0], draw("binned", n=1)))
    near = one_flux(as_jax(compiler(0.1, lumdist_mpc=100.0, tmax_gyr=12.0)), params)
    far = one_flux(as_jax(compiler(0.1, lumdist_mpc=1000.0, tmax_gyr=12.0)), params)
    np.testing.assert_allclose(near, 100 * far, rtol=1e-4)


def test_refuses(grid: SSPGrid, compiled: dict[str, list[CompiledPhotometry]]) -> None:
    binned, tau = (jax.tree.map(lambda leaf: leaf[0], as_jax(draw(kind, n=1))) for kind in KINDS)
    with pytest.raises(ValueError, match="compiled for bins"):
        compiled["binned"][0].flux(tau)
    with pytest.raises(ValueError, match="compiled for a delayed exponential"):
        compiled["delayed_tau"][0].flux(binned)
    with pytest.raises(ValueError, match="compiled for a delayed exponential"):
        compiled["delayed_tau"][0].mean_age(binned)
    free_gas = eqx.tree_at(lambda p: p.gas_logz, binned, jnp.asarray(0.0), is_leaf=lambda leaf: leaf is None)
    with pytest.raises(ValueError, match="`gas_logz` must be None"):
        compiled["binned"][0].flux(free_gas)
    with pytest.raises(ValueError, match="`galaxies` must be compiled with equal settings"):
        stack([compiled["binned"][0], compiled["delayed_tau"][0]])
    with pytest.raises(ValueError, match="`n_node` must be at least 1, got 0"):
        PhotometryCompiler(grid, load_filters(["sdss_r0"]), n_node=0)
    with pytest.raises(ValueError, match="`zred` must lie in"):
        compile_photometry(grid, load_filters(["sdss_r0"]), -0.2)
    far = PhotometryCompiler(grid, load_filters(["sdss_r0"]), nebular=False, dust_emission=False)
    with pytest.raises(ValueError, match="`zred` must lie in"):
        far(99.0)
