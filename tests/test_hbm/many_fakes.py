"""In place of `hbm.fit` on the workers of `test_many.py`: a galaxy's identifier says what it does to them."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from hbm.catalog import Catalog
from hbm.convergence import Convergence
from hbm.results import FitResult, ObservedBands, Provenance, make_result

FILTERS = ("sdss_g0", "sdss_r0", "sdss_i0")
GOOD = Convergence(1.001, "logmass", 900.0, 800.0, 0, True, "ok", "")
BAD = Convergence(1.2, "dust2", 20.0, 30.0, 0, False, "rhat", "R-hat of dust2 is 1.200")


def make_catalog(ids: tuple[str, ...], log: Path, zred_err: float = 0.0) -> Catalog:
    """Galaxies with placeholder fluxes; workers write down in ``log`` what they do."""
    shape = (len(ids), len(FILTERS))
    return Catalog(
        id=ids,
        zred=np.linspace(0.1, 0.3, len(ids)),
        zred_err=np.full(len(ids), zred_err),
        flux=np.full(shape, 1e-8),
        flux_err=np.full(shape, 1e-10),
        observed=np.ones(shape, bool),
        upper_limit=np.zeros(shape, bool),
        filter_names=FILTERS,
        meta={"log": str(log)},
    )


def result(
    galaxy_id: str,
    zred: float,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    grid: dict[str, Any] | None = None,
) -> FitResult:
    """Result that depends on identifier and seed alone."""
    rng = np.random.default_rng([seed, *galaxy_id.encode()])
    n = len(FILTERS)
    bands = ObservedBands(
        FILTERS, np.linspace(4e3, 8e3, n), np.full(n, 1e-8), np.full(n, 1e-10), np.ones(n, bool),
        np.zeros(n, bool), np.full(n, 0.05),
    )  # fmt: skip
    names = ["logmass", "dust2"] + (["zred"] if galaxy_id.startswith("free") else [])
    return make_result(
        galaxy_id,
        zred,
        posterior={name: rng.normal(size=(2, 20)) for name in names},
        sample_stats={"diverging": np.zeros((2, 20), bool)},
        flux=np.ones((2, 20, n)),
        bands=bands,
        convergence=BAD if galaxy_id.startswith("rough") else GOOD,
        provenance=Provenance(
            settings or {}, grid or {}, FILTERS, seed, "test", "2026-01-01T00:00:00+00:00", {}
        ),
    )


def fit_anything(catalog: Catalog, *, seed: int, **_options: Any) -> list[FitResult]:
    """Results at once."""
    return [result(name, float(z), seed) for name, z in zip(catalog.id, catalog.zred, strict=True)]


def fit(catalog: Catalog, *, seed: int, log: str = "", **_options: Any) -> list[FitResult]:
    """Results at once, but for galaxies called bad, killer, once or slow."""
    folder = Path(log or catalog.meta["log"])
    with open(folder / "fitted", "a") as file:  # one write: lines of several processes do not mix
        file.write(" ".join(catalog.id) + "\n")
    for name in catalog.id:
        if name.startswith("bad"):
            raise ValueError(f"nothing fits {name}")
        if name.startswith("slow"):
            time.sleep(60)
        died = folder / f"died-{name}"
        if name.startswith("killer") or (name.startswith("once") and not died.exists()):
            with open(died, "a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
    return fit_anything(catalog, seed=seed)
