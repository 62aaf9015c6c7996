"""The diagnostic gate: may these draws be reported?"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

RHAT_MAX = 1.01
ESS_MIN = 400.0


class Failure(StrEnum):
    """What failed, the likely cause and what to try."""

    RHAT = "the chains disagree; try --tune 1000 --draws 8000, then --chains 4"
    ESS = "too few effective draws; try --draws {draws}"
    DIVERGENCES = (
        "divergent transitions: the sampler met a corner it cannot follow; try --tune 1000 and look for cells "
        "with one or two runs, or a mistake in their loss, first"
    )
    NOT_FINITE = "draws that are not finite; look for runs with a mistaken loss, rate or batch"


@dataclass(frozen=True)
class Gate:
    """Verdict of the diagnostics.

    Attributes
    ----------
    passed
        R-hat <= 1.01, bulk and tail ESS >= 400 for everything reported, no divergences.
    rhat, ess_bulk, ess_tail
        The worst over everything reported, and where: (value, name).
    divergences
        Their number.
    messages
        One sentence per failure: what, where, what to try.
    """

    passed: bool
    rhat: tuple[float, str]
    ess_bulk: tuple[float, str]
    ess_tail: tuple[float, str]
    divergences: int
    messages: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON, which knows no NaN: a statistic that could not be computed is None."""
        values = asdict(self)
        for name in ("rhat", "ess_bulk", "ess_tail"):
            statistic, where = values[name]
            values[name] = (statistic if np.isfinite(statistic) else None, where)
        return values


def together(gates: Mapping[str, Gate]) -> Gate:
    """The gate of a mixture, name -> one part's: every part's draws must pass."""

    def worst(values: Iterable[tuple[float, str]], sign: int) -> tuple[float, str]:
        return max(values, key=lambda v: sign * v[0] if np.isfinite(v[0]) else np.inf)

    every = gates.values()
    return Gate(
        all(g.passed for g in every),
        worst((g.rhat for g in every), 1),
        worst((g.ess_bulk for g in every), -1),
        worst((g.ess_tail for g in every), -1),
        sum(g.divergences for g in every),
        tuple(f"{name}: {m}" if len(gates) > 1 else m for name, g in gates.items() for m in g.messages),
    )


_HOPELESS_RHAT = 1.15
_MOST_TIMES = 24
"""Chains further apart than this, or so short of effective draws, ask for thought and not for more of the same."""

_NEAR_RHAT = 1.03
_NEAR_ESS = 150.0


def nearly(gate: Gate) -> bool:
    """Whether moving the same draws on (`inference.moves`) may be all that is missing."""
    ess = min(gate.ess_bulk[0], gate.ess_tail[0])
    return not gate.passed and not gate.divergences and gate.rhat[0] <= _NEAR_RHAT and ess >= _NEAR_ESS


def more_draws(gate: Gate, n_draws: int) -> int | None:
    """Draws a chain with which the gate should pass, if nothing but their number is wrong; else None."""
    ess = min(gate.ess_bulk[0], gate.ess_tail[0])
    if gate.passed or gate.divergences or not gate.rhat[0] <= _HOPELESS_RHAT or not ess > 0:
        return None
    wanted = max(_enough(n_draws, ess), 2 * n_draws)
    return wanted if wanted <= _MOST_TIMES * n_draws else None


def _enough(n_draws: int, ess: float) -> int:
    """Draws a chain for the least effective number, half to spare, where n_draws gave `ess`: it is the worst of
    hundreds, and another number may be worse the next time."""
    return int(np.ceil(n_draws * 1.5 * ESS_MIN / float(np.fmax(ess, 20.0)) / 100) * 100)


REPORTED = (
    "angle", "skew", "rho", "nu", "sigma", "scatter", "scatter_level", "scatter_ratio", "offset_scale",
    "state", "trunk_scale", "theta",
)  # fmt: skip
"""Posterior entries that the gate looks at. The law's coefficients are independent draws given these."""


def diagnose(
    posterior: Mapping[str, NDArray[np.float64]],
    diverging: NDArray[np.bool_],
    *,
    names: Mapping[str, Sequence[str]] | None = None,
) -> Gate:
    """Judge named draws, each (chain, draw, ...).

    Parameters
    ----------
    posterior
        As `inference.unpack.unpack` returns it.
    diverging
        (chain, draw).
    names
        For a variable whose last dim has labels, those labels.
    """
    from arviz_stats.base import array_stats

    worst = {"rhat": (0.0, "nothing"), "bulk": (np.inf, "nothing"), "tail": (np.inf, "nothing")}
    finite = True
    for name in (n for n in REPORTED if n in posterior):
        value = posterior[name]
        n_chains, n_draws = value.shape[:2]
        flat = value.reshape(n_chains, n_draws, -1)
        finite &= bool(np.isfinite(flat).all())
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            rhat = np.asarray(array_stats.rhat(flat, chain_axis=0, draw_axis=1))
            bulk = np.asarray(array_stats.ess(flat, chain_axis=0, draw_axis=1, method="bulk"))
            tail = np.asarray(array_stats.ess(flat, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95)))
        # A constant (a form without this term) has no R-hat and needs none.
        varies = (flat != flat[:1, :1]).any(axis=(0, 1))
        if not varies.any():
            continue
        for key, stat, pick in (("rhat", rhat, np.argmax), ("bulk", bulk, np.argmin), ("tail", tail, np.argmin)):
            safe = np.where(varies, stat, -np.inf if key == "rhat" else np.inf)
            k = int(pick(safe))
            better = safe[k] > worst[key][0] if key == "rhat" else safe[k] < worst[key][0]
            if better or np.isnan(safe[k]):
                labels = (names or {}).get(name)
                at = np.unravel_index(k, value.shape[2:]) if value.ndim > 2 else ()
                where = ", ".join(
                    str(labels[int(i)]) if labels is not None and dim == len(at) - 1 else str(i)
                    for dim, i in enumerate(at)
                )
                worst[key] = (float(safe[k]), f"{name}[{where}]" if where else name)
    n_divergent = int(np.sum(diverging))
    n_draws = int(next(iter(posterior.values())).shape[1])
    messages = []
    if not finite:
        messages.append(Failure.NOT_FINITE.value)
    if np.isnan(worst["rhat"][0]):
        messages.append(f"R-hat at {worst['rhat'][1]} cannot be computed: it compares chains; sample two or more")
    elif not worst["rhat"][0] <= RHAT_MAX:
        messages.append(f"R-hat {worst['rhat'][0]:.3f} at {worst['rhat'][1]} is above {RHAT_MAX}: {Failure.RHAT}")
    for kind in ("bulk", "tail"):
        ess, where = worst[kind]
        if not ess >= ESS_MIN:
            more = _enough(n_draws, ess)
            messages.append(
                f"{kind} ESS {ess:.0f} at {where} is below {ESS_MIN:.0f}: {Failure.ESS.format(draws=more)}"
            )
    if n_divergent:
        messages.append(f"{n_divergent} {Failure.DIVERGENCES}")
    return Gate(not messages, worst["rhat"], worst["bulk"], worst["tail"], n_divergent, tuple(messages))
