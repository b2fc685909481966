"""The whole evaluation of a model: numbers as JSON, figures as PNG."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from generative.checkpoint import Model, write_atomically
from generative.data import Batch, Source
from generative.display import image_grid, to_rgb
from generative.evaluation.compare import distances
from generative.evaluation.figures import distance_figure, loss_figure, morphology_figure
from generative.evaluation.losses import information, level_losses
from generative.evaluation.morphology import measure
from generative.evaluation.neighbours import memorisation
from generative.instrument import Instrument
from generative.network import Separable
from generative.refit import cache_statistics
from generative.sampler import denoise_fn, heun, sigma_schedule

_N_PROPOSAL = 2048
_N_BANK = 20_000
"""Training images that are searched for copies: all there are, up to this number."""

Progress = Callable[[int, int, str], None]


@torch.no_grad()
def generate_like(
    model: Model,
    batch: Batch,
    *,
    seed: int = 0,
    n_step: int = 24,
    chunk: int = 64,
    progress: Progress | None = None,
) -> Tensor:
    """Prepared images with the conditions of others."""
    generator = torch.Generator().manual_seed(seed)
    levels = sigma_schedule(model.sigma_sample, n_step)
    parts = []
    for rows in torch.arange(len(batch.image)).split(chunk):
        noise = torch.randn((len(rows), *batch.image.shape[1:]), generator=generator).to(batch.image.device)
        fn = denoise_fn(model.network, batch.theta[rows], batch.u[rows])
        parts.append(heun(fn, noise, levels))
        if progress is not None:
            progress(int(rows[-1]) + 1, len(batch.image), "drawing")
    return torch.cat(parts)


def evaluate(
    model: Model,
    source: Source,
    out: Path,
    *,
    n: int = 400,
    n_information: int = 400,
    seed: int = 3,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare drawn images with held-out ones, and measure the likelihood.

    Writes ``evaluation.json`` and figures.

    Parameters
    ----------
    model
        Trained model.
    source
        Images like those it was trained on; its held-out ones are the reference.
    out
        Folder for the results.
    n
        Images drawn and compared.
    n_information
        Held-out simulations for information gain and coverage.
    seed
        Of everything.

    Returns
    -------
        The numbers.

    Raises
    ------
    ValueError
        If the source's images do not fit the model.
    """
    config = model.network.config
    shape = (source.n_band, source.n_pixel, source.n_theta, source.n_u)
    wanted = (config.n_band, config.n_pixel, config.n_theta, config.n_u)
    if shape != wanted:
        raise ValueError(
            f"`source` must give images as the model's: expected {wanted} bands, pixels, properties and "
            f"conditions, "
            f"got {shape}."
        )
    out.mkdir(parents=True, exist_ok=True)
    device = next(model.network.parameters()).device
    held = source.held_out(n, _generator(seed, 1, device))
    other = source.held_out(n, _generator(seed, 2, device))
    n_bank = 4 * n if source.n_train is None else min(source.n_train, _N_BANK)
    train = source.batch(n_bank, _generator(seed, 3, device))
    prepared = generate_like(model, held, seed=seed, progress=progress)
    ones = torch.ones(len(held.image), config.n_band)
    generated = model.preparation.inverse(prepared.cpu(), ones)
    reference, real = (_units(batch) for batch in (held, other))
    bands = (
        model.instrument.bands
        if model.instrument is not None
        else tuple(f"band {i}" for i in range(config.n_band))
    )
    band = 0 if model.instrument is None else model.instrument.reference_band
    clip = _clip(model)
    sets = [measure(clip(x).numpy(), band, bands, progress) for x in (generated, reference, real)]
    theta = held.theta.cpu().numpy(), other.theta.cpu().numpy()
    found = distances(sets[0], sets[1], theta[0], theta[0], model.theta_names, seed=seed)
    floor = distances(sets[2], sets[1], theta[1], theta[0], model.theta_names, seed=seed)
    losses = level_losses(model, held)
    memory = memorisation(
        prepared,
        model.preparation.forward(other.image, other.noise, other.observed),
        model.preparation.forward(train.image, train.noise, train.observed),
    )
    result: dict[str, Any] = {
        "n": len(held.image),
        "fraction_measured": {
            "generated": float(sets[0].measured.mean()),
            "reference": float(sets[1].measured.mean()),
        },
        "distances": [d._asdict() for d in found],
        "reference_against_reference": [d._asdict() for d in floor],
        "summary": {
            "median_distance": float(np.median([d.wasserstein for d in found if d.where == "all"])),
            "median_distance_in_bins": _median([d.wasserstein for d in found if d.where != "all"]),
            "median_floor": float(np.median([d.wasserstein for d in floor if d.where == "all"])),
            "median_floor_in_bins": _median([d.wasserstein for d in floor if d.where != "all"]),
        },
        "levels": {k: v.tolist() for k, v in losses._asdict().items()},
        "memorisation": {
            "generated": memory.generated,
            "held_out": memory.held_out,
            "closer": memory.closer,
            "of": len(train.image),
        },
    }
    proposal = source.proposal(_N_PROPOSAL)
    if proposal is not None:
        result["information"] = result["information_before_refit"] = None
        if isinstance(model.network, Separable):
            cached = cache_statistics(
                model.network, model.preparation, source, n_information, sigma=model.sigma_likelihood,
                n_node=len(model.node_weight), seed=10**8 * 4 + seed, holes=False, device=device,
                progress=progress,
            )  # fmt: skip
            for name, refitted in (("information", True), ("information_before_refit", False)):
                result[name] = information(model, cached, proposal, refitted=refitted)._asdict()
    write_atomically(out / "evaluation.json", (json.dumps(result, indent=1) + "\n").encode())
    figures: dict[str, Figure] = {
        "generated": image_grid(
            to_rgb(_balanced(generated, held.u, model.instrument)[:48], model.instrument)
        ),
        "reference": image_grid(
            to_rgb(_balanced(reference, held.u, model.instrument)[:48], model.instrument)
        ),
        "morphology": morphology_figure(sets[0], sets[1], "held out"),
        "distances": distance_figure(found),
        "losses": loss_figure(losses),
    }
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", dpi=110)
    return result


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _generator(seed: int, stream: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(10**8 * stream + seed)


def _units(batch: Batch) -> Tensor:
    """Images in units of the noise of a pixel."""
    return (batch.image / batch.noise[..., None, None]).cpu()


def _balanced(image: Tensor, u: Tensor, instrument: Instrument | None) -> Tensor:
    """Images whose bands have the same flux: simulations draw depths independently of colours."""
    if instrument is None:
        return image
    n = instrument.n_band
    low, high = instrument.snr_log10
    snr = 10 ** (0.5 * ((high - low) * u[:, 1 + n : 1 + 2 * n].cpu() + high + low))
    flux = snr * torch.tensor(instrument.noise)
    band = instrument.reference_band
    return image * (flux[:, band, None] / flux)[..., None, None]


def _clip(model: Model) -> Callable[[Tensor], Tensor]:
    """Pictures have no sky noise: measure them above their edge, in units of 8."""
    if model.instrument is not None:
        return lambda image: image

    def lifted(image: Tensor) -> Tensor:
        edge = torch.cat([image[..., 0, :], image[..., -1, :], image[..., :, 0], image[..., :, -1]], dim=-1)
        return (image - edge.median(dim=-1).values[..., None, None]) / 8

    return lifted
