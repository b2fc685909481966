"""Likelihoods besides the photometry: one small protocol, so that users add their own.

A term is a factor p(data | parameters) of a galaxy's posterior: a spectral index, a size, the image. It knows
its measurements of every galaxy by identifier, and evaluates those of one galaxy in JAX::

    class SpectralAge:
        name = "spectral_age"

        def __init__(self, age_gyr, error):
            self.age_gyr, self.error = age_gyr, error  # by identifier

        def galaxy(self, galaxy_id):
            known = galaxy_id in self.age_gyr
            return np.float32([self.age_gyr.get(galaxy_id, 0.0), known])

        def log_prob(self, state, data):
            age, known = data
            return known * jax.scipy.stats.norm.logpdf(age, state.mean_age, self.error)


    hbm.fit(catalog, terms=[SpectralAge({"23416": 4.2}, 0.5)])
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float

from sed.parameters import SEDParams


class GalaxyState(NamedTuple):
    """One galaxy's parameters, and what follows from them, at one point of parameter space."""

    params: SEDParams
    """Parameters of the SED."""
    zred: Float[Array, ""]
    """Redshift."""
    logssfr: Float[Array, ""]
    """log10 specific star formation rate over 100 Myr, 1/yr."""
    mean_age: Float[Array, ""]
    """Mass-weighted age, Gyr."""
    age_universe: Float[Array, ""]
    """At the redshift, Gyr."""


@runtime_checkable
class Term(Protocol):
    """A likelihood besides the photometry."""

    @property
    def name(self) -> str:
        """What the factor is called, different from other sites of the model."""
        ...

    def galaxy(self, galaxy_id: str) -> Any:
        """Measurements of one galaxy: arrays, or a pytree of arrays, of the same shapes for all galaxies.

        A galaxy that was not measured needs data too: make `log_prob` constant for it.
        """
        ...

    def log_prob(self, state: GalaxyState, data: Any) -> Float[Array, ""]:
        """Ln p(data | parameters) in nats, up to a constant; in JAX, differentiable, for one galaxy."""
        ...
