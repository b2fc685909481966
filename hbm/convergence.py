"""Did the chains of a galaxy converge? Rank-normalised R-hat, effective sample sizes, divergences.

The numbers come from ArviZ and follow Vehtari et al. 2021 (arXiv:1903.08008, section 4): R-hat is the
larger of the rank-normalised split R-hat of the draws and of the folded draws, the bulk effective sample
size is that of the rank-normalised draws, and the tail one is the smaller of those of the 5 and 95 %
quantiles.

Pass only what is sampled, or depends on it: a quantity that never moves counts as a failure.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Integer, Shaped


@dataclasses.dataclass(frozen=True)
class ConvergenceRule:
    """Limits that chains must meet to count as converged.

    R-hat < 1.01 and effective sample sizes of 400 (100 for each of four chains), bulk and tail alike, are
    the advice of Vehtari et al. 2021 (arXiv:1903.08008, section 4). Even a few divergences can hide a
    region that was not explored (Betancourt 2017, arXiv:1701.02434); 1 % is a practical limit of ours.
    """

    rhat: float = 1.01
    """Largest R-hat allowed, over all parameters."""
    ess_bulk: float = 400.0
    """Smallest bulk effective sample size allowed."""
    ess_tail: float = 400.0
    """Smallest tail effective sample size allowed."""
    divergent_fraction: float = 0.01
    """Largest fraction of draws that may end in a divergence."""

    def __post_init__(self) -> None:
        if not self.rhat > 1.0:
            raise ValueError(f"`rhat` must be > 1 (1 is perfect mixing), got {self.rhat}.")
        for name in ("ess_bulk", "ess_tail"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"`{name}` must be >= 0 (a number of draws), got {getattr(self, name)}.")
        if not 0.0 <= self.divergent_fraction <= 1.0:
            raise ValueError(f"`divergent_fraction` must be between 0 and 1, got {self.divergent_fraction}.")


class Convergence(NamedTuple):
    """Verdict on the chains of one galaxy."""

    rhat_max: float
    """Largest rank-normalised split R-hat over parameters; NaN where undefined."""
    rhat_worst: str
    """Parameter with that R-hat, such as ``logsfr_ratios[2]``."""
    ess_bulk_min: float
    """Smallest bulk effective sample size over parameters."""
    ess_tail_min: float
    """Smallest tail effective sample size over parameters."""
    n_divergent: int
    """Divergent transitions after warm-up, all chains together."""
    converged: bool
    """True if all limits of the rule are met."""
    flag: str
    """``ok``, or failures joined by commas: ``nonfinite``, ``constant``, ``rhat``, ``ess_bulk``,
    ``ess_tail``, ``divergences``, ``pilot``."""
    reason: str
    """What failed and what to do, in words; empty if converged."""


class ComponentDiagnostics(NamedTuple):
    """R-hat and effective sample sizes of every component of every galaxy."""

    names: tuple[str, ...]
    """Components in order; those of vectors are ``name[i]``."""
    rhat: Float[np.ndarray, "galaxy component"]
    """Rank-normalised split R-hat; NaN where undefined."""
    ess_bulk: Float[np.ndarray, "galaxy component"]
    """Bulk effective sample size, in draws."""
    ess_tail: Float[np.ndarray, "galaxy component"]
    """Tail effective sample size, in draws."""
    nonfinite: Bool[np.ndarray, "galaxy component"]
    """True where a draw is NaN or infinite."""
    constant: Bool[np.ndarray, "galaxy component"]
    """True where all draws of a chain are equal."""


def import_arviz() -> ModuleType:
    """Import ArviZ, without the notice of its coming refactor that it gives once a day."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=r"\s*ArviZ is undergoing")
        import arviz
    return arviz  # type: ignore[no-any-return,unused-ignore]


def diagnose(
    samples: Mapping[str, Shaped[np.ndarray, "..."]],
    n_divergent: int,
    rule: ConvergenceRule | None = None,
) -> Convergence:
    """Judge the chains of one galaxy.

    Parameters
    ----------
    samples
        Draws after warm-up by parameter, (chain, draw, ...); each component of a vector counts.
    n_divergent
        Number of divergent transitions, all chains together.
    rule
        Limits; ``ConvergenceRule()`` by default.

    Returns
    -------
    Convergence
        Not converged where a diagnostic is undefined: fewer than 2 chains or 4 draws, NaN, constant chains.

    Raises
    ------
    ValueError
        If `samples` is empty or its arrays differ in (chain, draw).
    """
    batch = {name: np.asarray(values)[None] for name, values in samples.items()}
    return diagnose_batch(batch, np.array([n_divergent]), rule)[0]


def diagnose_batch(
    samples: Mapping[str, Shaped[np.ndarray, "..."]],
    n_divergent: Integer[np.ndarray, " _"],
    rule: ConvergenceRule | None = None,
    pilot_beta: Float[np.ndarray, " _"] | None = None,
) -> tuple[Convergence, ...]:
    """Judge each galaxy of a batch; arguments as in :func:`diagnose` with a leading galaxy axis.

    ``pilot_beta`` is where each galaxy's pilot ended (`hbm.pilot`): chains that start from one that ended
    below 1 may all have missed the same mode, which no other diagnostic sees.
    """
    limits = ConvergenceRule() if rule is None else rule
    parts = component_diagnostics(samples)
    n_galaxy, n_chain, n_draw = next(iter(samples.values())).shape[:3]
    if n_divergent.shape != (n_galaxy,):
        raise ValueError(
            f"`n_divergent` must have one number per galaxy: expected {(n_galaxy,)}, got {n_divergent.shape}."
        )
    beta = np.ones(n_galaxy) if pilot_beta is None else pilot_beta
    return tuple(
        _verdict(parts, i, int(n_divergent[i]), float(beta[i]), n_chain=n_chain, n_draw=n_draw, rule=limits)
        for i in range(n_galaxy)
    )


def component_diagnostics(
    samples: Mapping[str, Shaped[np.ndarray, "..."]],
) -> ComponentDiagnostics:
    """R-hat, bulk and tail effective sample size per galaxy and component; see :func:`diagnose_batch`."""
    names, stacked = _stack(samples)
    az = import_arviz()
    data = xr.Dataset({"x": (("galaxy", "component", "chain", "draw"), stacked)})
    # Chains that do not move divide zero by zero inside ArviZ; the caller judges the NaN that comes out.
    with np.errstate(divide="ignore", invalid="ignore"):
        rhat = az.rhat(data, method="rank")["x"].values
        ess_bulk = az.ess(data, method="bulk")["x"].values
        ess_tail = az.ess(data, method="tail")["x"].values
    nonfinite = ~np.isfinite(stacked).all(axis=(2, 3))
    constant = (stacked == stacked[..., :1]).all(axis=3).any(axis=2)
    return ComponentDiagnostics(names, rhat, ess_bulk, ess_tail, nonfinite, constant)


def _stack(
    samples: Mapping[str, Shaped[np.ndarray, "..."]],
) -> tuple[tuple[str, ...], Float[np.ndarray, "galaxy component chain draw"]]:
    """All scalar components side by side in double precision, with their names."""
    if not samples:
        raise ValueError("`samples` must hold at least one parameter, got an empty mapping.")
    first_name, first = next(iter(samples.items()))
    names: list[str] = []
    columns: list[Float[np.ndarray, "galaxy chain draw component"]] = []
    for name, values in samples.items():
        if values.ndim < 3 or values.shape[:3] != first.shape[:3]:
            raise ValueError(
                f"`samples[{name!r}]` must begin with the axes (galaxy, chain, draw) of {first_name!r}: "
                f"expected {first.shape[:3]}, got shape {values.shape}."
            )
        component_shape = values.shape[3:]
        names += [component_name(name, index) for index in np.ndindex(component_shape)]
        columns.append(np.asarray(values, dtype=np.float64).reshape(*values.shape[:3], -1))
    return tuple(names), np.moveaxis(np.concatenate(columns, axis=-1), -1, 1)


def component_name(name: str, index: tuple[int, ...]) -> str:
    """Name of one component: ``logmass`` for a scalar, ``logsfr_ratios[2]`` for a vector."""
    return f"{name}[{','.join(str(i) for i in index)}]" if index else name


def _verdict(
    parts: ComponentDiagnostics,
    galaxy: int,
    n_divergent: int,
    beta: float,
    *,
    n_chain: int,
    n_draw: int,
    rule: ConvergenceRule,
) -> Convergence:
    """Apply the rule to one galaxy."""
    rhat, ess_bulk, ess_tail = parts.rhat[galaxy], parts.ess_bulk[galaxy], parts.ess_tail[galaxy]
    worst = int(np.argmax(np.where(np.isnan(rhat), np.inf, rhat)))  # an undefined R-hat is the worst
    fraction = n_divergent / (n_chain * n_draw)
    failures: dict[str, str] = {}
    if parts.nonfinite[galaxy].any():
        bad = ", ".join(np.array(parts.names)[parts.nonfinite[galaxy]])
        failures["nonfinite"] = f"draws of {bad} are NaN or infinite: check the data and the prior bounds"
    elif parts.constant[galaxy].any():
        bad = ", ".join(np.array(parts.names)[parts.constant[galaxy]])
        failures["constant"] = f"a chain never moves in {bad}: lower the step size or start elsewhere"
    # Comparisons are written so that NaN fails.
    if not rhat[worst] <= rule.rhat:
        what = f"R-hat of {parts.names[worst]} is {rhat[worst]:.3f}, above {rule.rhat:g}"
        cure = (
            "run longer chains or look for separate modes"
            if n_chain > 1
            else "run at least 2 chains (4 are better)"
        )
        failures["rhat"] = f"{what}: {cure}"
    for kind, ess, limit in (("bulk", ess_bulk, rule.ess_bulk), ("tail", ess_tail, rule.ess_tail)):
        if not ess.min() >= limit:
            where = parts.names[int(np.argmin(ess))]
            failures[f"ess_{kind}"] = (
                f"{kind} effective sample size of {where} is {ess.min():.0f}, below {limit:g}: draw more"
            )
    if not fraction <= rule.divergent_fraction:
        failures["divergences"] = (
            f"{n_divergent} of {n_chain * n_draw} draws diverged, more than {rule.divergent_fraction:.1%}: "
            "raise the target acceptance probability"
        )
    if not beta >= 1.0:
        failures["pilot"] = (
            f"the pilot ended at inverse temperature {beta:.2g}, before the posterior at 1, and may have "
            "missed modes: give it more points or rounds"
        )
    return Convergence(
        rhat_max=float(rhat[worst]),
        rhat_worst=parts.names[worst],
        ess_bulk_min=float(ess_bulk.min()),
        ess_tail_min=float(ess_tail.min()),
        n_divergent=n_divergent,
        converged=not failures,
        flag=",".join(failures) or "ok",
        reason="; ".join(failures.values()),
    )
