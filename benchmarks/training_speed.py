"""Images per second: the simulator, a training step of ours, and a plain diffusers step of the same U-Net.

A step sees each image at several noise levels; the plain step (noise in, noise out, mean squared error, Adam)
sees as many noisy images. Images are counted at each noise level in both, so that the two compare.

    python -m benchmarks.training_speed [--configs sdss-griz hst-f814w] [--seconds 20] [--device cpu]
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks._common import print_table
from benchmarks._images import write_result
from generative.config import read_config
from generative.network import n_parameter
from generative.precision import bf16_is_fast
from generative.setup import config_path, set_up
from generative.train import TrainState, train_steps


def rate(call: Callable[[], int], seconds: float, device: str) -> float:
    """Images per second of a call that returns how many it did; the first call is not timed."""
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        done += call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
    return done / (time.perf_counter() - start)


def speeds(name: str, seconds: float, device: str) -> dict[str, Any]:
    """Speeds of one configuration."""
    path = config_path(name)
    config = read_config(path)
    options = dataclasses.replace(config.training, validate_every=10**9)  # none while the clock runs
    config = dataclasses.replace(config, training=options)
    setup = set_up(config, path.parent, device)
    generator = torch.Generator(device=device).manual_seed(0)

    def simulate() -> int:
        return len(setup.source.batch(options.batch, generator).image)

    simulator = rate(simulate, seconds, device)
    state = TrainState(config, setup.source, setup.preparation, device)
    fixed = setup.source.batch(options.batch, generator)

    class Ready:
        """The same batch again: the step without the simulator."""

        n_band, n_pixel = setup.source.n_band, setup.source.n_pixel
        n_theta, n_u = setup.source.n_theta, setup.source.n_u
        n_train = len(fixed.image)

        def batch(self, n: int, generator: torch.Generator) -> Any:
            del n, generator
            return fixed

        held_out = batch

        def proposal(self, n: int) -> Any:
            return setup.source.proposal(n)

    steps = train_steps(state, Ready())
    n_level = options.levels + 1

    def ours() -> int:
        next(steps)
        return options.batch * n_level

    training = rate(ours, seconds, device)
    unet = state.network.trunk.unet
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-4)
    blocks = torch.randn(
        options.batch * n_level,
        unet.config.in_channels,
        *[setup.source.n_pixel // config.network.patch] * 2,
        device=device,
    )
    embedding = torch.zeros(len(blocks), 4 * config.network.channels[0], device=device)
    times = torch.linspace(0, 999, len(blocks), device=device)
    target = torch.randn(len(blocks), config.network.channels[0], *blocks.shape[2:], device=device)

    bf16 = options.bf16 and bf16_is_fast(device)

    def plain() -> int:
        optimizer.zero_grad()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            out = unet(blocks, times, class_labels=embedding).sample
        ((out.float() - target) ** 2).mean().backward()
        optimizer.step()
        return len(blocks)

    baseline = rate(plain, seconds, device)
    return {
        "parameters": n_parameter(state.network),
        "simulated_per_s": simulator,
        "trained_per_s": training,
        "plain_unet_per_s": baseline,
        "ratio_to_plain": training / baseline,
        "simulator_share": (options.batch / simulator)
        / (options.batch / simulator + options.batch * n_level / training),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["sdss-griz", "hst-f814w"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    result = {name: speeds(name, args.seconds, args.device) for name in args.configs}
    print_table(
        ["images/s", "simulator", "training", "plain U-Net step", "ratio", "simulator's share of a step"],
        [
            [k, f"{v['simulated_per_s']:.0f}", f"{v['trained_per_s']:.0f}", f"{v['plain_unet_per_s']:.0f}",
             f"{v['ratio_to_plain']:.2f}", f"{v['simulator_share']:.0%}"]
            for k, v in result.items()
        ],
    )  # fmt: skip
    write_result("training_speed", args.device, {"seconds": args.seconds}, result)


if __name__ == "__main__":
    main()
