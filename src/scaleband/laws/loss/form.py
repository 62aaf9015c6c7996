"""What a loss law is: one formula for NumPy and PyTensor, its parameters as stated beliefs, its optimum, its source.

Every law is written relative to a reference point of the table (its centre in log size, log tokens, log batch):

    loss = loss at the reference (one per group) * relative(parameters, covariates),   relative = 1 at the reference

so the level, which the runs pin to a part in a thousand, is a parameter of its own, and what is weakly known (the
irreducible share, an exponent) cannot drag it. `E`, `A` and `B` of a paper follow from these, see the laws' files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Values = Mapping[str, Any]

_MAX_EXPONENT = 60.0


class Covariates(NamedTuple):
    """Where a loss is asked for: natural logs of the ratio to the reference point; any dims, NumPy or PyTensor.

    Attributes
    ----------
    n, d
        Active parameters; training tokens.
    s
        log(n_params / n_active), not relative to anything: 0 for dense.
    b
        Tokens per optimizer step; 0 where a law does not ask for it.
    u
        Unique tokens; equal to `d` where nothing is repeated.
    """

    n: Any
    d: Any
    s: Any
    b: Any
    u: Any


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law, on a scale without bounds.

    Attributes
    ----------
    name
        In the field's words.
    mean, sd
        Stated belief: link^-1(value) ~ Normal(mean, sd).
    link
        "identity", "exp" (value > 0) or "logistic" (value between 0 and 1).
    grouped
        True if every group has its own, partially pooled; exponents are shared by all groups.
    why
        The reason of the belief.
    """

    name: str
    mean: float
    sd: float
    link: Literal["identity", "exp", "logistic"]
    grouped: bool
    why: str

    def value(self, xp: Any, unbounded: Any) -> Any:
        """From the scale without bounds to the parameter's own."""
        if self.link == "exp":
            return xp.exp(unbounded)
        if self.link == "logistic":
            return 1 / (1 + xp.exp(-unbounded))
        return unbounded

    def unbounded(self, value: Any) -> Array:
        """The inverse of `value`, in NumPy."""
        value = np.asarray(value, float)
        if self.link == "exp":
            return np.asarray(np.log(value))
        return np.asarray(np.log(value / (1 - value))) if self.link == "logistic" else value


@dataclass(frozen=True)
class LossLaw:
    """A law of the loss.

    Attributes
    ----------
    name, meaning, source
        How it is asked for; one line; where the formula comes from.
    parameters
        In the order in which they are stored.
    relative
        (xp, values by name, covariates) -> loss over the loss at the reference; `xp` is numpy or pytensor.tensor.
    needs
        Covariates without which the law says nothing new: "s", "b", "u".
    optimal_size
        Closed form of the best log size at a fixed log compute c = n + d (both relative), or None: what the search for
        it (`optimum.minimise_each`), which answers, is held against.
    optimal_batch
        Of a law that asks for the batch: the best log batch at log tokens d (both relative). None: it does not ask.
    """

    name: str
    meaning: str
    source: str
    parameters: tuple[Parameter, ...]
    relative: Callable[[Any, Values, Covariates], Any]
    needs: frozenset[str] = frozenset()
    optimal_size: Callable[[Values, Array], Array] | None = None
    optimal_batch: Callable[[Values, Array], Array] | None = None

    def tuned(self, p: Values, x: Covariates) -> Covariates:
        """Covariates with the law's own best batch where none is stated (NaN)."""
        if self.optimal_batch is None:
            return x
        stated = np.isfinite(x.b)
        return x if np.all(stated) else x._replace(b=np.where(stated, x.b, self.optimal_batch(p, x.d)))


def power(xp: Any, exponent: Any) -> Any:
    """exp(exponent), bounded so that a far draw gives a large number and not infinity."""
    return xp.exp(xp.clip(exponent, -_MAX_EXPONENT, _MAX_EXPONENT))


LEVEL_BELIEF = (1.0, 0.7)
"""Mean and standard deviation of log loss at a table's centre: losses of 0.9 to 8 nats."""

REDUCIBLE = Parameter(
    "reducible", -0.6, 0.8, "logistic", True, "10-70 % of the loss at the reference can still be removed"
)
BALANCE = Parameter("balance", 0.0, 1.0, "logistic", True, "size's share of the reducible loss at the reference")
ALPHA = Parameter("alpha", float(np.log(0.35)), 0.45, "exp", False, "published exponents on size: 0.1 to 0.7")
BETA = Parameter("beta", float(np.log(0.35)), 0.45, "exp", False, "published exponents on tokens: 0.1 to 0.7")
