"""``hbm population``, its settings, and the selections that it makes."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner

from hbm.cli import app
from hbm.config import InterimPrior, ModelConfig
from hbm.convergence import Convergence
from hbm.coordinates import build_posterior
from hbm.galaxies import cosmology_by_name, galaxy_axes, stack_galaxies, take_galaxy
from hbm.model import GalaxyData
from hbm.population import Schechter, gather_survey, load_population
from hbm.population.configured import population_of, volume_redshifts
from hbm.population.detection import magnitude_limit, property_limit
from hbm.population.draws import PROPERTIES, interim_draw
from hbm.population.hierarchy import Hierarchy
from hbm.population.mock import write_example
from hbm.population.relations import MassMetallicity
from hbm.population.settings import read_settings
from hbm.results import (
    FitResult,
    ObservedBands,
    Provenance,
    load_result,
    make_result,
    result_path,
    save_result,
)

BANDS = ("sdss_u0", "sdss_g0", "sdss_r0", "sdss_i0", "twomass_Ks")
"""Of the fixture `galaxy`."""


def run(*arguments: object, code: int = 0) -> Any:
    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(
        app, ["population", *(str(word) for word in arguments)], catch_exceptions=False
    )
    assert done.exit_code == code, done.output
    return done


def refused(*arguments: object) -> str:
    done = run(*arguments, code=1)
    assert any(line.startswith("Error: ") for line in done.stderr.splitlines())  # notes may come before
    return " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a mock survey's file, with lengths that take seconds."""
    path = write_example(tmp_path_factory.mktemp("mock"), n=6)
    text = path.read_text().replace("warmup = 200\ndraws = 250\ndraws_per_galaxy = 150", LENGTHS)
    text = text.replace("draws = 4000", "draws = 200")
    assert LENGTHS in text
    path.write_text(text)
    return path


LENGTHS = "warmup = 20\ndraws = 30\nchains = 2\ndraws_per_galaxy = 50"


def test_a_population_from_a_file(mock: Path) -> None:
    bad = load_result(result_path(mock.parent / "results", "mock000"))
    convergence = json.loads(bad.idata.attrs["convergence"]) | {"converged": False, "flag": "rhat"}
    bad.idata.attrs |= {"galaxy_id": '"bad"', "flag": '"rhat"', "convergence": json.dumps(convergence)}
    save_result(bad, result_path(mock.parent / "results", "bad"))
    done = run(mock)
    assert "from 6 galaxies, reweight" in done.stdout
    assert "1 of 7 galaxies are left out" in done.stderr
    for name in ("log_mstar", "alpha", "mzr_scatter", "log_detected"):
        assert name in done.stdout
    found = load_population(mock.parent / "population.nc")
    assert found.method == "reweight"
    assert "ess" in found.flag
    assert f"Flagged {found.flag}" in done.stdout
    assert found.idata.posterior["alpha"].shape == (2, 30)
    assert found.effective is not None
    assert found.effective.shape == (6,)
    low, median, high = np.quantile(found.draws("alpha"), (0.16, 0.5, 0.84))
    assert f"{median:.3f}" in done.stdout
    assert f"{low:.3f} to {high:.3f}" in done.stdout
    assert (mock.parent / "population.png").stat().st_size > 5000
    assert "`out`" in refused(mock)
    with pytest.raises(ValueError, match="must be 'joint' or 'gibbs' to have galaxies, got 'reweight'"):
        found.galaxies("logmass")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('method = "reweight"', 'method = "nuts"', "`method` in [sampler] of .* must be one of 'reweight'"),
        ("warmup = 20", "warmup = 2.5", "`warmup` in [sampler] of .* must be a whole number, got 2.5"),
        ("[relations.schechter]", "[relations.schecter]", "got `schecter`. Did you mean `schechter`?"),
        ("[relations.schechter]", "[relations.schechter]\nlaw = 9", "unknown key `law`; known are high, low"),
        ("[relations.schechter]", '[relations.schechter]\nlow = "9"', "must be a number, got '9'"),
        ('results = "results"', 'result = "results"', "unknown key `result`; .* Did you mean `results`"),
        ('results = "results"', "", "must have the keys `results`"),
        ('results = "results"', 'results = "elsewhere"', "`results` must be a folder of `hbm fit`, got"),
        ('property = "logmass"', 'property = "mass"', "`property` must be one of logmass, .* got 'mass'"),
        ('property = "logmass"', 'function = "a"', "must not have `limit` beside `function`"),
        (
            'property = "logmass"',
            'band = "sdss_r0"',
            "`zred_low` and `zred_high` must be given in [selection]",
        ),
        ('property = "logmass"', "", "must have one of `band`, `property`, `function`, got none"),
        ("[selection]", "[[selection]]", r"`selection` in .* must be a table, [selection]"),
        ("[sampler]", "[sampler", "is not valid TOML"),
        ('out = "population.nc"', 'out = "population.csv"', "must end in .nc, got 'population.csv'"),
        ("limit = 9.8\n", "", "must have `limit` beside `property`"),
    ],
)
def test_bad_files_are_refused(mock: Path, old: str, new: str, words: str) -> None:
    import re

    assert old in mock.read_text()
    path = mock.parent / "bad.toml"
    path.write_text(mock.read_text().replace(old, new).replace("population.nc", "other.nc"))
    pattern = re.escape(words).replace(r"\.\*", ".*").replace(r"\ ", " ")
    assert re.search(pattern, refused(path)), refused(path)


def test_help() -> None:
    text = run("--help").output
    for word in ("--example", "--resume", "[relations.schechter]", "Examples"):
        assert word in text


def test_arguments_are_refused(mock: Path, tmp_path: Path) -> None:
    assert "Give a TOML file, or `--example`" in refused()
    assert "not both" in refused(mock, "--example", tmp_path)
    assert "no such file" in refused(tmp_path / "none.toml")
    assert "already holds population.toml" in refused("--example", mock.parent)


def test_hosts_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    assert "must be given together" in refused(tmp_path / "any.toml", "--hosts", 2)
    words = refused(tmp_path / "any.toml", "--hosts", 2, "--host", 2, "--coordinator", "here:1")
    assert "`host` must be from 0 to 1" in words


def test_relations_of_a_file() -> None:
    prior = InterimPrior(logzsol=(-1.0, 0.2))
    made = population_of({"mass_metallicity": {"high": 0.1}, "schechter": {}}, prior).relations
    assert made == (Schechter(*prior.logmass), MassMetallicity(-1.0, 0.1))
    own = population_of({"hbm.population:SplineMassFunction": {"n_knot": 5}}, prior).relations[0]
    assert own.n_knot == 5  # type: ignore[attr-defined]
    assert len(population_of(None, prior).relations) == 5
    with pytest.raises(ValueError, match=r"`relations` 'hbm.population:Nothing' cannot be imported"):
        population_of({"hbm.population:Nothing": {}}, prior)


def test_settings_of_all_tables(tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(
        'results = "r"\n[catalog]\npath = "c.fits"\nimages = "i.h5"\n[calibration]\nerror_floor = "free"\n'
        '[selection]\nband = "sdss_r0"\nlimit = 17\nscatter = 0.1\nzred_low = 0.1\nzred_high = 0.2\n'
    )
    found = read_settings(path)
    assert found.folder == tmp_path
    assert found.sampler.method == "reweight"
    assert found.catalog is not None
    assert found.catalog.images == "i.h5"
    assert found.calibration is not None
    assert found.calibration.error_floor == "free"
    assert found.selection is not None
    assert found.selection.limit == 17
    zred = volume_redshifts(0.1, 0.2, "Planck18", 0)
    assert 0.1 < zred.min() < zred.max() < 0.2
    assert np.median(zred) > 0.155  # there is more volume far away


@pytest.mark.slow
def test_a_magnitude_limit_is_that_of_the_model(grid: Any) -> None:
    """At fixed redshift, against fluxes and the limit written out; the probability is over the histories."""
    config = ModelConfig(n_node=3, n_old=3)
    detection = magnitude_limit("sdss_r0", 18.0, 0.1, (0.1, 0.1), config, grid, seed=3)
    n = 300
    galaxies = {"age_universe": jnp.full(n, 12.447)}
    for i, name in enumerate(PROPERTIES):
        galaxies[name] = interim_draw(name, jax.random.key(i), galaxies, config.prior)
    galaxies["logmass"] = 9.0 + 0.005 * jnp.arange(n)
    probability = np.asarray(detection(galaxies), float)
    heavier = np.asarray(detection(galaxies | {"logmass": galaxies["logmass"] + 0.04}), float)
    # 0.04 dex of mass are 0.1 mag, one standard deviation of the noise.
    between = (probability > 1e-3) & (probability < 1 - 1e-3) & (heavier < 1 - 1e-3)
    assert between.sum() > 10
    steps = scipy.stats.norm.ppf(heavier[between]) - scipy.stats.norm.ppf(probability[between])
    np.testing.assert_allclose(steps, 1.0, atol=0.02)
    half = np.asarray(property_limit("logmass", 9.5, 0.2)({"logmass": jnp.asarray([9.3, 9.5])}))
    np.testing.assert_allclose(half, [scipy.stats.norm.cdf(-1), 0.5], rtol=1e-5)
    for bad, text in (
        (lambda: property_limit("mass", 9.5, 0.2), "`property` must be one of"),
        (lambda: property_limit("logmass", 9.5, 0.0), "`scatter` must be positive"),
        (lambda: magnitude_limit("sdss_r0", 18.0, 0.1, (0.2, 0.1), config, grid), "`zred` must be two"),
    ):
        with pytest.raises(ValueError, match=text):
            bad()


@pytest.mark.slow
def test_a_magnitude_limit_between_compiled_redshifts(grid: Any) -> None:
    """Where the distance modulus bends most, against photometry compiled at the redshift itself."""
    config = ModelConfig(n_node=2, n_old=2, nebular=False, dust_emission=False)
    n, zred = 40, 0.03
    age = float(cosmology_by_name(config.cosmology).age_np(zred))
    galaxies = {"age_universe": jnp.full(n, age)}
    for i, name in enumerate(PROPERTIES):
        galaxies[name] = interim_draw(name, jax.random.key(i), galaxies, config.prior)
    galaxies["logmass"] = jnp.full(n, 9.0)
    between = magnitude_limit("sdss_r0", 17.0, 1.0, (0.02, 0.04), config, grid, seed=3)
    here = magnitude_limit("sdss_r0", 17.0, 1.0, (zred, zred), config, grid, seed=3)
    one, two = (scipy.stats.norm.ppf(np.asarray(f(galaxies), float)) for f in (between, here))
    assert np.isfinite(two).sum() > 20
    good = np.abs(two) < 3
    # In magnitudes, as the noise is one: interpolated moduli would be 0.13 too bright.
    np.testing.assert_allclose(one[good], two[good], atol=0.01)


def fitted(galaxy: GalaxyData, name: str, sites: dict[str, Any], grid_info: dict[str, Any]) -> FitResult:
    """A result with given draws, axes (chain, draw, ...)."""
    config = ModelConfig(n_zred=5)
    ones = np.ones(len(BANDS))
    bands = ObservedBands(
        BANDS, ones, np.asarray(galaxy.flux, float), np.asarray(galaxy.flux_err, float),
        ones.astype(bool), np.zeros(len(BANDS), bool), 0.05 * ones,
    )  # fmt: skip
    return make_result(
        name, 0.1, posterior=sites, sample_stats={"diverging": np.zeros((2, 50), bool)},
        flux=np.ones((2, 50, len(BANDS))), bands=bands,
        convergence=Convergence(1.0, "logmass", 500.0, 500.0, 0, True, "ok", ""),
        provenance=Provenance({"config": json.loads(config.to_json())}, grid_info, BANDS, 0, "t", "2026", {}),
    )  # fmt: skip


def test_a_survey_from_results(galaxy: GalaxyData, grid: Any) -> None:
    """Stored draws come back in the sampler's coordinates; zero points are shared though fits had none."""
    config = ModelConfig(n_zred=5)
    data = stack_galaxies([galaxy])
    posterior = build_posterior(config, take_galaxy(data, 0))
    vectors = 0.5 * jax.random.normal(jax.random.key(3), (1, 100, posterior.dim))
    by_draw = jax.vmap(posterior.constrain, in_axes=(0, None))
    sites = jax.jit(jax.vmap(by_draw, in_axes=(0, galaxy_axes(data))))(vectors, data)
    values = {name: np.asarray(v).reshape(2, 50, *v.shape[2:]) for name, v in sites.items()}
    result = fitted(galaxy, "a", values, dict(grid.provenance))
    survey = gather_survey([result], grid=grid, n_draw=100, zero_point_sigma=0.02)
    for name in PROPERTIES:
        np.testing.assert_allclose(survey.draws.properties[name][0], values[name].ravel(), atol=1e-3)
    back = jax.jit(jax.vmap(posterior.unconstrain, in_axes=(0, None)))
    found = back({name: v[0] for name, v in sites.items()}, take_galaxy(data, 0))
    np.testing.assert_allclose(found, vectors[0], atol=2e-3)
    hierarchy = Hierarchy(survey, population_of({"mass_metallicity": {}}, config.prior))
    assert hierarchy.n_shared == 3 + len(BANDS)
    for arguments, text in (
        ({"error_floor": "free", "share": False}, "must hold draws of `error_floor`, which is free for each"),
        ({"grid": grid, "n_draw": 200}, "`n_draw` must be at most the number of draws, 100 of a, got 200"),
    ):
        with pytest.raises(ValueError, match=text):
            gather_survey([result], **{"grid": grid, "n_draw": 100} | arguments)
    with pytest.raises(ValueError, match="`grid` must be the one that a was fitted with"):
        gather_survey([fitted(galaxy, "a", values, {"name": "another"})], grid=grid, n_draw=100)
