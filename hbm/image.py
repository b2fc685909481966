r"""The likelihood of a galaxy's image in JAX, from its compiled statistics: no torch, no network passes.

With the coefficients of a separable denoiser, c_k = A_k h(theta, u) (`generative.network`), the statistics of
all noise levels fold into one matrix and one vector per galaxy, exactly:

.. math:: \ln p(x | \theta, u) = const(x) - \sum_k w_k \left[c_k^T G_k c_k - 2 b_k^T c_k\right]
          = const(x) - h^T M h + 2 v^T h, \quad
          M = \sum_k w_k A_k^T G_k A_k, \; v = \sum_k w_k A_k^T b_k

so the small network h runs once per theta, whatever the number of noise levels. A ratio correction
(`generative.correction`) scales M and v and adds s . psi(theta, u), a dot product with R more numbers of the
image and a small network of its own.
"""

import hashlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from sed.cosmology import default_cosmology

_KEY, _VERSION = "galaxy-hbm", 1
_CHUNK = 256
"""Galaxies that are folded at a time: they need much more memory than the result."""

_FORMAT, _FILE_VERSION = "galaxy-hbm image statistics", 1


class ImageError(ValueError):
    """A checkpoint or file of statistics that cannot be used."""


class GalaxyImage(NamedTuple):
    """What the likelihood of one galaxy's image depends on; leading axes for several galaxies."""

    M: Float[Array | np.ndarray, "*galaxy feature feature"]
    v: Float[Array | np.ndarray, "*galaxy feature"]
    u: Float[Array | np.ndarray, "*galaxy column"]
    """Conditions of observation, on the network's scale."""
    age_gyr: Float[Array | np.ndarray, "*galaxy"]
    """Age of the universe at the galaxy's redshift, Gyr."""
    s: Float[Array | np.ndarray, "*galaxy number"]
    """Numbers of the ratio correction; none without one."""


class CompiledImages(NamedTuple):
    """Galaxies of a file of statistics."""

    id: Shaped[np.ndarray, " galaxy"]
    data: GalaxyImage
    error: Float[np.ndarray, " galaxy"]
    """Monte Carlo standard error of log-likelihood differences in the posterior, nats."""
    zred: Float[np.ndarray, " galaxy"]
    p_typical: Float[np.ndarray, " galaxy"]
    """How usual the image is for the model, a p-value; nan where that is not known."""
    hash: str = ""
    """SHA-256 of the checkpoint that they were compiled with; empty if that is not known."""


class PropertyCoverage(NamedTuple):
    """Part of the true values inside central posterior intervals."""

    name: str
    in_68: float
    in_95: float
    n: int
    """Simulations."""

    def is_overconfident(self) -> bool:
        """Whether an interval covers too little: by 0.05 (0.03 of 95 %) and three standard errors."""
        short = (0.68 - self.in_68, 0.95 - self.in_95)
        chance = (math.sqrt(0.68 * 0.32 / self.n), math.sqrt(0.95 * 0.05 / self.n))
        return any(s > max(least, 3 * c) for s, c, least in zip(short, chance, (0.05, 0.03), strict=True))


class ImageLikelihood(eqx.Module):
    """Small network and weights of an image model; make it with `load_image_likelihood`."""

    layers: tuple[tuple[Float[Array, "_ _"], Float[Array, " _"]], ...]
    """Weights and biases of h, with SiLU between."""
    mixing: Float[Array, "node basis feature"]
    """A_k."""
    weight: Float[Array, " node"]
    """w_k, in ln sigma, as refitted."""
    low: Float[Array, " theta"]
    """Properties that become -1."""
    high: Float[Array, " theta"]
    """Properties that become 1; the mean age counts as a fraction of the age of the universe."""
    names: tuple[str, ...] = eqx.field(static=True)
    """Properties, in the order of theta."""
    hash: str = eqx.field(static=True)
    """SHA-256 of the checkpoint."""
    calibration: tuple["PropertyCoverage", ...] = eqx.field(static=True, default=())
    """Coverage on held-out simulations; empty if it was not measured."""
    psi: tuple[tuple[Float[Array, "_ _"], Float[Array, " _"]], ...] = ()
    """Weights and biases of the ratio correction's network; empty without one."""
    scale: float = eqx.field(static=True, default=1.0)
    """Weight of the score model's likelihood beside the correction."""

    def scaled(self, theta: Float[Array, " theta"], age_gyr: Float[Array, ""]) -> Float[Array, " theta"]:
        """Properties on the scale (-1, 1) of training. Beyond it the likelihood is an extrapolation."""
        theta = jnp.asarray(theta)
        if "mwa" in self.names:
            i = self.names.index("mwa")
            theta = theta.at[i].set(theta[i] / age_gyr)
        return 2 * (theta - self.low) / (self.high - self.low) - 1

    def in_domain(self, theta: Float[Array, " theta"], galaxy: GalaxyImage) -> Bool[Array, ""]:
        """Whether training covered the properties: a prior must not reach beyond."""
        return jnp.all(jnp.abs(self.scaled(theta, jnp.asarray(galaxy.age_gyr))) <= 1)

    def feature(
        self, theta: Float[Array, " theta"], u: Float[Array, " column"], age_gyr: Float[Array, ""]
    ) -> Float[Array, " feature"]:
        """h(theta, u)."""
        return self._feature_scaled(self.scaled(theta, age_gyr), u)

    def _feature_scaled(
        self, scaled: Float[Array, " theta"], u: Float[Array, " column"]
    ) -> Float[Array, " feature"]:
        x = jnp.concatenate([scaled, jnp.ones_like(scaled), u, jnp.ones(1, scaled.dtype)])
        return _network(self.layers, x)

    def ratio_feature(
        self, scaled: Float[Array, " theta"], u: Float[Array, " column"]
    ) -> Float[Array, " number"]:
        """psi(theta, u) of the ratio correction, at scaled properties; no numbers without a correction."""
        if not self.psi:
            return jnp.zeros(0)
        return _network(self.psi, jnp.concatenate([scaled, u]))

    def log_prob(self, theta: Float[Array, " theta"], galaxy: GalaxyImage) -> Float[Array, ""]:
        """Ln p(image | theta, u) in nats, up to a constant of the image.

        Parameters
        ----------
        theta
            Properties in their units, in the order of ``names``; all must be known.
        galaxy
            Statistics of one galaxy.
        """
        return self.log_prob_scaled(self.scaled(theta, jnp.asarray(galaxy.age_gyr)), galaxy)

    def log_prob_scaled(self, scaled: Float[Array, " theta"], galaxy: GalaxyImage) -> Float[Array, ""]:
        """`log_prob` of properties on the scale of training (`scaled`)."""
        u = jnp.asarray(galaxy.u)
        h = self._feature_scaled(scaled, u)
        return h @ (2 * galaxy.v - galaxy.M @ h) + jnp.dot(self.ratio_feature(scaled, u), galaxy.s)

    def fold(
        self,
        G: Float[np.ndarray, "galaxy node packed"],
        b: Float[np.ndarray, "galaxy node basis"],
        u: Float[np.ndarray, "galaxy column"],
        zred: Float[np.ndarray, " galaxy"],
        numbers: Float[np.ndarray, "galaxy number"],
    ) -> GalaxyImage:
        """Statistics of galaxies (`generative.summarize`) as the likelihood uses them.

        Raises
        ------
        ImageError
            If there are no numbers for the likelihood's ratio correction.
        """
        if self.psi and numbers.shape[1] != len(self.psi[-1][1]):
            raise ImageError(
                f"`numbers` must have {len(self.psi[-1][1])} columns for the ratio correction, got "
                f"{numbers.shape[1]}."
            )
        n_basis = b.shape[-1]
        row, column = np.triu_indices(n_basis)
        A, w = (np.asarray(value, np.float64) for value in (self.mixing, self.weight))
        w = self.scale * w
        M = np.zeros((len(b), A.shape[2], A.shape[2]), np.float32)
        v = np.zeros((len(b), A.shape[2]), np.float32)
        for first in range(0, len(b), _CHUNK):
            rows = slice(first, first + _CHUNK)
            full = np.zeros((*b[rows].shape, n_basis))
            full[..., row, column] = G[rows]
            full[..., column, row] = G[rows]
            M[rows] = np.einsum("k,kif,gkij,kjh->gfh", w, A, full, A, optimize=True)
            v[rows] = np.einsum("k,kif,gki->gf", w, A, b[rows].astype(np.float64), optimize=True)
        age = np.asarray(default_cosmology().age(jnp.asarray(zred, jnp.float32)))
        s = np.asarray(numbers if self.psi else numbers[:, :0], np.float32)
        return GalaxyImage(M, v, np.asarray(u, np.float32), age.astype(np.float32), s)


def _network(layers: tuple[tuple[Array, Array], ...], x: Float[Array, " _"]) -> Float[Array, " _"]:
    """Linear layers with SiLU between."""
    for i, (matrix, bias) in enumerate(layers):
        x = matrix @ (jax.nn.silu(x) if i else x) + bias
    return x


def require_calibrated(likelihood: ImageLikelihood, *, insist: bool = False) -> None:
    """Refuse a likelihood whose intervals are too narrow, or were never tested.

    Parameters
    ----------
    likelihood
        That a fit is to use.
    insist
        Use it all the same.

    Raises
    ------
    ImageError
        If its coverage on held-out simulations was not measured or falls short; the message says where.
    """
    if insist:
        return
    if not likelihood.calibration:
        raise ImageError(
            "`likelihood` was never calibrated: nobody knows how true its intervals are. Train with "
            "`calibration_images`, or insist."
        )
    narrow = [c for c in likelihood.calibration if c.is_overconfident()]
    if narrow:
        parts = ", ".join(f"{c.name} {c.in_68:.0%} and {c.in_95:.0%}" for c in narrow)
        raise ImageError(
            f"`likelihood` is overconfident: its 68 % and 95 % intervals cover {parts} of "
            f"{narrow[0].n} held-out simulations. Refit it on more images, or insist."
        )


def shipped_model(name: str) -> Path | None:
    """File of an image model that comes with the package, found without loading torch."""
    spec = importlib.util.find_spec("generative")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "data" / f"{name}.safetensors"
    return path if path.is_file() else None


def load_image_likelihood(name: str | Path, *, correction: bool = True) -> ImageLikelihood:
    """Likelihood of a shipped model by its name, or of any separable checkpoint.

    Parameters
    ----------
    name
        Name or file.
    correction
        Whether the model's ratio correction, if it has one, counts. Without, it is the score model's own
        likelihood.

    Raises
    ------
    FileNotFoundError
        If there is no such model.
    ImageError
        If the file is not a checkpoint of a separable model with known properties.
    """
    from safetensors import SafetensorError, safe_open

    path = shipped_model(str(name)) or Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"no image model {str(name)!r}: it is neither a file nor a shipped one.")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {
                key: np.asarray(file.get_tensor(key), np.float32)
                for key in file.keys()  # noqa: SIM118 (not a dict)
                if key.startswith(("likelihood.", "correction.psi.", "correction.scale"))
                or key == "node_weight"
            }
    except (SafetensorError, OSError) as error:
        raise ImageError(f"{path} is truncated or not a safetensors file: {error}") from error
    header = json.loads(metadata.get(_KEY, "{}"))
    if header.get("version") != _VERSION or header.get("kind") != "model":
        raise ImageError(f"{path} is not an image model of this program's version {_VERSION}.")
    if "likelihood.mixing" not in tensors or not header.get("theta_range"):
        raise ImageError(f"{path} has no likelihood of properties: the model is not separable, or has none.")
    return _likelihood(path, header, tensors, correction=correction and "correction.scale" in tensors)


def _likelihood(
    path: Path, header: dict[str, Any], tensors: dict[str, np.ndarray], *, correction: bool
) -> ImageLikelihood:
    config = header["network"]
    n_node = len(tensors["node_weight"])
    start, stop = (math.log(value) for value in header["sigma_likelihood"])
    width = (stop - start) / n_node
    ln_sigma = start + width * (np.arange(n_node) + 0.5)
    low, high = (math.log(value) for value in config["sigma"])
    waves = np.cos(np.pi * np.arange(config["n_mix"]) * ((ln_sigma - low) / (high - low))[:, None])
    mixing = np.einsum("km,mjf->kjf", waves, tensors["likelihood.mixing"].astype(np.float64))

    def layers(prefix: str) -> tuple[tuple[Array, Array], ...]:
        return tuple(
            (jnp.asarray(tensors[f"{prefix}.{i}.weight"]), jnp.asarray(tensors[f"{prefix}.{i}.bias"]))
            for i in (0, 2, 4)
        )

    ranges = np.asarray(header["theta_range"], np.float32)
    return ImageLikelihood(
        layers=layers("likelihood.layers"),
        mixing=jnp.asarray(mixing / math.sqrt(config["n_basis"]), jnp.float32),
        weight=jnp.asarray(width * tensors["node_weight"], jnp.float32),
        low=jnp.asarray(ranges[:, 0]),
        high=jnp.asarray(ranges[:, 1]),
        names=tuple(header["theta_names"]),
        hash=hashlib.sha256(path.read_bytes()).hexdigest(),
        calibration=_coverage(header.get("calibration"), "corrected" if correction else "refitted"),
        psi=layers("correction.psi") if correction else (),
        scale=float(tensors["correction.scale"]) if correction else 1.0,
    )


def _coverage(calibration: dict[str, Any] | None, which: str) -> tuple[PropertyCoverage, ...]:
    found = (calibration or {}).get(which)
    if not found:
        return ()
    return tuple(
        PropertyCoverage(name, float(value), float(found["cover_95"][name]), int(found["n"]))
        for name, value in found["cover_68"].items()
    )


def model_of(path: str | Path) -> str:
    """Name of the image model that a file of statistics was made with.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it is not a file of statistics.
    """
    import h5py

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file of image statistics at {path}.")
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs["model"])
    except (OSError, KeyError) as error:
        raise ImageError(f"{path} is truncated or not a file of image statistics: {error}") from error


def read_compiled_images(path: str | Path, likelihood: ImageLikelihood) -> CompiledImages:
    """Galaxies of a file that `hbm compile` wrote, for the likelihood of the same checkpoint.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it is truncated, of another format or version, or was made with another checkpoint.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of image statistics at {path}.")
    try:
        with h5py.File(path, "r") as file:
            attrs = dict(file.attrs)
            names = ("id", "G", "b", "u", "zred", "error", "p_typical")
            content = {name: file[name][()] for name in names if name in file}
            numbers = file["numbers"][()] if "numbers" in file else None
    except OSError as error:
        raise ImageError(f"{path} is truncated or not an HDF5 file: {error}") from error
    if attrs.get("format") != _FORMAT or attrs.get("version") != _FILE_VERSION or len(content) < len(names):
        raise ImageError(f"{path} is not a file of image statistics of version {_FILE_VERSION}.")
    if attrs["model_hash"] != likelihood.hash:
        raise ImageError(
            f"{path} was compiled with another checkpoint ({attrs['model']}, {attrs['model_hash'][:12]}) "
            f"than this likelihood's ({likelihood.hash[:12]}). Compile the images again."
        )
    if numbers is None:
        numbers = np.zeros((len(content["id"]), 0), np.float32)
    data = likelihood.fold(content["G"], content["b"], content["u"], content["zred"], numbers)
    ids = np.asarray([name.decode() for name in content["id"]])
    return CompiledImages(ids, data, content["error"], content["zred"], content["p_typical"], likelihood.hash)
