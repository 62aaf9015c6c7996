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
    decay = _decay(s.steps)
    share = max(0.0, (step + 1 - (s.steps - decay)) / decay)
    return s.lr_peak + (s.lr_final - s.lr_peak) * min(1.0, share)


def schedule_for(spec: RunSpec) -> Schedule:
    """The schedule that a specification's conventions mean.

    `schedule` is `warmup+cosine` (the default) or `wsd`; `lr_final` a rate ("1e-5", the default as in Step Law)
    or a share of the peak ("10%"), not above the peak ("100%" is a constant rate); `warmup` steps ("100") or a share of
    them ("5%", the default), which end before the decay begins.

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
    lr_final = final * spec.lr_peak if share else final
    if lr_final > spec.lr_peak and spec.lr_final:
        problems.append(
            f"lr_final = {spec.lr_final!r} is above lr_peak = {spec.lr_peak:g}; a share of the peak is written 10%"
        )
    warmup = round(warm * spec.steps) if warm_share else round(warm)
    stable = spec.steps - (_decay(spec.steps) if kind == WSD else 0)
    if not warm_share and not warm.is_integer():
        share_of_it = f"; for a share of the steps write {100 * warm:g}%" if warm < 1 else ""
        problems.append(f"warmup = {spec.warmup!r} is no whole number of steps{share_of_it}")
    elif warmup > stable:
        problems.append(
            f"warmup = {spec.warmup!r} is {warmup:,} steps, and of {spec.steps:,} the first {stable:,} are before the "
            f"{'decay' if kind == WSD else 'end'}; write a share, such as 5%"
        )
    if problems:
        raise UserError(problems)
    # where nothing is stated a peak below the usual final rate is kept to the end
    return Schedule(kind, spec.lr_peak, min(spec.lr_peak, lr_final), warmup, spec.steps)


def _decay(steps: int) -> int:
    """Steps in which WSD decays."""
    return max(1, round(WSD_DECAY * steps))


def _number(text: str, name: str, problems: list[str]) -> tuple[float, bool]:
    """The number and whether it is a share."""
    found = re.fullmatch(r"\s*([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?)\s*(%?)\s*", text)
    if not found or (found[2] and float(found[1]) > 100):
        problems.append(f"{name} = {text!r}: a number, or a share such as 10%, is needed")
        return 0.0, False
    return float(found[1]) / (100 if found[2] else 1), bool(found[2])
