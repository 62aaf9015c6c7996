"""Forty small trainings on each engine, one worker killed half-way: every run ends once, and the table is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from scaleband.runs import run_table
from scaleband.training import (
    RunResult,
    RunSpec,
    SyntheticAdapter,
    local_processes,
    ray_tasks,
    submit,
    submitit_jobs,
    table_row,
)

FATAL = "r17"
SOURCE = Path(__file__).resolve().parents[2] / "src"


@dataclass(frozen=True)
class Fatal:
    """Trains in no time, but the worker that gets one of the runs is killed, the first time."""

    times: int = 1

    def run(self, spec: RunSpec, folder: Path) -> RunResult:
        if spec.run_id == FATAL:
            deaths = folder / "deaths"
            with deaths.open("a") as file:
                file.write("x")
            if len(deaths.read_text()) <= self.times:
                os.kill(os.getpid(), signal.SIGKILL)
        with (folder / "starts").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return SyntheticAdapter().run(spec, folder)


def forty(spec_of) -> list[RunSpec]:
    return [spec_of(run_id=f"r{i}", seed=i, lr_peak=0.002 * (1 + i % 5)) for i in range(40)]


def check(executor, specs, folder: Path, *, retried: bool = False) -> set[str]:
    """Submit all, and look at what came back; gives the worker processes that were seen."""
    futures = {submit(executor, Fatal(), spec, folder / spec.run_id): spec for spec in specs}
    rows = []
    for future in as_completed(futures, timeout=300):
        spec, result = futures[future], future.result()
        assert result.run_id == spec.run_id
        rows.append(table_row(spec, result))
        if spec.run_id == FATAL and not retried:
            assert result.status == "failed"
            assert "the worker was lost" in result.reason
        else:
            assert result.status == "completed", result.reason
            assert (folder / spec.run_id / "result.json").exists()
    assert sorted(row["run_id"] for row in rows) == sorted(spec.run_id for spec in specs)
    table = run_table(pd.DataFrame(rows))
    assert len(table.frame) == 40
    return {pid for path in folder.glob("*/starts") for pid in path.read_text().split()}


def test_local_processes(spec_of, tmp_path) -> None:
    with local_processes(4) as executor:
        workers = check(executor, forty(spec_of), tmp_path)
    assert 2 <= len(workers) <= 5  # four, and one in place of the dead
    assert str(os.getpid()) not in workers


def test_dask(spec_of, tmp_path) -> None:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=4, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path / "dask"
        ) as cluster,
        Client(cluster) as client,
    ):
        check(client.get_executor(), forty(spec_of), tmp_path / "runs", retried=True)  # Dask starts it again


def test_submitit(spec_of, tmp_path, monkeypatch) -> None:
    import submitit

    # a job is a Python of its own, which has to find this file's adapter
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SOURCE), str(Path(__file__).parent)]))
    jobs = submitit.AutoExecutor(folder=tmp_path / "logs", cluster="local")
    jobs.update_parameters(timeout_min=5)
    with submitit_jobs(jobs, workers=4) as executor:
        workers = check(executor, forty(spec_of), tmp_path / "runs")
    assert len(workers) == 39  # a job each


def test_ray(spec_of, tmp_path) -> None:
    import ray

    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(SOURCE), str(Path(__file__).parent)])}},
    )
    try:
        with ray_tasks(4) as executor:
            check(executor, forty(spec_of), tmp_path)
    finally:
        ray.shutdown()


def test_a_worker_that_dies_of_one_run_again_and_again(spec_of, tmp_path) -> None:
    with local_processes(1) as executor:
        for _ in range(2):
            result = submit(executor, Fatal(times=9), spec_of(run_id=FATAL), tmp_path / FATAL).result()
            assert (result.status, "the worker was lost" in result.reason) == ("failed", True)
        after = submit(executor, Fatal(), spec_of(run_id="next"), tmp_path / "next").result()
    assert after.status == "completed"


@dataclass(frozen=True)
class Seen:
    """Fails with what this worker sees of the GPUs and of the threads."""

    def run(self, spec: RunSpec, folder: Path) -> RunResult:
        raise RuntimeError(
            f"{os.environ['CUDA_VISIBLE_DEVICES']}/{os.environ['OMP_NUM_THREADS']}/{os.getpid()}"
        )


def test_one_gpu_per_worker(spec_of, tmp_path) -> None:
    with local_processes(2, gpus=[4, 7], threads_per_worker=3) as executor:
        futures = [submit(executor, Seen(), spec_of(run_id=f"r{i}"), tmp_path / f"r{i}") for i in range(8)]
        seen = {future.result().reason.removeprefix("RuntimeError: ") for future in futures}
    found = {each.rpartition("/")[2]: each.rpartition("/")[0] for each in seen}
    assert len(found) == len(seen)  # a worker keeps its GPU
    assert set(found.values()) <= {"4/3", "7/3"}
    assert len(set(found.values())) == len(found)  # and no two share one


class Refuses(ThreadPoolExecutor):
    """An engine that is shut."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        raise RuntimeError("cannot schedule new futures after shutdown")


def test_any_executor_and_one_that_refuses(spec, tmp_path) -> None:
    with ThreadPoolExecutor(2) as executor:
        assert submit(executor, SyntheticAdapter(), spec, tmp_path / "a").result().status == "completed"
    with Refuses(1) as executor:
        result = submit(executor, SyntheticAdapter(), spec, tmp_path / "b").result()
    assert result.status == "failed"
    assert "shutdown" in result.reason


def test_what_is_cancelled_is_failed(spec_of, tmp_path) -> None:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(time.sleep, 0.5)
        waiting = submit(executor, SyntheticAdapter(), spec_of(), tmp_path / "a")
        executor.shutdown(wait=True, cancel_futures=True)
    assert waiting.result().reason == "cancelled before it ran"


@pytest.mark.parametrize("name", ["KilledWorker", "WorkerCrashedError", "UncompletedJobError"])
def test_lost_workers_are_known_by_name(name, spec, tmp_path) -> None:
    class Engine(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs) -> Future:
            done: Future = Future()
            done.set_exception(type(name, (Exception,), {})("gone"))
            return done

    with Engine(1) as executor:
        assert "worker was lost" in submit(executor, SyntheticAdapter(), spec, tmp_path).result().reason


INTERRUPTED = """
import signal, sys
from pathlib import Path
from scaleband.training import CommandAdapter, RunSpec, local_processes, submit

asked = []

def stop(*_):
    print("asked", flush=True)
    if asked:
        raise KeyboardInterrupt
    asked.append(1)

signal.signal(signal.SIGINT, stop)
spec = RunSpec("run-1", n_params=10**6, n_tokens=64_000, lr_peak=1e-2, batch_tokens=1024)
with local_processes(1) as executor:
    script = "echo $PPID > worker; echo $$ > part; mv part begun; " + sys.argv[2]
    command = CommandAdapter(("sh", "-c", script, "{result}"))
    print(submit(executor, command, spec, Path(sys.argv[1])).result(), flush=True)
"""


def interrupted(folder: Path, script: str, times: int) -> tuple[subprocess.Popen, int]:
    """A training in a worker, its whole process group interrupted as a terminal does it; the training's process."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(folder), script], start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (folder / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
    return process, int((folder / "begun").read_text())


def test_ctrl_c_does_not_reach_the_workers(tmp_path) -> None:
    process, _ = interrupted(tmp_path, "sleep 2; echo '{{\"loss\": 3.0}}' > {result}", 1)
    said = process.communicate(timeout=120)[0]
    assert "status='completed', loss=3.0" in said


def test_ctrl_c_that_leaves_the_block_ends_what_is_trained(tmp_path) -> None:
    process, training = interrupted(tmp_path, "exec sleep 600", 2)
    said = process.communicate(timeout=120)[0]
    assert (process.returncode, "KeyboardInterrupt" in said) == (-signal.SIGINT, True)
    with pytest.raises(ProcessLookupError):
        os.kill(training, 0)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_training_outlives_a_parent_that_is_killed_and_its_worker_then_ends(tmp_path) -> None:
    script = "sleep 2; echo '{{\"loss\": 3.0}}' > {result}"
    process, _ = interrupted(tmp_path, script, 0)
    worker = int((tmp_path / "worker").read_text())
    process.kill()
    process.wait()
    process.stdout.close()
    assert alive(worker)
    deadline = time.monotonic() + 30
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)
    assert '"loss": 3.0' in (tmp_path / "result.json").read_text()


def test_ctrl_c_that_leaves_the_block_cancels_jobs_of_submitit(spec, tmp_path) -> None:
    cancelled, sent = [], []

    class Job:
        def done(self) -> bool:
            return False

        def cancel(self, check: bool = True) -> None:
            cancelled.append(self)

    class Queue:
        def submit(self, fn, *args) -> Job:
            sent.append(Job())
            return sent[-1]

    def leave() -> Future:
        with submitit_jobs(Queue(), 1) as executor:
            outs.append(submit(executor, SyntheticAdapter(), spec, tmp_path / "run"))
            while not sent:
                time.sleep(0.01)
            time.sleep(0.1)
            raise KeyboardInterrupt

    outs: list[Future] = []
    with pytest.raises(KeyboardInterrupt):
        leave()
    assert cancelled == sent
    assert "the worker was lost" in outs[0].result().reason
