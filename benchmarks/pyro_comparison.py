"""One galaxy's joint posterior twice: NumPyro with the compiled image, and Pyro with the network itself.

A simulated galaxy with an image and ugriz photometry, the shipped image model. NumPyro is `hbm.fit`. Pyro
(`generative.pyro_fit`) evaluates the image's likelihood by passes of the torch network at every step, with
other noise draws than those of the compiled statistics, and takes prior and photometry from JAX; its NUTS
starts in coordinates whitened by the covariance of NumPyro's draws, which changes its speed alone. Printed
are means, widths, and seconds per effective sample of each.

    python -m benchmarks.pyro_comparison [--model sdss-griz] [--chains 4] [--draws 150] [--minutes 9]

It begins no chain after --minutes and goes on where it was when called again. The last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._batches import BatchCache, keep_compiled_programs
from benchmarks._common import RESULTS, print_table, write_result

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")
PROPERTIES = ("logmass", "logssfr", "mwa", "logzsol", "dust2", "gas_logu")
SEED, ROW = 47, 0
"""The galaxy, chosen before it was seen."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="sdss-griz")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=60, help="steps of each chain of Pyro")
    parser.add_argument("--draws", type=int, default=150, help="of each chain of Pyro")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no chain after these")
    parser.add_argument("--fresh", action="store_true", help="discard what is done")
    args = parser.parse_args(argv)
    keep_compiled_programs()
    import hbm
    from benchmarks._joint import mock_survey
    from generative.conditions import observing_columns
    from generative.data import hide_unseen
    from generative.likelihood import DirectImage
    from generative.pyro_fit import sample_joint
    from generative.release import load, model_path
    from generative.summaries import compile_file
    from hbm.catalog_images import CatalogImages
    from hbm.coordinates import build_posterior
    from hbm.galaxies import DataBuilder
    from hbm.image import load_image_likelihood
    from hbm.model import galaxy_state, parameters_from_sites
    from sed.io import load_grid

    model, grid = load(args.model), load_grid()
    likelihood = load_image_likelihood(args.model)
    config = hbm.image_config(hbm.ModelConfig(), likelihood)
    builder = DataBuilder(grid, config, BANDS)
    mock = mock_survey(builder, model, ROW + 1, SEED)
    settings = {
        "model": args.model, "hash": likelihood.hash, "seed": SEED,
        "config": json.loads(config.to_json()),
    }  # fmt: skip
    cache = BatchCache("pyro_comparison", settings, fresh=args.fresh)
    file = RESULTS / ".cache" / "pyro_comparison" / f"{args.model}-{likelihood.hash[:12]}.h5"
    if not file.is_file():
        compile_file(model, model_path(args.model), mock.stamps, file)
    catalog = hbm.with_images(mock.catalog, file, likelihood).select([ROW])
    data = builder(catalog, 0)
    images = catalog.images
    assert isinstance(images, CatalogImages)  # noqa: S101
    posterior = build_posterior(config, data)

    numpyro = cache.get("numpyro")
    if numpyro is None:
        hbm.fit(catalog, config=config, grid=grid, seed=SEED, batch_size=1, max_rerun=0)  # compiles
        began = time.perf_counter()
        result = hbm.fit(catalog, config=config, grid=grid, seed=SEED, batch_size=1)[0]
        seconds = time.perf_counter() - began
        sites = {name: jnp.asarray(result.draws(name)) for name in posterior.sampled}
        flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in sites.items()}
        vectors = jax.jit(jax.vmap(lambda one: posterior.unconstrain(one, data)))(flat)
        numpyro = cache.put(
            "numpyro",
            {name: result.draws(name) for name in PROPERTIES}
            | {"seconds": seconds, "vectors": vectors, "converged": result.convergence.converged},
        )
    vectors = np.asarray(numpyro["vectors"], np.float64)
    vectors = vectors[np.isfinite(vectors).all(axis=1)]
    middle, chol = vectors.mean(0), np.linalg.cholesky(np.cov(vectors.T))
    whole = jnp.asarray(chol, jnp.float32)
    age = jnp.asarray(images.galaxy(catalog.id[0]).age_gyr)

    def vector_of(z: Any) -> Any:
        return jnp.asarray(middle, jnp.float32) + whole @ z

    def log_prob(z: Any) -> Any:
        return -posterior.potential(vector_of(z), data)

    def state_of(z: Any) -> Any:
        sites = posterior.constrain(vector_of(z), data)
        return galaxy_state(parameters_from_sites(sites, config), jnp.asarray(data.zred), data)

    def properties(z: Any) -> Any:
        theta = images.properties(state_of(z), age)
        return jnp.clip(images.likelihood.scaled(theta, age), -1.0, 1.0)

    def shown(z: Any) -> Any:
        return images.properties(state_of(z), data.age_universe)

    stamps = mock.stamps
    clean = model.preparation.forward(stamps.image, stamps.noise, stamps.observed)
    u = hide_unseen(observing_columns(stamps.u, model.instrument), stamps.observed)
    model.network.coefficients = model.coefficients  # the network with what the refit has found
    nodes, weight = model.nodes
    direct = DirectImage(
        model.network, clean[ROW : ROW + 1], u[ROW : ROW + 1], stamps.observed[ROW : ROW + 1], nodes, weight,
        n_draw=2, seed=SEED, correction=model.correction,
    )  # fmt: skip
    value_and_slope = jax.jit(jax.value_and_grad(log_prob))
    value_and_jacobian = jax.jit(lambda z: (properties(z), jax.jacobian(properties)(z)))
    value_and_slope(jnp.zeros(posterior.dim)), value_and_jacobian(jnp.zeros(posterior.dim))
    chains = []
    for chain in range(args.chains):
        name = f"pyro_{args.warmup}_{args.draws}_{chain}"
        found = cache.get(name)
        if found is None and time.perf_counter() - start < 60 * args.minutes:
            first = np.random.default_rng(chain).normal(size=posterior.dim)
            began, core = time.perf_counter(), time.process_time()
            z = sample_joint(
                posterior.dim, value_and_slope, value_and_jacobian, direct, n_warmup=args.warmup,
                n_draw=args.draws, seed=chain, start=first, progress=True,
            )  # fmt: skip
            took = {"seconds": time.perf_counter() - began, "core_s": time.process_time() - core}
            found = cache.put(name, {"properties": jax.jit(jax.vmap(shown))(jnp.asarray(z))} | took)
        if found is not None:
            chains.append(found)
    settings |= {"warmup": args.warmup, "draws": args.draws}
    report(settings, numpyro, chains, likelihood.names, complete=len(chains) == args.chains)


def report(
    settings: dict[str, Any],
    numpyro: dict[str, np.ndarray],
    chains: list[dict[str, np.ndarray]],
    names: Sequence[str],
    *,
    complete: bool,
) -> None:
    """Print what is known; write it if nothing is missing."""
    import arviz as az

    if not chains:
        print(json.dumps({"complete": False}))
        return
    drawn = np.stack([one["properties"] for one in chains])
    seconds = sum(float(one["seconds"]) for one in chains)
    result: dict[str, Any] = {"complete": complete, "chains": len(chains), "properties": {}}
    rows, least = [], {"numpyro": np.inf, "pyro": np.inf}
    for name in PROPERTIES:
        ours, theirs = np.asarray(numpyro[name], np.float64), np.float64(drawn[..., list(names).index(name)])
        ess = {"numpyro": float(az.ess(ours)), "pyro": float(az.ess(theirs))}
        least = {kind: min(least[kind], value) for kind, value in ess.items()}
        # Of the difference of two Monte Carlo means, in units of the posterior's width.
        error = (1 / ess["numpyro"] + 1 / ess["pyro"]) ** 0.5
        shift = float((theirs.mean() - ours.mean()) / ours.std())
        ratio = float(theirs.std() / ours.std())
        rhat = float(az.rhat(theirs)) if len(theirs) > 1 else float("nan")
        result["properties"][name] = {
            "mean": float(ours.mean()), "width": float(ours.std()), "shift": shift, "error": error,
            "width_ratio": ratio, "ess": ess, "pyro_rhat": rhat,
        }  # fmt: skip
        rows.append([
            name, f"{ours.mean():.3f}", f"{ours.std():.3f}", f"{shift:+.2f} ± {error:.2f}", f"{ratio:.2f}",
            f"{ess['numpyro']:.0f}", f"{ess['pyro']:.0f}", f"{rhat:.3f}",
        ])  # fmt: skip
    head = ["property", "NumPyro", "width", "shift of Pyro", "width ratio", "ESS", "Pyro's", "Pyro's R-hat"]
    print_table(head, rows)
    result["seconds_per_effective_sample"] = {
        "numpyro": float(numpyro["seconds"]) / least["numpyro"], "pyro": seconds / least["pyro"]
    }  # fmt: skip
    result["numpyro_converged"] = bool(numpyro["converged"])
    each = result["seconds_per_effective_sample"]
    print(
        f"seconds per effective sample of the slowest property: NumPyro {each['numpyro']:.4f}, Pyro "
        f"{each['pyro']:.2f}, {each['pyro'] / each['numpyro']:.0f} times as many"
    )
    if complete:
        write_result("pyro_comparison", settings, result)
    else:
        print("not complete: call it again to go on")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
