import numpy as np
import pytest
from scipy.ndimage import convolve, gaussian_filter

from generative.ingest import noise
from generative.ingest.exposure import plain_wcs
from generative.ingest.overlap import Grid, overlap_matrix


def resampler(new: Grid, old: Grid):
    matrix = overlap_matrix(new, old)
    return lambda image: (matrix @ image.ravel()).reshape(new.shape)


OLD = Grid(plain_wcs((70, 70), 0.262, ra=10.0), (70, 70))
NEW = Grid(plain_wcs((32, 32), 0.396, ra=10.0), (32, 32))


def test_noise_after_resampling_is_what_another_simulation_gives() -> None:
    operation = resampler(NEW, OLD)
    told = noise.after(noise.independent(2.0), OLD.shape, operation, seed=1)
    rng = np.random.default_rng(99)
    fields = np.stack([operation(2.0 * rng.standard_normal(OLD.shape)) for _ in range(200)])
    assert told.sigma == pytest.approx(fields.std(), rel=0.01)
    neighbours = (fields[:, :, 1:] * fields[:, :, :-1]).mean() / fields.var()
    assert told.neighbour == pytest.approx(neighbours, abs=0.01)
    assert neighbours > 0.1  # resampling does correlate
    # Independent sums per new pixel would have been too large: shared pixels lose variance.
    assert told.sigma < 2.0 * 0.396 / 0.262


def test_error_of_a_sum_counts_correlations() -> None:
    operation = resampler(NEW, OLD)
    told = noise.after(noise.independent(1.0), OLD.shape, operation, seed=1)
    rng = np.random.default_rng(5)
    sums = [operation(rng.standard_normal(OLD.shape))[4:28, 4:28].sum() for _ in range(600)]
    expected = told.sigma * 24 * told.sum_factor
    assert np.std(sums) == pytest.approx(expected, rel=0.09)  # 600 draws: 3 %, edges a little


@pytest.mark.parametrize("blur", [0.0, 0.5, 0.8])
def test_whitened_noise_is_independent_and_as_large_as_told(blur: float) -> None:
    matrix = overlap_matrix(NEW, OLD)

    def operation(image: np.ndarray) -> np.ndarray:
        return (matrix @ gaussian_filter(image, blur, mode="wrap").ravel()).reshape(NEW.shape)

    told = noise.after(noise.independent(1.0), OLD.shape, operation, seed=2)
    rng = np.random.default_rng(7)
    done, sigma = [], 0.0
    for _ in range(150):
        extra, sigma = noise.whitening_noise(told, NEW.shape, rng)
        done.append(operation(rng.standard_normal(OLD.shape)) + extra)
    fields = np.stack(done)
    assert fields.std() == pytest.approx(sigma, rel=0.015)
    for lag in ((0, 1), (1, 0), (1, 1), (0, 2)):
        shifted = np.roll(fields, lag, axis=(1, 2))[:, 2:, 2:]
        assert abs((shifted * fields[:, 2:, 2:]).mean() / fields.var()) < 0.03
    assert sigma > told.sigma  # it costs depth


def test_measured_noise_finds_what_was_put_in_and_leaves_sources_out() -> None:
    rng = np.random.default_rng(3)
    smooth = gaussian_filter(rng.standard_normal((160, 160)), 0.7, mode="wrap")
    smooth *= 3.0 / smooth.std()
    sky = np.ones((160, 160), bool)
    sky[60:90, 60:90] = False
    image = smooth + 7.0
    image[~sky] += 100.0
    found = noise.measured_noise(image, sky)
    assert found is not None
    assert found.sigma == pytest.approx(3.0, rel=0.02)
    true = (smooth[:, 1:] * smooth[:, :-1]).mean() / smooth.var()
    assert found.neighbour == pytest.approx(true, abs=0.02)
    again = np.stack([noise.draw_noise(found, (64, 64), rng) for _ in range(40)])
    assert again.std() == pytest.approx(3.0, rel=0.03)
    assert (again[:, :, 1:] * again[:, :, :-1]).mean() / again.var() == pytest.approx(true, abs=0.03)


def test_too_little_sky_says_nothing() -> None:
    sky = np.zeros((50, 50), bool)
    sky[:5] = True
    assert noise.measured_noise(np.ones((50, 50)), sky) is None


def test_correlations_pooled_over_small_cutouts() -> None:
    """Each of another level and unit, with a source; the truth by the kernel that made the noise."""
    rng = np.random.default_rng(3)
    kernel = np.array([[0.1, 0.3, 0.1], [0.3, 1.0, 0.3], [0.1, 0.3, 0.1]])
    images, skies = [], []
    for _ in range(200):
        image = convolve(rng.standard_normal((26, 26)), kernel)[3:-3, 3:-3]
        image = 10 ** rng.uniform(-9, 0) * (image + rng.uniform(-5, 5))
        sky = np.ones(image.shape, bool)
        sky[5:15, 5:15] = False
        image[8:12, 8:12] += 100 * image.std()
        images.append(image)
        skies.append(sky)
    found = noise.pooled_correlation(images, skies)
    field = np.zeros((9, 9))
    field[3:6, 3:6] = kernel
    expected = convolve(field, kernel, mode="constant")
    expected /= expected[4, 4]
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert found[4, 4] == 1.0
    with pytest.raises(ValueError, match="at least 1000 pixels together"):
        noise.pooled_correlation(images[:1], skies[:1])
