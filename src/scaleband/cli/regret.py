"""`scaleband regret`: what a setting of your own gives up."""

from __future__ import annotations

import argparse
from typing import Any

from scaleband.cli.arguments import add_fit, add_interval, add_json, add_target, batch, learning_rate
from scaleband.cli.doubts import doubt_batch, doubt_distance, doubt_rate
from scaleband.cli.printing import print_json, print_rows
from scaleband.cli.question import Question, ask, band_json, common_json, common_rows, mark
from scaleband.cli.recommend import setting_json
from scaleband.cli.unrun import tell_unrun
from scaleband.cli.verb import UsageError, Verb
from scaleband.cli.words import chance, mass, rate, tokens
from scaleband.labels import percent
from scaleband.predict import PLATEAU, Setting, recommend, regret
from scaleband.predict.sensitivity import lr_sensitivity


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    add_fit(parser)
    add_target(parser)
    parser.add_argument("--lr", type=learning_rate, required=True, metavar="X", help="peak learning rate")
    parser.add_argument("--batch-tokens", type=batch, required=True, metavar="B", help="tokens per step")
    parser.add_argument("--lr-range", type=lr_range, metavar="LOW,HIGH",
                        help="also: the average regret of rates drawn log-uniformly from this range")
    add_interval(parser)
    add_json(parser, regrets=True)


def lr_range(text: str) -> tuple[float, float]:
    """Two rates, the lower one first."""
    words = text.split(",")
    if len(words) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no range; write two rates with a comma, such as 1e-4,1e-2")
    low, high = (learning_rate(word) for word in words)
    if not low < high:
        raise argparse.ArgumentTypeError(f"{text!r} does not go up; write the lower rate first")
    return low, high


def run(asked: argparse.Namespace) -> int:
    """Answer and print."""
    if asked.batch_tokens > asked.tokens:
        raise UsageError("--batch-tokens is larger than --tokens; it is tokens per optimizer step")
    q = ask(asked)
    doubt_rate("--lr", asked.lr)
    doubt_rate("--lr-range", asked.lr_range)
    setting = recommend(q.basins)
    answer = answer_of(q, setting, asked)
    best = float(setting.batch_tokens[0])
    doubt_batch("--batch-tokens", asked.batch_tokens, best)
    doubt_distance(asked.batch_tokens, best, "the regret")
    tell_unrun(q, setting)
    if asked.json:
        print_json(answer)
    else:
        print_rows(q.title(), [*rows_of(answer), *common_rows(q, asked)])
    return mark(q.draws)


def answer_of(q: Question, setting: Setting, asked: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed, as plain values."""
    cost = regret(q.basins, asked.lr, asked.batch_tokens)
    cost = cost.reshape(len(cost), -1)[:, 0]
    answer = {
        "setting": {"lr_peak": asked.lr, "batch_tokens": asked.batch_tokens},
        "regret": band_json(cost, asked.interval),
        "expected_regret": cost.mean(),
        "p_within_plateau": (cost <= PLATEAU).mean(),
        "threshold": PLATEAU,
        "interval": asked.interval,
        "interval_kind": "eti",
        "recommended": setting_json(setting),
        **common_json(q, asked),
    }
    if asked.lr_range is not None:
        low, high = asked.lr_range
        average = lr_sensitivity(q.basins, low, high, asked.batch_tokens)[:, 0]
        answer["lr_sensitivity"] = {"lr_range": list(asked.lr_range), "regret": band_json(average, asked.interval)}
    return answer


def rows_of(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """The answer for people."""
    own, band, best = answer["setting"], answer["regret"], answer["recommended"]
    rows = [
        ("setting", f"lr_peak {rate(own['lr_peak'])}, batch_tokens {tokens(own['batch_tokens'])}"),
        ("regret", f"{percent(band['median'])} of the loss ({percent(band['lower'])} to {percent(band['upper'])}, "
                   f"{mass(answer['interval'])} interval); {percent(answer['expected_regret'])} on average; "
                   f"P(regret <= {PLATEAU} %): {chance(answer['p_within_plateau'])}"),
        ("recommended", f"lr_peak {rate(best['lr_peak'])}, batch_tokens {tokens(best['batch_tokens'])}: "
                        f"{percent(best['expected_regret'])} on average; "
                        f"P(regret <= {PLATEAU} %): {chance(best['p_within_plateau'])}"),
    ]  # fmt: skip
    if "lr_sensitivity" in answer:
        (low, high), average = answer["lr_sensitivity"]["lr_range"], answer["lr_sensitivity"]["regret"]
        rows.append(("rate sensitivity", f"a rate drawn from {rate(low)} to {rate(high)} gives up "
                     f"{percent(average['median'])} on average ({percent(average['lower'])} to "
                     f"{percent(average['upper'])})"))  # fmt: skip
    return rows


VERB = Verb("regret", "Say how much loss a setting gives up, beside the recommended one.", add, run)
