"""What the command line does with image models: arguments are plain values, results are files."""

import dataclasses
import io
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generative.checkpoint import Model, write_atomically
from generative.conditions import THETA, Observing, check_theta, observing_columns, theta_columns
from generative.config import TrainConfig, parse_config, read_config
from generative.correct import corrected_model
from generative.correction_training import CorrectionOptions
from generative.datasets import read_survey_images, scaled_labels
from generative.display import image_grid, strip_figure, to_rgb, write_gif
from generative.draw import Drawn, draw, theta_rows, usual_conditions
from generative.evaluation.report import evaluate
from generative.precision import bf16_is_fast
from generative.release import load, model_path
from generative.sampler import denoise_fn, heun_steps, sigma_schedule
from generative.setup import config_path, data_folder, set_up
from generative.summaries import compile_file
from generative.train import STATE_NAME, StepResult, contrast_is_sound, run

Progress = Callable[[int, int, str], None]

_STRANGE = 0.002
"""p-value of the domain check below which an image is named as unlike those of training."""


def check_device(device: str) -> None:
    """Refuse what torch cannot use here.

    Raises
    ------
    ValueError
        If ``device`` is not cpu or cuda, or there is no GPU.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"`device` must be cpu or cuda, got {device!r}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("`device` is cuda, but torch finds no GPU.")


class Training:
    """A training run of the command line.

    Parameters
    ----------
    config
        TOML file or name of a shipped configuration.
    out
        Folder of the run.
    resume
        Whether a run in that folder is taken up.
    device
        "cpu", "cuda", or "auto".
    steps
        Number of steps instead of the configuration's.

    Raises
    ------
    FileNotFoundError, ValueError
        If configuration or data are not there or not usable.
    FileExistsError
        If ``out`` holds a run and ``resume`` is False.
    """

    def __init__(self, config: str, out: Path, *, resume: bool, device: str, steps: int | None) -> None:
        from accelerate import Accelerator

        path = config_path(config)
        self.settings = read_config(path)
        if steps is not None:
            training = dataclasses.replace(self.settings.training, steps=steps)
            self.settings = dataclasses.replace(self.settings, training=training)
        if (out / STATE_NAME).is_file() and not resume:
            raise FileExistsError(
                f"{out} holds a run: use --resume to go on with it, or choose another --out."
            )
        if device != "auto":
            check_device(device)
        # Precision is the network's own matter: statistics stay in single precision.
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        self._accelerator = Accelerator(cpu=on_cpu, mixed_precision="no")
        self.device = str(self._accelerator.device)
        self.is_main = bool(self._accelerator.is_main_process)
        self._out, self._resume, self._name = out, resume, config
        self._setup = set_up(self.settings, data_folder(path), self.device)
        self.notes: list[str] = []
        """What the user should know before it starts."""
        if self.settings.training.bf16 and not bf16_is_fast(self.device):
            self.notes.append(
                "`bf16` is ignored: this processor has no instructions for bfloat16 and would take ten times "
                "as long. Single precision it is."
            )
        if self.settings.training.contrast > 0 and not contrast_is_sound(self._setup.source):
            self.notes.append(
                "`contrast` is ignored: in these data properties go with the conditions of observation, and "
                "the contrastive loss would learn that too. The likelihood is not refitted either."
            )

    def __call__(
        self, minutes: float | None, on_step: Callable[[StepResult], None], on_refit: Progress
    ) -> Path | None:
        """Train; the model's file, or None if ``minutes`` ran out first."""
        cuda = self.device.startswith("cuda")
        provenance = {
            "command": f"hbm train {self._name}",
            "machine": torch.cuda.get_device_name() if cuda else f"CPU, {platform.machine()}",
            "torch": str(torch.__version__),
        }
        return run(
            self.settings, self._setup.source, self._setup.preparation, self._out,
            instrument=self._setup.instrument, theta_names=self._setup.theta_names, resume=self._resume,
            minutes=minutes, device=self.device, accelerator=self._accelerator, on_step=on_step,
            on_refit=on_refit, provenance=provenance,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SampleRequest:
    """What to draw."""

    model: str
    n: int
    properties: dict[str, float]
    """Names of the model's properties and their values: `generative.conditions.THETA`, or labels."""
    zred: float | None = None
    snr: float | None = None
    vary: tuple[str, float, float] | None = None
    """Property that varies over the images, from and to."""
    guidance: float = 1.0
    method: str = "heun"
    steps: int = 24
    seed: int = 0
    device: str = "cpu"


def sample_picture(request: SampleRequest, out: Path, progress: Progress | None = None) -> Drawn:
    """Draw galaxies and write their picture.

    Raises
    ------
    FileNotFoundError, ValueError
        If the model is not there, or cannot draw what is asked for.
    OSError
        If the picture cannot be written.
    """
    check_device(request.device)
    model = load(request.model, request.device)
    theta, u, values = _conditions(model, request)
    if request.method not in ("heun", "ancestral"):
        raise ValueError(f"`method` must be heun or ancestral, got {request.method!r}.")
    drawn = draw(
        model, theta, u, n=request.n, seed=request.seed, n_step=request.steps, guidance=request.guidance,
        method="heun" if request.method == "heun" else "ancestral", same_noise=request.vary is not None,
        progress=progress,
    )  # fmt: skip
    rgb = to_rgb(drawn.image, model.instrument)
    figure = image_grid(rgb) if request.vary is None else strip_figure([(request.vary[0], values, rgb)])
    content = io.BytesIO()
    figure.savefig(content, format=out.suffix.lstrip(".") or "png", dpi=130)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, content.getvalue())
    return drawn


def write_arrays(drawn: Drawn, out: Path) -> None:
    """Write drawn images as npz: ``image`` in units of the noise of a pixel, and ``theta``."""
    content = io.BytesIO()
    np.savez_compressed(content, image=drawn.image.numpy(), theta=drawn.theta.numpy())
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, content.getvalue())


@torch.no_grad()
def write_film(request: SampleRequest, out: Path) -> None:
    """Write the denoising of the first galaxy of a request as an animated GIF."""
    model = load(request.model, request.device)
    theta, u, _ = _conditions(model, request)
    config = model.network.config
    columns, conditions = torch.full((1, config.n_theta), torch.nan), torch.zeros(1, 0)
    if theta is not None and u is not None and model.instrument is not None:
        columns, conditions = theta_columns(theta, u.zred)[:1], observing_columns(u, model.instrument)[:1]
    elif theta is not None:
        columns = theta[:1]
    generator = torch.Generator().manual_seed(request.seed)
    noise = torch.randn(1, config.n_band, config.n_pixel, config.n_pixel, generator=generator)
    device = torch.device(request.device)
    fn = denoise_fn(model.network, columns.to(device), conditions.to(device), guidance=request.guidance)
    frames = []
    for x, _ in heun_steps(fn, noise.to(device), sigma_schedule(model.sigma_sample, max(request.steps, 24))):
        image = model.preparation.inverse(x.cpu().clamp(-8, 8), torch.ones(1, config.n_band))
        frames.append(to_rgb(image, model.instrument)[0])
    write_gif([*frames, *[frames[-1]] * 8], out)


def _conditions(model: Model, request: SampleRequest) -> tuple[Tensor | None, Observing | None, list[float]]:
    if model.instrument is None:
        return _label_rows(model, request)
    theta = theta_rows(request.properties, request.n)
    values: list[float] = []
    if request.vary is not None:
        name, low, high = request.vary
        if name not in THETA:
            raise ValueError(f"`vary` must name one of {', '.join(THETA)}, got {name!r}.")
        values = np.linspace(low, high, request.n).tolist()
        theta[:, THETA.index(name)] = torch.tensor(values)
    u = usual_conditions(model.instrument, theta, zred=request.zred, snr=request.snr)
    check_theta(theta, u.zred)
    return theta, u, values


def _label_rows(model: Model, request: SampleRequest) -> tuple[Tensor | None, None, list[float]]:
    """Scaled labels of a model of pictures; nan for those not named."""
    labels: dict[str, Any] = model.provenance.get("config", {}).get("data", {}).get("labels", {})
    names = model.theta_names
    if request.zred is not None or request.snr is not None:
        raise ValueError(f"`zred` and `snr` must not be given: `model` {request.model!r} draws pictures.")
    asked = [*request.properties, *([request.vary[0]] if request.vary else [])]
    for name in asked:
        if name not in names:
            known = f"knows {', '.join(names)}" if names else "knows no properties"
            raise ValueError(
                f"`model` {request.model!r} {known}, not {name!r}: it draws pictures like those it was "
                "trained on."
            )
    if not names:
        return None, None, []
    rows = np.full((request.n, len(names)), np.nan)
    for name, value in request.properties.items():
        rows[:, names.index(name)] = value
    values: list[float] = []
    if request.vary is not None:
        name, low, high = request.vary
        values = np.linspace(low, high, request.n).tolist()
        rows[:, names.index(name)] = values
    ranges = {name: tuple(labels[name]) for name in names}
    return scaled_labels(rows, ranges, "the labels asked for"), None, values


def evaluate_model(
    name: str,
    out: Path,
    *,
    n: int,
    seed: int,
    config: str | None,
    device: str,
    progress: Progress | None,
    n_information: int | None = None,
) -> dict[str, Any]:
    """Evaluate a model on the data of a configuration, or of its own.

    Of ``n_information`` simulations the information gain is measured; of ``n`` without it.

    Raises
    ------
    FileNotFoundError, ValueError
        If model or data are not there or do not fit together.
    """
    check_device(device)
    model = load(name, device)
    base = Path()
    if config is not None:
        path = config_path(config)
        settings: TrainConfig = read_config(path)
        base = data_folder(path)
    elif "config" in model.provenance:
        settings = parse_config(model.provenance["config"])
    else:
        raise ValueError(f"`config` must be given: {name} does not say what it was trained on.")
    # The data alone are wanted: not the model that the run started from.
    training = dataclasses.replace(settings.training, start_from="")
    source = set_up(dataclasses.replace(settings, training=training), base, device).source
    return evaluate(model, source, out, n=n, n_information=n_information or n, seed=seed, progress=progress)


def correct_model(
    name: str,
    out: Path,
    *,
    simulations: int,
    options: dict[str, Any],
    calibration: int,
    folder: Path | None,
    minutes: float | None,
    device: str,
    progress: Progress | None,
) -> dict[str, Any] | None:
    """Give a model a ratio correction; what the header says of it, or None if the time was up.

    Raises
    ------
    FileNotFoundError, ValueError
        If the model is not there or cannot have one, or the folder holds another run.
    """
    check_device(device)
    found = corrected_model(
        load(name, device), out, CorrectionOptions()._replace(**options), simulations=simulations,
        calibration=calibration, folder=folder, minutes=minutes, device=device, progress=progress,
    )  # fmt: skip
    if found is None:
        return None
    model = load(str(found))
    return {**model.provenance["correction"], "calibration": model.calibration}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compilation came to."""

    n: int
    median_error: float
    """Monte Carlo error of log-likelihood differences, nats."""
    largest_error: float
    n_above: int
    """Galaxies that did not reach the error asked for."""
    strange: list[str]
    """Galaxies unlike anything that the model knows."""
    is_checked: bool
    """Whether the model has a reference that can tell."""


def compile_survey(
    images: Path,
    out: Path,
    *,
    model: str,
    target_error: float,
    max_draw: int,
    seed: int,
    chunk: int,
    overwrite: bool,
    device: str,
    progress: Progress | None,
) -> Compiled:
    """Write the statistics of a file of images.

    Raises
    ------
    FileNotFoundError, ValueError
        If images or model are not there or do not fit together.
    FileExistsError
        If ``out`` exists and ``overwrite`` is False.
    OSError
        If the file cannot be written.
    """
    import h5py

    check_device(device)
    loaded = load(model, device)
    if loaded.instrument is None:
        raise ValueError(f"`model` {model!r} is of pictures: it has no likelihood of galaxies' properties.")
    stamps = read_survey_images(images, loaded.instrument).stamps

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, "compiling")

    compile_file(
        loaded, model_path(model), stamps, out, target_error=target_error, max_draw=max_draw, seed=seed,
        chunk=chunk, overwrite=overwrite, progress=tell,
    )  # fmt: skip
    with h5py.File(out, "r") as file:
        error, p = file["error"][()], file["p_typical"][()]
        names = [name.decode() for name in file["id"][p < _STRANGE]]
    return Compiled(
        len(error), float(np.median(error)), float(error.max()), int((error > target_error).sum()), names,
        loaded.reference is not None and 1 / (len(loaded.reference.distance) + 1) < _STRANGE,
    )  # fmt: skip


def picture_posterior(
    images: Path, galaxy: str, theta: np.ndarray, out: Path, *, model: str, n: int = 11, seed: int = 0
) -> None:
    """Draw a galaxy's image and images at its posterior draws into one figure.

    Parameters
    ----------
    images
        HDF5 file of images, as for `compile_survey`.
    galaxy
        Identifier of the galaxy in it.
    theta
        Posterior draws of the properties, (draw, 6).
    out
        Figure to write.
    model
        Image model.
    n, seed
        Images to draw, and their noise.

    Raises
    ------
    FileNotFoundError, ValueError
        If images or model are not there, or the galaxy is not among the images.
    """
    from generative.predictive import predictive_figure, predictive_images

    loaded = load(model, "cpu")
    if loaded.instrument is None:
        raise ValueError(f"`model` {model!r} is of pictures: it has no likelihood of galaxies' properties.")
    stamps = read_survey_images(images, loaded.instrument).stamps
    rows = np.flatnonzero(stamps.id == galaxy)
    if len(rows) != 1:
        raise ValueError(
            f"`images` {images} must hold one image of {galaxy!r}, got {len(rows)}; it has "
            f"{', '.join(stamps.id[:4])}, ..."
        )
    drawn = predictive_images(loaded, stamps, int(rows[0]), theta, n=n, seed=seed)
    content = io.BytesIO()
    predictive_figure(loaded, stamps, int(rows[0]), drawn).savefig(content, dpi=150)
    write_atomically(out, content.getvalue())
