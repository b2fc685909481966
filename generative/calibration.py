"""What a likelihood is worth, measured on held-out simulations and kept with the model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from generative.checkpoint import Model
from generative.data import Source, hide_unseen, random_holes
from generative.evaluation.losses import information
from generative.network import Separable
from generative.refit import CachedStatistics
from generative.statistics import ImageStatistics, paired_statistics
from generative.typical import TYPICAL_SEED, fewest_simulations, fit_reference, unconditional_loss

_N_PROPOSAL = 4096
_CHUNK = 64
N_FIRST_PAIR = 4
"""Antithetic pairs of noise draws that every compiled image has at least."""


@torch.no_grad()
def calibrated(
    model: Model,
    source: Source,
    n: int,
    *,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Model:
    """Model with its information gain and coverage, and the reference of the domain check.

    Parameters
    ----------
    model
        Trained and refitted. One that is not separable is returned as it is.
    source
        Simulations; images of a survey have no known distribution of properties, and give no calibration.
    n
        Simulations: some without holes, of which gain and coverage are measured, and as many with holes,
        which join them in the reference. There is no reference if they are too few for it
        (`generative.typical.fewest_simulations`).
    seed
        Of the simulations.
    """
    network = model.network
    proposal = source.proposal(_N_PROPOSAL)
    if not isinstance(network, Separable) or model.coefficients is None or proposal is None:
        return model
    losses, conditions = [], []
    calibration: dict[str, Any] = {}
    for holes in (False, True):
        cached, loss = _simulated(model, network, source, n, holes=holes, seed=seed, progress=progress)
        if not holes:
            calibration = _information(model, cached, proposal)
        losses.append(loss)
        conditions.append(cached.u.cpu())
    if 2 * n < fewest_simulations(conditions[0].shape[1], losses[0].shape[1]):
        return model._replace(calibration=calibration)
    order = torch.randperm(2 * n, generator=torch.Generator().manual_seed(seed))
    reference = fit_reference(torch.cat(losses)[order], torch.cat(conditions)[order])
    return model._replace(calibration=calibration, reference=reference)


@torch.no_grad()
def corrected_calibration(
    model: Model,
    source: Source,
    n: int,
    *,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Model:
    """`calibrated` for a model that has got a ratio correction since; the domain check stays as it is."""
    network = model.network
    proposal = source.proposal(_N_PROPOSAL)
    if not isinstance(network, Separable) or model.coefficients is None or proposal is None:
        return model
    cached, _ = _simulated(model, network, source, n, holes=False, seed=seed, progress=progress)
    return model._replace(calibration=_information(model, cached, proposal))


def _information(model: Model, cached: CachedStatistics, proposal: Tensor) -> dict[str, Any]:
    """Gain and coverage before and after the refit, and with the ratio correction."""
    found = {
        "refitted": information(model, cached, proposal)._asdict(),
        "before": information(model, cached, proposal, refitted=False)._asdict(),
    }
    if model.correction is not None:
        found["corrected"] = information(model, cached, proposal, corrected=True)._asdict()
    return found


def _simulated(
    model: Model,
    network: Separable,
    source: Source,
    n: int,
    *,
    holes: bool,
    seed: int,
    progress: Callable[[int, int, str], None] | None,
) -> tuple[CachedStatistics, Tensor]:
    """Statistics of simulations as `generative.summarize` makes them at first, and losses of the first pair.

    Those with holes get one pair of draws: they are for the losses alone.
    """
    device = next(network.parameters()).device
    nodes = model.nodes[0].to(device)
    parts, losses = [], []
    for first in range(0, n, _CHUNK):
        generator = torch.Generator(device=device).manual_seed(
            3 * 10**9 + 10**7 * seed + 10**6 * holes + first
        )
        batch = source.held_out(min(_CHUNK, n - first), generator)
        observed = random_holes(batch.observed, generator) if holes else batch.observed
        clean = model.preparation.forward(batch.image, batch.noise, observed)
        u, count = hide_unseen(batch.u, observed), observed.flatten(1).sum(1).to(clean.dtype)
        pairs = range(1 if holes else N_FIRST_PAIR)
        each = paired_statistics(network, clean, u, observed, nodes, pairs, seed=TYPICAL_SEED)
        alone = ImageStatistics(*(item[0] for item in each))
        losses.append(unconditional_loss(network.coefficients, alone, u, count, nodes).cpu())
        G, b, square = each.mean()
        numbers = model.correction.numbers(clean, u, observed) if model.correction is not None else u[:, :0]
        parts.append(CachedStatistics(G, b, batch.theta, u, square, count, numbers))
        if progress is not None:
            progress(min(first + _CHUNK, n), n, "calibration" + (", images with holes" if holes else ""))
    return CachedStatistics(*(torch.cat(items) for items in zip(*parts, strict=True))), torch.cat(losses)
