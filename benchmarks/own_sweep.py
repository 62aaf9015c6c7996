"""A sweep of our own: {dense, two mixtures} x {prose, code} x sizes x token counts, with the reference trainer.

    python tools/assemble_text.py out/text
    python benchmarks/own_sweep.py plan     [--scale cpu|gpu]
    python benchmarks/own_sweep.py estimate --text out/text
    python benchmarks/own_sweep.py run      --text out/text --out out/sweep [--hours 1]
    python benchmarks/own_sweep.py table    --out out/sweep --csv runs.csv

Runs of one cell and one batch are one stack. `run` may be stopped at any moment and started again: finished runs
are taken as they are, the one under way goes on from its checkpoint. Cells come in an order that makes a
table of any length useful: all groups at the smallest size first. The extra seeds come last.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scaleband.training import ReferenceAdapter, RunSpec, count, run_stack, table_row
from scaleband.training.running import finished
from scaleband.training.shapes import Shape, dense_shape, moe_shape

SEQ_LEN = 128
ARCHES = ("dense", "moe-e8-k2", "moe-e16-k2")
DATA = ("prose", "code")
EXTRA_SEEDS = (1, 2)


@dataclass(frozen=True)
class Plan:
    """Grid of a sweep: active sizes (the dense model of each; mixtures have as many active), tokens, batches, rates.

    `tokens_per_batch` are the batches as shares of the tokens: optimum batches grow with the tokens.
    """

    sizes: tuple[int, ...]
    tokens: tuple[int, ...]
    batches: dict[int, tuple[int, ...]]
    rates: tuple[float, ...]
    seeded_cells: int


#: Rates step by 2 over a factor of 16 to 32; token counts are whole multiples of every batch.
PLANS = {
    "cpu": Plan(
        sizes=(50_000, 141_000, 400_000),
        tokens=(2**19, 2**20),
        batches={2**19: (512, 1024, 2048), 2**20: (1024, 2048, 4096)},
        rates=tuple(1.25e-3 * 2**k for k in range(5)),
        seeded_cells=4,
    ),
    "gpu": Plan(
        sizes=(1_000_000, 2_800_000, 8_000_000, 22_600_000),
        tokens=(2**25, 2**26, 2**27),
        batches={2**25: (8192, 16384, 32768), 2**26: (8192, 16384, 32768), 2**27: (16384, 32768, 65536)},
        rates=tuple(2.5e-4 * 2**k for k in range(6)),
        seeded_cells=4,
    ),
}


def shape_of(arch: str, active: int) -> Shape:
    """The dense shape of `active` parameters, or the mixture with as many active ones."""
    if arch == "dense":
        return dense_shape(active, 256)
    _, n_experts, top_k = arch.split("-")
    return moe_shape(active, 256, int(n_experts[1:]), int(top_k[1:]))


def stacks(plan: Plan) -> Iterator[tuple[str, list[RunSpec]]]:
    """(name, runs) of every stack, in the order in which they are trained."""
    cells = [
        (arch, data, size, tokens)
        for tokens in plan.tokens
        for size in plan.sizes
        for arch in ARCHES
        for data in DATA
    ]
    for arch, data, size, tokens in cells:
        for batch in plan.batches[tokens]:
            yield _stack(arch, data, size, tokens, batch, plan.rates, 0)
    for arch, data, size, tokens in cells[: plan.seeded_cells]:
        batch = plan.batches[tokens][1]
        for seed in EXTRA_SEEDS:
            yield _stack(arch, data, size, tokens, batch, plan.rates[1:-1], seed)


def _stack(
    arch: str, data: str, size: int, tokens: int, batch: int, rates: tuple[float, ...], seed: int
) -> tuple[str, list[RunSpec]]:
    name = f"{arch}_{data}_{size}_{tokens}_{batch}_s{seed}"
    shape = shape_of(arch, size)
    made = count(shape)
    common = RunSpec(
        "common", made.n_params, tokens, 1.0, batch, n_active=made.n_active, seq_len=SEQ_LEN, source="scaleband",
        arch=arch, data=data, seed=seed, schedule="warmup+cosine", lr_final="1e-5", warmup="5%",
        optimizer="AdamW 0.9 0.95, clipped at 1", weight_decay="0.1", tokenizer="bytes",
        loss_kind="validation, nats per byte", n_params_kind="non-embedding, total",
        shape={key: number for key, number in dataclasses.asdict(shape).items() if key != "vocab_size"},
    )  # fmt: skip
    return name, [dataclasses.replace(common, run_id=f"{name}_lr{lr:.4g}", lr_peak=lr) for lr in rates]


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


def table(plan: Plan, out: Path, path: Path) -> None:
    """Everything that finished, as a run table; and how many cells have their best run inside the grid."""
    rows, cells = [], {}
    for name, specs in stacks(plan):
        for spec in specs:
            result = finished(spec, out / name / spec.run_id)
            if result is None:
                continue
            rows.append(table_row(spec, result))
            if result.loss is not None and spec.seed == 0:
                cell = (spec.arch, spec.data, spec.n_params, spec.n_tokens)
                cells.setdefault(cell, []).append((result.loss, spec.lr_peak, spec.batch_tokens))
    if not rows:
        sys.exit(f"nothing is finished in {out}")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    inside = 0
    for (_, _, _, tokens), found in cells.items():
        _, lr, batch = min(found)
        inside += plan.rates[0] < lr < plan.rates[-1] and min(plan.batches[tokens]) < batch < max(
            plan.batches[tokens]
        )
    print(f"{len(rows)} runs; the best run is inside the grid in {inside} of {len(cells)} cells")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("plan", "estimate", "run", "table"))
    parser.add_argument("--scale", choices=tuple(PLANS), default="cpu")
    parser.add_argument("--text", type=Path, default=Path("out/text"))
    parser.add_argument("--out", type=Path, default=Path("out/sweep"))
    parser.add_argument("--csv", type=Path, default=Path("out/sweep.csv"))
    parser.add_argument("--hours", type=float, default=math.inf)
    parser.add_argument("--device", default="")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    plan = PLANS[options.scale]
    adapter = ReferenceAdapter(
        f"{options.text}/{{data}}", device=options.device, threads=options.threads, compile=options.scale == "gpu",
        checkpoint_seconds=30.0, validation_sequences=256 if options.scale == "cpu" else 2048,
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
        table(plan, options.out, options.csv)


if __name__ == "__main__":
    main()
