"""Hyperparameters as histograms, over what was believed of them before."""

import jax
import numpy as np
from matplotlib.figure import Figure
from numpyro.infer import Predictive

from hbm.plots.style import INK, MODEL, TRUTH, style
from hbm.population.relations import Population
from hbm.population.result import PopulationResult

_N_PRIOR = 4000


def plot_hyperparameters(
    result: PopulationResult, population: Population, truth: dict[str, float] | None = None
) -> Figure:
    """A panel for each hyperparameter: posterior filled, hyperprior as a line, true value where known.

    Parameters
    ----------
    result
        Of `hbm.population.fit_population`.
    population
        The relations that were fitted.
    truth
        True values by name.
    """
    sampled = Predictive(population.sample, num_samples=_N_PRIOR)
    prior = {name: np.asarray(value) for name, value in sampled(jax.random.key(0)).items()}
    posterior = {
        str(name): np.asarray(value.values).reshape(-1)
        for name, value in result.idata.posterior.data_vars.items()
        if value.ndim == 2 and name != "log_detected"
    }
    n_column = min(4, len(posterior))
    n_row = -(-len(posterior) // n_column)
    with style():
        figure = Figure(figsize=(3.1 * n_column, 2.3 * n_row), layout="constrained")
        panels = figure.subplots(n_row, n_column, squeeze=False).ravel()
        for axes, (name, values) in zip(panels, posterior.items(), strict=False):
            low, high = np.quantile(values, (0.001, 0.999))
            margin = 0.5 * (high - low)
            edges = np.linspace(low - margin, high + margin, 41)
            axes.hist(values, edges, density=True, color=MODEL, alpha=0.7)
            if name in prior:  # normalised over its whole range, not over the panel alone
                counts, _ = np.histogram(prior[name], edges)
                axes.stairs(counts / (_N_PRIOR * np.diff(edges)), edges, color=INK, linewidth=1.0)
            if truth is not None and name in truth:
                axes.axvline(truth[name], color=TRUTH, linewidth=1.5)
            axes.set_xlabel(name)
            axes.set_yticks([])
        for axes in panels[len(posterior) :]:
            axes.set_visible(False)
    return figure
