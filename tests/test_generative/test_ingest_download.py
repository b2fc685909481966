"""Downloads against answers made here: nothing leaves the machine."""

import bz2
import io
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import requests
import responses
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from generative.ingest.command import Galaxy
from generative.ingest.download import DownloadError
from generative.ingest.download.command import download_many, service
from generative.ingest.download.services import (
    FRAMES,
    LEGACY,
    SKYSERVER,
    ZCUT,
    fetch_legacy,
    fetch_sdss,
    fetch_zcut,
)
from generative.ingest.download.transport import Fetcher
from generative.ingest.exposure import plain_wcs
from generative.ingest.readers import read_exposures
from hbm.cli import app

URL = "https://archive.test/image"


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


def fetcher(folder: Path, time: Time | None = None, **settings: float) -> Fetcher:
    time = time or Time()
    return Fetcher(folder / "cache", sleep=time.sleep, clock=time.clock, **settings)  # type: ignore[arg-type]


def fits_bytes(data: np.ndarray, scale: float, **cards: object) -> bytes:
    header = plain_wcs(data.shape[-2:], scale, ra=180.0, dec=1.0).to_header()
    for key, value in cards.items():
        header[key] = value
    content = io.BytesIO()
    fits.PrimaryHDU(data.astype(np.float32), header).writeto(content)
    return content.getvalue()


@responses.activate
def test_troubles_that_pass_are_tried_again_with_growing_pauses(tmp_path: Path) -> None:
    responses.add(responses.GET, URL, body=requests.ConnectionError("no route"))
    responses.add(responses.GET, URL, status=503)
    responses.add(responses.GET, URL, status=429, headers={"Retry-After": "7"})
    responses.add(responses.GET, URL, body=b"good")
    time = Time()
    fetch = fetcher(tmp_path, time, interval=1.0, wait=2.0)
    assert fetch(URL) == b"good"
    assert fetch.n_request == 4
    assert time.slept == [2.0, 0.0, 4.0, 7.0, 8.0]


@responses.activate
def test_lasting_trouble_is_told_with_the_address(tmp_path: Path) -> None:
    responses.add(responses.GET, URL, status=502)
    with pytest.raises(DownloadError, match=r"archive\.test/image cannot be had in 3 tries.*502"):
        fetcher(tmp_path, retries=2)(URL)
    responses.replace(responses.GET, URL, status=404, body="not here")
    fetch = fetcher(tmp_path, retries=2)
    with pytest.raises(DownloadError, match="404: not here"):
        fetch(URL)
    assert fetch.n_request == 1  # no use to ask again
    assert not list((tmp_path / "cache").glob("*"))


@responses.activate
def test_a_truncated_answer_is_not_kept(tmp_path: Path) -> None:
    responses.add(
        responses.GET, URL, body=b"half", headers={"Content-Length": "8"}, auto_calculate_content_length=False
    )
    responses.add(responses.GET, URL, body=b"complete", headers={"Content-Length": "8"})
    assert fetcher(tmp_path)(URL) == b"complete"


@responses.activate
def test_cache_answers_and_is_checked(tmp_path: Path) -> None:
    responses.add(responses.GET, URL, body=b"first")
    fetch = fetcher(tmp_path)
    assert fetch(URL, {"a": 1}) == fetch(URL, {"a": 1}) == b"first"
    assert fetch.n_request == 1
    (kept,) = [p for p in (tmp_path / "cache").iterdir() if p.suffix == ""]
    kept.write_bytes(b"spoilt")
    with pytest.warns(UserWarning, match="checksum"):
        assert fetch(URL, {"a": 1}) == b"first"
    assert fetch.n_request == 2
    assert fetch(URL, {"a": 1}) == b"first"
    assert fetch.n_request == 2


@responses.activate
def test_pace_is_kept_per_host(tmp_path: Path) -> None:
    responses.add(responses.GET, URL, body=b"x")
    responses.add(responses.GET, "https://other.test/image", body=b"y")
    time = Time()
    fetch = fetcher(tmp_path, time, interval=3.0)
    fetch(URL, {"n": 1})
    fetch("https://other.test/image")
    assert time.slept == []
    fetch(URL, {"n": 2})
    assert time.slept == [3.0]


@responses.activate
def test_legacy_cutout_becomes_exposures(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).normal(size=(3, 40, 40))
    responses.add(responses.GET, LEGACY, body=fits_bytes(cube, 0.262, SURVEY="LegacySurvey", BANDS="grz"))
    got = fetch_legacy(fetcher(tmp_path), "m1", 180.0, 1.0, tmp_path, size=10.5, bands="grz", layer="ls-dr9")
    query = parse_qs(urlsplit(responses.calls[0].request.url).query)
    assert query["layer"] == ["ls-dr9"]
    assert query["size"] == ["40"]
    assert query["ra"] == ["180.000000"]
    assert {"invvar", "maskbits"} <= set(query)
    g, _, _ = read_exposures(got.files["grz"])
    assert np.allclose(g.image, cube[0] * 1e-9, rtol=1e-5)


@responses.activate
def test_outside_of_the_legacy_surveys(tmp_path: Path) -> None:
    responses.add(responses.GET, LEGACY, body=b"<html>no such layer</html>")
    fetch = fetcher(tmp_path)
    with pytest.raises(DownloadError, match="no such layer"):
        fetch_legacy(fetch, "m1", 180.0, 1.0, tmp_path)
    responses.replace(responses.GET, LEGACY, body=fits_bytes(np.zeros((3, 20, 20)), 0.262))
    with pytest.raises(DownloadError, match="does not cover"):  # the useless answer was not kept
        fetch_legacy(fetch, "m1", 180.0, 1.0, tmp_path)
    with pytest.raises(ValueError, match="`ra` must be"):
        fetch_legacy(fetch, "m1", 400.0, 1.0, tmp_path)


CSV = (
    "#Table1\nobjID,ra,dec,run,rerun,camcol,field,psfWidth_u,psfWidth_g,psfWidth_r,psfWidth_i,psfWidth_z,z,specObjID\n"
    "1237646587710014999,180.0,1.0,756,301,4,206,1.6,1.5,1.33,1.25,1.2,0.0871,299489677444933632\n"
)


@responses.activate
def test_sdss_frame_is_found_cut_and_read(tmp_path: Path) -> None:
    frame = np.random.default_rng(1).normal(size=(300, 400))
    responses.add(responses.GET, SKYSERVER, body=CSV)
    body = bz2.compress(fits_bytes(frame, 0.396, BUNIT="nanomaggy", NMGY=0.005))
    responses.add(responses.GET, f"{FRAMES}/301/756/4/frame-r-000756-4-0206.fits.bz2", body=body)
    got = fetch_sdss(fetcher(tmp_path), "m1", 180.0, 1.0, tmp_path, size=40.0, bands="r")
    assert got.fwhm == {"r": 1.33}
    assert got.notes == {"objID": "1237646587710014999", "specObjID": "299489677444933632", "z": "0.0871"}
    (exposure,) = read_exposures(got.files["r"])
    assert exposure.image.shape == (101, 101)
    assert np.allclose(exposure.image, frame[99:200, 149:250] * 1e-9, rtol=1e-5)
    x, y = exposure.wcs.all_world2pix(180.0, 1.0, 0)
    assert (float(x), float(y)) == pytest.approx((50.5, 50.5), abs=0.01)


@responses.activate
def test_sdss_says_what_is_wrong(tmp_path: Path) -> None:
    responses.add(responses.GET, SKYSERVER, body=CSV.splitlines()[0] + "\n" + CSV.splitlines()[1] + "\n")
    with pytest.raises(DownloadError, match="no object at"):
        fetch_sdss(fetcher(tmp_path / "a"), "m1", 180.0, 1.0, tmp_path)
    responses.replace(responses.GET, SKYSERVER, body="ERROR: syntax")
    with pytest.raises(DownloadError, match="ERROR: syntax"):
        fetch_sdss(fetcher(tmp_path / "b"), "m1", 180.0, 1.0, tmp_path)
    responses.replace(responses.GET, SKYSERVER, body=CSV)
    responses.add(responses.GET, f"{FRAMES}/301/756/4/frame-r-000756-4-0206.fits.bz2", body=b"not bzip2")
    with pytest.raises(DownloadError, match="no bzip2"):
        fetch_sdss(fetcher(tmp_path / "c"), "m1", 180.0, 1.0, tmp_path, bands="r")


@responses.activate
def test_useless_answers_are_asked_for_again(tmp_path: Path) -> None:
    lines = CSV.splitlines()
    fetch = fetcher(tmp_path)
    for body in ("ERROR: too busy", "\n".join([*lines[:2], lines[2][:40]])):
        responses.upsert(responses.GET, SKYSERVER, body=body)
        with pytest.raises(DownloadError, match="answers"):
            fetch_sdss(fetch, "m1", 180.0, 1.0, tmp_path, bands="r")
    assert fetch.n_request == 2
    cube = fits_bytes(np.ones((3, 40, 40)), 0.262, SURVEY="LegacySurvey", BANDS="grz")
    responses.add(responses.GET, LEGACY, body=cube[:8000])
    responses.add(responses.GET, LEGACY, body=cube)
    with pytest.raises(DownloadError, match="truncated"):
        fetch_legacy(fetch, "m1", 180.0, 1.0, tmp_path)
    assert fetch_legacy(fetch, "m1", 180.0, 1.0, tmp_path).files
    responses.add(responses.GET, URL, body=requests.TooManyRedirects("loop"))
    with pytest.raises(DownloadError, match="loop"):
        fetch(URL)


@responses.activate
def test_a_senseless_position_does_not_stop_the_others(tmp_path: Path) -> None:
    cube = fits_bytes(np.ones((3, 40, 40)), 0.262, SURVEY="LegacySurvey", BANDS="grz")
    responses.add(responses.GET, LEGACY, body=cube)
    galaxies = [Galaxy("a", 0.1, float("nan"), 1.0), Galaxy("b", 0.1, 10.0, 1.0)]
    result = download_many(fetcher(tmp_path), galaxies, tmp_path, service("legacy"))
    assert list(result.found) == ["b"]
    assert "`ra` must be" in result.missing["a"]


@responses.activate
def test_deep_fields_come_in_an_archive(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../candels_gn_f814w_astrocut.fits", fits_bytes(np.ones((20, 20)), 0.03))
        archive.writestr("readme.txt", "x")
    responses.add(responses.GET, ZCUT, body=content.getvalue())
    got = fetch_zcut(fetcher(tmp_path), "m1", 189.5, 62.2, tmp_path / "out", survey="candels_gn_30mas")
    assert [p.name for p in got.files.values()] == ["m1_candels_gn_f814w_astrocut.fits"]
    assert all(p.parent == tmp_path / "out" for p in got.files.values())
    responses.replace(responses.GET, ZCUT, body=b'{"msg": "not in any field"}')
    with pytest.raises(DownloadError, match="not in any field"):
        fetch_zcut(fetcher(tmp_path), "m1", 10.0, 62.2, tmp_path)


@responses.activate
def test_many_galaxies_from_the_command_line(tmp_path: Path) -> None:
    cube = fits_bytes(np.ones((3, 40, 40)), 0.262, SURVEY="LegacySurvey", BANDS="grz")
    responses.add(responses.GET, LEGACY, body=cube)
    responses.add(responses.GET, LEGACY, body=b"no coverage")
    rows = {"id": ["a", "b"], "ra": [10.0, 11.0], "dec": [1.0, 1.0], "zred": [0.1, 0.2]}
    Table(rows).write(tmp_path / "galaxies.ecsv")
    args = [
        "download",
        "legacy",
        "--catalog",
        str(tmp_path / "galaxies.ecsv"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(app, [*args, "--interval", "0.2", "--bands", "grz"])
    assert done.exit_code == 0, done.output
    assert "b is left out" in done.output
    table = Table.read(tmp_path / "out" / "downloaded.ecsv")
    assert list(table["id"]) == ["a"]
    assert list(table["files"]) == ["a.fits"]
    assert "no coverage" in table.meta["missing"]["b"]
    wrong = CliRunner().invoke(
        app, ["download", "hst", "--ra", "1", "--dec", "2", "--bands", "g", "--out", "x"]
    )
    assert wrong.exit_code == 1
    assert "`bands` is for sdss, legacy alone" in wrong.output
