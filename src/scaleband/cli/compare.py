"""`scaleband compare`: which of two recipes wins at a budget, where they cross, what one is worth in compute."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

from scaleband.cli.allocate import flops, sparsity
from scaleband.cli.arguments import add_fit, add_interval, add_json
from scaleband.cli.loss_laws import loss_model_json
from scaleband.cli.printing import print_json, print_rows, say
from scaleband.cli.question import (
    NOT_STATED,
    band_json,
    band_text,
    behind_rows,
    conventions_for,
    gate_of,
    mark,
)
from scaleband.cli.splits import open_laws, refuse_sparse_dense, split_json, split_words
from scaleband.cli.verb import UsageError, Verb
from scaleband.cli.words import chance, mass
from scaleband.labels import flops_label
from scaleband.predict.allocation import Limits, allocate
from scaleband.predict.comparison import compare, own_sparsity, shared_exponents

_AT_MOST = 1 + 1e-6  # rounding of a number at the end of what was searched


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    add_fit(parser)
    parser.add_argument("--a", required=True, metavar="GROUP", help="source/arch/data")
    parser.add_argument("--b", required=True, metavar="GROUP", help="source/arch/data")
    parser.add_argument("--flops", type=flops, required=True, metavar="C", help="the budget: 6 n_active n_tokens")
    parser.add_argument("--sparsity-a", type=sparsity, metavar="S", help="n_params / n_active of a; its cells' own")
    parser.add_argument("--sparsity-b", type=sparsity, metavar="S", help="n_params / n_active of b; its cells' own")
    add_interval(parser)
    add_json(parser)


def run(asked: argparse.Namespace) -> int:
    """Answer and print."""
    if asked.a == asked.b:
        raise UsageError("--a and --b are the same group; name two")
    for name, group, given in (("a", asked.a, asked.sparsity_a), ("b", asked.b, asked.sparsity_b)):
        refuse_sparse_dense(f"--sparsity-{name}", group, given, remedy=f"name a moe group in --{name}")
    draws = open_laws(asked)
    each = [own_sparsity(draws, g) if s is None else s
                for g, s in ((asked.a, asked.sparsity_a), (asked.b, asked.sparsity_b))]  # fmt: skip
    found = compare(draws, asked.a, asked.b, asked.flops, sparsity_a=each[0], sparsity_b=each[1])
    stated = conventions_for(draws, asked.a) | conventions_for(draws, asked.b)
    if any(stated.get(g, {}).get("loss_kind", NOT_STATED) == NOT_STATED for g in (asked.a, asked.b)):
        say("note: the runs do not state loss_kind; losses can be compared only if they are of the same text, in the "
            "same tokens")  # fmt: skip
    crosses = np.isfinite(found.crossover)
    # A multiplier beyond what was searched stays in the quantiles as the end of it: "more than", or "less than" that.
    ends = [v / asked.flops for v in found.searched]
    multiplier = np.clip(found.compute_multiplier, *ends)
    splits = [allocate(draws, g, asked.flops, Limits(sparsity=s)).chosen
              for g, s in zip((asked.a, asked.b), each, strict=True)]  # fmt: skip
    far = [split_json(draws, g, *split, s) for g, split, s in zip((asked.a, asked.b), splits, each, strict=True)]
    answer: dict[str, Any] = {
        "a": asked.a,
        "b": asked.b,
        "flops": asked.flops,
        "p_a_better": found.p_a_better,
        "loss_a": band_json(found.loss_a, asked.interval),
        "loss_b": band_json(found.loss_b, asked.interval),
        "difference_percent": band_json(100 * (found.loss_a / found.loss_b - 1), asked.interval),
        "compute_multiplier": {**band_json(multiplier, asked.interval), "searched": ends},
        "crossover": {
            "probability": float(crosses.mean()),
            "flops": band_json(found.crossover[crosses], asked.interval) if crosses.any() else None,
            "searched": list(found.searched),
        },
        "shared_exponents": shared_exponents(draws),
        "interval": asked.interval,
        "interval_kind": "eti",
        "extrapolation": dict(zip(("a", "b"), far, strict=True)),
        "conventions": stated,
        "gate": gate_of(draws),
        "model": loss_model_json(draws, asked),
    }
    if asked.json:
        print_json(answer)
    else:
        print_rows(f"{asked.a} against {asked.b} at {flops_label(asked.flops, 3)} FLOP", rows_of(answer))
    return mark(draws)


def rows_of(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """The answer for people."""

    def band(name: str) -> str:
        return band_text(answer[name], "{:.4g}".format)

    def times(value: float) -> str:
        first, last = answer["compute_multiplier"]["searched"]
        if first * _AT_MOST < value < last / _AT_MOST:
            return f"{value:.4g}"
        return f"more than {last:.2g}" if value > 1 else f"less than {first:.2g}"

    m = [times(answer["compute_multiplier"][end]) for end in ("median", "lower", "upper")]
    c, far = answer["crossover"], answer["extrapolation"]
    low, high = c["searched"]
    where = f"between {flops_label(low)} and {flops_label(high)} FLOP"
    if c["flops"] is None:
        crossing = f"none {where}"
    else:
        v = c["flops"]
        crossing = f"{flops_label(v['median'])} FLOP ({flops_label(v['lower'])} to {flops_label(v['upper'])})"
        crossing += "; " if c["probability"] > 0.99 else ", if they cross; "
        crossing += f"P(they cross {where}): {chance(c['probability'])}"
        beyond = math.log10(v["median"] / min(far[x]["largest_fitted_flops"] for x in ("a", "b")))
        crossing += f"; {beyond:.2g} decades beyond the largest budget that both were run at" if beyond > 0 else ""
    shared = answer["shared_exponents"]
    joint = f"the same for all groups in {100 * shared:.3g} % of the draws: if one recipe gains more from scale than " \
            "the other, all this is too sure beyond the runs; a fit with --laws own-exponents lets them differ"
    return [
        ("P(a is better)", chance(answer["p_a_better"])),
        ("loss of a", f"{band('loss_a')} ({mass(answer['interval'])} intervals)"),
        ("loss of b", band("loss_b")),
        ("a over b", f"{band('difference_percent')} % of b's loss"),
        ("multiplier", f"b needs {m[0]} ({m[1]} to {m[2]}) times a's compute" if m[1] != m[2]
                       else f"b needs {m[0]} times a's compute"),
        ("crossover", crossing),
        *([("exponents", joint)] if shared else []),
        ("extrapolation", f"a: {split_words(far['a'])}"),
        ("", f"b: {split_words(far['b'])}"),
        *behind_rows(answer["conventions"], answer["gate"]),
    ]


VERB = Verb("compare", "Compare two recipes at a compute budget.", add, run)
