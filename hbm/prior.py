r"""The interim prior on one galaxy's parameters, as NumPyro statements.

With t the age of the universe, S(M, t) the star-forming sequence of Speagle et al. (2014) and
Z(M) the mass-metallicity relation of Gallazzi et al. (2005), both in `hbm.relations`:

- logmass uniform;
- logssfr: 60 % normal about S with 0.5 dex, 40 % normal 1.8 dex below it with 1.2 dex, below -8;
- ratios of adjacent star formation rates: Student t, 2 degrees of freedom, scale 0.3 dex (Leja et al. 2019);
- logzsol normal about Z(M) with 0.5 dex, truncated to (-2, 0.5);
- dust2 normal (0.3, 1) truncated to (0, 4); dust1 / dust2 normal (1, 0.3) truncated to (0, 2), as in
  Leja et al. (2017, ApJ 837, 170); dust_index normal (-0.2, 0.4) truncated to (-1, 0.4);
- gas_logu normal (-2.7, 0.6) truncated to (-4, -1).

The heavy-tailed ratios are sampled through a standard normal variable, which changes nothing but speed.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from hbm.config import ModelConfig
from hbm.relations import mass_metallicity, star_forming_sequence
from sed.parameters import BinnedSFH, DelayedTauSFH, SEDParams


def student_t2(normal: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Student t with 2 degrees of freedom from a standard normal, by its quantile function.

    .. math:: t = (2u - 1) / \sqrt{2 u (1 - u)}, \quad u = \Phi(x)

    computed with both tails, so that neither loses its digits.
    """
    normal = jnp.clip(normal, -9.0, 9.0)  # beyond it single precision underflows; probability 1e-19
    upper, lower = ndtr(normal), ndtr(-normal)
    return (upper - lower) / jnp.sqrt(2 * upper * lower)


def sample_parameters(config: ModelConfig, age_universe_gyr: Float[Array, ""]) -> SEDParams:
    """Sample one galaxy's parameters from the interim prior, inside a NumPyro model."""
    prior = config.prior
    logmass = numpyro.sample("logmass", dist.Uniform(*prior.logmass))
    if config.sfh == "binned":
        sequence = jnp.clip(star_forming_sequence(logmass, age_universe_gyr), -13.0, -8.1)
        centre = jnp.stack([sequence, sequence + prior.quiescent_offset])
        width = jnp.array([prior.logssfr_scatter, prior.quiescent_scatter])
        weights = jnp.array([1 - prior.quiescent_fraction, prior.quiescent_fraction])
        components = dist.TruncatedNormal(centre, width, low=prior.logssfr[0], high=prior.logssfr[1])
        logssfr = numpyro.sample("logssfr", dist.MixtureSameFamily(dist.Categorical(weights), components))
        recent = numpyro.sample("recent_base", dist.Normal(0.0, 1.0))
        older = numpyro.sample("older_base", dist.Normal(0.0, 1.0).expand([config.n_old - 1]).to_event(1))
        scale = prior.sfr_ratio_scale
        sfh: BinnedSFH | DelayedTauSFH = BinnedSFH(
            logmass=logmass,
            logssfr=logssfr,
            logsfr_ratio_recent=numpyro.deterministic("logsfr_ratio_recent", scale * student_t2(recent)),
            logsfr_ratios=numpyro.deterministic("logsfr_ratios", scale * student_t2(older)),
        )
    else:
        fraction = numpyro.sample("tage_fraction", dist.Uniform(0.01, 1.0))
        logtau = numpyro.sample("logtau", dist.Uniform(*prior.logtau))
        sfh = DelayedTauSFH(
            logmass=logmass,
            tage=numpyro.deterministic("tage", fraction * age_universe_gyr),
            tau=numpyro.deterministic("tau", 10.0**logtau),
        )
    low, high = prior.logzsol
    logzsol = numpyro.sample(
        "logzsol",
        dist.TruncatedNormal(mass_metallicity(logmass), prior.logzsol_scatter, low=low, high=high),
    )
    centre_dust, width_dust, top_dust = prior.dust2
    dust2 = numpyro.sample("dust2", dist.TruncatedNormal(centre_dust, width_dust, low=0.0, high=top_dust))
    centre_dust, width_dust, top_dust = prior.dust1_fraction
    dust1_fraction = numpyro.sample(
        "dust1_fraction", dist.TruncatedNormal(centre_dust, width_dust, low=0.0, high=top_dust)
    )
    dust_index = jnp.zeros(())
    if config.curve == "kriek_conroy":
        centre_index, width_index, low, high = prior.dust_index
        dust_index = numpyro.sample(
            "dust_index", dist.TruncatedNormal(centre_index, width_index, low=low, high=high)
        )
    gas_logu = jnp.full((), prior.gas_logu[0])
    if config.nebular:
        centre_u, width_u, low, high = prior.gas_logu
        gas_logu = numpyro.sample("gas_logu", dist.TruncatedNormal(centre_u, width_u, low=low, high=high))
    heated = _sample_dust_emission(config)
    return SEDParams(
        sfh=sfh,
        logzsol=logzsol,
        dust2=dust2,
        dust1=numpyro.deterministic("dust1", dust1_fraction * dust2),
        dust_index=dust_index,
        gas_logu=gas_logu,
        **heated,
    )


def _sample_dust_emission(config: ModelConfig) -> dict[str, Array]:
    """Free parameters of the dust emission: ranges of Draine & Li (2007), as in Leja et al. (2017)."""
    if not (config.free_dust_emission and config.dust_emission):
        return {}
    return {
        "duste_umin": numpyro.sample("duste_umin", dist.LogUniform(0.1, 25.0)),
        "duste_qpah": numpyro.sample("duste_qpah", dist.Uniform(0.47, 4.58)),
        "duste_gamma": numpyro.sample("duste_gamma", dist.LogUniform(1e-3, 0.15)),
    }
