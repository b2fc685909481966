"""Posteriors of this package beside the same posterior with Prospector's spectra.

For each galaxy, from the same data and the plain statement of the same model (`benchmarks._direct`):

1. chains of `hbm.fit`, with four times the draws, so that the sampling error of a mean is about 0.02 sigma;
   the time given is that of a normal run;
2. nautilus on the compiled fluxes;
3. importance sampling on the compiled fluxes, its proposal fitted to the points of both;
4. points of 3, resampled, with the likelihood of Prospector's spectra in place of the compiled fluxes: the
   weights are the ratio. Their moments are the reference.

To run Prospector inside a sampler as well would change no density and take hours; its time is given as
calls of nautilus (to 4,000 effective points) times the time of one call. Prospector's spectra are integrated
over the bands on a grid that holds the wavelengths of the filters too: its own sum over the spectrum's
wavelengths is off by 1 % in J. FSPS has the absorption of Madau (1995) alone: compare models with
``igm="madau"``.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

import hbm
from benchmarks._batches import BatchCache
from benchmarks._common import print_table
from benchmarks._direct import DirectPosterior
from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.galaxies import DataBuilder
from hbm.model import GalaxyData, parameters_from_sites
from hbm.results import FitResult
from hbm.sampler import SamplerConfig
from sed.filters import FilterSet
from sed.photometry import band_matrix
from sed.ssp import SSPGrid

QUANTITIES = (
    "logmass", "logssfr", "logsfr_ratio_recent", *(f"logsfr_ratios[{i}]" for i in range(4)), "logzsol",
    "dust2", "dust1_fraction", "dust_index", "gas_logu", "mwa", "logsfr_100", "logmstar",
)  # fmt: skip
MEAN_GOAL, WIDTH_GOAL = 0.1, 0.15
_SEED = 21
_SAMPLED = (
    "logmass", "logssfr", "logsfr_ratio_recent", "logsfr_ratios", "logzsol", "dust2", "dust1_fraction",
    "dust_index", "gas_logu",
)  # fmt: skip


def repeated(catalog: Catalog, rows: Sequence[int]) -> Catalog:
    """Galaxies by position, some of them several times, with new identifiers."""
    rows_array = np.asarray(rows)
    arrays = ("zred", "zred_err", "flux", "flux_err", "observed", "upper_limit")
    return Catalog(
        id=tuple(f"{i}_{catalog.id[row]}" for i, row in enumerate(rows)),
        **{name: getattr(catalog, name)[rows_array] for name in arrays},
        filter_names=catalog.filter_names,
        meta=catalog.meta,
    )


def timed_fit(
    catalog: Catalog, batch: int, config: ModelConfig, sampler: SamplerConfig, grid: SSPGrid, seed: int
) -> tuple[list[FitResult], list[float]]:
    """Results, and the wall time of each batch: data, sampling, reruns, diagnostics.

    Batches are fits of their own; the first one compiles. Each time is printed when it is known.
    """
    results: list[FitResult] = []
    seconds: list[float] = []
    for first in range(0, len(catalog), batch):
        start = time.perf_counter()
        some = catalog.select(slice(first, first + batch))
        results += hbm.fit(some, config=config, sampler=sampler, grid=grid, seed=seed)
        seconds.append(time.perf_counter() - start)
        print(f"{batch} galaxies: {seconds[-1]:.1f} s", flush=True)
    return results, seconds


class ProspectorFlux:
    """Fluxes of Prospector's spectra, for sites of our model, in our solar luminosity.

    Parameters
    ----------
    galaxy
        Its redshift and age bins are used.
    config
        The model.
    filters
        Bands.
    sites
        Any galaxy of the model, for the shapes.
    """

    def __init__(
        self, galaxy: GalaxyData, config: ModelConfig, filters: FilterSet, sites: dict[str, Any]
    ) -> None:
        from sed.prospector import PROSPECTOR_LSUN_RATIO, prospector_model
        from sed.reference import FSPSReference, sedpy_filters

        self.zred, self.filters = float(galaxy.zred), filters
        params = parameters_from_sites(sites, config)
        self._built = prospector_model(
            params,
            self.zred,
            reference=FSPSReference(dust_emission=True),
            agebins=np.asarray(galaxy.photometry.agebins, np.float64),
            igm=config.igm == "madau",
            fixed=("duste_umin", "duste_qpah", "duste_gamma"),
        )
        self._none: dict[str, Any] = {"filters": None, "wavelength": None, "spectrum": None}
        self._curves = {**self._none, "filters": sedpy_filters(filters)}
        self._ratio = PROSPECTOR_LSUN_RATIO
        self._matrix: np.ndarray | None = None

    def __call__(self, sites: dict[str, Any]) -> Float[np.ndarray, " band"]:
        """Fluxes in maggies."""
        wave, spectrum = self._spectrum(sites, self._none)
        if self._matrix is None:
            self._matrix = band_matrix(wave, self.filters, self.zred)
        return np.asarray(self._matrix @ spectrum) / self._ratio

    def _theta(self, sites: dict[str, Any]) -> np.ndarray:
        theta = self._built.theta.copy()
        for name, where in self._built.model.theta_index.items():
            theta[where] = np.asarray(sites[name], np.float64)
        return theta

    def _spectrum(self, sites: dict[str, Any], obs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Rest-frame wavelength (A) and spectrum (maggies) of Prospector's own ``predict``."""
        model = self._built.model
        model.predict(self._theta(sites), obs, sps=self._built.sps)
        return np.asarray(model._wave, np.float64), np.asarray(model._norm_spec, np.float64)

    def integration_errors(self, sites: dict[str, Any]) -> tuple[float, float]:
        """Largest relative difference from sedpy on a fine grid, here and in Prospector's own fluxes."""
        from sed.reference import spectrum_maggies

        ours = self(sites)
        wave, spectrum = self._spectrum(sites, self._none)
        fine = spectrum_maggies(wave * (1 + self.zred), spectrum, self.filters) / self._ratio
        _, own, _ = self._built.model.predict(self._theta(sites), self._curves, sps=self._built.sps)
        return float(np.max(np.abs(ours / fine - 1))), float(np.max(np.abs(own / self._ratio / fine - 1)))


def reference_posterior(
    catalog: Catalog,
    row: int,
    fit: FitResult,
    config: ModelConfig,
    grid: SSPGrid,
    cache: BatchCache,
    *,
    n_live: int,
    n_point: int,
    n_call: int,
) -> dict[str, np.ndarray]:
    """Points and weights of one galaxy's posterior from steps 2 to 4, kept on disk."""
    key = f"reference{row:02d}"
    done = cache.get(key)
    if done is not None:
        return done
    builder = DataBuilder(grid, config, catalog.filter_names)
    galaxy = builder(catalog, row)
    direct = DirectPosterior(galaxy, config)
    nested = direct.nautilus(n_live, 4000, _SEED)
    print(f"{catalog.id[row]}: nautilus {nested.seconds:.0f} s, log Z {nested.log_evidence:.2f}", flush=True)
    rng = np.random.default_rng(_SEED)
    sampled = {name: fit.draws(name) for name in _SAMPLED}
    chains = direct.normals({name: v.reshape(-1, *v.shape[2:]) for name, v in sampled.items()})
    some = nested.normals[rng.choice(len(nested.normals), len(chains), p=nested.weight)]
    weighted = direct.importance(np.concatenate([chains, some]), n_point, _SEED)
    text = f"{weighted.n_eff:.0f} effective of {n_point} points, log Z {weighted.log_evidence:.2f}"
    print(f"{catalog.id[row]}: importance {text}", flush=True)

    chosen = weighted.normals[rng.choice(n_point, n_call, p=weighted.weight)]
    flux_of = ProspectorFlux(galaxy, config, builder.filters, direct.sites(chosen[0]))
    errors = flux_of.integration_errors(direct.sites(chosen[0]))
    sites = [direct.sites(normals) for normals in chosen]
    start = time.perf_counter()
    fluxes = [flux_of(one) for one in sites]
    seconds = (time.perf_counter() - start) / n_call
    theirs = np.array([direct.loglike_of_flux(flux) for flux in fluxes])
    ratio = theirs - direct.loglike(chosen)
    return cache.put(
        key,
        {
            "values": _columns(direct.quantities(chosen)),
            "weight": np.exp(ratio - ratio.max()),
            "loglike_difference": ratio,
            "seconds_per_call": seconds,
            "nautilus_values": _columns(direct.quantities(nested.normals)),
            "nautilus_weight": nested.weight,
            "nautilus_calls": nested.n_call,
            "nautilus_seconds": nested.seconds,
            "nautilus_log_evidence": nested.log_evidence,
            "importance_log_evidence": weighted.log_evidence,
            "importance_n_eff": weighted.n_eff,
            "integration_errors": errors,
        },
    )


def moments(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of weighted points."""
    weight = weight / weight.sum()
    mean = weight @ values
    return mean, np.sqrt(weight @ (values - mean) ** 2)


def _columns(values: dict[str, np.ndarray]) -> Float[np.ndarray, "point quantity"]:
    return np.stack([_component(values, name) for name in QUANTITIES], axis=-1)


def _component(values: dict[str, Any], name: str) -> Float[np.ndarray, " point"]:
    base, _, index = name.partition("[")
    column = np.asarray(values[base], np.float64)
    return column[:, int(index[:-1])] if index else column


def compare_with_prospector(
    catalog: Catalog,
    n: int,
    config: ModelConfig,
    sampler: SamplerConfig,
    grid: SSPGrid,
    seed: int,
    *,
    n_live: int,
    n_point: int,
    n_call: int,
) -> dict[str, Any]:
    """Compare the first galaxies of a catalogue: table and numbers."""
    # Each galaxy's file must not depend on how many are asked for.
    first = [catalog.id[0], *(f"{value:.3g}" for value in catalog.flux[0])]
    settings = {"config": json.loads(config.to_json()), "bands": catalog.filter_names, "n_live": n_live,
                "n_point": n_point, "n_call": n_call, "seed": seed, "first": first}  # fmt: skip
    cache = BatchCache("prospector_reference", settings)
    rows_twice = [row for row in range(n) for _ in range(2)]
    _, seconds = timed_fit(repeated(catalog, rows_twice), 1, config, sampler, grid, seed)
    longer = sampler._replace(n_draw=4 * sampler.n_draw)
    fits, _ = timed_fit(repeated(catalog, list(range(n))), n, config, longer, grid, seed)
    galaxies, rows = [], []
    for i, fit in enumerate(fits):
        other = reference_posterior(
            catalog, i, fit, config, grid, cache, n_live=n_live, n_point=n_point, n_call=n_call
        )
        mean, sigma = moments(other["values"], other["weight"])
        ours = np.stack([fit.draws(name).ravel() for name in QUANTITIES], axis=-1)
        shift, width = (ours.mean(axis=0) - mean) / sigma, ours.std(axis=0) / sigma - 1
        nested_mean, nested_sigma = moments(other["nautilus_values"], other["nautilus_weight"])
        worst, widest = int(np.argmax(np.abs(shift))), int(np.argmax(np.abs(width)))
        fast = seconds[2 * i + 1]
        slow = float(other["seconds_per_call"]) * int(other["nautilus_calls"])
        kish = float(np.sum(other["weight"]) ** 2 / np.sum(other["weight"] ** 2))
        n_eff = 1 / (1 / kish + 1 / float(other["importance_n_eff"]))  # points were drawn from those
        rows.append(
            [catalog.id[i], f"{shift[worst]:+.2f} ({QUANTITIES[worst]})",
             f"{width[widest]:+.0%} ({QUANTITIES[widest]})",
             f"{fit.convergence.ess_bulk_min:.0f}", f"{n_eff:.0f}",
             f"{float(other['importance_log_evidence']):.2f}", f"{float(other['nautilus_log_evidence']):.2f}",
             f"{fast:.1f}", f"{slow:.0f}"]
        )  # fmt: skip
        galaxies.append(
            {
                "id": catalog.id[i],
                "zred": float(catalog.zred[i]),
                "mean_shift_sigma": dict(zip(QUANTITIES, shift.tolist(), strict=True)),
                "width_difference": dict(zip(QUANTITIES, width.tolist(), strict=True)),
                "nautilus_mean_shift_sigma": dict(
                    zip(QUANTITIES, ((nested_mean - mean) / sigma).tolist(), strict=True)
                ),
                "nautilus_width_difference": dict(
                    zip(QUANTITIES, (nested_sigma / sigma - 1).tolist(), strict=True)
                ),
                "our_ess_bulk_min": fit.convergence.ess_bulk_min,
                "our_flag": fit.convergence.flag,
                "our_warm_s": fast,
                "reference_n_eff": n_eff,
                "loglike_difference_sigma": float(np.std(other["loglike_difference"])),
                "importance_n_eff": float(other["importance_n_eff"]),
                "importance_log_evidence": float(other["importance_log_evidence"]),
                "nautilus_log_evidence": float(other["nautilus_log_evidence"]),
                "nautilus_calls": int(other["nautilus_calls"]),
                "prospector_s_per_call": float(other["seconds_per_call"]),
                "prospector_with_nautilus_s": slow,
                "integration_errors": other["integration_errors"].tolist(),
                "code": str(other["code"]),
            }
        )
    print_table(
        ["galaxy", "mean shift, sigma", "width", "ESS", "reference n_eff", "log Z", "of nautilus", "our s",
         "calls x Prospector s"],
        rows,
    )  # fmt: skip
    shifts = [abs(v) for g in galaxies for v in g["mean_shift_sigma"].values()]
    widths = [abs(v) for g in galaxies for v in g["width_difference"].values()]
    is_sound = all(g["our_flag"] == "ok" and g["reference_n_eff"] > 400 for g in galaxies)
    passed = bool(is_sound and max(shifts) <= MEAN_GOAL and max(widths) <= WIDTH_GOAL)
    print(f"means: median {np.median(shifts):.3f}, largest {max(shifts):.3f} sigma; widths: median "
          f"{np.median(widths):.1%}, largest {max(widths):.1%}: {'PASS' if passed else 'FAIL'}")  # fmt: skip
    return {
        "galaxies": galaxies,
        "largest_shift_sigma": max(shifts),
        "median_shift_sigma": float(np.median(shifts)),
        "largest_width_difference": max(widths),
        "time_ratio_median": float(
            np.median([g["prospector_with_nautilus_s"] / g["our_warm_s"] for g in galaxies])
        ),
        "n_live": n_live,
        "n_point": n_point,
        "n_call": n_call,
        "passed": passed,
    }
