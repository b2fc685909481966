"""Filter curves against sedpy, astropy and analytic ones."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io.votable import from_table
from astropy.table import Table
from jaxtyping import Float
from sedpy import observate

from sed.filters import Filter, FilterSet, available_filters, check_filter, load_filters

NAMES = ["sdss_u0", "galex_FUV", "acs_wfc_f814w", "spitzer_irac_ch1", "wise_w4", "herschel_pacs_100"]


SVO_TEMPLATE = """<?xml version="1.0"?>
<VOTABLE version="1.1" xmlns="http://www.ivoa.net/xml/VOTable/v1.1">
<INFO name="QUERY_STATUS" value="OK"/>
<RESOURCE type="results"><TABLE>
<PARAM name="WavelengthUnit" value="Angstrom" datatype="char" arraysize="*"/>{param}
<FIELD name="Wavelength" utype="spec:Data.SpectralAxis.Value" ucd="em.wl" unit="{unit}" datatype="double"/>
<FIELD name="Transmission" utype="spec:Data.FluxAxis.Value" ucd="phys.transmission" datatype="double"/>
<DATA><TABLEDATA>{rows}</TABLEDATA></DATA>
</TABLE></RESOURCE></VOTABLE>
"""


def write_svo(
    path: Path,
    wave: Float[np.ndarray, " wave"],
    transmission: Float[np.ndarray, " wave"],
    *,
    detector: str | None,
    unit: str = "Angstrom",
) -> Path:
    """Write a VOTable laid out as the SVO Filter Profile Service does."""
    param = (
        f'<PARAM name="DetectorType" value="{detector}" datatype="char" arraysize="*"/>' if detector else ""
    )
    rows = "".join(
        f"<TR><TD>{w!r}</TD><TD>{t!r}</TD></TR>"
        for w, t in zip(wave.tolist(), transmission.tolist(), strict=True)
    )
    path.write_text(SVO_TEMPLATE.format(param=param, unit=unit, rows=rows))
    return path


def bump(
    centre: float = 6000.0, width: float = 400.0
) -> tuple[Float[np.ndarray, " wave"], Float[np.ndarray, " wave"]]:
    """Make a smooth filter."""
    wave = np.linspace(centre - 4 * width, centre + 4 * width, 801)
    return wave, np.exp(-0.5 * ((wave - centre) / width) ** 2)


def test_wavelengths_agree_with_sedpy() -> None:
    filters = load_filters(NAMES)
    assert filters.names == tuple(NAMES)
    for ours, theirs in zip(filters.filters, (observate.Filter(name) for name in NAMES), strict=True):
        assert ours.wave_pivot == pytest.approx(theirs.wave_pivot, rel=1e-10)
        assert ours.wave_effective == pytest.approx(theirs.wave_effective, rel=1e-10)
        np.testing.assert_array_equal(ours.transmission, theirs.transmission)
    np.testing.assert_allclose(filters.wave_pivot, [f.wave_pivot for f in filters.filters])


def test_available_filters_are_those_of_sedpy() -> None:
    assert list(available_filters()) == observate.list_available_filters()


def test_every_filter_of_sedpy_loads() -> None:
    assert (load_filters(available_filters()).wave_pivot > 1000).all()


def test_top_hat_has_the_analytic_pivot_and_extent() -> None:
    low, high = 4000.0, 6000.0
    wave = np.concatenate([[low - 500, low - 1e-3], np.linspace(low, high, 4001), [high + 1e-3, high + 700]])
    transmission = np.concatenate([[0, 0], np.full(4001, 0.3), [0, 0]])
    top_hat = Filter("top hat", wave, transmission)
    # int T lambda dlambda = (b^2 - a^2) / 2, int T dln(lambda) = ln(b / a)
    assert top_hat.wave_pivot == pytest.approx(np.sqrt((high**2 - low**2) / 2 / np.log(high / low)), rel=1e-6)
    assert top_hat.wave_effective == pytest.approx(np.sqrt(low * high), rel=1e-6)
    assert top_hat.wave_min == pytest.approx(low, abs=0.01)
    assert top_hat.wave_max == pytest.approx(high, abs=0.01)


def test_photon_counting_svo_curve_is_taken_as_it_is(tmp_path: Path) -> None:
    wave, transmission = bump()
    path = write_svo(tmp_path / "photon.xml", wave, transmission, detector="1")
    loaded = load_filters([path]).filters[0]
    np.testing.assert_allclose(loaded.transmission, transmission, rtol=1e-12)
    assert loaded.name == str(path)


def test_energy_counting_svo_curve_gives_the_energy_weighted_flux(tmp_path: Path) -> None:
    wave, transmission = bump()
    loaded = load_filters(
        [str(write_svo(tmp_path / "energy.xml", wave, transmission, detector="0"))]
    ).filters[0]
    # an energy counter's signal over a spectrum and over AB, against sedpy with our per-photon curve
    f_lambda = 1e-17 * (wave / 6000.0) ** 2.5
    f_ab = 3.631e-20 * 2.99792458e18 / wave**2
    signal = np.trapezoid(f_lambda * transmission, wave) / np.trapezoid(f_ab * transmission, wave)
    theirs = observate.Filter("energy", data=(loaded.wave, loaded.transmission), min_trans=0.0)
    # sedpy's speed of light is 2.998e18 A/s: 3e-5 mag
    assert float(theirs.ab_mag(wave, f_lambda)) == pytest.approx(-2.5 * np.log10(signal), abs=5e-5)
    wrong = observate.Filter("wrong", data=(wave, transmission), min_trans=0.0)
    assert abs(float(wrong.ab_mag(wave, f_lambda)) + 2.5 * np.log10(signal)) > 2e-3


def test_svo_wavelengths_are_converted(tmp_path: Path) -> None:
    wave, transmission = bump()
    path = write_svo(tmp_path / "nm.xml", wave / 10, transmission, detector="1", unit="nm")
    np.testing.assert_allclose(load_filters([path]).filters[0].wave, wave, rtol=1e-12)


@pytest.mark.parametrize("comma", [False, True])
def test_text_curve(tmp_path: Path, comma: bool) -> None:
    wave, transmission = bump()
    path = tmp_path / "curve.dat"
    np.savetxt(
        path, np.column_stack([wave, transmission]), delimiter="," if comma else " ", header="wave [A]"
    )
    loaded = load_filters(["sdss_g0", str(path)])
    np.testing.assert_allclose(loaded.filters[1].wave, wave, rtol=1e-12)
    assert load_filters(loaded.names) == loaded
    assert loaded.index(str(path)) == 1
    assert len(loaded) == 2


def test_filters_compare_hash_and_pickle() -> None:
    wave, transmission = bump()
    one = Filter("a", wave, transmission)
    assert one == Filter("a", wave.copy(), transmission.copy())
    assert one != Filter("a", wave, transmission * 2)
    assert one != Filter("b", wave, transmission)
    assert one != "a"
    assert hash(one) == hash(Filter("a", wave.copy(), transmission.copy()))
    assert pickle.loads(pickle.dumps(FilterSet((one,)))) == FilterSet((one,))


@pytest.mark.parametrize(("scale", "looks"), [(1e-4, "micron"), (0.1, "nm"), (1e11, "Hz")])
def test_wavelengths_in_other_units_are_refused(tmp_path: Path, scale: float, looks: str) -> None:
    wave, transmission = bump()
    path = tmp_path / "curve.txt"
    np.savetxt(path, np.column_stack([wave * scale, transmission]))
    with pytest.raises(ValueError, match=f"looks like {looks}"):
        load_filters([path])


def test_header_with_another_unit_is_refused(tmp_path: Path) -> None:
    wave, transmission = bump(1.6e4, 800.0)
    path = tmp_path / "curve.txt"
    np.savetxt(path, np.column_stack([wave / 10, transmission]), header="lambda(nm) T")
    with pytest.raises(ValueError, match="header says 'nm'"):
        load_filters([path])


def test_unknown_names_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Did you mean .*sdss_u0"):
        load_filters(["sdss_u"])
    with pytest.raises(FileNotFoundError, match=r"absent\.dat"):
        load_filters(["absent.dat"])
    with pytest.raises(FileNotFoundError, match="absent"):
        check_filter(tmp_path / "absent")
    with pytest.raises(TypeError, match="must be a list"):
        load_filters("sdss_u0")
    with pytest.raises(ValueError, match="at least one filter"):
        load_filters([])
    with pytest.raises(ValueError, match="sdss_u0 more than once"):
        load_filters(["sdss_u0", "sdss_u0"])
    with pytest.raises(ValueError, match="Did you mean sdss_u0"):
        load_filters(["sdss_u0"]).index("sdss_u")


@pytest.mark.parametrize("text", ["", "# only a header\n", "5000 0.1\n6000 high\n", "5000\n6000\n"])
def test_files_that_are_no_curve_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "curve.dat"
    path.write_text(text)
    with pytest.raises(ValueError, match="must hold two columns of numbers"):
        load_filters([path])


def test_bad_svo_files_are_refused(tmp_path: Path) -> None:
    wave, transmission = bump()
    with pytest.raises(ValueError, match="per energy \\(0\\) or per photon"):
        load_filters([write_svo(tmp_path / "silent.xml", wave, transmission, detector=None)])
    broken = tmp_path / "broken.xml"
    broken.write_text("not xml at all")
    with pytest.raises(ValueError, match="could not be read as a VOTable"):
        load_filters([broken])
    other = tmp_path / "other.xml"
    from_table(Table({"x": wave, "y": transmission})).to_xml(str(other))
    with pytest.raises(ValueError, match="must have the fields Wavelength"):
        load_filters([other])


@pytest.mark.parametrize(
    ("wave", "transmission", "match"),
    [
        ([5000.0, 6000.0], [1.0, 1.0], "at least 3 points"),
        ([5000.0, 5500.0, 5500.0], [1.0, 1.0, 1.0], "got 5500 A at point 2"),
        ([6000.0, 5500.0, 5000.0], [1.0, 1.0, 1.0], "increase strictly"),
        ([-1.0, 5500.0, 6000.0], [1.0, 1.0, 1.0], "got -1 A at point 0"),
        ([5000.0, 5500.0, 6000.0], [1.0, np.nan, 1.0], "must be finite"),
        ([5000.0, 5500.0, 6000.0], [1.0, -0.1, 1.0], "must be >= 0, got -0.1"),
        ([5000.0, 5500.0, 6000.0], [0.0, 0.0, 0.0], "zero everywhere"),
    ],
)
def test_bad_curves_are_refused(wave: list[float], transmission: list[float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Filter("bad", np.array(wave), np.array(transmission))
