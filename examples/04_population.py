"""A population with and without images.

Question: how does dust depend on star formation in a survey, and how much better is that known with images?
Data: a simulated survey at z = 0.1: galaxies of a known population (star-forming sequence, quiescent part,
dust that rises with sSFR and mass), with ugriz fluxes of S/N 20 and an SDSS image each.
New: `hbm.quick.quick_fit` for many galaxies at one redshift, chains (`hbm.fit`) for those where it has too
few draws; `hbm.population`: from posteriors of single galaxies to relations, twice.
Run time: half an hour on two cores: the images' statistics, and chains for some galaxies; `--smoke`: half a
minute.
Expected: the true relations are inside the posteriors both times. With images the relation of dust to star
formation, its scatter, and the part of quiescent galaxies are known better; offsets in mass are not.

    python examples/04_population.py [--smoke] [--out FOLDER] [--n 150]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from numpyro.infer import Predictive

import hbm
from generative.controlled import Chosen, controlled_stamps
from generative.mock import trained_ages
from generative.release import load, model_path
from generative.simulator.render import Simulator
from generative.simulator.stars import band_tables
from generative.summaries import compile_file, stamps_hash
from hbm.catalog import Catalog
from hbm.galaxies import DataBuilder
from hbm.image import load_image_likelihood
from hbm.library import Library, make_library
from hbm.plots.planes import COLOURS
from hbm.plots.style import INK, TRUTH, style
from hbm.population import DustRelation, Population, StarFormingSequence, fit_population, gather_draws
from hbm.population.draws import PROPERTIES, interim_log_prob
from hbm.quick import quick_fit
from hbm.results import FitResult
from sed.io import load_grid

MODEL, ZRED, SNR = "sdss-griz", 0.1, 20.0
BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
TRUE = {
    "sfs_offset": 0.1, "sfs_tilt": 0.0, "sfs_scatter": 0.3, "quiescent_mass": 10.7, "quiescent_width": 0.4,
    "quiescent_logssfr": -11.9, "quiescent_scatter": 0.4,
    "dust_level": 0.5, "dust_mass": 0.2, "dust_ssfr": 0.4, "dust_scatter": 0.3,
}  # fmt: skip


def draw_survey(
    config: hbm.ModelConfig, population: Population, n: int, n_prior: int
) -> tuple[Catalog, Library]:
    """Photometry of galaxies of the population, and the galaxies: prior draws, chosen by their weights."""
    ones = np.ones((1, len(BANDS)))
    data = DataBuilder(load_grid(), config, BANDS)(catalog_of(("any",), ones, ones), 0)
    library = make_library(data, config, n_prior, seed=101)
    library = library.select(trained_ages(library.sites["mwa"], library.sites["logssfr"], ZRED))
    galaxies = {name: jnp.asarray(library.sites[name]) for name in PROPERTIES}
    galaxies["age_universe"] = jnp.full(library.n, library.age_universe)
    log_weight = population.log_prob(galaxies, TRUE) - interim_log_prob(
        galaxies, config.prior, population.properties
    )
    weight = np.exp(np.asarray(log_weight, np.float64) - float(log_weight.max()))
    rng = np.random.default_rng(4)
    chosen = library.select(rng.choice(library.n, n, replace=False, p=weight / weight.sum()))
    true = chosen.flux().astype(np.float64)
    error = true / SNR
    flux = true + np.hypot(error, 0.05 * true) * rng.standard_normal(true.shape)
    return catalog_of(tuple(f"g{i:04d}" for i in range(n)), flux, error), chosen


def catalog_of(names: tuple[str, ...], flux: np.ndarray, flux_err: np.ndarray) -> Catalog:
    """Catalogue with all bands observed."""
    n = len(names)
    return Catalog(
        id=names, zred=np.full(n, ZRED), zred_err=np.zeros(n), flux=flux, flux_err=flux_err,
        observed=np.ones(flux.shape, bool), upper_limit=np.zeros(flux.shape, bool), filter_names=BANDS,
    )  # fmt: skip


def add_images(catalog: Catalog, galaxies: Library, out: Path, max_draw: int) -> Catalog:
    """The same with simulated images."""
    model, likelihood = load(MODEL), load_image_likelihood(MODEL)
    simulator = Simulator(model.instrument, tables=band_tables(model.instrument, [ZRED]))
    stamps = controlled_stamps(simulator, catalog.id, galaxies.theta(), 0, Chosen(), seed=4)
    file = out / f"statistics-{stamps_hash(stamps)[:12]}-{max_draw}.h5"
    if not file.is_file():
        compile_file(model, model_path(MODEL), stamps, file, target_error=0.1, max_draw=max_draw, chunk=8)
    return hbm.with_images(catalog, file, likelihood)


def fit_all(
    catalog: Catalog, use: tuple[str, ...], out: Path, n_prior: int, *, chains: bool
) -> list[FitResult]:
    """Weights for all galaxies; chains for those with too few effective draws, kept in a folder."""
    rule = hbm.ConvergenceRule() if chains else hbm.ConvergenceRule(ess_bulk=3)
    found = {fit.galaxy_id: fit for fit in quick_fit(catalog, use=use, n_prior=n_prior, seed=5, rule=rule)}
    poor = [i for i, name in enumerate(catalog.id) if not found[name].convergence.converged]
    print(
        f"{' and '.join(use)}: {len(catalog) - len(poor)} by weights, {len(poor)} have too few draws",
        flush=True,
    )
    if chains and poor:
        folder = out / "-".join(use)
        done = {path.stem for path in folder.glob("*.nc")} if folder.is_dir() else set()
        left = [i for i in poor if catalog.id[i] not in done]
        if left:
            hbm.fit(catalog.select(left), use=use, seed=5, outdir=folder)
        for i in poor:
            found[catalog.id[i]] = hbm.load_result(folder / f"{catalog.id[i]}.nc")
    return [fit for fit in found.values() if fit.convergence.converged]


def figure_of(found: dict[str, object], population: Population, n: int) -> Figure:
    """Hyperparameters: hyperprior, both posteriors, truth."""
    some = Predictive(population.sample, num_samples=4000)
    prior = {name: np.asarray(value) for name, value in some(jax.random.key(0)).items()}
    names = [name for name in TRUE if name in prior]
    n_row = -(-len(names) // 4)
    with style():
        figure = Figure(figsize=(13, 2.5 * n_row + 0.6), layout="constrained")
        panels = figure.subplots(n_row, 4, squeeze=False).ravel()
        for axes, name in zip(panels, names, strict=False):
            draws = {use: result.draws(name) for use, result in found.items()}
            low, high = np.quantile(np.concatenate(list(draws.values())), (0.001, 0.999))
            low, high = min(low, TRUE[name]), max(high, TRUE[name])
            margin = 0.2 * (high - low)
            edges = np.linspace(low - margin, high + margin, 41)
            counts, _ = np.histogram(prior[name], edges)
            axes.stairs(
                counts / (4000 * np.diff(edges)), edges, color=INK, linestyle="--", label="hyperprior"
            )
            for use, values in draws.items():
                label = "photometry and images" if use == "both" else use
                axes.hist(values, edges, density=True, color=COLOURS[use], alpha=0.55, label=label)
            axes.axvline(TRUE[name], color=TRUTH, linewidth=1.8, label="truth")
            axes.set_xlabel(name)
            axes.set_yticks([])
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=4, title=f"{n} galaxies")
    return figure


def main() -> None:
    """Survey, fits, populations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few galaxies and draws, no chains")
    parser.add_argument("--out", type=Path, default=Path("population"))
    parser.add_argument("--n", type=int, default=150, help="galaxies")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    n, n_prior, n_step = (4, 20_000, 20) if args.smoke else (args.n, 400_000, 500)
    config = hbm.image_config(hbm.ModelConfig(), load_image_likelihood(MODEL))
    prior = config.prior
    every = (StarFormingSequence(*prior.logssfr), DustRelation(prior.dust2[2]))
    catalog, galaxies = draw_survey(config, Population(every), n, 20_000 if args.smoke else 200_000)
    catalog = add_images(catalog, galaxies, args.out, 8 if args.smoke else 32)
    population = Population(every[1:] if args.smoke else every)
    found, counts = {}, {}
    for name, use in (("photometry", ("photometry",)), ("both", ("photometry", "image"))):
        fits = fit_all(catalog, use, args.out, n_prior, chains=not args.smoke)
        counts[name] = len(fits)
        found[name] = fit_population(gather_draws(fits), population, n_warmup=n_step, n_draw=n_step, seed=6)
        print(f"{name}: {len(fits)} galaxies, flag of the population {found[name].flag}", flush=True)
    figure_of(found, population, max(counts.values())).savefig(args.out / "population.png", dpi=100)
    print(f"Figure: {args.out / 'population.png'}")
    print(f"{'':18s} {'truth':>6s} {'photometry':>16s} {'with images':>16s}  narrower by")
    ratios = {}
    for name, value in TRUE.items():
        if name not in found["both"].idata.posterior:
            continue
        a, b = (found[use].draws(name) for use in ("photometry", "both"))
        ratios[name] = float(a.std() / b.std())
        print(
            f"{name:18s} {value:6.2f} {a.mean():8.2f} +- {a.std():4.2f} {b.mean():8.2f} +- {b.std():4.2f}  "
            f"{ratios[name]:.2f}"
        )
    most = max(ratios, key=lambda name: ratios[name])
    known = {name: found["both"].draws(name) for name in ratios}
    off = [name for name, x in known.items() if abs(x.mean() - TRUE[name]) > 2 * x.std()]
    middle = np.exp(np.mean(np.log(list(ratios.values()))))
    print(
        f"Conclusion: images make the hyperparameters {middle:.2f} times narrower on average, {most} most "
        f"({ratios[most]:.2f}). With images {len(ratios) - len(off)} of {len(ratios)} are within two "
        "standard deviations of the truth."
    )


if __name__ == "__main__":
    main()
