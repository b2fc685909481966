r"""Sufficient statistics of a catalogue of images, and their file.

`summarize` runs the trunk on each image, with as many antithetic noise draws as the likelihood needs, and
keeps G, b (`generative.statistics`) and what they were made with. From then on the likelihood for any theta
costs no network pass and no torch: `hbm.image` reads the file.

Format, HDF5 (version 1). Attributes of the root: ``format``, ``version``, ``model`` (name), ``model_hash``
(SHA-256 of the checkpoint), ``images_hash`` (SHA-256 of images, noise, masks and conditions), ``seed``,
``target_error``, ``max_draw``, ``n_image``. Datasets, one row per galaxy:

==============  ===================  =======================================================================
``id``          text
``G``           (node, J (J+1) / 2)  upper triangle of each G, row by row
``b``           (node, J)
``square``      (node,)              r_0 . r_0 per node
``n_observed``                       observed pixels in all bands
``u``           (column,)            conditions on the network's scale
``zred``                             redshift
``n_draw``                           noise draws per node
``error``                            Monte Carlo error of log-likelihood differences in the posterior, nats
``p_typical``                        p-value of the domain check (`generative.typical`); zero where the
                                     conditions of observation are outside of training; nan without a check
==============  ===================  =======================================================================

``numbers`` (number,), those of the ratio correction (`generative.correction`) if the model has one, and
``nodes``, the noise levels. While a run goes on its chunks are files in the folder ``NAME.part``, each
written whole or not at all.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from generative.calibration import N_FIRST_PAIR
from generative.checkpoint import Model, write_atomically
from generative.conditions import observing_columns
from generative.data import LARGEST_MASKED, hide_unseen, proposal_columns
from generative.network import Coefficients, Separable
from generative.noise import likelihood_nodes
from generative.stamps import Stamps
from generative.statistics import Corrected, ImageStatistics, log_likelihood, paired_statistics
from generative.typical import TYPICAL_SEED, unconditional_loss

FORMAT, VERSION = "galaxy-hbm image statistics", 1
_N_PROPOSAL = 512

Progress = Callable[[int, int], None]


class SummaryError(ValueError):
    """A file of statistics that cannot be used."""


class Summaries(NamedTuple):
    """Statistics of galaxies; symmetric matrices are packed (`packed`)."""

    id: Shaped[np.ndarray, " galaxy"]
    G: Float[np.ndarray, "galaxy node packed"]
    b: Float[np.ndarray, "galaxy node basis"]
    square: Float[np.ndarray, "galaxy node"]
    n_observed: Int[np.ndarray, " galaxy"]
    u: Float[np.ndarray, "galaxy column"]
    zred: Float[np.ndarray, " galaxy"]
    n_draw: Int[np.ndarray, " galaxy"]
    error: Float[np.ndarray, " galaxy"]
    """Monte Carlo standard error of log-likelihood differences in the posterior, nats."""
    p_typical: Float[np.ndarray, " galaxy"]
    """Part of held-out simulations that the model knows as badly (`generative.typical`); 0 where conditions
    are outside of training, nan if the model has no reference."""
    numbers: Float[np.ndarray, "galaxy number"]
    """Of the ratio correction; none without one."""


def packed(G: Float[Tensor, "*rows basis basis"]) -> Float[Tensor, "*rows packed"]:
    """Upper triangle of symmetric matrices, row by row."""
    row, column = torch.triu_indices(G.shape[-1], G.shape[-1])
    return G[..., row, column]


def unpacked(triangle: Float[Tensor, "*rows packed"]) -> Float[Tensor, "*rows basis basis"]:
    """Inverse of `packed`."""
    n = round((8 * triangle.shape[-1] + 1) ** 0.5 - 1) // 2
    row, column = torch.triu_indices(n, n)
    full = torch.zeros(*triangle.shape[:-1], n, n, dtype=triangle.dtype, device=triangle.device)
    full[..., row, column] = triangle
    full[..., column, row] = triangle
    return full


@torch.no_grad()
def posterior_error(
    coefficients: Coefficients,
    pairs: ImageStatistics,
    u: Float[Tensor, "batch column"],
    proposal: Float[Tensor, "draw theta"],
    nodes: Float[Tensor, " node"],
    weight: Float[Tensor, " node"],
    corrected: Corrected | None = None,
) -> Float[Tensor, " batch"]:
    """Monte Carlo standard error of log-likelihood differences across each image's posterior, nats.

    The root mean square over the posterior (proposal draws, weighted) of the standard error of ln p(x |
    theta) minus its posterior mean, from the scatter between pairs. Where fewer than some 50 of the draws
    carry the posterior it is tempered until they do: the error is then of a wider region.

    Parameters
    ----------
    pairs
        Statistics of at least two antithetic pairs.
    proposal
        Scaled theta from the prior.
    corrected
        Ratio correction of these images; none by default.
    """
    n_pair, n = pairs.b.shape[:2]
    theta = proposal[None].expand(n, -1, -1)
    logp = torch.stack(
        [log_likelihood(coefficients, pairs.G[k], pairs.b[k], theta, u, nodes, weight) for k in range(n_pair)]
    )
    if corrected is not None:
        logp = torch.stack([corrected(each, theta, u) for each in logp])
    posterior = _tempered(logp.mean(dim=0))
    centred = logp - (posterior * logp).sum(dim=2, keepdim=True)
    variance = centred.var(dim=0) / n_pair
    return torch.sqrt((posterior * variance).sum(dim=1))


def _tempered(logp: Float[Tensor, "batch draw"], least: float = 50.0) -> Float[Tensor, "batch draw"]:
    """Posterior weights, of the highest inverse temperature (at most 1) with enough effective draws."""
    low, high = torch.zeros(len(logp), 1, device=logp.device), torch.ones(len(logp), 1, device=logp.device)

    def enough(beta: Tensor) -> Tensor:
        weight = torch.softmax(beta * logp, dim=1)
        return 1 / (weight**2).sum(dim=1, keepdim=True) >= least

    whole = enough(high)
    for _ in range(20):
        middle = 0.5 * (low + high)
        good = enough(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.softmax(torch.where(whole, torch.ones_like(low), low) * logp, dim=1)


def error_bound(n_pair: int) -> float:
    """Factor that makes an error from the scatter of ``n_pair`` values an upper bound, in 9 cases of 10."""
    from scipy.stats import chi2

    return float(((n_pair - 1) / chi2.ppf(0.1, n_pair - 1)) ** 0.5)


@torch.no_grad()
def summarize(
    model: Model,
    stamps: Stamps,
    *,
    target_error: float = 0.05,
    max_draw: int = 64,
    seed: int = 0,
    chunk: int = 64,
    progress: Progress | None = None,
) -> Summaries:
    """Sufficient statistics of images.

    Noise draws are added, for each image, until the Monte Carlo error of log-likelihood differences across
    its posterior is below ``target_error`` (an upper bound of it, `error_bound`: the error is known from few
    draws itself), or there are ``max_draw`` per node.

    Parameters
    ----------
    model
        Separable model, `generative.load`.
    stamps
        Images with their noise, masks, redshifts and conditions of observation.
    target_error
        Nats.
    max_draw
        Even; at least 8.
    seed
        Of the noise draws, which are the same for all images.
    chunk
        Images at a time.
    progress
        Told how many images are done.

    Raises
    ------
    ValueError
        If the model is not separable, or the images are not for its instrument; the message says what came.
    """
    parts = []
    done = 0
    for part in iterate_summaries(
        model, stamps, target_error=target_error, max_draw=max_draw, seed=seed, chunk=chunk
    ):
        parts.append(part)
        done += len(part.id)
        if progress is not None:
            progress(done, len(stamps.image))
    return Summaries(*(np.concatenate(items) for items in zip(*parts, strict=True)))


def iterate_summaries(
    model: Model,
    stamps: Stamps,
    *,
    target_error: float,
    max_draw: int,
    seed: int,
    chunk: int,
    first: int = 0,
) -> Iterator[Summaries]:
    """`summarize` by chunks, from image ``first`` on."""
    network, coefficients = model.network, model.coefficients
    if not isinstance(network, Separable) or coefficients is None or model.instrument is None:
        raise ValueError("`model` must be separable and of an instrument to have sufficient statistics.")
    if not target_error > 0:
        raise ValueError(f"`target_error` must be positive (nats), got {target_error}.")
    if max_draw < 2 * N_FIRST_PAIR or max_draw % 2:
        raise ValueError(f"`max_draw` must be even and at least {2 * N_FIRST_PAIR}, got {max_draw}.")
    config = network.config
    wanted = (config.n_band, config.n_pixel, config.n_pixel)
    if len(stamps.image) == 0 or tuple(stamps.image.shape[1:]) != wanted:
        raise ValueError(
            f"`stamps` must hold images of {wanted} bands and pixels for {model.instrument.name}, got "
            f"{tuple(stamps.image.shape)}."
        )
    empty = ~stamps.observed.flatten(1).any(dim=1)
    if empty.any():
        row = int(empty.nonzero()[0])
        raise ValueError(f"`stamps` must have observed pixels in every image, but {stamps.id[row]} has none.")
    device = next(network.parameters()).device
    nodes, width = likelihood_nodes(model.sigma_likelihood, len(model.node_weight))
    nodes, weight = nodes.to(device), (width * model.node_weight).to(device)
    proposal = proposal_columns(_N_PROPOSAL, device)
    u_all = hide_unseen(observing_columns(stamps.u, model.instrument), stamps.observed)
    far = _outside(u_all, model.instrument.n_band, model.instrument.reference_band)
    far |= too_much_masked(stamps.observed)
    for start in range(first, len(stamps.image), chunk):
        rows = slice(start, start + chunk)
        image, noise, observed = (
            item[rows].to(device) for item in (stamps.image, stamps.noise, stamps.observed)
        )
        u = u_all[rows].to(device)
        clean = model.preparation.forward(image, noise, observed)
        corrected = None
        if model.correction is not None:
            corrected = Corrected(model.correction, model.correction.numbers(clean, u, observed))
        total, count, error = _until(
            network, coefficients, clean, u, observed, nodes, weight, proposal, corrected,
            target_error=target_error, max_pair=max_draw // 2, seed=seed,
        )  # fmt: skip
        yield Summaries(
            np.asarray(stamps.id[rows]),
            packed(total.G).cpu().numpy(),
            total.b.cpu().numpy(),
            total.square.cpu().numpy(),
            observed.flatten(1).sum(1).cpu().numpy(),
            u.cpu().numpy(),
            stamps.u.zred[rows].cpu().numpy(),
            2 * count.cpu().numpy(),
            error.cpu().numpy(),
            np.where(far[rows], 0, _p_typical(model, network, clean, u, observed, nodes)).astype(np.float32),
            np.zeros((len(u), 0), np.float32) if corrected is None else corrected.numbers.cpu().numpy(),
        )


def too_much_masked(observed: Bool[Tensor, "image band height width"]) -> np.ndarray:
    """Whether more of the pixels is masked than likelihoods bear, in bands that are not masked as a whole."""
    part = observed.flatten(2).float().mean(dim=2)
    worst = torch.where(part > 0, 1 - part, 0.0).max(dim=1).values
    far: np.ndarray = (worst > LARGEST_MASKED).cpu().numpy()
    return far


def _outside(u: Float[Tensor, "image column"], n_band: int, reference: int) -> np.ndarray:
    """Whether conditions of observation are outside of training.

    The box is (-1, 1), with some room for the scatter of the PSF between bands; other bands' flux over noise
    scatters further (`generative.conditions.draw_observing`).
    """
    snr = u[:, 1 + n_band : 1 + 2 * n_band]
    far = (u[:, 0].abs() > 1.05) | (u[:, 1 : 1 + n_band].abs() > 1.6).any(dim=1) | (snr.abs() > 4).any(dim=1)
    far = far | (snr[:, reference].abs() > 1.1)
    outside: np.ndarray = far.cpu().numpy()
    return outside


def _p_typical(
    model: Model, network: Separable, clean: Tensor, u: Tensor, observed: Tensor, nodes: Tensor
) -> np.ndarray:
    """Domain check, with the noise that the reference was made with."""
    if model.reference is None:
        return np.full(len(u), np.nan, np.float32)
    pair = paired_statistics(network, clean, u, observed, nodes, range(1), seed=TYPICAL_SEED).mean()
    count = observed.flatten(1).sum(1).to(clean.dtype)
    loss = unconditional_loss(network.coefficients, pair, u, count, nodes)
    p: np.ndarray = model.reference.p_value(loss.cpu(), u.cpu()).float().numpy()
    return p


def _until(
    network: Separable,
    coefficients: Coefficients,
    clean: Tensor,
    u: Tensor,
    observed: Tensor,
    nodes: Tensor,
    weight: Tensor,
    proposal: Tensor,
    corrected: Corrected | None,
    *,
    target_error: float,
    max_pair: int,
    seed: int,
) -> tuple[ImageStatistics, Tensor, Tensor]:
    """Mean statistics, number of pairs and error of each image.

    Rounds double the number of pairs; an image that is good enough takes no part in later ones, and what it
    gets does not depend on what else is in the batch.
    """
    n = len(clean)
    kept: list[Any] = [None] * n
    count, error = torch.zeros(n, dtype=torch.long), torch.full((n,), torch.nan)
    left = torch.arange(n)
    so_far: ImageStatistics | None = None
    done, until = 0, min(N_FIRST_PAIR, max_pair)
    while len(left):
        fresh = paired_statistics(
            network, clean[left], u[left], observed[left], nodes, range(done, until), seed=seed
        )
        so_far = (
            fresh
            if so_far is None
            else ImageStatistics(*(torch.cat(items) for items in zip(so_far, fresh, strict=True)))
        )
        mine = None if corrected is None else corrected.of(left)
        found = posterior_error(coefficients, so_far, u[left], proposal, nodes, weight, mine).cpu()
        finished = (error_bound(until) * found <= target_error) | (until >= max_pair)
        mean = so_far.mean()
        for i in finished.nonzero()[:, 0].tolist():
            row = int(left[i])
            kept[row] = tuple(item[i] for item in mean)
            count[row], error[row] = until, found[i]
        go_on = (~finished).nonzero()[:, 0]
        left = left[go_on]
        so_far = ImageStatistics(*(item[:, go_on.to(item.device)] for item in so_far))
        done, until = until, min(2 * until, max_pair)
    return ImageStatistics(*(torch.stack(items) for items in zip(*kept, strict=True))), count, error


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stamps_hash(stamps: Stamps) -> str:
    """SHA-256 of images with all that belongs to them."""
    digest = hashlib.sha256("\n".join(str(name) for name in stamps.id).encode())
    for item in (stamps.image, stamps.noise, stamps.observed, *stamps.u):
        digest.update(np.ascontiguousarray(item.cpu().numpy()).tobytes())
    return digest.hexdigest()


def compile_file(
    model: Model,
    model_file: Path,
    stamps: Stamps,
    out: Path,
    *,
    target_error: float = 0.05,
    max_draw: int = 64,
    seed: int = 0,
    chunk: int = 64,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """`summarize` into a file; a run that was killed goes on where it was.

    Parameters
    ----------
    model_file
        Checkpoint that ``model`` was loaded from, for its hash.
    out
        File to write.
    overwrite
        Whether a file of that name, and what an earlier run has left, is replaced.

    Raises
    ------
    FileExistsError
        If ``out`` exists and ``overwrite`` is False.
    SummaryError
        If what is left of an earlier run has other images or settings.
    ValueError
        As for `summarize`.
    OSError
        If the file cannot be written; what was done stays in ``out`` with ``.part`` added.
    """
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; give overwrite to replace it, or another name.")
    header = {
        "format": FORMAT, "version": VERSION, "model": model_file.stem, "model_hash": file_hash(model_file),
        "images_hash": stamps_hash(stamps), "seed": seed, "target_error": target_error, "max_draw": max_draw,
        "n_image": len(stamps.id),
    }  # fmt: skip
    folder = out.with_name(out.name + ".part")
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    done = _images_done(folder, header)
    if progress is not None:
        progress(done, len(stamps.id))
    for part in iterate_summaries(
        model, stamps, target_error=target_error, max_draw=max_draw, seed=seed, chunk=chunk, first=done
    ):
        content = io.BytesIO()
        np.savez(content, **{k: v.astype(str) if k == "id" else v for k, v in part._asdict().items()})
        write_atomically(folder / f"{done:09d}.npz", content.getvalue())
        done += len(part.id)
        if progress is not None:
            progress(done, len(stamps.id))
    temporary = folder / "whole.h5"
    _assemble(folder, temporary, header, model.nodes[0].numpy())
    temporary.replace(out)
    shutil.rmtree(folder)


def _images_done(folder: Path, header: dict[str, Any]) -> int:
    """Images of an earlier run that are done; makes the folder if there is none."""
    path = folder / "header.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(header).encode())
        return 0
    before = json.loads(path.read_text())
    for key, value in header.items():
        if before.get(key) != value:
            raise SummaryError(
                f"{folder} was left by a run with another {key}: {before.get(key)!r}, now {value!r}. Give "
                "overwrite, or choose another file."
            )
    done = 0
    for part in sorted(folder.glob("*.npz")):
        if int(part.stem) != done:
            raise SummaryError(f"{folder} lacks the images from {done} on. Give overwrite to begin again.")
        with np.load(part) as content:
            done += len(content["id"])
    return done


def _assemble(folder: Path, path: Path, header: dict[str, Any], nodes: np.ndarray) -> None:
    """One HDF5 file of all chunks."""
    import h5py

    with h5py.File(path, "w") as file:
        for key, value in header.items():
            file.attrs[key] = value
        file["nodes"] = nodes
        row = 0
        for part in sorted(folder.glob("*.npz")):
            with np.load(part) as content:
                n = len(content["id"])
                for name in Summaries._fields:
                    value = content[name]
                    if name not in file:
                        kind = h5py.string_dtype() if name == "id" else value.dtype
                        file.create_dataset(name, (header["n_image"], *value.shape[1:]), dtype=kind)
                    file[name][row : row + n] = value.astype(object) if name == "id" else value
            row += n
