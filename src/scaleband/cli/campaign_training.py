"""What trains the runs of `scaleband campaign run`, and on which engine: its flags, and the objects they mean."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleband.cli.arguments import count, whole
from scaleband.cli.verb import UsageError
from scaleband.errors import UserError

if TYPE_CHECKING:
    from concurrent.futures import Executor

ENGINES = ("local", "dask", "slurm", "submitit-local", "ray")
"""As `scaleband.training.engines.ENGINES`, which would import torch's neighbours to print a line of help."""


def add_trainer(parser: argparse.ArgumentParser) -> None:
    """What trains: one of three, and the reference trainer's options."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--synthetic", action="store_true", help="rehearse: losses out of a formula, nothing is trained"
    )
    which.add_argument(
        "--trainer", metavar="TOKENS",
        help="the reference trainer (PyTorch) on a folder of tokens; {data} in it stands for the run's data",
    )  # fmt: skip
    which.add_argument(
        "--command", nargs=argparse.REMAINDER, metavar="PROGRAM",
        help="a program and its arguments (all that follows), run for every training without a shell; {spec} and "
        "{result} are JSON files, {lr_peak}, {batch_tokens}, {n_params}, {n_tokens}, {seed}, ... values. It runs in "
        "the run's folder, so name scripts by their whole path, and writes {result}: {\"loss\": 2.71} is enough; "
        "\"status\" (completed, diverged, failed), \"reason\", \"loss_se\", \"n_tokens\" and others as in "
        "scaleband.training.RunResult",
    )  # fmt: skip
    parser.add_argument("--device", metavar="cpu|cuda", help="of --trainer; a GPU if there is one")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), help="of --trainer; bfloat16 on a GPU, else float32"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile in --trainer")
    parser.add_argument(
        "--seq-len", type=whole(2, 1 << 20), metavar="TOKENS", help="tokens of a sequence in --trainer; 256"
    )
    parser.add_argument(
        "--micro-tokens", type=whole(2, 1 << 30), metavar="TOKENS",
        help="tokens of one forward pass in --trainer; a larger batch is accumulated; 65536",
    )  # fmt: skip
    parser.add_argument(
        "--validation-sequences", type=whole(1, 1 << 24), metavar="N",
        help="held-out sequences of the final loss in --trainer; 256",
    )  # fmt: skip


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Where trainings run."""
    parser.add_argument(
        "--engine", choices=ENGINES, default="local", help="where trainings run; local processes"
    )
    parser.add_argument("--gpus", metavar="0,1,...", help="local: devices, dealt out to the workers in turn")
    parser.add_argument(
        "--gpus-per-run",
        type=whole(1, 1024),
        metavar="N",
        help="slurm, ray: GPUs that each training reserves",
    )
    parser.add_argument("--threads", type=whole(1, 1024), metavar="N", help="CPU threads of each worker")
    parser.add_argument(
        "--address", metavar="HOST", help="dask, ray: a cluster that runs; without it one is started here"
    )
    parser.add_argument("--partition", metavar="NAME", help="slurm: the partition")
    parser.add_argument("--job-minutes", type=count, metavar="M", help="slurm: time limit of a job; 1440")
    parser.add_argument(
        "--slurm",
        action="append",
        metavar="NAME=VALUE",
        help="slurm: a further option of sbatch; may be repeated",
    )


def adapter_of(asked: argparse.Namespace) -> Any:
    """The adapter that the flags mean. Raises UsageError for options of another trainer."""
    if asked.command is not None and not asked.command:
        raise UsageError("--command names a program and its arguments, as the last words of the line")
    own = {"device", "precision", "compile", "seq_len", "micro_tokens", "validation_sequences"}
    given = {name: value for name in own if (value := getattr(asked, name))}
    if asked.trainer is None and given:
        raise UsageError(f"--{min(given).replace('_', '-')} is an option of --trainer; leave it out")
    from scaleband.training import CommandAdapter, ReferenceAdapter, SyntheticAdapter

    if asked.synthetic:
        return SyntheticAdapter()
    if asked.command is not None:
        return CommandAdapter(tuple(asked.command))
    place = asked.trainer if "://" in asked.trainer else str(Path(asked.trainer).absolute())
    return ReferenceAdapter(place, threads=asked.threads or 0, **given)


def check_here(asked: argparse.Namespace, data: Collection[str]) -> None:
    """Look for the program, or for the tokens of each of `data`, before a run is handed out to fail for want of them.

    Only where trainings run on this machine: Slurm's workers, and those of a cluster at an --address, may see others.

    Raises
    ------
    UserError
        What is missing, or cannot be run.
    """
    if asked.engine == "slurm" or asked.address:
        return
    if asked.command is not None:
        _check_program(asked.command[0])
    if asked.trainer is not None:
        from scaleband.training.reference import check_torch
        from scaleband.training.tokens import open_tokens

        check_torch()
        for folder in sorted({asked.trainer.replace("{data}", name) for name in data}):
            open_tokens(folder)


def elsewhere(asked: argparse.Namespace) -> bool:
    """Whether trainings that have begun go on when nobody waits for them: those of a Dask that runs on its own do."""
    return asked.engine == "dask" and bool(asked.address)


def _check_program(program: str) -> None:
    if "{" in program:
        return  # another one for every run
    where = Path(program)
    if "/" in program and not where.is_absolute():
        raise UserError(
            f"--command: {program} is a path from this folder, and a training runs in its own; name the program by its "
            f"whole path: {where.absolute()}"
        )
    if shutil.which(program) is not None:
        return
    if "/" not in program:
        raise UserError(f"--command: there is no program {program!r} on PATH; name it by its whole path")
    if where.is_file():
        raise UserError(
            f"--command: {program} is a file that may not be run; make it executable (chmod +x), or name what runs it "
            f"first: python {program}"
        )
    raise UserError(f"--command: {program} is not a program's file; correct the path")


def engine_of(asked: argparse.Namespace, folder: Path) -> AbstractContextManager[Executor]:
    """The engine that the flags mean, not yet open; `folder` is the campaign's. Raises UsageError."""
    from scaleband.training.engines import engine

    further = dict(item.partition("=")[::2] for item in asked.slurm or ())
    if any(not name or not value for name, value in further.items()):
        raise UsageError("--slurm is NAME=VALUE, as in --slurm account=physics")
    gpus = [g.strip() for g in asked.gpus.split(",") if g.strip()] if asked.gpus else []
    return engine(
        asked.engine, asked.workers, gpus=gpus, gpus_per_run=asked.gpus_per_run or 0, threads=asked.threads,
        address=asked.address or "", partition=asked.partition or "", slurm=further, logs=folder / "submitit",
        **({"job_minutes": float(asked.job_minutes)} if asked.job_minutes else {}),
    )  # fmt: skip
