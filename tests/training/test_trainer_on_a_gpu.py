"""The trainer on a GPU: a recorded step is the told one, stacks and threads are the runs alone, resuming is exact.

Needs CUDA; everything that a CPU can show is in `test_trainer.py`.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from scaleband.training import ReferenceAdapter, RunSpec, contract, run_one, run_stack, write_tokens
from scaleband.training.transformer import padded, ragged

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

DENSE = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_ff": 48}
MIXED = {**DENSE, "d_ff": 12, "n_experts": 4, "top_k": 2, "d_shared": 12}  # 12: rows that have to be filled up
RUN = RunSpec(
    "run", 20_000, 300 * 512, 1e-2, 512, seq_len=64, source="here", arch="dense", data="code", shape=DENSE
)
MOE = dataclasses.replace(RUN, arch="moe-e4-k2", shape=MIXED)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("data")
    sources = sorted(Path(contract.__file__).parent.glob("*.py"))
    write_tokens([path.read_bytes() for path in sources], folder, validation_share=0.2)
    return str(folder)


@pytest.mark.parametrize("spec", [RUN, MOE], ids=["dense", "moe"])
def test_a_recorded_step_is_the_told_one_and_the_same_every_time(data, tmp_path, spec) -> None:
    recorded, again, told = (
        run_one(ReferenceAdapter(data, device="cuda", graph=graph), spec, tmp_path / name)
        for name, graph in (("recorded", True), ("again", True), ("told", False))
    )
    assert recorded.status == "completed", recorded.reason
    assert recorded.loss == again.loss == told.loss
    assert recorded.loss < 3.5  # it learnt something


@pytest.mark.parametrize("spec", [RUN, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_is_the_cpu_s(data, tmp_path, spec, precision) -> None:
    # few steps: rounding grows with them, most where tokens choose experts
    spec = dataclasses.replace(spec, n_tokens=30 * 512)
    gpu, cpu = (
        run_one(ReferenceAdapter(data, device=device, precision=precision), spec, tmp_path / device)
        for device in ("cuda", "cpu")
    )
    assert gpu.status == "completed", gpu.reason
    assert gpu.loss == pytest.approx(cpu.loss, abs=1e-3 if precision == "float32" else 0.03)


@pytest.mark.parametrize("spec", [RUN, MOE], ids=["dense", "moe"])
def test_a_stack_equals_its_runs_alone(data, tmp_path, spec) -> None:
    specs = [
        dataclasses.replace(spec, run_id=f"r{i}", lr_peak=lr, seed=seed, n_tokens=30 * 512)
        for i, (lr, seed) in enumerate([(1e-3, 0), (1e-2, 0), (1e-2, 1)])
    ]
    adapter = ReferenceAdapter(data, device="cuda", precision="float32")
    together = run_stack(adapter, specs, tmp_path / "together")
    alone = [run_one(adapter, spec, tmp_path / "alone" / spec.run_id) for spec in specs]
    assert [r.status for r in together] == ["completed"] * 3, together[0].reason
    assert [r.loss for r in together] == pytest.approx([r.loss for r in alone], abs=1e-4)


def test_trainings_in_threads_are_those_alone(data, tmp_path) -> None:
    adapter = ReferenceAdapter(data, device="cuda")
    specs = [
        dataclasses.replace(spec, run_id=f"{spec.arch}-{seed}", seed=seed) for spec in (RUN, MOE) for seed in range(3)
    ]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda spec: run_one(adapter, spec, tmp_path / "a" / spec.run_id), specs))
    alone = [run_one(adapter, spec, tmp_path / "b" / spec.run_id) for spec in specs]
    assert [r.status for r in together] == ["completed"] * 6, [r.reason for r in together]
    assert [r.loss for r in together] == [r.loss for r in alone]


def test_stopped_and_resumed_is_as_if_uninterrupted(data, tmp_path, monkeypatch) -> None:
    from scaleband.training import steps as room

    adapter = ReferenceAdapter(data, device="cuda", checkpoint_seconds=1e-9)
    whole = run_one(adapter, RUN, tmp_path / "whole")
    calls, plain = [0], room.rate

    def dies(*arguments):
        calls[0] += 1
        if calls[0] == 200:
            raise RuntimeError("the power went")
        return plain(*arguments)

    monkeypatch.setattr(room, "rate", dies)
    assert run_one(adapter, RUN, tmp_path / "run").status == "failed"
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    assert run_one(adapter, RUN, tmp_path / "run").loss == whole.loss


def test_a_run_that_diverges_leaves_the_others_alone(data, tmp_path) -> None:
    adapter = ReferenceAdapter(data, device="cuda")
    bad = dataclasses.replace(RUN, run_id="bad", lr_peak=100.0)
    first, second = run_stack(adapter, [RUN, bad], tmp_path)
    assert (first.status, second.status) == ("completed", "diverged")
    assert second.steps < 300


def test_grouped_products_are_the_padded_ones() -> None:
    generator = torch.Generator().manual_seed(4)
    load = torch.tensor([3, 0, 0, 37, 1, 0, 23])  # experts without tokens too
    visits, into, down = (
        torch.randn(*dims, generator=generator).cuda() for dims in ((64, 32), (7, 32, 24), (7, 12, 32))
    )
    group = torch.arange(7).repeat_interleave(load).cuda()
    found = []
    for way in (ragged, padded):
        leaves = [t.clone().requires_grad_() for t in (visits, into, down)]
        y = way(leaves[0].bfloat16(), *leaves[1:], group, load.cumsum(0).cuda()).float()
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), leaves)])
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm() / other.norm()) < 0.02
