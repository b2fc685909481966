"""The likelihood of images in JAX against the torch network it was compiled from."""

import subprocess
import sys
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import generative
from generative.checkpoint import Model, load_model, save_model
from generative.conditions import RANGE, THETA, Observing, draw_theta, theta_columns
from generative.correction import Correction, CorrectionConfig
from generative.instrument import SDSS_GRIZ
from generative.likelihood import direct_log_likelihood
from generative.network import NetworkConfig, Separable
from generative.preparation import Preparation
from generative.release import available
from generative.stamps import Stamps
from generative.summaries import compile_file
from hbm.image import (
    ImageError,
    ImageLikelihood,
    load_image_likelihood,
    read_compiled_images,
    require_calibrated,
)
from hbm.image_projection import fit_projection

N, M = 3, 5


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    config = NetworkConfig(
        n_band=4,
        n_pixel=16,
        n_theta=6,
        n_u=13,
        n_basis=5,
        channels=(16, 16),
        hidden=16,
        n_feature=8,
        refine=8,
    )
    network = Separable(config)
    with torch.no_grad():
        network.head.weight.mul_(80.0)
    network.eval().requires_grad_(False)
    refitted = Separable(config).coefficients.eval().requires_grad_(False)
    preparation = Preparation((0.1,) * 4, (1.2,) * 4)
    return Model(
        network, refitted, preparation, SDSS_GRIZ, THETA, (0.02, 40.0), (0.15, 10.0),
        torch.tensor([1.3, 0.8, 0.0, 1.1]), {},
    )  # fmt: skip


@pytest.fixture(scope="module")
def stamps() -> Stamps:
    g = torch.Generator().manual_seed(1)
    image = torch.randn(N, 4, 16, 16, generator=g)
    observed = torch.rand(image.shape, generator=g) < 0.9
    u = Observing(torch.tensor([0.05, 0.1, 0.2]), torch.full((N, 4), 1.3), torch.full((N, 4), 800.0))
    return Stamps(np.asarray(["a", "b", "c"]), image, torch.ones(N, 4), observed, u)


@pytest.fixture(scope="module")
def files(model: Model, stamps: Stamps, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("compiled")
    checkpoint, out = folder / "model.safetensors", folder / "stats.h5"
    save_model(checkpoint, model)
    compile_file(model, checkpoint, stamps, out, target_error=1e-9, max_draw=8, seed=3)
    return checkpoint, out


@pytest.fixture(scope="module")
def theta(stamps: Stamps) -> torch.Tensor:
    zred = stamps.u.zred.repeat_interleave(M)
    return draw_theta(N * M, zred, torch.Generator().manual_seed(2)).view(N, M, 6)


def test_the_likelihood_is_the_direct_integral(
    model: Model, stamps: Stamps, files: tuple[Path, Path], theta: torch.Tensor
) -> None:
    """JAX on compiled statistics against running the torch network at every theta, same noise draws."""
    likelihood = load_image_likelihood(files[0])
    compiled = read_compiled_images(files[1], likelihood)
    assert likelihood.names == THETA
    assert compiled.id.tolist() == ["a", "b", "c"]
    each = jax.vmap(jax.vmap(likelihood.log_prob, in_axes=(0, None)))
    found = np.asarray(each(jnp.asarray(theta.numpy()), jax.tree.map(jnp.asarray, compiled.data)))
    network = Separable(model.network.config)
    network.load_state_dict(model.network.state_dict())
    assert model.coefficients is not None
    network.coefficients.load_state_dict(model.coefficients.state_dict())
    network.eval()
    clean = model.preparation.forward(stamps.image, stamps.noise, stamps.observed)
    columns = theta_columns(theta.reshape(-1, 6), stamps.u.zred.repeat_interleave(M)).view(N, M, 6)
    nodes, weight = model.nodes
    u = torch.as_tensor(np.asarray(compiled.data.u))
    direct = direct_log_likelihood(
        network, clean, columns, u, stamps.observed, nodes, weight, n_draw=8, seed=3
    ).value.numpy()
    scale = np.ptp(direct, axis=1).min()
    assert scale > 0.3
    difference = (found - found[:, :1]) - (direct - direct[:, :1])
    assert np.abs(difference).max() < 3e-3 * scale + 3e-3


@pytest.fixture(scope="module")
def corrected(
    model: Model, stamps: Stamps, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Model, Path, Path]:
    """Model with a ratio correction, its checkpoint and statistics."""
    torch.manual_seed(5)
    correction = Correction(CorrectionConfig(4, 16, 6, 13, n_number=7, channels=(8, 8), hidden=16))
    with torch.no_grad():
        correction.scale.fill_(0.7)
        for parameter in correction.psi.parameters():
            parameter.mul_(4.0)
    with_it = model._replace(correction=correction.eval().requires_grad_(False))
    folder = tmp_path_factory.mktemp("corrected")
    checkpoint, out = folder / "model.safetensors", folder / "stats.h5"
    save_model(checkpoint, with_it)
    compile_file(with_it, checkpoint, stamps, out, target_error=1e-9, max_draw=8, seed=3)
    return with_it, checkpoint, out


def test_the_ratio_correction_is_added_and_can_be_left_out(
    corrected: tuple[Model, Path, Path], files: tuple[Path, Path], stamps: Stamps, theta: torch.Tensor
) -> None:
    """JAX on compiled statistics against the torch networks."""
    model, checkpoint, out = corrected
    likelihood, plain = (load_image_likelihood(checkpoint, correction=on) for on in (True, False))
    own = load_image_likelihood(files[0])
    points = jnp.asarray(theta.numpy())

    def values(of: ImageLikelihood, path: Path) -> np.ndarray:
        data = jax.tree.map(jnp.asarray, read_compiled_images(path, of).data)
        return np.asarray(jax.vmap(jax.vmap(of.log_prob, (0, None)))(points, data))

    base = values(own, files[1])
    np.testing.assert_allclose(values(plain, out), base, rtol=1e-6)
    compiled = read_compiled_images(out, likelihood)
    assert compiled.data.s.shape == (N, 8)
    assert read_compiled_images(out, plain).data.s.shape == (N, 0)
    assert load_model(checkpoint).correction is not None
    correction = model.correction
    assert correction is not None
    clean = model.preparation.forward(stamps.image, stamps.noise, stamps.observed)
    columns = theta_columns(theta.reshape(-1, 6), stamps.u.zred.repeat_interleave(M)).view(N, M, 6)
    u = torch.as_tensor(np.asarray(compiled.data.u))
    numbers = correction.numbers(clean, u, stamps.observed)
    ratio = correction.log_ratio(numbers, columns, u).numpy()
    assert np.ptp(ratio, axis=1).min() > 0.3
    np.testing.assert_allclose(values(likelihood, out), 0.7 * base + ratio, rtol=1e-4, atol=1e-4)
    # As R numbers: all directions give everything back, the correction's among them.
    rng = np.random.default_rng(1)
    many = jax.tree.map(lambda leaf: np.repeat(leaf, 20, axis=0), compiled.data)
    many = many._replace(v=many.v + rng.normal(0, 3, many.v.shape), s=many.s + rng.normal(0, 1, many.s.shape))
    draws = draw_theta(60 * 60, torch.full((3600,), 0.1), torch.Generator().manual_seed(0)).view(60, 60, 6)
    projection = fit_projection(likelihood, many, draws.numpy(), 15)
    each = [
        np.asarray(jax.vmap(jax.vmap(of.log_prob, (0, None)))(jnp.asarray(draws.numpy()), data))
        for of, data in (
            (likelihood, jax.tree.map(jnp.asarray, many)),
            (projection, jax.tree.map(jnp.asarray, projection.project(many))),
        )
    ]
    exact, found = (value - value.mean(axis=1, keepdims=True) for value in each)
    assert ((found - exact) ** 2).mean() < 1e-3 * ((exact - exact.mean(axis=0)) ** 2).mean()


def test_statistics_without_the_numbers_of_the_correction_are_refused(
    corrected: tuple[Model, Path, Path], files: tuple[Path, Path]
) -> None:
    likelihood = load_image_likelihood(corrected[1])
    with pytest.raises(ImageError, match="`numbers` must have 8 columns for the ratio correction, got 0"):
        likelihood.fold(*(np.zeros(s) for s in ((1, 4, 15), (1, 4, 5), (1, 13), (1,), (1, 0))))
    with pytest.raises(ImageError, match="was compiled with another checkpoint"):
        read_compiled_images(files[1], likelihood)


def test_gradients_are_finite_differences(files: tuple[Path, Path], theta: torch.Tensor) -> None:
    with jax.enable_x64(True):
        likelihood = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), load_image_likelihood(files[0]))
        galaxy = jax.tree.map(
            lambda x: jnp.asarray(x[1], jnp.float64), read_compiled_images(files[1], likelihood).data
        )
        point = jnp.asarray(theta[1, 0].numpy(), jnp.float64)
        slope = jax.grad(likelihood.log_prob)(point, galaxy)
        for i in range(6):
            step = jnp.zeros(6).at[i].set(1e-4)
            ends = [likelihood.log_prob(point + sign * step, galaxy) for sign in (1, -1)]
            np.testing.assert_allclose(slope[i], (ends[0] - ends[1]) / 2e-4, rtol=1e-5, atol=1e-7)


def test_ranges_come_from_the_checkpoint(files: tuple[Path, Path]) -> None:
    likelihood = load_image_likelihood(files[0])
    np.testing.assert_allclose(likelihood.low, [low for low, _ in RANGE.values()])
    np.testing.assert_allclose(likelihood.high, [high for _, high in RANGE.values()])


def test_shipped_models_are_likelihoods() -> None:
    for name in available():
        likelihood = load_image_likelihood(name)
        assert likelihood.names == THETA
        assert {c.name for c in likelihood.calibration} == set(THETA)
        require_calibrated(likelihood)


def test_the_domain_is_that_of_training(files: tuple[Path, Path], theta: torch.Tensor) -> None:
    likelihood = load_image_likelihood(files[0])
    compiled = read_compiled_images(files[1], likelihood)
    galaxy = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), compiled.data)
    inside = jnp.asarray(theta[0, 0].numpy())
    assert bool(likelihood.in_domain(inside, galaxy))
    assert not bool(likelihood.in_domain(inside.at[0].set(12.3), galaxy))
    assert not bool(likelihood.in_domain(inside.at[2].set(12.9), galaxy))


def test_no_torch_at_run_time(files: tuple[Path, Path]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from hbm.image import load_image_likelihood, read_compiled_images, shipped_model\n"
        f"likelihood = load_image_likelihood({str(files[0])!r})\n"
        f"print(len(read_compiled_images({str(files[1])!r}, likelihood).id), shipped_model('sdss-griz').name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "sdss-griz.safetensors"]


def test_bad_files_are_refused(files: tuple[Path, Path], model: Model, tmp_path: Path) -> None:
    likelihood = load_image_likelihood(files[0])
    with pytest.raises(FileNotFoundError, match="neither a file nor a shipped one"):
        load_image_likelihood(tmp_path / "nowhere")
    short = tmp_path / "short.safetensors"
    short.write_bytes(files[0].read_bytes()[:500])
    with pytest.raises(ImageError, match="truncated or not a safetensors file"):
        load_image_likelihood(short)
    unconditional = tmp_path / "pictures.safetensors"
    save_model(unconditional, model._replace(coefficients=None))
    with pytest.raises(ImageError, match="has no likelihood of properties"):
        load_image_likelihood(unconditional)
    other = tmp_path / "other.safetensors"
    save_model(other, model._replace(node_weight=torch.ones(4)))
    with pytest.raises(ImageError, match="compiled with another checkpoint"):
        read_compiled_images(files[1], load_image_likelihood(other))
    with pytest.raises(FileNotFoundError, match="no file of image statistics"):
        read_compiled_images(tmp_path / "x.h5", likelihood)
    broken = tmp_path / "broken.h5"
    broken.write_bytes(files[1].read_bytes()[:900])
    with pytest.raises(ImageError, match="truncated or not an HDF5 file"):
        read_compiled_images(broken, likelihood)
    with h5py.File(broken, "w") as file:
        file["x"] = 1
    with pytest.raises(ImageError, match="is not a file of image statistics"):
        read_compiled_images(broken, likelihood)


def test_overconfident_likelihoods_are_refused(
    files: tuple[Path, Path], model: Model, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="never calibrated"):
        require_calibrated(load_image_likelihood(files[0]))
    require_calibrated(load_image_likelihood(files[0]), insist=True)

    def covering(in_68: float, in_95: float, n: int) -> ImageLikelihood:
        found = {"cover_68": {"logmass": 0.68, "dust2": in_68}, "cover_95": {"logmass": 0.95, "dust2": in_95}}
        path = tmp_path / "calibrated.safetensors"
        save_model(path, model._replace(calibration={"refitted": found | {"n": n}}))
        return load_image_likelihood(path)

    require_calibrated(covering(0.66, 0.94, 1000))
    require_calibrated(covering(0.75, 0.99, 1000))  # too wide is not refused
    require_calibrated(covering(0.60, 0.93, 100))  # within chance
    with pytest.raises(ImageError, match=r"cover dust2 60% and 94% of 1000 held-out"):
        require_calibrated(covering(0.60, 0.94, 1000))
    with pytest.raises(ImageError, match="dust2 68% and 90%"):
        require_calibrated(covering(0.68, 0.90, 1000))


def test_summaries_are_exported() -> None:
    assert callable(generative.summarize)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = generative.nothing


def test_projection_to_numbers(files: tuple[Path, Path]) -> None:
    """All directions give the likelihood back; few give the least squares part of it that they claim."""
    likelihood = load_image_likelihood(files[0])
    rng = np.random.default_rng(0)
    n, n_draw = 40, 60
    b = rng.normal(0, 30, (n, 4, 5))
    G = np.zeros((n, 4, 15))
    G[:] = rng.uniform(20, 40, (n, 1, 1)) * (np.subtract(*np.triu_indices(5)) == 0)
    zred = np.full(n, 0.1)
    images = likelihood.fold(G, b, np.zeros((n, 13)), zred, np.zeros((n, 0)))
    torch_theta = draw_theta(n * n_draw, torch.full((n * n_draw,), 0.1), torch.Generator().manual_seed(0))
    theta = torch_theta.numpy().reshape(n, n_draw, 6)
    each = jax.vmap(jax.vmap(likelihood.log_prob, (0, None)))
    exact = np.asarray(each(jnp.asarray(theta), jax.tree.map(jnp.asarray, images)))
    exact = exact - exact.mean(axis=1, keepdims=True)
    left = []
    for number in (1, 3, 20):
        projection = fit_projection(likelihood, images, theta, number)
        projected = jax.tree.map(jnp.asarray, projection.project(images))
        assert projected.a.shape == (n, number)
        found = np.asarray(jax.vmap(jax.vmap(projection.log_prob, (0, None)))(jnp.asarray(theta), projected))
        found = found - found.mean(axis=1, keepdims=True)
        common = exact.mean(axis=0)  # what all images share is in psi_0 and costs no number
        left.append(((found - exact) ** 2).mean() / ((exact - common) ** 2).mean())
    assert left[0] > left[1] > 10 * left[2]
    assert left[2] < 1e-3
    three = fit_projection(likelihood, images, theta, 3)
    fewer = projection.truncated(3)
    assert fewer.explained == pytest.approx(three.explained, rel=1e-9)
    here = jax.tree.map(jnp.asarray, (three.project(images), fewer.project(images)))
    one, two = (
        jax.vmap(jax.vmap(p.log_prob, (0, None)))(jnp.asarray(theta), data)
        for p, data in zip((three, fewer), here, strict=True)
    )
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="must be between 1 and 20, got 21"):
        projection.truncated(21)
    with pytest.raises(ValueError, match="`n_number` must be between 1 and"):
        fit_projection(likelihood, images, theta, 1000)
