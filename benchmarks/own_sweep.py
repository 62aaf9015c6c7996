"""A sweep of our own: {dense, two mixtures} x {prose, code} x sizes x token counts, with the reference trainer.

    python tools/assemble_text.py out/text
    python benchmarks/own_sweep.py plan     [--scale cpu|gpu]
    python benchmarks/own_sweep.py estimate --text out/text
    python benchmarks/own_sweep.py run      --text out/text --out out/sweep [--hours 1]
    python benchmarks/own_sweep.py table    --out out/sweep --folder sweeps/scaleband-tiny

Runs of one cell and one batch are one stack. `run` may be stopped at any moment and started again: finished runs
are taken as they are, the one under way goes on from its checkpoint. Cells come in an order that makes a
table of any length useful: all groups at the smallest size first. The extra seeds come last.
"""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from scaleband.training import ReferenceAdapter, RunSpec, count, run_stack, table_row
from scaleband.training.running import finished
from scaleband.training.shapes import Shape, dense_shape, moe_shape

ARCHES = ("dense", "moe-e8-k2", "moe-e16-k2")
DATA = ("prose", "code")
EXTRA_SEEDS = (1, 2)


@dataclass(frozen=True)
class Plan:
    """Grid of a sweep.

    Attributes
    ----------
    seq_len, layers
        Tokens of a sequence; depth of all models, 0 for the shape rule's.
    sizes
        Active parameters (the dense model of each; mixtures have as many active).
    batches
        For each token count: optimum batches grow with the tokens. Token counts are whole multiples of them.
    rates
        For each size: optimum rates fall with it. They step by 2.
    seeded
        (architecture, size, tokens) whose three middle rates at the middle batch get `EXTRA_SEEDS`.
    """

    seq_len: int
    layers: int
    sizes: tuple[int, ...]
    batches: dict[int, tuple[int, ...]]
    rates: dict[int, tuple[float, ...]]
    seeded: tuple[tuple[str, int, int], ...]


def _around(middle: float, n: int) -> tuple[float, ...]:
    return tuple(middle * 2.0 ** (k - n // 2) for k in range(n))


#: On a CPU these are very small models on few tokens: an hour or so of one core. A first sweep, on a third and less of
#: these tokens, wanted batches of 16 to 64 tokens, the low end of its grid, in most cells: so sequences are short,
#: trainings longer, and batches step by 4 around the best that its batches and tokens led to expect (with one more,
#: of 32, after the first three stacks).
PLANS = {
    "cpu": Plan(
        seq_len=16,
        layers=2,
        sizes=(12_500, 35_400, 100_000),
        batches={3 * 2**15: (16, 32, 64, 256), 3 * 2**17: (32, 128, 512)},
        rates={12_500: _around(6e-3, 5), 35_400: _around(5e-3, 5), 100_000: _around(4e-3, 5)},
        seeded=(("dense", 35_400, 3 * 2**15), ("moe-e8-k2", 35_400, 3 * 2**15), ("dense", 12_500, 3 * 2**17)),
    ),
    "gpu": Plan(
        seq_len=128,
        layers=0,
        sizes=(1_000_000, 2_800_000, 8_000_000, 22_600_000),
        batches={2**25: (8192, 16384, 32768), 2**26: (8192, 16384, 32768), 2**27: (16384, 32768, 65536)},
        rates=dict.fromkeys((1_000_000, 2_800_000, 8_000_000, 22_600_000), _around(2e-3, 6)),
        seeded=(("dense", 1_000_000, 2**25), ("moe-e8-k2", 1_000_000, 2**25)),
    ),
}


def shape_of(plan: Plan, arch: str, active: int) -> Shape:
    """The dense shape of `active` parameters, or the mixture with as many active ones.

    With a depth of its own a plan has heads of 8 and a feed-forward width of 5/2 of the model's, nearly.
    """
    n_experts, top_k = (0, 0) if arch == "dense" else (int(part[1:]) for part in arch.split("-")[1:])
    if not plan.layers:
        return moe_shape(active, 256, n_experts, top_k) if n_experts else dense_shape(active, 256)
    c = 8 * max(1, round(math.sqrt(active / plan.layers / 11.5) / 8))
    multiple = 4 * (top_k + 1)
    d_ff = multiple * max(1, round((active / plan.layers - 4 * c * c) / (3 * c) / multiple))
    if not n_experts:
        return Shape(256, c, plan.layers, c // 8, d_ff)
    part = d_ff // (top_k + 1)
    return Shape(256, c, plan.layers, c // 8, part, n_experts, top_k, part)


def stacks(plan: Plan) -> Iterator[tuple[str, list[RunSpec]]]:
    """(name, runs) of every stack, in the order in which they are trained: both texts and all rates of a batch."""
    for tokens, batches in plan.batches.items():
        for size in plan.sizes:
            for arch in ARCHES:
                for batch in batches:
                    yield _stack(plan, arch, size, tokens, batch, plan.rates[size], (0,))
        for arch, size, seeded_tokens in plan.seeded:
            if seeded_tokens == tokens:
                yield _stack(plan, arch, size, tokens, batches[1], plan.rates[size][1:-1], EXTRA_SEEDS)


def _stack(
    plan: Plan, arch: str, size: int, tokens: int, batch: int, rates: Sequence[float], seeds: Sequence[int]
) -> tuple[str, list[RunSpec]]:
    name = f"{arch}_{size}_{tokens}_{batch}" + "".join(f"_s{seed}" for seed in seeds if seed)
    shape = shape_of(plan, arch, size)
    made = count(shape)
    common = RunSpec(
        "common", made.n_params, tokens, 1.0, batch, n_active=made.n_active, seq_len=plan.seq_len, source="scaleband",
        arch=arch, schedule="warmup+cosine", lr_final="1e-5", warmup="5%",
        optimizer="AdamW 0.9 0.95, clipped at 1", weight_decay="0.1", tokenizer="bytes",
        loss_kind="validation, nats per byte", n_params_kind="non-embedding, total",
        shape={key: number for key, number in dataclasses.asdict(shape).items() if key != "vocab_size"},
    )  # fmt: skip
    return name, [
        dataclasses.replace(
            common, run_id=f"{name}_{data}_s{seed}_lr{lr:.4g}", data=data, seed=seed, lr_peak=lr
        )
        for data in DATA
        for seed in seeds
        for lr in rates
    ]


def estimate(plan: Plan, adapter: ReferenceAdapter) -> float:
    """Seconds for the whole plan here, from a few steps of one stack of each shape."""
    total, speeds = 0.0, {}
    for _, specs in stacks(plan):
        first = specs[0]
        key = (first.arch, first.n_params, first.batch_tokens, len(specs))
        if key not in speeds:
            seconds = []
            for steps in (2, 6):
                short = [dataclasses.replace(spec, n_tokens=steps * spec.batch_tokens) for spec in specs]
                with tempfile.TemporaryDirectory() as place:
                    results = adapter.stack(short, Path(place), [Path(place)] * len(short))
                seconds.append(sum(result.wall_seconds for result in results))
            speeds[key] = (seconds[1] - seconds[0]) / 4
        total += speeds[key] * first.steps
    return total


def run(plan: Plan, adapter: ReferenceAdapter, out: Path, hours: float) -> None:
    """Train stack after stack; stop before a stack that begins after `hours`."""
    begun = time.perf_counter()
    todo = list(stacks(plan))
    for k, (name, specs) in enumerate(todo):
        if time.perf_counter() - begun > hours * 3600:
            print(f"time is up; {len(todo) - k} stacks are left", flush=True)
            return
        results = run_stack(adapter, specs, out / name)
        shown = ", ".join(f"{r.loss:.4f}" if r.loss else r.status for r in results)
        print(f"{k + 1}/{len(todo)} {name}: {shown}", flush=True)


def table(plan: Plan, out: Path, text: Path, folder: Path) -> None:
    """Everything that finished, as a run table with its data card; and how many cells have their best run inside."""
    rows, cells = [], {}
    for name, specs in stacks(plan):
        for spec in specs:
            result = finished(spec, out / name / spec.run_id)
            if result is None:
                continue
            # held-out sequences are the same for all runs of a text, which results of the first day do not say
            rows.append(table_row(spec, dataclasses.replace(result, loss_se_shared=True)))
            if spec.seed == 0:
                cell = (spec.arch, spec.data, spec.n_params, spec.n_tokens)
                loss = math.inf if result.loss is None else result.loss
                cells.setdefault(cell, []).append((loss, spec.lr_peak, spec.batch_tokens))
    if not rows:
        sys.exit(f"nothing is finished in {out}")
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:  # what was printed to six digits is what is known
        row |= {key: float(f"{value:.6g}") for key, value in row.items() if isinstance(value, float)}
    with (folder / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_card(plan, rows, len(cells), text, folder)
    inside = dict.fromkeys(("rate", "batch", "both"), 0)
    for found in cells.values():
        _, *best = min(found)
        within = [
            min(axis) < value < max(axis)
            for value, axis in zip(best, list(zip(*found, strict=True))[1:], strict=True)
        ]
        inside = {k: n + w for (k, n), w in zip(inside.items(), (*within, all(within)), strict=True)}
    print(f"{len(rows)} runs; the best run is inside the grid in {inside} of {len(cells)} cells")


def write_card(plan: Plan, rows: list[dict], n_cells: int, text: Path, folder: Path) -> None:
    """The data card beside a table: recipe, sources of the text, columns, what it holds for."""
    seeds = collections.Counter(
        (r["arch"], r["data"], r["n_params"], r["n_tokens"], r["lr_peak"], r["batch_tokens"]) for r in rows
    )
    n_seeded = sum(n > 1 for n in seeds.values())
    sizes = ", ".join(f"{size:,}" for size in sorted({row["n_active"] for row in rows}))
    tokens = " and ".join(f"{n:,}" for n in sorted({row["n_tokens"] for row in rows}))
    card = {
        "name": folder.name,
        "what": f"{len(rows)} runs of the package's own trainer in {n_cells} cells: dense and two mixtures of "
        "experts, prose and source code, with seeds",
        "licence": "Apache-2.0",
        "text_licence": "of each package; the text is not included, the recipe assembles it",
        "runs": len(rows),
        "planned": sum(len(specs) for _, specs in stacks(plan)),
        "cells": n_cells,
        "settings_with_several_seeds": n_seeded,
        "holds_for": f"Decoder-only transformers of {plan.layers or 'several'} layers ({sizes} active non-embedding "
        f"parameters, byte vocabulary, sequences of {plan.seq_len} tokens), trained on {tokens} tokens with AdamW "
        "(0.9, 0.95, weight decay 0.1), gradients clipped at norm 1, 5 % warm-up and cosine to 1e-5. These are very "
        "small: they show the method, and say nothing about large models.",
        "columns": {
            "run_id ... n_params_kind": "the columns of the run table; batch_tokens is tokens per step",
            "loss": "held-out cross-entropy, nats per byte",
            "loss_se": "0: the held-out sequences are the same for all runs of one text, so their error cancels",
            "validation_se": "standard error of that mean over sequences, nats per byte",
            "steps, wall_seconds, tokens_per_second, device, reason": "of the run; a stack's time is shared out evenly",
        },
        "mind": "Runs of one stack (a cell and a batch) share seed, start and batches.",
        "recipe": ["python tools/assemble_text.py out/text", "python benchmarks/own_sweep.py run",
                   f"python benchmarks/own_sweep.py table --folder sweeps/{folder.name}"],
        "machine": "one thread of a two-core x86-64 CPU that did other work too",
        "wall_hours": round(sum(row["wall_seconds"] for row in rows) / 3600, 2),
        "torch": torch.__version__.partition("+")[0],
        "text": json.loads((text / "sources.json").read_text()),
        "sha256": hashlib.sha256((folder / "runs.csv").read_bytes()).hexdigest(),
    }  # fmt: skip
    (folder / "sources.json").write_text(json.dumps(card, indent=1) + "\n")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("plan", "estimate", "run", "table"))
    parser.add_argument("--scale", choices=tuple(PLANS), default="cpu")
    parser.add_argument("--text", type=Path, default=Path("out/text"))
    parser.add_argument("--out", type=Path, default=Path("out/sweep"))
    parser.add_argument("--folder", type=Path, default=Path("out/scaleband-tiny"), help="of the table")
    parser.add_argument("--hours", type=float, default=math.inf)
    parser.add_argument("--device", default="")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    plan = PLANS[options.scale]
    adapter = ReferenceAdapter(
        f"{options.text}/{{data}}", device=options.device, threads=options.threads, compile=options.scale == "gpu",
        checkpoint_seconds=30.0, validation_sequences=1024 if options.scale == "cpu" else 2048,
    )  # fmt: skip
    if options.verb == "plan":
        todo = list(stacks(plan))
        flops = sum(6.0 * s.active * s.n_tokens for _, specs in todo for s in specs)
        print(f"{len(todo)} stacks, {sum(len(s) for _, s in todo)} runs, {flops:.3g} FLOP")
    elif options.verb == "estimate":
        print(f"{estimate(plan, adapter) / 3600:.2f} hours")
    elif options.verb == "run":
        run(plan, adapter, options.out, options.hours)
    else:
        table(plan, options.out, options.text, options.folder)


if __name__ == "__main__":
    main()
