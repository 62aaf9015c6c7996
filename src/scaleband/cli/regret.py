"""`scaleband regret`: what a setting of your own gives up."""

from __future__ import annotations

import argparse
from typing import Any

from scaleband.cli.arguments import add_fit, add_interval, add_json, add_target, batch, learning_rate
from scaleband.cli.printing import print_json, print_rows
from scaleband.cli.question import Question, ask, band_json, common_json, common_rows, mark
from scaleband.cli.recommend import setting_json
from scaleband.cli.verb import UsageError, Verb
from scaleband.cli.words import chance, mass, percent, rate, tokens
from scaleband.predict import PLATEAU, recommend, regret


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    add_fit(parser)
    add_target(parser)
    parser.add_argument("--lr", type=learning_rate, required=True, metavar="X", help="peak learning rate")
    parser.add_argument("--batch-tokens", type=batch, required=True, metavar="B", help="tokens per step")
    add_interval(parser)
    add_json(parser)


def run(asked: argparse.Namespace) -> int:
    """Answer and print."""
    if asked.batch_tokens > asked.tokens:
        raise UsageError("--batch-tokens is larger than --tokens; it is tokens per optimizer step")
    q = ask(asked)
    answer = answer_of(q, asked)
    if asked.json:
        print_json(answer)
    else:
        print_rows(q.title(), [*rows_of(answer), *common_rows(q, asked)])
    return mark(q.draws)


def answer_of(q: Question, asked: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed, as plain values."""
    cost = regret(q.basins, asked.lr, asked.batch_tokens)
    cost = cost.reshape(len(cost), -1)[:, 0]
    return {
        "setting": {"lr_peak": asked.lr, "batch_tokens": asked.batch_tokens},
        "regret": band_json(cost, asked.interval),
        "expected_regret": cost.mean(),
        "p_within_plateau": (cost <= PLATEAU).mean(),
        "threshold": PLATEAU,
        "interval": asked.interval,
        "interval_kind": "eti",
        "recommended": setting_json(recommend(q.basins)),
        **common_json(q, asked),
    }


def rows_of(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """The answer for people."""
    own, band, best = answer["setting"], answer["regret"], answer["recommended"]
    return [
        ("setting", f"lr_peak {rate(own['lr_peak'])}, batch_tokens {tokens(own['batch_tokens'])}"),
        ("regret", f"{percent(band['median'])} of the loss ({percent(band['lower'])} to {percent(band['upper'])}, "
                   f"{mass(answer['interval'])} interval); {percent(answer['expected_regret'])} on average; "
                   f"P(regret <= {PLATEAU} %): {chance(answer['p_within_plateau'])}"),
        ("recommended", f"lr_peak {rate(best['lr_peak'])}, batch_tokens {tokens(best['batch_tokens'])}: "
                        f"{percent(best['expected_regret'])} on average; "
                        f"P(regret <= {PLATEAU} %): {chance(best['p_within_plateau'])}"),
    ]  # fmt: skip


VERB = Verb("regret", "Say how much loss a setting gives up, beside the recommended one.", add, run)
