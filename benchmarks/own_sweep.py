"""A sweep of our own: {dense, two mixtures} x {prose, code} x sizes x token counts, with the reference trainer.

    python tools/assemble_text.py out/text
    python benchmarks/own_sweep.py plan     [--part small large]
    python benchmarks/own_sweep.py estimate --text out/text
    python benchmarks/own_sweep.py run      --text out/text --out out/sweep [--part small] [--hours 1]
    python benchmarks/own_sweep.py run      --text out/text --out out/sweep --part large --device cuda --workers 6
    python benchmarks/own_sweep.py table    --out out/sweep --folder sweeps/scaleband-tiny

The small part was made for a CPU, where it takes an hour or two; the large one, a fourth size and a third token count
for the same groups, wants a GPU. Runs of one cell and one batch are one stack. `run` may be stopped at any moment and
started again: finished runs are taken as they are, the one under way goes on from its checkpoint. Cells come in an
order that makes a table of any length useful: all groups at the smallest size first. The extra seeds come last.
`table` keeps the rows of the folder's table whose runs are not in the output folder.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scaleband.training import ReferenceAdapter, RunSpec, count, run_stack, table_row
from scaleband.training.running import finished
from scaleband.training.shapes import Shape

ARCHES = ("dense", "moe-e8-k2", "moe-e16-k2")
DATA = ("prose", "code")
EXTRA_SEEDS = (1, 2)
SEQ_LEN, LAYERS = 16, 2


@dataclass(frozen=True)
class Plan:
    """Grid of a part of the sweep.

    Attributes
    ----------
    batches
        For each token count: optimum batches grow with the tokens. Token counts are whole multiples of them.
    rates
        For each size (active parameters: the dense model's; mixtures have as many active) and token count.
    seeded
        (architecture, size, tokens) whose rates but the outermost, at the middle batch, get `EXTRA_SEEDS`.
    beyond
        (architecture, size, tokens, batch): one more batch for cells whose best run had been at the end of their grid.
    """

    batches: dict[int, tuple[int, ...]]
    rates: dict[tuple[int, int], tuple[float, ...]]
    seeded: tuple[tuple[str, int, int], ...]
    beyond: tuple[tuple[str, int, int, int], ...] = ()


def _around(middle: float, n: int, step: float = 2.0) -> tuple[float, ...]:
    return tuple(middle * step ** (k - n // 2) for k in range(n))


SHORT, MIDDLE, LONG = 3 * 2**15, 3 * 2**17, 3 * 2**19  # tokens
#: The small part: very small models on few tokens, an hour or so of one core. A first sweep, on a third and less of
#: these tokens, wanted batches of 16 to 64 tokens, the low end of its grid, in most cells: so sequences are short,
#: trainings longer, and batches step by 4 around the best that its batches and tokens led to expect (with one more,
#: of 32, after the first three stacks). The large part was laid around what the model of the small one foretells: best
#: batches of 260 to 330 tokens at the third token count, rates of 0.0124 to 0.0021 from the smallest to the largest.
PLANS = {
    "small": Plan(
        batches={SHORT: (16, 32, 64, 256), MIDDLE: (32, 128, 512)},
        rates={
            (size, tokens): _around(middle, 5)
            for size, middle in ((12_500, 6e-3), (35_400, 5e-3), (100_000, 4e-3))
            for tokens in (SHORT, MIDDLE)
        },
        seeded=(("dense", 35_400, SHORT), ("moe-e8-k2", 35_400, SHORT), ("dense", 12_500, MIDDLE)),
    ),
    "large": Plan(
        batches={SHORT: (16, 32, 64, 256), MIDDLE: (32, 128, 512), LONG: (128, 256, 768)},
        rates={
            (283_000, SHORT): _around(0.9e-3, 7, 1.7),
            (283_000, MIDDLE): _around(1.4e-3, 7, 1.7),
            (12_500, LONG): _around(12e-3, 7, 1.7),
            (35_400, LONG): _around(6.8e-3, 7, 1.7),
            (100_000, LONG): _around(3.8e-3, 7, 1.7),
            (283_000, LONG): _around(2.1e-3, 7, 1.7),
        },
        seeded=(("moe-e16-k2", 283_000, MIDDLE), ("dense", 100_000, LONG)),
        # the cheapest of the fifteen cells at the end of their grid, until less than a fifth were left there
        beyond=(
            ("dense", 12_500, LONG, 64), ("dense", 35_400, LONG, 64), ("moe-e16-k2", 12_500, LONG, 1536),
        ),
    ),
}


def shape_of(arch: str, active: int) -> Shape:
    """The dense shape of `active` parameters, or the mixture with as many active ones.

    Shallower than the trainer's own rule, with heads of 8 and a feed-forward width of 5/2 of the model's, nearly.
    """
    n_experts, top_k = (0, 0) if arch == "dense" else (int(part[1:]) for part in arch.split("-")[1:])
    c = 8 * max(1, round(math.sqrt(active / LAYERS / 11.5) / 8))
    multiple = 4 * (top_k + 1)
    d_ff = multiple * max(1, round((active / LAYERS - 4 * c * c) / (3 * c) / multiple))
    if not n_experts:
        return Shape(256, c, LAYERS, c // 8, d_ff)
    part = d_ff // (top_k + 1)
    return Shape(256, c, LAYERS, c // 8, part, n_experts, top_k, part)


def stacks(plan: Plan) -> Iterator[tuple[str, list[RunSpec]]]:
    """(name, runs) of every stack, in the order in which they are trained: both texts and all rates of a batch."""
    for tokens, batches in plan.batches.items():
        for size, rates in ((size, rates) for (size, of), rates in plan.rates.items() if of == tokens):
            for arch in ARCHES:
                for batch in batches:
                    yield _stack(arch, size, tokens, batch, rates, (0,))
        for arch, size, tokens_beyond, batch in plan.beyond:
            if tokens_beyond == tokens:
                yield _stack(arch, size, tokens, batch, plan.rates[size, tokens], (0,))
        for arch, size, seeded_tokens in plan.seeded:
            if seeded_tokens == tokens:
                yield _stack(arch, size, tokens, batches[1], plan.rates[size, tokens][1:-1], EXTRA_SEEDS)


def _stack(
    arch: str, size: int, tokens: int, batch: int, rates: Sequence[float], seeds: Sequence[int]
) -> tuple[str, list[RunSpec]]:
    name = f"{arch}_{size}_{tokens}_{batch}" + "".join(f"_s{seed}" for seed in seeds if seed)
    shape = shape_of(arch, size)
    made = count(shape)
    common = RunSpec(
        "common", made.n_params, tokens, 1.0, batch, n_active=made.n_active, seq_len=SEQ_LEN, source="scaleband",
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


def estimate(todo: list[tuple[str, list[RunSpec]]], adapter: ReferenceAdapter) -> float:
    """Seconds for all stacks here, one after the other, from a few steps of one stack of each shape."""
    total, speeds = 0.0, {}
    for _, specs in todo:
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


def run(
    todo: list[tuple[str, list[RunSpec]]], adapter: ReferenceAdapter, out: Path, hours: float, workers: int
) -> None:
    """Train the stacks, `workers` at a time in threads; none begins after `hours`."""
    begun = time.perf_counter()

    def one(job: tuple[int, tuple[str, list[RunSpec]]]) -> bool:
        k, (name, specs) = job
        if time.perf_counter() - begun > hours * 3600:
            return False
        results = run_stack(adapter, specs, out / name)
        shown = ", ".join(f"{r.loss:.4f}" if r.loss else r.reason or r.status for r in results)
        print(f"{k + 1}/{len(todo)} {name}, after {time.perf_counter() - begun:.0f} s: {shown}", flush=True)
        return True

    with ThreadPoolExecutor(workers) as pool:
        left = list(pool.map(one, enumerate(todo))).count(False)
    if left:
        print(f"time is up; {left} stacks are left", flush=True)


def table(todo: list[tuple[str, list[RunSpec]]], out: Path, text: Path, folder: Path) -> None:
    """Everything that finished, as a run table with its data card; and how many cells have their best run inside."""
    rows, cells = [], {}
    kept = {row["run_id"]: row for row in _read(folder / "runs.csv")}
    for name, specs in todo:
        for spec in specs:
            result = finished(spec, out / name / spec.run_id)
            if result is not None:
                # held-out sequences are the same for all runs of a text, which results of the first day do not say
                row = table_row(spec, dataclasses.replace(result, loss_se_shared=True))
                # what was printed to six digits is what is known
                row |= {key: float(f"{value:.6g}") for key, value in row.items() if isinstance(value, float)}
            elif spec.run_id in kept:
                row = kept[spec.run_id]
            else:
                continue
            rows.append(row)
            if spec.seed == 0:
                cell = (spec.arch, spec.data, spec.n_params, spec.n_tokens)
                loss = float(row["loss"]) if row["loss"] not in (None, "") else math.inf
                cells.setdefault(cell, []).append((loss, spec.lr_peak, spec.batch_tokens))
    if not rows:
        sys.exit(f"nothing is finished in {out}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_card(list(_read(folder / "runs.csv")), sum(len(specs) for _, specs in todo), len(cells), text, folder)
    inside = dict.fromkeys(("rate", "batch", "both"), 0)
    for found in cells.values():
        _, *best = min(found)
        within = [
            min(axis) < value < max(axis)
            for value, axis in zip(best, list(zip(*found, strict=True))[1:], strict=True)
        ]
        inside = {k: n + w for (k, n), w in zip(inside.items(), (*within, all(within)), strict=True)}
    print(f"{len(rows)} runs; the best run is inside the grid in {inside} of {len(cells)} cells")


def _read(path: Path) -> Iterator[dict[str, str]]:
    if path.exists():
        with path.open(newline="") as file:
            yield from csv.DictReader(file)


def write_card(rows: list[dict[str, str]], planned: int, n_cells: int, text: Path, folder: Path) -> None:
    """The data card beside a table: recipe, sources of the text, columns, what it holds for."""
    seeds = collections.Counter(
        (r["arch"], r["data"], r["n_params"], r["n_tokens"], r["lr_peak"], r["batch_tokens"]) for r in rows
    )
    n_seeded = sum(n > 1 for n in seeds.values())
    sizes, tokens = (
        ", ".join(f"{number:,}" for number in sorted({int(float(row[name])) for row in rows}))
        for name in ("n_active", "n_tokens")
    )
    seconds = collections.Counter()
    for row in rows:
        seconds[row["device"].partition(",")[0]] += float(row["wall_seconds"])
    card = {
        "name": folder.name,
        "what": f"{len(rows)} runs of the package's own trainer in {n_cells} cells: dense and two mixtures of "
        "experts, prose and source code, with seeds",
        "licence": "Apache-2.0",
        "text_licence": "of each package; the text is not included, the recipe assembles it",
        "runs": len(rows),
        "planned": planned,
        "cells": n_cells,
        "settings_with_several_seeds": n_seeded,
        "holds_for": f"Decoder-only transformers of {LAYERS} layers ({sizes} active non-embedding "
        f"parameters, byte vocabulary, sequences of {SEQ_LEN} tokens), trained on {tokens} tokens, with AdamW "
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
        "wall_hours": {device: round(some / 3600, 3) for device, some in sorted(seconds.items())},
        "mind_devices": "On the CPU one thread, float32, torch 2.15; on the GPU bfloat16, torch 2.11, six stacks at a "
        "time (the sum of their own times is given, six times what it took).",
        "text": json.loads((text / "sources.json").read_text()),
        "sha256": hashlib.sha256((folder / "runs.csv").read_bytes()).hexdigest(),
    }  # fmt: skip
    (folder / "sources.json").write_text(json.dumps(card, indent=1) + "\n")


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("plan", "estimate", "run", "table"))
    parser.add_argument("--part", choices=tuple(PLANS), nargs="+", default=list(PLANS))
    parser.add_argument("--text", type=Path, default=Path("out/text"))
    parser.add_argument("--out", type=Path, default=Path("out/sweep"))
    parser.add_argument("--folder", type=Path, default=Path("out/scaleband-tiny"), help="of the table")
    parser.add_argument("--hours", type=float, default=math.inf)
    parser.add_argument("--device", default="")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU, for each training")
    parser.add_argument("--workers", type=int, default=1, help="stacks at a time; small models leave a GPU idle")
    options = parser.parse_args()
    todo = [stack for part in options.part for stack in stacks(PLANS[part])]
    adapter = ReferenceAdapter(
        f"{options.text}/{{data}}", device=options.device, threads=options.threads, checkpoint_seconds=30.0,
        validation_sequences=1024,
    )  # fmt: skip
    if options.verb == "plan":
        flops = sum(6.0 * s.active * s.n_tokens for _, specs in todo for s in specs)
        print(f"{len(todo)} stacks, {sum(len(s) for _, s in todo)} runs, {flops:.3g} FLOP")
    elif options.verb == "estimate":
        print(f"{estimate(todo, adapter) / 3600:.2f} hours")
    elif options.verb == "run":
        run(todo, adapter, options.out, options.hours, options.workers)
    else:
        table(todo, options.out, options.text, options.folder)


if __name__ == "__main__":
    main()
