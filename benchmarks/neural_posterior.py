"""The yardstick of an image model: a neural posterior estimator of sbi, trained on the same simulations.

sbi's convolutional embedding network sees the prepared image, its neural spline flow the embedding and the
conditions of observation. It gets as many simulations as the image model was trained and refitted with, and
at least as much time on the same processor, simulating included; turns and mirror images of each stamp; a
learning rate that falls to nothing; and the weights that were best on simulations it does not train on.
Properties are made normal (each is uniform in the simulations), so that the flow loses nothing beyond their
range and a flow that has learnt nothing is the prior.

    python -m benchmarks.neural_posterior [--models sdss-griz hst-f814w] [--seconds 4992] [--pause-after 540]
    python -m benchmarks.neural_posterior --device cuda --steps 20000

With `--steps` it ends after so many steps of 96 images instead of a time. Simulations, state and weights are
kept in results/.cache, and a run that was stopped goes on; `--pause-after` stops it by itself.
`benchmarks.image_likelihood` measures its information gain.
"""

import argparse
import copy
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from sbi.neural_nets import posterior_nn
from sbi.neural_nets.embedding_nets import CNNEmbedding
from torch import Tensor, nn

from benchmarks._common import RESULTS
from generative.checkpoint import load_tensors, save_tensors
from generative.conditions import LOG_AGE_RECENT, OLD_AGE_FRACTION, RANGE, old_age_fraction, theta_columns
from generative.data import turned
from generative.precision import bf16_is_fast
from generative.release import available, load
from generative.simulated_set import simulated_set

CACHE = RESULTS / ".cache" / "neural_posterior"
BATCH, VALID, SEED = 96, 2000, 4 * 10**9
EVERY = 500


def normal(theta: Tensor) -> Tensor:
    """Properties on the network's scale as independent standard normal variables."""
    unit = 0.5 * (theta.double() + 1)
    unit[:, 2] = old_fraction(theta.double())
    return torch.special.ndtri(unit.clamp(1e-7, 1 - 1e-7)).float()


def old_fraction(theta: Tensor) -> Tensor:
    """Uniform variable that the age of the old stars was drawn from (`generative.conditions.draw_theta`)."""
    low, high = torch.tensor(list(RANGE.values()), dtype=theta.dtype).T
    box = low + 0.5 * (theta + 1) * (high - low)
    old = old_age_fraction(box[:, 2], 10 ** (box[:, 1] + LOG_AGE_RECENT))
    return (old - OLD_AGE_FRACTION[0]) / (OLD_AGE_FRACTION[1] - OLD_AGE_FRACTION[0])


class Embedding(nn.Module):
    """sbi's embedding of the image, then the conditions of observation as they are."""

    def __init__(self, n_band: int, n_pixel: int, n_out: int = 64) -> None:
        super().__init__()
        channels = [48, 96, 192] if n_pixel <= 32 else [32, 64, 96, 192]
        self.shape = (n_band, n_pixel, n_pixel)
        self.image = CNNEmbedding(
            self.shape[1:], n_band, channels, len(channels), 2, num_linear_units=256, output_dim=n_out
        )

    def forward(self, x: Tensor) -> Tensor:
        """Image and conditions, flat, to features."""
        n = math.prod(self.shape)
        use = self.training and bf16_is_fast(x.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=use):
            features = self.image(x[:, :n].reshape(-1, *self.shape))
        return torch.cat([features.float(), x[:, n:]], dim=1)


def build(n_band: int, n_pixel: int, n_u: int, n_theta: int) -> nn.Module:
    """Untrained estimator; the same weights at every start."""
    torch.manual_seed(1)
    flow = posterior_nn(
        "nsf", z_score_theta="none", z_score_x="none", hidden_features=96, num_transforms=5,
        embedding_net=Embedding(n_band, n_pixel),
    )  # fmt: skip
    x = torch.randn(4, n_band * n_pixel**2 + n_u)
    built: nn.Module = flow(torch.randn(4, n_theta), x)
    return built


def flat(image: Tensor, u: Tensor) -> Tensor:
    """What the estimator is shown."""
    return torch.cat([image.flatten(1).float(), u], dim=1)


def batches(n: int, seed: int) -> Iterator[Tensor]:
    """Rows of one batch after another, each image once before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=generator)[: n - n % BATCH].split(BATCH)


def train(name: str, seconds: float | None, steps: int | None, pause_after: float, device: str) -> bool:
    """Train until the time is used up or the steps are done; False if the run paused before."""
    model, folder = load(name), CACHE / name
    stop = time.monotonic() + pause_after
    options = model.provenance["config"]["training"]
    n = model.provenance["steps"] * options["batch"] + options["refit_images"]
    assert model.instrument is not None  # noqa: S101
    data = simulated_set(
        model.instrument, model.preparation, n + VALID, CACHE.parent / "simulations" / name, until=stop
    )
    if data is None:
        return False
    image, z, u, used = data.image, normal(data.theta), data.u, data.seconds
    budget = (model.provenance["seconds"] if seconds is None else seconds) - used
    net = build(image.shape[1], image.shape[2], u.shape[1], z.shape[1]).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-4)
    record: dict[str, Any] = {
        "step": 0, "seconds": 0.0, "best": math.inf, "simulating_s": used, "simulations": n,
        "parameters": sum(p.numel() for p in net.parameters()),
    }  # fmt: skip
    state_file, best_file = folder / "state.safetensors", folder / "best.safetensors"
    if state_file.is_file():
        tensors, header = load_tensors(state_file)
        record = header["record"]
        _restore(net, optimizer, tensors)
    rng = torch.Generator().manual_seed(SEED + record["step"])
    rows_of = batches(n, SEED + record["step"])
    clock = time.process_time if device == "cpu" else time.perf_counter
    began, before = clock(), record["seconds"]
    held = flat(torch.as_tensor(image[n:]), u[n:]).to(device), z[n:].to(device)

    def part_done() -> float:
        return float(record["seconds"] / budget if steps is None else record["step"] / steps)

    while part_done() < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * max(1e-3, 0.5 * (1 + math.cos(math.pi * part_done())))
        rows = next(rows_of).numpy()
        turn = torch.randint(8, (len(rows),), generator=rng)
        x = flat(turned(torch.as_tensor(image[rows]), turn), u[rows]).to(device)
        loss = net.train().loss(z[rows].to(device), condition=x).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        record["step"] += 1
        record["seconds"] = before + clock() - began
        last = part_done() >= 1
        if record["step"] % EVERY == 0 or last:
            gain = information(net, *held)
            print(
                f"{name}: step {record['step']}, {part_done():.1%} done, {record['seconds']:.0f} s, "
                f"gain {gain.mean():.3f}",
                flush=True,
            )
            if -gain.mean() < record["best"]:
                record["best"] = -float(gain.mean())
                save_tensors(best_file, net.state_dict(), {"kind": "neural posterior", "record": record})
            save_tensors(state_file, _tensors(net, optimizer), {"kind": "state", "record": copy.copy(record)})
            if time.monotonic() > stop and not last:
                return False
    return True


def _tensors(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"net.{k}": v for k, v in net.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    return tensors


def _restore(net: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@torch.no_grad()
def information(net: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """Information gain of each image in nats: the flow against the prior, at the truth."""
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    net.eval()
    posterior = [
        net.log_prob(z[some][None], condition=x[some])[0] for some in torch.arange(len(z)).split(250)
    ]
    return torch.cat(posterior) - prior


def trained_information(
    name: str, image: Tensor, theta: Tensor, zred: Tensor, u: Tensor
) -> tuple[Tensor, dict[str, Any]] | None:
    """Information gain of the trained estimator on prepared images, and its record; None without one."""
    path = CACHE / name / "best.safetensors"
    if not path.is_file():
        return None
    tensors, header = load_tensors(path)
    _, last = load_tensors(CACHE / name / "state.safetensors")
    net = build(image.shape[1], image.shape[2], u.shape[1], theta.shape[1])
    net.load_state_dict(tensors)
    gain = information(net, flat(image, u), normal(theta_columns(theta, zred)))
    return gain, last["record"] | {"best_step": header["record"]["step"]}


def main(argv: Sequence[str] | None = None) -> None:
    """Train the estimators."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(available()))
    parser.add_argument("--seconds", type=float, default=None, help="processor time, instead of the model's")
    parser.add_argument("--steps", type=int, default=None, help="end after so many steps instead of a time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pause-after", type=float, default=math.inf, help="seconds")
    args = parser.parse_args(argv)
    for name in args.models:
        done = train(name, args.seconds, args.steps, args.pause_after, args.device)
        print(f"{name}: {'done' if done else 'paused; run the same command again'}")


if __name__ == "__main__":
    main()
