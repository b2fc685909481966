"""The model of one galaxy, and its derived quantities.

`galaxy_model` reads as its statement: parameters from the interim prior, fluxes from the compiled SED model,
the likelihood of the measured fluxes, and further likelihoods (`hbm.terms`), of which the image is one.
`jax.vmap` runs it over galaxies.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from hbm.config import ModelConfig
from hbm.distributions import BetaOne, TruncatedNormal
from hbm.prior import sample_parameters
from hbm.terms import GalaxyState, Term
from sed.compiled import CompiledPhotometry, take
from sed.likelihood import photometry_loglike
from sed.nebular import bracket
from sed.parameters import BinnedSFH, SEDParams
from sed.sfh import bin_masses, delayed_tau_logsfr

OUTLIER_SCALE = 10.0
"""Width of the likelihood of a bad band, in units of its error with the model error added."""


class Calibration(NamedTuple):
    """What may be wrong with measured fluxes: of one galaxy, or the same for all galaxies of a survey."""

    error_floor: Float[ArrayLike, ""] = 0.0
    """Model error as a fraction of the model flux."""
    outlier_fraction: Float[ArrayLike, ""] = 0.0
    """Fraction of bad bands."""
    zero_point: Float[ArrayLike, " band"] | None = None
    """Offset of each band, mag; None for none."""


class GalaxyData(eqx.Module):
    """What is known of one galaxy; stacked with a leading axis for many."""

    flux: Float[ArrayLike, " band"]
    """Measured flux, maggies; the limit itself where `upper_limit`."""
    flux_err: Float[ArrayLike, " band"]
    """One standard deviation, maggies."""
    observed: Bool[ArrayLike, " band"]
    """False where a band has no measurement."""
    upper_limit: Bool[ArrayLike, " band"]
    """True where `flux` is an upper limit."""
    zred: Float[ArrayLike, ""]
    """Redshift, or the mean of its normal prior."""
    zred_err: Float[ArrayLike, ""]
    """Standard deviation of the redshift; not used if `zgrid` is None."""
    age_universe: Float[ArrayLike, "*znode"]
    """Age of the universe at the redshift (or at each node), Gyr."""
    photometry: CompiledPhotometry
    """Compiled at the redshift, or stacked over `zgrid`."""
    rest: CompiledPhotometry
    """Rest-frame U, V, J at 10 pc with the same age bins (of the central redshift)."""
    zgrid: Float[ArrayLike, " znode"] | None
    """Redshift nodes, where the redshift is free."""
    dimming: Float[ArrayLike, " znode"] | None
    """Luminosity distance over the root of 1 + z at the nodes, Mpc: fluxes fall with its square."""
    logmass_guess: Float[ArrayLike, ""]
    """Rough log10 mass; only the sampler's coordinates depend on it, not the posterior."""
    mass_step: Float[ArrayLike, ""] = 0.02
    """dex of mass per unit of its coordinate, where the fluxes' best mass is 0: about what the data leave at
    fixed shape. Only the sampler's coordinates depend on it."""
    terms: tuple[Any, ...] = ()
    """Data of the further likelihoods, in their order."""

    def node(self, index: ArrayLike) -> CompiledPhotometry:
        """Compiled photometry at one node of `zgrid`."""
        return take(self.photometry, index)

    def model_flux(self, params: SEDParams, zred: Float[ArrayLike, ""]) -> Float[Array, " band"]:
        """Flux in maggies.

        Between redshift nodes the flux times the square of `dimming`, which is how bright the source is, is
        linear, and so is `dimming`. The flux is far from linear where nodes are a good part of z apart.
        """
        if self.zgrid is None:
            return self.photometry.flux(params)
        low, fraction = bracket(self.zgrid, zred)
        near, far = jnp.asarray(self.dimming)[low], jnp.asarray(self.dimming)[low + 1]
        here = (1 - fraction) * near + fraction * far
        bright = (1 - fraction) * (near / here) ** 2 * self.node(low).flux(params)
        return bright + fraction * (far / here) ** 2 * self.node(low + 1).flux(params)

    def between_nodes(
        self, function: Callable[[CompiledPhotometry], Array], zred: Float[ArrayLike, ""]
    ) -> Array:
        """A function of the compiled photometry, interpolated linearly in redshift if that is free."""
        if self.zgrid is None:
            return function(self.photometry)
        low, fraction = bracket(self.zgrid, zred)
        return (1 - fraction) * function(self.node(low)) + fraction * function(self.node(low + 1))

    def age_at(self, zred: Float[ArrayLike, ""]) -> Float[Array, ""]:
        """Age of the universe, Gyr."""
        if self.zgrid is None:
            return jnp.asarray(self.age_universe)
        return jnp.interp(zred, jnp.asarray(self.zgrid), jnp.asarray(self.age_universe))


def galaxy_model(
    data: GalaxyData,
    config: ModelConfig,
    terms: tuple[Term, ...] = (),
    *,
    use_data: bool = True,
    model_flux: Float[Array, " band"] | None = None,
    calibration: Calibration | None = None,
) -> None:
    """NumPyro model of one galaxy's band fluxes, and of whatever else was measured.

    Parameters
    ----------
    data
        Fluxes and compiled photometry of one galaxy.
    config
        What is fitted.
    terms
        Further likelihoods; their data are ``data.terms``.
    use_data
        False leaves the likelihoods out: the prior.
    model_flux : maggies
        Flux of the sampled parameters, if it is known already.
    calibration
        Error floor, outliers and zero points that many galaxies share (`hbm.population`); by default what is
        free of them is sampled for this galaxy.
    """
    zred = jnp.asarray(data.zred)
    if data.zgrid is not None:
        zgrid = jnp.asarray(data.zgrid)
        zred = numpyro.sample("zred", TruncatedNormal(data.zred, data.zred_err, zgrid[0], zgrid[-1]))
    params = sample_parameters(config, data.age_at(zred))
    if calibration is None:
        calibration = sample_calibration(config, jnp.shape(data.flux)[-1])
    if use_data:
        if model_flux is None:
            model_flux = data.model_flux(params, zred)
        numpyro.factor("photometry", flux_log_prob(data, model_flux, calibration))
        if terms:
            state = galaxy_state(params, zred, data)
            for term, measured in zip(terms, data.terms, strict=True):
                numpyro.factor(term.name, term.log_prob(state, measured))


def flux_log_prob(
    data: GalaxyData, model_flux: Float[Array, " band"], calibration: Calibration
) -> Float[Array, ""]:
    """Log-likelihood of a galaxy's measured fluxes, nats; ``model_flux`` in maggies."""
    return photometry_loglike(
        jnp.asarray(data.flux),
        jnp.asarray(data.flux_err),
        model_flux,
        jnp.asarray(data.observed),
        error_floor=calibration.error_floor,
        upper_limit=jnp.asarray(data.upper_limit),
        outlier_fraction=calibration.outlier_fraction,
        outlier_scale=OUTLIER_SCALE,
        zero_point=calibration.zero_point,
    )


def galaxy_state(params: SEDParams, zred: Float[Array, ""], data: GalaxyData) -> GalaxyState:
    """What further likelihoods may depend on."""
    if isinstance(params.sfh, BinnedSFH):
        logssfr = jnp.asarray(params.sfh.logssfr)
    else:
        logssfr = delayed_tau_logsfr(params.sfh, 0.1) - jnp.asarray(params.sfh.logmass)
    mean_age = data.between_nodes(lambda phot: phot.mean_age(params), zred)
    return GalaxyState(params, zred, logssfr, mean_age, data.age_at(zred))


def computed_once(params: SEDParams) -> SEDParams:
    """The same parameters, held so that XLA computes them once.

    On CPUs XLA repeats cheap-looking scalar work inside every loop that uses it, here quantile functions
    at each of several hundred wavelengths. It does not fuse through a matrix product, so a product with
    the identity (exact) holds the values. An `optimization_barrier` does not survive to that stage.
    """
    flat, unravel = ravel_pytree(params)
    identity = jnp.eye(flat.shape[0], dtype=flat.dtype)
    held: SEDParams = unravel(jnp.matmul(identity, flat, precision="highest"))  # GPUs round otherwise
    return held


def sample_calibration(config: ModelConfig, n_band: int) -> Calibration:
    """Error floor, outlier fraction and zero points, inside a NumPyro model: sampled where they are free."""
    prior = config.prior
    floor: Float[ArrayLike, ""] = 0.0
    if config.error_floor == "free":
        floor = numpyro.sample("error_floor", dist.LogUniform(*prior.error_floor))
    else:
        floor = float(config.error_floor)
    outlier_fraction: Float[ArrayLike, ""] = 0.0
    if config.outliers:
        outlier_fraction = numpyro.sample("outlier_fraction", BetaOne(prior.outlier_fraction))
    zero_point = None
    if config.zero_point_sigma > 0:
        offsets = dist.Normal(0.0, config.zero_point_sigma).expand([n_band]).to_event(1)
        zero_point = numpyro.sample("zero_point", offsets)
    return Calibration(floor, outlier_fraction, zero_point)


def parameters_from_sites(sites: dict[str, Array], config: ModelConfig) -> SEDParams:
    """SED parameters from one posterior draw of the model's sites."""
    from sed.parameters import DelayedTauSFH

    sfh: BinnedSFH | DelayedTauSFH
    if config.sfh == "binned":
        sfh = BinnedSFH(
            sites["logmass"], sites["logssfr"], sites["logsfr_ratio_recent"], sites["logsfr_ratios"]
        )
    else:
        sfh = DelayedTauSFH(sites["logmass"], sites["tage"], sites["tau"])
    optional = {
        name: sites[name]
        for name in ("dust_index", "gas_logu", "duste_umin", "duste_qpah", "duste_gamma")
        if name in sites
    }
    if "gas_logu" not in optional:
        optional["gas_logu"] = jnp.full((), config.prior.gas_logu[0])
    return SEDParams(
        sfh=sfh, logzsol=sites["logzsol"], dust2=sites["dust2"], dust1=sites["dust1"], **optional
    )


def _bin_rates(sfh: BinnedSFH, photometry: CompiledPhotometry) -> Float[Array, " bin"]:
    """Star formation rate of each age bin, Msun/yr."""
    bins = jnp.asarray(photometry.agebins)
    edges = 10.0**bins
    return bin_masses(sfh, bins) / (edges[:, 1] - edges[:, 0])


def derived_quantities(sites: dict[str, Array], data: GalaxyData, config: ModelConfig) -> dict[str, Array]:
    """What users want besides the parameters, for one draw.

    Returns
    -------
    dict
        ``sfr_100``, ``sfr_10`` (Msun/yr), ``logsfr_100``, ``logsfr_10``, ``mwa`` (Gyr), ``logmstar`` (log10
        surviving Msun), ``uv``, ``vj`` (rest-frame AB colours, as seen through the dust), ``av``
        (attenuation in V, mag), ``flux`` (model fluxes, maggies, with the
        zero-point offsets) and ``sfr_bins`` (Msun/yr) for binned histories.
    """
    params = parameters_from_sites(sites, config)
    zred = sites.get("zred", jnp.asarray(data.zred))
    logmass = jnp.asarray(params.sfh.logmass)
    if isinstance(params.sfh, BinnedSFH):
        sfh = params.sfh
        rates = data.between_nodes(lambda phot: _bin_rates(sfh, phot), zred)
        logsfr_10, logsfr_100 = jnp.log10(rates[0]), logmass + jnp.asarray(params.sfh.logssfr)
        history: dict[str, Array] = {"sfr_bins": rates}
    else:
        logsfr_10, logsfr_100 = (delayed_tau_logsfr(params.sfh, span) for span in (0.01, 0.1))
        history = {"logssfr": logsfr_100 - logmass}
    rest = data.rest.flux(params)
    clear = eqx.tree_at(lambda p: (p.dust1, p.dust2), params, (jnp.zeros(()), jnp.zeros(())))
    rest_clear = data.rest.flux(clear)
    mfrac = data.between_nodes(lambda phot: phot.mfrac(params), zred)
    return {
        **history,
        "sfr_100": 10.0**logsfr_100,
        "sfr_10": 10.0**logsfr_10,
        "logsfr_100": logsfr_100,
        "logsfr_10": logsfr_10,
        "mwa": data.between_nodes(lambda phot: phot.mean_age(params), zred),
        "logmstar": logmass + jnp.log10(mfrac),
        "uv": -2.5 * jnp.log10(rest[0] / rest[1]),
        "vj": -2.5 * jnp.log10(rest[1] / rest[2]),
        "av": -2.5 * jnp.log10(rest[1] / rest_clear[1]),
        "flux": data.model_flux(params, zred) * 10.0 ** (-0.4 * sites.get("zero_point", jnp.zeros(()))),
    }
