"""Training images from disk: what is right is read, what is wrong is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from generative.conditions import theta_columns
from generative.config import DataConfig
from generative.data import ArraySource
from generative.datasets import DataError, read_folder, read_multimodal_universe, read_npz
from generative.instrument import Instrument


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures and a table that knows eight of them."""
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(12):
        array = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(array).save(pictures / f"{100 + i}.png")
    lines = ["objID,oh_p50"] + [f"{100 + i},{8.5 + 0.05 * i if i != 3 else ''}" for i in range(8)]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_folder_with_labels(folder: Path) -> None:
    config = DataConfig("folder", path="pictures", labels={"oh_p50": (8.0, 9.0)})
    source = read_folder(config, folder / "pictures", folder / "table.csv")
    assert (source.n_band, source.n_pixel, source.n_theta, source.n_u) == (3, 16, 1, 0)
    labels = torch.cat([source._theta[source._train], source._theta[source._held]])[:, 0]
    known = labels[~labels.isnan()]
    assert len(labels) == 12
    np.testing.assert_allclose(sorted(known.tolist()), [0.1 * i for i in range(8) if i != 3], atol=1e-5)


def test_labels_are_drawn_from_their_errors(folder: Path) -> None:
    """Two halves of a normal distribution for training; held-out images keep the medians."""
    lines = ["objID,oh_p50,oh_p50_p16,oh_p50_p84"] + [f"{100 + i},8.5,8.45,8.7" for i in range(11)]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    config = DataConfig("folder", path="pictures", labels={"oh_p50": (7.5, 9.5)}, draw_labels=True)
    source = read_folder(config, folder / "pictures", folder / "table.csv")
    assert not source.held_out(1, generator()).theta.nan_to_num().any()
    drawn = torch.cat([source.batch(500, generator(i)).theta[:, 0] for i in range(20)])
    known = drawn[~drawn.isnan()].numpy()
    assert np.isnan(drawn.numpy()).mean() == pytest.approx(1 / 11, abs=0.1)  # the one without a row, if any
    below, above = known[known < 0], known[known > 0]
    assert len(below) / len(known) == pytest.approx(0.5, abs=0.03)
    assert np.sqrt(np.mean(below**2)) == pytest.approx(0.05, rel=0.05)  # on the scale of (-1, 1) for 2 dex
    assert np.sqrt(np.mean(above**2)) == pytest.approx(0.2, rel=0.05)
    assert np.abs(known).max() <= 1
    missing = DataConfig("folder", path="x", labels={"oh_p50_p16": (7.0, 10.0)}, draw_labels=True)
    with pytest.raises(DataError, match="no column 'oh_p50_p16_p16'"):
        read_folder(missing, folder / "pictures", folder / "table.csv")


def test_folder_without_labels_is_unconditional(folder: Path) -> None:
    source = read_folder(DataConfig("folder", path="pictures", n_pixel=8), folder / "pictures", None)
    batch = source.batch(5, generator())
    assert batch.image.shape == (5, 3, 8, 8)
    assert batch.theta.shape == (5, 0)


@pytest.mark.parametrize(
    ("labels", "match"),
    [({"oh_p50": (8.0, 8.6)}, "'oh_p50' in row .* must be between 8.0 and 8.6"),
     ({"mass": (8.0, 9.0)}, "no column 'mass'"),
     ({"oh_p50": (9.0, 8.0)}, "range of the label 'oh_p50' must rise")],
)  # fmt: skip
def test_labels_are_checked(folder: Path, labels: dict[str, tuple[float, float]], match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_folder(DataConfig("folder", path="x", labels=labels), folder / "pictures", folder / "table.csv")


def test_a_corrupt_picture_is_named(folder: Path) -> None:
    whole = (folder / "pictures" / "104.png").read_bytes()
    (folder / "pictures" / "104.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"104.png is corrupt"):
        read_folder(DataConfig("folder", path="x"), folder / "pictures", None)
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(folder / "pictures" / "104.png")
    with pytest.raises(DataError, match=r"104.png must have the size of the others"):
        read_folder(DataConfig("folder", path="x"), folder / "pictures", None)


def test_npz(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=array, ids=np.arange(20))
    source = read_npz(DataConfig("npz", path="x", n_pixel=8), tmp_path / "x.npz")
    assert source.n_pixel == 8
    expected = array.reshape(20, 8, 2, 8, 2, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(source._image.numpy(), expected, atol=0.51)
    with pytest.raises(DataError, match="`n_pixel` must divide"):
        read_npz(DataConfig("npz", path="x", n_pixel=5), tmp_path / "x.npz")
    with pytest.raises(DataError, match="`key` must name one array"):
        read_npz(DataConfig("npz", path="x", key="pictures"), tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:500])
    with pytest.raises(DataError, match="truncated or not an npz file"):
        read_npz(DataConfig("npz", path="y"), tmp_path / "y.npz")
    with pytest.raises(FileNotFoundError, match="`path` names no file"):
        read_npz(DataConfig("npz", path="z"), tmp_path / "z.npz")


def test_multimodal_universe(
    tmp_path: Path, small_instrument: Instrument, universe: Callable[..., Path]
) -> None:
    mask = np.ones((10, 3, 20, 20), bool)
    mask[2, 1, 10, 10] = False
    path = universe(tmp_path / "x.h5", image_mask=mask)
    source = read_multimodal_universe(path, small_instrument)
    with h5py.File(path) as file:
        array = file["image_array"][()]
    # g then r, the middle 16 pixels
    np.testing.assert_array_equal(source._image.numpy(), array[:, [1, 0], 2:18, 2:18])
    assert source._observed is not None
    assert not source._observed[2, 0, 8, 8]
    np.testing.assert_allclose(source._noise.numpy(), 0.5)
    known = theta_columns(torch.tensor([[10.5] + [float("nan")] * 5]), torch.tensor([0.1]))[0, 0]
    assert sorted(source._theta[:, 0].isnan().tolist()) == [False] * 5 + [True] * 5
    torch.testing.assert_close(source._theta[0, 0], known)
    assert source._theta[:, 1:].isnan().all()
    batch = source.batch(4, generator())
    assert batch.u.shape == (4, 7)
    assert torch.isfinite(batch.u).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"image_ivar": None}, "has no 'image_ivar'"),
        ({"Z": None}, "has no redshift"),
        ({"image_scale": np.full((10, 3), 0.26)}, "pixels of 0.260 arcsec"),
        ({"image_band": np.array([[b"SDSS-R", b"SDSS-U", b"SDSS-I"]])}, "no band 'sdss_g0'"),
        ({"logmass": np.full(10, 15.0)}, "'logmass' in row 0 is outside the range"),
    ],
)
def test_multimodal_universe_refusals(
    tmp_path: Path,
    small_instrument: Instrument,
    changes: dict[str, Any],
    match: str,
    universe: Callable[..., Path],
) -> None:
    with pytest.raises(DataError, match=match):
        read_multimodal_universe(universe(tmp_path / "x.h5", **changes), small_instrument)


def test_a_truncated_hdf5(
    tmp_path: Path, small_instrument: Instrument, universe: Callable[..., Path]
) -> None:
    path = universe(tmp_path / "x.h5")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="truncated or not an HDF5 file"):
        read_multimodal_universe(path, small_instrument)


def test_held_out_images_are_never_trained_on() -> None:
    image = torch.arange(40.0).view(40, 1, 1, 1).expand(-1, 1, 4, 4).clone()
    none = torch.zeros(40, 0)
    source = ArraySource(image, torch.ones(40, 1), none, none, fraction_held_out=0.25)
    trained = {int(source.batch(30, generator(i)).image[j, 0, 0, 0]) for i in range(20) for j in range(30)}
    held = {int(v) for v in source.held_out(10, generator()).image[:, 0, 0, 0]}
    assert len(held) == 10
    assert trained.isdisjoint(held)
    assert len(trained) == 30


def test_nan_pixels_are_not_observed() -> None:
    image = torch.ones(10, 1, 4, 4)
    image[:, 0, 1, 2] = torch.nan
    none = torch.zeros(10, 0)
    batch = ArraySource(image, torch.ones(10, 1), none, none, augment=False).batch(3, generator())
    assert not batch.observed[:, 0, 1, 2].any()
    assert batch.observed.sum() == 3 * 15


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        (((10, 1, 4, 5), (10, 1), (10, 0), (10, 0)), "`image` must be"),
        (((10, 1, 4, 4), (9, 1), (10, 0), (10, 0)), "`noise` must have one row per image"),
        (((10, 1, 4, 4), (10, 1), (9, 0), (10, 0)), "`theta` must have one row per image"),
        (((2, 1, 4, 4), (2, 1), (2, 0), (2, 0)), "`fraction_held_out` must leave images"),
    ],
)
def test_shapes_are_checked(shapes: tuple[tuple[int, ...], ...], match: str) -> None:
    arrays = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=match):
        ArraySource(*arrays)
