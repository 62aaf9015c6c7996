"""Doing a training and reading its result: the protocol, adapters, executors, and a reference trainer.

Nothing here knows the statistics, and importing it does not import torch.
"""

from scaleband.training.command import CommandAdapter
from scaleband.training.curves import read_curve
from scaleband.training.executors import local_processes, ray_tasks, submit, submitit_jobs
from scaleband.training.protocol import (
    Adapter,
    Limits,
    RunResult,
    RunSpec,
    failed,
    result_from_json,
    spec_from_json,
    table_row,
    to_json,
)
from scaleband.training.running import run_one
from scaleband.training.synthetic import SyntheticAdapter

__all__ = [
    "Adapter",
    "CommandAdapter",
    "Limits",
    "RunResult",
    "RunSpec",
    "SyntheticAdapter",
    "failed",
    "local_processes",
    "ray_tasks",
    "read_curve",
    "result_from_json",
    "run_one",
    "spec_from_json",
    "submit",
    "submitit_jobs",
    "table_row",
    "to_json",
]
