"""Engines by name: each trains, closes what it opened, and refuses the options of another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaleband.errors import UserError
from scaleband.training import SyntheticAdapter, submit
from scaleband.training.engines import ENGINES, engine
from scaleband.training.executors import dask_tasks

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "slurm"])
def test_every_engine_trains(name, spec_of, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))  # workers are Pythons of their own
    with engine(name, 2, threads=1, logs=tmp_path / "logs") as executor:
        futures = [
            submit(executor, SyntheticAdapter(), spec_of(run_id=f"r{i}"), tmp_path / f"r{i}")
            for i in range(3)
        ]
        results = [future.result(timeout=240) for future in futures]
    assert [result.status for result in results] == ["completed"] * 3, results
    assert (tmp_path / "logs").exists() == (name == "submitit-local")


def test_dask_at_an_address_is_left_running(spec, tmp_path) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path / "dask"
    ) as cluster:
        for k in range(2):
            with engine("dask", 1, address=cluster.scheduler_address) as executor:
                result = submit(executor, SyntheticAdapter(), spec, tmp_path / f"r{k}").result(timeout=120)
            assert result.status == "completed"


def test_what_slurm_is_asked_for(spec, tmp_path, monkeypatch) -> None:
    import submitit

    seen: dict = {}

    class Queue(submitit.LocalExecutor):
        """Slurm's parameters, and no Slurm."""

    def executor(folder, cluster):
        seen["cluster"] = cluster
        jobs = Queue(folder)
        jobs.update_parameters = seen.update
        return jobs

    monkeypatch.setattr(submitit, "AutoExecutor", executor)
    with engine(
        "slurm", 2, gpus_per_run=1, threads=8, partition="a100", job_minutes=90, slurm={"account": "x"}
    ):
        pass
    assert seen == {
        "cluster": "slurm", "timeout_min": 90, "cpus_per_task": 8, "gpus_per_node": 1, "slurm_partition": "a100",
        "slurm_additional_parameters": {"account": "x"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("mpi", {}, "not one of local, dask"),
        ("dask", {"gpus": [0]}, "gpus is an option of local"),
        ("local", {"address": "auto"}, "address is an option of dask and ray"),
        ("ray", {"partition": "a100"}, "partition is an option of slurm"),
        ("local", {"gpus_per_run": 1}, "gpus_per_run is an option of slurm and ray"),
        ("submitit-local", {"slurm": {"account": "x"}}, "slurm is an option of slurm"),
    ],
)
def test_options_of_another_engine_are_refused(name, options, sentence) -> None:
    with pytest.raises(UserError, match=sentence), engine(name, 1, **options):
        pass


def test_what_is_not_installed_is_named(monkeypatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'scaleband\[cluster\]'"), engine("ray", 1):
        pass


def test_slurm_on_a_machine_without_it(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(UserError, match=r"engine slurm cannot be used on this machine .*srun.*choose another engine"),
        engine("slurm", 1, logs=tmp_path / "logs"),
    ):
        pass


def test_one_gpu_each_by_name(spec_of, tmp_path) -> None:
    from test_executors import Seen

    with engine("local", 2, gpus=["0", "1"], threads=1) as executor:
        futures = [submit(executor, Seen(), spec_of(run_id=f"r{i}"), tmp_path / f"r{i}") for i in range(4)]
        seen = {future.result().reason.removeprefix("RuntimeError: ").partition("/")[0] for future in futures}
    assert seen <= {"0", "1"}
    assert os.environ.get("CUDA_VISIBLE_DEVICES") not in {"0", "1"}


INTERRUPTED = """
import signal, sys
from pathlib import Path
from scaleband.training import CommandAdapter, RunSpec, submit
from scaleband.training.engines import engine

asked = []

def stop(*_):
    print("asked", flush=True)
    if asked:
        raise KeyboardInterrupt
    asked.append(1)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    spec = RunSpec("run-1", n_params=10**6, n_tokens=64_000, lr_peak=1e-2, batch_tokens=1024)
    with engine(sys.argv[1], 1) as executor:
        wait = "echo $$ > part; mv part begun; while [ ! -e go ]; do sleep 0.1; done; "
        script = wait + "echo '{{\\"loss\\": 3.0}}' > {result}"
        print(submit(executor, CommandAdapter(("sh", "-c", script)), spec, Path(sys.argv[2])).result(), flush=True)
"""


@pytest.mark.parametrize(("name", "times"), [("dask", 1), ("dask", 2), ("ray", 2)])
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_the_first_ctrl_c_leaves_trainings_at_work_and_the_second_ends_them(name, times, tmp_path) -> None:
    from test_executors import alive

    begin = tmp_path / "begin.py"
    begin.write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, str(begin), name, str(tmp_path)], start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    training = int((tmp_path / "begun").read_text())
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
    if times == 1:
        time.sleep(1.0)
        assert alive(training)
        (tmp_path / "go").touch()
    said = process.communicate(timeout=60)[0]
    assert ("status='completed', loss=3.0" in said) == (times == 1), said
    deadline = time.monotonic() + 20
    while alive(training) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(training)


def test_a_dask_cluster_without_workers_is_not_waited_for(spec, tmp_path) -> None:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=0, dashboard_address=None, local_directory=tmp_path / "dask") as cluster,
        Client(cluster) as client,
        dask_tasks(client, 1, patience_seconds=0.5) as executor,
    ):
        result = submit(executor, SyntheticAdapter(), spec, tmp_path / "run").result(timeout=60)
    assert "the Dask cluster has had no worker for 0.5 s" in result.reason
