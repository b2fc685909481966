"""Training images from disk: Multimodal Universe HDF5, image folders with a table of labels, npz arrays.

Reading is here, and nothing else; what is read goes into `generative.data.ArraySource`.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from generative.conditions import (
    RANGE,
    THETA,
    Observing,
    age_universe_gyr,
    observing_columns,
    theta_columns,
)
from generative.config import DataConfig
from generative.data import ArraySource
from generative.instrument import Instrument
from generative.stamps import Stamps


class DataError(ValueError):
    """Training data that cannot be used."""


def scaled_labels(
    values: Float[np.ndarray, "image label"], labels: Mapping[str, tuple[float, float]], where: str
) -> Float[Tensor, "image label"]:
    """Labels on the scale (-1, 1) of their ranges; nan stays nan, that is, not known.

    Raises
    ------
    DataError
        If a label is infinite, out of its range, or its range is empty; the message names label and row.
    """
    out = np.full(values.shape, np.nan, np.float32)
    for i, (name, (low, high)) in enumerate(labels.items()):
        if not low < high:
            raise DataError(f"the range of the label {name!r} must rise, got ({low}, {high}).")
        column = values[:, i]
        bad = np.isinf(column) | (column < low) | (column > high)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{where}: {name!r} in row {row} must be between {low} and {high}, got {column[row]:g} "
                f"({int(bad.sum())} such rows). Widen its range, or leave it empty where it is not known."
            )
        out[:, i] = 2 * (column - low) / (high - low) - 1
    return torch.as_tensor(out)


def scaled_errors(
    middle: Float[np.ndarray, "image label"],
    low: Float[np.ndarray, "image label"],
    high: Float[np.ndarray, "image label"],
    span: Sequence[float] | Float[np.ndarray, "image label"],
) -> Float[Tensor, "image label 2"]:
    """Widths below and above labels, for labels on the scale (-1, 1) of ranges as wide as ``span``.

    Zero where a percentile is not known or on the wrong side.
    """
    widths = np.stack([middle - low, high - middle], axis=-1) * (2 / np.asarray(span, float))[..., None]
    return torch.as_tensor(np.where(widths > 0, widths, 0.0).astype(np.float32))


def read_npz(config: DataConfig, path: Path, device: str = "cpu") -> ArraySource:
    """Pictures of an npz file: (image, side, side, band) or (image, band, side, side), integers or floats.

    Raises
    ------
    FileNotFoundError, DataError
        If there is no such file, it is corrupt, or it holds no such array.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`path` names no file: {path}.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            names = list(content.files)
            pictures = [name for name in names if content[name].ndim == 4] if not config.key else [config.key]
            if len(pictures) != 1 or pictures[0] not in names:
                raise DataError(f"`key` must name one array of four axes in {path}, which holds {names}.")
            array = content[pictures[0]]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is truncated or not an npz file: {error}") from error
    return _pictures(array, config, str(path), device)


def _pictures(array: np.ndarray, config: DataConfig, where: str, device: str) -> ArraySource:
    if array.ndim != 4:
        raise DataError(f"{where}: images must have four axes, got {array.shape}.")
    if array.shape[-1] in (1, 3, 4) and array.shape[1] == array.shape[2]:
        array = np.moveaxis(array, -1, 1)
    if array.shape[2] != array.shape[3]:
        raise DataError(f"{where}: images must be square, got {array.shape}.")
    image = _averaged(torch.as_tensor(np.ascontiguousarray(array)), config.n_pixel, where)
    n = len(image)
    return ArraySource(
        image, torch.ones(n, image.shape[1]), torch.zeros(n, 0), torch.zeros(n, 0), device=device
    )


def _averaged(image: Tensor, n_pixel: int, where: str) -> Tensor:
    """Images box-averaged to a smaller side."""
    side = image.shape[-1]
    if n_pixel in (0, side):
        return image
    if n_pixel > side or side % n_pixel:
        raise DataError(f"{where}: `n_pixel` must divide the images' side of {side}, got {n_pixel}.")
    kind = image.dtype
    mean = torch.cat(
        [torch.nn.functional.avg_pool2d(part.float(), side // n_pixel) for part in image.split(512)]
    )
    return mean.round().to(kind) if not kind.is_floating_point else mean


def read_folder(config: DataConfig, path: Path, table: Path | None, device: str = "cpu") -> ArraySource:
    """Pictures of a folder (JPEG, PNG), with labels from a table.

    The table's first column is the file's name or stem. A picture without a row, or with
    an empty cell, has no such label.

    Raises
    ------
    FileNotFoundError, DataError
        If folder or table are not there, a picture is corrupt or of another size, or a label is out of range.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_dir():
        raise FileNotFoundError(f"`path` names no folder: {path}.")
    files = sorted(f for f in path.iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        raise DataError(f"{path} holds no JPEG or PNG files.")
    arrays: list[np.ndarray] = []
    for file in files:
        try:
            with Image.open(file) as picture:
                array = np.asarray(picture.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{file} is corrupt or not an image: {error}") from error
        if arrays and array.shape != arrays[0].shape:
            raise DataError(
                f"{file} must have the size of the others, {arrays[0].shape[:2]}, got {array.shape[:2]}."
            )
        arrays.append(array)
    stacked = np.moveaxis(np.stack(arrays), -1, 1)
    if stacked.shape[2] != stacked.shape[3]:
        raise DataError(f"{path}: images must be square, got {stacked.shape[2:]}.")
    image = _averaged(torch.as_tensor(np.ascontiguousarray(stacked)), config.n_pixel, str(path))
    labels, widths = torch.zeros(len(files), 0), None
    if config.labels:
        if table is None:
            raise DataError("`table` must be set: `labels` names columns of it.")
        names = list(config.labels)
        middle = _table_labels(table, files, names)
        labels = scaled_labels(middle, config.labels, str(table))
        if config.draw_labels:
            low, high = (
                _table_labels(table, files, [f"{name}_{p}" for name in names]) for p in ("p16", "p84")
            )
            widths = scaled_errors(middle, low, high, [end - start for start, end in config.labels.values()])
    return ArraySource(
        image,
        torch.ones(len(files), 3),
        labels,
        torch.zeros(len(files), 0),
        theta_error=widths,
        device=device,
    )


def _table_labels(table: Path, files: Sequence[Path], names: list[str]) -> np.ndarray:
    from astropy.table import Table

    if not table.is_file():
        raise FileNotFoundError(f"`table` names no file: {table}.")
    try:
        rows = Table.read(table)
    except Exception as error:
        raise DataError(f"{table} cannot be read: {error}") from error
    missing = [name for name in names if name not in rows.colnames]
    if missing:
        raise DataError(f"{table} has no column {missing[0]!r}; it has {', '.join(rows.colnames)}.")
    first = [str(value) for value in rows[rows.colnames[0]]]
    index = {name: i for i, name in enumerate(first)}
    if len(index) != len(first):
        raise DataError(f"{table}: the first column must name each image once.")
    out = np.full((len(files), len(names)), np.nan)
    columns: list[np.ndarray] = [np.ma.filled(np.ma.asarray(rows[name], float), np.nan) for name in names]
    n_found = 0
    for i, file in enumerate(files):
        row = index.get(file.name, index.get(file.stem))
        if row is not None:
            n_found += 1
            out[i] = [column[row] for column in columns]
    if n_found == 0:
        raise DataError(f"{table}: no entry of the first column is the name of an image in the folder.")
    return out


class SurveyImages(NamedTuple):
    """Images of a survey with the properties that are known."""

    stamps: Stamps
    theta: Float[Tensor, "image theta"]
    """In their units; nan where not known."""


def read_multimodal_universe(
    path: Path, instrument: Instrument, device: str = "cpu", *, draw_labels: bool = False
) -> ArraySource:
    """Training images in the HDF5 layout of the Multimodal Universe; see `read_survey_images`.

    With ``draw_labels``, labels are drawn from their errors each time: ``<property>_p16`` and ``_p84``.

    Raises
    ------
    FileNotFoundError, DataError
        As `read_survey_images`, or if a property is outside the range of training.
    """
    (_, image, noise, observed, u), theta = read_survey_images(path, instrument)
    columns = theta_columns(theta, u.zred)
    bad = (columns.abs() > 1.001) | torch.isinf(columns)
    if bad.any():
        row, column = (int(i) for i in bad.nonzero()[0])
        raise DataError(
            f"{path}: {THETA[column]!r} in row {row} is outside the range of the model: "
            f"{float(theta[row, column]):g}."
        )
    conditions = observing_columns(u, instrument)
    error = _label_errors(path, theta, u.zred) if draw_labels else None
    return ArraySource(image, noise, columns, conditions, observed=observed, theta_error=error, device=device)


def _label_errors(
    path: Path, theta: Float[Tensor, "image theta"], zred: Float[Tensor, " image"]
) -> Float[Tensor, "image theta 2"]:
    """Widths of the labels' errors in an HDF5 file, on the scale of `theta_columns`."""
    import h5py

    middle = theta.double().numpy()
    ends = [np.full(middle.shape, np.nan) for _ in range(2)]
    with h5py.File(path, "r") as file:
        names = [(i, f"{name}_{p}", end) for i, name in enumerate(THETA)
                 for p, end in zip(("p16", "p84"), ends, strict=True)]  # fmt: skip
        if not any(name in file for _, name, _ in names):
            raise DataError(
                f"{path} has no errors of labels (`logmass_p16`, `logmass_p84`, ...) to draw from."
            )
        for i, name, end in names:
            if name in file:
                end[:, i] = file[name][()]
    span = np.array([high - low for low, high in RANGE.values()]) * np.ones(middle.shape)
    age = list(THETA).index("mwa")
    span[:, age] *= age_universe_gyr(zred).double().numpy()
    return scaled_errors(middle, ends[0], ends[1], span)


def read_survey_images(path: Path, instrument: Instrument) -> SurveyImages:
    """Images in the HDF5 layout of the Multimodal Universe (arXiv:2412.02527) for an instrument's bands.

    Read are ``image_array`` (image, band, side, side), ``image_band`` (names), ``image_ivar`` and, where
    there are, ``image_mask`` (true for good pixels), ``image_psf_fwhm`` and ``image_scale`` (arcsec), a
    redshift in ``Z``, ``zred`` or ``z``, names in ``object_id`` (row numbers without), total fluxes in
    ``flux`` (image, band), and properties under their names in
    `generative.conditions.THETA`. Without ``flux`` the sum of the good pixels is the flux.

    Raises
    ------
    FileNotFoundError, DataError
        If the file is not there, truncated, lacks what is needed, or has other bands or pixels.
    """
    import h5py

    if not path.is_file():
        raise FileNotFoundError(f"`path` names no file: {path}.")
    try:
        with h5py.File(path, "r") as file:
            content = {name: file[name][()] for name in file if isinstance(file[name], h5py.Dataset)}
    except OSError as error:
        raise DataError(f"{path} is truncated or not an HDF5 file: {error}") from error
    for name in ("image_array", "image_band", "image_ivar"):
        if name not in content:
            raise DataError(f"{path} has no {name!r}; it holds {', '.join(sorted(content))}.")
    image, ivar = (torch.as_tensor(content[name]).float() for name in ("image_array", "image_ivar"))
    bands = [b.decode() if isinstance(b, bytes) else str(b) for b in np.atleast_2d(content["image_band"])[0]]
    order = _band_order(bands, instrument, path)
    image, ivar = image[:, order], ivar[:, order]
    if "image_scale" in content:
        scale = np.atleast_2d(content["image_scale"]).mean()
        if abs(scale / instrument.pixel_scale - 1) > 0.02:
            raise DataError(
                f"{path} has pixels of {scale:.3f} arcsec, {instrument.name} has {instrument.pixel_scale}. "
                "Resample the images, or choose another instrument."
            )
    image, ivar = _cropped(image, instrument, path), _cropped(ivar, instrument, path)
    observed = torch.isfinite(image) & (ivar > 0)
    if "image_mask" in content:
        mask = torch.as_tensor(np.asarray(content["image_mask"], bool))[:, order]
        observed = observed & _cropped(mask, instrument, path)
    variance = torch.where(observed, 1 / ivar.clamp(min=1e-30), torch.nan)
    noise = torch.sqrt(torch.nanmedian(variance.flatten(2), dim=2).values)
    flux = torch.where(observed, image, 0.0).sum(dim=(2, 3))
    if "flux" in content:
        flux = torch.as_tensor(content["flux"]).float()[:, order]
        observed = observed & torch.isfinite(flux)[..., None, None]  # without its flux a band says nothing
    n = len(image)
    zred = _first_of(content, ("zred", "Z", "z"))
    if zred is None:
        raise DataError(f"{path} has no redshift: `zred`, `Z` or `z`.")
    u = Observing(zred, _psf_widths(content, order, instrument, n), _flux_over_noise(flux, noise, observed))
    conditions = observing_columns(u, instrument)
    low, high = instrument.zred
    bad_rows = ~torch.isfinite(conditions).all(dim=1) | (zred < low) | (zred > high)
    if bad_rows.any():
        row = int(bad_rows.nonzero()[0])
        raise DataError(
            f"{path}: row {row} must have a redshift between {low} and {high} and the width of the PSF "
            f"in every band "
            f"that was observed, got {float(zred[row]):g} and {u.fwhm[row].tolist()}."
        )
    theta = torch.full((n, len(THETA)), torch.nan)
    for i, name in enumerate(THETA):
        if name in content:
            theta[:, i] = torch.as_tensor(np.asarray(content[name], np.float32))
    names = [
        name.decode() if isinstance(name, bytes) else str(name)
        for name in np.asarray(content.get("object_id", np.arange(n)))
    ]
    stamps = Stamps(np.asarray(names), image, torch.nan_to_num(noise, nan=1.0), observed, u)
    return SurveyImages(stamps, theta)


def _flux_over_noise(flux: Tensor, noise: Tensor, observed: Tensor) -> Float[Tensor, "image band"]:
    """Flux over noise, at least 1 (noise can make a flux negative); zero without observed pixels."""
    seen = observed.flatten(2).any(dim=2)
    return torch.where(seen, (flux / noise).clamp(min=1.0), 0.0)


def _first_of(content: Mapping[str, np.ndarray], names: Sequence[str]) -> Float[Tensor, " image"] | None:
    for name in names:
        if name in content:
            return torch.as_tensor(np.asarray(content[name], np.float32))
    return None


def _psf_widths(
    content: Mapping[str, np.ndarray], order: list[int], instrument: Instrument, n: int
) -> Tensor:
    if "image_psf_fwhm" in content:
        return torch.as_tensor(np.asarray(content["image_psf_fwhm"], np.float32))[:, order]
    return torch.tensor(instrument.psf_fwhm).mean(dim=1).expand(n, -1)


def _band_order(bands: list[str], instrument: Instrument, path: Path) -> list[int]:
    """Positions of the instrument's bands; ``sdss_g0`` matches itself, ``SDSS-G`` and ``g``."""

    def plain(name: str) -> str:
        return name.lower().replace("-", "_").rstrip("0").split("_")[-1]

    known = [plain(name) for name in bands]
    order = []
    for band in instrument.bands:
        if band in bands:
            order.append(bands.index(band))
        elif known.count(plain(band)) == 1:
            order.append(known.index(plain(band)))
        else:
            raise DataError(f"{path} has no band {band!r} of {instrument.name}; it has {', '.join(bands)}.")
    return order


def _cropped(image: Tensor, instrument: Instrument, path: Path) -> Tensor:
    """Middle of the images."""
    side, n = image.shape[-1], instrument.n_pixel
    if image.ndim != 4 or image.shape[-2] != side or side < n:
        raise DataError(
            f"{path} must hold square images of at least {n} pixels for {instrument.name}, got "
            f"{tuple(image.shape)}."
        )
    first = (side - n) // 2
    return image[..., first : first + n, first : first + n]
