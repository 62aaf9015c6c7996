"""Engines by name, opened and closed: what a command line needs to spread trainings over processes or machines."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from scaleband.errors import UserError
from scaleband.training.executors import dask_tasks, local_processes, ray_tasks, submitit_jobs

ENGINES = ("local", "dask", "slurm", "submitit-local", "ray")


@contextmanager
def engine(
    name: str,
    workers: int,
    *,
    gpus: Sequence[int | str] = (),
    gpus_per_run: int = 0,
    threads: int | None = None,
    address: str = "",
    partition: str = "",
    job_minutes: float = 24 * 60,
    slurm: Mapping[str, str] | None = None,
    logs: str | Path = "",
) -> Iterator[Executor]:
    """Open an engine, and close it afterwards; nothing that was running before is shut down.

    Parameters
    ----------
    name
        One of `ENGINES`: processes here; Dask; Slurm through submitit; submitit's own processes here (a rehearsal
        of Slurm); Ray.
    workers
        Trainings at once.
    gpus
        Devices of this machine, dealt out to local processes.
    gpus_per_run
        What each training reserves with Slurm or Ray.
    threads
        CPU threads (cores) of each training; None leaves it to the engine. Dask at an `address` does not hear it: its
        workers were started with threads of their own.
    address
        Scheduler of Dask ("tcp://host:8786") or cluster of Ray ("auto", "ray://host:10001"); "": one is started here.
    partition, job_minutes, slurm
        Of Slurm: partition, time limit of each job, minutes, and further options of `sbatch` by name.
    logs
        Where submitit keeps what jobs print; the workers must see it. "": the current folder's `submitit`.

    Raises
    ------
    UserError
        There is no such engine, it is not installed or not to be had on this machine, or an option is not one of its
        own.
    """
    problems = _problems(name, {
        "gpus": bool(gpus), "gpus_per_run": bool(gpus_per_run), "address": bool(address),
        "partition": bool(partition), "slurm": bool(slurm),
    })  # fmt: skip
    if problems:
        raise UserError(problems)
    with ExitStack() as stack:
        if name == "local":
            yield stack.enter_context(local_processes(workers, gpus=gpus, threads_per_worker=threads))
        elif name == "dask":
            yield _dask(stack, workers, address, threads)
        elif name == "ray":
            yield _ray(stack, workers, address, threads, gpus_per_run)
        else:
            import submitit

            cluster = "slurm" if name == "slurm" else "local"
            try:
                jobs = submitit.AutoExecutor(folder=Path(logs or "submitit"), cluster=cluster)
            except RuntimeError as error:  # no srun on PATH
                raise UserError(
                    f"engine {name} cannot be used on this machine ({error}); start it where Slurm's commands are "
                    "installed (a login node), or choose another engine"
                ) from None
            wanted: dict[str, Any] = {
                "timeout_min": max(1, round(job_minutes)),
                "cpus_per_task": threads or 1,
            }
            if name == "slurm":
                wanted |= {"gpus_per_node": gpus_per_run} if gpus_per_run else {}
                wanted |= {"slurm_partition": partition} if partition else {}
                # submitit hands these to sbatch as they are, as an argument list
                wanted |= {"slurm_additional_parameters": dict(slurm)} if slurm else {}
            jobs.update_parameters(**wanted)
            yield stack.enter_context(submitit_jobs(jobs, workers))


def _problems(name: str, given: Mapping[str, bool]) -> list[str]:
    """What is not installed, and options that another engine has."""
    if name not in ENGINES:
        return [f"engine = {name!r} is not one of {', '.join(ENGINES)}"]
    needs = {"dask": "distributed", "ray": "ray", "slurm": "submitit", "submitit-local": "submitit"}.get(name)
    problems = []
    if needs and importlib.util.find_spec(needs) is None:
        problems.append(
            f"engine {name} needs {needs}, which is not installed: pip install 'scaleband[cluster]'"
        )
    owners = {
        "gpus": ("local",), "gpus_per_run": ("slurm", "ray"), "address": ("dask", "ray"), "partition": ("slurm",),
        "slurm": ("slurm",),
    }  # fmt: skip
    problems += [
        f"{option} is an option of {' and '.join(owners[option])}, not of engine {name}; leave it out"
        for option, there in given.items()
        if there and name not in owners[option]
    ]
    return problems


def _dask(stack: ExitStack, workers: int, address: str, threads: int | None) -> Executor:
    from distributed import Client, LocalCluster

    if address:
        try:
            client = stack.enter_context(Client(address))
        except (OSError, ValueError) as error:
            raise UserError(f"no Dask scheduler answers at {address}: {error}; start one there") from None
        # workers of its own may stand in a queue for hours
        return stack.enter_context(dask_tasks(client, workers, patience_seconds=24 * 3600.0))
    # its files in a folder of their own, and a worker process for each training
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="scaleband-dask-"))
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=None, local_directory=folder,
        env={"OMP_NUM_THREADS": str(threads)} if threads else None, preload="scaleband.training.workers",
    )  # fmt: skip
    client = stack.enter_context(Client(stack.enter_context(cluster)))
    return stack.enter_context(dask_tasks(client, workers))


def _ray(stack: ExitStack, workers: int, address: str, threads: int | None, gpus_per_run: int) -> Executor:
    import ray

    cores = threads or 1
    quiet = {"log_to_driver": False, "configure_logging": False}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(num_cpus=workers * cores, include_dashboard=False, **quiet)
    except (ConnectionError, ValueError) as error:
        raise UserError(
            f"no Ray cluster answers at {address}: {error}; start one with ray start --head"
        ) from None
    stack.callback(ray.shutdown)
    return stack.enter_context(ray_tasks(workers, gpus_per_run=gpus_per_run, cpus_per_run=cores))
