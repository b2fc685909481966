"""The interim prior as a figure: what a fit believes before it sees any light."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpyro.infer import Predictive
from scipy.ndimage import gaussian_filter

from hbm.config import ModelConfig
from hbm.labels import axis_label
from hbm.plots.style import INK, MODEL, TRUTH, decades, style
from hbm.prior import sample_parameters
from hbm.relations import mass_metallicity, star_forming_sequence
from sed.io import load_grid
from sed.parameters import BinnedSFH, DelayedTauSFH
from sed.sfh import agebins, bin_masses, delayed_tau_logsfr
from sed.ssp import SSPGrid

_RATE_LABEL = r"SFR / $\langle$SFR$\rangle$"
_N_MASS = 24
_BLUES = LinearSegmentedColormap.from_list("blues", ("white", "#cfe1ee", "#86b4d2", MODEL))


def prior_draws(
    config: ModelConfig, zred: float, *, grid: SSPGrid | None = None, n_draw: int = 20_000, seed: int = 0
) -> dict[str, Float[np.ndarray, "draw ..."]]:
    """Draws from the interim prior of a galaxy at a known redshift; no data come in.

    Parameters
    ----------
    config
        What would be fitted.
    zred
        Redshift, which sets the age of the universe.
    grid
        Stellar populations, whose oldest age limits the age bins; the shipped grid by default.
    n_draw, seed
        Number of draws and their seed.

    Returns
    -------
    dict
        Every site of `hbm.prior.sample_parameters` by name; ``logssfr`` also for a delayed exponential; for
        a binned history ``relative_sfr`` (draw, bin), the rate over its average since the Big Bang.

    Raises
    ------
    ValueError
        If ``zred`` is not positive or ``n_draw`` < 1.
    """
    age = _age_universe(config, zred)
    if n_draw < 1:
        raise ValueError(f"`n_draw` must be at least 1, got {n_draw}.")

    def model() -> None:
        sample_parameters(config, jnp.asarray(age))

    bins = _bins(config, age, grid)

    @jax.jit
    def draw(key: Array) -> dict[str, Array]:
        sites: dict[str, Array] = Predictive(model, num_samples=n_draw, parallel=True)(key)
        return sites | jax.vmap(lambda one: _history(one, bins))(sites)

    return {name: np.asarray(values, dtype=np.float64) for name, values in draw(jax.random.key(seed)).items()}


def _history(sites: dict[str, Array], bins: Float[np.ndarray, "bin 2"] | None) -> dict[str, Array]:
    """Derive what one draw of the sites implies for the star formation history."""
    if bins is None:
        history = DelayedTauSFH(sites["logmass"], sites["tage"], sites["tau"])
        return {"logssfr": delayed_tau_logsfr(history, 0.1) - sites["logmass"]}
    masses = bin_masses(
        BinnedSFH(sites["logmass"], sites["logssfr"], sites["logsfr_ratio_recent"], sites["logsfr_ratios"]),
        bins,
    )
    width = 10.0 ** bins[:, 1] - 10.0 ** bins[:, 0]
    return {"relative_sfr": masses / 10.0 ** sites["logmass"] * (10.0 ** bins[-1, 1] / width)}


def _bins(config: ModelConfig, age: float, grid: SSPGrid | None) -> Float[np.ndarray, "bin 2"] | None:
    """Age bins of a binned history, as the photometry is compiled: no older than the grid."""
    if config.sfh != "binned":
        return None
    grid = load_grid() if grid is None else grid
    return agebins(min(age, grid.max_age_gyr), config.n_old)


def plot_prior(
    config: ModelConfig | None = None,
    zred: float = 0.7,
    *,
    grid: SSPGrid | None = None,
    n_draw: int = 20_000,
    seed: int = 0,
) -> Figure:
    """Panels of the interim prior, from draws.

    Shading is the density of draws; dark lines are their median and central 68 %, orange lines published
    relations. The last panel of a binned history has the central 68 and 95 % of its shape.

    Parameters
    ----------
    config
        What would be fitted; ``ModelConfig()`` by default.
    zred
        Redshift, which sets the age of the universe.
    grid
        Stellar populations, whose oldest age limits the age bins; the shipped grid by default.
    n_draw, seed
        Number of draws and their seed.
    """
    config = ModelConfig() if config is None else config
    draws = prior_draws(config, zred, grid=grid, n_draw=n_draw, seed=seed)
    age = _age_universe(config, zred)
    bins = _bins(config, age, grid)
    prior = config.prior
    mass = np.linspace(*prior.logmass, 40)
    with style():
        figure = Figure(figsize=(14.0, 7.0), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        panels = figure.subplots(2, 4).ravel()
        sequence = np.asarray(star_forming_sequence(mass, age))
        _against_mass(panels[0], draws, "logssfr", prior.logssfr, mass, sequence, "Speagle et al. 2014")
        metallicity = np.asarray(mass_metallicity(mass))
        _against_mass(panels[1], draws, "logzsol", prior.logzsol, mass, metallicity, "Gallazzi et al. 2005")
        centre, width, top = prior.dust2
        _histogram(panels[2], draws["dust2"], (0.0, top), axis_label("dust2"), _normal(centre, width))
        centre, width, top = prior.dust1_fraction
        ratio = draws["dust1_fraction"]
        _histogram(panels[3], ratio, (0.0, top), axis_label("dust1_fraction"), _normal(centre, width))
        for axes, name in ((panels[4], "dust_index"), (panels[5], "gas_logu")):
            if name in draws:
                centre, width, low, top = getattr(prior, name)
                words = _normal(centre, width)
                _histogram(axes, draws[name], (low, top), axis_label(name), words)
        if bins is not None:
            label = r"$\log$ (ratio of adjacent SFRs)"
            scale, bound = prior.sfr_ratio
            words = f"Student t, 2 d.o.f., scale {scale:g}"
            _histogram(panels[6], draws["logsfr_ratios"].ravel(), (-bound, bound), label, words)
            _shape(panels[7], draws["relative_sfr"], bins, zred)
        else:
            _histogram(panels[6], np.log10(draws["tau"]), prior.logtau, axis_label("logtau"), "uniform")
            _histogram(panels[7], draws["tage"], (0.0, age), axis_label("tage"), "uniform")
        for axes in panels:
            axes.set_visible(axes.has_data())
            axes.tick_params(which="both", right=True, top=True)
        figure.suptitle(
            rf"Interim prior at $z = {zred:g}$ (age of the universe {age:.2f} Gyr)", x=0.01, ha="left"
        )
    return figure


def _age_universe(config: ModelConfig, zred: float) -> float:
    """Age of the universe in Gyr."""
    import astropy.cosmology

    if not zred > 0:
        raise ValueError(f"`zred` must be a positive redshift, got {zred}.")
    return float(getattr(astropy.cosmology, config.cosmology).age(zred).to_value("Gyr"))


def _against_mass(
    axes: Axes,
    draws: dict[str, Float[np.ndarray, "draw ..."]],
    name: str,
    limits: tuple[float, float],
    mass: Float[np.ndarray, " mass"],
    relation: Float[np.ndarray, " mass"],
    source: str,
) -> None:
    """Density of one parameter at each mass, its median and 68 %, and a published relation."""
    edges = np.linspace(mass[0], mass[-1], _N_MASS + 1)
    centres = 0.5 * (edges[1:] + edges[:-1])
    rows = np.linspace(*limits, 41)
    which = np.digitize(draws["logmass"], edges[1:-1])
    groups = [draws[name][which == i] for i in range(_N_MASS)]
    counts = np.stack([np.histogram(group, rows)[0] / max(group.size, 1) for group in groups])
    axes.pcolormesh(edges, rows, gaussian_filter(counts, 1.0, mode="nearest").T, cmap=_BLUES, rasterized=True)
    quantiles = np.transpose(
        [np.quantile(group, (0.16, 0.5, 0.84)) if group.size else [np.nan] * 3 for group in groups]
    )
    axes.plot(centres, quantiles[1], color=INK, linewidth=1.8, label="median, 68 %")
    axes.plot(centres, quantiles[[0, 2]].T, color=INK, linewidth=0.9, linestyle="--")
    axes.plot(mass, relation, color=TRUTH, linewidth=2.0, label=source)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(*limits)
    axes.set_xlabel(axis_label("logmass"))
    axes.set_ylabel(axis_label(name))
    axes.legend(
        loc="lower left" if name == "logssfr" else "lower right",
        frameon=True,
        framealpha=0.8,
        edgecolor="none",
    )


def _histogram(
    axes: Axes, values: Float[np.ndarray, " draw"], limits: tuple[float, float], label: str, words: str
) -> None:
    """Density of one parameter; lines are median and 68 %."""
    edges = np.linspace(*limits, 41).tolist()
    axes.hist(values, bins=edges, density=True, color=MODEL, alpha=0.3)
    axes.hist(values, bins=edges, density=True, color=MODEL, histtype="step", linewidth=1.4)
    low, middle, high = np.quantile(values, (0.16, 0.5, 0.84))
    axes.axvline(middle, color=INK, linewidth=1.8)
    for edge in (low, high):
        axes.axvline(edge, color=INK, linewidth=0.9, linestyle="--")
    axes.set_title(words, loc="right", fontsize=11)
    axes.set_xlim(*limits)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel(label)
    axes.set_ylabel("Density")


def _normal(centre: float, width: float) -> str:
    """Write a normal distribution, with a minus sign that is not a hyphen."""
    return rf"normal $({centre:g}, {width:g})$"


def _shape(
    axes: Axes, relative: Float[np.ndarray, "draw bin"], bins: Float[np.ndarray, "bin 2"], zred: float
) -> None:
    """Star formation rate over its average, against lookback time."""
    edges = 10.0 ** np.append(bins[0, 0], bins[:, 1]) / 1e9
    edges[0] = edges[1] / 3.0
    floor = 1e-4
    quantiles = np.quantile(relative, (0.025, 0.16, 0.5, 0.84, 0.975), axis=0)
    low95, low68, median, high68, high95 = np.maximum(quantiles, floor)
    for low, high, alpha, text in ((low95, high95, 0.16, "95 %"), (low68, high68, 0.34, "68 %")):
        axes.stairs(high, edges, baseline=low, fill=True, color=MODEL, alpha=alpha, linewidth=0, label=text)
    axes.stairs(median, edges, baseline=None, color=MODEL, linewidth=2.0, label="median")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(floor, 30.0)
    decades(axes, "x", n_decade_dense=1.0)
    decades(axes, "y", n_decade_dense=1.0)
    axes.set_xlabel(rf"Lookback time from $z = {zred:g}$ [Gyr]")
    axes.set_ylabel(_RATE_LABEL)
    axes.legend(loc="lower right")
