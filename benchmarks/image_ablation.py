"""Which part of an image model loses the nats: short trainings, each with one setting not as shipped.

Each variant is trained with `hbm train`'s own loop on the same simulations in the same order, refitted, and
its information gain measured on simulations that nothing was fitted to, before and after the refit. The
learning rate falls to nothing over the steps of each run, so runs of other `--steps` are not points of one
curve. Without the contrastive loss (`contrast 0`) it is denoising alone, on the same budget.

    python -m benchmarks.image_ablation [--config sdss-griz] [--steps 500] [--only NAME ...] [--minutes 9]
    python -m benchmarks.image_ablation --config sdss-griz-gpu --steps 5000 --device cuda

It begins nothing new after --minutes and goes on where it was when called again. The last line is JSON.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from benchmarks._common import RESULTS, print_table
from benchmarks._images import write_result
from generative.checkpoint import load_model
from generative.conditions import THETA
from generative.config import TrainConfig, read_config
from generative.network import n_parameter
from generative.setup import config_path, set_up
from generative.train import MODEL_NAME, run

VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "contrast 0": {"contrast": 0.0},
    "contrast 5": {"contrast": 5.0},
    "contrast 60": {"contrast": 60.0},
    "J 8": {"n_basis": 8},
    "J 64": {"n_basis": 64},
    "trunk x 0.5": {"channels": 0.5},
    "trunk x 1.5": {"channels": 1.5},
    "batch x 2": {"batch": 2.0},
    "levels x 2": {"levels": 2.0},
    "steps x 2": {"steps": 2.0},
}
"""What differs; for sizes, the factor."""

_SCALED = ("channels", "batch", "levels", "steps")


def varied(base: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """Settings with some of them changed."""
    network, training = base.network, base.training
    for key, value in changes.items():
        now, new = getattr(network if hasattr(network, key) else training, key), value
        if key in _SCALED:
            new = tuple(_even(value * n) for n in now) if isinstance(now, tuple) else round(value * now)
        if hasattr(network, key):
            network = dataclasses.replace(network, **{key: new})
        else:
            training = dataclasses.replace(training, **{key: new})
    return TrainConfig(base.data, network, training)


def _even(size: float) -> int:
    """Multiple of 16: the U-Net normalises channels in groups."""
    return max(16, round(size / 16) * 16)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", default="sdss-griz")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--n", type=int, default=1000, help="simulations that the gain is measured on")
    parser.add_argument("--refit", type=int, default=2000, help="simulations of the refit")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing new after these")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    shipped = read_config(config_path(args.config))
    base = dataclasses.replace(
        shipped,
        training=dataclasses.replace(
            shipped.training, steps=args.steps, refit_images=args.refit, calibration_images=args.n,
            save_every=50, validate_every=args.steps,
        ),
    )  # fmt: skip
    setup = set_up(base, RESULTS, args.device)
    result: dict[str, Any] = {}
    complete = True
    for name in args.only:
        run_name = f"{args.config}-{args.steps}-{name.replace(' ', '_')}"
        folder = RESULTS / ".cache" / "image_ablation" / run_name
        path = folder / MODEL_NAME
        if not (folder / "done").is_file():
            left = args.minutes - (time.monotonic() - start) / 60
            if left <= 0:
                complete = False
                continue
            done = run(
                varied(base, VARIANTS[name]), setup.source, setup.preparation, folder,
                instrument=setup.instrument, theta_names=THETA, resume=True, minutes=left, device=args.device,
            )  # fmt: skip
            if done is None:
                complete = False
                continue
            (folder / "done").touch()
        model = load_model(path, args.device)
        found = model.calibration or {}
        result[name] = {
            "parameters": n_parameter(model.network), "seconds": model.provenance["seconds"],
            **{key: found[key] for key in ("before", "refitted") if key in found},
        }  # fmt: skip
        print(f"{name}: {json.dumps(result[name])}", flush=True)
    print_table(
        ["variant", "parameters", "training, s", "gain, nats", "refitted"],
        [
            [
                name, row["parameters"], row["seconds"],
                *(f"{row[k]['gain']:.2f} +- {row[k]['error']:.2f}" for k in ("before", "refitted")),
            ]
            for name, row in result.items()
        ],
    )  # fmt: skip
    settings = {"config": args.config, "steps": args.steps, "n": args.n, "refit": args.refit}
    if complete:
        write_result(f"image_ablation_{args.config}", args.device, settings, result)
    else:
        print("not complete: call it again to go on")
        print(json.dumps(result))


if __name__ == "__main__":
    main()
