"""Importing a package loads only what the design allows, reads no settings and starts no device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

IMPORT_TOP = "import {package}"

IMPORT_ALL = """
import importlib, pkgutil
import {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""

FORBIDDEN = {
    "hbm": ("torch", "pyro", "fsps", "prospect", "generative"),
    "sed": ("torch", "pyro", "fsps", "prospect", "hbm", "generative"),
    "generative": ("jax", "numpyro", "hbm"),
}


def run_python(code: str, cwd: Path, **environ: str) -> str:
    """Run `code` in a fresh interpreter, without SPS_HOME, and return what it wrote."""
    env = {key: value for key, value in os.environ.items() if key != "SPS_HOME"} | environ
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_after(code: str, modules: tuple[str, ...], cwd: Path) -> list[str]:
    """Which of `modules` are loaded once `code` has run."""
    report = f"{code}\nimport sys\nprint(*[name for name in {modules!r} if name in sys.modules])"
    return run_python(report, cwd).split()


@pytest.mark.parametrize("package", ["sed", "hbm", "generative"])
def test_import_loads_nothing_forbidden(package: str, tmp_path: Path) -> None:
    assert loaded_after(IMPORT_TOP.format(package=package), FORBIDDEN[package], tmp_path) == []


@pytest.mark.parametrize("package", ["sed", "hbm", "generative"])
def test_every_module_loads_nothing_forbidden(package: str, tmp_path: Path) -> None:
    assert loaded_after(IMPORT_ALL.format(package=package), FORBIDDEN[package], tmp_path) == []


def test_a_loaded_module_is_noticed(tmp_path: Path) -> None:
    assert loaded_after("import json", ("json", "torch"), tmp_path) == ["json"]


@pytest.mark.parametrize("package", ["sed", "hbm"])
def test_import_starts_no_device(package: str, tmp_path: Path) -> None:
    # JAX looks for this platform only when an array is first made, and then fails.
    run_python(IMPORT_ALL.format(package=package), tmp_path, JAX_PLATFORMS="no_such_platform")


def test_making_an_array_starts_a_device(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no_such_platform"):
        run_python("import jax.numpy as jnp; jnp.ones(1)", tmp_path, JAX_PLATFORMS="no_such_platform")


@pytest.mark.parametrize("package", ["sed", "hbm", "generative"])
def test_import_is_silent(package: str, tmp_path: Path) -> None:
    assert run_python(IMPORT_TOP.format(package=package), tmp_path) == ""
