"""What `scaleband allocate --reach LOSS` adds: tokens, FLOP, steps and the critical batch for a loss."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from scaleband.cli.loss_laws import knows_batch, loss_path
from scaleband.cli.printing import say
from scaleband.cli.question import band_json
from scaleband.cli.words import chance
from scaleband.inference.loss_store import holds_basins
from scaleband.inference.released import model_path
from scaleband.inference.store import read_draws
from scaleband.labels import flops_label, quantity
from scaleband.laws import LawDraws
from scaleband.laws.loss.draws import LossDraws
from scaleband.predict.allocation import FIRST_TOKENS, MOST_TOKENS, tokens_to_reach
from scaleband.predict.reach import OVERHEAD, reach
from scaleband.predict.targets import target_cells
from scaleband.slips import LOSS_RANGE, NO_LOSS, NO_LOSS_REMEDY

_AT_MOST = 1 + 1e-6  # rounding of a number that says "at most"


def basins_of(asked: argparse.Namespace) -> LawDraws | None:
    """The basins beside the loss laws, or None for a fit of losses alone."""
    if asked.model is not None:
        return read_draws(model_path(asked.model))
    return read_draws(asked.fit) if holds_basins(loss_path(asked)) else None


def finite_band(values: Any, interval: float) -> dict[str, float] | None:
    """Band over the draws that are finite; None where there are none."""
    finite = np.asarray(values)[np.isfinite(values)]
    return band_json(finite, interval) if len(finite) else None


def reach_json(draws: LossDraws, group: str, n_params: float, asked: argparse.Namespace) -> dict[str, Any]:
    """Everything about reaching the loss, as plain values; with more than --tokens-max it is not reached.

    Bands are over the draws in which the loss is reached (`probability`). Nothing is known below `first_tokens`: as
    many mean "at most". Steps need basins, or a law that knows the batch and --batch-tokens; the critical batch needs
    basins. Beside basins both need a loss that is reached later. Else they are null.
    """
    source, arch, data = group.split("/")
    n_active = n_params / asked.sparsity
    cells = target_cells(n_params, n_active, source=source, arch=arch, data=data, n_active=n_active)
    if not LOSS_RANGE[0] <= asked.reach <= LOSS_RANGE[1]:
        say(f"warning: --reach: {asked.reach:g} {NO_LOSS}; {NO_LOSS_REMEDY}")
    law, batch, most = basins_of(asked), asked.batch_tokens, asked.tokens_max or MOST_TOKENS
    # Beside basins the laws hold at the best batch, and the basins say what another costs.
    own_batch = batch if law is None and knows_batch(draws) else None
    tokens = tokens_to_reach(
        draws, cells, asked.reach, most=most, unique_tokens=asked.unique_tokens, batch_tokens=own_batch,
        size_effects=asked.params is not None,
    )[:, 0]  # fmt: skip
    reached = np.isfinite(tokens)
    out: dict[str, Any] = {
        "loss": asked.reach,
        "n_params": n_params,
        "probability": float(reached.mean()),
        "n_tokens": finite_band(tokens, asked.interval),
        "flops": finite_band(6 * n_active * tokens, asked.interval),
        "first_tokens": FIRST_TOKENS,
        "batch_tokens": None,
        "steps": None,
        "critical_batch": None,
        "overhead": OVERHEAD,
    }
    if own_batch is not None:
        out["batch_tokens"], out["steps"] = own_batch, finite_band(tokens / own_batch, asked.interval)
    elif law is None and batch is not None:
        say("note: this fit knows losses alone, so --batch-tokens changes nothing: tokens are those at the best batch")
    if law is None or not reached.any():
        return out
    middle = float(np.median(tokens[reached]))
    if middle <= FIRST_TOKENS * _AT_MOST:
        return out
    horizons = (max(middle / 30, 1e5), min(middle * 30, most))
    follow = partial(
        reach, law, draws, asked.reach, n_params, source=source, arch=arch, data=data, n_active=n_active,
        tokens_range=horizons, unique_tokens=asked.unique_tokens, size_effects=asked.params is not None,
    )  # fmt: skip
    found = follow()
    critical = found.critical_batch()
    if batch is not None:
        own = follow(batch_tokens=batch)
        out["first_tokens"] = horizons[0]
        out["batch_tokens"], out["n_tokens"] = batch, finite_band(own.n_tokens[:, 0], asked.interval)
        out["flops"] = finite_band(6 * n_active * own.n_tokens[:, 0], asked.interval)
        out["steps"] = finite_band(own.steps()[:, 0], asked.interval)
        out["probability"] = float(np.isfinite(own.n_tokens[:, 0]).mean())
    else:
        best = np.where(np.isfinite(found.n_tokens), found.n_tokens, np.inf).argmin(1)
        steps = found.best / found.batch_tokens[best]
        out["steps"] = finite_band(steps, asked.interval)
    out["critical_batch"] = finite_band(critical, asked.interval)
    return out


def reach_rows(found: dict[str, Any], tokens_max: float | None) -> list[tuple[str, str]]:
    """The same for people."""
    most = "" if tokens_max is None else f" on at most {quantity(tokens_max)} tokens"
    if found["n_tokens"] is None:
        size = quantity(found["n_params"])
        return [("reach", f"a loss of {found['loss']:g} is not reached at {size} parameters{most}")]

    def band(name: str, show: Callable[[float], str] = quantity, first: float = 0.0) -> str:
        def told(value: float) -> str:
            return f"fewer than {show(first)}" if value <= first * _AT_MOST else show(value)

        v = found[name]
        if v["upper"] <= first * _AT_MOST:
            return told(v["upper"])
        return f"{told(v['median'])} ({told(v['lower'])} to {told(v['upper'])})"

    at = "" if found["batch_tokens"] is None else f" at {quantity(found['batch_tokens'])} tokens per step"
    first = found["first_tokens"]
    cost = band("flops", lambda v: flops_label(v, 3), first * found["flops"]["median"] / found["n_tokens"]["median"])
    if_so = "" if found["probability"] > 0.99 else ", if it is reached"
    rows = [("reach", f"loss {found['loss']:g} at {quantity(found['n_params'])} parameters: "
                      f"{band('n_tokens', first=first)} tokens, {cost} FLOP{at}{if_so}; "
                      f"P(it is reached{most}): {chance(found['probability'])}")]  # fmt: skip
    if found["steps"] is not None:
        rows.append(("steps", band("steps") + ("" if at else " at the best batch")))
    if found["critical_batch"] is not None:
        extra = f"{100 * found['overhead']:.0f} %"
        rows.append(("critical batch", f"{band('critical_batch')} tokens per step: beyond it more than {extra} extra "
                                       "tokens for the same loss"))  # fmt: skip
    return rows


def tell_repeats(draws: LossDraws) -> None:
    """Say where the worth of repeated tokens comes from."""
    if not all(p.law.name == "repetition" for p in draws.parts):
        say("note: this fit saw no repeated data: what a repeat is worth is a stated belief (published: it halves in "
            "about ten epochs), and is part of the band")  # fmt: skip
