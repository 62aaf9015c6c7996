"""How fast the reference trainer is: beside a minimal loop, stacked beside one after the other, and MFU on a GPU.

    python benchmarks/trainer_speed.py                              one CPU thread, small shapes
    python benchmarks/trainer_speed.py --threads 2                  two, for every contender
    python benchmarks/trainer_speed.py --device cuda --params 124e6 --seq-len 1024 --batch-sequences 64 --compile \
        --steps 20 --rounds 3 --stack-params
    python benchmarks/trainer_speed.py --device cuda --stack-params 2e5 1e6 5e6 --stack-steps 1000 --steps 200 \
        --rounds 3

All contenders run in one process, in turn, on the same random tokens. Time is wall time on a GPU and with several
threads; with one CPU thread it is that thread's processor time, so that what else the machine does counts less. The
minimal loop is what nanoGPT does, written with ordinary modules: the same architecture options, torch.optim.AdamW
(fused), autocast for bfloat16. A figure is the median over rounds; rounds alternate between contenders, and on a GPU
or with --compile the first is not counted: libraries set themselves up in it. MFU counts 6
FLOPs per parameter and token, head included, and 6 L T C for causal attention, over `--peak` FLOP/s (default: H100
SXM, dense bfloat16, 989e12).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scaleband.training import RunSpec, count, shape_for, write_tokens
from scaleband.training.shapes import Shape
from scaleband.training.shares import steps_of
from scaleband.training.steps import fresh, own_stream
from scaleband.training.tokens import batch, open_tokens

VOCAB = 256


class Block(nn.Module):
    """A plain pre-norm block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        c = shape.d_model
        self.heads = shape.n_heads
        self.norm1, self.norm2 = nn.RMSNorm(c), nn.RMSNorm(c)
        self.qkv, self.out = nn.Linear(c, 3 * c, bias=False), nn.Linear(c, c, bias=False)
        self.into, self.down = nn.Linear(c, 2 * shape.d_ff, bias=False), nn.Linear(shape.d_ff, c, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """(B, T, C)."""
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)

        def turned(z: torch.Tensor) -> torch.Tensor:
            first, second = z.chunk(2, -1)
            return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).to(v.dtype)

        y = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        gate, value = self.into(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * value)


class Minimal(nn.Module):
    """The minimal loop's model."""

    def __init__(self, shape: Shape, seq_len: int) -> None:
        super().__init__()
        c, d = shape.d_model, shape.d_model // shape.n_heads
        self.embedding = nn.Embedding(VOCAB, c)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))
        self.norm, self.head = nn.RMSNorm(c), nn.Linear(c, VOCAB, bias=False)
        angle = torch.outer(torch.arange(seq_len), 1e4 ** (-torch.arange(0, d, 2) / d))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Mean loss of (B, T + 1)."""
        x = self.embedding(rows[:, :-1])
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), rows[:, 1:].flatten())


def minimal_loop(options: argparse.Namespace, folder: Path, shape: Shape, device: str) -> float:
    """Tokens per second of the minimal loop, warm-up steps left out."""
    tokens = open_tokens(folder).train
    torch.manual_seed(0)
    model = Minimal(shape, options.seq_len).to(device)
    run = torch.compile(model) if options.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    seen, begun = 0, _clock(device)
    for step in range(options.steps + options.warm):
        if step == options.warm:
            seen, begun = 0, _clock(device)
        rows = torch.from_numpy(batch(tokens, 0, step, options.batch_sequences, options.seq_len)).to(device)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = run(rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen += rows.shape[0] * options.seq_len
    return seen / (_clock(device) - begun)


def trainer(options: argparse.Namespace, folder: Path, n_params: int, device: str, runs: int) -> float:
    """Tokens per second of `runs` stacked runs in all, warm-up steps left out."""
    batch_tokens = options.batch_sequences * options.seq_len
    n_tokens = (options.warm + options.steps) * batch_tokens
    specs = [
        RunSpec(f"r{i}", n_params, n_tokens, 1e-3, batch_tokens, seq_len=options.seq_len, seed=i) for i in range(runs)
    ]
    shape = shape_for("dense", n_params, VOCAB)
    with (
        own_stream(torch.device(device)),
        steps_of(
            fresh(shape, specs, torch.device(device)), shape, specs, [open_tokens(folder)] * runs, options.seq_len,
            micro=options.batch_sequences, dtype=getattr(torch, options.precision), compiled=options.compile,
        ) as steps,
    ):  # fmt: skip
        for n in (options.warm, options.steps):
            begun = _clock(device)
            while n:
                n -= len(steps.advance(min(n, steps.longest))[0])
        return runs * options.steps * batch_tokens / (_clock(device) - begun)


def _clock(device: str) -> float:
    """Seconds, once the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def rounds(contenders: dict[str, Callable[[], float]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Each contender once a round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    uncounted = options.compile or options.device.startswith("cuda")
    for _ in range(uncounted + options.rounds):
        for name, run in contenders.items():
            found[name].append(run())
    return {name: each[uncounted:] for name, each in found.items()}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, for every contender")
    parser.add_argument("--params", type=float, default=1e6)
    parser.add_argument("--stack-params", type=float, nargs="*", default=[5e4, 2e5, 1e6])
    parser.add_argument("--stack", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--batch-sequences", type=int, default=8)
    parser.add_argument("--stack-batch-sequences", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--stack-steps", type=int, default=40)
    parser.add_argument("--warm", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--peak", type=float, default=989e12)
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    options.precision = options.precision or ("bfloat16" if on_gpu else "float32")
    if not on_gpu:
        torch.set_num_threads(options.threads)
    shape = shape_for("dense", int(options.params), VOCAB)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_tokens([rng.integers(0, 256, 100_000, np.uint8).tobytes() for _ in range(20)], folder)
        alone = rounds(
            {
                "minimal loop": lambda: minimal_loop(options, folder, shape, options.device),
                "trainer": lambda: trainer(options, folder, int(options.params), options.device, 1),
            },
            options,
        )
        changes = {"batch_sequences": options.stack_batch_sequences, "steps": options.stack_steps}
        small = argparse.Namespace(**vars(options) | changes)
        stacked = {
            f"{n:.0f}": rounds(
                {
                    "one after the other": lambda n=n: trainer(small, folder, int(n), options.device, 1),
                    "stacked": lambda n=n: trainer(small, folder, int(n), options.device, options.stack),
                },
                options,
            )
            for n in options.stack_params
        }
    tokens = {name: statistics.median(each) for name, each in alone.items()}
    sizes = count(shape)
    per_token = 6 * (sizes.n_params + VOCAB * shape.d_model)
    per_token += 6 * shape.n_layers * options.seq_len * shape.d_model
    print(
        json.dumps(
            {
                "device": torch.cuda.get_device_name(options.device) if on_gpu else f"cpu, threads: {options.threads}",
                "torch": torch.__version__,
                "settings": vars(options),
                "shape": dataclasses.asdict(shape) | {"n_params": sizes.n_params},
                "tokens_per_second": tokens,
                "rounds": alone | {"stacks by parameters": stacked},
                "trainer_over_minimal": tokens["trainer"] / tokens["minimal loop"],
                "stacked_over_separate": {
                    n: statistics.median(each["stacked"]) / statistics.median(each["one after the other"])
                    for n, each in stacked.items()
                },
                "model_flops_per_second": per_token * tokens["trainer"],
                "mfu": per_token * tokens["trainer"] / options.peak if on_gpu else None,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
