"""`hbm train`, `hbm sample` and `hbm evaluate` from the outside."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

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


def test_pictures_are_trained_on_drawn_and_evaluated(trained: Path) -> None:
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
    evaluation = trained / "evaluation"
    done = CliRunner().invoke(
        app,
        ["evaluate", model, "-n", "20", "--out", str(evaluation), "--config", str(trained / "config.toml")],
    )
    assert done.exit_code == 0, done.output
    assert "training images" in done.output
    assert (evaluation / "evaluation.json").is_file()


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
