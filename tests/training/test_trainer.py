"""The reference trainer against an independent one, and what it promises about resuming, stacks and divergence."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scaleband.errors import UserError
from scaleband.training import (
    Limits,
    ReferenceAdapter,
    Shape,
    contract,
    open_tokens,
    run_one,
    run_stack,
    write_tokens,
)
from scaleband.training.schedules import rate, schedule_for
from scaleband.training.shapes import count
from scaleband.training.steps import State, adamw, stacked_adamw, watch, why_lost
from scaleband.training.tokens import batch, held_out
from scaleband.training.transformer import (
    asks_nothing,
    experts,
    initial,
    losses,
    padded,
    ragged,
    swiglu,
    views,
)

TINY = {"d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 24}
MIXED = {**TINY, "d_ff": 8, "n_experts": 4, "top_k": 2, "d_shared": 8}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    sources = sorted(Path(contract.__file__).parent.glob("*.py"))
    write_tokens([path.read_bytes() for path in sources], folder, validation_share=0.2)
    return folder


@pytest.fixture
def small(spec_of):
    """A run of 30 steps of 8 sequences of 32 tokens."""
    shape = {"n_params": 10_000, "shape": TINY}
    plain = spec_of(n_tokens=30 * 256, batch_tokens=256, seq_len=32, lr_peak=1e-2, warmup="5", **shape)
    return lambda **changes: dataclasses.replace(plain, **changes)


def adapter_on(data: Path, **changes) -> ReferenceAdapter:
    return ReferenceAdapter(str(data), **({"device": "cpu", "validation_sequences": 16} | changes))


class PlainBlock(nn.Module):
    """The same architecture, written again from the papers with ordinary modules, complex rotary, explicit softmax."""

    def __init__(self, c: int, heads: int, d_ff: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(c, eps=1e-6), nn.RMSNorm(c, eps=1e-6)
        self.q, self.k, self.v, self.o = (nn.Linear(c, c, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(c, d_ff, bias=False) for _ in range(2))
        self.down = nn.Linear(d_ff, c, bias=False)

    def forward(self, x):
        b, t, c = x.shape
        d = c // self.heads
        y = self.norm1(x)
        q, k, v = (f(y).view(b, t, self.heads, d).transpose(1, 2) for f in (self.q, self.k, self.v))
        angle = torch.outer(torch.arange(t).float(), 10_000.0 ** (-torch.arange(0, d, 2).float() / d))
        turn = torch.polar(torch.ones_like(angle), angle)

        def rotated(z):
            pairs = torch.complex(z[..., : d // 2], z[..., d // 2 :]) * turn
            return torch.cat([pairs.real, pairs.imag], -1)

        scores = rotated(q) @ rotated(k).transpose(-1, -2) / math.sqrt(d)
        scores = scores.masked_fill(torch.triu(torch.ones(t, t, dtype=torch.bool), 1), -math.inf)
        x = x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, c))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Plain(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocab_size, shape.d_model)
        self.blocks = nn.ModuleList(
            PlainBlock(shape.d_model, shape.n_heads, shape.d_ff) for _ in range(shape.n_layers)
        )
        self.norm = nn.RMSNorm(shape.d_model, eps=1e-6)
        self.head = nn.Linear(shape.d_model, shape.vocab_size, bias=False)

    def forward(self, sequences):
        x = self.embedding(sequences[:, :-1])
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).transpose(1, 2), sequences[:, 1:])

    def take(self, p) -> None:
        """Copy parameters of the trainer (first run)."""
        with torch.no_grad():
            self.embedding.weight.copy_(p["embedding"][0])
            self.head.weight.copy_(p["head"][0].T)
            self.norm.weight.copy_(p["norm_final"][0])
            for i, block in enumerate(self.blocks):
                for linear, part in zip(
                    (block.q, block.k, block.v), p[f"{i}.qkv"][0].chunk(3, 1), strict=True
                ):
                    linear.weight.copy_(part.T)
                block.o.weight.copy_(p[f"{i}.out"][0].T)
                gate, up = p[f"{i}.ff_in"][0].chunk(2, 1)
                block.gate.weight.copy_(gate.T)
                block.up.weight.copy_(up.T)
                block.down.weight.copy_(p[f"{i}.ff_down"][0].T)
                block.norm1.weight.copy_(p[f"{i}.norm_attention"][0])
                block.norm2.weight.copy_(p[f"{i}.norm_ff"][0])


def test_a_whole_training_equals_an_independent_one(data, small, tmp_path) -> None:
    spec, tokens = small(), open_tokens(data)
    result = run_one(adapter_on(data, micro_tokens=64), spec, tmp_path / "run")
    shape = Shape(256, **TINY)
    model = Plain(shape)
    model.take(views(initial(shape, [spec.seed]), shape))
    assert sum(p.numel() for p in model.parameters()) == count(shape).total
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    plan = schedule_for(spec)
    for step in range(spec.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(plan, step)
        optimizer.zero_grad()
        model(torch.from_numpy(batch(tokens.train, spec.seed, step, 8, 32))).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        expected = float(model(torch.from_numpy(held_out(tokens.validation, 16, 32))))
    assert result.status == "completed"
    assert result.loss == pytest.approx(expected, abs=1e-4)
    assert expected < 5.0 < math.log(256)  # it learnt something
    assert 0 < result.loss_se < 0.5


@pytest.mark.parametrize("decay", [0.1, 0.0, 0.3])
@pytest.mark.parametrize("way", [adamw, stacked_adamw])
def test_adamw_step_by_step(way, decay) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(2, 10, generator=generator)
    mine = State(
        weights.clone(), *(torch.zeros(2, 10) for _ in range(2)), *(torch.zeros(2) for _ in range(4))
    )
    theirs = [[nn.Parameter(row[:6].clone()), nn.Parameter(row[6:].clone())] for row in weights]
    rates = torch.tensor([1e-2, 3e-1])
    optimizers = [
        torch.optim.AdamW(
            [{"params": row[:1], "weight_decay": decay}, {"params": row[1:], "weight_decay": 0.0}],
            lr=float(lr), betas=(0.9, 0.95),
        )
        for row, lr in zip(theirs, rates, strict=True)
    ]  # fmt: skip
    for step in range(20):
        gradient = torch.randn(2, 10, generator=generator)
        for row, optimizer, g in zip(theirs, optimizers, gradient, strict=True):
            row[0].grad, row[1].grad = g[:6].clone(), g[6:].clone()
            optimizer.step()
        way(mine, gradient, rates, 6, torch.tensor(step), **({} if decay == 0.1 else {"decay": decay}))
        expected = torch.stack([torch.cat([part.detach() for part in row]) for row in theirs])
        torch.testing.assert_close(mine.weights, expected, rtol=1e-5, atol=1e-6, msg=f"step {step}")


def test_equal_experts_are_one_dense_layer() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 12, 8, generator=generator)
    into, down = torch.randn(2, 8, 10, generator=generator), torch.randn(2, 5, 8, generator=generator)
    router = torch.randn(2, 8, 4, generator=generator)
    repeated = (w[:, None].expand(-1, 4, -1, -1) for w in (into, down))
    y, balance = experts(x, router, *repeated, top_k=3)
    torch.testing.assert_close(y, swiglu(x, into, down), rtol=1e-4, atol=1e-4)
    assert balance.shape == (2,)


def test_experts_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 9, 6, generator=generator)
    router = torch.randn(2, 6, 5, generator=generator)
    into, down = torch.randn(2, 5, 6, 8, generator=generator), torch.randn(2, 5, 4, 6, generator=generator)
    y, balance = experts(x, router, into, down, top_k=2)
    for r in range(2):
        load = torch.zeros(5)
        shares = (x[r] @ router[r]).softmax(-1)
        for m in range(9):
            best = shares[m].topk(2).indices
            load[best] += 1 / 18
            weight = shares[m][best] / shares[m][best].sum()
            expected = sum(
                w * swiglu(x[r : r + 1, m : m + 1], into[r : r + 1, e], down[r : r + 1, e])[0, 0]
                for w, e in zip(weight, best, strict=True)
            )
            torch.testing.assert_close(y[r, m], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(balance[r], 5 * (load * shares.mean(0)).sum())


def test_ragged_and_padded_experts_are_the_same() -> None:
    generator = torch.Generator().manual_seed(4)
    into, down = torch.randn(6, 8, 24, generator=generator), torch.randn(6, 12, 8, generator=generator)
    group = torch.tensor([0, 0, 0, 1, 3, 3, 3, 3, 3, 5])  # experts without tokens too
    visits, ends = torch.randn(10, 8, generator=generator), torch.bincount(group, minlength=6).cumsum(0)
    found = []
    for way in (ragged, padded):
        leaves = [t.clone().requires_grad_() for t in (visits, into, down)]
        y = way(*leaves, group, ends)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_step_that_has_to_ask_is_not_recorded() -> None:
    dense, mixed = Shape(256, **TINY), Shape(256, **MIXED)
    assert asks_nothing(dense, 1, torch.float32)
    assert asks_nothing(mixed, 8, torch.bfloat16)
    assert not asks_nothing(mixed, 8, torch.float32)  # a GPU's grouped product is bfloat16
    assert not asks_nothing(mixed, 256, torch.bfloat16)  # and of 1,023 groups at most


def test_a_stack_over_several_texts_equals_its_runs_alone(small, tmp_path) -> None:
    kinds = {"code": (b"def f(x):\n    return x + 1\n", 300), "prose": (b"It rained all day, and we stayed. ", 40)}
    for name, (text, n) in kinds.items():
        write_tokens([text * n, text * n], tmp_path / name)
    adapter = adapter_on(tmp_path / "{data}", validation_sequences=200)  # one text has fewer
    specs = [small(run_id=f"r{i}", data=name, seed=i) for i, name in enumerate(("code", "prose", "code"))]
    together = run_stack(adapter, specs, tmp_path / "together")
    for spec, result in zip(specs, together, strict=True):
        alone = run_one(adapter, spec, tmp_path / "alone" / spec.run_id)
        assert result.status == "completed", result.reason
        assert result.loss == pytest.approx(alone.loss, abs=1e-4)
        assert result.loss_se == pytest.approx(alone.loss_se, abs=1e-4)
    write_tokens([text * n for text in (b"words and more words ", b"other words ")], tmp_path / "bpe", vocab_size=260)
    mixed = run_stack(adapter, [specs[0], small(run_id="b", data="bpe")], tmp_path / "mixed")
    assert all("different tokenizers" in result.reason for result in mixed)


def test_tokenizers_of_one_name_and_size_are_told_apart(small, tmp_path) -> None:
    for name, text in (("a", b"words and more words "), ("b", b"some other phrases, some longer ")):
        write_tokens([text * 300, text * 200], tmp_path / name, vocab_size=260)
        card = tmp_path / name / "tokens.json"  # as they were called before
        card.write_text(json.dumps(json.loads(card.read_text()) | {"tokenizer": "bpe-260"}))
    specs = [small(run_id=name, data=name, n_tokens=5 * 256) for name in "ab"]
    apart = run_stack(adapter_on(tmp_path / "{data}"), specs, tmp_path / "apart")
    assert all("like=FOLDER" in result.reason for result in apart)
    write_tokens([text * 300, text * 200], tmp_path / "b", like=tmp_path / "a")
    alike = run_stack(adapter_on(tmp_path / "{data}"), specs, tmp_path / "alike")
    assert [result.status for result in alike] == ["completed"] * 2, alike[0].reason


@pytest.mark.parametrize("part", ["train", "validation"])
def test_ids_that_are_no_tokens_are_named(small, tmp_path, part) -> None:
    write_tokens([bytes(range(97, 123)) * 200] * 4, tmp_path / "data")
    file = tmp_path / "data" / f"{part}.bin"
    ids = np.fromfile(file, "<u2")
    ids[::50] = 300
    ids.tofile(file)
    specs = [small(run_id=name) for name in "ab"]  # alone it would be an error of torch's, in a stack the other's
    for result in [*run_stack(adapter_on(tmp_path / "data"), specs, tmp_path), run_one(
        adapter_on(tmp_path / "data"), specs[0], tmp_path / "alone")]:  # fmt: skip
        assert (result.status, result.steps) == ("failed", 0)
        assert "hold the id 300, and the vocabulary has 256: the file is damaged" in result.reason


@pytest.mark.parametrize("given", [TINY, MIXED], ids=["dense", "moe"])
def test_a_stack_equals_its_runs_alone(data, small, tmp_path, given) -> None:
    arch = "dense" if given is TINY else "moe-e4-k2"
    specs = [
        small(run_id=f"r{i}", lr_peak=lr, seed=seed, shape=given, arch=arch)
        for i, (lr, seed) in enumerate([(1e-3, 0), (1e-2, 0), (1e-2, 1), (2e-2, 2)])
    ]
    adapter = adapter_on(data)
    together = run_stack(adapter, specs, tmp_path / "together")
    alone = [run_one(adapter, spec, tmp_path / "alone" / spec.run_id) for spec in specs]
    for one, other in zip(together, alone, strict=True):
        assert one.status == other.status == "completed", one.reason + other.reason
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
        assert one.loss_se == pytest.approx(other.loss_se, abs=1e-4)
    assert len({round(result.loss, 6) for result in together}) == 4
    assert run_stack(adapter, specs, tmp_path / "together") == together


def test_a_stack_goes_on_without_the_run_that_diverged(data, small, tmp_path) -> None:
    specs = [small(run_id="good", n_tokens=60 * 256), small(run_id="bad", n_tokens=60 * 256, lr_peak=100.0)]
    good, bad = run_stack(adapter_on(data), specs, tmp_path)
    assert (good.status, bad.status) == ("completed", "diverged")
    assert good.loss == pytest.approx(run_one(adapter_on(data), specs[0], tmp_path / "alone").loss, abs=1e-4)
    assert bad.steps < 60
    assert "above its own lowest" in bad.reason
    assert f"at step {bad.steps} of 60" in bad.reason
    assert bad.loss is None


@pytest.fixture
def threads():
    """Sets the number of torch's threads, until the test ends."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.mark.parametrize("given", [TINY, MIXED], ids=["dense", "moe"])
def test_a_stack_shared_out_among_threads_is_its_runs_alone(data, small, tmp_path, threads, given) -> None:
    arch = "dense" if given is TINY else "moe-e4-k2"
    specs = [
        small(run_id=f"r{i}", lr_peak=lr, seed=seed, shape=given, arch=arch, n_tokens=60 * 256)
        for i, (lr, seed) in enumerate([(1e-3, 0), (1e-2, 0), (100.0, 0), (1e-2, 1), (2e-2, 2)])
    ]
    adapter = adapter_on(data)
    alone = [run_one(adapter, spec, tmp_path / "alone" / spec.run_id) for spec in specs]
    threads(3)
    shared = run_stack(adapter, specs, tmp_path / "shared")
    assert torch.get_num_threads() == 3
    assert [r.status for r in shared] == ["completed", "completed", "diverged", "completed", "completed"]
    for one, other in zip(shared, alone, strict=True):
        assert (one.status, one.steps, one.n_tokens) == (other.status, other.steps, other.n_tokens)
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
        curves = [(tmp_path / way / one.run_id / "curve.csv").read_text() for way in ("shared", "alone")]
        assert len(curves[0].splitlines()) == len(curves[1].splitlines())


def test_a_checkpoint_does_not_know_how_many_threads_there_were(data, small, tmp_path, threads) -> None:
    limit = Limits(wall_seconds=1e-9)  # each start is stopped after its first step
    specs = [small(run_id=f"r{i}", seed=i, lr_peak=1e-2, n_tokens=6 * 256) for i in range(4)]
    whole = run_stack(adapter_on(data), specs, tmp_path / "whole")
    stopped = [dataclasses.replace(spec, limits=limit) for spec in specs]
    for n in (2, 1, 4, 3):
        threads(n)
        found = run_stack(adapter_on(data), stopped, tmp_path / "stopped")
        assert all("start it again" in r.reason and r.steps == 1 for r in found)
    finished = run_stack(adapter_on(data), specs, tmp_path / "stopped")
    for one, other in zip(finished, whole, strict=True):
        assert (one.status, one.steps) == ("completed", 6)
        assert one.loss == pytest.approx(other.loss, abs=1e-5)


def test_what_fails_in_one_thread_fails_the_stack(data, small, tmp_path, threads, monkeypatch) -> None:
    from scaleband.training import steps as room

    def full(state, *rest):
        if len(state.alive) == 1:  # the share of the first of three
            raise MemoryError("no memory for this share")
        return watch(state, *rest)

    monkeypatch.setattr(room, "watch", full)
    threads(2)
    found = run_stack(adapter_on(data), [small(run_id=f"r{i}", seed=i) for i in range(3)], tmp_path)
    assert all(r.status == "failed" and "no memory for this share" in r.reason for r in found)
    assert torch.get_num_threads() == 2


def test_chunks_of_steps_are_the_steps_one_by_one(data, small, tmp_path, monkeypatch) -> None:
    from scaleband.training import steps as room

    rates = ((0, 1e-3), (0, 1e-2), (1, 1e-2))
    specs = [small(run_id=f"r{i}", seed=seed, lr_peak=lr) for i, (seed, lr) in enumerate(rates)]
    adapter = adapter_on(data, micro_tokens=3 * 64)
    one_by_one = run_stack(adapter, specs, tmp_path / "one")
    monkeypatch.setitem(room.CHUNK_STEPS, "cpu", 16)
    in_chunks = run_stack(adapter, specs, tmp_path / "chunks")
    assert [r.loss for r in in_chunks] == [r.loss for r in one_by_one]
    for spec in specs:
        curves = [(tmp_path / way / spec.run_id / "curve.csv").read_text() for way in ("one", "chunks")]
        assert curves[0] == curves[1]


def test_divergence_is_seen_early() -> None:
    state = State(*(torch.zeros(3, 1) for _ in range(3)), torch.ones(3, dtype=torch.bool), *(
        torch.full((3,), math.inf) for _ in range(2)), torch.full((3,), 1000))  # fmt: skip
    for step in range(40):
        jump = 4.0 if step < 20 else 7.0
        loss = torch.tensor([5.0 - step / 20, jump, math.nan if step == 7 else 4.0])
        watch(state, loss, step, math.log(256), 1000, 10)
    assert state.alive.tolist() == [True, False, False]
    assert state.ended[2] == 8  # in the step of index 7, which was done
    assert 21 <= state.ended[1] <= 31


def test_a_run_that_hardly_moves_has_not_diverged_and_one_worse_than_guessing_has() -> None:
    guessing, steps = math.log(512), 80
    state = State(*(torch.zeros(4, 1) for _ in range(3)), torch.ones(4, dtype=torch.bool), *(
        torch.full((4,), math.inf) for _ in range(2)), torch.full((4,), steps))  # fmt: skip
    for step in range(steps):
        rising = guessing + min(0.3, step / 50)
        blown = math.inf if step == 50 else guessing - 1.0
        watch(state, torch.tensor([guessing + 0.02, guessing + 0.3, rising, blown]), step, guessing, steps, 10)
    # the second is a wide model, untrained
    assert state.alive.tolist() == [True, True, False, False]
    assert 20 <= state.ended[2] <= 25
    assert "more than 0.1 above that of guessing (6.238) and its own lowest (6.238)" in why_lost(state, 2, guessing)
    assert why_lost(state, 3, guessing) == "the training loss was not finite"


def test_a_very_low_rate_completes_at_the_loss_of_guessing(tmp_path, small) -> None:
    random = torch.randint(0, 256, (4, 2000), generator=torch.Generator().manual_seed(0)).byte()
    write_tokens([bytes(row.tolist()) for row in random], tmp_path / "data")  # nothing can be learnt
    result = run_one(adapter_on(tmp_path / "data"), small(lr_peak=1e-6, n_tokens=60 * 256), tmp_path / "run")
    assert (result.status, result.steps) == ("completed", 60), result.reason
    assert result.loss == pytest.approx(math.log(256), abs=0.05)


def test_a_run_that_diverges_in_its_first_step_says_that_it_did_one(data, small, tmp_path, monkeypatch) -> None:
    from scaleband.training import steps as room

    def blown(*arguments):
        each, balance = losses(*arguments)
        return each * math.nan, balance

    monkeypatch.setattr(room, "losses", blown)
    result = run_one(adapter_on(data), small(), tmp_path / "run")
    assert (result.status, result.steps, result.n_tokens) == ("diverged", 1, 256)
    assert result.flops > 0
    assert "at step 1 of 30" in result.reason
    assert (tmp_path / "run" / "curve.csv").read_text().count("\n") == 1  # its loss is no number


def test_noise_of_small_batches_is_no_divergence() -> None:
    rng = torch.Generator().manual_seed(0)
    steps, window = 2048, 128
    state = State(*(torch.zeros(20, 1) for _ in range(3)), torch.ones(20, dtype=torch.bool), *(
        torch.full((20,), math.inf) for _ in range(2)), torch.full((20,), steps))  # fmt: skip
    for step in range(steps):
        falling = 2.6 + 2.9 * math.exp(-step / 100)
        watch(state, falling + 0.8 * torch.randn(20, generator=rng), step, math.log(256), steps, window)
    assert state.alive.all()


def test_stopped_and_resumed_is_as_if_uninterrupted(data, small, tmp_path, monkeypatch) -> None:
    from scaleband.training import steps as room

    spec, adapter = small(shape=MIXED, arch="moe-e4-k2"), adapter_on(data, checkpoint_seconds=0.0)
    whole = run_one(adapter, spec, tmp_path / "whole")
    calls = [0]

    def dies(*arguments):
        calls[0] += 1
        if calls[0] in (12, 20):
            raise RuntimeError("the power went")
        return rate(*arguments)

    monkeypatch.setattr(room, "rate", dies)
    first = run_one(adapter, spec, tmp_path / "run")
    assert (first.status, (tmp_path / "run" / "checkpoint.pt").exists()) == ("failed", True)
    second = run_one(adapter, spec, tmp_path / "run")
    third = run_one(adapter, spec, tmp_path / "run")
    assert (second.status, third.status) == ("failed", "completed")
    assert calls[0] == 30 + 2  # no step was done twice but the two that died
    assert third.loss == whole.loss
    assert (tmp_path / "run" / "curve.csv").read_text() == (tmp_path / "whole" / "curve.csv").read_text()
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_broken_or_foreign_checkpoint_is_passed_over(data, small, tmp_path) -> None:
    for name, content in (("broken", b"PK half a file"), ("empty", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.pt").write_bytes(content)
        assert run_one(adapter_on(data), small(), tmp_path / name).status == "completed"


@pytest.mark.parametrize("change", ["a field less", "a field more", "other text", "another vocabulary"])
def test_a_checkpoint_of_another_version_or_text_is_passed_over(change, small, tmp_path) -> None:
    from scaleband.training import Limits

    def tokens(texts: list[bytes], vocab_size: int = 256) -> None:
        write_tokens(texts, tmp_path / "data", validation_share=0.2, vocab_size=vocab_size)

    text = [bytes(range(97, 123)) * 40] * 10
    other = [bytes(range(122, 96, -1)) * 40] * 10
    tokens(text)
    adapter, place = adapter_on(tmp_path / "data"), tmp_path / "run" / "checkpoint.pt"
    assert run_one(adapter, small(limits=Limits(wall_seconds=1e-6)), tmp_path / "run").status == "failed"
    found = torch.load(place, weights_only=True)
    if change == "a field less":
        found.pop("ended")
    if change == "a field more":
        found["further"] = 1
    torch.save(found, place)
    if change == "other text":
        tokens(other)
    if change == "another vocabulary":
        tokens(text, 260)
    resumed = run_one(adapter, small(), tmp_path / "run")
    assert (resumed.status, place.exists()) == ("completed", False)
    assert resumed.loss == run_one(adapter, small(), tmp_path / "anew").loss


def test_a_limit_fails_and_a_second_start_goes_on(data, small, tmp_path) -> None:
    from scaleband.training import Limits

    adapter = adapter_on(data)
    first = run_one(adapter, small(limits=Limits(wall_seconds=1e-6)), tmp_path / "run")
    assert (first.status, first.steps) == ("failed", 1)
    assert "limit" in first.reason
    second = run_one(adapter, small(), tmp_path / "run")
    assert second.loss == run_one(adapter, small(), tmp_path / "whole").loss


def test_every_start_has_the_whole_limit(data, small, tmp_path, monkeypatch) -> None:
    from types import SimpleNamespace

    from scaleband.training import Limits
    from scaleband.training import train as room

    clock = itertools.count()  # a second from one look to the next, and a look after every step
    monkeypatch.setattr(room, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    limited = small(limits=Limits(wall_seconds=11.5))
    starts = [run_one(adapter_on(data), limited, tmp_path / "run") for _ in range(3)]
    assert [(r.status, r.steps) for r in starts] == [("failed", 12), ("failed", 12), ("completed", 30)]
    assert ["at step 12 of 30" in starts[0].reason, "at step 24 of 30" in starts[1].reason] == [True, True]
    # a start that was stopped says what it has trained itself, so that this is paid for
    assert [r.n_tokens for r in starts] == [12 * 256, 12 * 256, 30 * 256]
    assert starts[0].flops == starts[1].flops == pytest.approx(12 / 30 * starts[2].flops)
    assert starts[1].wall_seconds == 12.0


def test_bfloat16_is_close(data, small, tmp_path) -> None:
    exact = run_one(adapter_on(data), small(), tmp_path / "a").loss
    rough = run_one(adapter_on(data, precision="bfloat16"), small(), tmp_path / "b").loss
    assert rough == pytest.approx(exact, abs=0.03)
    assert rough != exact


def test_compiled_code_gives_the_same_losses() -> None:
    shape = Shape(64, **TINY)
    p = views(initial(shape, [1, 2]), shape)
    sequences = torch.randint(0, 64, (2, 3, 9), generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(losses, backend="aot_eager")  # the whole way but for the C++ compiler
    torch.testing.assert_close(
        compiled(p, shape, sequences, torch.float32)[0], losses(p, shape, sequences, torch.float32)[0]
    )


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.name)
def test_the_trainer_keeps_the_contract(check, data, small, tmp_path) -> None:
    check(adapter_on(data, threads=1), small(n_tokens=5 * 256), tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_tokens": 250}, "whole number of sequences"),
        ({"tokenizer": "gpt2"}, "the data folder holds"),
        ({"optimizer": "muon"}, "state 'AdamW 0.9 0.95, clipped at 1', or leave it out"),
        ({"seq_len": 10**6, "batch_tokens": 10**6, "n_tokens": 10**6}, "fewer than two sequences"),
        ({"shape": {}}, "shape rule"),
    ],
)
def test_what_cannot_be_trained_fails_with_a_reason(data, small, tmp_path, changes, sentence) -> None:
    result = run_one(adapter_on(data), small(**changes), tmp_path / "run")
    assert result.status == "failed"
    assert sentence in result.reason


def test_a_stated_weight_decay_is_done(data, small, tmp_path) -> None:
    found = [
        run_one(adapter_on(data), small(weight_decay=text, lr_peak=3e-2), tmp_path / (text or "unstated"))
        for text in ("", "0.1", "0", "none", "3")
    ]
    assert [result.status for result in found] == ["completed"] * 5
    assert found[0].loss == found[1].loss
    assert found[2].loss == found[3].loss
    assert len({result.loss for result in found}) == 3
    stack = run_stack(adapter_on(data), [small(weight_decay="3", run_id=r, lr_peak=3e-2) for r in "ab"], tmp_path)
    assert stack[1].loss == pytest.approx(found[4].loss, abs=1e-4)
    mixed = run_stack(adapter_on(data), [small(), small(run_id="c", weight_decay="0")], tmp_path / "mixed")
    assert "weight_decay is not that of run-1" in mixed[0].reason


def test_runs_that_cannot_be_stacked_are_refused(data, small, tmp_path) -> None:
    specs = [small(), small(run_id="b", batch_tokens=512)]
    with pytest.raises(UserError, match="batch_tokens is not that of run-1"):
        adapter_on(data).stack(specs, tmp_path, [tmp_path, tmp_path])
    assert [r.status for r in run_stack(adapter_on(data), specs, tmp_path)] == ["failed", "failed"]


def test_a_stack_refuses_names_as_a_single_run_does_and_never_raises(data, small, tmp_path) -> None:
    names = ("../escaped", "twice", "twice", "good")
    results = run_stack(adapter_on(data), [small(run_id=name) for name in names], tmp_path / "stack")
    assert [r.status for r in results] == ["failed"] * 3 + ["completed"]
    assert "cannot name a folder" in results[0].reason
    assert "'twice' is there twice" in results[1].reason
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stack"]
    assert not (tmp_path / "stack" / "twice").exists()
    (tmp_path / "file").write_text("no folder can be here")
    blocked = run_stack(adapter_on(data), [small()], tmp_path / "file")
    assert (blocked[0].status, "could not be written" in blocked[0].reason) == ("failed", True)


def test_out_of_memory_is_a_failed_run(data, small, tmp_path, monkeypatch) -> None:
    from scaleband.training import steps as room

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(room, "losses", full)
    result = run_one(adapter_on(data), small(), tmp_path / "run")
    assert result.status == "failed"
    assert result.reason.startswith("out of memory")


def test_without_torch_it_says_what_to_install(data, small, tmp_path, monkeypatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run_one(adapter_on(data), small(), tmp_path / "run")
    assert "scaleband[torch]" in result.reason


def test_time_goes_down_in_a_stack(data, small, tmp_path) -> None:
    begun = time.perf_counter()
    results = run_stack(adapter_on(data), [small(run_id=f"r{i}", seed=i) for i in range(3)], tmp_path)
    assert sum(result.wall_seconds for result in results) <= time.perf_counter() - begun
