"""Labels say which bins a ratio compares, and give a unit to all that a fit writes."""

import pytest

from hbm.labels import DIMENSIONS, LABELS, axis_label, label_of


def test_ratios_are_of_the_bins_they_compare() -> None:
    # The first two of `sfr_bins` are younger than 100 Myr; `logsfr_ratios` begins with the third.
    first, last = label_of("logsfr_ratios[0]"), label_of("logsfr_ratios[3]")
    assert "SFR}_{2}" in first.symbol
    assert "SFR}_{3}" in first.symbol
    assert last.description == "log10 ratio of the star formation rates of `sfr_bins` 5 and 6"
    assert "SFR}_{0}" in label_of("logsfr_ratio_recent").symbol


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("sfr_100", "Msun/yr"),
        ("sfr_10", "Msun/yr"),
        ("logsfr_ratio_recent", "dex"),
        ("zero_point[2]", "mag"),
        ("error_floor", ""),
        ("outlier_fraction", ""),
        ("dust1_fraction", ""),
        ("tage_fraction", ""),
    ],
)
def test_sites_of_the_model_have_units(name: str, unit: str) -> None:
    assert label_of(name).unit == unit
    assert label_of(name).description != name


def test_attenuation_is_by_all_dust() -> None:
    assert "all dust" in label_of("av").description
    assert axis_label("av").endswith("[mag]")


def test_vectors_are_known() -> None:
    assert set(DIMENSIONS) <= set(LABELS)
    assert DIMENSIONS["zero_point"] == ("band",)
