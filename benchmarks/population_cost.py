"""What one galaxy costs where galaxies and population are sampled together: time of a gradient, memory.

Galaxies at redshift 0.1 in seven bands, with the default model, shared zero points and error floor, and all
five relations. No chain runs: the gradient of the joint density is timed at random points; NUTS takes up to
2^7 - 1 of them per draw, Gibbs 13. Run it where nothing else runs:

    python -m benchmarks.population_cost --sizes 50 200

The last line is JSON.
"""

import argparse
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._common import machine, measure
from hbm.catalog import Catalog
from hbm.config import ModelConfig
from hbm.coordinates import build_posterior
from hbm.galaxies import DataBuilder, stack_galaxies, take_galaxy
from hbm.population import default_population
from hbm.population.hierarchy import Hierarchy
from hbm.population.survey import survey_of
from sed.io import load_grid

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0", "twomass_J", "twomass_Ks")
CONFIG = ModelConfig(error_floor="free", zero_point_sigma=0.02)


def cost(n: int) -> dict[str, float]:
    """Costs with ``n`` galaxies."""
    shape = (1, len(BANDS))
    catalog = Catalog(
        id=("a",), zred=np.array([0.1]), zred_err=np.zeros(1), flux=np.full(shape, 1e-7),
        flux_err=np.full(shape, 2e-9), observed=np.ones(shape, bool), upper_limit=np.zeros(shape, bool),
        filter_names=BANDS,
    )  # fmt: skip
    one = DataBuilder(load_grid(), CONFIG, BANDS)(catalog, 0)
    data = stack_galaxies([one] * n)
    dim = build_posterior(CONFIG, take_galaxy(data, 0), shared=True).dim
    vectors = 0.3 * jax.random.normal(jax.random.key(0), (n, 60, dim))
    names = tuple(f"g{i}" for i in range(n))
    survey = survey_of(names, CONFIG, data, (), vectors, share=True, seed=0)
    hierarchy = Hierarchy(survey, default_population(CONFIG.prior))
    shared, w = hierarchy.start(1, 0)
    gradient = jax.jit(jax.value_and_grad(hierarchy.potential, argnums=(0, 1)))
    compiled = gradient.lower(shared[0], w[0], hierarchy.arrays).compile()
    timing = measure(lambda: compiled(shared[0], w[0], hierarchy.arrays))
    value = float(compiled(shared[0], w[0], hierarchy.arrays)[0])
    if not np.isfinite(value):
        raise RuntimeError(f"the density at the start is {value}")
    memory = compiled.memory_analysis()
    total = sum(jnp.asarray(leaf).nbytes for leaf in jax.tree.leaves(hierarchy.arrays))
    return {
        "n": n,
        "dim": dim,
        "gradient_us_per_galaxy": 1e6 * timing.run_s / n,
        "work_kb_per_galaxy": memory.temp_size_in_bytes / n / 1e3,
        "data_kb_per_galaxy": total / n / 1e3,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Print the costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 200])
    found = [cost(n) for n in parser.parse_args(argv).sizes]
    for row in found:
        print(", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    print(json.dumps({"machine": machine(), "costs": found}))


if __name__ == "__main__":
    main()
