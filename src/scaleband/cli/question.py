"""From flags to a question that `predict` can answer, and what is said beside every answer."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scaleband.cli.printing import say
from scaleband.cli.verb import Exit, UsageError
from scaleband.cli.words import REGRET_UNIT
from scaleband.inference.released import card_line, model_path
from scaleband.inference.store import read_draws
from scaleband.labels import arch_family, quantity
from scaleband.laws import Cells, LawDraws
from scaleband.laws.draws import PARAMS_TOLERANCE
from scaleband.laws.loss.draws import LossDraws
from scaleband.nearest import nearest
from scaleband.predict import Basins, Extrapolation, basins, extrapolation, target_cells
from scaleband.predict.targets import usual_sparsity

NOT_STATED = "not stated"
PARTS = ("source", "arch", "data")


@dataclass(frozen=True)
class Question:
    """One target, and the draws that answer for it."""

    draws: LawDraws
    cells: Cells
    basins: Basins
    where: Extrapolation
    card: str

    @property
    def group(self) -> str:
        """source/arch/data that is answered for."""
        return f"{self.cells.source[0]}/{self.cells.arch[0]}/{self.cells.data[0]}"

    def title(self) -> str:
        """The question in one line."""
        active = float(self.cells.n_active[0])
        used = "" if active == self.cells.n_params[0] else f" ({quantity(active)} active)"
        size, horizon = quantity(float(self.cells.n_params[0])), quantity(float(self.cells.n_tokens[0]))
        return f"{size} parameters{used}, {horizon} tokens, group {self.group}"


def open_draws(asked: argparse.Namespace) -> tuple[LawDraws, str]:
    """The draws behind --fit or --model, and the card's line."""
    if asked.model is not None:
        return read_draws(model_path(asked.model)), card_line(asked.model)
    return read_draws(asked.fit), ""


def ask(asked: argparse.Namespace) -> Question:
    """Load the fit, place the target, tell on stderr what of its group is not known."""
    arch = asked.arch or "dense"
    family = arch_family(arch)
    if asked.active_params is not None:
        if asked.active_params > asked.params * (1 + 1e-9):
            raise UsageError("--active-params is larger than --params; --params is the total, swap them?")
        if family == "dense" and asked.active_params < asked.params * (1 - 1e-9):
            raise UsageError("--active-params is smaller than --params, and dense uses all; add --arch moe")
    draws, card = open_draws(asked)
    cells = target_cells(
        asked.params,
        asked.tokens,
        source=asked.source,
        arch=asked.arch,
        data=asked.data,
        n_active=asked.active_params,
    )
    if asked.active_params is None:
        cells = with_usual_active([draws.cells], cells, "--active-params")
    where = extrapolation(draws, cells)
    tell_unknown(draws, {p: getattr(asked, p) for p in PARTS}, where.unseen)
    if "arch" not in where.unseen and arch not in draws.cells.arch and arch != family:
        known = sorted({a for a in draws.cells.arch if arch_family(a) == family})
        say(f"note: {arch} is answered as a new variant of {family}; the fit knows {', '.join(known[:8])}"
            f"{meant(arch, known)}")  # fmt: skip
    return Question(draws, cells, basins(draws, cells), where, card)


def with_usual_active(fitted: Sequence[Cells], cells: Cells, name: str, missing: Any = True) -> Cells:
    """Targets whose n_active is left out, with that of the fitted cells that are built like them; says so on stderr.

    Parameters
    ----------
    fitted
        Where to look, the first that knows a cell like it first.
    cells
        n_active is n_params where it was left out.
    name
        Of the flag or column that would have said it.
    missing (target,)
        Where it was left out.
    """
    active = np.array(cells.n_active, float)
    said: dict[str, None] = {}  # each sentence once
    for c in np.flatnonzero(np.broadcast_to(missing, active.shape)).tolist():
        if arch_family(cells.arch[c]) == "dense":
            continue
        found = next((f for known in fitted if (f := usual_sparsity(known, cells, c))), None)
        if found is not None and found[0] > 1 + PARAMS_TOLERANCE:
            active[c] = cells.n_params[c] / found[0]
            text = f"n_params / n_active is taken to be {found[0]:.4g}, as in the fitted cells of {found[1]}"
        else:
            text = "taken as if every parameter were used for every token"
        said[f"{cells.arch[c]} without {name}: {text}"] = None
    for text in list(said)[:8]:
        say(f"note: {text}")
    return replace(cells, n_active=active)


def tell_unknown(draws: LawDraws, given: Mapping[str, str | None], unseen: Sequence[str]) -> None:
    """Say which names are new to the fit, or were left out, and which it knows."""
    for part in unseen:
        known = sorted(set(getattr(draws.cells, part)))
        name = given[part]
        listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        if name is None and part != "arch":
            say(f"note: --{part} left out: the band is that of a {part} never seen; the fit knows {listed}")
        else:
            new = name or "dense"
            hint = meant(new, names_like(part, known))
            say(f"note: {part} {new!r} is new to the fit, which knows {listed}{hint}")


def names_like(part: str, known: Sequence[str]) -> list[str]:
    """Names that a name may have been meant to be: of architectures their families too."""
    return list(dict.fromkeys([*known, *(arch_family(k) for k in known)])) if part == "arch" else list(known)


def meant(name: str, known: Sequence[str]) -> str:
    """The end of a sentence about a name that is not known: the nearest that is, or nothing."""
    small = {k.lower(): k for k in reversed(known)}
    near = nearest(name.lower(), small)
    return f"; did you mean {small[near]}?" if near else ""


def gate_of(draws: LawDraws | LossDraws) -> dict[str, Any]:
    """The gate's mark as it travels with the fit."""
    gate: Any = draws.meta["gate"]
    return {"passed": gate["passed"], "messages": list(gate["messages"])}


def mark(draws: LawDraws | LossDraws, whose: str = "the diagnostic gate") -> int:
    """Repeat a failed gate's mark on stderr; the exit code that goes with it."""
    gate = gate_of(draws)
    if gate["passed"]:
        return Exit.DONE
    for message in gate["messages"] or ["no reason was recorded"]:
        say(f"warning: {whose} failed: {message}")
    return Exit.GATE_FAILED


def conventions_for(draws: LawDraws | LossDraws, group: str) -> dict[str, dict[str, str]]:
    """Conventions of the rows that answer: the group's own, else its source's groups, else all."""
    everything: Any = draws.meta["conventions"]
    if group in everything:
        return {group: dict(everything[group])}
    same = {k: dict(v) for k, v in everything.items() if k.split("/")[0] == group.split("/")[0]}
    return same or {k: dict(v) for k, v in everything.items()}


def convention_lines(conventions: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Conventions in words, groups that agree in one line."""
    lines: dict[str, list[str]] = {}
    for group, stated in conventions.items():
        said = [f"{name}: {value}" for name, value in stated.items() if value != NOT_STATED]
        silent = [name for name, value in stated.items() if value == NOT_STATED]
        text = "; ".join(said + ([f"not stated: {', '.join(silent)}"] if silent else []))
        lines.setdefault(text, []).append(group)
    return [f"{', '.join(groups)}: {text}" for text, groups in lines.items()]


def model_of(draws: LawDraws, card: str, asked: argparse.Namespace) -> dict[str, object]:
    """Which model answered."""
    keys = ("n_runs", "n_cells", "form", "prior", "scaleband")
    return {
        "name": asked.model or str(asked.fit),
        **{k: draws.meta.get(k) for k in keys},
        "forms": draws.meta.get("forms"),
        "n_draws": draws.n_samples,
        "card": card or None,
    }


def form_words(facts: Mapping[str, Any]) -> str:
    """The form of a fit; of a stack, whose facts have more than one weight in `forms`, the forms and their weights."""
    used = [f"{form} {weight:.2f}" for form, weight in (facts.get("forms") or {}).items() if weight]
    return f"{facts['form']} ({', '.join(used)})" if len(used) > 1 else str(facts["form"])


def model_line(model: Mapping[str, object]) -> str:
    """The model in one line."""
    text = f"{model['name']}: {model['n_runs']} runs in {model['n_cells']} cells, form {form_words(model)}"
    text += f", prior: {model['prior']}"
    return f"{text}. {model['card']}" if model["card"] else text


def extrapolation_json(where: Extrapolation) -> dict[str, Any]:
    """How far a target is from the fitted cells, as plain values."""
    return {
        "decades_n_params": where.decades_n_params, "decades_n_tokens": where.decades_n_tokens,
        "decades_sparsity": where.decades_sparsity, "decades_apart": where.decades_apart,
        "verdict": where.verdict, "against": where.against, "unseen": list(where.unseen),
        "sentence": where.sentence(),
    }  # fmt: skip


def common_json(q: Question, asked: argparse.Namespace) -> dict[str, object]:
    """What every answer about one target carries."""
    return {
        "group": q.group,
        "regret_unit": REGRET_UNIT,
        "target": {
            "n_params": q.cells.n_params[0], "n_active": q.cells.n_active[0], "n_tokens": q.cells.n_tokens[0],
        },
        "extrapolation": extrapolation_json(q.where),
        "conventions": conventions_for(q.draws, q.group),
        "gate": gate_of(q.draws),
        "model": model_of(q.draws, q.card, asked),
    }  # fmt: skip


def common_rows(q: Question, asked: argparse.Namespace) -> list[tuple[str, str]]:
    """The same for people."""
    return [
        ("extrapolation", q.where.sentence()),
        *behind_rows(conventions_for(q.draws, q.group), gate_of(q.draws)),
        ("model", model_line(model_of(q.draws, q.card, asked))),
    ]


def behind_rows(conventions: Mapping[str, Mapping[str, str]], gate: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is behind any answer, for people: conventions of the runs, and the gate's mark."""
    lines = convention_lines(conventions)
    return [
        *(("conventions" if k == 0 else "", line) for k, line in enumerate(lines)),
        ("gate", "passed" if gate["passed"] else "FAILED: " + "; ".join(gate["messages"])),
    ]


def band_text(band: Mapping[str, float], show: Callable[[float], str]) -> str:
    """median (lower to upper)."""
    return f"{show(band['median'])} ({show(band['lower'])} to {show(band['upper'])})"


def band_json(draws: Any, mass: float) -> dict[str, float]:
    """One quantity's draws (sample,) as median and equal-tailed bounds."""
    from scaleband.predict import interval

    band = interval(np.asarray(draws, float), mass)
    return {"median": float(band.median), "lower": float(band.lower), "upper": float(band.upper)}
