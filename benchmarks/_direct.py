"""The posterior of one galaxy by direct evaluation, to check chains against.

Parameters are standard normals v: x = Q(Phi(v)), Q the quantile functions of the plain statement of the
model, so the target is phi(v) times the likelihood, written down again here. Nothing of `hbm.coordinates`,
`hbm.pilot` or `hbm.sampler` is used. Two samplers that know nothing of chains: nautilus, and importance
sampling from a mixture of Gaussians (scikit-learn) fitted to points from elsewhere, whose effective sample
size and evidence tell how good it is.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from numpyro import handlers
from scipy.special import logsumexp, ndtri
from scipy.stats import multivariate_normal, norm
from sklearn.mixture import GaussianMixture

from hbm.distributions import NormalReparam
from hbm.model import GalaxyData, derived_quantities, galaxy_model, parameters_from_sites

_BLOCK = 2048
_N_COMPONENT = 12
_WIDER = 1.5
"""Half of the points come from the mixture with its standard deviations this much larger."""


class Weighted(NamedTuple):
    """Weighted points of a posterior."""

    normals: Float[np.ndarray, "point dim"]
    log_weight: Float[np.ndarray, " point"]
    log_evidence: float
    seconds: float
    n_call: int

    @property
    def weight(self) -> Float[np.ndarray, " point"]:
        """Weights that sum to one."""
        raw = np.exp(self.log_weight - self.log_weight.max())
        return raw / raw.sum()

    @property
    def n_eff(self) -> float:
        """Effective sample size (Kish)."""
        return float(1 / np.sum(self.weight**2))


class DirectPosterior:
    """Prior and likelihood of one galaxy with measured bands and no upper limits.

    Parameters
    ----------
    galaxy
        Its data.
    config
        The model; its error floor must be a number.

    Raises
    ------
    ValueError
        If there are upper limits, a free redshift or parameters of calibration.
    """

    def __init__(self, galaxy: GalaxyData, config: Any) -> None:
        if np.any(galaxy.upper_limit) or galaxy.zgrid is not None:
            raise ValueError("`galaxy` must have no upper limits and a fixed redshift, got one that has.")
        if config.outliers or config.zero_point_sigma > 0 or isinstance(config.error_floor, str):
            raise ValueError(
                "`config` must have a fixed error floor, no outliers and no zero points, got "
                f"{config.error_floor}, {config.outliers}, {config.zero_point_sigma}."
            )
        self.galaxy, self.config, self.floor = galaxy, config, float(config.error_floor)
        self._sites, self.dim = self._transform()
        self.use = np.flatnonzero(np.asarray(galaxy.observed))
        self._evaluate = jax.jit(jax.vmap(self._one))
        self._all = jax.jit(lambda vectors: jax.lax.map(self._quantities, vectors))
        self._back = jax.jit(jax.vmap(self._normals_of))

    def sites(self, vector: Any) -> dict[str, jax.Array]:
        """Sites of the model for standard normals (dim,)."""
        return self._sites(jnp.asarray(vector, jnp.float32))

    def loglike_of_flux(self, model: Float[np.ndarray, " band"]) -> float:
        """Log likelihood of model fluxes (maggies) of all bands."""
        flux, err = (np.asarray(a, np.float64)[self.use] for a in (self.galaxy.flux, self.galaxy.flux_err))
        variance = err**2 + (self.floor * model[self.use]) ** 2
        return float(np.sum(norm.logpdf(flux, model[self.use], np.sqrt(variance))))

    def loglike(self, normals: Float[np.ndarray, "point dim"]) -> Float[np.ndarray, " point"]:
        """Log likelihood with the compiled fluxes, in blocks of one compiled program."""
        n = len(normals)
        padded = np.zeros((-(-n // _BLOCK) * _BLOCK, self.dim), np.float32)
        padded[:n] = normals
        parts = [self._evaluate(padded[i : i + _BLOCK]) for i in range(0, len(padded), _BLOCK)]
        return np.concatenate([np.asarray(part, np.float64) for part in parts])[:n]

    def quantities(self, normals: Float[np.ndarray, "point dim"]) -> dict[str, np.ndarray]:
        """Sites and derived quantities."""
        values = self._all(jnp.asarray(normals, jnp.float32))
        return {name: np.asarray(value, np.float64) for name, value in values.items()}

    def normals(self, sites: dict[str, np.ndarray]) -> Float[np.ndarray, "point dim"]:
        """Standard normals of given parameters."""
        return np.asarray(self._back({name: jnp.asarray(v) for name, v in sites.items()}), np.float64)

    def nautilus(self, n_live: int, n_eff: int, seed: int) -> Weighted:
        """Nested sampling with nautilus (Lange 2023, MNRAS 525, 3181)."""
        from nautilus import Sampler

        start = time.perf_counter()
        sampler = Sampler(
            lambda cube: cube,
            lambda cube: self.loglike(_normal(cube)),
            n_dim=self.dim,
            n_live=n_live,
            n_networks=1,
            n_batch=256,
            vectorized=True,
            pass_dict=False,
            seed=seed,
        )
        sampler.run(n_eff=n_eff)
        points, log_weight, _ = sampler.posterior()
        seconds = time.perf_counter() - start
        return Weighted(_normal(points), log_weight, float(sampler.log_z), seconds, int(sampler.n_like))

    def importance(self, points: Float[np.ndarray, "point dim"], n: int, seed: int) -> Weighted:
        """Importance sampling from a mixture fitted to points."""
        start = time.perf_counter()
        mixture = GaussianMixture(_N_COMPONENT, reg_covar=1e-6, random_state=seed).fit(points)
        rng = np.random.default_rng(seed)
        component = rng.choice(_N_COMPONENT, size=n, p=mixture.weights_)
        wider = np.where(np.arange(n) % 2 == 0, 1.0, _WIDER)
        factor = np.linalg.cholesky(mixture.covariances_)[component]
        step = np.einsum("nij,nj->ni", factor, rng.normal(size=(n, self.dim)))
        normals = mixture.means_[component] + wider[:, None] * step
        densities = [
            np.log(0.5 * w) + multivariate_normal(m, c * scale**2).logpdf(normals)
            for scale in (1.0, _WIDER)
            for w, m, c in zip(mixture.weights_, mixture.means_, mixture.covariances_, strict=True)
        ]
        target = self.loglike(normals) + np.sum(norm.logpdf(normals), axis=1)
        log_weight = np.where(np.isfinite(target), target, -np.inf) - logsumexp(densities, axis=0)
        evidence = float(logsumexp(log_weight) - np.log(n))
        return Weighted(normals, log_weight, evidence, time.perf_counter() - start, n)

    def _one(self, vector: Any) -> jax.Array:
        sites = self._sites(vector)
        model = self.galaxy.model_flux(
            parameters_from_sites(sites, self.config), jnp.asarray(self.galaxy.zred)
        )
        # In units of each error: maggies squared have no place in single precision.
        err = jnp.asarray(self.galaxy.flux_err)[self.use]
        scaled = model[self.use] / err
        variance = 1.0 + (self.floor * scaled) ** 2
        offset = jnp.asarray(self.galaxy.flux)[self.use] / err - scaled
        return -0.5 * jnp.sum(offset**2 / variance + jnp.log(2 * jnp.pi * variance)) - jnp.sum(jnp.log(err))

    def _quantities(self, vector: Any) -> dict[str, jax.Array]:
        sites = self._sites(vector)
        return sites | derived_quantities(sites, self.galaxy, self.config)

    def _normals_of(self, sites: dict[str, jax.Array]) -> jax.Array:
        seeded = handlers.seed(handlers.substitute(galaxy_model, data=sites), jax.random.key(0))
        trace: dict[str, Any] = handlers.trace(seeded).get_trace(self.galaxy, self.config, use_data=False)
        found = {}
        for name in sites:
            fn = trace[name]["fn"]
            while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
                fn = fn.base_dist
            quantile = jnp.clip(fn.cdf(sites[name]), 1e-7, 1 - 1e-7)
            found[f"{name}_base"] = jax.scipy.stats.norm.ppf(quantile)
        return ravel_pytree(found)[0]

    def _transform(self) -> tuple[Callable[[Any], dict[str, jax.Array]], int]:
        def through_normal(site: dict[str, Any]) -> NormalReparam | None:
            return None if site["name"].endswith("_base") else NormalReparam(source=None)

        plain = handlers.reparam(galaxy_model, config=through_normal)
        model = handlers.seed(plain, jax.random.key(0))

        def trace(normals: dict[str, jax.Array]) -> dict[str, Any]:
            sites: dict[str, Any] = handlers.trace(handlers.substitute(model, data=normals)).get_trace(
                self.galaxy, self.config, use_data=False
            )
            return sites

        latent = {name: site["value"] for name, site in trace({}).items() if name.endswith("_base")}
        flat, unravel = ravel_pytree(latent)

        def sites_of(vector: Any) -> dict[str, jax.Array]:
            sites = trace(unravel(vector))
            return {
                name: jnp.asarray(site["value"]) for name, site in sites.items() if not name.endswith("_base")
            }

        return sites_of, int(flat.shape[0])


def _normal(cube: Float[np.ndarray, "point dim"]) -> Float[np.ndarray, "point dim"]:
    return np.asarray(ndtri(np.clip(cube, 1e-12, 1 - 1e-12)))
