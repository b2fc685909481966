r"""Sufficient statistics of a catalogue of images, and their file.

`summarize` runs the trunk on each image, with as many antithetic noise draws as the likelihood needs, and
keeps G, b (`generative.statistics`) and what they were made with. From then on the likelihood for any theta
costs no network pass and no torch: `hbm.image` reads the file.

Format, HDF5 (version 1). Attributes of the root: ``format``, ``version``, ``model`` (name), ``model_hash``
(SHA-256 of the checkpoint), ``seed``, ``target_error``, ``max_draw``. Datasets, one row per galaxy:

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
``p_typical``                        p-value of the domain check (`generative.typical`); nan without
==============  ===================  =======================================================================

and ``nodes``, the noise levels. Rows are appended while a run goes on, in ``NAME.part``; the file gets its
name when it is whole.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from generative.calibration import N_FIRST_PAIR
from generative.checkpoint import Model
from generative.conditions import observing_columns
from generative.data import proposal_columns
from generative.network import Coefficients, Separable
from generative.noise import likelihood_nodes
from generative.stamps import Stamps
from generative.statistics import ImageStatistics, log_likelihood, paired_statistics
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
    """Part of held-out simulations that the model knows as badly (`generative.typical`); nan if the model has
    no reference."""


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
) -> Float[Tensor, " batch"]:
    """Monte Carlo standard error of log-likelihood differences across each image's posterior, nats.

    The root mean square over the posterior (proposal draws, weighted) of the standard error of ln p(x |
    theta) minus its posterior mean, from the scatter between pairs.

    Parameters
    ----------
    pairs
        Statistics of at least two antithetic pairs.
    proposal
        Scaled theta from the prior.
    """
    n_pair, n = pairs.b.shape[:2]
    theta = proposal[None].expand(n, -1, -1)
    logp = torch.stack(
        [log_likelihood(coefficients, pairs.G[k], pairs.b[k], theta, u, nodes, weight) for k in range(n_pair)]
    )
    posterior = torch.softmax(logp.mean(dim=0), dim=1)
    centred = logp - (posterior * logp).sum(dim=2, keepdim=True)
    variance = centred.var(dim=0) / n_pair
    return torch.sqrt((posterior * variance).sum(dim=1))


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
    its posterior is below ``target_error``, or there are ``max_draw`` per node.

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
    device = next(network.parameters()).device
    nodes, width = likelihood_nodes(model.sigma_likelihood, len(model.node_weight))
    nodes, weight = nodes.to(device), (width * model.node_weight).to(device)
    proposal = proposal_columns(_N_PROPOSAL, device)
    u_all = observing_columns(stamps.u, model.instrument)
    for start in range(first, len(stamps.image), chunk):
        rows = slice(start, start + chunk)
        image, noise, observed = (
            item[rows].to(device) for item in (stamps.image, stamps.noise, stamps.observed)
        )
        u = u_all[rows].to(device)
        clean = model.preparation.forward(image, noise, observed)
        total, count, error = _until(
            network, coefficients, clean, u, observed, nodes, weight, proposal,
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
            _p_typical(model, network, clean, u, observed, nodes),
        )


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
        found = posterior_error(coefficients, so_far, u[left], proposal, nodes, weight).cpu()
        finished = (found <= target_error) | (until >= max_pair)
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
        Whether a file of that name is replaced.

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
    import h5py

    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; give overwrite to replace it, or another name.")
    ids = np.asarray([str(name) for name in stamps.id], dtype=object)
    header = {
        "format": FORMAT, "version": VERSION, "model": model_file.stem, "model_hash": file_hash(model_file),
        "seed": seed, "target_error": target_error, "max_draw": max_draw, "n_image": len(ids),
    }  # fmt: skip
    part = out.with_name(out.name + ".part")
    out.parent.mkdir(parents=True, exist_ok=True)
    done = _rows_done(part, header, ids) if part.is_file() else 0
    settings = {"target_error": target_error, "max_draw": max_draw, "seed": seed, "chunk": chunk}
    with h5py.File(part, "a") as file:
        for key, value in header.items():
            file.attrs[key] = value
        if "nodes" not in file:
            file["nodes"] = model.nodes[0].numpy()
        _cut(file, done)
        if progress is not None:
            progress(done, len(ids))
        for summaries in iterate_summaries(model, stamps, first=done, **settings):  # type: ignore[arg-type]
            _append(file, summaries)
            done += len(summaries.id)
            file.attrs["done"] = done  # last: rows beyond it were not written whole
            file.flush()
            if progress is not None:
                progress(done, len(ids))
    part.replace(out)


def _rows_done(part: Path, header: dict[str, Any], ids: np.ndarray) -> int:
    """Rows of an earlier run that can be kept."""
    import h5py

    try:
        with h5py.File(part, "r") as file:
            attrs = {k: v.item() if isinstance(v, np.generic) else v for k, v in file.attrs.items()}
            done = int(attrs.get("done", 0))
            before = [b.decode() for b in file["id"][:done]] if "id" in file else []
    except OSError as error:
        raise SummaryError(f"{part}, left by an earlier run, cannot be read: {error}. Delete it.") from error
    for key, value in header.items():
        if attrs.get(key) != value:
            raise SummaryError(
                f"{part} was left by a run with another {key}: {attrs.get(key)!r}, now {value!r}. Delete it, "
                "or choose another file."
            )
    if before != ids[:done].tolist():
        raise SummaryError(f"{part} was left by a run over other images. Delete it, or choose another file.")
    return done


def _cut(file: Any, done: int) -> None:
    for name in Summaries._fields:
        if name in file:
            file[name].resize(done, axis=0)


def _append(file: Any, summaries: Summaries) -> None:
    import h5py

    for name, value in summaries._asdict().items():
        rows = np.asarray([str(v) for v in value], dtype=object) if name == "id" else np.asarray(value)
        if name not in file:
            kind = h5py.string_dtype() if name == "id" else rows.dtype
            size = (0, *rows.shape[1:])
            file.create_dataset(name, shape=size, maxshape=(None, *rows.shape[1:]), dtype=kind, chunks=True)
        n = len(file[name])
        file[name].resize(n + len(rows), axis=0)
        file[name][n:] = rows
