"""The basin in PyTensor: what `laws.basin` is in NumPy. States are dicts, response -> (cell,)."""

from __future__ import annotations

import numpy as np
import pytensor.tensor as pt
from pytensor.scan import scan

from scaleband.bayes.inputs import SHAPE
from scaleband.bayes.one_batch import BENDS
from scaleband.bayes.stop_gradient import stop_gradient
from scaleband.laws import RESPONSES
from scaleband.laws.basin import MAX_EXPONENT

_NEWTON_STEPS = 12


def linex(v, h, s):  # type: ignore[no-untyped-def]
    """`laws.linex` in PyTensor; the series branch keeps value and gradient finite at s v = 0."""
    a, small, safe = _bounded(s, v)
    ratio = pt.switch(small, 0.5 + a / 6 + a * a / 24, (pt.exp(safe) - 1 - safe) / (safe * safe))
    return h * v * v * ratio


def _bounded(s, v):  # type: ignore[no-untyped-def]
    """As in `laws.basin`: s v; where it is small; and what stands in the closed form, 1 there."""
    a = pt.minimum(s * v, MAX_EXPONENT)
    small = pt.abs(a) < 1e-2
    return a, small, pt.switch(small, 1.0, a)


def _axes(state):  # type: ignore[no-untyped-def]
    """Curvature, cosine, sine and skew of both directions."""
    for j in (1, 2):
        angle = state[f"angle_{j}"]
        yield pt.exp(state[f"log_curvature_{j}"]), pt.cos(angle), pt.sin(angle), state[f"skew_{j}"]


def excess(state, log_lr, log_batch, cell=slice(None)):  # type: ignore[no-untyped-def]
    """`laws.excess` at settings, any number in each cell. Sines are taken per cell: runs are fifty times as many."""
    dx_lr, dx_batch = log_lr - state["log_lr"][cell], log_batch - state["log_batch"][cell]
    return sum(linex(c[cell] * dx_lr + s[cell] * dx_batch, h[cell], k[cell]) for h, c, s, k in _axes(state))


def straight(state, log_batch):  # type: ignore[no-untyped-def]
    """log rate of the best at `log_batch` minus that of the optimum, to first order."""
    (h, c, s, _), (g, b, t, _) = _axes(state)
    return -(h * c * s + g * b * t) / (h * c * c + g * b * b) * (log_batch - state["log_batch"])


def _along_rate(state, log_batch, x):  # type: ignore[no-untyped-def]
    """Slope and curvature of the basin along the rate at `log_batch`, `x` from the optimum's log rate."""
    slope, curvature = 0.0, 0.0
    for h, c, s, k in _axes(state):
        v = c * x + s * (log_batch - state["log_batch"])
        a, small, safe = _bounded(k, v)
        ratio = pt.switch(small, 1 + a / 2 + a * a / 6 + a**3 / 24, (pt.exp(safe) - 1) / safe)
        slope, curvature = slope + c * h * v * ratio, curvature + c * c * h * pt.exp(a)
    return slope, curvature


def best_at(state, log_batch):  # type: ignore[no-untyped-def]
    """`straight` in full: `laws.conditional_log_lr`, by so many Newton steps that nothing is left to gain.

    The steps are not differentiated. One more, taken at the solution, has value and gradient of the implicit function:
    d x / d state = -(d slope / d state) / curvature.
    """
    still = {name: stop_gradient(state[name]) for name in ("log_batch", *(RESPONSES[r] for r in SHAPE))}

    def newton(x, *values):  # type: ignore[no-untyped-def]
        slope, curvature = _along_rate(dict(zip(still, values, strict=True)), log_batch, x)
        return x - pt.clip(slope / curvature, -1.0, 1.0)

    x = scan(
        newton, outputs_info=straight(still, log_batch), non_sequences=list(still.values()), n_steps=_NEWTON_STEPS,
        return_updates=False,
    )[-1]  # fmt: skip
    return x - _along_rate(state, log_batch, x)[0] / _along_rate(still, log_batch, x)[1]


def rate_at(state, d):  # type: ignore[no-untyped-def]
    """Best log rate at a cell's one batch minus the optimum's, for thin cells to first order around the mode."""
    away = [state[RESPONSES[r]] - d["reference"][r] for r in BENDS]
    straight = d["rate"] + sum(d["rate_slope"][j] * z for j, z in enumerate(away))
    return pt.switch(d["thin"], straight, best_at(state, d["anchor"][1]))


def sliced(state, d, best):  # type: ignore[no-untyped-def]
    """What runs see of their cell, `one_batch.sliced`: `d` of `model.model_data`, `best` of `rate_at`."""
    one, batch = d["one_batch"], d["anchor"][1]
    away = [state[RESPONSES[r]] - d["reference"][r] for r in SHAPE]
    log_h, skew = (d["slice"][k] + sum(d["slice_slope"][k, j] * z for j, z in enumerate(away)) for k in (0, 1))
    there = {
        "log_lr": state["log_lr"] + best, "log_batch": batch, "log_curvature_1": log_h, "angle_1": 0.0,
        "angle_2": np.pi / 2, "skew_1": skew,
    }  # fmt: skip
    return state | {name: pt.switch(one, value, state[name]) for name, value in there.items()}
