"""``hbm fit``: a catalogue to posteriors."""

import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from hbm.cli.console import plain_errors, progress_bar, stderr, stdout
from hbm.cli.figures import save_figures
from hbm.cli.fit_many import fit_on_workers
from hbm.cli.programs import keep_programs

if TYPE_CHECKING:
    from hbm.catalog import Catalog
    from hbm.results import FitResult

N_CHAIN, N_WARMUP, N_DRAW = 4, 150, 600
"""Defaults of `hbm.sampler.SamplerConfig`, which takes seconds to import."""

SUMMARY = "summary.ecsv"
"""Table of all galaxies in the folder of results."""


class OnBad(StrEnum):
    """What to do with rows that cannot be used."""

    stop = "raise"
    drop = "drop"


class History(StrEnum):
    """Star formation history."""

    binned = "binned"
    delayed_tau = "delayed_tau"


class Igm(StrEnum):
    """Absorption by the intergalactic medium."""

    inoue = "inoue"
    madau = "madau"
    none = "none"


class Method(StrEnum):
    """Sampler."""

    nuts = "nuts"
    aies = "aies"
    ess = "ess"


def fit(
    catalog: Annotated[
        Path,
        typer.Argument(
            help="FITS, ECSV, CSV, Parquet, or text with # before its header.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("hbm_results"),
    preset: Annotated[
        str | None,
        typer.Option(help="Columns of a known catalogue, such as 3dhst_cosmos.", rich_help_panel="Catalogue"),
    ] = None,
    columns: Annotated[
        Path | None,
        typer.Option(help="TOML file that says which column is what.", rich_help_panel="Catalogue"),
    ] = None,
    galaxy: Annotated[
        list[str] | None,
        typer.Option("--id", help="Fit only this galaxy; may be repeated.", rich_help_panel="Catalogue"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Fit only the first so many.", rich_help_panel="Catalogue")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="I/N: fit the I-th of N shares, the others being fitted elsewhere.",
            rich_help_panel="Catalogue",
        ),
    ] = None,
    on_bad: Annotated[
        OnBad,
        typer.Option(
            help="Rows that cannot be used: stop and name them, or drop them.", rich_help_panel="Catalogue"
        ),
    ] = OnBad.stop,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Statistics of the galaxies' images, from `hbm compile`.", rich_help_panel="Images"
        ),
    ] = None,
    image_model: Annotated[
        str | None,
        typer.Option(
            help="Image model that they were compiled with: shipped name or checkpoint.",
            show_default="that named in the file",
            rich_help_panel="Images",
        ),
    ] = None,
    use: Annotated[
        str | None,
        typer.Option(
            help="photometry, image, or photometry,image.",
            show_default="whatever there is",
            rich_help_panel="Images",
        ),
    ] = None,
    insist: Annotated[
        bool,
        typer.Option(
            "--insist", help="Use an image model that is overconfident or untested.", rich_help_panel="Images"
        ),
    ] = False,
    correction: Annotated[
        bool,
        typer.Option(
            "--correction/--no-correction",
            help="Use the image model's ratio correction, if it has one.",
            rich_help_panel="Images",
        ),
    ] = True,
    sfh: Annotated[
        History, typer.Option(help="Star formation history.", rich_help_panel="Model")
    ] = History.binned,
    error_floor: Annotated[
        str,
        typer.Option(help="Model error as a fraction of the model flux, or 'free'.", rich_help_panel="Model"),
    ] = "0.05",
    outliers: Annotated[
        bool, typer.Option("--outliers", help="Allow for bad bands.", rich_help_panel="Model")
    ] = False,
    zero_points: Annotated[
        float,
        typer.Option(
            min=0.0, help="Width (mag) of a free offset of each band; 0 for none.", rich_help_panel="Model"
        ),
    ] = 0.0,
    igm: Annotated[
        Igm, typer.Option(help="Absorption by the intergalactic medium.", rich_help_panel="Model")
    ] = Igm.inoue,
    grid: Annotated[
        Path | None,
        typer.Option(
            help="Grid of stellar populations, see `hbm grid`.",
            show_default="the shipped grid",
            rich_help_panel="Model",
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            help="NUTS, or an ensemble of walkers: affine-invariant (aies) or slice (ess).",
            rich_help_panel="Sampler",
        ),
    ] = Method.nuts,
    chains: Annotated[
        int, typer.Option(min=1, help="Chains per galaxy.", rich_help_panel="Sampler")
    ] = N_CHAIN,
    warmup: Annotated[
        int, typer.Option(min=1, help="Steps that tune the sampler.", rich_help_panel="Sampler")
    ] = N_WARMUP,
    draws: Annotated[
        int, typer.Option(min=1, help="Draws kept per chain.", rich_help_panel="Sampler")
    ] = N_DRAW,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.", rich_help_panel="Sampler")] = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Galaxies sampled side by side.",
            show_default="4 for each core in use, 64 for each accelerator",
            rich_help_panel="Sampler",
        ),
    ] = None,
    cores: Annotated[
        int, typer.Option(min=1, help="Cores to divide the galaxies over.", rich_help_panel="Sampler")
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Fit batches on so many processes of one thread each; needs the extra [many].",
            rich_help_panel="Thousands of galaxies",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Fit batches on the workers of a Dask cluster, such as tcp://host:8786.",
            rich_help_panel="Thousands of galaxies",
        ),
    ] = None,
    per_task: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Galaxies of a batch; a run that is killed loses those in flight.",
            show_default="at most 4 times those side by side",
            rich_help_panel="Thousands of galaxies",
        ),
    ] = None,
    keep_draws: Annotated[
        bool,
        typer.Option(
            "--keep-draws/--no-draws",
            help="Write draws of each galaxy, or only the rows of the table.",
            rich_help_panel="Thousands of galaxies",
        ),
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace older results.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip galaxies whose result is there already.")
    ] = False,
    plots: Annotated[bool, typer.Option(help="Save figures of every galaxy beside its result.")] = False,
) -> None:
    """Fit every galaxy of a catalogue: its photometry, its image, or both.

    Writes for each galaxy `<id>.nc` with draws from its posterior (ArviZ InferenceData), and for all of them
    `summary.ecsv`: medians, 68 % ranges, and whether the chains converged. Look at `flag` before using a row.

    Without --preset or --columns the table must have the columns id and zred, optionally zred_err, and for
    each band its flux and error in maggies, named by the filter: sdss_g0 and sdss_g0_err. Names of filters:
    `hbm filters`.

    **Examples**

    `hbm fit galaxies.fits --columns galaxies.toml --out results`

    `hbm fit cosmos.cat --preset 3dhst_cosmos --id 23416 --id 5200 --plots`

    `hbm fit galaxies.ecsv --error-floor free --outliers --limit 10 --overwrite`

    `hbm fit galaxies.ecsv --images stamps.stats.h5 --out joint` adds images that `hbm compile` has compiled.

    `hbm fit galaxies.ecsv --out results --part 2/8` is one of eight commands, on as many machines.

    `hbm fit galaxies.ecsv --resume` carries on where an interrupted run stopped.

    `hbm fit galaxies.ecsv --out results --workers 16` fits batches on 16 processes: thousands of galaxies, of
    which none stops the run.
    """
    with plain_errors():
        on_workers = workers is not None or scheduler is not None
        _refuse_mixture(on_workers, cores=cores, plots=plots, per_task=per_task, keep_draws=keep_draws)
        keep_programs()
        if overwrite and resume:
            raise ValueError("Give `--overwrite` or `--resume`, not both.")
        floor = parse_error_floor(error_floor)

        if cores > 1:  # before anything that wakes JAX up
            from hbm.devices import use_cpu_cores

            use_cpu_cores(cores)
        from hbm.catalog import read_catalog
        from hbm.config import ModelConfig
        from hbm.results import load_result, result_path
        from hbm.sampler import SamplerConfig

        whole = read_catalog(catalog, preset=preset, columns=columns, on_bad=on_bad.value)
        if images is not None:
            whole = _with_images(whole, images, image_model, insist, correction)
        chosen = _share(choose(whole, galaxy, limit), part)
        config = ModelConfig(
            sfh=sfh.value,
            igm=igm.value,
            error_floor=floor,
            outliers=outliers,
            zero_point_sigma=zero_points,
        )
        sampler = SamplerConfig(n_chain=chains, n_warmup=warmup, n_draw=draws)
        used = None if use is None else tuple(part.strip() for part in use.split(","))
        if on_workers:
            fit_on_workers(
                chosen,
                out,
                SUMMARY,
                address=scheduler,
                n_worker=workers,
                batch=per_task,
                keep_draws=keep_draws,
                resume=resume,
                overwrite=overwrite,
                config=config,
                sampler=sampler,
                grid=grid,
                seed=seed,
                method=method.value,
                batch_size=batch_size,
                use=used,
            )
            return
        paths = {name: result_path(out, name) for name in chosen.id}
        there = [name for name, path in paths.items() if path.exists()]
        if there and not overwrite and not resume:
            raise FileExistsError(
                f"`--out` {out} already holds results of {len(there)} of these galaxies ({_some(there)}). "
                "Give `--resume` to keep them and fit the others, `--overwrite` to replace them, or another "
                "folder."
            )
        todo = chosen.select([i for i, name in enumerate(chosen.id) if overwrite or name not in there])

        from hbm.counted import fit_settings
        from hbm.fitting import fit as fit_catalog
        from sed.io import load_grid

        skipped = {name: load_result(paths[name]) for name in chosen.id if name not in todo.id}
        wanted = fit_settings(chosen, config, sampler, method.value, used)
        _refuse_other_settings(skipped, wanted, out)
        model_grid = None if grid is None else load_grid(grid)
        fitted: list[FitResult] = []
        if len(todo):
            with progress_bar(f"fitting {len(todo)} galaxies") as progress:
                fitted = fit_catalog(
                    todo,
                    config=config,
                    sampler=sampler,
                    grid=model_grid,
                    seed=seed,
                    method=method.value,
                    outdir=out,
                    overwrite=overwrite,
                    progress=progress,
                    batch_size=batch_size,
                    use=used,
                )
        done = {result.galaxy_id: result for result in fitted}
        _report([(done | skipped)[name] for name in chosen.id], len(skipped), out)
        if plots:
            for result in fitted:
                stem = paths[result.galaxy_id].with_suffix("")
                for note in save_figures(result, stem, grid=model_grid).notes:
                    stderr().print(f"[yellow]Note:[/] {escape(note)}", soft_wrap=True)
        elif fitted:
            first = escape(str(paths[fitted[0].galaxy_id]))
            stdout().print(f"Next: [cyan]hbm plot {first}[/]", soft_wrap=True)


def _with_images(
    catalog: "Catalog", images: Path, model: str | None, insist: bool, correction: bool
) -> "Catalog":
    """Catalogue with images; those of galaxies that are not in it are refused."""
    from hbm.catalog_images import with_images
    from hbm.image import model_of

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        name = model_of(images) if model is None else model
        found = with_images(catalog, images, name, insist=insist, correction=correction)
    for warning in caught:
        stderr().print(f"[yellow]Note:[/] {escape(str(warning.message))}", soft_wrap=True)
    return found


def _refuse_mixture(
    on_workers: bool, *, cores: int, plots: bool, per_task: int | None, keep_draws: bool
) -> None:
    """Refuse options that only one of the two ways to fit has."""
    if on_workers and cores > 1:
        raise ValueError("Give `--cores`, or `--workers` or `--scheduler`, not both.")
    if on_workers and plots:
        raise ValueError("`--plots` needs a fit without workers: draw some galaxies afterwards, `hbm plot`.")
    if not on_workers and (per_task is not None or not keep_draws):
        raise ValueError("`--per-task` and `--no-draws` need `--workers` or `--scheduler`.")


def _refuse_other_settings(old: "dict[str, FitResult]", wanted: dict[str, Any], out: Path) -> None:
    """Refuse to go on with results that were made with other settings."""
    from hbm.results import settings_that_differ

    for name, result in old.items():
        differences = settings_that_differ(result.provenance.model_config, wanted)
        if differences:
            raise ValueError(
                f"`--resume` needs the settings of the results in {out}, but that of {name} has "
                f"{'; '.join(differences[:4])}. Give the same settings, `--overwrite`, or another folder."
            )


def parse_error_floor(text: str) -> float | Literal["free"]:
    """Error floor as `ModelConfig` takes it."""
    if text == "free":
        return "free"
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"`--error-floor` must be a fraction such as 0.05, or 'free', got {text!r}."
        ) from None


def choose(catalog: "Catalog", ids: list[str] | None, limit: int | None) -> "Catalog":
    """Galaxies by identifier, in that order and each once, and only the first `limit` of them."""
    from hbm.columns import suggest

    if ids:
        position = {name: i for i, name in enumerate(catalog.id)}
        for name in ids:
            if name in catalog.rejected:
                raise ValueError(f"`--id` {name} was dropped when reading: {catalog.rejected[name]}.")
            if name not in position:
                raise ValueError(
                    f"`--id` must be in the catalogue ({len(catalog)} galaxies, such as "
                    f"{_some(catalog.id)}), got {name!r}.{suggest(name, catalog.id)}"
                )
        catalog = catalog.select([position[name] for name in dict.fromkeys(ids)])
    return catalog if limit is None else catalog.select(slice(limit))


def _share(catalog: "Catalog", part: str | None) -> "Catalog":
    """Every N-th galaxy from the I-th on, of ``I/N``."""
    if part is None:
        return catalog
    first, _, every = part.partition("/")
    if not (first.isdecimal() and every.isdecimal() and 1 <= int(first) <= int(every)):
        raise ValueError(f"`--part` must be I/N with I from 1 to N, such as 2/8, got {part!r}.")
    rows = list(range(int(first) - 1, len(catalog), int(every)))
    if not rows:
        raise ValueError(f"`--part` {part} leaves no galaxy: there are {len(catalog)}.")
    return catalog.select(rows)


def _report(results: "list[FitResult]", n_skipped: int, out: Path) -> None:
    """Write the table of all results in the folder, and print how those of this run went."""
    from hbm.results import load_result, result_path, summary_table, write_table

    paths = {result_path(out, result.galaxy_id) for result in results}
    others = [load_result(path) for path in sorted(out.glob("*.nc")) if path not in paths]
    table = write_table(summary_table([*results, *others]), out / SUMMARY, overwrite=True)
    flagged = [result for result in results if result.flag != "ok"]
    counts = [f"{len(results) - n_skipped} fitted"]
    if n_skipped:
        counts.append(f"{n_skipped} were there already")
    n_converged = sum(result.convergence.converged for result in results)
    counts += [f"{n_converged} of {len(results)} converged", f"{len(flagged)} flagged"]
    console = stdout()
    console.print(f"[bold {'yellow' if flagged else 'green'}]{', '.join(counts)}.[/]")
    for result in flagged[:20]:
        reason = f": {result.convergence.reason}" if result.convergence.reason else ""
        line = f"  {escape(result.galaxy_id)} [yellow]{escape(result.flag)}[/]{escape(reason)}"
        console.print(line, soft_wrap=True)
    if len(flagged) > 20:
        console.print(f"  and {len(flagged) - 20} more, see the column flag of the table.")
    if others:
        console.print(f"The table also has {len(others)} older results of this folder.")
    console.print(f"Results: {escape(str(out))}  Table: {escape(str(table))}", soft_wrap=True)


def _some(names: "list[str] | tuple[str, ...]") -> str:
    """Join a few names."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
