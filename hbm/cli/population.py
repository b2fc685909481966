"""``hbm population``: relations between galaxies' properties, from fits of single galaxies."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, progress_bar, stderr, stdout
from hbm.cli.programs import keep_programs

if TYPE_CHECKING:
    from hbm.population import PopulationResult
    from hbm.results import FitResult


def population(
    config: Annotated[
        Path | None, typer.Argument(help="TOML file that says what to do.", show_default=False)
    ] = None,
    example: Annotated[
        Path | None,
        typer.Option(help="Folder to write a small mock survey with its file to.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older result.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the state of an interrupted run.")
    ] = False,
    plots: Annotated[bool, typer.Option(help="Draw the hyperparameters beside the result.")] = True,
    cores: Annotated[
        int,
        typer.Option(min=1, help="Cores to divide the galaxies over.", rich_help_panel="Devices"),
    ] = 1,
    coordinator: Annotated[
        str | None,
        typer.Option(help="ADDRESS:PORT of the first of several hosts.", rich_help_panel="Devices"),
    ] = None,
    hosts: Annotated[
        int, typer.Option(min=1, help="Hosts that run this command.", rich_help_panel="Devices")
    ] = 1,
    host: Annotated[
        int | None, typer.Option(min=0, help="Number of this one, from 0.", rich_help_panel="Devices")
    ] = None,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="Let JAX ask SLURM, Open MPI or Cloud TPU for the hosts.",
            rich_help_panel="Devices",
        ),
    ] = False,
) -> None:
    """Infer how properties of galaxies are distributed: mass function, scaling relations, scatters.

    Takes the results of `hbm fit` in a folder, and the probability that a galaxy is measured at all. Writes
    draws of the hyperparameters (ArviZ InferenceData), a table and a figure. The file says which relations
    and which sampler (docs/population.md):

    `results = "results"`

    `[sampler]` with `method = "reweight"`, `"joint"` or `"gibbs"`, `warmup`, `draws`, `chains`, `seed`

    `[relations.schechter]`, `[relations.mass_metallicity]`, ... with their options

    `[selection]` with `band` or `property`, `limit` and `scatter`, or `function = "module:name"`

    **Examples**

    `hbm population --example mock`

    `hbm population mock/population.toml`

    `hbm population survey.toml --resume` carries on where an interrupted run stopped.

    `hbm population survey.toml --coordinator node0:1234 --hosts 4 --host 2` on the third of four hosts.

    `srun hbm population survey.toml --cluster`
    """
    with plain_errors():
        keep_programs()
        if cores > 1:  # before anything that wakes JAX up
            from hbm.devices import use_cpu_cores

            use_cpu_cores(cores)
        if hosts > 1 or cluster:
            from hbm.spread import join_hosts

            if cluster:
                join_hosts()
            else:
                join_hosts(coordinator, hosts, host)
        if example is not None:
            if config is not None:
                raise ValueError("Give a file or `--example`, not both.")
            _write_example(example)
            return
        if config is None:
            raise ValueError("Give a TOML file, or `--example` with a folder to write one to.")
        _run(config, overwrite=overwrite, resume=resume, plots=plots)


def _write_example(folder: Path) -> None:
    from hbm.population.mock import TRUTH, write_example

    path = write_example(folder)
    truth = ", ".join(f"{name} {value:g}" for name, value in TRUTH.items())
    stdout().print(f"A mock survey made with {truth}.", soft_wrap=True)
    stdout().print(f"Next: [cyan]hbm population {escape(str(path))}[/]", soft_wrap=True)


def _run(config: Path, *, overwrite: bool, resume: bool, plots: bool) -> None:
    from hbm.population.settings import read_settings
    from hbm.spread import hosts_meet, is_first_host

    settings = read_settings(config)
    out = settings.folder / settings.out
    if out.suffix != ".nc":
        raise ValueError(f"`out` in {config} must end in .nc, got {settings.out!r}.")
    if out.exists() and not overwrite:
        raise FileExistsError(f"`out` {out} exists already. Give `--overwrite`, or another name.")
    results = _results(settings.folder / settings.results)

    import json

    from hbm.config import ModelConfig
    from hbm.population import fit_population, save_population
    from hbm.population.configured import galaxies_of, population_of, selection_of

    lengths = settings.sampler
    model = ModelConfig.from_json(json.dumps(results[0].provenance.model_config["config"]))
    relations = population_of(settings.relations, model.prior)
    checkpoint = out.with_suffix(".chains.npz") if lengths.method != "reweight" else None
    with progress_bar("reading") as progress:
        progress(0, 1, "selection")
        selection = selection_of(settings, results, model, relations)
        progress(0, 1, "galaxies")
        galaxies = galaxies_of(settings, results)
        if checkpoint is not None and overwrite and not resume and is_first_host():
            checkpoint.unlink(missing_ok=True)
        hosts_meet("checkpoint")
        found = fit_population(
            galaxies, relations, method=lengths.method, selection=selection, n_warmup=lengths.warmup,
            n_draw=lengths.draws, n_chain=lengths.chains, seed=lengths.seed, progress=progress,
            checkpoint=checkpoint, resume=resume,
        )  # fmt: skip
    hosts_meet("sampled")
    if not is_first_host():
        return
    save_population(found, out, overwrite=overwrite)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    _show(found, len(results))
    if plots:
        from hbm.plots.population import plot_hyperparameters

        figure = out.with_suffix(".png")
        plot_hyperparameters(found, relations).savefig(figure)
        stdout().print(f"Figure: {escape(str(figure))}", soft_wrap=True)
    stdout().print(f"Result: {escape(str(out))}", soft_wrap=True)


def _results(folder: Path) -> "list[FitResult]":
    """Fits in a folder that are flagged ok."""
    from hbm.results import load_result

    if not folder.is_dir():
        raise FileNotFoundError(
            f"`results` must be a folder of `hbm fit`, got {str(folder)!r}: no such folder."
        )
    every = [load_result(path) for path in sorted(folder.glob("*.nc"))]
    good = [result for result in every if result.flag == "ok"]
    if not good:
        raise ValueError(
            f"`results` {folder} must hold results that are flagged ok, got {len(every)}, none of them ok."
        )
    if len(good) < len(every):
        lost = f"{len(every) - len(good)} of {len(every)} galaxies are left out: not flagged ok."
        stderr().print(f"[yellow]Note:[/] {lost}", soft_wrap=True)
    return good


def _show(found: "PopulationResult", n_galaxy: int) -> None:
    """Print medians and 68 % ranges, and the verdict."""
    from rich.table import Table

    table = Table(title=f"Hyperparameters from {n_galaxy} galaxies, {found.method}", title_justify="left")
    for heading in ("hyperparameter", "median", "68 %", "R-hat", "ESS"):
        table.add_column(heading, justify="left" if heading == "hyperparameter" else "right", no_wrap=True)
    for row in summary_rows(found):
        table.add_row(*(escape(text) for text in row))
    stdout().print(table)
    if found.flag == "ok":
        stdout().print("[bold green]ok[/]")
        return
    stdout().print(
        f"[bold yellow]Flagged {escape(found.flag)}[/]: see docs/population.md, when not to trust it.",
        soft_wrap=True,
    )


def summary_rows(found: "PopulationResult") -> list[tuple[str, str, str, str, str]]:
    """Name, median, 68 % range, R-hat and effective sample size of every scalar."""
    import numpy as np

    from hbm.convergence import component_diagnostics

    values: dict[str, Any] = {
        str(name): np.asarray(value.values)[None] for name, value in found.idata.posterior.data_vars.items()
    }
    parts = component_diagnostics(values)
    columns = np.concatenate([v.reshape(v.shape[1] * v.shape[2], -1) for v in values.values()], axis=1)
    rows = []
    for i, name in enumerate(parts.names):
        low, median, high = np.quantile(columns[:, i], (0.16, 0.5, 0.84))
        ess = f"{parts.ess_bulk[0, i]:.0f}"
        rows.append((name, f"{median:.3f}", f"{low:.3f} to {high:.3f}", f"{parts.rhat[0, i]:.3f}", ess))
    return rows
