r"""Training of the ratio correction (`generative.correction`) for a finished model.

1. The encoder learns alone, a = 0: contrastive, on simulations that are used again and again, turned at
   random and with holes. 2. With the encoder frozen, psi and a are fitted on top of the score model's
   likelihood, on statistics of simulations that neither was trained on.

The loss of both is the cross-entropy of picking the true theta_i for image x_i among other draws of the
simulations' distribution, those of the batch and some shared ones (van den Oord et al. 2018,
arXiv:1807.03748); it is least where the difference from ln p(x | theta, u) does not depend on theta.
"""

import copy
import hashlib
import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from generative.checkpoint import Model, load_tensors, save_tensors, write_atomically
from generative.correction import Correction, default_config, with_one
from generative.data import Source, hide_unseen, random_holes, turned
from generative.network import Separable
from generative.precision import bf16_is_fast
from generative.simulated_set import SimulatedSet, check_header
from generative.statistics import Folded, fold, folded_log_likelihood, image_statistics

Progress = Callable[[int, int, str], None]

_SAVE_SECONDS = 60.0
_SHARED = 64
"""Further theta that all images of a batch are compared with."""


class CorrectionOptions(NamedTuple):
    """Lengths of the training."""

    steps: int = 8000
    """Of the encoder."""
    batch: int = 96
    lr: float = 1e-3
    valid: int = 1000
    """Simulations at the end of the set that choose the encoder's best step."""
    images: int = 4000
    """Simulations that psi and a are fitted on; a tenth chooses the step, another tenth tests."""
    fit_steps: int = 1500
    numbers: int = 64
    """R."""
    bf16: bool = True
    seed: int = 0


def contrastive_loss(logp: Float[Tensor, "batch other"]) -> Float[Tensor, ""]:
    """Cross-entropy, nats, of candidates of which the i-th of image i is the true one."""
    return -torch.log_softmax(logp, dim=1).diagonal().mean()


def train_encoder(
    start: Correction,
    data: SimulatedSet,
    proposal: Float[Tensor, "draw theta"],
    folder: Path,
    options: CorrectionOptions,
    *,
    until: float = math.inf,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Correction | None:
    """Train the encoder alone; a run that was stopped goes on as if it had not been.

    Parameters
    ----------
    start
        With random weights.
    data
        Simulations; the last ``options.valid`` choose the best of the averaged weights.
    proposal
        Scaled theta from the simulations' distribution.
    folder
        Where state and best weights are kept.
    options
        Lengths.
    until
        `time.monotonic` when to stop.

    Returns
    -------
    Correction or None
        None if the time was up.

    Raises
    ------
    ValueError
        If the folder's state is of other options.
    """
    n = len(data.image) - options.valid
    net = copy.deepcopy(start).to(device).train().requires_grad_(True)
    average = copy.deepcopy(net).eval().requires_grad_(False)
    trained = [*net.encoder.parameters(), *net.psi.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, weight_decay=1e-4)
    record: dict[str, Any] = {"step": 0, "seconds": 0.0, "best": math.inf, "options": options._asdict()}
    state, best = folder / "encoder-state.safetensors", folder / "encoder.safetensors"
    if state.is_file():
        tensors, header = load_tensors(state)
        if header["record"]["options"] != record["options"]:
            raise ValueError(f"{folder} holds a run with other options: {header['record']['options']}.")
        record = header["record"]
        _restore(net, average, optimizer, tensors)
    held = _held(data, n, device)
    warmup = max(min(200, options.steps // 10), 1)
    saved = time.monotonic()
    began, before = time.process_time(), record["seconds"]
    while record["step"] < options.steps:
        step = record["step"]
        generator = torch.Generator().manual_seed(options.seed * 10**8 + step)
        part = min(1.0, (step + 1) / warmup) * max(1e-3, 0.5 * (1 + math.cos(math.pi * step / options.steps)))
        for group in optimizer.param_groups:
            group["lr"] = options.lr * part
        clean, theta, u, observed = _training_batch(data, n, options.batch, generator, device)
        shared = proposal[torch.randint(len(proposal), (_SHARED,), generator=generator)].to(device)
        net.encoder.bf16 = options.bf16 and bf16_is_fast(device)
        numbers = with_one(net.encoder(clean, u, observed))
        loss = contrastive_loss(net.log_ratio(numbers, _candidates(theta, shared), u))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()
        _follow(average, net, min(0.999, (1 + step) / (10 + step)))
        record["step"] = step + 1
        record["seconds"] = before + time.process_time() - began
        done = record["step"] == options.steps
        if record["step"] % 250 == 0 or done:
            gain = _gain(average, held, proposal.to(device))
            record["gain"] = gain
            if -gain < record["best"]:
                record["best"] = -gain
                save_tensors(best, average.state_dict(), {"kind": "correction", "record": record})
        if progress is not None:
            progress(record["step"], options.steps, f"encoder: gain {record.get('gain', math.nan):.3f} nats")
        stop = time.monotonic() > until
        if done or stop or time.monotonic() - saved > _SAVE_SECONDS:
            save_tensors(state, _tensors(net, average, optimizer), {"kind": "state", "record": record})
            saved = time.monotonic()
        if stop and not done:
            return None
    tensors, _ = load_tensors(best)
    average.load_state_dict(tensors)
    average.encoder.bf16 = False
    return average


def _candidates(theta: Float[Tensor, "batch theta"], shared: Float[Tensor, "some theta"]) -> Tensor:
    every = torch.cat([theta, shared])
    return every[None].expand(len(theta), -1, -1)


def _training_batch(
    data: SimulatedSet, n: int, size: int, generator: torch.Generator, device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor, Bool[Tensor, "..."]]:
    rows = torch.randint(n, (size,), generator=generator)
    turn = torch.randint(8, (size,), generator=generator)
    clean = turned(torch.as_tensor(data.image[rows.numpy()]).float(), turn)
    observed = random_holes(torch.ones_like(clean, dtype=torch.bool), generator)
    u = hide_unseen(data.u[rows], observed)
    return tuple(item.to(device) for item in (clean, data.theta[rows], u, observed))  # type: ignore[return-value]


def _held(data: SimulatedSet, n: int, device: torch.device | str) -> tuple[Tensor, ...]:
    clean = torch.as_tensor(data.image[n:]).float()
    parts = (clean, data.theta[n:], data.u[n:], torch.ones_like(clean, dtype=torch.bool))
    return tuple(item.to(device) for item in parts)


@torch.no_grad()
def _gain(net: Correction, held: tuple[Tensor, ...], proposal: Tensor, n_other: int = 1024) -> float:
    """Information gain of the encoder alone on held-out images as they lie, nats."""
    found = []
    for rows in torch.arange(len(held[0])).split(50):
        clean, theta, u, observed = (item[rows] for item in held)
        other = proposal[None, :n_other].expand(len(rows), -1, -1)
        logp = net.log_ratio(
            with_one(net.encoder(clean, u, observed)), torch.cat([theta[:, None], other], dim=1), u
        )
        found.append(logp[:, 0] - torch.logsumexp(logp, 1) + math.log(logp.shape[1]))
    return float(torch.cat(found).mean())


@torch.no_grad()
def _follow(average: nn.Module, net: nn.Module, keep: float) -> None:
    for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
        slow.lerp_(fast, 1 - keep)


def _tensors(net: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    return tensors


def _restore(
    net: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    for part, prefix in ((net, "net."), (average, "average.")):
        part.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Compiled(NamedTuple):
    """Simulations as the fit of psi and a needs them."""

    folded: Folded
    clean: Float[Tensor, "image band height width"]
    observed: Bool[Tensor, "image band height width"]
    theta: Float[Tensor, "image theta"]
    u: Float[Tensor, "image column"]


def compiled_simulations(
    model: Model,
    source: Source,
    n: int,
    folder: Path,
    *,
    seed: int = 0,
    chunk: int = 100,
    until: float = math.inf,
    progress: Progress | None = None,
) -> Compiled | None:
    """Folded statistics of fresh simulations, some with holes, from files that are made if missing.

    Parameters
    ----------
    n
        Simulations, in files of ``chunk``.
    seed
        Of simulations and noise draws: two per node, each chunk its own.
    until
        `time.monotonic` after which no further file is begun.

    Raises
    ------
    ValueError
        If the model is not separable, or the folder holds statistics of another model.
    """
    network, coefficients = model.network, model.coefficients
    if not isinstance(network, Separable) or coefficients is None:
        raise ValueError("`model` must be separable to have statistics.")
    device = next(network.parameters()).device
    nodes, weight = (item.to(device) for item in model.nodes)
    parts: list[dict[str, np.ndarray]] = []
    check_header(folder, {"model": _weights_hash(network, coefficients), "seed": seed, "chunk": chunk})
    for first in range(0, n, chunk):
        path = folder / f"statistics-{first:07d}.npz"
        if not path.is_file():
            if time.monotonic() > until:
                return None
            key = 5 * 10**9 + 10**7 * seed + first
            generator = torch.Generator(device=device).manual_seed(key)
            batch = source.held_out(chunk, generator)
            observed = random_holes(batch.observed, generator)
            clean = model.preparation.forward(batch.image, batch.noise, observed)
            u = hide_unseen(batch.u, observed)
            G, b, _ = image_statistics(network, clean, u, observed, nodes, seed=key)
            M, v = fold(coefficients, G, b, nodes, weight)
            items = {"M": M, "v": v, "clean": clean, "observed": observed, "theta": batch.theta, "u": u}
            content = io.BytesIO()
            arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in items.items()}
            np.savez(content, **arrays)
            write_atomically(path, content.getvalue())
        with np.load(path) as stored:
            parts.append({name: stored[name] for name in stored.files})
        if progress is not None:
            progress(first + chunk, n, "statistics of simulations")
    whole = {
        name: torch.as_tensor(np.concatenate([part[name] for part in parts]))[:n].to(device)
        for name in parts[0]
    }
    folded = Folded(whole["M"], whole["v"])
    return Compiled(folded, whole["clean"], whole["observed"], whole["theta"], whole["u"])


def _weights_hash(*networks: nn.Module) -> str:
    """SHA-256 of weights."""
    digest = hashlib.sha256()
    for network in networks:
        for name, value in network.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


class Fitted(NamedTuple):
    """Result of the fit of psi and a."""

    correction: Correction
    loss_before: float
    """Contrastive loss of the score model's likelihood on images that nothing was chosen by, nats."""
    loss_after: float
    """And of the corrected one."""


def fit_correction(
    model: Model,
    encoder: Correction,
    data: Compiled,
    proposal: Float[Tensor, "draw theta"],
    options: CorrectionOptions,
    progress: Progress | None = None,
) -> Fitted:
    """Fit psi and a with the encoder and the score model frozen.

    Raises
    ------
    ValueError
        If there are fewer than 40 images.
    """
    n = len(data.theta)
    if n < 40:
        raise ValueError(f"`data` must hold at least 40 images, got {n}.")
    assert model.coefficients is not None  # noqa: S101
    coefficients, device = model.coefficients, data.theta.device
    net = copy.deepcopy(encoder).to(device).eval()
    net.encoder.half().float()  # as a checkpoint keeps it
    net.requires_grad_(False)
    net.psi.requires_grad_(True)
    numbers = torch.cat(
        [net.numbers(data.clean[r], data.u[r], data.observed[r]) for r in torch.arange(n).split(100)]
    )
    raw = torch.tensor(_INITIAL, device=device, requires_grad=True)
    generator = torch.Generator().manual_seed(options.seed)
    n_held = max(n // 10, 10)
    held, test, train = torch.randperm(n, generator=generator).tensor_split([n_held, 2 * n_held])
    speeds = (options.lr, 20 * options.lr)  # one number can move faster than many
    optimizer = torch.optim.AdamW(
        [{"params": net.psi.parameters(), "weight_decay": 1e-2}, {"params": [raw], "weight_decay": 0.0}]
    )

    def logp(rows: Tensor, theta: Tensor, *, corrected: bool = True) -> Tensor:
        u = data.u[rows]
        base = folded_log_likelihood(coefficients, Folded(*(f[rows] for f in data.folded)), theta, u)
        if not corrected:
            return base
        return nn.functional.softplus(raw) * base + net.log_ratio(numbers[rows], theta, u)

    def loss_of(rows: Tensor, shared: Tensor, *, corrected: bool = True) -> Tensor:
        theta = _candidates(data.theta[rows], shared)
        return contrastive_loss(logp(rows, theta, corrected=corrected))

    @torch.no_grad()
    def mean_loss(rows: Tensor, *, corrected: bool = True) -> float:
        shared = proposal[:512].to(device)
        each = [loss_of(some, shared, corrected=corrected) * len(some) for some in rows.split(50)]
        return float(torch.stack(each).sum() / len(rows))

    before, best = mean_loss(test, corrected=False), math.inf
    kept = (copy.deepcopy(net.state_dict()), float(raw.detach()))
    for step in range(options.fit_steps):
        for group, speed in zip(optimizer.param_groups, speeds, strict=True):
            group["lr"] = speed * max(0.02, 0.5 * (1 + math.cos(math.pi * step / options.fit_steps)))
        rows = train[torch.randint(len(train), (64,), generator=generator)]
        shared = proposal[torch.randint(len(proposal), (128,), generator=generator)].to(device)
        optimizer.zero_grad()
        loss_of(rows, shared).backward()
        nn.utils.clip_grad_norm_([*net.psi.parameters(), raw], 5.0)
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == options.fit_steps:
            now = mean_loss(held)
            if now < best:
                best, kept = now, (copy.deepcopy(net.state_dict()), float(raw.detach()))
            if progress is not None:
                progress(step + 1, options.fit_steps, f"correction: {best:.3f} nats")
    net.load_state_dict(kept[0])
    with torch.no_grad():
        raw.fill_(kept[1])
        after = mean_loss(test)
        net.scale.copy_(nn.functional.softplus(raw))
    return Fitted(net.eval().requires_grad_(False), before, after)


_INITIAL = -1.0
"""a starts at softplus(-1) = 0.31: the encoder alone knows much of what the score model knows."""


def untrained(model: Model, options: CorrectionOptions) -> Correction:
    """Correction of a model's sizes with random weights."""
    config = model.network.config
    torch.manual_seed(options.seed)
    return Correction(
        default_config(config.n_band, config.n_pixel, config.n_theta, config.n_u, options.numbers)
    )


def describe(options: CorrectionOptions, fitted: Fitted) -> dict[str, Any]:
    """What the model's header says of the fit."""
    return {
        "options": json.loads(json.dumps(options._asdict())),
        "before": fitted.loss_before,
        "after": fitted.loss_after,
        "scale": float(fitted.correction.scale),
    }
