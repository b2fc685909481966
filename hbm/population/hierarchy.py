r"""The density of everything that is unknown in a survey: galaxies, calibration and hyperparameters.

.. math:: U = -\ln p(\eta) - \ln p(c) + \sum_i \left[ U_i(z_i; c)
          - \ln p(\theta_i | \eta) + \ln p_0(\theta_i) \right] + N \ln P(\mathrm{det} | \eta)

with U_i the potential of galaxy i under the interim prior p_0 (all Jacobians in it), theta_i the properties
that the population describes, and c the shared calibration. It is the density of which reweighting
(`hbm.population.reweight`) integrates out the galaxies by their stored draws.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hbm.mixture import Mixture
from hbm.population.draws import interim_log_prob
from hbm.population.relations import Hyper, Population
from hbm.population.selection import Selection, least_effective
from hbm.population.survey import GalaxyPoint, Shared, Survey
from hbm.population.unknowns import Unknowns
from hbm.spread import Spread


class Drawn(NamedTuple):
    """What a vector of shared unknowns means."""

    hyper: Hyper
    """As `Population.sample` gives them."""
    calibration: Shared
    sites: dict[str, Array]
    """Values of all sampled sites."""
    log_prior: Float[Array, ""]
    """Of the vector, with the Jacobian, up to a constant."""


class Arrays(NamedTuple):
    """What programs work on, apart from their state; given as an argument, so that it is not compiled in."""

    data: Any
    mean: Float[Array, "galaxy dim"]
    chol: Float[Array, "galaxy dim dim"]
    proposal: Mixture
    selection: Selection | None
    reference: Float[Array, " galaxy"]
    """Subtracted from the potential of each galaxy: a large sum would cost digits."""


class Hierarchy:
    """Density of a survey's galaxies and their population.

    The hyperparameters and the calibration are one vector (`hbm.population.unknowns`).

    Parameters
    ----------
    survey, population, selection
        As for `hbm.population.fit_population`.
    seed
        Of the draws that measure the spread of the hyperpriors.
    """

    def __init__(
        self, survey: Survey, population: Population, selection: Selection | None = None, seed: int = 0
    ) -> None:
        self.survey, self.population = survey, population

        self._unknowns = Unknowns(self._statements, seed)
        self.n_shared = self._unknowns.n
        start = self.drawn(jnp.zeros(self.n_shared))
        zero = jnp.zeros(len(survey.id))
        self._least = 0.0
        if selection is not None:
            vectors = jnp.concatenate(
                [
                    jnp.zeros((1, self.n_shared)),
                    0.3 * jax.random.normal(jax.random.key(seed), (4, self.n_shared)),
                ]
            )
            usual = jax.jit(
                lambda x: jax.lax.map(lambda v: selection.effective(population, self.drawn(v).hyper), x)
            )
            self._least = float(least_effective(len(survey.id), usual(vectors)))
        arrays = Arrays(survey.data, survey.mean, survey.chol, survey.proposal, selection, zero)
        point: GalaxyPoint = jax.jit(self._at)(survey.start[:, 0], start.calibration, arrays)
        finite = jnp.isfinite(point.potential)
        self.arrays = arrays._replace(reference=jnp.where(finite, point.potential, 0.0))

    def spread_arrays(self, spread: Spread) -> Arrays:
        """`arrays`, divided over devices."""
        arrays = self.arrays
        data, selection = spread.arrays(arrays.data, self.survey.axes), spread.draws(arrays.selection)
        plain = arrays._replace(data=None, selection=None)
        placed: Arrays = spread.arrays(plain)._replace(data=data, selection=selection)
        return placed

    def _statements(self) -> tuple[Hyper, Shared]:
        return self.population.sample(), self.survey.sample_calibration()

    def _at(self, w: Float[Array, "galaxy dim"], calibration: Shared, arrays: Arrays) -> GalaxyPoint:
        """All galaxies at once."""
        z = arrays.mean + jnp.einsum("gij,gj->gi", arrays.chol, w, precision="highest")
        by_galaxy = jax.vmap(self.survey.evaluate, in_axes=(0, self.survey.axes, None))
        point: GalaxyPoint = by_galaxy(z, arrays.data, calibration)
        return point

    def drawn(self, shared: Float[Array, " shared"]) -> Drawn:
        """Values and log prior of a vector of hyperparameters and calibration."""
        (hyper, calibration), values, log_prior = self._unknowns.drawn(shared)
        return Drawn(hyper, calibration, values, log_prior)

    def shared_of(self, values: dict[str, Any]) -> Float[Array, " shared"]:
        """Vector of given values of all sampled sites, the inverse of `drawn`."""
        return self._unknowns.vector_of(values)

    def relative(self, properties: dict[str, Array], hyper: Hyper) -> Float[Array, "..."]:
        """Ln p(theta | eta) - ln p_0(theta) of the properties that the population describes."""
        prior, names = self.survey.draws.prior, self.population.properties
        return self.population.log_prob(properties, hyper) - interim_log_prob(properties, prior, names)

    def galaxies(
        self, w: Float[Array, "galaxy dim"], drawn: Drawn, arrays: Arrays
    ) -> tuple[Float[Array, " galaxy"], GalaxyPoint]:
        """Minus log density of each galaxy's coordinates given all that is shared; infinite if impossible."""
        point = self._at(w, drawn.calibration, arrays)
        energy = point.potential - arrays.reference - self.relative(point.properties, drawn.hyper)
        return jnp.where(jnp.isfinite(energy), energy, jnp.inf), point

    def population_energy(self, drawn: Drawn, arrays: Arrays) -> Float[Array, ""]:
        """The terms without galaxies: priors and selection."""
        energy = -drawn.log_prior
        if arrays.selection is not None:
            detected = arrays.selection.log_detected(self.population, drawn.hyper, self._least)
            energy = energy + len(self.survey.id) * detected
        return energy

    def potential(
        self, shared: Float[Array, " shared"], w: Float[Array, "galaxy dim"], arrays: Arrays
    ) -> Float[Array, ""]:
        """U of everything."""
        drawn = self.drawn(shared)
        each, _ = self.galaxies(w, drawn, arrays)
        total = self.population_energy(drawn, arrays) + jnp.sum(each)
        return jnp.where(jnp.isfinite(total), total, jnp.inf)

    def calibrated(self, point: GalaxyPoint, calibration: Shared, arrays: Arrays) -> Float[Array, " galaxy"]:
        """The part of each galaxy's log-likelihood that depends on the shared calibration."""
        if not calibration:
            return jnp.zeros(len(self.survey.id))
        survey = self.survey
        by_galaxy = jax.vmap(survey.calibrated, in_axes=(0, survey.axes, None))
        found: Array = by_galaxy(point.flux, arrays.data, calibration)
        return found

    def potential_given(
        self,
        shared: Float[Array, " shared"],
        point: GalaxyPoint,
        arrays: Arrays,
        before: Float[Array, " galaxy"],
    ) -> Float[Array, ""]:
        """U as a function of what is shared, at fixed galaxies, up to a constant: no fluxes are computed.

        ``before`` is `calibrated` somewhere near, subtracted: a large sum would cost digits.
        """
        drawn = self.drawn(shared)
        each = -self.relative(point.properties, drawn.hyper)
        if drawn.calibration:
            each = each - (self.calibrated(point, drawn.calibration, arrays) - before)
        total = self.population_energy(drawn, arrays) + jnp.sum(each)
        return jnp.where(jnp.isfinite(total), total, jnp.inf)

    def jump(
        self,
        key: Array,
        w: Float[Array, "galaxy dim"],
        shared: Float[Array, " shared"],
        arrays: Arrays,
        n: int,
    ) -> tuple[Float[Array, "galaxy dim"], Float[Array, " galaxy"]]:
        """Independence Metropolis-Hastings of each galaxy given all that is shared (Tierney 1994).

        Proposals are the mixtures of the survey; given what is shared, galaxies are independent, so that each
        is accepted for itself.

        Returns
        -------
        coordinates, part of the ``n`` proposals that each galaxy took
        """
        if n == 0:
            return w, jnp.zeros(w.shape[0])
        drawn, proposal = self.drawn(shared), arrays.proposal
        log_q: Callable[[Mixture, Array], Array] = jax.vmap(lambda q, x: q.log_prob(x[None])[0])

        def ratio_at(x: Array) -> Array:
            return -self.galaxies(x, drawn, arrays)[0] - log_q(proposal, x)

        def one(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Array]:
            here, ratio = carry
            key_draw, key_accept = jax.random.split(key)
            keys = jax.random.split(key_draw, here.shape[0])
            new = jax.vmap(lambda mixture, k: mixture.sample(k, 1)[0])(proposal, keys)
            ratio_new = ratio_at(new)
            threshold = jnp.log(jax.random.uniform(key_accept, ratio.shape, minval=1e-30))
            accept = threshold < ratio_new - ratio
            return (jnp.where(accept[:, None], new, here), jnp.where(accept, ratio_new, ratio)), accept

        (w, _), accepted = jax.lax.scan(one, (w, ratio_at(w)), jax.random.split(key, n))
        return w, jnp.mean(accepted, axis=0)

    def start(self, n_chain: int, seed: int) -> tuple[Array, Array]:
        """Where chains start: draws about the middle of the hyperpriors, galaxies from their stored draws.

        Returns
        -------
        shared (chain, shared), w (chain, galaxy, dim)

        Raises
        ------
        ValueError
            If the hyperprior excludes a galaxy: none of its draws has any density in its middle.
        """
        survey = self.survey
        key_shared, key_galaxies = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
        shared = 0.3 * jax.random.normal(key_shared, (n_chain, self.n_shared))

        def log_weight(one: Array) -> Array:
            return self.relative(survey.draws.properties, self.drawn(one).hyper)

        weight = jax.jit(jax.vmap(log_weight))(shared)
        refuse_excluded(np.asarray(jnp.min(weight, axis=0)), survey.id)
        weight = jnp.where(jnp.isfinite(weight), weight, -jnp.inf)
        pick = jax.random.categorical(key_galaxies, weight, axis=-1)
        w = jax.vmap(lambda rows: survey.start[jnp.arange(len(survey.id)), rows])(pick)
        return shared, w


def refuse_excluded(log_weight: Float[np.ndarray, "galaxy draw"], names: tuple[str, ...]) -> None:
    """Raise ValueError if no draw of a galaxy has any density under the population."""
    lost = ~np.isfinite(log_weight).any(axis=1)
    if lost.any():
        some = ", ".join(np.asarray(names)[lost][:5])
        raise ValueError(
            f"`population` must give every galaxy some density, but {int(lost.sum())} have none ({some}): "
            "their properties are outside of the relations' ranges. Widen these, or leave the galaxies out."
        )
