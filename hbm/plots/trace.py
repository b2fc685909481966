"""Rank plots: chains that agree visit all ranks alike."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from scipy.stats import rankdata

from hbm.convergence import component_diagnostics
from hbm.labels import label_of, split_component
from hbm.plots.style import CHAINS, INK, style
from hbm.results import FitResult


def rank_counts(draws: Float[np.ndarray, "chain draw"], n_bin: int) -> Int[np.ndarray, "chain bin"]:
    """Ranks of each chain's draws among all draws, counted in `n_bin` equal bins.

    Chains that sample the same distribution have flat counts (Vehtari et al. 2021, arXiv:1903.08008,
    section 4).
    """
    ranks = rankdata(draws, method="average").reshape(draws.shape)
    edges = np.linspace(0.5, draws.size + 0.5, n_bin + 1)
    return np.stack([np.histogram(chain, edges)[0] for chain in ranks])


def plot_trace_summary(result: FitResult, params: Sequence[str] | None = None, *, n_bin: int = 20) -> Figure:
    """Rank histogram of each chain, a panel per parameter, titled by R-hat and effective sample size.

    Parameters
    ----------
    result
        Result of one galaxy.
    params
        Variables or components; by default all that vary, but for ``sfr_bins`` and ``mass_bins``.
    n_bin
        Bins of the ranks.

    Raises
    ------
    ValueError
        If a parameter is not a scalar of the posterior, or there is none to show.
    """
    known = result.components
    names = _default_params(result) if params is None else list(params)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"`params` must be scalars of the posterior ({', '.join(known)}), got {unknown or 'none'}."
        )
    parts = component_diagnostics({name: result.draws(name)[None] for name in names})
    n_column = min(4, len(names))
    n_row = -(-len(names) // n_column)
    with style():
        figure = Figure(figsize=(2.9 * n_column, 1.9 * n_row + 0.6), layout="constrained")
        grid = figure.subplots(n_row, n_column, squeeze=False, sharex=True, sharey=True).ravel()
        highest = 1.8
        for i, (axes, name) in enumerate(zip(grid, names, strict=False)):
            draws = result.draws(name)
            counts = rank_counts(draws, n_bin)
            expected = draws.shape[1] / n_bin
            axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=":")
            for chain, count in enumerate(counts):
                axes.stairs(
                    count / expected,
                    np.linspace(0.0, 1.0, n_bin + 1),
                    baseline=None,
                    color=CHAINS[chain % len(CHAINS)],
                    label=f"chain {chain}",
                )
            highest = max(highest, counts.max() / expected)
            rhat, ess = parts.rhat[0, i], parts.ess_bulk[0, i]
            axes.set_title(rf"{label_of(name).symbol}: $\hat{{R}} = {rhat:.3f}$, ESS {ess:.0f}", fontsize=11)
        grid[0].set_xlim(0.0, 1.0)
        grid[0].set_ylim(0.0, 1.1 * highest)
        for axes in grid[len(names) :]:
            axes.set_visible(False)
        for axes in grid[max(len(names) - n_column, 0) : len(names)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel("Rank among all draws (fraction)", fontsize=13)
        figure.supylabel("Draws / expected", fontsize=13)
    return figure


def _default_params(result: FitResult) -> list[str]:
    """Names of what varies, without the bins, which follow from the ratios."""
    names = [name for name in result.components if split_component(name)[0] not in ("sfr_bins", "mass_bins")]
    return [name for name in names if np.ptp(result.draws(name)) > 0]
