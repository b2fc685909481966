"""A likelihood of your own: a spectrum that told the galaxy's age.

Question: how much does a spectroscopic mean age of 4 +- 0.3 Gyr change the fit of a galaxy's photometry?
Data: the galaxy of `hbm demo` (3D-HST, z = 0.74).
New: `hbm.Term`, a likelihood besides the photometry.
Run time: some minutes on two cores, most of it compilation. Expected: the age follows the new measurement,
and the metallicity and dust that trade off with it move and narrow.

    python examples/08_own_likelihood.py [--smoke] [--out FOLDER]
"""

import argparse
from pathlib import Path

import numpy as np
from jax.scipy.stats import norm

import hbm
from hbm.demo import load_demo
from hbm.plots import plot_comparison


class SpectralAge:
    """Normal likelihood of the mass-weighted age, for galaxies that have one."""

    name = "spectral_age"

    def __init__(self, age_gyr: dict[str, float], error: float) -> None:
        self.age_gyr, self.error = age_gyr, error

    def galaxy(self, galaxy_id: str) -> np.ndarray:
        """Age, and whether it is known."""
        known = galaxy_id in self.age_gyr
        return np.float32([self.age_gyr.get(galaxy_id, 0.0), known])

    def log_prob(self, state: hbm.GalaxyState, data: np.ndarray):
        """Zero for galaxies without a spectrum."""
        age, known = data
        return known * norm.logpdf(age, state.mean_age, self.error)


def main() -> None:
    """Fit twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="short chains, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("own_likelihood"))
    args = parser.parse_args()
    sampler = hbm.SamplerConfig(n_warmup=50, n_draw=50, n_point=500, n_round=5) if args.smoke else None
    catalog = load_demo().catalog.select([0])
    age = SpectralAge({catalog.id[0]: 4.0}, 0.3)
    rerun = 0 if args.smoke else 3
    before = hbm.fit(catalog, sampler=sampler, max_rerun=rerun, seed=1)[0]
    after = hbm.fit(catalog, sampler=sampler, max_rerun=rerun, seed=1, terms=[age])[0]
    args.out.mkdir(parents=True, exist_ok=True)
    figure = plot_comparison({"photometry": before, "with a spectral age": after})
    figure.savefig(args.out / "comparison.png", bbox_inches="tight")
    for name in ("mwa", "logzsol", "dust2"):
        one, two = before.draws(name), after.draws(name)
        print(
            f"{name}: {one.mean():.2f} +- {one.std():.2f}, with the age {two.mean():.2f} +- {two.std():.2f}"
        )
    print(f"Figure: {args.out / 'comparison.png'}")


if __name__ == "__main__":
    main()
