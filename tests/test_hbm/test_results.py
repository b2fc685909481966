import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import QTable, Table

from hbm.convergence import diagnose
from hbm.results import (
    FitResult,
    ObservedBands,
    Provenance,
    load_result,
    make_provenance,
    make_result,
    package_versions,
    result_path,
    save_result,
    summary_table,
    write_table,
)

NAMES = ("hst_f606w", "jwst_f115w", "jwst_f444w")
CONFIG = {"sfh": {"kind": "binned", "n_bin": 7}, "free_zred": False, "prior": [7.0, 12.5], "note": None}


def bands() -> ObservedBands:
    return ObservedBands(
        filter_names=NAMES,
        wave_pivot=np.array([5921.1, 11542.6, 44043.2]),
        flux=np.array([1e-9, 3e-9, 5e-9]),
        flux_err=np.array([1e-10, 1e-10, np.inf]),
        observed=np.array([True, True, False]),
        upper_limit=np.array([False, True, False]),
        error_floor=np.full(3, 0.05),
    )


def provenance(**changes: Any) -> Provenance:
    made = make_provenance(
        CONFIG, grid={"sha256": "abc", "isochrones": "MIST"}, filters=NAMES, seed=3, command="hbm fit"
    )
    return dataclasses.replace(made, **changes)


def result(galaxy_id: str = "COSMOS 17", seed: int = 0, **changes: Any) -> FitResult:
    rng = np.random.default_rng(seed)
    posterior = {
        "logmass": rng.normal(10.0, 0.1, size=(4, 200)),
        "mwa": rng.normal(2.0, 0.3, size=(4, 200)),
        "logsfr_ratios": rng.normal(size=(4, 200, 2)).astype(np.float32),
    }
    arguments: dict[str, Any] = {
        "posterior": posterior,
        "sample_stats": {"diverging": rng.uniform(size=(4, 200)) < 0.01, "lp": rng.normal(size=(4, 200))},
        "flux": rng.lognormal(np.log(3e-9), 0.1, size=(4, 200, 3)),
        "bands": bands(),
        "convergence": diagnose(posterior, 2),
        "provenance": provenance(),
        "agebins": np.array([[0.0, 7.5], [7.5, 8.0], [8.0, 9.9]]),
    }
    return make_result(galaxy_id, 0.7, **(arguments | changes))


def test_roundtrip_keeps_everything(tmp_path: Path):
    made = result("naïve ü/7", flags=["few_bands"])
    loaded = load_result(save_result(made, tmp_path / "new" / "a.nc"))
    assert loaded.galaxy_id == "naïve ü/7"
    assert loaded.zred == 0.7
    assert loaded.convergence == made.convergence
    assert loaded.flag == made.flag
    assert loaded.provenance == made.provenance
    assert loaded.bands.filter_names == NAMES
    for field in dataclasses.fields(ObservedBands)[1:]:
        np.testing.assert_array_equal(getattr(loaded.bands, field.name), getattr(made.bands, field.name))
    assert loaded.bands.observed.dtype == bool
    assert set(loaded.idata.groups()) == set(made.idata.groups())
    for group in made.idata.groups():
        for name, variable in made.idata[group].data_vars.items():
            np.testing.assert_array_equal(loaded.idata[group][name].values, variable.values)
            assert loaded.idata[group][name].dims == variable.dims
            assert {k: v for k, v in variable.attrs.items() if k in ("units", "description")}.items() <= (
                loaded.idata[group][name].attrs.items()
            )
    assert loaded.posterior["logsfr_ratios"].dtype == np.float32
    assert loaded.idata["sample_stats"]["diverging"].dtype == bool


def test_units_and_axes_are_named():
    posterior = result().posterior
    assert posterior["logmass"].attrs["units"] == "dex(Msun)"
    assert posterior["mwa"].attrs["units"] == "Gyr"
    assert posterior["logsfr_ratios"].dims == ("chain", "draw", "ratio")


def test_model_settings_come_back_from_the_file_alone(tmp_path: Path):
    path = save_result(result(), tmp_path / "a.nc")
    assert load_result(path).provenance.model_config == CONFIG
    # Readable without this package, too.
    import h5py

    with h5py.File(path) as file:
        assert json.loads(file.attrs["model_config"]) == CONFIG
        assert json.loads(file.attrs["grid"])["sha256"] == "abc"
        assert json.loads(file.attrs["seed"]) == 3
        assert json.loads(file.attrs["versions"])["jax"] == package_versions()["jax"]


def test_long_settings_fit_in_the_file(tmp_path: Path):
    # HDF5 stores attributes of up to 64 KiB by default.
    config = {"table": list(range(50_000))}
    path = save_result(result(provenance=provenance(model_config=config)), tmp_path / "a.nc")
    assert load_result(path).provenance.model_config == config


def test_undefined_diagnostics_survive(tmp_path: Path):
    one_chain = {"logmass": np.random.default_rng(0).normal(size=(1, 50))}
    made = result(
        posterior=one_chain,
        sample_stats={"diverging": np.zeros((1, 50), bool)},
        flux=np.ones((1, 50, 3)),
        convergence=diagnose(one_chain, 0),
    )
    loaded = load_result(save_result(made, tmp_path / "a.nc"))
    assert np.isnan(loaded.convergence.rhat_max)
    assert not loaded.convergence.converged
    assert loaded.flag.startswith("rhat")


def test_existing_files_are_kept(tmp_path: Path):
    path = save_result(result("first"), tmp_path / "a.nc")
    with pytest.raises(FileExistsError, match=r"`path` must not exist yet, got .*a\.nc.*`overwrite=True`"):
        save_result(result("second"), path)
    assert load_result(path).galaxy_id == "first"
    save_result(result("second"), path, overwrite=True)
    assert load_result(path).galaxy_id == "second"
    table = summary_table([result()])
    write_table(table, tmp_path / "summary.ecsv")
    with pytest.raises(FileExistsError, match="`path` must not exist yet"):
        write_table(table, tmp_path / "summary.ecsv")


def test_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save_result(result("first"), tmp_path / "a.nc")
    second = result("second")

    def fail(filename: str) -> None:
        Path(filename).write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(second.idata, "to_netcdf", fail)
    with pytest.raises(OSError, match="disk full"):
        save_result(second, path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]
    assert load_result(path).galaxy_id == "first"


def test_file_names_do_not_collide(tmp_path: Path):
    ids = [
        "a/b",
        "a_b",
        "a b",
        "a%2Fb",
        "..",
        ".",
        "%2E.",
        "ä",
        "a" * 300,
        "a" * 299 + "b",
        "summary",
        "a~b",
        "a%7Eb",
    ]
    paths = [result_path(tmp_path, name) for name in ids]
    assert len(set(paths)) == len(ids)
    for path in paths:
        assert path.parent == tmp_path
        assert not path.name.startswith(".")
        path.touch()
    assert result_path("out", "J1000+0221") == Path("out/J1000%2B0221.nc")
    assert result_path("out", "17") == Path("out/17.nc")


def test_summary_numbers_equal_numpy():
    results = [result("1"), result("2", seed=5)]
    table = summary_table(results)
    assert list(table["id"]) == ["1", "2"]
    for i, one in enumerate(results):
        draws = one.posterior["logmass"].values.ravel()
        assert table["logmass_q50"][i] == pytest.approx(np.median(draws))
        assert table["logmass_mean"][i] == pytest.approx(np.mean(draws))
        assert table["logmass_std"][i] == pytest.approx(np.std(draws, ddof=1))
        assert table["logmass_q16"][i] == pytest.approx(np.percentile(draws, 16))
        assert table["logmass_q84"][i] == pytest.approx(np.percentile(draws, 84))
        ratio = one.posterior["logsfr_ratios"].values[..., 1]
        assert table["logsfr_ratios_1_q50"][i] == pytest.approx(np.median(ratio))
        assert table["rhat_max"][i] == one.convergence.rhat_max
        assert table["n_divergent"][i] == 2
        assert table["flag"][i] == one.flag
    assert str(table["logmass_q50"].unit) == "dex(solMass)"
    assert str(table["logmass_std"].unit) == "dex"
    assert str(table["mwa_std"].unit) == "Gyr"
    assert "median" in table["mwa_q50"].description


def test_missing_variables_are_nan():
    without = result("2", posterior={"logmass": np.random.default_rng(0).normal(size=(4, 200))})
    table = summary_table([result("1"), without])
    assert np.isfinite(table["mwa_q50"][0])
    assert np.isnan(table["mwa_q50"][1])
    assert np.isfinite(table["logmass_q50"]).all()


@pytest.mark.parametrize("name", ["summary.ecsv", "summary.parquet"])
def test_table_roundtrip(tmp_path: Path, name: str):
    table = summary_table([result("1"), result("galaxy, 2", flags=["blend"])])
    path = write_table(table, tmp_path / name)
    read = Table.read(path)
    assert read.colnames == table.colnames
    for column in table.colnames:
        np.testing.assert_array_equal(np.asarray(read[column]), np.asarray(table[column]))
        assert read[column].unit == table[column].unit
        assert read[column].description == table[column].description
    assert read.meta["versions"] == table.meta["versions"]
    assert read["converged"].dtype == bool
    # With units: a logarithmic mass turns into a mass.
    mass = QTable.read(path)["logmass_q50"].physical
    np.testing.assert_allclose(mass.to_value("Msun"), 10 ** np.asarray(table["logmass_q50"]))


def test_flags():
    assert result(flags=["blend"]).flag.split(",")[-1] == "blend"
    good = result().convergence._replace(converged=True, flag="ok")
    bad = good._replace(converged=False, flag="rhat,ess_bulk")
    assert result(convergence=good).flag == "ok"
    assert result(convergence=good, flags=["blend"]).flag == "blend"
    assert result(convergence=bad, flags=["blend"]).flag == "rhat,ess_bulk,blend"


def test_draws_by_component():
    one = result()
    assert one.components == ("logmass", "mwa", "logsfr_ratios[0]", "logsfr_ratios[1]")
    np.testing.assert_array_equal(
        one.draws("logsfr_ratios[1]"), one.posterior["logsfr_ratios"].values[..., 1]
    )
    assert one.draws("logsfr_ratios").shape == (4, 200, 2)
    with pytest.raises(ValueError, match=r"`name` must be a variable of the posterior \(logmass.*got 'mass'"):
        one.draws("mass")


def test_refusals(tmp_path: Path):
    with pytest.raises(ValueError, match="`galaxy_id` must not be empty"):
        result("")
    with pytest.raises(ValueError, match="`galaxy_id` must not be empty"):
        result_path(tmp_path, "")
    with pytest.raises(ValueError, match="`posterior` must hold"):
        result(posterior={})
    with pytest.raises(ValueError, match=r"`posterior\['logmass'\]` must begin with the axes"):
        result(posterior={"logmass": np.zeros((4, 100))})
    with pytest.raises(ValueError, match="`sample_stats` must hold `diverging`, got lp"):
        result(sample_stats={"lp": np.zeros((4, 200))})
    with pytest.raises(ValueError, match="`flux` must have one column per band"):
        result(flux=np.ones((4, 200, 2)))
    with pytest.raises(ValueError, match="`model_config` must be plain JSON"):
        result(provenance=provenance(model_config={"array": np.ones(3)}))
    with pytest.raises(ValueError, match="`model_config` must be plain JSON"):
        result(provenance=provenance(model_config={"bad": float("nan")}))
    with pytest.raises(ValueError, match="`filter_names` must have one name per band"):
        dataclasses.replace(bands(), filter_names=NAMES[:2])
    with pytest.raises(ValueError, match="`results` must hold at least one"):
        summary_table([])
    with pytest.raises(ValueError, match="one result per galaxy, got several for 1"):
        summary_table([result("1"), result("1")])
    with pytest.raises(ValueError, match=r"`path` must end in .ecsv or .parquet"):
        write_table(Table(), tmp_path / "summary.csv")


def test_unreadable_files_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_result(tmp_path / "missing.nc")
    (tmp_path / "text.nc").write_text("not a netCDF file")
    with pytest.raises(ValueError, match=r"text.nc cannot be read"):
        load_result(tmp_path / "text.nc")
    foreign = result()
    foreign.idata.attrs["format"] = '"galaxy-hbm result 99"'
    with pytest.raises(ValueError, match="result 99"):
        load_result(save_result(foreign, tmp_path / "foreign.nc"))
