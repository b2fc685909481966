import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sed.constants import LIGHT_AA
from sed.cosmology import default_cosmology
from sed.dust import Calzetti
from sed.parameters import BinnedSFH, DelayedTauSFH, SEDParams
from sed.reference import FSPSReference
from sed.sfh import agebins
from sed.spectrum import Spectrum, SpectrumModel, energy_weights
from sed.ssp import SSPGrid

ZRED = 0.3
TMAX = float(default_cosmology().age_np(ZRED))
BINS = agebins(TMAX)
REST = {"logzsol": -0.35, "dust2": 0.6, "dust1": 0.4, "dust_index": -0.3, "gas_logu": -2.4}
BINNED = SEDParams(BinnedSFH(10.2, -9.3, 0.3, np.array([0.2, -0.5, 0.1, 0.4])), **REST)
TAU = SEDParams(DelayedTauSFH(10.2, 5.0, 1.7), **REST)


@pytest.fixture(scope="module")
def model(grid: SSPGrid) -> SpectrumModel:
    return SpectrumModel.from_grid(grid, agebins=BINS)


def spectrum(model: SpectrumModel, params: SEDParams, **changes: float) -> Spectrum:
    params = eqx.tree_at(
        lambda p: tuple(getattr(p, name) for name in changes), params, tuple(changes.values())
    )
    result: Spectrum = _predict(model, jax.tree.map(jnp.asarray, params))
    return result


_predict = eqx.filter_jit(lambda model, params: model(params))


def test_stars_alone_are_the_weighted_sum_of_the_grid(grid: SSPGrid) -> None:
    stars = SpectrumModel.from_grid(grid, agebins=BINS, nebular=False, dust_emission=False)
    k, part = 9, 0.3
    logzsol = (1 - part) * grid.logzsol[k] + part * grid.logzsol[k + 1]
    result = spectrum(stars, BINNED, logzsol=logzsol, dust2=0.0, dust1=0.0)
    # Stars of one age bin counted on a fine grid of times: each takes the spectrum interpolated in log age.
    rate = _rates(BINNED)
    expected = np.zeros(grid.wave.size)
    for (low, high), sfr in zip(10.0**BINS, rate, strict=True):
        t = np.geomspace(low, high, 4001)
        middle, width = 0.5 * (t[1:] + t[:-1]), np.diff(t)
        per_age = np.zeros(grid.log_age.size)
        left = np.clip(np.searchsorted(grid.log_age, np.log10(middle)) - 1, 0, grid.log_age.size - 2)
        fraction = (np.log10(middle) - grid.log_age[left]) / (grid.log_age[left + 1] - grid.log_age[left])
        fraction = np.clip(fraction, 0, 1)
        np.add.at(per_age, left, sfr * width * (1 - fraction))
        np.add.at(per_age, left + 1, sfr * width * fraction)
        expected += per_age @ ((1 - part) * grid.flux[k] + part * grid.flux[k + 1])
    bright = expected > 1e-6 * expected.max()
    np.testing.assert_allclose(np.asarray(result.luminosity)[bright], expected[bright], rtol=2e-4)


def _rates(params: SEDParams) -> np.ndarray:
    """Msun/yr in each bin, from the definition of the parameters."""
    sfh = params.sfh
    mass, width = 10.0 ** float(sfh.logmass), np.diff(10.0**BINS, axis=1)[:, 0]
    recent = np.array([10.0 ** float(sfh.logsfr_ratio_recent), 1.0])
    older = 10.0 ** -np.concatenate([[0.0], np.cumsum(sfh.logsfr_ratios)])
    young = mass * 10.0 ** (float(sfh.logssfr) + 8)
    recent *= young / np.sum(recent * width[:2])
    return np.concatenate([recent, older * (mass - young) / np.sum(older * width[2:])])


def test_energy_is_conserved(grid: SSPGrid, model: SpectrumModel) -> None:
    weight = energy_weights(grid.wave)
    for params in (BINNED, TAU):
        clear = spectrum(model, params, dust2=0.0, dust1=0.0)
        dusty = spectrum(model, params)
        energy = [float(weight @ np.asarray(s.luminosity, float)) for s in (clear, dusty)]
        # The diffuse dust also dims the dust's own light, as in FSPS: a little is lost below 3 micron.
        assert energy[1] == pytest.approx(energy[0], rel=2e-3)
        assert energy[1] <= energy[0] * (1 + 1e-5)


def test_energy_weights_integrate() -> None:
    wave = np.geomspace(1e3, 1e5, 3000)
    nu = LIGHT_AA / wave
    assert energy_weights(wave) @ nu**-0.5 == pytest.approx(2 * (nu[0] ** 0.5 - nu[-1] ** 0.5), rel=1e-5)


@pytest.mark.parametrize("params", [BINNED, TAU], ids=["binned", "delayed_tau"])
def test_ten_times_the_mass(model: SpectrumModel, params: SEDParams) -> None:
    once = spectrum(model, params)
    more = eqx.tree_at(lambda p: p.sfh.logmass, params, 11.2)
    tenfold = spectrum(model, more)
    np.testing.assert_allclose(tenfold.luminosity, 10 * once.luminosity, rtol=1e-4, atol=1e-30)
    assert float(tenfold.mfrac) == pytest.approx(float(once.mfrac), rel=1e-5)
    assert 0.4 < float(once.mfrac) < 0.9


def test_balmer_decrement_is_case_b(grid: SSPGrid, model: SpectrumModel) -> None:
    clear = np.asarray(spectrum(model, BINNED, dust2=0.0, dust1=0.0).line_luminosity)
    dusty = np.asarray(spectrum(model, BINNED).line_luminosity)
    assert grid.nebular is not None
    alpha, beta = (int(np.argmin(np.abs(grid.nebular.line_wave - wave))) for wave in (6564.6, 4862.7))
    assert clear[alpha] / clear[beta] == pytest.approx(2.86, rel=0.05)
    assert dusty[alpha] / dusty[beta] > 1.05 * clear[alpha] / clear[beta]
    # Kennicutt (1998), for a Chabrier mass function: SFR = 4.6e-42 L(Halpha); 3.839e33 erg/s. His tracks are
    # older and his metallicity is solar; with less, stars ionize more.
    sfr = 4.6e-42 * 3.839e33 * clear[alpha]
    assert 1.0 < sfr / _rates(BINNED)[0] < 1.6


def test_lines_are_in_the_spectrum(grid: SSPGrid, model: SpectrumModel) -> None:
    dry = SpectrumModel.from_grid(grid, agebins=BINS, nebular=False)
    wet, stars = (np.asarray(spectrum(m, BINNED, dust2=0.0, dust1=0.0).luminosity) for m in (model, dry))
    near = (grid.wave > 6300) & (grid.wave < 6830)
    added = float(np.sum(energy_weights(grid.wave)[near] * (wet - stars)[near]))
    assert grid.nebular is not None
    lines = np.asarray(spectrum(model, BINNED, dust2=0.0, dust1=0.0).line_luminosity)
    inside = (grid.nebular.line_wave > 6300) & (grid.nebular.line_wave < 6830)
    assert added == pytest.approx(lines[inside].sum(), rel=0.05)  # FSPS's wavelengths sample a line coarsely
    ionizing = grid.wave < 900
    assert np.all(wet[ionizing] < 0.05 * stars[ionizing].max())


def test_calzetti_model_ignores_the_index(grid: SSPGrid) -> None:
    calzetti = SpectrumModel.from_grid(grid, agebins=BINS, curve=Calzetti)
    one, other = (spectrum(calzetti, BINNED, dust_index=index).luminosity for index in (-0.5, 0.3))
    np.testing.assert_array_equal(one, other)


def test_gas_metallicity_of_its_own(model: SpectrumModel) -> None:
    tied = spectrum(model, BINNED).line_luminosity
    same = eqx.tree_at(lambda p: p.gas_logz, BINNED, REST["logzsol"], is_leaf=lambda leaf: leaf is None)
    np.testing.assert_allclose(spectrum(model, same).line_luminosity, tied, rtol=1e-5)
    poor = eqx.tree_at(lambda p: p.gas_logz, BINNED, -1.5, is_leaf=lambda leaf: leaf is None)
    assert not np.allclose(spectrum(model, poor).line_luminosity, tied, rtol=0.1)


def test_bins_are_needed_for_a_binned_history(grid: SSPGrid) -> None:
    with pytest.raises(ValueError, match="`agebins` must be given"):
        SpectrumModel.from_grid(grid)(BINNED)


@pytest.mark.fsps
@pytest.mark.parametrize("params", [BINNED, TAU], ids=["binned", "delayed_tau"])
def test_agrees_with_fsps(grid: SSPGrid, params: SEDParams) -> None:
    theirs = FSPSReference(dust_emission=True).rest_spectrum(params, BINS, ZRED)
    with jax.enable_x64(True):
        ours = spectrum(SpectrumModel.from_grid(grid, agebins=BINS), params)
    np.testing.assert_allclose(grid.wave, theirs.wave)
    bright = theirs.lnu > 1e-3 * theirs.lnu.max()
    # The grid is stored in single precision, and FSPS leaves out the oldest 1e-4 of a tabular history.
    np.testing.assert_allclose(np.asarray(ours.luminosity)[bright], theirs.lnu[bright], rtol=1e-3)
    assert float(ours.mfrac) == pytest.approx(theirs.mfrac, rel=1e-3)
