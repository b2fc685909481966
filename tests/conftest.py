"""What every test module shares: the `fsps` marker, quick compilation, no screen for plots, the default grid.

Tests marked ``fsps`` are skipped where python-fsps cannot run. With ``HBM_REQUIRE_FSPS=1`` in the environment
such a skip is a failure, and so is a session in which none of them ran.

Without slow tests, XLA compiles without its costly optimisations: a test runs its programs a few times, and
compiling them takes most of the time; so for ``-m examples``. ``-m ""`` and ``-m slow`` compile as users do.
"""

import importlib.util
import os
from collections.abc import Generator
from typing import Any

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HBM_PROGRAMS"] = ""  # commands keep no compiled programs

_QUICK = ("not slow and not examples", "examples")
"""Of which tests: the default of pyproject.toml, and the examples."""

_QUICK_XLA = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
)
"""A quarter of the time to compile a fit's programs; they run about a fifth slower (jaxlib 0.10.2)."""


def _fsps_required() -> bool:
    return os.environ.get("HBM_REQUIRE_FSPS", "") == "1"


def _fsps_missing() -> str | None:
    """Why python-fsps cannot run here, or None."""
    if not os.environ.get("SPS_HOME"):
        return "SPS_HOME is not set: point it to a folder of FSPS data to run this test"
    if importlib.util.find_spec("fsps") is None:
        return 'python-fsps is not installed: pip install "galaxy-hbm[fsps]" to run this test'
    return None


class FspsCounter:
    """Count the tests marked `fsps` that ran, in the process that writes the summary."""

    def __init__(self) -> None:
        self.n_ran = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and "fsps" in report.keywords and not report.skipped:
            self.n_ran += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if _fsps_required() and self.n_ran == 0 and exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if _fsps_required() and self.n_ran == 0:
            terminalreporter.write_line(
                "ERROR: HBM_REQUIRE_FSPS=1, but no test marked fsps ran", red=True, bold=True
            )
        elif self.n_ran > 0:
            terminalreporter.write_line(f"{self.n_ran} tests marked fsps ran")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr in _QUICK:  # before JAX starts; subprocesses of tests inherit it
        os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *_QUICK_XLA)).strip()
    if not hasattr(config, "workerinput"):  # not in the workers of pytest-xdist
        config.pluginmanager.register(FspsCounter(), "fsps-counter")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("fsps") is None:
        return
    reason = _fsps_missing()
    if reason is not None:
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test marked `fsps`, for whatever reason, into a failure where they are required."""
    report = yield
    if report.skipped and _fsps_required() and item.get_closest_marker("fsps") is not None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"HBM_REQUIRE_FSPS=1, but this test was skipped: {reason}"
    return report


@pytest.fixture(scope="session")
def grid() -> Any:
    """Give the default SSP grid, read once per process."""
    from sed.io import load_grid

    return load_grid()
