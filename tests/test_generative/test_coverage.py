"""TARP through sbi: exact posteriors pass, wrong ones do not, and the formula is that of the paper."""

import builtins
from typing import Any

import numpy as np
import pytest

from generative.coverage import N_LEVEL, expected_coverage

LEVEL = np.linspace(0, 1, N_LEVEL)


def curve(scale: float = 1.0, shift: float = 0.0, n: int = 400) -> np.ndarray:
    pytest.importorskip("sbi", reason="needs the extra [calibrate]")
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(n, 3))
    truth = centre + 0.5 * rng.normal(size=(n, 3))
    draws = centre[:, None] + shift + 0.5 * scale * rng.normal(size=(n, 199, 3))
    references = rng.uniform(truth.min(0), truth.max(0), (4, n, 3))
    return expected_coverage(draws, truth, references)


def test_exact_posteriors_are_covered_as_they_say() -> None:
    # Kolmogorov-Smirnov: 0.068 in 95 of 100 cases for one set of references; four are less noisy.
    assert np.abs(curve() - LEVEL).max() < 0.068


def test_narrow_and_biased_posteriors_are_noticed() -> None:
    narrow, wide = curve(scale=0.5), curve(scale=2.0)
    assert (narrow - LEVEL)[70] < -0.1
    assert (wide - LEVEL)[70] > 0.08
    assert np.abs(curve(shift=0.5) - LEVEL).max() > 0.1


def test_formula_of_the_paper() -> None:
    pytest.importorskip("sbi", reason="needs the extra [calibrate]")
    rng = np.random.default_rng(1)
    draws, truth = rng.normal(size=(60, 50, 2)), rng.normal(size=(60, 2))
    low, high = truth.min(0), truth.max(0)
    references = rng.uniform(low, high, (1, 60, 2))
    found = expected_coverage(draws, truth, references)

    # Equation 4 and algorithm 2 of Lemos et al. (2023), distances in units of the truths' range.
    def distance(x: np.ndarray) -> np.ndarray:
        return np.linalg.norm((x - references[0][:, None]) / (high - low), axis=-1)

    f = (distance(draws) < distance(truth[:, None])).mean(axis=1)
    # Between the histogram's edges sbi's curve is known to one bin.
    for level, value in zip(LEVEL, found, strict=True):
        assert (f < level - 0.021).mean() - 1e-6 <= value <= (f <= level + 0.021).mean() + 1e-6


def test_without_sbi_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sbi"):
            raise ImportError("no sbi")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install \"galaxy-hbm\[calibrate\]\""):
        expected_coverage(np.zeros((8, 4, 2)), np.zeros((8, 2)), np.zeros((1, 8, 2)))
