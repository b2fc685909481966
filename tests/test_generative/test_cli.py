"""`hbm train`, `hbm sample` and `hbm evaluate` from the outside."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from generative.evaluation import morphology
from hbm.cli import app
from hbm.cli.sample import parse_range

CONFIG = """
[data]
source = "npz"
path = "pictures.npz"
[network]
kind = "film"
patch = 4
channels = [16, 16]
[training]
steps = 4
batch = 4
levels = 1
contrast = 0
holes = false
n_validate = 4
save_every = 2
refit_images = 0
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a few steps on pictures."""
    folder = tmp_path_factory.mktemp("run")
    array = np.random.default_rng(0).integers(0, 255, (300, 16, 16, 3), dtype=np.uint8)
    np.savez(folder / "pictures.npz", array)
    (folder / "config.toml").write_text(CONFIG)
    args = ["train", str(folder / "config.toml"), "--out", str(folder / "run"), "--device", "cpu"]
    done = CliRunner().invoke(app, [*args, "--minutes", "0.01", "--steps", "4"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, [*args, "--resume", "--steps", "4"])
    assert done.exit_code == 0, done.output
    assert "Model written to" in done.output
    return folder


def test_pictures_are_trained_on_drawn_and_evaluated(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(trained / "run" / "model.safetensors")
    out = trained / "drawn.png"
    args = ["sample", "-m", model, "-n", "3", "--steps", "3", "--out", str(out)]
    done = CliRunner().invoke(
        app, [*args, "--arrays", str(trained / "a.npz"), "--film", str(trained / "f.gif")]
    )
    assert done.exit_code == 0, done.output
    with Image.open(out) as picture:
        assert picture.width > 100
    with np.load(trained / "a.npz") as content:
        assert content["image"].shape == (3, 3, 16, 16)
    with Image.open(trained / "f.gif") as film:
        assert film.n_frames > 10  # type: ignore[attr-defined]
    # Statmorph itself is in the tests of the evaluation: a second for each picture of noise.
    rng = np.random.default_rng(0)
    monkeypatch.setattr(morphology, "_statmorph", lambda _: (list(rng.uniform(1, 4, 6)), (7.5, 7.5)))
    evaluation = trained / "evaluation"
    done = CliRunner().invoke(
        app,
        ["evaluate", model, "-n", "20", "--out", str(evaluation), "--config", str(trained / "config.toml")],
    )
    assert done.exit_code == 0, done.output
    assert "training images" in done.output
    assert (evaluation / "evaluation.json").is_file()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of pictures whose label is their brightness."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "pictures").mkdir()
    rows = ["name,bright"]
    for i in range(30):
        Image.fromarray(np.full((8, 8, 3), 8 * i, np.uint8)).save(folder / "pictures" / f"{i}.png")
        rows.append(f"{i}.png,{i}")
    (folder / "labels.csv").write_text("\n".join(rows))
    text = CONFIG.replace('"npz"', '"folder"').replace('"pictures.npz"', '"pictures"\ntable = "labels.csv"')
    text = text.replace("[network]", "labels = { bright = [0, 29] }\n[network]")
    (folder / "config.toml").write_text(text)
    args = ["train", str(folder / "config.toml"), "--out", str(folder / "run"), "--device", "cpu"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    return str(folder / "run" / "model.safetensors")


def test_labels_can_be_asked_for(labelled: str, tmp_path: Path) -> None:
    args = ["sample", "-m", labelled, "--steps", "2", "-n", "3", "--out", str(tmp_path / "x.png")]
    arrays = tmp_path / "x.npz"
    done = CliRunner().invoke(app, [*args, "--label", "bright=29", "--arrays", str(arrays)])
    assert done.exit_code == 0, done.output
    with np.load(arrays) as content:
        np.testing.assert_array_equal(content["theta"], np.ones((3, 1)))
    done = CliRunner().invoke(app, [*args, "--vary", "bright=0:29", "--arrays", str(arrays)])
    assert done.exit_code == 0, done.output
    with np.load(arrays) as content:
        np.testing.assert_allclose(content["theta"][:, 0], [-1, 0, 1], atol=1e-6)
    for extra, message in (
        (["--label", "bright=40"], "must be between 0.0 and 29.0"),
        (["--label", "smooth=1"], "knows bright, not 'smooth'"),
        (["--label", "bright"], "`--label` must be NAME=VALUE"),
        (["--zred", "0.1"], "`zred` and `snr` must not be given"),
    ):
        done = CliRunner().invoke(app, [*args, *extra])
        assert done.exit_code == 1
        assert message in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sample", "-m", "MODEL", "--logmass", "10"], "knows no properties"),
        (["sample", "-m", "MODEL", "--method", "magic"], "`method` must be heun or ancestral"),
        (["sample", "-m", "nowhere"], "neither a file nor one of"),
        (["sample", "-m", "MODEL", "--vary", "logmass"], "`--vary` must be NAME=LOW:HIGH"),
        (["train", "CONFIG", "--out", "RUN"], "holds a run"),
        (["train", "nowhere", "--out", "RUN"], "no configuration 'nowhere'"),
        (
            ["train", "CONFIG", "--out", "RUN", "--resume", "--device", "tpu"],
            "`device` must be cpu or cuda, got 'tpu'",
        ),
    ],
)
def test_errors_are_sentences(trained: Path, tmp_path: Path, args: list[str], message: str) -> None:
    names = {
        "MODEL": str(trained / "run" / "model.safetensors"),
        "CONFIG": str(trained / "config.toml"),
        "RUN": str(trained / "run"),
    }
    args = [names.get(a, a) for a in args]
    if args[0] == "sample":
        args += ["--out", str(tmp_path / "x.png")]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())
    assert not (tmp_path / "x.png").exists()


def test_without_torch_the_extra_is_named() -> None:
    code = "import sys; sys.modules['torch'] = None; from hbm.cli import app; app(['sample'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'torch is not installed: pip install "galaxy-hbm[torch]"' in done.stderr


def test_ranges() -> None:
    assert parse_range("logssfr=-12.5:-9") == ("logssfr", -12.5, -9.0)
    with pytest.raises(ValueError, match="NAME=LOW:HIGH"):
        parse_range("logssfr=3")
