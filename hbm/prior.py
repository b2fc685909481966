r"""The interim prior on one galaxy's parameters, as NumPyro statements.

With t the age of the universe, S(M, t) the star-forming sequence of Speagle et al. (2014) and
Z(M) the mass-metallicity relation of Gallazzi et al. (2005), both in `hbm.relations`:

- logmass uniform in (6, 12.7);
- logssfr split normal about S: 0.5 dex above, 1.6 dex below, truncated to (-14, -8);
- ratios of adjacent star formation rates: Student t, 2 degrees of freedom, scale 0.3 dex (Leja et al. 2019),
  truncated to (-2, 2);
- logzsol normal about Z(M) with 0.5 dex, truncated to (-2, 0.5);
- dust2 normal (0.3, 1) truncated to (0, 4); dust1 / dust2 normal (1, 0.3) truncated to (0, 2), as in
  Leja et al. (2019, ApJ 877, 140); dust_index normal (-0.2, 0.4) truncated to (-1, 0.4);
- gas_logu normal (-2.7, 0.6) truncated to (-4, -1).

`hbm.coordinates` gives the sampler better coordinates, which leave the prior as it is.
"""

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from hbm.config import InterimPrior, ModelConfig
from hbm.distributions import SplitNormal, StudentT2, TruncatedNormal
from hbm.relations import mass_metallicity, star_forming_sequence
from sed.parameters import BinnedSFH, DelayedTauSFH, SEDParams


def interim_distribution(
    name: str,
    prior: InterimPrior,
    logmass: Float[ArrayLike, "..."],
    age_universe_gyr: Float[ArrayLike, "..."],
) -> Any:
    """Distribution of a property that relations of populations describe, at a mass.

    Parameters
    ----------
    name
        ``logmass``, ``logssfr``, ``logzsol``, ``dust2`` or ``gas_logu``.
    prior
        Its numbers.
    logmass, age_universe_gyr
        Of one galaxy, or of many.
    """
    low, high = prior.logssfr
    if name == "logmass":
        return dist.Uniform(*prior.logmass)
    if name == "logssfr":
        sequence = jnp.clip(star_forming_sequence(logmass, age_universe_gyr), low + 1.0, high - 0.1)
        return SplitNormal(sequence, *prior.logssfr_scatter, low=low, high=high)
    if name == "logzsol":
        return TruncatedNormal(mass_metallicity(logmass), prior.logzsol_scatter, *prior.logzsol)
    if name == "dust2":
        centre, width, top = prior.dust2
        return TruncatedNormal(centre, width, 0.0, top)
    if name == "gas_logu":
        return TruncatedNormal(*prior.gas_logu)
    raise ValueError(f"`name` must be a property that relations describe, got {name!r}.")


def sample_parameters(config: ModelConfig, age_universe_gyr: Float[Array, ""]) -> SEDParams:
    """Sample one galaxy's parameters from the interim prior, inside a NumPyro model."""
    prior = config.prior

    def of(name: str, logmass: Float[Array, ""] | float = 0.0) -> Any:
        return interim_distribution(name, prior, logmass, age_universe_gyr)

    logmass = numpyro.sample("logmass", of("logmass"))
    sfh = _sample_history(config, logmass, age_universe_gyr)
    logzsol = numpyro.sample("logzsol", of("logzsol", logmass))
    dust2 = numpyro.sample("dust2", of("dust2"))
    centre, width, high = prior.dust1_fraction
    dust1_fraction = numpyro.sample("dust1_fraction", TruncatedNormal(centre, width, 0.0, high))
    dust_index = jnp.zeros(())
    if config.curve == "kriek_conroy":
        dust_index = numpyro.sample("dust_index", TruncatedNormal(*prior.dust_index))
    gas_logu = jnp.full((), prior.gas_logu[0])
    if config.nebular:
        gas_logu = numpyro.sample("gas_logu", of("gas_logu"))
    return SEDParams(
        sfh=sfh,
        logzsol=logzsol,
        dust2=dust2,
        dust1=numpyro.deterministic("dust1", dust1_fraction * dust2),
        dust_index=dust_index,
        gas_logu=gas_logu,
        **_sample_dust_emission(config),
    )


def _sample_history(
    config: ModelConfig, logmass: Float[Array, ""], age_universe_gyr: Float[Array, ""]
) -> BinnedSFH | DelayedTauSFH:
    """Star formation history of the configured kind."""
    prior = config.prior
    if config.sfh == "delayed_tau":
        fraction = numpyro.sample("tage_fraction", dist.Uniform(0.01, 1.0))
        logtau = numpyro.sample("logtau", dist.Uniform(*prior.logtau))
        tage = numpyro.deterministic("tage", fraction * age_universe_gyr)
        return DelayedTauSFH(logmass, tage, numpyro.deterministic("tau", 10.0**logtau))
    logssfr = numpyro.sample("logssfr", interim_distribution("logssfr", prior, logmass, age_universe_gyr))
    ratio = StudentT2(*prior.sfr_ratio)
    recent = numpyro.sample("logsfr_ratio_recent", ratio)
    older = numpyro.sample("logsfr_ratios", ratio.expand([config.n_old - 1]).to_event(1))
    return BinnedSFH(logmass, logssfr, recent, older)


def _sample_dust_emission(config: ModelConfig) -> dict[str, Array]:
    """Free parameters of the dust emission: over the range of the templates of Draine & Li (2007)."""
    if not (config.free_dust_emission and config.dust_emission):
        return {}
    return {
        "duste_umin": numpyro.sample("duste_umin", dist.LogUniform(0.1, 25.0)),
        "duste_qpah": numpyro.sample("duste_qpah", dist.Uniform(0.47, 4.58)),
        "duste_gamma": numpyro.sample("duste_gamma", dist.LogUniform(1e-3, 0.15)),
    }
