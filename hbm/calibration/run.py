"""A calibration run: simulate, compile, fit, count; what is finished is found again.

The folder has ``settings.json``, ``pieces/`` (fits), and for each case (``none``, ``psf=1.1``, ...) the
simulated survey and the statistics of its images.
"""

import dataclasses
import json
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hbm.calibration.coverage import Coverage, coverage_of, part_of
from hbm.calibration.faults import Faults
from hbm.calibration.fits import USES, Agreement, Fitter, TimeUpError, Use
from hbm.calibration.mock import DEPTH, mock_survey
from hbm.calibration.pieces import Pieces, digest
from hbm.catalog import Catalog
from hbm.catalog_images import UNTYPICAL, image_config, with_images
from hbm.config import ModelConfig
from hbm.galaxies import DataBuilder
from hbm.image import ImageLikelihood, load_image_likelihood
from hbm.results.files import write_atomically
from hbm.sampler import SamplerConfig
from sed.io import load_grid
from sed.ssp import SSPGrid

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "sdss_z0")

Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run is made with; a run goes on with the same alone."""

    model: str
    n: int = 500
    """Galaxies."""
    n_wrong: int = 200
    """The first so many of them, when the model is told something wrong."""
    bands: tuple[str, ...] = BANDS
    depth: float = DEPTH
    """Median flux of the prior over its error."""
    method: Literal["importance", "nuts"] = "importance"
    n_check: int = 8
    """Galaxies for which importance weights and NUTS are compared, at least."""
    correction: bool = True
    """Whether the image model's ratio correction counts."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 8 or self.n_wrong < 8:
            raise ValueError(f"`n` and `n_wrong` must be at least 8, got {self.n} and {self.n_wrong}.")
        if self.method not in ("importance", "nuts"):
            raise ValueError(f"`method` must be importance or nuts, got {self.method!r}.")
        if not self.depth > 0:
            raise ValueError(f"`depth` must be positive, got {self.depth}.")


@dataclasses.dataclass(frozen=True)
class CaseResult:
    """What came out of one case."""

    faults: Faults
    coverage: dict[Use, Coverage]
    agreement: dict[Use, Agreement]
    outside: float
    """Part of the prior that the mock leaves out."""
    n_untypical: int
    """Images that the domain check names."""
    seconds: float
    """Time spent on it in this call."""


class CalibrationRun:
    """A run in a folder.

    Parameters
    ----------
    settings
        What to do.
    folder
        Where it is done.
    resume
        Whether to go on with what is there.
    overwrite
        Whether to remove what is there.
    minutes
        Begin nothing new after these.
    grid
        Stellar populations; the shipped grid by default.
    sampler
        Lengths of the chains.
    progress
        Told (done, total, text).

    Raises
    ------
    FileExistsError
        If the folder holds a run and neither ``resume`` nor ``overwrite`` is given.
    ValueError
        If it is of other settings.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        resume: bool = False,
        overwrite: bool = False,
        minutes: float | None = None,
        grid: SSPGrid | str | Path | None = None,
        sampler: SamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.settings, self.folder = settings, folder
        self.sampler = SamplerConfig() if sampler is None else sampler
        self.progress: Progress = _silent if progress is None else progress
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self.grid = grid if isinstance(grid, SSPGrid) else load_grid(grid)
        self.likelihood: ImageLikelihood = load_image_likelihood(
            settings.model, correction=settings.correction
        )
        self.config = image_config(ModelConfig(), self.likelihood)
        self._claim(resume=resume, overwrite=overwrite)
        self.pieces = Pieces(folder / "pieces")
        self._builder = DataBuilder(self.grid, self.config, settings.bands)
        self._model: Any = None

    def _claim(self, *, resume: bool, overwrite: bool) -> None:
        """Take the folder, or refuse it."""
        path = self.folder / "settings.json"
        wanted = json.loads(
            json.dumps(
                dataclasses.asdict(self.settings)
                | {"model_hash": self.likelihood.hash, "sampler": self.sampler._asdict(),
                   "grid": digest(self.grid.provenance_json)}
            )
        )  # fmt: skip
        if path.is_file() and overwrite:
            path.unlink()
            for sub in self.folder.iterdir():
                if sub.is_dir() and (sub.name == "pieces" or (sub / "mock.npz").is_file()):
                    shutil.rmtree(sub)
        if path.is_file():
            if not resume:
                raise FileExistsError(
                    f"`out` {self.folder} holds a run. Give `--resume` to go on with it, `--overwrite` to "
                    "begin again, or another folder."
                )
            before = json.loads(path.read_text())
            for key, value in wanted.items():
                if before.get(key) != value:
                    raise ValueError(
                        f"`out` {self.folder} holds a run with {key} {before.get(key)!r}, not {value!r}. "
                        "Give the same settings, `--overwrite`, or another folder."
                    )
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(wanted, indent=1) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text), overwrite=True)

    def case(self, faults: Faults, uses: Sequence[Use] = USES) -> CaseResult:
        """Calibration under one set of faults.

        Raises
        ------
        TimeUpError
            If the time is up; everything that is finished is saved.
        """
        start = time.monotonic()
        fitter, truth, about = self._prepared(faults)
        coverage: dict[Use, Coverage] = {}
        for use in uses:
            posteriors = fitter.posteriors(use)
            self.progress(0, 1, f"{faults.name}: coverage, {use}")
            coverage[use] = coverage_of(posteriors, fitter.names, truth, seed=self.settings.seed)
        return CaseResult(
            faults, coverage, dict(fitter.agreement), about["outside"], about["n_untypical"],
            time.monotonic() - start,
        )  # fmt: skip

    def first_of(self, uses: Sequence[Use], n: int) -> dict[Use, Coverage]:
        """Coverage of the first galaxies alone, nothing being wrong: what cases with faults compare with."""
        fitter, truth, _ = self._prepared(Faults())
        some = {name: value[:n] for name, value in truth.items()}
        return {
            use: coverage_of(
                part_of(fitter.posteriors(use), slice(n)), fitter.names, some, seed=self.settings.seed
            )
            for use in uses
        }

    def _prepared(self, faults: Faults) -> tuple[Fitter, dict[str, np.ndarray], dict[str, Any]]:
        """Galaxies with images, ready to be fitted, and their truth."""
        from generative.mock import trained_ages

        settings = self.settings
        folder = self.folder / faults.name
        mock = self._mock(faults, folder)
        statistics = folder / "images.stats.h5"
        if not statistics.is_file():
            self._compile(mock, statistics, faults.name)
        catalog, truth = _unpacked(mock, settings.bands)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # counted below
            catalog = with_images(catalog, statistics, self.likelihood, insist=True)
        fitter = Fitter(
            catalog, config=self.config, builder=self._builder, sampler=self.sampler, grid=self.grid,
            seed=settings.seed, method=settings.method, domain=trained_ages,
            n_check=settings.n_check if faults == Faults() else 0,
            pieces=self.pieces, is_over=self._is_over,
            progress=lambda done, total, text: self.progress(done, total, f"{faults.name}: {text}"),
        )  # fmt: skip
        p = fitter.images.compiled.p_typical
        return fitter, truth, {"outside": float(mock["outside"]), "n_untypical": int(np.sum(p < UNTYPICAL))}

    def _mock(self, faults: Faults, folder: Path) -> dict[str, np.ndarray]:
        """Simulated survey, kept in the folder."""
        kept = Pieces(folder).get("mock")
        if kept is not None:
            return kept
        self._stop_if_over()
        self.progress(0, 1, f"{faults.name}: simulating")
        galaxies = None
        if faults.prior:
            galaxies = DataBuilder(self.grid, faults.of_galaxies(self.config), self.settings.bands)
        n = self.settings.n
        mock = mock_survey(
            self._builder, self._loaded(), n, self.settings.seed, faults, depth=self.settings.depth,
            galaxies=galaxies,
        )  # fmt: skip
        keep = slice(n if faults == Faults() else min(n, self.settings.n_wrong))
        stamps = mock.stamps
        arrays = {
            "id": np.asarray(mock.catalog.id)[keep], "zred": mock.catalog.zred[keep],
            "flux": mock.catalog.flux[keep], "flux_err": mock.catalog.flux_err[keep],
            "outside": mock.outside, "image": stamps.image[keep].numpy(), "noise": stamps.noise[keep].numpy(),
            "observed": stamps.observed[keep].numpy(),
        }  # fmt: skip
        arrays |= {f"u.{name}": value[keep].numpy() for name, value in stamps.u._asdict().items()}
        arrays |= {f"truth.{name}": value[keep] for name, value in mock.truth.items()}
        return Pieces(folder).put("mock", arrays)

    def _compile(self, mock: dict[str, np.ndarray], out: Path, text: str) -> None:
        """Statistics of the images; goes on where an earlier call stopped."""
        from generative.mock import compile_mock

        def tell(done: int, total: int) -> None:
            self.progress(done, total, f"{text}: compiling images")
            if done < total:
                self._stop_if_over()

        u = {name: mock[f"u.{name}"] for name in ("zred", "fwhm", "snr")}
        compile_mock(
            self._loaded(), self.settings.model, mock["id"], mock["image"], mock["noise"], mock["observed"],
            u, out, progress=tell,
        )  # fmt: skip

    def _loaded(self) -> Any:
        if self._model is None:
            from generative.release import load

            self._model = load(self.settings.model)
        return self._model

    def _is_over(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    def _stop_if_over(self) -> None:
        if self._is_over():
            raise TimeUpError


def _silent(done: int, total: int, text: str) -> None:
    del done, total, text


def _unpacked(mock: dict[str, np.ndarray], bands: tuple[str, ...]) -> tuple[Catalog, dict[str, np.ndarray]]:
    shape = mock["flux"].shape
    catalog = Catalog(
        id=tuple(str(name) for name in mock["id"]), zred=mock["zred"], zred_err=np.zeros(shape[0]),
        flux=mock["flux"], flux_err=mock["flux_err"], observed=np.ones(shape, bool),
        upper_limit=np.zeros(shape, bool), filter_names=bands, meta={"unit": "maggies"},
    )  # fmt: skip
    truth = {name[6:]: value for name, value in mock.items() if name.startswith("truth.")}
    return catalog, truth
