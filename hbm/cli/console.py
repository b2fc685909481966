"""What all commands share: consoles, short warnings, errors without a traceback, a progress bar."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


def stdout() -> Console:
    """Console for what the user asked for."""
    return Console(highlight=False)


def stderr() -> Console:
    """Console for errors, warnings and progress."""
    return Console(stderr=True, highlight=False)


_IMAGE_MODULES = ("torch", "accelerate", "diffusers", "safetensors", "statmorph", "photutils", "tensorboard")
_SURVEY_MODULES = ("requests", "skimage")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors a user can mend into one paragraph and exit code 1, warnings into one line each.

    Caught are ValueError (with CatalogError), FileNotFoundError, FileExistsError, other OSError, a training
    that is no longer finite, and ImportError, which names the extra to install. Anything else is a mistake
    of ours: its traceback stays.
    """
    console = stderr()
    with warnings.catch_warnings():
        warnings.showwarning = _warning_printer(console)
        try:
            yield
        except (ValueError, OSError, ImportError, FloatingPointError) as error:
            text = str(error)
            if isinstance(error, ModuleNotFoundError) and error.name in _IMAGE_MODULES:
                text = f'{error.name} is not installed: pip install "galaxy-hbm[torch]" for image models.'
            if isinstance(error, ModuleNotFoundError) and error.name in _SURVEY_MODULES:
                text = (
                    f'{error.name} is not installed: pip install "galaxy-hbm[images]" for images of surveys.'
                )
            console.print(f"[bold red]Error:[/] {escape(text)}", soft_wrap=True)
            raise typer.Exit(1) from error


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int, str], None]]:
    """Progress bar on stderr; yields ``progress(done, total, text)``, as `hbm.fit` calls it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(escape(text), total=None)

        def report(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=escape(text))

        yield report


def _warning_printer(console: Console) -> Callable[..., None]:
    """Replace `warnings.showwarning`: the message alone, each once."""
    seen: set[str] = set()

    def show(message: Warning | str, *_args: Any, **_kwargs: Any) -> None:
        text = str(message)
        if text not in seen:
            seen.add(text)
            console.print(f"[yellow]Warning:[/] {escape(text)}", soft_wrap=True)

    return show
