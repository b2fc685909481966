"""NumPyro's gradient-free ensemble samplers, galaxy by galaxy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.infer import AIES, ESS, MCMC

from hbm.config import ModelConfig
from hbm.coordinates import build_posterior
from hbm.galaxies import take_galaxy
from hbm.model import GalaxyData
from hbm.sampler import Draws, Progress, SamplerConfig
from hbm.terms import Term

_KERNELS = {"aies": AIES, "ess": ESS}

_WARMUP = 3
"""Ensembles need this many times the warm-up of NUTS."""

_LONGER = 3
"""A longer run has this many times the steps."""


class EnsembleSampler:
    """Affine-invariant ensemble (``aies``) or ensemble slice sampling (``ess``).

    The ensemble has three walkers for each dimension. Walkers are reported as chains; they are not
    independent, so R-hat between them is a weaker test than between chains of NUTS.
    """

    def __init__(
        self,
        config: ModelConfig,
        sampler: SamplerConfig,
        example: GalaxyData,
        method: str,
        terms: tuple[Term, ...] = (),
    ) -> None:
        self.sampler, self._kernel = sampler, _KERNELS[method]
        self.posterior = build_posterior(config, example, terms)

    def run(
        self, data: GalaxyData, keys: Array, progress: Progress | None = None, *, longer: bool = False
    ) -> Draws:
        """Sample stacked galaxies; arguments as for `hbm.sampler.NutsSampler.run`.

        ``longer`` means three times the steps.
        """
        factor = _LONGER if longer else 1
        n_galaxy = int(np.shape(data.flux)[0])
        runs = []
        for index in range(n_galaxy):
            runs.append(self._one(take_galaxy(data, index), keys[index], factor))
            if progress is not None:
                progress(index + 1, n_galaxy)
        sites = {name: np.stack([one[0][name] for one in runs]) for name in runs[0][0]}
        potential = np.stack([one[1] for one in runs])
        return Draws(
            sites,
            potential,
            np.zeros(potential.shape, bool),
            np.ones(potential.shape, np.float32),
            np.ones(potential.shape, np.int32),
            np.zeros(potential.shape, np.int32),
            np.ones(n_galaxy),
        )

    def _one(self, galaxy: GalaxyData, key: Array, factor: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        n_walker = 2 * ((3 * self.posterior.dim) // 2)

        def potential(vector: Array) -> Array:
            return self.posterior.potential(vector, galaxy)

        key_start, key_run = jax.random.split(key)
        draws = jax.random.normal(key_start, (64 * n_walker, self.posterior.dim))
        energy = jax.jit(jax.vmap(potential))(draws)
        start = draws[jnp.argsort(energy)[:n_walker]]
        mcmc: Any = MCMC(
            self._kernel(potential_fn=potential),
            num_warmup=factor * _WARMUP * self.sampler.n_warmup,
            num_samples=factor * self.sampler.n_draw,
            num_chains=n_walker,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(key_run, init_params=start)
        vectors = mcmc.get_samples(group_by_chain=True)
        sites = jax.jit(jax.vmap(jax.vmap(lambda vector: self.posterior.constrain(vector, galaxy))))(vectors)
        values = jax.jit(jax.vmap(jax.vmap(potential)))(vectors)
        return {name: np.asarray(value) for name, value in sites.items()}, np.asarray(values)
