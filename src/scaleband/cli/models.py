"""`scaleband models`: the released fits."""

from __future__ import annotations

import argparse

from scaleband.cli.arguments import add_json
from scaleband.cli.loss_laws import loss_path
from scaleband.cli.printing import print_json, print_table, say
from scaleband.cli.question import gate_of, mark
from scaleband.cli.verb import Exit, Verb
from scaleband.inference.loss_store import read_loss
from scaleband.inference.released import card_line, model_card, model_names, model_path
from scaleband.inference.store import read_draws


def add(parser: argparse.ArgumentParser) -> None:
    """Flags."""
    parts = parser.add_subparsers(dest="part", metavar="list|show", required=True)
    add_json(parts.add_parser("list", help="the released models", allow_abbrev=False))
    show = parts.add_parser("show", help="one model's card", allow_abbrev=False)
    show.add_argument("name", metavar="NAME")
    add_json(show)


def has_loss_laws(name: str) -> bool:
    """Whether a released model can split a budget: `allocate`, `compare`."""
    return read_loss(loss_path(argparse.Namespace(model=name))) is not None


def facts_of(name: str) -> dict[str, object]:
    """What a released model says of itself."""
    draws = read_draws(model_path(name))
    keys = ("n_runs", "n_cells", "form", "forms", "prior", "scaleband", "conventions", "ranges")
    facts = {k: draws.meta.get(k) for k in keys}
    return {
        "name": name,
        "card": card_line(name),
        "n_draws": draws.n_samples,
        "gate": gate_of(draws),
        "loss_laws": has_loss_laws(name),
        **facts,
    }


def run(asked: argparse.Namespace) -> int:
    """List or show."""
    if asked.part == "show":
        text = model_card(asked.name)
        if asked.json:
            print_json(facts_of(asked.name) | {"text": text})
        else:
            print(text, end="" if text.endswith("\n") else "\n")
        return mark(read_draws(model_path(asked.name)))
    models = [facts_of(name) for name in model_names()]
    if asked.json:
        print_json({"models": models})
    elif models:
        print_table(
            ["name", "runs", "cells", "loss laws", "about"],
            [[str(m["name"]), str(m["n_runs"]), str(m["n_cells"]), "yes" if m["loss_laws"] else "no", str(m["card"])]
             for m in models],
        )
    else:
        say("no released model is installed; fit your own runs: scaleband fit RUNS --out FIT.nc")
    return Exit.DONE


VERB = Verb("models", "List the released models, or show one's card.", add, run)
