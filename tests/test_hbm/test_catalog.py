"""Catalogues: formats, column maps, missing data, refusals."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table

from hbm.catalog import Catalog, CatalogError, check_flux_scale, read_catalog
from hbm.columns import BandColumns, ColumnMap, read_columns
from sed.filters import load_filters
from sed.units import magnitude_to_maggies

REAL = Path(__file__).parents[3] / "shared" / "real" / "hst3d"
FORMATS = {
    "fits": "fits",
    "ecsv": "ascii.ecsv",
    "csv": "ascii.csv",
    "parquet": "parquet",
    "cat": "ascii.commented_header",
}
TOML = """
id = "name"
zred = "z"
unit = "zp=25"
missing = [-99.0]
[[band]]
filter = "sdss_g0"
flux = "f_g"
err = "e_g"
[[band]]
filter = "sdss_r0"
flux = "f_r"
err = "e_r"
correction = 1.1
"""


def small_table(**changed: object) -> Table:
    """Three galaxies with two bands, AB zero point 25."""
    columns: dict[str, object] = {
        "name": [11, 12, 13],
        "z": [0.1, 0.5, 1.2],
        "f_g": [10.0, -0.2, 30.0],
        "e_g": [1.0, 0.5, 2.0],
        "f_r": [20.0, 5.0, -99.0],
        "e_r": [1.5, 0.5, -99.0],
    }
    return Table({**columns, **changed})


def write(folder: Path, table: Table, suffix: str = "ecsv", toml: str = TOML) -> tuple[Path, Path]:
    """Write a table and a column map."""
    path, columns = folder / f"table.{suffix}", folder / "columns.toml"
    table.write(path, format=FORMATS[suffix], overwrite=True)
    columns.write_text(toml)
    return path, columns


def read(
    folder: Path, table: Table, toml: str = TOML, *, suffix: str = "ecsv", on_bad: str = "raise"
) -> Catalog:
    path, columns = write(folder, table, suffix, toml)
    return read_catalog(path, columns=columns, on_bad="drop" if on_bad == "drop" else "raise")


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_catalogue(tmp_path: Path, suffix: str) -> None:
    catalog = read(tmp_path, small_table(), suffix=suffix)
    assert catalog.id == ("11", "12", "13")
    assert catalog.filter_names == ("sdss_g0", "sdss_r0")
    np.testing.assert_allclose(catalog.zred, [0.1, 0.5, 1.2])
    np.testing.assert_array_equal(catalog.zred_err, 0.0)
    np.testing.assert_array_equal(catalog.observed, [[True, True], [True, True], [True, False]])
    # zero point 25: one unit is 1e-10 maggies; the r band has its correction; flux below zero stays
    np.testing.assert_allclose(catalog.flux, [[1e-9, 2.2e-9], [-2e-11, 5.5e-10], [3e-9, np.nan]], rtol=1e-12)
    np.testing.assert_allclose(catalog.flux_err, [[1e-10, 1.65e-10], [5e-11, 5.5e-11], [2e-10, np.nan]])
    assert not catalog.upper_limit.any()
    assert catalog.meta["unit"] == "zp=25"
    assert len(catalog) == 3


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "csv", "parquet"])
def test_own_layout_round_trips(tmp_path: Path, suffix: str) -> None:
    catalog = read(tmp_path, small_table(lim=[False, True, False]), TOML + 'limit = "lim"\n')
    path = tmp_path / f"own.{suffix}"
    catalog.to_table().write(path, format=FORMATS[suffix])
    again = read_catalog(path)
    assert again.id == catalog.id
    assert again.filter_names == catalog.filter_names
    for name in ("zred", "zred_err", "flux", "flux_err", "observed", "upper_limit"):
        np.testing.assert_array_equal(getattr(again, name), getattr(catalog, name))
    assert again.upper_limit.tolist() == [[False, False], [False, True], [False, False]]


def test_select_by_mask_positions_and_slice(tmp_path: Path) -> None:
    catalog = read(tmp_path, small_table())
    assert catalog.select(catalog.zred > 0.3).id == ("12", "13")
    assert catalog.select([2, 0]).id == ("13", "11")
    assert catalog.select(np.array([1])).flux.shape == (1, 2)
    np.testing.assert_array_equal(catalog.select(slice(1, None)).zred, catalog.zred[1:])
    with pytest.raises(ValueError, match="one entry per galaxy"):
        catalog.select(np.array([True, False]))


def test_nan_masked_and_empty_cells_are_missing(tmp_path: Path) -> None:
    both = small_table(f_g=[np.nan, 1.0, 2.0], e_g=[np.nan, 0.1, 0.1])
    assert read(tmp_path, both).observed[:, 0].tolist() == [False, True, True]
    masked = small_table()
    masked["f_g"] = MaskedColumn([1.0, 2.0, 3.0], mask=[False, True, False])
    masked["e_g"] = MaskedColumn([0.1, 0.2, 0.3], mask=[False, True, False])
    for suffix in ("fits", "ecsv", "csv", "parquet"):
        assert read(tmp_path, masked, suffix=suffix).observed[:, 0].tolist() == [True, False, True], suffix
    words = small_table(f_g=["1.5", "n/a", "2"], e_g=["0.1", "", "0.1"])
    for suffix in FORMATS:
        assert read(tmp_path, words, suffix=suffix).observed[:, 0].tolist() == [True, False, True], suffix
    flags = small_table(lim=MaskedColumn(["True", "no", "False"], mask=[False, True, False]))
    assert read(tmp_path, flags, TOML + 'limit = "lim"\n').upper_limit[:, 1].tolist() == [True, False, False]


def test_rules_for_missing_bands(tmp_path: Path) -> None:
    table = small_table(f_g=[-58.0, 1.0, 2.0], e_g=[-58.0, 0.1, 0.1], w=[1.0, 0.0, np.nan])
    with pytest.raises(CatalogError, match="column `e_g`: error must be finite and positive, got -58"):
        read(tmp_path, table)
    toml = TOML.replace("[[band]]", 'missing_rule = "err<=0"\n[[band]]', 1)
    assert read(tmp_path, table, toml).observed[:, 0].tolist() == [False, True, True]
    weighted = toml.replace('err = "e_g"', 'err = "e_g"\nweight = "w"')
    assert not read(tmp_path, table[:2], weighted).observed[:, 0].any()
    fills = small_table(f_g=[1e-9, 1.0, 3e5], e_g=[1.0, 0.5, 2.0], f_r=[20.0, 5.0, 1.0], e_r=[1.5, 0.5, 0.3])
    assert read(tmp_path, fills).observed.all()
    clipped = TOML.replace("[[band]]", "missing_snr_below = 1e-3\nmissing_flux_above = 1e5\n[[band]]", 1)
    assert read(tmp_path, fills, clipped).observed[:, 0].tolist() == [False, True, False]


def test_single_precision_sentinels_are_recognised(tmp_path: Path) -> None:
    table = small_table(
        f_r=np.array([20.0, 5.0, -99.9], np.float32), e_r=np.array([1.5, 0.5, -99.9], np.float32)
    )
    catalog = read(tmp_path, table, TOML.replace("-99.0", "-99.9"), suffix="fits")
    assert catalog.observed[:, 1].tolist() == [True, True, False]


def test_magnitudes_and_their_codes(tmp_path: Path) -> None:
    toml = TOML.replace("zp=25", "ABmag").replace("correction = 1.1", "")
    table = small_table(
        f_g=[22.5, 20.0, 99.0], e_g=[0.1, 0.05, 99.0], f_r=[21.0, -99.0, 19.0], e_r=[0.1, -99.0, 0.02]
    )
    catalog = read(tmp_path, table, toml)
    assert catalog.observed.tolist() == [[True, True], [True, False], [False, True]]
    flux, err = magnitude_to_maggies(22.5, 0.1)
    assert catalog.flux[0, 0] == pytest.approx(float(flux)) == pytest.approx(1e-9)
    assert catalog.flux_err[0, 0] == pytest.approx(float(err))
    with pytest.raises(CatalogError, match=r"id 11 .*column `e_g`: error is a code"):
        read(tmp_path, small_table(f_g=[22.5] * 3, e_g=[99.0, 0.1, 0.1], f_r=[21.0] * 3, e_r=[0.1] * 3), toml)


def test_redshift_errors_intervals_and_limits(tmp_path: Path) -> None:
    table = small_table(dz=[0.0, 0.02, 0.1], lo=[0.09, 0.4, 1.0], hi=[0.11, 0.5, 1.5])
    given = read(tmp_path, table, 'zred_err = "dz"\n' + TOML)
    np.testing.assert_allclose(given.zred_err, [0.0, 0.02, 0.1])
    interval = read(tmp_path, table, 'zred_lower = "lo"\nzred_upper = "hi"\n' + TOML)
    np.testing.assert_allclose(interval.zred_err, [0.01, 0.05, 0.25])
    with pytest.raises(CatalogError, match=r"id 13 .*redshift is above 1, got 1.2"):
        read(tmp_path, table, "zred_max = 1.0\n" + TOML)
    table["dz"][1] = -1.0
    with pytest.raises(CatalogError, match=r"id 12 .*column `dz`: redshift error must be >= 0, got -1"):
        read(tmp_path, table, 'zred_err = "dz"\n' + TOML)


def test_redshifts_are_joined_by_identifier_not_by_row(tmp_path: Path) -> None:
    toml = TOML + '[zred_table]\nsuffix = ".dat"\nid = "phot_id"\n'
    path, columns = write(tmp_path, small_table(), "cat", toml)
    with pytest.raises(FileNotFoundError, match=r"zred_table\.suffix"):
        read_catalog(path, columns=columns)
    beside = Table({"phot_id": [13, 99, 12, 11], "z": [1.3, 9.0, 1.2, 1.1]})
    beside.write(tmp_path / "table.dat", format="ascii.commented_header")
    np.testing.assert_allclose(read_catalog(path, columns=columns).zred, [1.1, 1.2, 1.3])
    beside["phot_id"] = [13, 13, 12, 10]
    beside.write(tmp_path / "table.dat", format="ascii.commented_header", overwrite=True)
    with pytest.warns(UserWarning, match="2 of 3 rows"):
        left = read_catalog(path, columns=columns, on_bad="drop")
    assert left.id == ("12",)
    assert left.zred.tolist() == [1.2]
    assert "exactly once" in left.rejected["11"]


BAD: Mapping[str, tuple[dict[str, object], str]] = {
    "flux nan": ({"f_g": [np.nan, 1.0, 1.0]}, "id 11 .*column `f_g`: flux is missing, its error is 1"),
    "flux inf": ({"f_g": [np.inf, 1.0, 1.0]}, "column `f_g`: flux must be finite, got inf"),
    "err nan": ({"e_g": [np.nan, 1.0, 1.0]}, "column `e_g`: error is missing, the flux is 10"),
    "err zero": ({"e_g": [1.0, 0.0, 1.0]}, "id 12 .*column `e_g`: error must be finite and positive, got 0"),
    "err negative": ({"e_g": [1.0, -0.3, 1.0]}, "column `e_g`: error must be finite and positive, got -0.3"),
    "zred zero": ({"z": [0.0, 1.0, 1.0]}, "id 11 .*column `z`: redshift must be positive, got 0"),
    "zred nan": ({"z": [1.0, np.nan, 1.0]}, "id 12 .*column `z`: redshift must be positive, got nan"),
    "no id": ({"name": ["a", "", "c"]}, "id missing .row 1., column `name`: identifier is missing"),
    "one row faint": ({"f_r": [20.0, 1e-14, -99], "f_g": [1.0, 1e-14, 2]}, "id 12 .*is AB magnitude 59.9"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named_or_dropped(tmp_path: Path, case: str) -> None:
    changed, match = BAD[case]
    with pytest.raises(CatalogError, match=match) as caught:
        read(tmp_path, small_table(**changed))
    assert "1 of 3 rows" in str(caught.value)
    with pytest.warns(UserWarning, match=match):
        left = read(tmp_path, small_table(**changed), on_bad="drop")
    assert len(left) == 2
    assert len(left.rejected) == 1
    key, reason = next(iter(left.rejected.items()))
    assert key in ("11", "12", "row 1")
    assert reason in str(caught.value)
    assert left.observed.any(axis=1).all()


def test_row_without_a_band_is_bad(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"id 13 .*no band of this row is observed"):
        read(tmp_path, small_table(f_g=[1.0, 2.0, -99.0], e_g=[0.1, 0.1, -99.0]))


def test_row_of_upper_limits_alone_is_bad(tmp_path: Path) -> None:
    table = small_table(
        f_g=[1.0, 2.0, -99.0],
        e_g=[0.1, 0.1, -99.0],
        f_r=[20.0, 5.0, 7.0],
        e_r=[1.5, 0.5, 0.5],
        lim=[False, True, True],
    )
    with pytest.raises(CatalogError, match=r"id 13 .*all bands of this row are upper limits") as caught:
        read(tmp_path, table, TOML + 'limit = "lim"\n')
    assert "1 of 3 rows" in str(caught.value)


def test_all_copies_of_an_identifier_are_bad(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="identifier appears 2 times"):
        left = read(tmp_path, small_table(name=[7, 8, 7]), on_bad="drop")
    assert left.id == ("8",)
    assert set(left.rejected) == {"7"}


def test_ten_rows_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    n = 25
    table = Table({"name": np.arange(n), "z": np.ones(n), "f_g": np.ones(n), "e_g": np.ones(n)})
    table["f_r"], table["e_r"] = np.ones(n), np.ones(n)
    table["e_r"][:13] = -1.0
    with pytest.raises(CatalogError, match="13 of 25 rows") as caught:
        read(tmp_path, table)
    assert str(caught.value).count("column `e_r`") == 10
    assert "and 3 more" in str(caught.value)
    table["e_r"] = -1.0
    with pytest.raises(CatalogError, match="No row is left"):
        read(tmp_path, table, on_bad="drop")


@pytest.mark.parametrize(
    ("unit", "value", "match"),
    [
        ("maggies", 363.1, "looks like .*nJy .magnitude 25.0, a factor of 4e.12. .*given as maggies"),
        ("maggies", 10.0, "nanomaggies .magnitude 20.0, a factor of 1e.09. .*given as maggies"),
        ("nanomaggies", 1e-9, "looks like maggies .magnitude 22.5, a factor of 1e.09.* given as nanomaggies"),
        ("ABmag", 1e-9, "looks like maggies .magnitude 22.5. .*given as ABmag"),
        ("maggies", 22.0, "ABmag .magnitude 22.0. given as maggies"),
    ],
)
def test_wrong_units_are_recognised(tmp_path: Path, unit: str, value: float, match: str) -> None:
    toml = TOML.replace("zp=25", unit).replace("correction = 1.1", "")
    scaled = np.array([0.9, 1.0, 1.1]) * value
    table = small_table(f_g=scaled, e_g=0.1 * scaled, f_r=scaled, e_r=0.1 * scaled)
    with pytest.raises(CatalogError, match=match):
        read(tmp_path, table, toml, on_bad="drop")


def test_check_flux_scale_of_a_catalogue_made_in_memory() -> None:
    flux = np.array([[1e-9, 2e-9], [3e-9, 4e-9]])
    mask = np.ones((2, 2), bool)

    def made(scale: list[float]) -> Catalog:
        scaled = flux * np.array(scale)[:, None]
        return Catalog(
            ("a", "b"), np.ones(2), np.zeros(2), scaled, scaled / 10, mask, ~mask, ("sdss_g0", "sdss_r0")
        )

    check_flux_scale(made([1.0, 1.0]))
    with pytest.raises(CatalogError, match="nanomaggies"):
        check_flux_scale(made([1e9, 1e9]))
    with pytest.raises(CatalogError, match=r"1 of 2 galaxies: id b"):
        check_flux_scale(made([1.0, 1e-12]))


def test_unit_of_the_table_must_agree_with_the_map(tmp_path: Path) -> None:
    table = small_table()
    table["f_g"].unit = "nJy"
    with pytest.raises(CatalogError, match=r"`f_g` is in nJy as the table says, but .* 'zp=25'"):
        read(tmp_path, table)
    read(tmp_path, table, TOML.replace("zp=25", "nJy"))


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path, columns = write(tmp_path, small_table())
    with pytest.raises(FileNotFoundError, match=r"absent\.fits"):
        read_catalog(tmp_path / "absent.fits", columns=columns)
    for suffix in ("fits", "ecsv", "csv", "parquet"):
        bad = tmp_path / f"bad.{suffix}"
        bad.write_text("garbage,\n1 2 3\n,,,,")
        with pytest.raises(CatalogError, match="could not be read as"):
            read_catalog(bad, columns=columns)
    with pytest.raises(CatalogError, match="has no rows"):
        read(tmp_path, small_table()[:0])
    with pytest.raises(CatalogError, match="must end in"):
        read_catalog(columns, columns=columns)
    with pytest.raises(ValueError, match="not both"):
        read_catalog(path, columns=columns, preset="3dhst_cosmos")
    with pytest.raises(CatalogError, match=r"not laid out as `Catalog\.to_table` does"):
        read_catalog(write(tmp_path, small_table())[0])
    with pytest.raises(FileNotFoundError, match="`columns` must be"):
        read_catalog(path, columns=tmp_path / "absent.toml")


def test_bad_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"lacks 1 .*`e_rr`\. Did you mean `e_r`"):
        read(tmp_path, small_table(), TOML.replace('"e_r"', '"e_rr"'))
    with pytest.raises(CatalogError, match=r"lacks 1 .*`zz`"):
        read(tmp_path, small_table(), TOML.replace('"z"', '"zz"'))
    with pytest.raises(CatalogError, match="`f_g` must hold numbers, got 'bright' in row 1"):
        read(tmp_path, small_table(f_g=["1", "bright", "2"]))
    with pytest.raises(CatalogError, match="one number per row"):
        read(tmp_path, small_table(f_g=np.ones((3, 2))), suffix="fits")
    with pytest.raises(CatalogError, match="digits of an identifier are lost"):
        read(tmp_path, small_table(name=[1.2e18, 1.0, 2.0]))
    assert read(tmp_path, small_table(name=[5.0, 6.0, 7.0])).id == ("5", "6", "7")
    with pytest.raises(CatalogError, match="`lim` must hold true or false, got 'maybe' in row 2"):
        read(tmp_path, small_table(lim=["true", "0", "maybe"]), TOML + 'limit = "lim"\n')


def test_filter_files_are_found_beside_the_column_map(tmp_path: Path) -> None:
    wave = np.linspace(5000.0, 6000.0, 11)
    np.savetxt(tmp_path / "mine.dat", np.column_stack([wave, np.ones(11)]))
    catalog = read(tmp_path, small_table(), TOML.replace("sdss_g0", "mine.dat"))
    filters = load_filters(catalog.filter_names)
    assert filters.names == catalog.filter_names
    assert 5400 < filters.wave_pivot[0] < 5600
    with pytest.raises(FileNotFoundError, match=r"gone\.dat"):
        read(tmp_path, small_table(), TOML.replace("sdss_g0", "gone.dat"))


def test_inconsistent_catalogues_are_refused() -> None:
    one, mask = np.ones((1, 1)), np.ones((1, 1), bool)
    with pytest.raises(ValueError, match="`flux` must have shape"):
        Catalog(("a",), np.ones(1), np.zeros(1), np.ones((1, 2)), one, mask, ~mask, ("sdss_g0",))
    with pytest.raises(ValueError, match="must not repeat"):
        Catalog(("a",), np.ones(1), np.zeros(1), np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 2), bool),
                np.zeros((1, 2), bool), ("sdss_g0", "sdss_g0"))  # fmt: skip
    with pytest.raises(ValueError, match="`flux_err` positive where `observed`"):
        Catalog(("a",), np.ones(1), np.zeros(1), one, 0 * one, mask, ~mask, ("sdss_g0",))
    with pytest.raises(ValueError, match="`upper_limit` must be False"):
        Catalog(("a",), np.ones(1), np.zeros(1), one, one, ~mask, mask, ("sdss_g0",))


def test_column_map_made_in_memory(tmp_path: Path) -> None:
    path, columns = write(tmp_path, small_table())
    bands = (BandColumns("sdss_g0", "f_g", "e_g"), BandColumns("sdss_r0", "f_r", "e_r", correction=1.1))
    made = ColumnMap("name", "z", "zp=25", bands, missing=(-99.0,))
    assert read_columns(columns).bands == made.bands
    np.testing.assert_array_equal(
        read_catalog(path, columns=made).flux, read_catalog(path, columns=columns).flux
    )


@pytest.mark.skipif(not REAL.is_dir(), reason="3D-HST catalogues are not here")
@pytest.mark.parametrize(
    ("name", "n_galaxy"),
    [("COSMOS_td", 608), ("AEGIS_td", 602), ("COSMOS_td_new_supp", 1449), ("AEGIS_td_new_supp", 1338)],
)
def test_real_3dhst_catalogues(name: str, n_galaxy: int) -> None:
    path = REAL / f"{name}.cat"
    catalog = read_catalog(path, preset=f"3dhst_{name.split('_')[0].lower()}")
    assert len(catalog) == n_galaxy
    assert not catalog.rejected
    beside = Table.read(path.with_suffix(".dat"), format="ascii.commented_header")
    np.testing.assert_array_equal(catalog.zred, beside["z_best"])
    table = Table.read(path, format="ascii.commented_header")
    band = catalog.filter_names.index("wfc3_ir_f160w")
    f160w = np.asarray(table[f"f_f160w_{name.split('_')[0].lower()}"])
    np.testing.assert_allclose(-2.5 * np.log10(catalog.flux[:, band]), 25 - 2.5 * np.log10(f160w), rtol=1e-12)
    assert (np.abs(catalog.flux + 99e-10) > 1e-14)[catalog.observed].all()
    # The stacked spectrum is smooth: a wrong filter or a code taken for a flux would stand out.
    # Median fluxes of one band lie on a line through two neighbours on each side to 0.2 dex.
    log_wave = np.log(load_filters(catalog.filter_names).wave_pivot)
    log_flux = np.log10(np.nanmedian(catalog.flux, axis=0))
    for j in range(1, len(log_wave) - 1):
        near = [k for k in range(max(0, j - 2), min(len(log_wave), j + 3)) if k != j]
        line = np.polynomial.Polynomial.fit(log_wave[near], log_flux[near], 1)
        assert abs(line(log_wave[j]) - log_flux[j]) < 0.2, catalog.filter_names[j]
