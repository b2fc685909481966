import numpy as np
import pytest

from sed.dust import Calzetti, KriekConroy, birth_cloud_transmission, diffuse_transmission
from sed.nodes import NodeFinder, attenuation_sample

WAVE = np.geomspace(912.0, 2e4, 500)
FLUX = np.exp(-1000 / WAVE)[None, None] * np.linspace(0.5, 2, 12).reshape(3, 4, 1)


def rows() -> np.ndarray:
    """Three bands: far ultraviolet, blue, near infrared."""
    centres = np.array([1500.0, 4500.0, 12000.0])[:, None]
    band = np.exp(-0.5 * ((WAVE - centres) / (0.08 * centres)) ** 8)
    return band / band.sum(axis=1, keepdims=True)


def compare(n_node: int) -> tuple[np.ndarray, np.ndarray]:
    """Attenuated projections by the nodes and in full, for curves that the finder has not seen."""
    nodes, basis = NodeFinder(WAVE, FLUX, KriekConroy, n_node)(rows())
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
    np.testing.assert_allclose(result, truth, rtol=5e-3)


def test_more_nodes_are_closer() -> None:
    off = [np.max(np.abs(np.divide(*compare(n)) - 1)) for n in (2, 4, 8)]
    assert off[0] > 3 * off[1] > 9 * off[2]


def test_without_dust_nothing_is_lost() -> None:
    nodes, basis = NodeFinder(WAVE, FLUX, KriekConroy, 5)(rows())
    assert nodes.shape == (15,)
    assert basis.shape == (15, WAVE.size)
    np.testing.assert_allclose(
        basis.reshape(3, 5, -1).sum(axis=1) @ FLUX[0, 0], rows() @ FLUX[0, 0], rtol=1e-3
    )


def test_band_without_light_keeps_its_projection() -> None:
    dark = np.where(WAVE < 1300, 0.0, FLUX)
    row = np.where(WAVE < 1200, 1.0, 0.0)[None]
    _, basis = NodeFinder(WAVE, dark, KriekConroy, 4)(row)
    np.testing.assert_array_equal(basis.sum(axis=0), row[0])


@pytest.mark.parametrize("curve", [KriekConroy, Calzetti])
def test_sample_of_curves(curve: type[KriekConroy]) -> None:
    sample = attenuation_sample(WAVE, curve)
    np.testing.assert_array_equal(sample[0], 1)
    assert np.all((sample >= 0) & (sample <= 1))


def test_complete_extinction_is_no_obstacle() -> None:
    """Far in the ultraviolet the strongest curves let nothing pass in single precision."""
    wave = np.geomspace(300.0, 2e4, 500)
    row = np.where((wave > 320) & (wave < 600), 1.0, 0.0)[None]
    nodes, basis = NodeFinder(wave, np.ones((3, 4, 500)), KriekConroy, 6)(row)
    assert np.all(np.isfinite(nodes))
    assert np.all(np.isfinite(basis))


def test_refuses() -> None:
    with pytest.raises(ValueError, match="`n_node` must be at least 1, got 0"):
        NodeFinder(WAVE, FLUX, KriekConroy, 0)
