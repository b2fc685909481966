"""Compiled programs that commands keep on disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hbm.cli.programs import user_folder

COMPILE = """
import sys
from pathlib import Path
from hbm.cli.programs import keep_programs
keep_programs(Path(sys.argv[1]))
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("cache_hits")))
print(float(jax.jit(lambda x: jnp.sin(x) * 2)(0.5)), sum(hits))
"""


def compiled(folder: Path, **variables: str) -> tuple[float, int]:
    """Value, and programs found on disk."""
    environment = {k: v for k, v in os.environ.items() if k != "HBM_PROGRAMS"} | variables
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    value, hits = done.stdout.split()
    return float(value), int(hits)


def test_the_second_command_finds_what_the_first_compiled(tmp_path: Path) -> None:
    first, second = compiled(tmp_path / "a"), compiled(tmp_path / "a")
    assert first[1] == 0
    assert second == (first[0], second[1])
    assert second[1] > 0


@pytest.mark.parametrize("variable", ["HBM_PROGRAMS", "JAX_COMPILATION_CACHE_DIR"])
def test_the_user_comes_first(variable: str, tmp_path: Path) -> None:
    compiled(tmp_path / "ours", **{variable: str(tmp_path / "theirs")})
    assert list((tmp_path / "theirs").iterdir())
    assert not (tmp_path / "ours").exists()


def test_nothing_is_kept_where_that_is_asked_or_impossible(tmp_path: Path) -> None:
    compiled(tmp_path / "ours", HBM_PROGRAMS="")
    assert not (tmp_path / "ours").exists()
    (tmp_path / "file").touch()
    assert compiled(tmp_path / "file" / "below")[1] == 0


def test_processors_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = user_folder()
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert user_folder() != here
    assert user_folder().parent == here.parent
