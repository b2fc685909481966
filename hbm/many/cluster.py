"""Batches on a Dask cluster: one of this machine's processes, or any that has a scheduler.

Dask runs a batch again when its worker dies, and gives up after some deaths; `hbm.many.plan` decides what
becomes of the batch then. No more batches are handed out than there are workers, so that a death says
something about the batch that ran there, and not about others that waited behind it.
"""

import contextlib
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from hbm.many.plan import Batch, Failure, Waiting
from hbm.many.work import Inputs, Outcome, fit_batch, places

if TYPE_CHECKING:
    from distributed import Client, WorkerPlugin

REDONE = 2
"""A batch whose worker died is run again so often, on a cluster of ours; others have their own limit."""

_TICK_S = 2.0
"""Progress is told at least so often."""

_CONNECT_S = 30.0

PATIENCE_S = 600.0
"""A cluster of ours may be without a worker for so long: those that died are started again by then."""


@contextlib.contextmanager
def open_client(address: str | None, n_worker: int | None) -> "Iterator[Client]":
    """Client of a cluster; one that is started here ends with the context.

    Parameters
    ----------
    address
        Of a scheduler, such as ``tcp://host:8786``; None for processes of this machine.
    n_worker
        So many processes, of one thread each; by default one for each core.

    Raises
    ------
    ImportError
        If Dask is not installed.
    ConnectionError
        If no scheduler answers.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
    except ModuleNotFoundError as error:
        raise ImportError(
            f'{error.name} is not installed: pip install "galaxy-hbm[many]" to fit on several workers.'
        ) from error
    with contextlib.ExitStack() as stack:
        if address is None:
            # By default a worker that takes 15 s to start again is given up, and none follows it.
            stack.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": f"{PATIENCE_S}s"}))
            cluster = LocalCluster(
                n_workers=n_worker or n_core(),
                threads_per_worker=1,
                processes=True,
                # Compiled programs stay in memory: a worker that Dask paused for it would never go on.
                memory_limit=None,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                scheduler_kwargs={"allowed_failures": REDONE},
                env=_one_thread(),
            )
            stack.enter_context(cluster)
            address = cluster.scheduler_address
        try:
            client = Client(address, timeout=_CONNECT_S, set_as_default=False)
        except OSError as error:
            raise ConnectionError(
                f"`address` must be that of a Dask scheduler, but none answers at {address!r} ({error})."
            ) from error
        stack.enter_context(client)
        yield client


def n_workers(client: "Client") -> int:
    """Workers that there are now."""
    return len(client.nthreads())


def places_of(client: "Client") -> int:
    """Galaxies that one worker fits side by side; waits for the first worker."""
    n: int = client.submit(places, pure=False).result()
    return n


def fit_batches(
    client: "Client",
    inputs: Inputs,
    waiting: Waiting,
    tick: Callable[[int], None],
    patience: float = math.inf,
) -> Generator[Batch | Failure, None, None]:
    """Fit all batches, in whatever order they end.

    Parameters
    ----------
    client
        Of the cluster.
    inputs
        What all batches need. It is sent once to each worker, also to those that join later.
    waiting
        The batches.
    tick
        Called every few seconds with the number of workers.
    patience
        Seconds without any worker after which the run ends.

    Yields
    ------
    Batch or Failure
        A batch that is fitted, or a galaxy that cannot be.

    Raises
    ------
    ConnectionError
        If the scheduler went away, or there was no worker for too long.
    OSError
        If a worker cannot write results.
    """
    from distributed import KilledWorker, wait
    from distributed.comm.core import CommClosedError

    run = f"galaxy-hbm-{uuid.uuid4().hex}"
    running: dict[Any, Batch] = {}
    last_seen = time.monotonic()
    try:
        client.register_plugin(_plugin(inputs), name=run)
        with client.as_current():
            while waiting or running:
                n_worker = n_workers(client)
                tick(n_worker)
                if n_worker:
                    last_seen = time.monotonic()
                elif time.monotonic() - last_seen > patience:
                    raise ConnectionError(
                        f"No worker for {patience:.0f} s: they die as soon as they start. What is done is "
                        "saved: go on with `resume`, with fewer workers if memory is short."
                    )
                while waiting and len(running) < max(n_worker, 1):
                    batch = waiting.take()
                    key = f"{run}-{batch.name}"
                    running[client.submit(_task, run, list(batch.rows), key=key, pure=False)] = batch
                try:
                    ended = wait(list(running), timeout=_TICK_S, return_when="FIRST_COMPLETED").done
                except TimeoutError:
                    continue
                for future in ended:
                    batch = running.pop(future)
                    error = future.exception()
                    if isinstance(error, KilledWorker):
                        n_death = error.allowed_failures + 1
                        text = "its worker died" + (f" {n_death} times" if n_death > 1 else "")
                        event: Batch | Failure | None = waiting.killed(batch, text)
                    elif error is not None:
                        raise error
                    else:
                        outcome: Outcome = future.result()
                        event = waiting.raised(batch, outcome.error) if outcome.error else batch
                    if event is not None:
                        yield event
    except (CancelledError, CommClosedError) as error:
        raise ConnectionError(
            "The Dask scheduler went away, or cancelled the run. What is done is saved: go on with `resume`."
        ) from error
    finally:
        # A worker that dies or starts meanwhile makes these fail in ways that tell nothing; what went wrong
        # before must not be hidden by it.
        with contextlib.suppress(Exception):
            client.cancel(list(running))
        with contextlib.suppress(Exception):
            client.unregister_worker_plugin(run)


def _plugin(inputs: Inputs) -> "WorkerPlugin":
    """Keeps the inputs on a worker."""
    from distributed import WorkerPlugin

    class Kept(WorkerPlugin):  # type: ignore[misc]
        def __init__(self, inputs: Inputs) -> None:
            self.inputs = inputs

        def __reduce__(self) -> tuple[Callable[[Inputs], Any], tuple[Inputs]]:
            return _plugin, (self.inputs,)

    return Kept(inputs)


def _task(run: str, rows: list[int]) -> Outcome:
    """Fit galaxies on the worker that this runs on."""
    from distributed import get_worker

    plugin: Any = get_worker().plugins[run]
    inputs: Inputs = plugin.inputs
    return fit_batch(inputs, Batch(tuple(rows), tuple(inputs.catalog.id[row] for row in rows)))


def _one_thread() -> dict[str, str]:
    """Environment of processes that share the cores, and perhaps a GPU."""
    caps = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "false")}
    return {**caps, "XLA_FLAGS": flags, **memory}


def n_core() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
