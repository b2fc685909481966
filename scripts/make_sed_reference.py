"""Store fluxes of python-fsps for tests that run without it: ``tests/data/sed_reference.npz``.

    SPS_HOME=... python -m scripts.make_sed_reference [--n 60] [--grid PATH]

The galaxies are the first of `benchmarks.sed_accuracy`, half of each star formation history; what that has
computed already is used.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks._common import RESULTS, machine
from benchmarks.draws import BANDS, draw_galaxies
from benchmarks.sed_accuracy import SEED, fsps_flux
from sed.filters import load_filters
from sed.io import load_grid

OUT = Path(__file__).parent.parent / "tests" / "data" / "sed_reference.npz"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--n", type=int, default=60, help="galaxies in all")
    parser.add_argument("--grid", type=Path, default=None, help="grid file; the shipped one by default")
    parser.add_argument("--reference", type=Path, default=RESULTS / ".cache", help="folder of FSPS's fluxes")
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    grid, filters = load_grid(args.grid), load_filters(BANDS)
    content: dict[str, np.ndarray] = {"bands": np.array(BANDS)}
    for kind in ("binned", "delayed_tau"):
        draws = draw_galaxies(kind, args.n // 2, seed=SEED, max_age_gyr=grid.max_age_gyr)
        flux = fsps_flux(draws, filters, grid, args.reference / f"sed_fsps_{kind}.npz")
        content |= {f"{kind}/{name}": column for name, column in draws.columns.items()}
        content |= {f"{kind}/zred": draws.zred, f"{kind}/flux": flux.exact[: args.n // 2]}
    made_by = {
        "script": "scripts/make_sed_reference.py",
        "seed": SEED,
        "flux": "maggies",
        "igm": "Madau (1995)",
    }
    made_by |= {"versions": machine()["versions"], "fsps_data": grid.provenance}
    content["made_by"] = np.array(json.dumps(made_by))
    OUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(OUT, **content)
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
