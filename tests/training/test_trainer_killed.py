"""A process that trains is killed at a random step, twice: what is resumed ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scaleband.training import ReferenceAdapter, contract, run_one, to_json, write_tokens

SOURCE = Path(__file__).resolve().parents[2] / "src"
SHAPE = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 8, "n_experts": 4, "top_k": 2, "d_shared": 8}
STEPS = 400
CHILD = """
import pathlib, sys
from scaleband.training import ReferenceAdapter, run_one, spec_from_json
adapter = ReferenceAdapter(sys.argv[1], device="cpu", validation_sequences=16, checkpoint_seconds=0.0, threads=1)
run_one(adapter, spec_from_json(sys.argv[2]), sys.argv[3])
"""


def test_killed_at_a_random_step_and_resumed(spec_of, tmp_path) -> None:
    data = tmp_path / "data"
    sources = sorted(Path(contract.__file__).parent.glob("*.py"))
    write_tokens([path.read_bytes() for path in sources], data, validation_share=0.2)
    spec = spec_of(
        n_params=10_000, n_tokens=STEPS * 128, batch_tokens=128, seq_len=32, lr_peak=1e-2, arch="moe-e4-k2",
        shape=SHAPE,
    )  # fmt: skip
    adapter = ReferenceAdapter(
        str(data), device="cpu", validation_sequences=16, checkpoint_seconds=0.0, threads=1
    )
    whole = run_one(adapter, spec, tmp_path / "whole")
    assert whole.status == "completed"

    checkpoint, seen = tmp_path / "run" / "checkpoint.pt", [0]
    for _ in range(2):
        words = [sys.executable, "-c", CHILD, str(data), to_json(spec), str(tmp_path / "run")]
        child = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(SOURCE)})
        wanted = random.randint(seen[-1] + 1, seen[-1] + 120)
        while step_of(checkpoint) < wanted and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=60) == -signal.SIGKILL, "it ended before it was killed"
        seen.append(step_of(checkpoint))
        assert seen[-2] < seen[-1] < STEPS
    print("killed after steps", seen[1:])
    resumed = run_one(adapter, spec, tmp_path / "run")
    assert (resumed.status, resumed.steps) == ("completed", STEPS)
    assert resumed.loss == whole.loss
    assert (tmp_path / "run" / "curve.csv").read_text() == (tmp_path / "whole" / "curve.csv").read_text()


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint, 0 while there is none; it is always whole."""
    try:
        return int(torch.load(checkpoint, weights_only=True)["step"])
    except FileNotFoundError:
        return 0


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
