"""`scaleband allocate`: how to split a compute budget between size and tokens, and what loss it buys."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaleband.cli.arguments import (
    add_fit,
    add_interval,
    add_json,
    batch,
    between,
    group_part,
    n_params,
    n_tokens,
    path,
)
from scaleband.cli.doubts import doubt_batch
from scaleband.cli.loss_laws import loss_model_json
from scaleband.cli.places import check_output, write_whole
from scaleband.cli.printing import print_json, print_rows, say
from scaleband.cli.question import (
    PARTS,
    band_json,
    band_text,
    behind_rows,
    conventions_for,
    gate_of,
    mark,
    meant,
)
from scaleband.cli.reaching import reach_json, reach_rows, tell_repeats
from scaleband.cli.splits import open_laws, refuse_sparse_dense, split_json, split_words
from scaleband.cli.verb import UsageError, Verb
from scaleband.cli.words import mass
from scaleband.labels import arch_family, flops_label, quantity
from scaleband.laws.loss.draws import LossDraws
from scaleband.predict.allocation import Allocation, Limits, allocate, share_of_form
from scaleband.predict.comparison import own_sparsity
from scaleband.predict.targets import UNSEEN

flops = between(1e12, 1e32, "FLOP", "write 1e21")
sparsity = between(1, 1e4, "times", "n_params / n_active, 1 for dense")


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    add_fit(parser)
    parser.add_argument("--flops", type=flops, required=True, metavar="C", help="the budget: 6 n_active n_tokens")
    add_group(parser)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--params", type=n_params, metavar="N", help="the size is given (for MoE the total)")
    parser.add_argument("--tokens-max", type=n_tokens, metavar="D", help="at most this many training tokens")
    parser.add_argument("--unique-tokens", type=n_tokens, metavar="U",
                        help="distinct tokens there are; more are repeats, worth less and less")  # fmt: skip
    parser.add_argument("--inference-tokens", type=n_tokens, metavar="T",
                        help="tokens of inference paid from the budget, 2 FLOP per active parameter")  # fmt: skip
    parser.add_argument("--sparsity", type=sparsity, metavar="S",
                        help="n_params / n_active of a MoE; that of the group's fitted cells, else 1")  # fmt: skip
    parser.add_argument("--reach", type=loss_value, metavar="LOSS",
                        help="also: tokens, FLOP and steps to reach this loss at the recommended size, and the "
                             "critical batch there")  # fmt: skip
    parser.add_argument("--batch-tokens", type=batch, metavar="B", help="with --reach: the batch; the best one")
    parser.add_argument("--draws-out", type=path, metavar="DRAWS.csv", help="write the joint draws too")
    add_interval(parser)
    add_json(parser)


def add_group(parser: argparse.ArgumentParser) -> None:
    """Which group's recipe."""
    parser.add_argument("--source", type=group_part, metavar="S", help="whose recipe; needed where several are fitted")
    parser.add_argument("--arch", type=group_part, metavar="A", help="architecture; dense if it was fitted")
    parser.add_argument("--data", type=group_part, metavar="G", help="data distribution")


def group_asked(draws: LossDraws, asked: argparse.Namespace) -> str:
    """The fitted group that the flags single out; flags that single out none mean a group never seen.

    Of a group never seen, a source or data that was left out is the fit's own if that has but one.
    """
    wanted = {part: getattr(asked, part) for part in PARTS}
    groups = [g.split("/") for g in draws.groups()]
    fits = [g for g in groups if all(v in (None, own) for v, own in zip(wanted.values(), g, strict=True))]
    if len(fits) > 1 and asked.arch is None:
        fits = [g for g in fits if g[1] == "dense"] or fits
    if len(fits) == 1:
        return "/".join(fits[0])
    known = {part: sorted({g[k] for g in groups}) for k, part in enumerate(PARTS)}
    hint = next((h for part, v in wanted.items() if v and v not in known[part] and (h := meant(v, known[part]))), "")
    left_out = {"arch": "dense"} | {p: v[0] if len(v) == 1 else UNSEEN for p, v in known.items() if p != "arch"}
    new = "/".join(wanted[part] or left_out[part] for part in PARTS)
    say(f"note: answered for {new}, a group never seen: its loss level is hardly known; the fit knows "
        f"{', '.join(draws.groups()[:8])}{hint}")  # fmt: skip
    return new


def loss_value(text: str) -> float:
    """A loss, a plain positive number in the unit of the fit."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1e-3 < value < 1e3:
        raise argparse.ArgumentTypeError(f"{text!r} is not a loss; write a positive number such as 2.5")
    return value


def run(asked: argparse.Namespace) -> int:
    """Answer and print."""
    if asked.batch_tokens is not None and asked.reach is None:
        raise UsageError("--batch-tokens is about --reach LOSS; give both, or leave it out")
    if asked.draws_out is not None:
        check_output(asked.draws_out, "--draws-out", inputs=[asked.fit] if asked.fit else [])
    if asked.params is not None and asked.inference_tokens is not None:
        raise UsageError("--params fixes the size, so --inference-tokens has nothing to trade; leave one out")
    doubt_batch("--batch-tokens", asked.batch_tokens)
    draws = open_laws(asked)
    group = group_asked(draws, asked)
    refuse_sparse_dense("--sparsity", group, asked.sparsity, remedy="add --arch moe")
    if asked.sparsity is None:
        asked.sparsity = own_sparsity(draws, group)
        if asked.sparsity == 1 and arch_family(group.split("/")[1]) != "dense":
            say(f"note: {group.split('/')[1]} without --sparsity: as if every parameter were used for every token")
    limits = Limits(asked.params, asked.tokens_max, asked.unique_tokens, asked.inference_tokens or 0.0, asked.sparsity)
    found = allocate(draws, group, asked.flops, limits)
    if asked.unique_tokens is not None:
        tell_repeats(draws)
    answer = answer_of(draws, group, found, asked)
    if asked.reach is not None:
        answer["reach"] = reach_json(draws, group, found.chosen[0], asked)
    if asked.draws_out is not None:
        write_draws(found, asked)
    if asked.json:
        print_json(answer)
    else:
        print_rows(f"{flops_label(asked.flops, 3)} FLOP, group {group}", rows_of(answer))
    return mark(draws)


def write_draws(found: Allocation, asked: argparse.Namespace) -> None:
    """The joint draws as CSV."""
    import pandas as pd

    table = pd.DataFrame(
        {"n_params": found.n_params, "n_tokens": found.n_tokens, "loss": found.loss, "law": found.law_of_sample}
    )
    write_whole(asked.draws_out, "--draws-out", lambda p: table.to_csv(p, index=False))


def answer_of(draws: LossDraws, group: str, found: Allocation, asked: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed, as plain values."""
    n, d = found.chosen
    return {
        "flops": asked.flops,
        "n_params": band_json(found.n_params, asked.interval),
        "n_tokens": band_json(found.n_tokens, asked.interval),
        "tokens_per_param": band_json(found.n_tokens / found.n_params, asked.interval),
        "loss": band_json(found.loss, asked.interval),
        "recommended": {"n_params": n, "n_tokens": d, "loss": band_json(found.loss_at_chosen, asked.interval)},
        "share_of_form": {
            "n_params": share_of_form(np.log(found.n_params), found.law_of_sample),
            "loss": share_of_form(np.log(found.loss), found.law_of_sample),
        },
        "interval": asked.interval,
        "interval_kind": "eti",
        "group": group,
        "constraints": {
            "n_params": asked.params, "tokens_max": asked.tokens_max, "unique_tokens": asked.unique_tokens,
            "inference_tokens": asked.inference_tokens, "sparsity": asked.sparsity,
        },
        "extrapolation": split_json(draws, group, n, d, asked.sparsity),
        "conventions": conventions_for(draws, group),
        "gate": gate_of(draws),
        "model": loss_model_json(draws, asked),
    }  # fmt: skip


def rows_of(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The answer for people."""
    share, four = mass(answer["interval"]), "{:.4g}".format
    r, form = answer["recommended"], answer["share_of_form"]
    weights = {k: v for k, v in sorted(answer["model"]["weights"].items(), key=lambda kv: -kv[1]) if v > 0}
    parts = f"the law's form makes {100 * form['loss']:.0f} % of the loss band's variance"
    best = [("tokens per param", f"{answer['tokens_per_param']['median']:.3g}, as the size is given")]
    if answer["constraints"]["n_params"] is None:
        parts += f", {100 * form['n_params']:.0f} % of the size's"
        best = [
            ("best n_params", f"{band_text(answer['n_params'], quantity)} ({share} intervals)"),
            ("best n_tokens", band_text(answer["n_tokens"], quantity)),
            ("tokens per param", band_text(answer["tokens_per_param"], "{:.3g}".format)),
        ]
    parts = f"{parts}: " if len(weights) > 1 else "one law alone, so its band says nothing of other forms: "
    rows = [
        ("split", f"n_params {quantity(r['n_params'])}, n_tokens {quantity(r['n_tokens'])}: "
                  f"loss {band_text(r['loss'], four)}"),
        *best,
        ("loss", f"{band_text(answer['loss'], four)} ({share} interval)"),
        ("form", parts + ", ".join(f"{k} {v:.2f}" for k, v in weights.items())),
        ("extrapolation", split_words(answer["extrapolation"])),
    ]  # fmt: skip
    if "reach" in answer:
        rows += reach_rows(answer["reach"], answer["constraints"]["tokens_max"])
    return rows + behind_rows(answer["conventions"], answer["gate"])


VERB = Verb("allocate", "Split a compute budget between parameters and tokens.", add, run)
