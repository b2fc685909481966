"""Bring a Prospector fit over.

Question: you have a Prospector script and its result. Does a fit here agree with it, and what is different?
Data: an `obs` dictionary and `model_params` as a Prospector script has them (continuity history of six bins,
Kriek & Conroy dust), and the parameters that "Prospector found". So that the example runs without Prospector,
the fluxes are made here from those parameters, with 3 % noise: a fit must find them again.
New: `sed.prospector_import`: reading `obs`, translating parameters and bins, what cannot be brought.
Run time: some minutes on two cores, most of it compilation; `--smoke`: half a minute.
Expected: mass, recent star formation, dust and metallicity of the old fit are inside the new posterior;
single bins of the history are not well known, here or there. Priors are this package's, not the script's.

    python examples/07_from_prospector.py [--smoke] [--out FOLDER]
"""

import argparse
from pathlib import Path

import numpy as np
from astropy.cosmology import Planck18

import hbm
from hbm.catalog import Catalog
from hbm.plots import plot_comparison, plot_sed, plot_sfh
from hbm.plots.style import TRUTH, style
from hbm.quick import quick_fit
from sed.compile import compile_photometry
from sed.filters import load_filters
from sed.io import load_grid
from sed.parameters import BinnedSFH, SEDParams
from sed.prospector_import import read_prospector_obs, translate_parameters

ZRED = 0.08
FILTERS = ["sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0", "twomass_J", "twomass_H", "twomass_Ks"]
AGE = float(np.log10(min(Planck18.age(ZRED).to_value("yr"), 12.5e9)))
AGEBINS = np.array([[0, 7.5], [7.5, 8], [8, 8.6], [8.6, 9.2], [9.2, 9.7], [9.7, AGE]])
MODEL_PARAMS = {
    "zred": {"N": 1, "isfree": False, "init": ZRED},
    "sfh": {"N": 1, "isfree": False, "init": 3},
    "agebins": {"N": 6, "isfree": False, "init": AGEBINS},
    "mass": {"N": 6, "isfree": True, "init": np.array([1.2e8, 1.9e8, 7.5e8, 2.6e9, 8.0e9, 1.6e10])},
    "logzsol": {"N": 1, "isfree": True, "init": -0.2},
    "imf_type": {"N": 1, "isfree": False, "init": 1},
    "dust_type": {"N": 1, "isfree": False, "init": 4},
    "dust2": {"N": 1, "isfree": True, "init": 0.45},
    "dust1": {"N": 1, "isfree": True, "init": 0.45},
    "dust_index": {"N": 1, "isfree": True, "init": -0.2},
    "add_neb_emission": {"N": 1, "isfree": False, "init": True},
    "add_neb_continuum": {"N": 1, "isfree": False, "init": False},
    "gas_logu": {"N": 1, "isfree": False, "init": -2.5},
    "add_dust_emission": {"N": 1, "isfree": False, "init": True},
    "fagn": {"N": 1, "isfree": True, "init": 0.01},
}
"""`model.init_config` of the script, with the best values in place of the initial ones."""


def make_obs(params: SEDParams) -> dict[str, object]:
    """What `build_obs()` of the script returned; one band was masked there."""
    true = np.asarray(compile_photometry(load_grid(), load_filters(FILTERS), ZRED).flux(params), np.float64)
    error = 0.03 * true
    flux = true + error * np.random.default_rng(7).standard_normal(len(FILTERS))
    mask = np.array([name != "twomass_H" for name in FILTERS])
    return {"filters": FILTERS, "maggies": flux, "maggies_unc": error, "phot_mask": mask, "redshift": ZRED}


def main() -> None:
    """Translate, fit, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few prior draws, no chains")
    parser.add_argument("--out", type=Path, default=Path("from_prospector"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    old = translate_parameters(MODEL_PARAMS)
    value = old.values
    print("Free in the script:", ", ".join(old.free))
    for name, reason in old.not_brought.items():
        print(f"Not brought: {name} ({reason})")
    history = BinnedSFH(
        *(value[name] for name in ("logmass", "logssfr", "logsfr_ratio_recent", "logsfr_ratios"))
    )
    params = SEDParams(
        history, value["logzsol"], value["dust2"], dust1=value["dust1"], dust_index=value["dust_index"],
        gas_logu=value["gas_logu"],
    )  # fmt: skip
    obs = make_obs(params)
    data = read_prospector_obs(obs)
    catalog = Catalog(
        id=("from a script",), zred=np.array([data.zred]), zred_err=np.zeros(1), flux=data.flux[None],
        flux_err=data.flux_err[None], observed=data.observed[None],
        upper_limit=np.zeros((1, len(data.filter_names)), bool), filter_names=data.filter_names,
    )  # fmt: skip
    # The script did not widen its errors; nor do we, or 5 % of the model flux would come on top.
    config = hbm.ModelConfig(error_floor=0.0)
    if args.smoke:
        result = quick_fit(catalog, config=config, n_prior=60_000, n_draw=100, seed=1)[0]
    else:
        result = hbm.fit(catalog, config=config, seed=1)[0]
    print(f"Fit: {result.convergence.reason or 'converged'}")
    shown = ("logmass", "logssfr", "logzsol", "dust2", "dust_index")
    truths = {name: float(value[name]) for name in shown}
    plot_comparison({"this fit": result}, shown, truths).savefig(args.out / "posterior.png", dpi=100)
    plot_sed(result, hbm.posterior_spectrum(result, n_draw=10 if args.smoke else 100)).savefig(
        args.out / "sed.png", dpi=110
    )
    figure = plot_sfh(result)
    edges = 10.0 ** np.append(AGEBINS[:, 0], AGEBINS[-1, 1])
    edges[0] = 0.0
    rate = MODEL_PARAMS["mass"]["init"] / np.diff(edges)
    axes = figure.axes[0]
    edges[0] = 1e9 * axes.get_xlim()[0]
    axes.stairs(
        rate, edges / 1e9, baseline=None, color=TRUTH, linewidth=2, linestyle="--", label="the script's bins"
    )
    with style():
        axes.legend(loc="lower left", ncols=2)
        figure.savefig(args.out / "history.png", dpi=110)
    print(f"Figures: {args.out}/posterior.png, sed.png, history.png")
    print(f"{'':12s} {'the script':>10s} {'here':>16s}")
    inside = []
    for name, before in truths.items():
        draws = result.draws(name)
        low, high = np.quantile(draws, (0.025, 0.975))
        inside.append(bool(low < before < high))
        print(f"{name:12s} {before:10.2f} {draws.mean():8.2f} +- {draws.std():.2f}")
    print(
        f"Conclusion: {sum(inside)} of {len(inside)} values of the script are inside of the 95 % interval; "
        f"{len(old.not_brought)} settings have no counterpart and must be read before the fits are compared."
    )


if __name__ == "__main__":
    main()
