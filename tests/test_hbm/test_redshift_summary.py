"""Modes of draws of a redshift."""

import numpy as np
import pytest

from hbm.redshifts.summary import modes_of


def test_two_modes():
    rng = np.random.default_rng(0)
    zred = np.concatenate([rng.normal(0.3, 0.02, 500), rng.normal(2.8, 0.1, 1500)])
    modes = modes_of(zred, 1500.0)
    assert [round(mode.weight, 2) for mode in modes] == [0.75, 0.25]
    assert [mode.zred for mode in modes] == pytest.approx([2.8, 0.3], abs=0.02)
    assert modes[1].high < modes[0].low


@pytest.mark.parametrize("repeats", [1, 5])
def test_noise_of_few_draws_makes_no_modes(repeats: int):
    """One Gaussian over tens of bins, each draw there several times."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        zred = np.repeat(rng.normal(1.5, 0.4, 2000 // repeats).clip(0.05), repeats)
        modes = modes_of(zred, len(zred) / repeats)
        assert len(modes) == 1
        assert modes[0].weight == 1.0


def test_small_modes_are_found_and_tiny_ones_are_not_listed():
    rng = np.random.default_rng(2)
    main = rng.normal(0.5, 0.05, 1900)
    small = np.concatenate([main, rng.normal(3.0, 0.02, 100)])
    assert [round(mode.weight, 2) for mode in modes_of(small, 1900.0)] == [0.95, 0.05]
    tiny = np.concatenate([main, rng.normal(3.0, 0.02, 10)])
    assert len(modes_of(tiny, 1900.0)) == 1


def test_a_shoulder_is_no_mode():
    rng = np.random.default_rng(3)
    zred = np.concatenate([rng.normal(0.5, 0.05, 1500), rng.normal(0.62, 0.05, 500)])
    assert len(modes_of(zred, 2000.0)) == 1
