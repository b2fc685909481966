"""Parts of a calibration run: faults, the mock survey, weights, fits in pieces, coverage."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats

from generative.mock import trained_ages
from hbm.calibration import fits, mock
from hbm.calibration.coverage import (
    GOAL,
    Coverage,
    central_deviation,
    chance_of_deviation,
    coverage_of,
    part_of,
)
from hbm.calibration.faults import Faults, parse_faults
from hbm.calibration.fits import N_KEPT, PROPERTIES, Fitter, Posteriors, TimeUpError
from hbm.calibration.importance import image_log_prob, reweight
from hbm.calibration.pieces import Pieces, digest
from hbm.catalog import Catalog
from hbm.catalog_images import image_config
from hbm.config import ModelConfig
from hbm.demo import load_joint_demo
from hbm.galaxies import DataBuilder
from hbm.sampler import SamplerConfig

SIGMA = 0.5


# Faults


def test_faults_have_names_and_words() -> None:
    assert Faults().name == "none"
    both = parse_faults(["psf=1.1", "depth=0.9, mask=0.2"])
    assert [f.name for f in both] == ["psf=1.1", "depth=0.9,mask=0.2"]
    assert both[1] == Faults(depth=0.9, mask=0.2)
    assert "wider by this factor" in both[0].description
    assert Faults().description == "the model is told the truth"


def test_a_wrong_prior_moves_the_dust_alone() -> None:
    config = ModelConfig()
    moved = Faults(prior=0.5).of_galaxies(config)
    assert moved.prior.dust2 == (0.8, 1.0, 4.0)
    assert dataclasses.replace(moved.prior, dust2=config.prior.dust2) == config.prior
    assert Faults(psf=1.1).of_galaxies(config) == config


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seeing=1.1", "one of psf, depth, zred"),
        ("psf", "a name and a number"),
        ("psf=wide", "a name and a number"),
        ("psf=9", "factor from 0.2 to 5 for psf"),
        ("mask=1.5", "part from 0 to 0.9 for mask"),
        ("zred=-0.01", "error from 0 to 0.1 for zred"),
        ("prior=4", "shift from -3 to 3"),
        ("psf=1", "must change something"),
    ],
)
def test_bad_faults_are_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_faults([word])


# The mock survey


def test_wrong_redshifts_stay_within_training() -> None:
    zred = np.repeat([0.05, 0.1, 0.25], 40)
    told = mock.wrong_redshifts(zred, 0.01, (0.05, 0.25), seed=1)
    np.testing.assert_allclose(np.abs(told - zred), 0.01 * (1 + zred))
    assert told.min() >= 0.05
    assert told.max() <= 0.25
    assert 0.2 < (told[40:80] > 0.1).mean() < 0.8


class CameraStandIn:
    """In place of `generative.mock.ImageMock`: no images."""

    zred = np.array([0.1, 0.2])

    def __init__(self, model: Any) -> None:
        del model

    def observe(self, names: tuple[str, ...], theta: np.ndarray, *_: Any, **more: Any) -> Any:
        return {"names": names, "theta": theta, **more}


@pytest.fixture(scope="module")
def builder(grid: Any) -> DataBuilder:
    likelihood = load_joint_demo().catalog.images.likelihood  # type: ignore[union-attr]
    return DataBuilder(grid, image_config(ModelConfig(), likelihood), ("sdss_g0", "sdss_i0"))


def survey(builder: DataBuilder, monkeypatch: pytest.MonkeyPatch, **faults: float) -> mock.Mock:
    monkeypatch.setattr("generative.mock.ImageMock", CameraStandIn)
    model = SimpleNamespace(instrument=SimpleNamespace(zred=(0.05, 0.25)))
    told = Faults(**faults)
    galaxies = builder
    if told.prior:
        galaxies = _with(builder, told.of_galaxies(builder.config))
    return mock.mock_survey(builder, model, 40, 3, told, galaxies=galaxies)


def _with(builder: DataBuilder, config: ModelConfig) -> DataBuilder:
    """The same tables under another prior."""
    import copy

    other = copy.copy(builder)
    other.config = config
    return other


def test_photometry_and_faults(builder: DataBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = survey(builder, monkeypatch)
    assert trained_ages(plain.truth["mwa"], plain.truth["logssfr"], np.asarray(plain.catalog.zred)).all()
    np.testing.assert_allclose(plain.stamps["theta"][:, 0], plain.truth["logmass"])
    assert plain.stamps["names"] == plain.catalog.id

    def pull(one: mock.Mock) -> float:
        error = np.hypot(one.catalog.flux_err, 0.05 * one.truth["flux"])
        return float(np.std((one.catalog.flux - one.truth["flux"]) / error))

    assert pull(plain) == pytest.approx(1, abs=0.25)  # 80 fluxes: 0.08
    noisy = survey(builder, monkeypatch, depth=3.0)
    np.testing.assert_allclose(noisy.catalog.flux_err, plain.catalog.flux_err, rtol=1e-6)
    np.testing.assert_allclose(noisy.truth["flux"], plain.truth["flux"])
    assert pull(noisy) > 1.3 * pull(plain)
    shifted = survey(builder, monkeypatch, zred=0.01)
    np.testing.assert_allclose(shifted.catalog.flux, plain.catalog.flux)
    off = np.abs(shifted.catalog.zred - plain.catalog.zred)
    np.testing.assert_allclose(off, 0.01 * (1 + np.asarray(plain.catalog.zred)))
    np.testing.assert_allclose(shifted.stamps["told_zred"], shifted.catalog.zred)


def test_a_wrong_prior_draws_other_galaxies_for_the_same_survey(
    builder: DataBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[DataBuilder, np.ndarray]] = []

    def simulate(which: DataBuilder, zred: np.ndarray, error: np.ndarray, *, seed: int) -> None:
        del zred, seed
        asked.append((which, error))
        raise RuntimeError("enough")

    monkeypatch.setattr(mock, "simulate", simulate)
    monkeypatch.setattr(
        mock, "prior_flux", lambda which, zred: np.full(2, zred * which.config.prior.dust2[0])
    )
    for faults in ({}, {"prior": 1.0}):
        with pytest.raises(RuntimeError, match="enough"):
            survey(builder, monkeypatch, **faults)
    assert asked[1][0].config.prior.dust2[0] == asked[0][0].config.prior.dust2[0] + 1.0
    np.testing.assert_array_equal(asked[0][1], asked[1][1])


# Weights


def test_weights_give_the_product_of_two_gaussians() -> None:
    rng = np.random.default_rng(2)
    draws = rng.normal(0.0, 1.0, 20000)
    log_weight = -0.5 * ((draws - 1.0) / 0.5) ** 2
    found = reweight(log_weight, rng)
    assert len(found.rows) == N_KEPT
    kept = np.concatenate([draws[reweight(log_weight, rng).rows] for _ in range(20)])
    # Three standard errors of 20 times 499 draws, and of the 8,500 effective ones.
    assert kept.mean() == pytest.approx(0.8, abs=0.025)
    assert kept.std() == pytest.approx(np.sqrt(0.2), rel=0.03)
    assert found.is_good
    # Kish's number, of weights that needed no smoothing.
    w = np.exp(log_weight)
    assert found.effective == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=0.05)
    half = reweight(log_weight, rng, efficiency=0.5)
    assert half.effective == pytest.approx(0.5 * found.effective, rel=0.05)


def test_weights_on_few_draws_are_not_good() -> None:
    rng = np.random.default_rng(3)
    draws = rng.normal(size=2000)
    far = reweight(-0.5 * ((draws - 4.5) / 0.05) ** 2, rng)
    assert not far.is_good


def test_draws_without_weight_are_left_out() -> None:
    rng = np.random.default_rng(4)
    log_weight = np.where(np.arange(1000) < 700, 0.0, -np.inf)
    assert reweight(log_weight, rng).rows.max() < 700
    with pytest.raises(ValueError, match="must be finite for some draws"):
        reweight(np.full(10, -np.inf), rng)


# Fits in pieces


def catalog_with_images(n: int) -> Catalog:
    """The demo's galaxy ``n`` times."""
    demo = load_joint_demo().catalog
    images = demo.images
    assert images is not None
    rows = np.zeros(n, int)
    ids = np.array([f"g{i:03d}" for i in range(n)])
    data = type(images.compiled.data)(*(np.asarray(leaf)[rows] for leaf in images.compiled.data))
    compiled = images.compiled._replace(
        id=ids, data=data, zred=images.compiled.zred[rows], error=images.compiled.error[rows],
        p_typical=images.compiled.p_typical[rows],
    )  # fmt: skip
    shape = (n, demo.flux.shape[1])
    some = Catalog(
        id=tuple(ids.tolist()), zred=np.full(n, demo.zred[1]), zred_err=np.zeros(n),
        flux=np.tile(demo.flux[1], (n, 1)), flux_err=np.tile(demo.flux_err[1], (n, 1)),
        observed=np.ones(shape, bool), upper_limit=np.zeros(shape, bool), filter_names=demo.filter_names,
    )  # fmt: skip
    return dataclasses.replace(some, images=dataclasses.replace(images, compiled=compiled))


class FitStandIn:
    """In place of `hbm.fit`: a broad Gaussian about the demo's truth; keeps what it was asked for."""

    def __init__(self, poor: Sequence[str] = ()) -> None:
        self.calls: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        self.poor = poor
        self.truth = load_joint_demo().truth

    def __call__(self, catalog: Catalog, *, use: tuple[str, ...], progress: Any, **_: Any) -> list[Any]:
        self.calls.append((use, catalog.id))
        progress(0, 1, "sampling")
        return [self._result(name) for name in catalog.id]

    def _result(self, name: str) -> Any:
        rng = np.random.default_rng(int(name[1:]))
        centre = {"logmstar": 10.0, "logsfr_100": 0.0} | self.truth

        def draws(component: str) -> np.ndarray:
            return centre.get(component, 0.0) + 0.1 * rng.normal(size=(4, 300))

        verdict = SimpleNamespace(converged=name not in self.poor, ess_bulk_min=900.0)
        return SimpleNamespace(draws=draws, convergence=verdict)


def fitter(
    catalog: Catalog, builder: DataBuilder, folder: Path, *, n_piece: float = np.inf, **more: Any
) -> Fitter:
    left = [n_piece]

    def is_over() -> bool:
        left[0] -= 1
        return left[0] < 0

    options: dict[str, Any] = {"method": "importance", "n_check": 0, "domain": trained_ages} | more
    return Fitter(
        catalog, config=builder.config, builder=builder, sampler=SamplerConfig(), grid=None, seed=0,
        pieces=Pieces(folder), is_over=is_over, progress=lambda *_: None, **options,
    )  # fmt: skip


def test_joint_draws_are_photometric_ones_weighted_with_the_image(
    builder: DataBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in = FitStandIn()
    monkeypatch.setattr("hbm.fitting.fit", stand_in)
    catalog = catalog_with_images(3)
    assert catalog.images is not None
    work = fitter(catalog, builder, tmp_path)
    photometry, joint = work.posteriors("photometry"), work.posteriors("joint")
    assert photometry.sampled.all()
    assert not joint.sampled.any()
    assert joint.converged.all()
    piece = next(iter(work._sampled("photometry", [0, 1, 2])))[1]
    draws = piece["draws"][1]
    log_weight = np.asarray(
        image_log_prob(catalog.images.likelihood, draws[:, :6], catalog.images.galaxy("g001")), float
    )
    weight = np.exp(log_weight - log_weight.max())
    mean = weight @ draws[:, :6] / weight.sum()
    error = np.sqrt(0.01 / joint.effective[1])
    np.testing.assert_allclose(joint.draws[1, :, :6].mean(0), mean, atol=4 * error)
    assert np.abs(mean - draws[:, :6].mean(0)).max() > 4 * error  # the image says something
    assert stand_in.calls == [(("photometry",), catalog.id)]


def test_image_draws_are_prior_draws_weighted(
    builder: DataBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    catalog = catalog_with_images(2)
    assert catalog.images is not None
    likelihood = catalog.images.likelihood
    rng = np.random.default_rng(0)
    truth = np.array([load_joint_demo().truth[name] for name in PROPERTIES])
    pool = np.zeros((4000, 15), np.float32)
    pool[:, :6] = truth + [0.5, 0.5, 2.0, 0.3, 0.3, 0.5] * rng.uniform(-1, 1, size=(4000, 6))
    limit = float(np.quantile(pool[:, 2], 0.3))
    monkeypatch.setattr(Fitter, "_prior", lambda *_: pool)
    monkeypatch.setattr("hbm.fitting.fit", FitStandIn())
    image = fitter(catalog, builder, tmp_path, domain=lambda mwa, *_: mwa > limit).posteriors("image")
    log_weight = np.asarray(image_log_prob(likelihood, pool[:, :6], catalog.images.galaxy("g000")), float)
    weight = np.exp(log_weight - log_weight.max()) * (pool[:, 2] > limit)
    mean = weight @ pool[:, :6] / weight.sum()
    spread = np.sqrt(weight @ (pool[:, :6] - mean) ** 2 / weight.sum())
    assert image.effective[0] == pytest.approx(weight.sum() ** 2 / (weight**2).sum(), rel=0.15)
    np.testing.assert_allclose((image.draws[0, :, :6].mean(0) - mean) / spread, 0, atol=4 / np.sqrt(N_KEPT))
    assert not image.sampled.any()
    assert image.draws[..., 2].min() > limit


def test_finished_pieces_are_not_done_again(
    builder: DataBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fits, "PIECE", 2)
    stand_in = FitStandIn()
    monkeypatch.setattr("hbm.fitting.fit", stand_in)
    catalog = catalog_with_images(5)
    with pytest.raises(TimeUpError):
        fitter(catalog, builder, tmp_path, n_piece=2).posteriors("photometry")
    assert [ids for _, ids in stand_in.calls] == [("g000", "g001"), ("g002", "g003")]
    whole = fitter(catalog, builder, tmp_path, n_piece=1).posteriors("photometry")
    assert [ids for _, ids in stand_in.calls[2:]] == [("g004",)]
    again = fitter(catalog, builder, tmp_path, n_piece=0).posteriors("photometry")
    np.testing.assert_array_equal(whole.draws, again.draws)
    # Other fluxes are another piece.
    other = dataclasses.replace(catalog, flux=2 * catalog.flux)
    with pytest.raises(TimeUpError):
        fitter(other, builder, tmp_path, n_piece=0).posteriors("photometry")


def test_poor_weights_are_replaced_by_nuts_and_both_ways_compared(
    builder: DataBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in = FitStandIn(poor=["g002"])  # its photometric chains did not converge: nothing to weight
    monkeypatch.setattr("hbm.fitting.fit", stand_in)
    monkeypatch.setattr(fits, "default_batch_size", lambda: 4)
    work = fitter(catalog_with_images(6), builder, tmp_path, n_check=2)
    joint = work.posteriors("joint")
    assert joint.sampled.tolist() == [False, False, True, False, False, False]
    assert stand_in.calls[1] == (("photometry", "image"), ("g002", "g000", "g001", "g003"))  # a full leg
    assert work.agreement["joint"].n == 3
    assert work.agreement["joint"].largest > 0  # the stand-in knows nothing of the image


def test_nuts_for_all(builder: DataBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in = FitStandIn()
    monkeypatch.setattr("hbm.fitting.fit", stand_in)
    work = fitter(catalog_with_images(2), builder, tmp_path, method="nuts")
    assert work.posteriors("image").sampled.all()
    assert stand_in.calls == [(("image",), ("g000", "g001"))]


def test_draws_outside_the_domain_are_cut(
    builder: DataBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("hbm.fitting.fit", FitStandIn())
    limit = load_joint_demo().truth["mwa"]
    work = fitter(catalog_with_images(2), builder, tmp_path, domain=lambda mwa, *_: mwa < limit)
    column = PROPERTIES.index("mwa")
    for use in ("photometry", "joint"):
        assert work.posteriors(use).draws[..., column].max() < limit  # type: ignore[arg-type]


def test_pieces_and_digests(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path / "new")
    assert pieces.get("a") is None
    pieces.put("a", {"x": np.arange(3), "flag": True})
    kept = pieces.get("a")
    assert kept is not None
    assert kept["x"].tolist() == [0, 1, 2]
    assert [path.name for path in pieces.folder.iterdir()] == ["a.npz"]
    assert digest("a", np.zeros(3)) == digest("a", np.zeros(3))
    assert len({digest(x) for x in (np.zeros(3), np.zeros(4), np.zeros(3, np.float32), "a", 1)}) == 5


# Coverage


@pytest.fixture
def few_chances(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for a test."""
    monkeypatch.setattr("hbm.calibration.coverage._N_CHANCE", 20)
    monkeypatch.setattr("hbm.calibration.coverage._N_REFERENCE", 5)


def gaussian(
    n: int = 300, scale: float = 1.0, shift: float = 0.0
) -> tuple[Posteriors, dict[str, np.ndarray]]:
    """Posteriors of a standard normal prior and noise of the same size: exact for scale 1 and shift 0."""
    rng = np.random.default_rng(6)
    truth = {name: rng.normal(size=n) for name in PROPERTIES}
    draws = np.stack(
        [
            (value + rng.normal(size=n))[:, None] / 2
            + np.sqrt(0.5) * (shift + scale * rng.normal(size=(n, N_KEPT)))
            for value in truth.values()
        ],
        axis=-1,
    )
    everywhere = np.ones(n, bool)
    return Posteriors(draws, everywhere, ~everywhere, np.full(n, 499.0)), truth


def counted(**how: float) -> Coverage:
    pytest.importorskip("sbi", reason="needs the extra [calibrate]")
    posteriors, truth = gaussian(**how)  # type: ignore[arg-type]
    return coverage_of(posteriors, PROPERTIES, truth, seed=1)


@pytest.mark.usefixtures("few_chances")
def test_exact_posteriors_pass() -> None:
    found = counted()
    assert found.deviation <= found.chance_95
    assert "misses" not in found.verdict
    assert 0 < found.chance < found.chance_95 < 0.06
    for quantity in found.quantities.values():
        assert quantity.ranks.ks_p > 1e-3
        assert quantity.width == pytest.approx(2 * 0.9945 * np.sqrt(0.5), rel=0.03)
        assert abs(quantity.bias) < 0.2


@pytest.mark.usefixtures("few_chances")
def test_narrow_posteriors_are_noticed() -> None:
    found = counted(scale=0.7)
    assert found.verdict == "misses the goal"
    assert found.deviation > max(GOAL, found.chance_95)
    assert all(q.ranks.coverage[0] < 0.6 for q in found.quantities.values())
    # Of a Gaussian whose width is 0.7 of the true one: largest difference of the two coverages.
    z = np.linspace(0, 4, 2001)
    exact = np.max(2 * scipy.stats.norm.cdf(z) - 2 * scipy.stats.norm.cdf(0.7 * z))
    for quantity in found.quantities.values():
        assert quantity.deviation == pytest.approx(exact, abs=0.08)


@pytest.mark.usefixtures("few_chances")
def test_biased_posteriors_are_noticed() -> None:
    found = counted(shift=0.7)
    assert found.verdict == "misses the goal"
    assert all(q.bias == pytest.approx(0.7, abs=0.2) for q in found.quantities.values())


@pytest.mark.usefixtures("few_chances")
def test_few_galaxies_cannot_meet_the_goal() -> None:
    assert "too few galaxies" in counted(n=30).verdict


def test_not_converged_galaxies_count_and_are_left_out_beside() -> None:
    pytest.importorskip("sbi", reason="needs the extra [calibrate]")
    posteriors, truth = gaussian()
    bad = np.arange(300) % 10 == 0
    draws = posteriors.draws.copy()
    draws[bad] += 5
    found = coverage_of(
        posteriors._replace(draws=draws, converged=~bad), PROPERTIES, truth, seed=1, chance=False
    )
    assert found.n_not_converged == 30
    assert found.deviation_converged < found.deviation
    assert np.isnan(found.chance)


def test_deviation_of_central_intervals() -> None:
    n = 4000
    uniform = (np.arange(n) + 0.5) / n
    assert central_deviation(uniform) < 1e-3
    assert central_deviation(0.25 + 0.5 * uniform) == pytest.approx(0.5, abs=1e-3)
    rng = np.random.default_rng(8)
    found = [central_deviation(rng.uniform(size=200)) for _ in range(400)]
    assert np.mean(np.array(found) > chance_of_deviation(200)) == pytest.approx(0.05, abs=0.035)


def test_part_of_posteriors() -> None:
    posteriors, _ = gaussian(n=12)
    few = part_of(posteriors, slice(5))
    assert [len(item) for item in few] == [5] * 4
