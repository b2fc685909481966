"""Column maps: TOML files and presets."""

from pathlib import Path

import numpy as np
import pytest

from hbm.columns import list_presets, read_columns, read_preset
from sed.filters import load_filters

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


def test_every_key_is_read(tmp_path: Path) -> None:
    path = tmp_path / "columns.toml"
    keys = 'zred_err = "dz"\nzred_max = 9\nmissing_rule = "err<=0"\nmissing_flux_above = 1e5\n'
    band = 'weight = "w"\nlimit = "lim"\n'
    path.write_text(keys + TOML + band + '[zred_table]\nsuffix = ".dat"\nid = "phot_id"\n')
    mapping = read_columns(path)
    assert (mapping.id, mapping.zred, mapping.zred_err, mapping.zred_max) == ("name", "z", "dz", 9)
    assert (mapping.unit, mapping.missing, mapping.missing_rule) == ("zp=25", (-99.0,), "err<=0")
    assert mapping.missing_flux_above == 1e5
    assert mapping.missing_snr_below is None
    assert mapping.filter_names == ("sdss_g0", "sdss_r0")
    first, second = mapping.bands
    assert (first.flux, first.err, first.correction, first.weight, first.limit) == (
        "f_g",
        "e_g",
        1.0,
        None,
        None,
    )
    assert (second.correction, second.weight, second.limit) == (1.1, "w", "lim")
    assert mapping.zred_table is not None
    assert (mapping.zred_table.suffix, mapping.zred_table.id) == (".dat", "phot_id")
    assert mapping.source == str(path)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("sdss_g0", "sdss_g", "Did you mean .*sdss_g0"),
        ("sdss_g0", "sdss_r0", "'sdss_r0' more than once"),
        ("zp=25", "njy", "Did you mean 'nJy'"),
        ('id = "name"', 'idd = "name"', "unknown key `idd`. Did you mean `id`"),
        ('id = "name"', "", "must have the keys `id`"),
        ('zred = "z"', 'zred_err = "e"', "`zred` must be given with errors"),
        ('err = "e_g"', "", "band 1 of column map .* must have the keys `err`"),
        ("1.1", "-1.1", "`correction` of band 'sdss_r0' must be a positive"),
        ("1.1", '"high"', "`correction` .* must be a number, got 'high'"),
        ("[-99.0]", '["x"]', "`missing` .* must be a list of numbers"),
        ("[-99.0]", "[-99.0]\nmissing_rule = 'never'", "must be 'none' or 'err<=0'"),
        ("[-99.0]", "[-99.0]\nzred_lower = 'lo'", "both `zred_lower` and `zred_upper`"),
        ("[-99.0]", "[-99.0]\nzred_max = 0.0", "`zred_max` must be positive"),
        ("zp=25", 'ABmag"\nmissing_snr_below = 0.1\nzred_err = "z', "is about fluxes"),
        ("[[band]]", "[band]", "not valid TOML"),
        (TOML[TOML.index("[[band]]") :], "", "at least one band"),
    ],
)
def test_bad_column_maps_are_refused(tmp_path: Path, old: str, new: str, match: str) -> None:
    path = tmp_path / "columns.toml"
    path.write_text(TOML.replace(old, new, 1))
    with pytest.raises(ValueError, match=match):
        read_columns(path)


def test_presets_have_filters_at_the_wavelengths_of_their_bands() -> None:
    assert list_presets() == ("3dhst_aegis", "3dhst_cosmos")
    assert [len(read_preset(name).bands) for name in list_presets()] == [23, 44]
    for name in list_presets():
        mapping = read_preset(name)
        pivot = load_filters(mapping.filter_names).wave_pivot
        assert (np.diff(pivot) > 0).all()
        for band, wave in zip(mapping.bands, pivot, strict=True):
            label = band.flux.split("_")[1]
            if label.startswith("ia"):  # intermediate bands are named for nanometres
                assert wave == pytest.approx(10 * int(label[2:]) if label[2:].isdigit() else wave, rel=0.01)
            if label.startswith("f") and label.endswith("w"):  # f606w is in nanometres, f160w in 10 nm
                number = int(label[1:4])
                assert wave == pytest.approx(number * (10 if number > 200 else 100), rel=0.05)
    with pytest.raises(ValueError, match="`preset` must be one of 3dhst_aegis, 3dhst_cosmos"):
        read_preset("3dhst")
