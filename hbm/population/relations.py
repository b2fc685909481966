r"""The distribution of galaxies' properties, one relation per property.

.. math:: p(\theta | \eta) = p(\log M)\, p(\mathrm{sSFR} | M)\, p(Z | M)\, p(\tau | M, \mathrm{sSFR})\,
          p(U | \mathrm{sSFR})

A relation samples its hyperparameters and gives the density of its property at fixed other ones, over the
range that the interim prior covers, where it is normalised. Leave relations out, or put your own in:
properties without one keep their interim prior.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from hbm.config import InterimPrior
from hbm.population import truncated
from hbm.relations import mass_metallicity, star_forming_sequence

Galaxies = Mapping[str, Array]
"""``logmass``, ``logssfr``, ``logzsol``, ``dust2``, ``gas_logu`` and ``age_universe`` in Gyr."""

Hyper = Mapping[str, Any]
"""Hyperparameters by name."""

_PIVOT_MASS, _PIVOT_SSFR = 10.5, -10.0
_N_GRID = 400


def with_published(galaxies: Galaxies) -> dict[str, Array]:
    """Galaxies with the published relations at their properties.

    These do not depend on hyperparameters: with them in place, samplers need not compute them at each step.
    """
    mass = galaxies["logmass"]
    return dict(galaxies) | {
        "sequence": star_forming_sequence(mass, galaxies["age_universe"]),
        "metallicity": mass_metallicity(mass),
    }


@runtime_checkable
class Relation(Protocol):
    """The distribution of one property given others."""

    property: ClassVar[str]
    """Which of the properties it is the distribution of."""

    def sample(self) -> dict[str, Array]:
        """Hyperparameters, by `numpyro.sample` statements: their hyperpriors."""
        ...

    def log_prob(self, galaxies: Galaxies, hyper: Hyper) -> Float[Array, "..."]:
        """Log density of the property at the galaxies' other properties, per unit of the property."""
        ...

    def draw(self, key: Array, galaxies: Galaxies, hyper: Hyper) -> Float[Array, "..."]:
        """Draw the property, given those of relations before this one."""
        ...


class _MassFunction(ABC):
    """A density of log mass that is known up to a factor, normalised on a grid."""

    property: ClassVar[str] = "logmass"
    low: float
    high: float

    @abstractmethod
    def _raw(self, logmass: Array, hyper: Hyper) -> Array:
        """Log density, up to a constant."""

    def log_prob(self, galaxies: Galaxies, hyper: Hyper) -> Float[Array, "..."]:
        """Per dex; -inf beyond the ends."""
        mass = galaxies["logmass"]
        grid = jnp.linspace(self.low, self.high, _N_GRID)
        step = (self.high - self.low) / (_N_GRID - 1)
        weight = jnp.full(_N_GRID, step).at[jnp.array([0, -1])].mul(0.5)  # trapezoidal rule
        total = logsumexp(self._raw(grid, hyper) + jnp.log(weight))
        inside = (mass >= self.low) & (mass <= self.high)
        return jnp.where(inside, self._raw(jnp.clip(mass, self.low, self.high), hyper) - total, -jnp.inf)

    def draw(self, key: Array, galaxies: Galaxies, hyper: Hyper) -> Float[Array, "..."]:
        """By its distribution function on a grid."""
        grid = jnp.linspace(self.low, self.high, _N_GRID)
        density = jax.nn.softmax(self._raw(grid, hyper))
        total = jnp.concatenate([jnp.zeros(1), jnp.cumsum(0.5 * (density[1:] + density[:-1]))])
        place = jax.random.uniform(key, jnp.shape(galaxies["age_universe"]))
        return jnp.interp(place, total / total[-1], grid)


class _Normal(NamedTuple):
    """A truncated normal; its centre may be far outside of its ends."""

    centre: Array
    width: Array
    low: float
    high: float

    def log_prob(self, value: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log density, -inf beyond the ends."""
        x = jnp.clip(value, self.low, self.high)
        return jnp.where(value == x, truncated.log_density(x, *self), -jnp.inf)

    def sample(self, key: Array) -> Float[Array, "..."]:
        """Draw one for each centre."""
        return truncated.draw(key, *self)


class _TruncatedRelation(ABC):
    """A property that is normal, truncated, at fixed other ones."""

    property: ClassVar[str]

    @abstractmethod
    def _normal(self, galaxies: Galaxies, hyper: Hyper) -> _Normal:
        """Its distribution."""

    def log_prob(self, galaxies: Galaxies, hyper: Hyper) -> Float[Array, "..."]:
        """Per unit of the property; -inf beyond the ends."""
        return self._normal(galaxies, hyper).log_prob(galaxies[self.property])

    def draw(self, key: Array, galaxies: Galaxies, hyper: Hyper) -> Float[Array, "..."]:
        """Draw it."""
        return self._normal(galaxies, hyper).sample(key)


@dataclass(frozen=True)
class Schechter(_MassFunction):
    r"""Mass function of Schechter (1976), :math:`p \propto 10^{(\alpha+1)(m - m^*)} e^{-10^{m - m^*}}`.

    Hyperpriors about Baldry et al. (2012, MNRAS 421, 621: log M* = 10.66 of surviving mass, some 0.2 dex more
    of mass formed), and wide enough for either of their two slopes.
    """

    low: float = 8.5
    """Least log10 mass formed."""
    high: float = 12.0
    """Largest."""

    def sample(self) -> dict[str, Array]:
        """``log_mstar``, ``alpha``."""
        return {
            "log_mstar": numpyro.sample("log_mstar", dist.Normal(10.9, 0.4)),
            "alpha": numpyro.sample("alpha", dist.Normal(-1.2, 0.5)),
        }

    def _raw(self, logmass: Array, hyper: Hyper) -> Array:
        x = logmass - hyper["log_mstar"]
        return jnp.asarray((hyper["alpha"] + 1) * np.log(10.0) * x - 10.0**x)


@dataclass(frozen=True)
class SplineMassFunction(_MassFunction):
    """Mass function whose logarithm is linear between knots; its bends are normal with a free scale."""

    low: float = 8.5
    high: float = 12.0
    n_knot: int = 8

    def sample(self) -> dict[str, Array]:
        """``mass_slope``, ``mass_bend`` (standard normals) and ``mass_roughness``, the scale of the bends."""
        roughness = numpyro.sample("mass_roughness", dist.HalfNormal(1.5))
        bend = numpyro.sample("mass_bend", dist.Normal(0.0, 1.0).expand([self.n_knot - 2]).to_event(1))
        return {
            "mass_slope": numpyro.sample("mass_slope", dist.Normal(0.0, 2.0)),
            "mass_bend": bend,
            "mass_roughness": roughness,
        }

    def _raw(self, logmass: Array, hyper: Hyper) -> Array:
        slopes = hyper["mass_slope"] + jnp.concatenate(
            [jnp.zeros(1), jnp.cumsum(hyper["mass_roughness"] * hyper["mass_bend"])]
        )
        knots = jnp.linspace(self.low, self.high, self.n_knot)
        heights = jnp.concatenate([jnp.zeros(1), jnp.cumsum(slopes)])
        return jnp.interp(logmass, knots, heights)


@dataclass(frozen=True)
class StarFormingSequence:
    """Specific star formation rate: a sequence with scatter, and a quiescent part that grows with mass.

    The sequence is that of Speagle et al. (2014) with a free offset and tilt; the quiescent fraction is a
    logistic function of log mass, rising about log M = 10.5 to 11 (Peng et al. 2010, ApJ 721, 193).
    """

    low: float = -13.0
    high: float = -8.4
    property: ClassVar[str] = "logssfr"

    def sample(self) -> dict[str, Array]:
        """``sfs_offset``, ``sfs_tilt``, ``sfs_scatter``, ``quiescent_*``."""
        return {
            "sfs_offset": numpyro.sample("sfs_offset", dist.Normal(0.0, 0.3)),
            "sfs_tilt": numpyro.sample("sfs_tilt", dist.Normal(0.0, 0.2)),
            "sfs_scatter": numpyro.sample("sfs_scatter", dist.LogNormal(np.log(0.3), 0.4)),
            "quiescent_mass": numpyro.sample("quiescent_mass", dist.Normal(10.8, 0.5)),
            "quiescent_width": numpyro.sample("quiescent_width", dist.LogNormal(np.log(0.5), 0.5)),
            "quiescent_logssfr": numpyro.sample("quiescent_logssfr", dist.Normal(-11.8, 0.4)),
            "quiescent_scatter": numpyro.sample("quiescent_scatter", dist.LogNormal(np.log(0.5), 0.3)),
        }

    def _parts(self, galaxies: Galaxies, hyper: Hyper) -> tuple[Array, _Normal, _Normal]:
        mass = galaxies["logmass"]
        if "sequence" in galaxies:
            centre = galaxies["sequence"]
        else:
            centre = star_forming_sequence(mass, galaxies["age_universe"])
        centre = centre + hyper["sfs_offset"] + hyper["sfs_tilt"] * (mass - _PIVOT_MASS)
        logit = (mass - hyper["quiescent_mass"]) / hyper["quiescent_width"]
        forming = _Normal(centre, hyper["sfs_scatter"], self.low, self.high)
        quiescent = _Normal(hyper["quiescent_logssfr"], hyper["quiescent_scatter"], self.low, self.high)
        return logit, forming, quiescent

    def log_prob(self, galaxies: Galaxies, hyper: Hyper) -> Float[Array, "..."]:
        """Per dex; -inf beyond the ends."""
        logit, forming, quiescent = self._parts(galaxies, hyper)
        x = jnp.clip(galaxies["logssfr"], self.low, self.high)
        log_quiescent = jax.nn.log_sigmoid(logit)
        density = jnp.logaddexp(
            log_quiescent - logit + forming.log_prob(x), log_quiescent + quiescent.log_prob(x)
        )
        # Here and not in the parts: the slope of a sum of two that are -inf is not a number.
        return jnp.where(galaxies["logssfr"] == x, density, -jnp.inf)

    def draw(self, key: Array, galaxies: Galaxies, hyper: Hyper) -> Float[Array, "..."]:
        """A coin, then one of the two."""
        logit, forming, quiescent = self._parts(galaxies, hyper)
        key_coin, key_one, key_two = jax.random.split(key, 3)
        is_quiescent = jax.random.uniform(key_coin, jnp.shape(logit)) < jax.nn.sigmoid(logit)
        level = jnp.broadcast_to(quiescent.centre, jnp.shape(logit))
        return jnp.where(
            is_quiescent, quiescent._replace(centre=level).sample(key_one), forming.sample(key_two)
        )


@dataclass(frozen=True)
class MassMetallicity(_TruncatedRelation):
    """Stellar metallicity: the relation of Gallazzi et al. (2005) with a free offset, tilt and scatter."""

    low: float = -1.5
    high: float = 0.3
    property: ClassVar[str] = "logzsol"

    def sample(self) -> dict[str, Array]:
        """``mzr_offset``, ``mzr_tilt``, ``mzr_scatter``."""
        return {
            "mzr_offset": numpyro.sample("mzr_offset", dist.Normal(0.0, 0.3)),
            "mzr_tilt": numpyro.sample("mzr_tilt", dist.Normal(0.0, 0.3)),
            "mzr_scatter": numpyro.sample("mzr_scatter", dist.LogNormal(np.log(0.25), 0.5)),
        }

    def _normal(self, galaxies: Galaxies, hyper: Hyper) -> _Normal:
        mass = galaxies["logmass"]
        centre = galaxies["metallicity"] if "metallicity" in galaxies else mass_metallicity(mass)
        centre = centre + hyper["mzr_offset"] + hyper["mzr_tilt"] * (mass - _PIVOT_MASS)
        return _Normal(centre, hyper["mzr_scatter"], self.low, self.high)


@dataclass(frozen=True)
class DustRelation(_TruncatedRelation):
    """Diffuse optical depth: linear in log mass and log sSFR, truncated at zero; broad hyperpriors."""

    high: float = 2.5
    property: ClassVar[str] = "dust2"

    def sample(self) -> dict[str, Array]:
        """``dust_level``, ``dust_mass``, ``dust_ssfr``, ``dust_scatter``."""
        return {
            "dust_level": numpyro.sample("dust_level", dist.Normal(0.4, 0.5)),
            "dust_mass": numpyro.sample("dust_mass", dist.Normal(0.0, 0.5)),
            "dust_ssfr": numpyro.sample("dust_ssfr", dist.Normal(0.0, 0.5)),
            "dust_scatter": numpyro.sample("dust_scatter", dist.LogNormal(np.log(0.4), 0.5)),
        }

    def _normal(self, galaxies: Galaxies, hyper: Hyper) -> _Normal:
        centre = (
            hyper["dust_level"]
            + hyper["dust_mass"] * (galaxies["logmass"] - _PIVOT_MASS)
            + hyper["dust_ssfr"] * (galaxies["logssfr"] - _PIVOT_SSFR)
        )
        return _Normal(centre, hyper["dust_scatter"], 0.0, self.high)


@dataclass(frozen=True)
class IonizationRelation(_TruncatedRelation):
    """Ionization parameter: linear in log sSFR (Kaasinen et al. 2018, MNRAS 477, 5568); broad hyperpriors."""

    low: float = -4.0
    high: float = -1.0
    property: ClassVar[str] = "gas_logu"

    def sample(self) -> dict[str, Array]:
        """``logu_level``, ``logu_ssfr``, ``logu_scatter``."""
        return {
            "logu_level": numpyro.sample("logu_level", dist.Normal(-2.7, 0.5)),
            "logu_ssfr": numpyro.sample("logu_ssfr", dist.Normal(0.0, 0.5)),
            "logu_scatter": numpyro.sample("logu_scatter", dist.LogNormal(np.log(0.4), 0.5)),
        }

    def _normal(self, galaxies: Galaxies, hyper: Hyper) -> _Normal:
        centre = hyper["logu_level"] + hyper["logu_ssfr"] * (galaxies["logssfr"] - _PIVOT_SSFR)
        return _Normal(centre, hyper["logu_scatter"], self.low, self.high)


class Population:
    """Relations of some of the properties; the order is that in which mock galaxies are drawn.

    Raises
    ------
    ValueError
        If two relations describe the same property.
    """

    def __init__(self, relations: tuple[Relation, ...]) -> None:
        names = [relation.property for relation in relations]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"`relations` must describe each property once, and at least one, got {names}.")
        self.relations = relations

    @property
    def properties(self) -> tuple[str, ...]:
        """What the relations describe."""
        return tuple(relation.property for relation in self.relations)

    def sample(self) -> dict[str, Array]:
        """Sample all hyperparameters, inside a NumPyro model."""
        hyper: dict[str, Any] = {}
        for relation in self.relations:
            hyper |= relation.sample()
        return hyper

    def log_prob(self, galaxies: Galaxies, hyper: Hyper) -> Float[Array, "..."]:
        """Log density of the properties that the relations describe."""
        parts = [relation.log_prob(galaxies, hyper) for relation in self.relations]
        return sum(parts[1:], parts[0])

    def draw(self, key: Array, age_universe: Float[Array, " galaxy"], hyper: Hyper) -> dict[str, Array]:
        """Mock galaxies of the properties that the relations describe."""
        galaxies: dict[str, Array] = {"age_universe": jnp.asarray(age_universe)}
        for i, relation in enumerate(self.relations):
            galaxies[relation.property] = relation.draw(jax.random.fold_in(key, i), galaxies, hyper)
        return galaxies


def default_population(prior: InterimPrior) -> Population:
    """All five relations, over the ranges of an interim prior."""
    return Population(
        (
            Schechter(*prior.logmass),
            StarFormingSequence(*prior.logssfr),
            MassMetallicity(*prior.logzsol),
            DustRelation(prior.dust2[2]),
            IonizationRelation(*prior.gas_logu[2:]),
        )
    )
