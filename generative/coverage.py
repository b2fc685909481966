"""Expected coverage by TARP, from draws of posteriors (Lemos et al. 2023, arXiv:2302.03026).

sbi computes it. This is here and not in `hbm` because sbi works with torch.
"""

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

N_LEVEL = 101
"""Credibilities, from 0 to 1, at which the coverage is given."""


class _Drawn:
    """Draws of posteriors behind the interface that sbi's diagnostics ask: x is the galaxy's number."""

    def __init__(self, draws: Tensor) -> None:
        self.draws = draws

    def sample_batched(
        self, sample_shape: tuple[int, ...], x: Tensor, show_progress_bars: bool = False
    ) -> Tensor:
        del show_progress_bars
        return self.draws[x[:, 0].long(), : sample_shape[0]].transpose(0, 1)


def expected_coverage(
    draws: Float[np.ndarray, "galaxy draw theta"],
    truth: Float[np.ndarray, "galaxy theta"],
    references: Float[np.ndarray, "set galaxy theta"],
) -> Float[np.ndarray, " level"]:
    """Part of the truths that lie inside credible regions around random places, by credibility.

    A region is all that is nearer to the reference than some distance, which is how TARP defines it. The
    mean over several sets of references has the same expectation as one set and less noise.

    Parameters
    ----------
    draws
        Of each galaxy's posterior, of equal weight.
    truth
        True values.
    references
        Places in the parameters' units; they must not depend on the truth of their galaxy.

    Returns
    -------
    ndarray
        Expected coverage at `N_LEVEL` credibilities from 0 to 1.

    Raises
    ------
    ImportError
        If sbi is not installed.
    """
    try:
        from sbi import diagnostics
    except ImportError as error:
        raise ImportError(
            f'TARP needs sbi, which cannot be imported ({error}): pip install "galaxy-hbm[calibrate]".'
        ) from error
    run_tarp: Any = diagnostics.run_tarp
    number = torch.arange(len(truth), dtype=torch.float32)[:, None]
    thetas, posterior = torch.as_tensor(truth).float(), _Drawn(torch.as_tensor(draws).float())
    levels = np.linspace(0, 1, N_LEVEL)
    curves = []
    with warnings.catch_warnings():
        # Few galaxies are noisy: the caller says how noisy, sbi only that they are.
        warnings.filterwarnings("ignore", "Number of TARP samples", UserWarning)
        for places in references:
            covered, credibility = run_tarp(
                thetas, number, posterior, references=torch.as_tensor(places).float(),
                num_posterior_samples=draws.shape[1], num_bins=N_LEVEL - 1, z_score_theta=True,
                show_progress_bar=False,
            )  # fmt: skip
            curves.append(np.interp(levels, credibility.numpy(), covered.numpy(), left=0.0, right=1.0))
    return np.asarray(np.mean(curves, axis=0))
