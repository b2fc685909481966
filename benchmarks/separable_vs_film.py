"""A separable and a FiLM denoiser of the same U-Net on the same images: denoising loss and information gain.

Both see the same simulations in the same order, with nearly the same number of parameters (printed). FiLM is
trained by denoising alone, the separable one also with the contrastive loss, and once more without.

    python -m benchmarks.separable_vs_film [--steps 300] [--instrument sdss-griz] [--minutes M] [--device cpu]

Runs are kept in results/.cache and taken up again. The information gain is that of the truth among
--candidates others, by direct evaluation of each network with the same noise, at most ln(candidates + 1).
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks._common import RESULTS, print_table
from benchmarks._images import gain_among, write_result
from generative.checkpoint import load_model
from generative.conditions import THETA
from generative.config import TrainConfig, parse_config
from generative.evaluation.losses import level_losses
from generative.likelihood import direct_log_likelihood
from generative.noise import likelihood_nodes
from generative.setup import set_up
from generative.train import MODEL_NAME, run

KINDS = {
    "separable": {"kind": "separable"},
    "separable, denoising only": {"kind": "separable"},
    "film": {"kind": "film"},
}


def configuration(instrument: str, steps: int, name: str) -> TrainConfig:
    """Settings of one of the three runs."""
    return parse_config(
        {
            "data": {"source": "simulate", "instrument": instrument},
            "network": {**KINDS[name], "n_basis": 24, "patch": 4, "channels": [48, 64]},
            "training": {
                "steps": steps, "batch": 48, "levels": 3, "contrast": 20 if name == "separable" else 0,
                "bf16": True, "refit_images": 0,
                "calibration_images": 0, "validate_every": max(steps, 1), "save_every": 100, "n_validate": 32,
            },
        }
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--instrument", default="sdss-griz")
    parser.add_argument("--minutes", type=float, default=None, help="time for each training run")
    parser.add_argument("--n", type=int, default=128, help="held-out images")
    parser.add_argument("--candidates", type=int, default=31)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    result: dict[str, Any] = {}
    setup = set_up(configuration(args.instrument, args.steps, "film"), RESULTS, args.device)
    if setup.instrument is None:
        raise SystemExit("an instrument is needed.")
    held = setup.source.held_out(args.n, torch.Generator(device=args.device).manual_seed(99))
    proposal = setup.source.proposal(args.n * args.candidates)
    if proposal is None:
        raise SystemExit("simulations are needed.")
    candidates = torch.cat([held.theta[:, None], proposal.view(args.n, args.candidates, -1)], dim=1)
    for name in KINDS:
        config = configuration(args.instrument, args.steps, name)
        out = (
            RESULTS
            / ".cache"
            / "separable_vs_film"
            / f"{args.instrument}-{args.steps}-{name.replace(', ', '-').replace(' ', '-')}"
        )
        if not (out / MODEL_NAME).is_file():
            done = run(
                config, setup.source, setup.preparation, out, instrument=setup.instrument, theta_names=THETA,
                resume=True, minutes=args.minutes, device=args.device,
            )  # fmt: skip
            if done is None:
                raise SystemExit(f"{name}: time is up; run the same command again to go on.")
        model = load_model(out / MODEL_NAME, args.device)
        nodes, width = likelihood_nodes(model.sigma_likelihood, 8)
        clean = model.preparation.forward(held.image, held.noise, held.observed)
        logp = direct_log_likelihood(
            model.network,
            clean,
            candidates,
            held.u,
            held.observed,
            nodes,
            torch.full_like(nodes, width),
            seed=5,
        )  # fmt: skip
        gain, error = gain_among(logp.value)
        losses = level_losses(model, held, n_level=10)
        result[name] = {
            "parameters": sum(p.numel() for p in model.network.parameters()),
            "seconds": model.provenance["seconds"], "gain": gain,
            "gain_error": error, "sigma": losses.sigma.tolist(), "loss": losses.conditional.tolist(),
            "loss_unconditional": losses.unconditional.tolist(),
        }  # fmt: skip
    names = list(result)
    levels = result[names[0]]["sigma"]
    print_table(
        ["loss per pixel at sigma", *names],
        [[f"{s:.2f}", *(f"{result[k]['loss'][i]:.4f}" for k in names)] for i, s in enumerate(levels)],
    )
    print_table(
        ["", "parameters", "seconds", "information gain"],
        [
            [k, v["parameters"], v["seconds"], f"{v['gain']:.3f} +- {v['gain_error']:.3f}"]
            for k, v in result.items()
        ],
    )
    settings = {
        "steps": args.steps,
        "instrument": args.instrument,
        "n": args.n,
        "candidates": args.candidates,
    }
    write_result("separable_vs_film", args.device, settings, result)


if __name__ == "__main__":
    main()
