"""Properties and conditions: ranges, scales, refusals, independence of the proposal."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from generative.conditions import (
    Observing,
    age_universe_gyr,
    check_theta,
    draw_observing,
    draw_theta,
    n_observing,
    observing_columns,
    theta_columns,
)
from generative.instrument import HST_F814W, SDSS_GRIZ, Instrument, instrument


def test_drawn_properties_fill_their_range() -> None:
    zred = torch.linspace(0.05, 0.25, 2000)
    theta = draw_theta(2000, zred, torch.Generator().manual_seed(0))
    columns = theta_columns(theta, zred)
    assert columns.abs().max() <= 1
    for i in (0, 1, 3, 4, 5):
        np.testing.assert_allclose(np.quantile(columns[:, i], [0.1, 0.5, 0.9]), [-0.8, 0, 0.8], atol=0.06)
    check_theta(theta, zred)


@pytest.mark.parametrize("chosen", [SDSS_GRIZ, HST_F814W])
def test_properties_say_nothing_of_the_conditions(chosen: Instrument) -> None:
    """Else the contrastive loss would learn p(theta | u): no column of theta may go with one of u."""
    g = torch.Generator().manual_seed(1)
    n = 4000
    zred = chosen.zred[0] + (chosen.zred[1] - chosen.zred[0]) * torch.rand(n, generator=g)
    theta = theta_columns(draw_theta(n, zred, g), zred).numpy()
    u = observing_columns(draw_observing(n, zred, chosen, g), chosen).numpy()
    for i in range(theta.shape[1]):
        for j in range(1 + 2 * chosen.n_band):
            assert abs(spearmanr(theta[:, i], u[:, j]).statistic) < 0.06


def test_age_column_is_a_fraction_of_the_age_of_the_universe() -> None:
    zred = torch.tensor([0.1, 0.8])
    theta = torch.tensor([[10.0, -10.0, 5.0, 0.0, 0.5, -2.0]]).expand(2, -1)
    column = theta_columns(theta, zred)[:, 2]
    expected = 2 * (5 / age_universe_gyr(zred) - 0.02) / 0.88 - 1
    torch.testing.assert_close(column, expected)


def test_a_missing_band_has_no_conditions() -> None:
    u = Observing(
        torch.tensor([0.1]),
        torch.tensor([[1.3, torch.nan, 1.2, 1.2]]),
        torch.tensor([[500.0, torch.nan, 0, 400.0]]),
    )
    columns = observing_columns(u, SDSS_GRIZ)
    assert columns.shape == (1, n_observing(SDSS_GRIZ))
    assert torch.isfinite(columns).all()
    assert columns[0, 9:].tolist() == [1, 0, 0, 1]
    assert columns[0, [2, 3, 6, 7]].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [(0, 13.0, "`logmass` in row 1 must be between 8.5 and 12"), (2, 13.0, "`mwa` in row 1 .* Gyr at zred"),
     (4, float("inf"), "`dust2` in row 1")],
)  # fmt: skip
def test_properties_out_of_range_are_refused(column: int, value: float, match: str) -> None:
    theta = torch.tensor([[10.0, -10.0, 5.0, 0.0, 0.5, -2.0]]).repeat(2, 1)
    theta[0, 3] = torch.nan  # not known: fine
    check_theta(theta, torch.tensor([0.1, 0.1]))
    theta[1, column] = value
    with pytest.raises(ValueError, match=match):
        check_theta(theta, torch.tensor([0.1, 0.1]))


def test_unknown_instrument() -> None:
    assert instrument("hst-f814w") is HST_F814W
    with pytest.raises(ValueError, match="must be one of sdss-griz, hst-f814w, got 'jwst'"):
        instrument("jwst")


def test_depth_gives_the_noise() -> None:
    """A point source at the 5-sigma depth has S/N 5 in an aperture of the PSF's weight."""
    for chosen in (SDSS_GRIZ, HST_F814W):
        for (low, high), depth, noise in zip(chosen.psf_fwhm, chosen.depth, chosen.noise, strict=True):
            s = 0.5 * (low + high) / 2.3548 / chosen.pixel_scale
            y, x = np.mgrid[-40:41, -40:41]
            weight = np.exp(-0.5 * (x**2 + y**2) / s**2)
            psf = weight / weight.sum()
            best = 10 ** (-0.4 * depth) * np.sqrt((psf**2).sum()) / noise
            assert abs(best - 5) < 0.05
