"""Learning-rate schedules: warm-up, then cosine to a final rate, or stable and a linear decay (WSD)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from scaleband.errors import UserError
from scaleband.training.protocol import RunSpec

COSINE, WSD = "warmup+cosine", "wsd"
#: Share of the steps that WSD spends decaying (Hägele et al. 2024, arXiv:2405.18392: 10-20 % suffice).
WSD_DECAY = 0.2


@dataclass(frozen=True)
class Schedule:
    """A rate for every step. `warmup` counts steps; rates are absolute; `kind` is COSINE or WSD."""

    kind: str
    lr_peak: float
    lr_final: float
    warmup: int
    steps: int


def rate(schedule: Schedule, step: int) -> float:
    """The learning rate of step 0, 1, ..., steps - 1.

    Warm-up is linear and reaches the peak at its last step; the last step has the final rate or nearly so.
    """
    s = schedule
    if step < s.warmup:
        return s.lr_peak * (step + 1) / s.warmup
    if s.kind == COSINE:
        share = (step - s.warmup + 1) / max(1, s.steps - s.warmup)
        return s.lr_final + 0.5 * (s.lr_peak - s.lr_final) * (1 + math.cos(math.pi * min(1.0, share)))
    decay = max(1, round(WSD_DECAY * s.steps))
    share = max(0.0, (step + 1 - (s.steps - decay)) / decay)
    return s.lr_peak + (s.lr_final - s.lr_peak) * min(1.0, share)


def schedule_for(spec: RunSpec) -> Schedule:
    """The schedule that a specification's conventions mean.

    `schedule` is `warmup+cosine` (the default) or `wsd`; `lr_final` a rate ("1e-5", the default as in Step Law)
    or a share of the peak ("10%"), never above the peak; `warmup` steps ("100") or a share of them ("5%", the
    default).

    Raises
    ------
    UserError
        Something else stands there.
    """
    problems = []
    kind = spec.schedule or COSINE
    if kind not in (COSINE, WSD):
        problems.append(f"schedule = {kind!r}: this trainer knows {COSINE} and {WSD}")
    final, share = _number(spec.lr_final or "1e-5", "lr_final", problems)
    warm, warm_share = _number(spec.warmup or "5%", "warmup", problems)
    if problems:
        raise UserError(problems)
    lr_final = min(spec.lr_peak, final * spec.lr_peak if share else final)
    warmup = round(warm * spec.steps) if warm_share else round(warm)
    return Schedule(kind, spec.lr_peak, lr_final, min(warmup, spec.steps), spec.steps)


def _number(text: str, name: str, problems: list[str]) -> tuple[float, bool]:
    """The number and whether it is a share."""
    found = re.fullmatch(r"\s*([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?)\s*(%?)\s*", text)
    if not found or (found[2] and float(found[1]) > 100):
        problems.append(f"{name} = {text!r}: a number, or a share such as 10%, is needed")
        return 0.0, False
    return float(found[1]) / (100 if found[2] else 1), bool(found[2])
