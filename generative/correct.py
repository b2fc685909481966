"""All of a ratio correction: simulations, encoder, statistics, fit, and what the result is worth."""

import math
import time
from pathlib import Path
from typing import Any

import torch

from generative.calibration import corrected_calibration
from generative.checkpoint import Model, load_model, save_model
from generative.correction_training import (
    CorrectionOptions,
    Progress,
    compiled_simulations,
    describe,
    fit_correction,
    train_encoder,
    untrained,
)
from generative.data import SimulatedSource
from generative.network import Separable
from generative.simulated_set import simulated_set

MODEL_NAME = "model.safetensors"
_N_PROPOSAL = 8192


def corrected_model(
    model: Model,
    out: Path,
    options: CorrectionOptions,
    *,
    simulations: int,
    calibration: int = 1000,
    folder: Path | None = None,
    minutes: float | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Path | None:
    """Give a model a ratio correction (`generative.correction_training`); a run that was stopped goes on.

    Parameters
    ----------
    model
        Separable, of an instrument whose images are simulated.
    out
        Folder for all that is made; the model is ``model.safetensors`` in it.
    options
        Lengths.
    simulations
        That the encoder is trained on.
    calibration
        Further ones that information gain and coverage are measured on.
    folder
        Of the simulations; in ``out`` by default.
    minutes
        Stop after this time.

    Returns
    -------
    Path or None
        None if the time was up first.

    Raises
    ------
    ValueError
        If the model is not separable, or not of an instrument; or ``simulations`` are too few.
    """
    if not isinstance(model.network, Separable) or model.instrument is None:
        raise ValueError("`model` must be separable and of an instrument to get a ratio correction.")
    if simulations < options.valid + options.batch:
        raise ValueError(
            f"`simulations` must be at least {options.valid + options.batch} ({options.valid} choose the "
            f"encoder's best step), got {simulations}."
        )
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)

    def simulated(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, "simulations")

    data = simulated_set(
        model.instrument, model.preparation, simulations, folder or out / "simulations", until=until,
        progress=simulated,
    )  # fmt: skip
    if data is None:
        return None
    source = SimulatedSource(model.instrument, device=str(device))
    proposal = source.proposal(_N_PROPOSAL)
    encoder = train_encoder(
        untrained(model, options), data, proposal, out, options, until=until, device=device, progress=progress
    )
    if encoder is None:
        return None
    del data
    plain = model._replace(correction=None)
    statistics = compiled_simulations(
        plain, source, options.images, out / "statistics", seed=options.seed, until=until, progress=progress
    )
    if statistics is None:
        return None
    fitted = fit_correction(plain, encoder, statistics, proposal, options, progress)
    notes: dict[str, Any] = describe(options, fitted) | {"simulations": simulations}
    found = plain._replace(
        correction=fitted.correction, provenance={**model.provenance, "correction": notes}, calibration=None
    )
    save_model(out / MODEL_NAME, found)
    if calibration > 0:
        # On the CPU or where it was trained alike: what is measured is what was written.
        whole = load_model(out / MODEL_NAME, device)
        save_model(
            out / MODEL_NAME, corrected_calibration(whole, source, calibration, seed=1, progress=progress)
        )
    return out / MODEL_NAME
