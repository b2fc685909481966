import numpy as np
import pytest

from sed.dust import Calzetti, KriekConroy, birth_cloud_transmission, diffuse_transmission
from sed.filters import load_filters
from sed.nodes import NodeFinder, attenuation_sample, band_node_count

WAVE = np.geomspace(912.0, 2e4, 500)
FLUX = np.exp(-1000 / WAVE)[None, None] * np.linspace(0.5, 2, 12).reshape(3, 4, 1)


def rows() -> np.ndarray:
    """Three bands: far ultraviolet, blue, near infrared."""
    centres = np.array([1500.0, 4500.0, 12000.0])[:, None]
    band = np.exp(-0.5 * ((WAVE - centres) / (0.08 * centres)) ** 8)
    return band / band.sum(axis=1, keepdims=True)


def compare(n_node: int) -> tuple[np.ndarray, np.ndarray]:
    """Attenuated projections by the nodes and in full, for curves that the finder has not seen."""
    nodes, basis = NodeFinder(WAVE, FLUX, KriekConroy)(rows(), (n_node,) * 3)
    rng = np.random.default_rng(0)
    spectrum = FLUX[1, 2] * (1 + 0.2 * np.sin(WAVE / 50))
    by_node = (basis @ spectrum).reshape(3, n_node)
    result, truth = [], []
    for _ in range(40):
        dust2, dust1, index = rng.uniform(0, 3), rng.uniform(0, 3), rng.uniform(-1, 0.4)

        def passed(
            wave: np.ndarray, dust2: float = dust2, dust1: float = dust1, index: float = index
        ) -> np.ndarray:
            curve = KriekConroy.at(wave)
            both = diffuse_transmission(curve, dust2, index) * birth_cloud_transmission(curve, dust1)
            return np.asarray(both, float)

        result.append(np.sum(by_node * passed(nodes).reshape(3, n_node), axis=1))
        truth.append(rows() @ (spectrum * passed(WAVE)))
    return np.array(result), np.array(truth)


def test_nodes_give_the_attenuated_band_flux() -> None:
    result, truth = compare(6)
    np.testing.assert_allclose(result, truth, rtol=5e-4, atol=1e-6)  # of about one without dust


def test_more_nodes_are_closer() -> None:
    off = [np.max(np.abs(np.divide(*compare(n)) - 1)) for n in (2, 4, 8)]
    assert off[0] > 3 * off[1] > 9 * off[2]


def test_without_dust_nothing_is_lost() -> None:
    counts = (3, 5, 4)
    nodes, basis = NodeFinder(WAVE, FLUX, KriekConroy)(rows(), counts)
    assert nodes.shape == (12,)
    assert basis.shape == (12, WAVE.size)
    result = np.add.reduceat(basis @ FLUX[0, 0], [0, 3, 8])
    np.testing.assert_allclose(result, rows() @ FLUX[0, 0], rtol=1e-3)
    assert np.all((nodes[:3] < 2000) & (nodes[:3] > 1200))


def test_band_without_light_keeps_its_projection() -> None:
    dark = np.where(WAVE < 1300, 0.0, FLUX)
    row = np.where(WAVE < 1200, 1.0, 0.0)[None]
    _, basis = NodeFinder(WAVE, dark, KriekConroy)(row, [4])
    np.testing.assert_array_equal(basis.sum(axis=0), row[0])


def test_no_rows() -> None:
    nodes, basis = NodeFinder(WAVE, FLUX, KriekConroy)(np.zeros((0, WAVE.size)), ())
    assert nodes.shape == (0,)
    assert basis.shape == (0, WAVE.size)


def test_number_of_nodes_of_a_band() -> None:
    names = ["galex_NUV", "sdss_g0", "wise_w1", "subaru_suprimecam_ia427", "jwst_f150w2"]
    assert [band_node_count(band) for band in load_filters(names).filters] == [5, 4, 4, 2, 6]


def test_a_leak_counts_as_width() -> None:
    """VISTA's J passes a little light far from the band, 2MASS's does not."""
    with_leak, without = load_filters(["vista_vircam_J", "twomass_J"]).filters
    assert band_node_count(with_leak) == 6
    assert band_node_count(without) == 3


@pytest.mark.parametrize("curve", [KriekConroy, Calzetti])
def test_sample_of_curves(curve: type[KriekConroy]) -> None:
    sample = attenuation_sample(WAVE, curve)
    np.testing.assert_array_equal(sample[0], 1)
    assert np.all((sample >= 0) & (sample <= 1))
    assert sample.dtype == np.float64
    assert np.min(sample[sample > 0]) < 1e-15


def test_sample_is_what_the_model_does() -> None:
    """Row 1 of the Halton sequence in bases 2, 3, 5: 1/2, 1/3, 1/5."""
    at = KriekConroy.at(WAVE)
    expected = diffuse_transmission(at, 2.0, -0.6) * birth_cloud_transmission(at, 0.8)
    np.testing.assert_allclose(attenuation_sample(WAVE, KriekConroy)[1], expected, rtol=2e-5)


def test_complete_extinction_is_no_obstacle() -> None:
    """Far in the ultraviolet the strongest curves let nothing pass in single precision."""
    wave = np.geomspace(300.0, 2e4, 500)
    row = np.where((wave > 320) & (wave < 600), 1.0, 0.0)[None]
    nodes, basis = NodeFinder(wave, np.ones((3, 4, 500)), KriekConroy)(row, [6])
    assert np.all(np.isfinite(nodes))
    assert np.all(np.isfinite(basis))


def test_refuses() -> None:
    with pytest.raises(ValueError, match="`counts` must be at least 1 for each row, got 0"):
        NodeFinder(WAVE, FLUX, KriekConroy)(rows(), (4, 0, 4))
