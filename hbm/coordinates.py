r"""The posterior of one galaxy in coordinates that suit samplers.

Two changes of variables, both exact:

1. Every parameter but the mass is x = Q(Phi(v)), v standard normal, Q the quantile function of its prior
   at a rough mass of the galaxy (priors depend on mass), or of a normal in place of a heavy-tailed prior,
   whose Q would bend the likelihood. Directions without information are then close to standard normals.
   The density gains log phi(v) - log q(x), q the density that belongs to Q.
2. The mass follows the shape: with m(x) the model fluxes at that rough mass M0 and A(m) the factor
   that fits the data best, log10 M = B(log10 M0 + log10 A(m(x)) + c v_0). This is a shear, its Jacobian c
   times B', where B is the identity within the prior's range of mass and bends smoothly to its ends: a
   chain that ran against a wall would count as diverged. Without the shear the posterior is a narrow
   curved valley: the flux is known to a percent while the mass-to-light ratio changes by tens of percent
   along the shapes that fit.

The fluxes are linear in mass, so they are computed once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import norm
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.infer.util import log_density

from hbm.amplitude import best_amplitude
from hbm.config import ModelConfig
from hbm.distributions import NormalReparam, coordinate_distribution, normal_of
from hbm.model import Calibration, GalaxyData, computed_once, galaxy_model, parameters_from_sites
from hbm.terms import Term

_BEND = 30.0
"""Sharpness, per dex, of the bend at the ends of the range of mass."""

_FLOOR_FREE = 0.05


class Evaluation(NamedTuple):
    """One galaxy's posterior at one point."""

    potential: Float[Array, ""]
    """Minus log density of the vector, with the Jacobian, up to a constant."""
    sites: dict[str, Array]
    """Values of all sites, deterministic ones too."""
    flux: Float[Array, " band"]
    """Model flux, maggies, without zero points."""


class Posterior(NamedTuple):
    """The posterior of one galaxy as functions of a flat vector; everything may be vmapped."""

    potential: Callable[[Array, GalaxyData], Array]
    """Minus log density of the vector (dim,), with the Jacobian; a scalar, up to a constant."""
    constrain: Callable[[Array, GalaxyData], dict[str, Array]]
    """Values of all sites, deterministic ones too."""
    dim: int
    """Length of the vector."""
    sampled: tuple[str, ...]
    """Names of the sampled sites."""
    evaluate: Callable[[Array, GalaxyData, Calibration | None], Evaluation]
    """Potential, sites and fluxes at once, under a calibration that is not sampled here (None if it is)."""
    unconstrain: Callable[[dict[str, Array], GalaxyData], Array]
    """Vector of sites, the inverse of ``constrain``, to the digits of single precision."""


def build_posterior(
    config: ModelConfig, example: GalaxyData, terms: tuple[Term, ...] = (), *, shared: bool = False
) -> Posterior:
    """Posterior of `hbm.model.galaxy_model` for galaxies shaped like ``example``.

    With ``shared``, error floor, outliers and zero points are not sampled: ``evaluate`` takes them.
    """
    shape_model = handlers.reparam(galaxy_model, config=_through_normal)
    # The coordinates do not depend on the calibration: any value does where only they are traced.
    kept = {"calibration": Calibration()} if shared else {}

    def trace(data: GalaxyData, normals: dict[str, Array]) -> dict[str, Any]:
        fixed = {"logmass": jnp.asarray(data.logmass_guess), **normals}
        seeded = handlers.seed(handlers.substitute(shape_model, data=fixed), jax.random.key(0))
        sites: dict[str, Any] = handlers.trace(seeded).get_trace(data, config, use_data=False, **kept)
        return sites

    latent = {
        name: site["value"]
        for name, site in trace(example, {}).items()
        if site["type"] == "sample" and name.endswith("_base")
    }
    flat, unravel = ravel_pytree(latent)
    sampled = ("logmass", *(name.removesuffix("_base") for name in latent))

    def shape_of(normals: dict[str, Array], data: GalaxyData) -> dict[str, Array]:
        sites = trace(data, normals)
        return {name: site["value"] for name, site in sites.items() if not name.endswith("_base")}

    def at_rough_mass(
        normals: dict[str, Array], data: GalaxyData
    ) -> tuple[dict[str, Array], Float[Array, " band"], Float[Array, ""]]:
        """Sites, model flux, and log10 of the mass that fits best."""
        sites = shape_of(normals, data)
        params = computed_once(parameters_from_sites(sites, config))
        unit = data.model_flux(params, sites.get("zred", jnp.asarray(data.zred)))
        use = jnp.asarray(data.observed) & ~jnp.asarray(data.upper_limit)
        floor = _FLOOR_FREE if isinstance(config.error_floor, str) else config.error_floor
        # Without any flux the mass is the rough one; all bands then, so that gradients stay finite.
        fitted = best_amplitude(unit, data.flux, data.flux_err, use | ~jnp.any(use), floor)
        amplitude = jnp.where(jnp.any(use), fitted, 1.0)
        return sites, unit, sites["logmass"] + jnp.log10(amplitude)

    def place(
        vector: Float[Array, " dim"], data: GalaxyData
    ) -> tuple[dict[str, Array], Float[Array, ""], Float[Array, ""], Float[Array, " band"], dict[str, Array]]:
        """Sites at the rough mass, log10 mass, log of B', model flux at that mass, standard normals."""
        normals = unravel(vector[1:])
        sites, unit, best = at_rough_mass(normals, data)
        logmass, log_slope = bent(best + data.mass_step * vector[0], *config.prior.logmass)
        return sites, logmass, log_slope, unit * 10.0 ** (logmass - sites["logmass"]), normals

    def coordinate_density(sites: dict[str, Array], data: GalaxyData) -> Float[Array, ""]:
        """Log density q of the sampled parameters at the rough mass."""
        prior = handlers.trace(handlers.substitute(galaxy_model, data=sites))
        traced: dict[str, Any] = prior.get_trace(data, config, use_data=False, **kept)
        total = jnp.zeros(())
        for name in sampled[1:]:
            site = traced[name]
            total = total + jnp.sum(coordinate_distribution(site["fn"]).log_prob(site["value"]))
        return total

    def evaluate(
        vector: Float[Array, " dim"], data: GalaxyData, calibration: Calibration | None = None
    ) -> Evaluation:
        sites, logmass, log_slope, flux, normals = place(vector, data)
        moved = sites | {"logmass": logmass}
        given = {"model_flux": flux, "calibration": calibration}
        joint, _ = log_density(galaxy_model, (data, config, terms), given, moved)
        reference = coordinate_density(sites, data)
        coordinates = sum(jnp.sum(norm.logpdf(value)) for value in normals.values())
        value = -(joint - reference + coordinates + log_slope)
        return Evaluation(jnp.where(jnp.isfinite(value), value, jnp.inf), moved, flux)

    def potential(vector: Float[Array, " dim"], data: GalaxyData) -> Float[Array, ""]:
        return evaluate(vector, data).potential

    def constrain(vector: Float[Array, " dim"], data: GalaxyData) -> dict[str, Array]:
        sites, logmass, _, _, _ = place(vector, data)
        return sites | {"logmass": logmass}

    def unconstrain(sites: dict[str, Array], data: GalaxyData) -> Float[Array, " dim"]:
        rough = sites | {"logmass": jnp.asarray(data.logmass_guess)}
        prior = handlers.trace(handlers.substitute(galaxy_model, data=rough))
        traced: dict[str, Any] = prior.get_trace(data, config, use_data=False, **kept)
        normals = {
            f"{name}_base": normal_of(coordinate_distribution(traced[name]["fn"]), sites[name])
            for name in sampled[1:]
        }
        _, _, best = at_rough_mass(normals, data)
        offset = (unbent(sites["logmass"], *config.prior.logmass) - best) / data.mass_step
        return jnp.concatenate([offset[None], ravel_pytree(normals)[0]])

    return Posterior(potential, constrain, 1 + int(flat.shape[0]), sampled, evaluate, unconstrain)


def bent(x: Float[Array, ""], low: float, high: float) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Map the real line smoothly onto an interval, as the identity well inside.

    With k the sharpness, B(x) = low + [softplus(k (x - low)) - softplus(k (x - high))] / k.

    Parameters
    ----------
    x
        Any number.
    low, high
        Ends of the interval.

    Returns
    -------
    B(x), log B'(x)
    """
    left, right = _BEND * (x - low), _BEND * (x - high)
    # Written from the nearer end, so that single precision keeps the digits.
    from_low = low + (jax.nn.softplus(left) - jax.nn.softplus(right)) / _BEND
    value = jnp.where(
        left < -right, from_low, high - (jax.nn.softplus(-right) - jax.nn.softplus(-left)) / _BEND
    )
    inner = float(np.log(-np.expm1(-_BEND * (high - low))))
    return jnp.clip(value, low, high), jax.nn.log_sigmoid(left) + jax.nn.log_sigmoid(-right) + inner


def unbent(value: Float[Array, ""], low: float, high: float) -> Float[Array, ""]:
    """Inverse of `bent`; a value at an end, where that is infinite, counts as just inside."""
    value = jnp.clip(value, low + 1e-5, high - 1e-5)
    left, right = _BEND * (value - low), _BEND * (high - value)
    # e^(k (x - low)) = (e^left - 1) / (1 - e^-right), written without overflow.
    return low + (left + jnp.log(-jnp.expm1(-left)) - jnp.log(-jnp.expm1(-right))) / _BEND


def _through_normal(site: dict[str, Any]) -> NormalReparam | None:
    """Reparametrise every latent site but the mass and the normals themselves."""
    is_kept = site["name"].endswith("_base") or site["name"] == "logmass"
    return None if site["is_observed"] or is_kept else NormalReparam()
