r"""Training of a denoiser: a generator of per-step results, with exact resume.

Everything random in a step comes from a generator seeded with (seed, step, process), so the state of a run
is its weights, their running mean, the optimizer's moments and the density of noise levels; a run that was
killed and resumed gives the weights of one that was not.
"""

import copy
import csv
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from generative.calibration import calibrated
from generative.checkpoint import (
    CheckpointError,
    Model,
    load_tensors,
    read_preparation,
    save_model,
    save_tensors,
)
from generative.config import TrainConfig, TrainingOptions
from generative.data import Batch, Source, hide_unseen, random_holes
from generative.instrument import Instrument
from generative.loss import Losses, TrainingBatch, sampling_levels
from generative.network import Denoiser, NetworkConfig, Separable, build_network
from generative.noise import NoiseDensity, likelihood_nodes
from generative.precision import bf16_is_fast
from generative.preparation import Preparation
from generative.refit import cache_statistics, refit
from generative.release import model_path
from generative.statistics import information_gain

STATE_NAME = "state.safetensors"
MODEL_NAME = "model.safetensors"
LOG_NAME = "log.csv"

_COLUMNS = ("step", "seconds", "images_per_s", "total", "denoise", "contrast", "looks", "held_denoise",
            "held_gain", "held_gain_error")  # fmt: skip
_VALIDATION_SEED = 10**9
_N_PROPOSAL = 512


class StepResult(NamedTuple):
    """What a step gives; validation is nan in steps without it."""

    step: int
    """Steps done."""
    seconds: float
    """Time of training so far, over all its runs."""
    images_per_s: float
    """Speed of this step."""
    total: float
    denoise: float
    """Squared residual per pixel and unit of ln sigma."""
    contrast: float
    """Cross-entropy of the true theta in the batch, nats."""
    looks: float
    held_denoise: float
    """`denoise` of the averaged weights on held-out images."""
    held_gain: float
    """Information gain of the averaged weights on held-out images, nats."""
    held_gain_error: float
    """Its standard error."""


class TrainState:
    """A run: network, running mean of its weights, optimizer, noise density."""

    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        preparation: Preparation,
        device: torch.device | str = "cpu",
    ) -> None:
        options = config.training
        torch.manual_seed(options.seed)  # the initial weights
        network = build_network(network_config(config, source))
        if options.start_from:
            start_from(network, options.start_from)
        set_bf16(network, options.bf16 and bf16_is_fast(device))
        self.config, self.preparation = config, preparation
        contrast = options.contrast if contrast_is_sound(source) else 0.0
        self.losses = Losses(network, contrast=contrast, looks=options.looks).to(device)
        self.average = copy.deepcopy(network).to(device).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.losses.parameters(), lr=options.lr, betas=(0.9, 0.99))
        self.density = NoiseDensity.start(options.sigma_likelihood)
        self.step = 0
        self.seconds = 0.0
        self.whole = True
        """False while a step changes the weights."""

    @property
    def network(self) -> Denoiser:
        """The network that is trained."""
        return self.losses.network

    def save(self, path: Path) -> None:
        """Write the state, atomically."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
        tensors |= {"density.mean": self.density.mean, "density.square": self.density.square}
        header = {
            "kind": "state",
            "step": self.step,
            "seconds": self.seconds,
            "config": self.config.to_dict(),
            "preparation": dataclasses.asdict(self.preparation),
        }
        save_tensors(path, tensors, header)

    def load(self, path: Path) -> None:
        """Take up a run.

        Raises
        ------
        FileNotFoundError, CheckpointError
            If the file is not there or not a state.
        ValueError
            If it belongs to other settings; the message names the first that differs.
        """
        tensors, header = load_tensors(path)
        if header.get("kind") != "state":
            raise CheckpointError(f"{path} holds a {header.get('kind')}, not the state of a run.")
        difference = first_difference(_of_steps(header["config"]), _of_steps(self.config.to_dict()))
        if difference:
            raise ValueError(
                f"{path} belongs to a run with other settings: {difference}. Choose another `out`."
            )
        self.network.load_state_dict(_with_prefix(tensors, "network."))
        self.average.load_state_dict(_with_prefix(tensors, "average."))
        adam: dict[int, dict[str, Tensor]] = {}
        for name, value in _with_prefix(tensors, "adam.").items():
            index, key = name.split(".", 1)
            adam.setdefault(int(index), {})[key] = value
        state = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": adam, "param_groups": state["param_groups"]})
        self.density = self.density._replace(mean=tensors["density.mean"], square=tensors["density.square"])
        self.preparation = read_preparation(header["preparation"])
        self.step, self.seconds = int(header["step"]), float(header["seconds"])


def contrast_is_sound(source: Source) -> bool:
    """Whether the contrastive loss may be used.

    Where theta goes with the conditions u, it would learn p(theta | u) along with the image.
    """
    return source.n_u == 0 or source.proposal(1) is not None


_AFTER_STEPS = ("refit_images", "refit_steps", "calibration_images")
"""Settings of what follows the training steps."""


def _of_steps(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that the training steps depend on: the others may change when a run is taken up."""
    training = {k: v for k, v in config["training"].items() if k not in _AFTER_STEPS}
    return {**config, "training": training}


def network_config(config: TrainConfig, source: Source) -> NetworkConfig:
    """Network of a run: its options, with the sizes of the data."""
    o, t = config.network, config.training
    sigma = noise_range(dataclasses.asdict(t))
    return NetworkConfig(
        n_band=source.n_band, n_pixel=source.n_pixel, n_theta=source.n_theta, n_u=source.n_u,
        kind=o.kind, n_basis=o.n_basis, patch=o.patch, channels=o.channels, layers=o.layers,
        attention=o.attention, hidden=o.hidden, n_feature=o.n_feature, refine=o.refine, sigma=sigma,
    )  # fmt: skip


def noise_range(training: dict[str, Any]) -> tuple[float, float]:
    """Noise levels that sampling or the likelihood use, from the settings of a training."""
    sample, likelihood = training["sigma_sample"], training["sigma_likelihood"]
    return min(sample[0], likelihood[0]), max(sample[1], likelihood[1])


def start_from(network: Denoiser, name: str) -> None:
    """Take the weights of another run: those of its model, or the averaged ones of its state.

    Raises
    ------
    FileNotFoundError, CheckpointError
        If there is no such model, or it cannot be read.
    ValueError
        If it has weights that the network has not, or of other shapes, or was made for other noise levels.
    """
    tensors, header = load_tensors(model_path(name))
    if header.get("kind") == "model":
        before = tuple(header["network"]["sigma"])
    else:
        before = noise_range(header["config"]["training"])
    if before != network.config.sigma:
        raise ValueError(
            f"`start_from` {name!r} does not fit the network: it resolves noise levels {before}, here "
            f"{network.config.sigma}. Give [training] its `sigma_sample` and `sigma_likelihood`."
        )
    weights = _with_prefix(tensors, "network." if header.get("kind") == "model" else "average.")
    own = network.state_dict()
    for key, value in weights.items():
        if key not in own or own[key].shape != value.shape:
            here = tuple(own[key].shape) if key in own else "nothing"
            raise ValueError(
                f"`start_from` {name!r} does not fit the network: {key} has the shape {tuple(value.shape)}, "
                f"here {here}. Give [network] the sizes of that model."
            )
    network.load_state_dict(own | weights)


def set_bf16(network: Denoiser, on: bool) -> None:
    """Compute the trunk in bfloat16, or not."""
    network.trunk.bf16 = on


def step_generator(seed: int, step: int, process: int, device: torch.device | str) -> torch.Generator:
    """Source of all randomness of a step."""
    value = (seed * 1_000_003 + step) * 4099 + process
    return torch.Generator(device=torch.device(device)).manual_seed(value % (2**63))


def training_batch(
    batch: Batch,
    preparation: Preparation,
    density: NoiseDensity,
    options: TrainingOptions,
    generator: torch.Generator,
) -> TrainingBatch:
    """Prepare images and draw what a step needs: holes, dropped labels, noise levels, noise."""
    n, device = len(batch.image), batch.image.device
    observed = random_holes(batch.observed, generator) if options.holes else batch.observed
    clean = preparation.forward(batch.image, batch.noise, observed)
    gone = torch.rand(n, 1, generator=generator, device=device) < options.label_dropout
    whole = torch.rand(n, 1, generator=generator, device=device) < 0.5
    coin = torch.rand(batch.theta.shape, generator=generator, device=device) < 0.5
    dropped = torch.where(gone & (whole | coin), torch.nan, batch.theta)
    sigma, weight = sampling_levels(density, options.sigma_sample, options.levels, n, generator, device)
    eps = torch.randn((len(sigma), *clean.shape), generator=generator, device=device)
    u = hide_unseen(batch.u, observed)
    return TrainingBatch(clean, batch.theta, dropped, u, observed, sigma, weight, eps)


def learning_rate(options: TrainingOptions, step: int) -> float:
    """Learning rate of a step: a rise, then a cosine to a fiftieth."""
    rise = min(1.0, (step + 1) / options.warmup)
    return options.lr * rise * max(0.02, 0.5 * (1 + math.cos(math.pi * step / options.steps)))


def train_steps(
    state: TrainState, source: Source, *, accelerator: Any | None = None, until: float = math.inf
) -> Iterator[StepResult]:
    """Train step by step until the last one, or until the clock (`time.monotonic`) shows ``until``.

    Parameters
    ----------
    state
        Run, changed in place.
    source
        Images.
    accelerator
        An `accelerate.Accelerator`, for GPUs and several processes; None for the state's device alone.
    """
    options = state.config.training
    device = next(state.losses.parameters()).device
    process = 0 if accelerator is None else accelerator.process_index
    losses, optimizer = state.losses, state.optimizer
    if accelerator is not None:
        losses, optimizer = accelerator.prepare(losses, optimizer)
    held = None
    while state.step < options.steps and not _time_is_up(until, accelerator, device):
        started = time.monotonic()
        generator = step_generator(options.seed, state.step, process, device)
        batch = training_batch(
            source.batch(options.batch, generator), state.preparation, state.density, options, generator
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(options, state.step)
        optimizer.zero_grad()
        parts = losses(batch)
        values = [v.item() for v in (parts.total, parts.denoise, parts.contrast, parts.looks)]
        if accelerator is None:
            parts.total.backward()
            norm = torch.nn.utils.clip_grad_norm_(state.losses.parameters(), options.clip)
        else:
            accelerator.backward(parts.total)
            norm = accelerator.clip_grad_norm_(losses.parameters(), options.clip)
        if not (math.isfinite(values[0]) and math.isfinite(float(norm))):
            raise FloatingPointError(
                f"the loss is {values[0]} and its gradient {float(norm)} in step {state.step + 1}; what "
                "was saved before is sound. Lower `lr`, or look for pixels that are not finite."
            )
        state.whole = False  # an interrupt from here on leaves a state that no run would have
        optimizer.step()
        _update_average(state)
        sigma, per_level = batch.sigma[:-1].flatten(), parts.per_level.flatten()
        if accelerator is not None and accelerator.num_processes > 1:
            sigma, per_level = accelerator.gather(sigma), accelerator.gather(per_level)
        state.density = state.density.updated(sigma, per_level)
        state.step += 1
        state.whole = True
        elapsed = time.monotonic() - started
        state.seconds += elapsed
        checks = (math.nan, math.nan, math.nan)
        if state.step % options.validate_every == 0 or state.step == options.steps:
            held = held_batch(source, options, device) if held is None else held
            checks = validate(state, held, source.proposal(_N_PROPOSAL))
        n_image = options.batch * (1 if accelerator is None else accelerator.num_processes)
        total, denoise, contrast, looks = values
        yield StepResult(
            state.step, state.seconds, n_image / elapsed, total, denoise, contrast, looks, *checks
        )


@torch.no_grad()
def _update_average(state: TrainState) -> None:
    keep = min(state.config.training.ema, (1 + state.step) / (10 + state.step))
    for mean, now in zip(state.average.parameters(), state.network.parameters(), strict=True):
        mean.lerp_(now, 1 - keep)


def held_batch(source: Source, options: TrainingOptions, device: torch.device | str) -> Batch:
    """The held-out images of a run's validation."""
    generator = torch.Generator(device=torch.device(device)).manual_seed(_VALIDATION_SEED + options.seed)
    return source.held_out(options.n_validate, generator)


@torch.no_grad()
def validate(state: TrainState, held: Batch, proposal: Tensor | None) -> tuple[float, float, float]:
    """Denoising loss, information gain and its error on held-out images, with the averaged weights.

    The gain is nan where the distribution of theta is not known (``proposal`` is None).
    """
    options, network = state.config.training, state.average
    losses = Losses(network, contrast=0.0, looks=0.0)
    generator = step_generator(options.seed + 1, 0, 0, held.image.device)
    plain = NoiseDensity.start(options.sigma_likelihood)
    batch = training_batch(held, state.preparation, plain, options, generator)
    denoise = float(losses(batch).denoise)
    if not isinstance(network, Separable) or proposal is None:
        return denoise, math.nan, math.nan
    cached = cache_statistics(
        network, state.preparation, _Fixed(held), len(held.theta), sigma=options.sigma_likelihood,
        n_node=options.n_node, seed=_VALIDATION_SEED, holes=False, chunk=len(held.theta),
        device=held.image.device,
    )  # fmt: skip
    nodes, width = likelihood_nodes(options.sigma_likelihood, options.n_node)
    nodes = nodes.to(cached.G.device)
    gain, _, _ = information_gain(
        network.coefficients,
        cached.G,
        cached.b,
        cached.theta,
        cached.u,
        proposal,
        nodes,
        torch.full_like(nodes, width),
    )
    return denoise, float(gain.mean()), float(gain.std() / len(gain) ** 0.5)


class _Fixed:
    """A source of one batch."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.n_band, self.n_pixel = batch.image.shape[1], batch.image.shape[2]
        self.n_theta, self.n_u = batch.theta.shape[1], batch.u.shape[1]
        self.n_train: int | None = len(batch.image)

    def batch(self, n: int, generator: torch.Generator) -> Batch:
        del n, generator
        return self._batch

    def held_out(self, n: int, generator: torch.Generator) -> Batch:
        del n, generator
        return self._batch

    def proposal(self, n: int) -> None:
        del n


def _time_is_up(until: float, accelerator: Any | None, device: torch.device) -> bool:
    """Whether the clock shows ``until``; if one process says so, all stop."""
    late = time.monotonic() >= until
    if accelerator is None or accelerator.num_processes == 1:
        return late
    return bool(accelerator.reduce(torch.tensor(float(late), device=device), "sum") > 0)


def run(
    config: TrainConfig,
    source: Source,
    preparation: Preparation,
    out: Path,
    *,
    instrument: Instrument | None,
    theta_names: tuple[str, ...],
    resume: bool = False,
    minutes: float | None = None,
    device: str = "cpu",
    accelerator: Any | None = None,
    on_step: Callable[[StepResult], None] | None = None,
    on_refit: Callable[[int, int, str], None] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Path | None:
    """Train, log, save; refit and write the model when all steps are done.

    Parameters
    ----------
    out
        Folder of the state, the logs and the model.
    resume
        Take up the run that is in ``out``.
    minutes
        Stop after this time with the state saved; a later call resumes.
    on_step, on_refit
        Called with results, for progress bars.
    provenance
        To be kept in the model's header.

    Returns
    -------
        The model's file, or None if time ran out first.

    Raises
    ------
    FileExistsError
        If ``out`` holds a run and ``resume`` is False.
    ValueError
        If the run in ``out`` has other settings.
    OSError
        If a file cannot be written; what was saved before stays.
    """
    options = config.training
    state = TrainState(config, source, preparation, device)
    path = out / STATE_NAME
    if path.is_file():
        if not resume:
            raise FileExistsError(f"{out} holds a run: resume it, or choose another `out`.")
        state.load(path)
    is_main = accelerator is None or accelerator.is_main_process
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    if is_main:
        out.mkdir(parents=True, exist_ok=True)
        _trim_log(out / LOG_NAME, state.step)
    log = RunLog(out) if is_main else None
    try:
        for result in train_steps(state, source, accelerator=accelerator, until=until):
            if log is not None:
                log.add(result)
            if on_step is not None:
                on_step(result)
            if is_main and result.step % options.save_every == 0:
                state.save(path)
    finally:
        if is_main and state.step > 0 and state.whole:
            state.save(path)
        if log is not None:
            log.close()
    if state.step < options.steps or not is_main:
        return None
    model = finished_model(state, source, instrument, theta_names, device, on_refit, provenance or {})
    save_model(out / MODEL_NAME, model)
    if options.calibration_images > 0:
        model = calibrated(model, source, options.calibration_images, seed=options.seed, progress=on_refit)
        save_model(out / MODEL_NAME, model)
    return out / MODEL_NAME


def finished_model(
    state: TrainState,
    source: Source,
    instrument: Instrument | None,
    theta_names: tuple[str, ...],
    device: str,
    progress: Callable[[int, int, str], None] | None,
    provenance: dict[str, Any],
) -> Model:
    """Model of the averaged weights, with the refit of the likelihood."""
    options, network = state.config.training, state.average
    set_bf16(network, False)
    coefficients = network.coefficients if isinstance(network, Separable) else None
    weight = torch.ones(options.n_node)
    notes: dict[str, Any] = {
        "config": state.config.to_dict(),
        "steps": state.step,
        "seconds": round(state.seconds),
    }
    if isinstance(network, Separable) and options.refit_images >= 40 and source.proposal(1) is not None:
        cached = cache_statistics(
            network, state.preparation, source, options.refit_images, sigma=options.sigma_likelihood,
            n_node=options.n_node, seed=2 * _VALIDATION_SEED + options.seed, device=device, progress=progress,
        )  # fmt: skip
        done = refit(
            network.coefficients, cached, sigma=options.sigma_likelihood, steps=options.refit_steps,
            seed=options.seed, progress=progress,
        )  # fmt: skip
        coefficients, weight = done.coefficients, done.node_weight
        notes["refit"] = {"images": len(cached.theta), "before": done.loss_before, "after": done.loss_after}
    return Model(
        network, coefficients, state.preparation, instrument, theta_names, options.sigma_sample,
        options.sigma_likelihood, weight, notes | provenance,
    )  # fmt: skip


class RunLog:
    """Results of a run as CSV and for TensorBoard."""

    def __init__(self, out: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        path = out / LOG_NAME
        new = not path.is_file()
        self._file = path.open("a", newline="")
        self._csv = csv.writer(self._file)
        if new:
            self._csv.writerow(_COLUMNS)
        self._board: Any = SummaryWriter(str(out / "tensorboard"))

    def add(self, result: StepResult) -> None:
        """Write a step."""
        self._csv.writerow([f"{value:.6g}" for value in result])
        self._file.flush()
        for name, value in zip(_COLUMNS[1:], result[1:], strict=True):
            if math.isfinite(value):
                self._board.add_scalar(name, value, result.step)

    def close(self) -> None:
        """Close both."""
        self._file.close()
        self._board.close()


def _trim_log(path: Path, step: int) -> None:
    """Drop rows past a step: a killed run may have logged more than it saved."""
    if not path.is_file():
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    if not rows:
        path.unlink()
        return
    kept = [rows[0], *(row for row in rows[1:] if row and int(float(row[0])) <= step)]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        csv.writer(file).writerows(kept)
    temporary.replace(path)


def first_difference(left: Any, right: Any, name: str = "") -> str:
    """Name and values of the first setting that differs between nested dictionaries; empty if none does."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in {**left, **right}:
            found = first_difference(left.get(key), right.get(key), f"{name}.{key}" if name else key)
            if found:
                return found
        return ""
    same = (
        list(left) == list(right)
        if isinstance(left, list | tuple) and isinstance(right, list | tuple)
        else left == right
    )
    return "" if same else f"`{name}` was {left!r}, now {right!r}"


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
