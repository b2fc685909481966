"""The likelihood of images: what it learns, whether its intervals are true, and what it costs.

(a) Information gain on held-out simulations that nothing was fitted to: with the denoiser's own coefficients,
    with refitted ones, with the ratio correction, and of a neural posterior estimator trained on the same
    simulations
    (`benchmarks.neural_posterior`; run that first). Goal: 95 % of the estimator's. With `--denoising
    CHECKPOINT`, a model trained without the contrastive loss, what that gave on its own held-out simulations.
    Without the correction all of (b) to (d) are of the score model's own likelihood; with it, both.
(b) Largest deviation of the coverage of central intervals from their probability, for each property, and of
    TARP's expected coverage (Lemos et al. 2023, arXiv:2302.03026; sbi's implementation) with random
    references. Goal: 0.03; with 1,000 images chance alone gives 0.027 in the mean, and 0.03 to 0.04 for the
    worst of six properties.
(c) Seconds per image to compile, and microseconds per value and gradient per galaxy in a batch of 1,000
    (goals: 2 s for 32 x 32 x 4 pixels; 15 us on two cores), against direct evaluation by the torch network
    with as many draws (goal: 1,000 times faster).
(d) Information gain against R, the number of numbers that an image is reduced to; the projection is fitted to
    half of the images and measured on the other half.
(e) Error of the likelihood from anchors against the direct one, for a FiLM network (`--film CHECKPOINT`), as
    anchors are added.

    python -m benchmarks.image_likelihood [--models sdss-griz hst-f814w] [--n 1000] [--film CHECKPOINT]

Statistics are kept in results/.cache and taken up again; results of other models are kept.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks._common import RESULTS, print_table
from benchmarks._images import write_result
from generative.anchors import anchor_log_likelihood, anchor_statistics, rms_difference, sobol_anchors
from generative.checkpoint import Model, load_model
from generative.conditions import (
    Observing,
    age_universe_gyr,
    draw_theta,
    observing_columns,
    theta_columns,
)
from generative.data import proposal_columns
from generative.likelihood import direct_log_likelihood
from generative.network import Separable
from generative.noise import likelihood_nodes
from generative.release import available, load, model_path
from generative.simulator.render import Simulator
from generative.stamps import Stamps
from generative.statistics import information_gain
from generative.summaries import compile_file, stamps_hash, summarize, unpacked
from hbm.image import GalaxyImage, ImageLikelihood, load_image_likelihood, read_compiled_images
from hbm.image_projection import fit_projection

SEED = 77
N_PROPOSAL = 8192
N_TARP = 500
NUMBERS = (1, 2, 4, 8, 16, 32, 64)
ANCHORS = (7, 16, 32, 64, 128)


def simulated(model: Model, n: int, device: str) -> tuple[Stamps, np.ndarray]:
    """Stamps that nothing was trained on, and their theta."""
    if model.instrument is None:
        raise SystemExit("an instrument is needed.")
    simulator = Simulator(model.instrument, device=device)
    generator = torch.Generator(device=device).manual_seed(10**12 + SEED)
    parts = [simulator.draw(min(100, n - first), generator) for first in range(0, n, 100)]
    image, noise, theta = (
        torch.cat([getattr(p, name).cpu() for p in parts]) for name in ("image", "noise", "theta")
    )
    u = Observing(*(torch.cat([getattr(p.u, name).cpu() for p in parts]) for name in Observing._fields))
    names = np.asarray([str(i) for i in range(n)])
    return Stamps(names, image, noise, torch.ones_like(image, dtype=torch.bool), u), theta.numpy()


def proposals(zred: np.ndarray, n: int) -> np.ndarray:
    """Theta from the distribution of the simulations' at each redshift, (galaxy, draw, theta)."""
    at = torch.full((n,), 0.1)
    theta = draw_theta(n, at, torch.Generator().manual_seed(5)).numpy()
    every = np.repeat(theta[None], len(zred), axis=0)
    age = age_universe_gyr(torch.as_tensor(zred)).numpy() / float(age_universe_gyr(at[:1]))
    every[..., 2] *= age[:, None]
    return every


class Posteriors(NamedTuple):
    """What is known of each galaxy's posterior, from weighted draws of the proposal."""

    gain: np.ndarray
    """Information gain, nats."""
    rank: np.ndarray
    """Part of the posterior below the true value, by property."""
    effective: np.ndarray
    """Effective number of draws."""
    draws: np.ndarray
    """(galaxy, draw, property), of equal weight."""


def posteriors(
    log_prob: Any, theta: np.ndarray, others: np.ndarray, data: Any, chunk: int = 50
) -> Posteriors:
    """Gain, ranks and draws by galaxy; ``log_prob`` of theta and one galaxy's data."""
    rng = np.random.default_rng(SEED)
    each = jax.jit(jax.vmap(jax.vmap(log_prob, (0, None))))
    candidates = np.concatenate([theta[:, None], others], axis=1).astype(np.float32)
    gain, rank, effective, draws = [], [], [], []
    for first in range(0, len(theta), chunk):
        rows = slice(first, first + chunk)
        some = jax.tree.map(lambda leaf, rows=rows: jnp.asarray(leaf[rows]), data)
        logp = np.asarray(each(jnp.asarray(candidates[rows]), some), np.float64)
        top = logp.max(axis=1)
        total = np.log(np.exp(logp - top[:, None]).sum(axis=1)) + top
        gain.append(logp[:, 0] - total + math.log(logp.shape[1]))
        weight = np.exp(logp[:, 1:] - logp[:, 1:].max(axis=1)[:, None])
        weight /= weight.sum(axis=1)[:, None]
        below = candidates[rows, 1:] < candidates[rows, :1]
        rank.append((weight[..., None] * below).sum(axis=1))
        effective.append(1 / (weight**2).sum(axis=1))
        picked = np.stack([rng.choice(weight.shape[1], N_TARP, p=row) for row in weight])
        draws.append(np.take_along_axis(candidates[rows, 1:], picked[..., None], axis=1))
    return Posteriors(*(np.concatenate(items) for items in (gain, rank, effective, draws)))


class _Drawn:
    """Draws of posteriors behind the interface that sbi's diagnostics ask: x is the galaxy's number."""

    def __init__(self, draws: torch.Tensor) -> None:
        self.draws = draws

    def sample_batched(
        self, sample_shape: tuple[int, ...], x: torch.Tensor, show_progress_bars: bool = False
    ) -> torch.Tensor:
        del show_progress_bars
        return self.draws[x[:, 0].long(), : sample_shape[0]].transpose(0, 1)


def tarp_deviation(draws: np.ndarray, theta: np.ndarray) -> float:
    """Largest difference between TARP's expected coverage and the credibility."""
    from sbi.diagnostics import run_tarp

    torch.manual_seed(SEED)  # the references
    number = torch.arange(len(theta), dtype=torch.float32)[:, None]
    ecp, alpha = run_tarp(
        torch.as_tensor(theta), number, _Drawn(torch.as_tensor(draws)),
        num_posterior_samples=draws.shape[1], show_progress_bar=False, z_score_theta=True,
    )  # fmt: skip
    return float((ecp - alpha).abs().max())


def gain_before_refit(
    model: Model, path: Path, theta: np.ndarray, zred: torch.Tensor, every: int = 1
) -> np.ndarray:
    """Information gain with the denoiser's own coefficients and equal weights, from the same statistics.

    With ``every`` 2, on every second node alone.
    """
    assert isinstance(model.network, Separable)  # noqa: S101
    nodes, width = likelihood_nodes(model.sigma_likelihood, len(model.node_weight))
    with h5py.File(path) as file:
        G, b, u = (torch.as_tensor(file[name][()]) for name in ("G", "b", "u"))
    G, b, nodes = G[:, every // 2 :: every], b[:, every // 2 :: every], nodes[every // 2 :: every]
    columns = theta_columns(torch.as_tensor(theta), zred)
    gain, _, _ = information_gain(
        model.network.coefficients, unpacked(G), b, columns, u, proposal_columns(N_PROPOSAL, "cpu"), nodes,
        torch.full_like(nodes, every * width),
    )  # fmt: skip
    return gain.numpy()


def estimator(name: str, model: Model, stamps: Stamps, theta: np.ndarray, gain: np.ndarray) -> dict[str, Any]:
    """Information gain of the neural posterior estimator, and ours as a part of it."""
    from benchmarks.neural_posterior import trained_information

    clean = model.preparation.forward(stamps.image, stamps.noise, stamps.observed)
    assert model.instrument is not None  # noqa: S101
    u = observing_columns(stamps.u, model.instrument)
    found = trained_information(name, clean, torch.as_tensor(theta), stamps.u.zred, u)
    if found is None:
        return {}
    theirs, record = found[0].double().numpy(), found[1]
    n = len(gain)
    # Error of the ratio of two means over the same images.
    ratio = gain.mean() / theirs.mean()
    error = (gain - ratio * theirs).std() / n**0.5 / theirs.mean()
    return {
        "gain": float(theirs.mean()), "gain_error": float(theirs.std() / n**0.5),
        "ratio": float(ratio), "ratio_error": float(error), **record,
    }  # fmt: skip


def coverage(rank: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Coverage of central intervals and its largest deviation, by property."""
    found = {}
    for i, name in enumerate(names):
        inside = np.sort(np.abs(2 * rank[:, i] - 1))
        expected = (np.arange(len(inside)) + 0.5) / len(inside)
        found[name] = {
            "in_68": float((inside < 0.68).mean()),
            "in_95": float((inside < 0.95).mean()),
            "deviation": float(np.abs(inside - expected).max()),
        }
    return found


def speed(
    likelihood: ImageLikelihood, data: GalaxyImage, theta: np.ndarray, n: int = 1000
) -> dict[str, float]:
    """Microseconds per value and gradient per galaxy, side by side."""
    rows = np.arange(n) % len(theta)
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), data)
    points = jnp.asarray(theta[rows], jnp.float32)
    call = jax.jit(jax.vmap(jax.value_and_grad(likelihood.log_prob)))
    jax.block_until_ready(call(points, batch))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        jax.block_until_ready(call(points, batch))
        times.append((time.perf_counter() - start) / n * 1e6)
    return {"microseconds": float(np.median(times)), "best": float(min(times))}


def direct_speed(model: Model, stamps: Stamps, u: np.ndarray, theta: np.ndarray, n_draw: int) -> float:
    """Seconds per value and gradient of one galaxy by the torch network, with the same nodes and draws."""
    nodes, weight = model.nodes
    clean = model.preparation.forward(stamps.image[:1], stamps.noise[:1], stamps.observed[:1])
    columns = theta_columns(torch.as_tensor(theta[:1]), stamps.u.zred[:1])
    conditions = torch.as_tensor(u[:1])
    seconds = 0.0
    for k, (sigma, w) in enumerate([(nodes[0], weight[0]), *zip(nodes, weight, strict=True)]):
        if k == 1:  # the first is to warm up
            seconds = time.perf_counter()
        point = columns.clone().requires_grad_(True)
        noisy = (clean + sigma * torch.randn(n_draw, *clean.shape[1:])).detach()
        wide = (point.expand(n_draw, -1), conditions.expand(n_draw, -1), stamps.observed[:1].expand_as(noisy))
        denoised = model.network(noisy, sigma.expand(n_draw), *wide)
        value = -float(w) * (((clean - denoised) / sigma) ** 2).sum() / n_draw
        value.backward()
    return time.perf_counter() - seconds


def anchor_table(path: Path, stamps: Stamps, theta: np.ndarray, n: int = 4) -> list[dict[str, float]]:
    """Error of anchors for a FiLM network, on candidates from its own posterior over the prior."""
    model = load_model(path)
    if model.instrument is None:
        raise SystemExit("`--film` must be a model of an instrument.")
    nodes, width = likelihood_nodes(model.sigma_likelihood, 6)
    weight = torch.full_like(nodes, width)
    clean = model.preparation.forward(stamps.image[:n], stamps.noise[:n], stamps.observed[:n])
    u = observing_columns(stamps.u, model.instrument)[:n]
    others = proposal_columns(60, "cpu", seed=8)
    truth = theta_columns(torch.as_tensor(theta[:n]), stamps.u.zred[:n])
    candidates = torch.cat([truth[:, None], others[None].expand(n, -1, -1)], dim=1)
    exact = direct_log_likelihood(
        model.network, clean, candidates, u, stamps.observed[:n], nodes, weight, seed=3
    ).value
    near = exact > exact.max(dim=1, keepdim=True).values - 8
    rows = []
    for count in ANCHORS:
        anchors = sobol_anchors(count, candidates.shape[-1])
        R = anchor_statistics(model.network, clean, u, stamps.observed[:n], anchors, nodes, weight, seed=3)
        found = anchor_log_likelihood(anchors, R, candidates)
        error = torch.where(near, found - exact, torch.nan)
        centred = error - error.nanmean(dim=1, keepdim=True)
        rows.append(
            {
                "anchors": count,
                "rms_all": rms_difference(found, exact),
                "rms_near": float((centred**2).nanmean().sqrt()),
            }
        )
    spread = exact - exact.mean(dim=1, keepdim=True)
    rows.append({"anchors": 0, "rms_all": float((spread**2).mean().sqrt()), "rms_near": float("nan")})
    return rows


def measure(name: str, n: int, device: str) -> dict[str, Any]:
    """Parts (a) to (d) of one model."""
    model = load(name, device)
    stamps, theta = simulated(model, n, device)
    likelihood = load_image_likelihood(name, correction=False)
    which = f"{name}-{likelihood.hash[:12]}-{stamps_hash(stamps)[:12]}"
    cache = RESULTS / ".cache" / "image_likelihood" / f"{which}.h5"
    result: dict[str, Any] = {"n": n}
    few = Stamps(
        stamps.id[:16], *(item[:16] for item in (stamps.image, stamps.noise, stamps.observed)),
        Observing(*(item[:16] for item in stamps.u)),
    )  # fmt: skip
    start = time.perf_counter()
    summarize(model, few)
    result["compile_s_per_image"] = (time.perf_counter() - start) / len(few.id)
    if not cache.is_file():
        compile_file(model, model_path(name), stamps, cache)
    compiled = read_compiled_images(cache, likelihood)
    result["monte_carlo_error"] = {
        "median": float(np.median(compiled.error)), "largest": float(compiled.error.max())
    }  # fmt: skip
    zred = stamps.u.zred.numpy()
    others = proposals(zred, N_PROPOSAL)
    before = gain_before_refit(model, cache, theta, stamps.u.zred)
    result["gain_before_refit"] = float(before.mean())
    result["gain_before_refit_error"] = float(before.std() / n**0.5)
    seconds = direct_speed(load(name), stamps, np.asarray(compiled.data.u), theta, 8)
    result["direct_s"] = seconds
    result |= of_likelihood(likelihood, compiled.data, theta, others, cache, seconds)
    if model.correction is not None:
        corrected = load_image_likelihood(name)
        data = read_compiled_images(cache, corrected).data
        result["corrected"] = of_likelihood(corrected, data, theta, others, cache, seconds)
        result["corrected"]["scale"] = corrected.scale
    return result


def of_likelihood(
    likelihood: ImageLikelihood,
    data: GalaxyImage,
    theta: np.ndarray,
    others: np.ndarray,
    cache: Path,
    direct_seconds: float,
) -> dict[str, Any]:
    """What one likelihood knows, whether its intervals are true, its speed, and the table of R numbers."""
    n = len(theta)
    whole = posteriors(likelihood.log_prob, theta, others, data)
    result: dict[str, Any] = {
        "gain": float(whole.gain.mean()), "gain_error": float(whole.gain.std() / n**0.5),
        "effective": {"median": float(np.median(whole.effective)), "least": float(whole.effective.min())},
    }  # fmt: skip
    np.save(gain_file(cache, likelihood), whole.gain)
    result["tarp_deviation"] = tarp_deviation(whole.draws, theta)
    result["coverage"] = coverage(whole.rank, likelihood.names)
    result["deviation"] = max(v["deviation"] for v in result["coverage"].values())
    result["speed"] = speed(likelihood, data, theta)
    result["faster"] = direct_seconds * 1e6 / result["speed"]["microseconds"]
    half = n // 2
    first = jax.tree.map(lambda leaf: leaf[:half], data)
    second = jax.tree.map(lambda leaf: leaf[half:], data)
    most = fit_projection(likelihood, first, others[:half, :128], min(NUMBERS[-1], half // 2))
    few_others, result["numbers"] = others[half:, :2048], []
    for number in (r for r in NUMBERS if r <= len(most.spectrum)):
        projection = most.truncated(number)
        found = posteriors(projection.log_prob, theta[half:], few_others, projection.project(second))
        result["numbers"].append(
            {"R": number, "explained": projection.explained, "gain": float(found.gain.mean())}
        )
    exact = posteriors(likelihood.log_prob, theta[half:], few_others, second)
    result["gain_second_half"] = float(exact.gain.mean())
    return result


def gain_file(cache: Path, likelihood: ImageLikelihood) -> Path:
    """Where the gain of each image is kept."""
    return cache.with_suffix(".corrected.gain.npy" if likelihood.psi else ".gain.npy")


def against_estimator(name: str, n: int, device: str) -> dict[str, Any]:
    """Second half of part (a), from the gains that `measure` has kept."""
    model = load(name, device)
    stamps, theta = simulated(model, n, device)
    likelihood = load_image_likelihood(name)
    which = f"{name}-{likelihood.hash[:12]}-{stamps_hash(stamps)[:12]}"
    path = RESULTS / ".cache" / "image_likelihood" / f"{which}.h5"
    plain = load_image_likelihood(name, correction=False)
    found = estimator(name, model, stamps, theta, np.load(gain_file(path, plain)))
    if found and likelihood.psi:
        corrected = estimator(name, model, stamps, theta, np.load(gain_file(path, likelihood)))
        found |= {f"corrected_{key}": corrected[key] for key in ("ratio", "ratio_error")}
    if found:
        half = gain_before_refit(model, path, theta, stamps.u.zred, every=2)
        found["ours_before_refit_half_of_the_nodes"] = float(half.mean())
    return found


def show(name: str, result: dict[str, Any]) -> None:
    """Print the tables of one model."""
    parts = {"score model": result}
    if "corrected" in result:
        parts["with the ratio correction"] = result["corrected"]
    for label, part in parts.items():
        print_table(
            [f"{name}, {label}", "68 %", "95 %", "deviation"],
            [
                [k, f"{v['in_68']:.3f}", f"{v['in_95']:.3f}", f"{v['deviation']:.3f}"]
                for k, v in part["coverage"].items()
            ],
        )
        print_table(
            ["R", "variance kept", "gain, nats"],
            [[v["R"], f"{v['explained']:.4f}", f"{v['gain']:.3f}"] for v in part["numbers"]]
            + [["all", "1", f"{part['gain_second_half']:.3f}"]],
        )
    yardstick = result["estimator"]
    rows = [
        ["denoiser's own coefficients", result["gain_before_refit"], result["gain_before_refit_error"]],
        ["refitted", result["gain"], result["gain_error"]],
    ]
    if "corrected" in result:
        best = result["corrected"]
        rows.append([f"ratio correction (a = {best['scale']:.2f})", best["gain"], best["gain_error"]])
    if yardstick:
        rows.append(["neural posterior estimator", yardstick["gain"], yardstick["gain_error"]])
    print_table([name, "gain, nats", "error"], [[a, f"{b:.3f}", f"{c:.3f}"] for a, b, c in rows])
    if yardstick:
        print(f"{name}: {yardstick['ratio']:.3f} +- {yardstick['ratio_error']:.3f} of the estimator's gain")
    if "corrected_ratio" in yardstick:
        ratio, error = yardstick["corrected_ratio"], yardstick["corrected_ratio_error"]
        print(f"{name}: {ratio:.3f} +- {error:.3f} of it with the ratio correction")
    for label, part in parts.items():
        print(
            f"{name}, {label}: gain {part['gain']:.3f} +- {part['gain_error']:.3f} nats, TARP deviation "
            f"{part['tarp_deviation']:.3f}; {part['speed']['microseconds']:.1f} us per value and gradient, "
            f"{part['faster']:.0f} times faster than direct"
        )
    print(f"{name}: compiled in {result.get('compile_s_per_image', math.nan):.2f} s per image")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(available()))
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--film", type=Path, default=None, help="FiLM checkpoint of sdss-griz for part (e)")
    parser.add_argument(
        "--estimator-only",
        action="store_true",
        help="compare an earlier result with the estimator as it is now",
    )
    parser.add_argument("--denoising", type=Path, default=None, help="model trained with contrast = 0")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    earlier = RESULTS / "image_likelihood.json"
    result: dict[str, Any] = json.loads(earlier.read_text())["result"] if earlier.is_file() else {}
    for name in args.models:
        if not args.estimator_only:
            result[name] = measure(name, args.n, args.device)
        result[name]["estimator"] = against_estimator(name, args.n, args.device)
        show(name, result[name])
    if args.film is not None:
        stamps, theta = simulated(load_model(args.film), 4, "cpu")
        rows = anchor_table(args.film, stamps, theta)
        result["anchors"] = rows
        print_table(
            ["anchors", "error over the prior, nats", "error within 8 nats of the best"],
            [[r["anchors"] or "spread", f"{r['rms_all']:.3f}", f"{r['rms_near']:.3f}"] for r in rows],
        )
    if args.denoising is not None:
        model = load_model(args.denoising)
        found = dict(model.calibration or {})
        kept = result["denoising"] = {key: found[key] for key in ("before", "refitted")}
        kept["config"] = model.provenance["config"]
        print_table(
            ["without the contrastive loss", "gain, nats", "error"],
            [
                [key, f"{kept[key]['gain']:.3f}", f"{kept[key]['error']:.3f}"]
                for key in ("before", "refitted")
            ],
        )
    settings = {"n": args.n, "seed": SEED}
    write_result("image_likelihood", args.device, settings, result)


if __name__ == "__main__":
    main()
