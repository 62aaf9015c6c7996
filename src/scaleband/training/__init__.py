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
from scaleband.training.reference import ReferenceAdapter, run_stack
from scaleband.training.running import run_one
from scaleband.training.shapes import Shape, count, shape_for
from scaleband.training.synthetic import SyntheticAdapter
from scaleband.training.tokens import open_tokens, write_tokens

__all__ = [
    "Adapter",
    "CommandAdapter",
    "Limits",
    "ReferenceAdapter",
    "RunResult",
    "RunSpec",
    "Shape",
    "SyntheticAdapter",
    "count",
    "failed",
    "local_processes",
    "open_tokens",
    "ray_tasks",
    "read_curve",
    "result_from_json",
    "run_one",
    "run_stack",
    "shape_for",
    "spec_from_json",
    "submit",
    "submitit_jobs",
    "table_row",
    "to_json",
    "write_tokens",
]
