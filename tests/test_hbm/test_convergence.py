import numpy as np
import pytest
from scipy.stats import norm, rankdata

from hbm.convergence import ConvergenceRule, component_diagnostics, diagnose, diagnose_batch, import_arviz


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_independent_draws_converge():
    verdict = diagnose({"a": normal(4, 500), "b": normal(4, 500, seed=1)}, 0)
    assert verdict.converged
    assert verdict.flag == "ok"
    assert verdict.reason == ""
    assert verdict.rhat_max == pytest.approx(1.0, abs=0.01)
    # Independent draws: the effective sample size is the number of draws, to its own scatter of about 10 %.
    assert verdict.ess_bulk_min == pytest.approx(2000, rel=0.15)


def test_shifted_chain_is_caught_and_named():
    shifted = normal(4, 500, 3)
    shifted[0, :, 2] += 3.0
    verdict = diagnose({"logmass": normal(4, 500, seed=1), "logsfr_ratios": shifted}, 0)
    assert not verdict.converged
    assert verdict.rhat_max > 1.1
    assert verdict.rhat_worst == "logsfr_ratios[2]"
    assert "rhat" in verdict.flag.split(",")
    assert "ess_bulk" in verdict.flag.split(",")
    assert r"R-hat of logsfr_ratios[2]" in verdict.reason


def test_rhat_of_shifted_chains_matches_the_formula():
    # Vehtari et al. 2021: R-hat of the ranks' normal scores of the halves of each chain, plain and folded.
    draws = normal(2, 400) + np.array([[0.0], [1.0]])
    halves = draws.reshape(4, 200)

    def rhat(x: np.ndarray) -> float:
        score = norm.ppf((rankdata(x).reshape(x.shape) - 0.375) / (x.size + 0.25))
        within, between = score.var(axis=1, ddof=1).mean(), score.mean(axis=1).var(ddof=1)
        return float(np.sqrt((199 / 200 * within + between) / within))

    expected = max(rhat(halves), rhat(np.abs(halves - np.median(halves))))
    assert expected > 1.1
    assert diagnose({"a": draws}, 0).rhat_max == pytest.approx(expected, rel=1e-10)


def test_different_scales_are_caught():
    # Same means: only the folded R-hat sees it.
    draws = normal(4, 500) * np.array([[1.0], [1.0], [1.0], [4.0]])
    assert diagnose({"a": draws}, 0).rhat_max > 1.05


def test_slow_chain_has_few_effective_draws():
    # AR(1) with coefficient r: n (1 - r) / (1 + r) effective draws.
    noise, coefficient = normal(4, 4000), 0.9
    draws = np.zeros_like(noise)
    for i in range(1, 4000):
        draws[:, i] = coefficient * draws[:, i - 1] + np.sqrt(1 - coefficient**2) * noise[:, i]
    verdict = diagnose({"a": draws}, 0)
    assert verdict.ess_bulk_min == pytest.approx(16000 * 0.1 / 1.9, rel=0.2)


def test_batch_equals_arviz_galaxy_by_galaxy():
    az = import_arviz()
    samples = {"a": normal(3, 4, 200), "v": normal(3, 4, 200, 2, seed=1)}
    samples["v"][1, 0] += 1.0
    parts = component_diagnostics(samples)
    assert parts.names == ("a", "v[0]", "v[1]")
    for galaxy in range(3):
        chains = [samples["a"][galaxy], samples["v"][galaxy, ..., 0], samples["v"][galaxy, ..., 1]]
        np.testing.assert_allclose(parts.rhat[galaxy], [az.rhat(x) for x in chains])
        np.testing.assert_allclose(parts.ess_bulk[galaxy], [az.ess(x) for x in chains])
        np.testing.assert_allclose(parts.ess_tail[galaxy], [az.ess(x, method="tail") for x in chains])
    verdicts = diagnose_batch(samples, np.array([0, 0, 100]))
    assert [v.converged for v in verdicts] == [True, False, False]
    for galaxy, verdict in enumerate(verdicts):
        one = {name: values[galaxy] for name, values in samples.items()}
        assert verdict == diagnose(one, [0, 0, 100][galaxy])


def test_divergences():
    draws = {"a": normal(4, 500)}
    assert diagnose(draws, 20).converged  # exactly 1 %
    verdict = diagnose(draws, 21)
    assert verdict.flag == "divergences"
    assert verdict.n_divergent == 21
    assert "21 of 2000" in verdict.reason


def test_rule_is_used():
    draws = {"a": normal(4, 500)}
    assert diagnose(draws, 0, ConvergenceRule(ess_bulk=1e5)).flag == "ess_bulk"
    assert diagnose(draws, 0, ConvergenceRule(ess_tail=1e5)).flag == "ess_tail"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_draws_never_converge(bad: float):
    draws = normal(4, 500)
    draws[1, 7] = bad
    verdict = diagnose({"good": normal(4, 500), "bad": draws}, 0)
    assert not verdict.converged
    assert verdict.flag.split(",")[0] == "nonfinite"
    assert "draws of bad are NaN" in verdict.reason


def test_stuck_chains_never_converge():
    stuck = np.broadcast_to(np.arange(4.0)[:, None], (4, 500))
    for draws in (stuck, np.ones((4, 500))):
        verdict = diagnose({"good": normal(4, 500), "stuck": np.array(draws)}, 0)
        assert not verdict.converged
        assert verdict.flag.split(",")[0] == "constant"
        assert "never moves in stuck" in verdict.reason
    one_stuck = normal(4, 500)
    one_stuck[2] = one_stuck[2, 0]
    assert "constant" in diagnose({"a": one_stuck}, 0).flag


def test_single_chain_is_not_judged_converged():
    verdict = diagnose({"a": normal(1, 2000)}, 0)
    assert not verdict.converged
    assert "at least 2 chains" in verdict.reason


def test_a_pilot_that_did_not_arrive_is_flagged():
    verdicts = diagnose_batch({"a": normal(2, 4, 500)}, np.zeros(2, int), pilot_beta=np.array([1.0, 0.02]))
    assert verdicts[0].converged
    assert verdicts[1].flag == "pilot"
    assert "inverse temperature 0.02" in verdicts[1].reason


def test_single_precision_draws():
    assert diagnose({"a": normal(4, 500).astype(np.float32)}, 0).converged


def test_refusals():
    with pytest.raises(ValueError, match="`samples` must hold at least one parameter"):
        diagnose({}, 0)
    with pytest.raises(ValueError, match=r"`samples\['b'\]` must begin with the axes"):
        diagnose({"a": normal(4, 500), "b": normal(4, 400)}, 0)
    with pytest.raises(ValueError, match="`n_divergent` must have one number per galaxy"):
        diagnose_batch({"a": normal(2, 4, 50)}, np.array([0]))
    with pytest.raises(ValueError, match="`rhat` must be > 1"):
        ConvergenceRule(rhat=1.0)
    with pytest.raises(ValueError, match="`ess_tail` must be >= 0"):
        ConvergenceRule(ess_tail=-1.0)
    with pytest.raises(ValueError, match="`divergent_fraction` must be between 0 and 1"):
        ConvergenceRule(divergent_fraction=1.5)
