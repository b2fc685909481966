r"""Adaptive importance sampling with mixtures of Student t distributions, for a target with several modes.

Rounds of points x are drawn from a proposal q; their weights w = p(x) / q(x) move the proposal to the target
by expectation and maximisation (M-PMC, Cappe et al. 2008, Stat. Comput. 18, 447, section 4), q of a point
being the mean of the proposals of all rounds that are kept (Cornuet et al. 2012, Scand. J. Stat. 39, 798).
While weights rest on few points they are raised to a power below 1 (Koblents & Miguez 2015, Stat. Comput. 25,
407). A part of each proposal is always the first one: a mode that it knew is not forgotten.

The draws that count come afterwards from the last proposal, which no longer changes: they are independent,
and their weights are exact. Nothing here knows of galaxies. All is in numpy, in double precision.
"""

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.special
from jaxtyping import Float, Int

from hbm.convergence import import_arviz

LogDensity = Callable[[Float[np.ndarray, "point dim"]], Float[np.ndarray, " point"]]
"""Log density of many points, nats, up to a constant; minus infinity where it is zero."""

_DF = 8.0
"""Degrees of freedom: tails heavier than those of a posterior, at little cost."""
_KEPT = 4
"""Rounds whose points are used together."""
_FIRST_SHARE = 0.1
"""Part of the first proposal in all others."""
_N_EM = 6
_FLOOR = 1e-8
"""Added to variances."""
_LEAST_SHARE = 0.02
"""Part of the proposal for a mode of little weight."""
_EFFECTIVE = 0.1
"""Part of the points that may be effective in a round for adaptation to end."""


class StudentMixture(NamedTuple):
    """Mixture of multivariate Student t distributions with 8 degrees of freedom."""

    weight: Float[np.ndarray, " comp"]
    """They sum to one."""
    mean: Float[np.ndarray, "comp dim"]
    """Centres."""
    scale: Float[np.ndarray, "comp dim dim"]
    """Scale matrices: covariances times 3/4."""

    def distance(self, x: Float[np.ndarray, "point dim"]) -> Float[np.ndarray, "comp point"]:
        """Squared distance to each centre in units of its scale matrix."""
        rows = []
        for mean, scale in zip(self.mean, self.scale, strict=True):
            factor = np.linalg.cholesky(scale)
            white = scipy.linalg.solve_triangular(factor, (x - mean).T, lower=True)
            rows.append(np.sum(white**2, axis=0))
        return np.array(rows)

    def log_parts(self, x: Float[np.ndarray, "point dim"]) -> Float[np.ndarray, "comp point"]:
        """Log density of each component, with its weight."""
        dim = x.shape[1]
        constant = scipy.special.gammaln(0.5 * (_DF + dim)) - scipy.special.gammaln(0.5 * _DF)
        constant -= 0.5 * dim * math.log(_DF * math.pi)
        log_det = np.linalg.slogdet(self.scale)[1]
        with np.errstate(divide="ignore"):
            height = np.log(self.weight) + constant - 0.5 * log_det
        parts = height[:, None] - 0.5 * (_DF + dim) * np.log1p(self.distance(x) / _DF)
        return np.asarray(parts)

    def log_prob(self, x: Float[np.ndarray, "point dim"]) -> Float[np.ndarray, " point"]:
        """Log density."""
        return np.asarray(scipy.special.logsumexp(self.log_parts(x), axis=0))

    def sample(self, rng: np.random.Generator, n: int) -> Float[np.ndarray, "point dim"]:
        """Draws."""
        which = rng.choice(len(self.weight), size=n, p=self.weight)
        normal = rng.standard_normal((n, self.mean.shape[1]))
        stretch = np.sqrt(_DF / rng.chisquare(_DF, n))[:, None]
        offset = np.einsum("nij,nj->ni", np.linalg.cholesky(self.scale)[which], normal)
        return np.asarray(self.mean[which] + stretch * offset)


class WeightedDraws(NamedTuple):
    """Draws of a proposal with importance weights, and what these say of themselves."""

    x: Float[np.ndarray, "draw dim"]
    weight: Float[np.ndarray, " draw"]
    """They add up to 1; the largest are smoothed (Vehtari et al. 2024, JMLR 25, 72)."""
    log_evidence: float
    """ln of the integral of the density that was given."""
    k: float
    """Pareto k of the weights: below 0.7 they can be trusted."""

    @property
    def effective(self) -> float:
        """Effective number of draws (Kish)."""
        return float(1 / np.sum(self.weight**2))

    def effective_resampled(self, n: int) -> float:
        """Effective number of ``n`` draws by `resampled`: the variances of both add up, at most."""
        return 1 / (1 / self.effective + 1 / n)

    def resampled(self, rng: np.random.Generator, n: int) -> Float[np.ndarray, "draw dim"]:
        """Draws of equal weight in random order, by systematic resampling; some are there several times."""
        place = (np.arange(n) + rng.uniform()) / n
        rows = np.minimum(np.searchsorted(np.cumsum(self.weight), place), len(self.weight) - 1)
        return np.asarray(self.x[rng.permutation(rows)])


def blend(first: StudentMixture, second: StudentMixture, share: float) -> StudentMixture:
    """Both mixtures as one; ``share`` is the weight of the second."""
    return StudentMixture(
        np.concatenate([(1 - share) * first.weight, share * second.weight]),
        np.concatenate([first.mean, second.mean]),
        np.concatenate([first.scale, second.scale]),
    )


def first_mixture(
    x: Float[np.ndarray, "point dim"],
    n_component: int,
    rng: np.random.Generator,
    variance: Float[np.ndarray, " dim"] | None = None,
) -> StudentMixture:
    """Mixture from points of equal weight.

    Parameters
    ----------
    x
        Points.
    n_component
        Components.
    rng
        Which points components begin at.
    variance
        To go by where there are fewer points than dimensions; by default that of the points.
    """
    n = len(x)
    whole = np.var(x, axis=0) if variance is None else variance
    spread = np.atleast_2d(np.cov(x.T)) if n > 1 else np.diag(whole)
    covariance = _shrunk(spread, float(n), whole)
    mean = x[rng.choice(n, n_component)] if n_component > 1 else x.mean(axis=0, keepdims=True)
    first = StudentMixture(
        np.full(n_component, 1 / n_component), mean, np.tile(covariance, (n_component, 1, 1))
    )
    return improved(first, x, np.full(n, 1 / n))


def improved(
    mixture: StudentMixture, x: Float[np.ndarray, "point dim"], weight: Float[np.ndarray, " point"]
) -> StudentMixture:
    """Some steps of expectation and maximisation on weighted points; weights add up to 1.

    A component with fewer effective points than dimensions stays where it is, with little weight.
    """
    dim = x.shape[1]
    for _ in range(_N_EM):
        log_parts = mixture.log_parts(x)
        share = np.exp(log_parts - scipy.special.logsumexp(log_parts, axis=0)) * weight
        total = share.sum(axis=1)
        pull = share * (_DF + dim) / (_DF + mixture.distance(x))
        new_mean, new_scale = mixture.mean.copy(), mixture.scale.copy()
        for k in range(len(total)):
            n = total[k] ** 2 / max(float(np.sum(share[k] ** 2)), 1e-300)
            if n < dim + 2:
                continue
            new_mean[k] = pull[k] @ x / pull[k].sum()
            offset = x - new_mean[k]
            new_scale[k] = _shrunk((pull[k][:, None] * offset).T @ offset / total[k], n, None)
        least = 1e-3 / len(total)
        mixture = StudentMixture(
            np.maximum(total, least) / np.maximum(total, least).sum(), new_mean, new_scale
        )
    return mixture


def _shrunk(
    covariance: Float[np.ndarray, "dim dim"], n: float, otherwise: Float[np.ndarray, " dim"] | None
) -> Float[np.ndarray, "dim dim"]:
    """Covariance of ``n`` points with its correlations reduced, the more the fewer there are."""
    dim = len(covariance)
    keep = n / (n + dim)
    diagonal = np.diag(covariance).copy()
    if otherwise is not None and n < dim:  # too few even for the variances
        diagonal = keep * diagonal + (1 - keep) * otherwise
    return np.asarray(keep * covariance * (1 - np.eye(dim)) + np.diag(diagonal + _FLOOR))


def normalised(log_weight: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
    """Weights that add up to 1."""
    weight = np.exp(log_weight - log_weight.max())
    return np.asarray(weight / weight.sum())


def tempered(log_weight: Float[np.ndarray, " point"], effective: float) -> tuple[np.ndarray, float]:
    """Weights to the largest power up to 1 that leaves so many effective points, and the power.

    Points of no weight keep none; where there are few others, half of those are enough.
    """
    use = np.isfinite(log_weight)
    effective = min(effective, 0.5 * int(use.sum()))

    def of(power: float) -> tuple[np.ndarray, float]:
        weight = np.zeros(len(log_weight))
        weight[use] = normalised(power * log_weight[use])
        return weight, float(1 / np.sum(weight**2))

    weight, n = of(1.0)
    if n >= effective:
        return weight, 1.0
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        weight, n = of(middle)
        low, high = (middle, high) if n >= effective else (low, middle)
    return of(low)[0], low


def adapt(
    log_density: LogDensity,
    first: StudentMixture,
    rng: np.random.Generator,
    *,
    n_point: int = 2000,
    n_round: int = 12,
) -> StudentMixture:
    """Proposal close to a target.

    Parameters
    ----------
    log_density
        The target.
    first
        First proposal, which should cover every mode.
    rng
        Source of randomness.
    n_point
        Points a round.
    n_round
        Rounds at most: it ends after two at the target of which a tenth of the points are effective.
    """
    dim = first.mean.shape[1]
    proposal, fitted = first, first
    kept: list[tuple[StudentMixture, np.ndarray, np.ndarray]] = []
    n_good: int = 0
    for _ in range(n_round):
        x = proposal.sample(rng, n_point)
        value = log_density(x)
        alone = value - proposal.log_prob(x)
        kept = [*kept[-_KEPT + 1 :], (proposal, x, value)]
        points, values = (np.concatenate([each[i] for each in kept]) for i in (1, 2))
        mixed = scipy.special.logsumexp([each[0].log_prob(points) for each in kept], axis=0)
        log_weight = values - mixed
        if not np.isfinite(log_weight).any():
            continue
        weight, power = tempered(log_weight, max(10.0 * dim, 0.05 * n_point))
        fitted = improved(fitted, points, weight)
        proposal = blend(fitted, first, _FIRST_SHARE)
        n_good += int(power == 1.0 and _effective(alone) >= _EFFECTIVE * n_point)
        if n_good >= 2:
            break
    return proposal


def adapt_by_regions(
    log_density: LogDensity,
    x: Float[np.ndarray, "point dim"],
    group: Int[np.ndarray, " point"],
    coordinate: int,
    rng: np.random.Generator,
    *,
    n_component: int = 10,
    n_point: int = 2000,
    n_round: int = 12,
) -> StudentMixture:
    """Proposal close to a target of several modes, each of which is found by itself first.

    Where modes compete from the start, one that the first points miss by more than another gets no weight,
    and is lost without a trace.

    Parameters
    ----------
    log_density
        The target.
    x
        Points of equal weight, in all modes.
    group
        Which mode they are in: 0, 1, ... in the order of ``coordinate``.
    coordinate
        Dimension in which modes are apart.
    rng
        Source of randomness.
    n_component
        Components of the first proposal; more if there are more modes.
    n_point, n_round
        As for `adapt`, for each mode and for all together.

    Raises
    ------
    ValueError
        If the target is zero at all points.
    """
    n_group = int(group.max()) + 1
    if n_group == 1:
        first = first_mixture(x, n_component, rng)
        return adapt(log_density, first, rng, n_point=n_point, n_round=n_round)
    place, variance = x[:, coordinate], np.var(x, axis=0)
    between = [0.5 * (place[group == g].max() + place[group == g + 1].min()) for g in range(n_group - 1)]
    ends = [-np.inf, *between, np.inf]
    parts, logs = [], []
    for g, (low, high) in enumerate(itertools.pairwise(ends)):

        def here(
            y: Float[np.ndarray, "point dim"], low: float = float(low), high: float = float(high)
        ) -> Float[np.ndarray, " point"]:
            inside = (y[:, coordinate] > low) & (y[:, coordinate] <= high)
            return np.where(inside, log_density(y), -np.inf)

        mine = x[group == g]
        n_mine = max(1, round(n_component * len(mine) / len(x)))
        alone = first_mixture(mine, n_mine, rng, variance)
        part = adapt(here, alone, rng, n_point=n_point, n_round=n_round)
        y = part.sample(rng, n_point)
        parts.append(part)
        logs.append(float(scipy.special.logsumexp(here(y) - part.log_prob(y))))
    if not np.isfinite(logs).any():
        raise ValueError("`log_density` must be finite somewhere: it is zero at all points of all modes.")
    share = normalised(np.array(logs)) + _LEAST_SHARE
    share /= share.sum()
    together = StudentMixture(
        np.concatenate([each * part.weight for each, part in zip(share, parts, strict=True)]),
        np.concatenate([part.mean for part in parts]),
        np.concatenate([part.scale for part in parts]),
    )
    return adapt(log_density, together, rng, n_point=n_point, n_round=n_round)


def importance_sample(
    log_density: LogDensity,
    proposal: StudentMixture,
    rng: np.random.Generator,
    *,
    n_point: int = 2000,
    n_batch: int = 8,
    effective: float = 1000.0,
    largest_k: float = 0.7,
    hopeless: float = 0.0,
) -> WeightedDraws:
    """Weighted draws of a target from a proposal that does not change.

    Parameters
    ----------
    log_density
        The target.
    proposal
        Where draws come from.
    rng
        Source of randomness.
    n_point
        Draws of a batch.
    n_batch
        Batches at most.
    effective
        Enough effective draws, if the weights can be trusted too.
    largest_k
        Of weights that can be trusted.
    hopeless
        Part of the draws that must be effective for more of them to be tried.

    Raises
    ------
    ValueError
        If the target is zero at all draws.
    """
    points: list[np.ndarray] = []
    logs: list[np.ndarray] = []
    for _ in range(n_batch):
        points.append(proposal.sample(rng, n_point))
        logs.append(log_density(points[-1]) - proposal.log_prob(points[-1]))
        log_weight = np.concatenate(logs)
        use = np.isfinite(log_weight)
        now = _effective(log_weight)
        if now < hopeless * len(log_weight):
            break
        if now < effective:
            continue
        smoothed, k = _smoothed(log_weight[use])
        if k <= largest_k:
            break
    if not use.any():
        raise ValueError("`log_density` must be finite somewhere: it is zero at all draws of `proposal`.")
    smoothed, k = _smoothed(log_weight[use])
    log_evidence = float(scipy.special.logsumexp(log_weight[use]) - math.log(len(log_weight)))
    return WeightedDraws(np.concatenate(points)[use], normalised(smoothed), log_evidence, k)


def _effective(log_weight: Float[np.ndarray, " point"]) -> float:
    """Effective number of points (Kish)."""
    use = np.isfinite(log_weight)
    return float(1 / np.sum(normalised(log_weight[use]) ** 2)) if use.any() else 0.0


def _smoothed(log_weight: Float[np.ndarray, " point"]) -> tuple[Float[np.ndarray, " point"], float]:
    """Log weights, the largest by the Pareto distribution that fits them, and its k."""
    az: Any = import_arviz()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k says it
        smoothed, k = az.psislw(log_weight - log_weight.max())
    return np.asarray(smoothed, np.float64), float(k)
