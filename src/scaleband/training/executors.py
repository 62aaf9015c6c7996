"""Where trainings run: anything with the `concurrent.futures.Executor` interface.

`submit` works with every such executor, Dask's `Client.get_executor()` too. The four engines here are plain
executors around local processes, submitit (Slurm), Ray and Dask: each of their threads waits for one training.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from scaleband.errors import UserError
from scaleband.training.protocol import Adapter, RunResult, RunSpec, failed
from scaleband.training.running import reason_for, run_one
from scaleband.training.workers import begin, work


def submit(executor: Executor, adapter: Adapter, spec: RunSpec, folder: str | Path) -> Future[RunResult]:
    """Hand one training to an executor.

    Parameters
    ----------
    executor
        Any `concurrent.futures.Executor`.
    adapter, spec, folder
        As for `run_one`. The folder must be the same place for the worker.

    Returns
    -------
    A future that always gives a result: a lost worker, an engine that broke and a result that could not travel
    are `status = "failed"` with a reason.
    """
    outcome: Future[RunResult] = Future()
    # Once it is handed over it counts as running: a campaign that stops waiting must not lose a run that goes on.
    outcome.set_running_or_notify_cancel()

    def settle(done: Future[RunResult]) -> None:
        try:
            error = done.exception()
            result = failed(spec, _lost(error)) if error is not None else done.result()
        except CancelledError:
            result = failed(spec, "cancelled before it ran")
        outcome.set_result(result)

    try:
        inner = executor.submit(run_one, adapter, spec, str(Path(folder).absolute()))
    except Exception as error:
        outcome.set_result(failed(spec, _lost(error)))
        return outcome
    inner.add_done_callback(settle)
    return outcome


def _lost(error: BaseException) -> str:
    """Why an engine gave no result."""
    crashed = isinstance(error, BrokenProcessPool) or type(error).__name__ in {
        "KilledWorker", "WorkerCrashedError", "NodeDiedError", "ActorDiedError", "OutOfMemoryError",
        "FailedJobError", "UncompletedJobError", "LostWorker",
    }  # fmt: skip
    if crashed:
        text = " ".join(str(error).split())[:300]
        return f"the worker was lost (killed, out of memory, or its machine went away): {text}"
    return reason_for(error)


class LostWorker(RuntimeError):
    """The process that trained ended without a result."""


class WaitingExecutor(ThreadPoolExecutor):
    """An executor whose threads each wait for a call that happens elsewhere.

    Parameters
    ----------
    workers
        How many calls run at once.
    call
        Does `function(*arguments)` elsewhere, waits, and gives what it gave.
    close
        Called once all work is done.
    stop
        Ends what is running: called when Ctrl-C leaves the executor's block, which would wait for it otherwise.
    """

    def __init__(
        self, workers: int, call: Callable[..., Any], close: Callable[[], None] = lambda: None,
        stop: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        if workers < 1:
            raise UserError(f"workers = {workers}: at least one is needed")
        super().__init__(max_workers=workers, thread_name_prefix="scaleband-training")
        self._call = call
        self._close = close
        self._stop = stop

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        """As in `concurrent.futures.Executor`, but Ctrl-C is not kept waiting."""
        if kind is KeyboardInterrupt:
            self.shutdown(wait=False, cancel_futures=True)
            self._stop()
        return super().__exit__(kind, error, trace)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As in `concurrent.futures.Executor`; keyword arguments do not travel."""
        if kwargs:
            raise TypeError("keyword arguments do not travel; bind them first")
        return super().submit(self._call, fn, *args)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As in `concurrent.futures.Executor`."""
        super().shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            self._close()


def local_processes(
    workers: int, *, gpus: Sequence[int | str] = (), threads_per_worker: int | None = None
) -> Executor:
    """Worker processes on this machine; one that is lost is replaced, and only its training fails.

    Ctrl-C does not reach the workers. Where it leaves the executor's block, what they train is ended. If this process
    is killed, a training that is under way goes on to its end and writes its result; then its worker ends.

    Parameters
    ----------
    workers
        Trainings at once.
    gpus
        Device numbers (or UUIDs) as CUDA_VISIBLE_DEVICES knows them, dealt out one per worker in turn; empty:
        workers see what this process sees.
    threads_per_worker
        CPU threads of each worker; None: as many as it takes.
    """
    pools: dict[int, ProcessPoolExecutor] = {}
    lock = threading.Lock()
    places: dict[int, int] = {}

    def pool() -> ProcessPoolExecutor:
        me = threading.get_ident()
        with lock:
            place = places.setdefault(me, len(places))
            if place not in pools:
                gpu = str(gpus[place % len(gpus)]) if gpus else None
                pools[place] = ProcessPoolExecutor(
                    1,
                    # fork would copy this process's threads and CUDA state in whatever condition they are
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=begin,
                    initargs=(gpu, threads_per_worker),
                )
            return pools[place]

    def call(fn: Callable[..., Any], *args: Any) -> Any:
        mine = pool()
        try:
            return mine.submit(work, fn, *args).result()
        except (BrokenProcessPool, KeyboardInterrupt):  # the latter is the worker's: it was told to end
            with lock:
                pools.pop(places[threading.get_ident()]).shutdown(wait=False)
            raise LostWorker("the worker process ended without a result") from None

    def close() -> None:
        for each in pools.values():
            each.shutdown()

    def stop() -> None:
        with lock:
            processes = [process for each in pools.values() for process in (each._processes or {}).values()]
        for process in processes:
            process.terminate()

    return WaitingExecutor(workers, call, close, stop)


def submitit_jobs(executor: Any, workers: int, *, poll_seconds: float = 0.2) -> Executor:
    """A submitit executor (Slurm, or its local one) as a `concurrent.futures.Executor`.

    Parameters
    ----------
    executor
        `submitit.AutoExecutor(...)`, its parameters (partition, GPUs, time) already updated.
    workers
        Jobs in the queue at once.
    poll_seconds
        How often a job is looked at, seconds.
    """
    lock = threading.Lock()  # submitting writes files that two threads would share
    out: set[Any] = set()

    def call(fn: Callable[..., Any], *args: Any) -> Any:
        with lock:
            job = executor.submit(fn, *args)
            out.add(job)
        while not job.done():
            if job not in out:
                raise LostWorker("the job was cancelled")
            time.sleep(poll_seconds)
        out.discard(job)
        return job.result()

    def stop() -> None:
        for job in list(out):
            job.cancel(check=False)
            out.discard(job)

    return WaitingExecutor(workers, call, stop=stop)


def ray_tasks(workers: int, *, gpus_per_run: float = 0.0, cpus_per_run: float = 1.0) -> Executor:
    """Ray as a `concurrent.futures.Executor`; `ray.init` was called before.

    Parameters
    ----------
    workers
        Trainings at once, as far as Ray's resources allow.
    gpus_per_run, cpus_per_run
        What each training reserves.

    Raises
    ------
    UserError
        Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise UserError("Ray is not installed; install scaleband[cluster]") from None

    # a task that Ray restarts by itself would be trained twice and paid twice
    remote = ray.remote(max_retries=0, num_gpus=gpus_per_run, num_cpus=cpus_per_run)(_apply)

    out: set[Any] = set()

    def call(fn: Callable[..., Any], *args: Any) -> Any:
        task = remote.remote(fn, *args)
        out.add(task)
        try:
            return ray.get(task)
        finally:
            out.discard(task)

    def stop() -> None:
        for task in list(out):
            # KeyboardInterrupt there: a training program is ended before its worker
            ray.cancel(task, force=False)

    return WaitingExecutor(workers, call, stop=stop)


def dask_tasks(client: Any, workers: int, *, patience_seconds: float = 120.0) -> Executor:
    """Dask as a `concurrent.futures.Executor` that gives up on a cluster without workers.

    Parameters
    ----------
    client
        A `distributed.Client`.
    workers
        Trainings at once.
    patience_seconds
        A training fails once the cluster has had no worker for so long; a cluster that grows with its work has to
        start one sooner.
    """

    out: set[Any] = set()

    def call(fn: Callable[..., Any], *args: Any) -> Any:
        task = client.submit(fn, *args, pure=False)
        out.add(task)
        try:
            return waited_for(task)
        finally:
            out.discard(task)

    def waited_for(task: Any) -> Any:
        ended, seen = threading.Event(), time.monotonic()
        task.add_done_callback(lambda _: ended.set())
        while not (ended.wait(min(5.0, patience_seconds)) or task.done()):
            if client.nthreads():
                seen = time.monotonic()
            elif time.monotonic() - seen > patience_seconds:
                raise LostWorker(f"the Dask cluster has had no worker for {patience_seconds:g} s")
        return task.result()

    def stop() -> None:
        client.cancel(list(out), force=True)  # the threads wait no more; what has begun ends with its worker

    return WaitingExecutor(workers, call, stop=stop)


def _apply(fn: Callable[..., Any], *args: Any) -> Any:
    return fn(*args)
