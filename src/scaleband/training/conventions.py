"""What a specification states of its conventions, held against what the reference trainer does: obeyed or refused.

A convention that is stated lands in the run table as true. So each is done (weight decay; schedule, final rate and
warm-up are `schedules`'), or is what is done anyway, or is refused.
"""

from __future__ import annotations

import math
import re

from scaleband.errors import UserError
from scaleband.training.protocol import RunSpec
from scaleband.training.schedules import schedule_for

BETAS, EPS, WEIGHT_DECAY = (0.9, 0.95), 1e-8, 0.1  # Step Law's AdamW (Li et al. 2025)
CLIP = 1.0  # global norm of each run's gradient, as in nanoGPT
SEQ_LEN = 256  # where neither the specification nor the adapter says
OURS = {
    "optimizer": f"AdamW {BETAS[0]:g} {BETAS[1]:g}, clipped at {CLIP:g}",
    "loss_kind": "validation, nats per token",
    "n_params_kind": "non-embedding, total",
}
"""How to state what this trainer does."""

_NUMBER = re.compile(r"[0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?|\.[0-9]+", re.IGNORECASE)
#: Words that may stand beside the name without saying anything else.
_OF_ADAMW = {
    "adamw", "torch", "pytorch", "fused", "beta", "betas", "beta1", "beta2", "b1", "b2", "and", "with", "gradient",
    "gradients", "grad", "norm", "clip", "clipped", "clipping", "at", "to",
}  # fmt: skip
_TRAINED, _HELD_OUT = {"train", "training"}, {"validation", "val", "valid", "held", "heldout", "test", "eval"}
_OTHER_UNITS = {"bit", "bits", "bpb", "bpc", "bpt", "bpw", "log2", "ppl", "perplexity", "accuracy"}


def weight_decay_of(spec: RunSpec) -> float:
    """The decay that a specification asks for, once `convention_problems` has found nothing."""
    text = spec.weight_decay.strip().lower()
    return (0.0 if text == "none" else float(text)) if text else WEIGHT_DECAY


def convention_problems(spec: RunSpec, tokenizer: str = "") -> list[str]:
    """What is stated and would not be true of a training by this trainer, each with its remedy.

    Parameters
    ----------
    spec
        Of the training.
    tokenizer
        How the text was cut, if that is known: a loss per byte is one per token only of bytes.
    """
    problems: list[str] = []
    try:
        schedule_for(spec)
    except UserError as error:
        problems += error.problems
    decay = spec.weight_decay.strip().lower()
    if decay not in ("", "none") and not (_NUMBER.fullmatch(decay) and math.isfinite(float(decay))):
        problems.append(f"weight_decay = {spec.weight_decay!r}: a number of at least 0 is needed, such as 0.1")
    wrong = {
        "optimizer": _optimizer(spec.optimizer),
        "loss_kind": _loss(spec.loss_kind, tokenizer),
        "n_params_kind": _counted(spec.n_params_kind),
    }
    problems += [
        f"{name} = {getattr(spec, name)!r}: {why}; state {OURS[name]!r}, or leave it out"
        for name, why in wrong.items()
        if why and getattr(spec, name).strip()
    ]
    if tokenizer and spec.tokenizer and spec.tokenizer != tokenizer:
        problems.append(f"tokenizer = {spec.tokenizer!r}, but the data folder holds {tokenizer!r}")
    return problems


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z][a-z0-9_]*", text.lower())


def _optimizer(text: str) -> str:
    """What is wrong with it; "" if nothing is."""
    words = _words(text)
    numbers = [float(n) for n in re.findall(rf"(?<![a-z0-9_.])(?:{_NUMBER.pattern})", text.lower())]
    if "adamw" not in words[:1] or set(words) - _OF_ADAMW:
        return "this trainer's is AdamW and nothing else"
    if numbers not in ([], [*BETAS], [*BETAS, CLIP], [CLIP]):
        return f"this trainer has betas {BETAS[0]:g} and {BETAS[1]:g}, and clips a gradient's norm at {CLIP:g}"
    return ""


def _loss(text: str, tokenizer: str) -> str:
    words = set(_words(text))
    if words & _TRAINED and not words & _HELD_OUT:
        return "this trainer's loss is that of held-out text"
    per = set(re.findall(r"(?:per|/)\s*([a-z]+)", text.lower()))
    known = {"token", "tokens"} | ({"byte", "bytes"} if tokenizer in ("", "bytes") else set())
    if words & _OTHER_UNITS or per - known:
        return "this trainer's loss is in nats per token (per byte where tokens are bytes)"
    return ""


def _counted(text: str) -> str:
    without = re.search(r"\b(non|no|not|without|excluding|except|minus)\b[^,;]*embedd", text.lower())
    return "" if without else "n_params counts neither embedding nor head here, and all experts"
