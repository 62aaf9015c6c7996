"""How to split a budget: the size and the tokens that minimise the loss, one answer per draw, under constraints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleband.errors import UserError
from scaleband.laws.design import Cells, size_label
from scaleband.laws.loss import Covariates, minimise_each
from scaleband.laws.loss.draws import LossDraws
from scaleband.predict.repeats import tokens_that_count

Array = NDArray[np.float64]

WIDEST = (1e5, 1e15)
"""Sizes that are searched, active parameters."""

FEWEST_RATIO = 0.3
"""Fewest tokens per active parameter that are searched, unless tokens are limited: flexible laws carried to models that
see next to nothing have minima there which no run supports (assumption)."""

SMALLEST_BUDGET = 1.1 * 6 * FEWEST_RATIO * WIDEST[0] ** 2
"""FLOP below which hardly a size is left to search."""

FIRST_TOKENS = 1e6
"""Fewest training tokens at which `tokens_to_reach` looks: a loss that is reached there may be reached earlier."""

MOST_TOKENS = 1e16
"""Most training tokens at which it looks: a loss that is not reached there is called never reached."""


@dataclass(frozen=True)
class Allocation:
    """Joint draws of an allocation, every array (sample,).

    Attributes
    ----------
    n_params, n_active, n_tokens
        The best model and horizon of each draw.
    loss
        The expected loss there, in the table's unit.
    law_of_sample
        Name of the form behind each draw.
    chosen
        One split for all draws, the one that minimises the expected log loss: (n_params, n_tokens).
    loss_at_chosen
        (sample,) loss of that one split.
    """

    n_params: Array
    n_active: Array
    n_tokens: Array
    loss: Array
    law_of_sample: NDArray[np.str_]
    chosen: tuple[float, float]
    loss_at_chosen: Array


@dataclass(frozen=True)
class Limits:
    """Constraints of an allocation; None where there is none.

    Attributes
    ----------
    n_params
        A fixed size (total parameters). If it was fitted, its loss has what its cells share beside the law.
    max_tokens
        The most tokens trained on.
    unique_tokens
        Distinct tokens there are: more than these are repeats. A fit that saw repeats knows what they are worth; for
        any other, tokens count as 1 + R (1 - e^(-r / R)) times the distinct ones after r repeats (Muennighoff et al.
        2023), R drawn from the belief of `laws.loss.repetition`; what repeats do to large models is left out.
    inference_tokens
        Tokens that the model will read or write in its life, at 2 active parameters each: a budget that includes
        them makes a smaller, over-trained model worth it (Sardana et al. 2023, arXiv 2401.00448).
    sparsity
        n_params / n_active, >= 1.
    """

    n_params: float | None = None
    max_tokens: float | None = None
    unique_tokens: float | None = None
    inference_tokens: float = 0.0
    sparsity: float = 1.0


def check_question(draws: LossDraws, group: str, flops: float, limits: Limits) -> None:
    """Refuse what no budget, group or limit can be.

    Raises
    ------
    UserError
        Everything that is wrong, one sentence each.
    """
    problems = []
    parts = group.split("/")
    if len(parts) != 3 or not all(parts):
        known = ", ".join(draws.groups()[:8])
        problems.append(f"group = {group!r} is not written source/arch/data; the fit knows {known}")
    if not 0 < flops < np.inf:
        problems.append(f"flops = {flops:g} is no budget; give a positive, finite number")
    for name in ("n_params", "max_tokens", "unique_tokens"):
        value = getattr(limits, name)
        if value is not None and not 1 <= value < np.inf:
            problems.append(f"{name} = {value:g} cannot be; give a finite number of at least 1, or None for no limit")
    if not 0 <= limits.inference_tokens < np.inf:
        problems.append(f"inference_tokens = {limits.inference_tokens:g} cannot be; give a finite number, 0 for none")
    if not 1 <= limits.sparsity < np.inf:
        problems.append(f"sparsity = {limits.sparsity:g} cannot be: n_params / n_active is 1 for dense, else above it")
    if problems:
        raise UserError(problems)


def tokens_for(flops: float, n_active: Array, inference_tokens: float = 0.0) -> Array:
    """Training tokens that a budget leaves: (C - 2 n_active inference) / (6 n_active); negative if none are left."""
    return np.asarray((flops / n_active - 2 * inference_tokens) / 6)


def allocate(draws: LossDraws, group: str, flops: float, limits: Limits | None = None) -> Allocation:
    """Split `flops` between size and tokens.

    Parameters
    ----------
    draws
        Fitted loss laws.
    group
        source/arch/data; one never seen gets the wide band of a new one.
    flops
        Budget, FLOP: 6 n_active n_tokens, plus 2 n_active per token of inference if there is any.
    limits
        Constraints.

    Raises
    ------
    UserError
        A budget, group or limit that cannot be, or limits that leave nothing to train.
    """
    limits = limits or Limits()
    check_question(draws, group, flops, limits)
    law = draws.law_log_loss(group)
    ref, log_s = draws.reference, np.log(limits.sparsity)
    cap = np.inf if limits.max_tokens is None else limits.max_tokens
    counted = tokens_that_count(draws)
    own = 0.0 if limits.n_params is None else effect_of_fitted_size(draws, group, limits.n_params)

    def loss_at(log_active: Array) -> Array:
        active = np.exp(log_active)
        tokens = np.minimum(tokens_for(flops, active, limits.inference_tokens), cap)
        d = np.log(np.maximum(tokens, 1.0) / ref.n_tokens)
        u = d if limits.unique_tokens is None else np.minimum(d, np.log(limits.unique_tokens / ref.n_tokens))
        value = law(Covariates(log_active - np.log(ref.n_active), counted(d, u), log_s, np.nan, u)) + own
        return np.where(tokens >= 1.0, value, 50.0 + log_active)

    count = draws.n_samples
    if limits.n_params is not None:
        best = np.full(count, np.log(limits.n_params / limits.sparsity))
        chosen = float(best[0])
    else:
        most = flops / 6 if limits.inference_tokens == 0 else min(flops / 6, flops / (2 * limits.inference_tokens))
        scarce = min(cap, np.inf if limits.unique_tokens is None else limits.unique_tokens)
        largest = max(np.sqrt(flops / 6 / FEWEST_RATIO), 2 * flops / (6 * scarce))
        low, high = np.log(WIDEST[0]), np.log(min(WIDEST[1], most, largest))
        if high <= low:
            raise UserError(f"{flops:g} FLOP leave no model to train; give a larger budget or less inference")
        best = minimise_each(loss_at, np.full(count, low), np.full(count, high))
        first, last = np.clip(np.quantile(best, [0.01, 0.99]) + np.array([-0.1, 0.1]), low, high).tolist()
        grid = np.linspace(first, last, 161)[:, None]
        chosen = float(grid[loss_at(np.broadcast_to(grid, (161, count))).mean(1).argmin(), 0])
    active = np.exp(best)
    tokens = np.minimum(tokens_for(flops, active, limits.inference_tokens), cap)
    if (tokens < 1).any():
        size = active[0] * limits.sparsity
        raise UserError(f"a model of {size:g} parameters leaves no tokens in a budget of {flops:g} FLOP")
    at_chosen = np.full(count, chosen)
    chosen_tokens = float(min(tokens_for(flops, np.exp(at_chosen[:1]), limits.inference_tokens)[0], cap))
    return Allocation(
        n_params=active * limits.sparsity,
        n_active=active,
        n_tokens=tokens,
        loss=np.exp(loss_at(best)),
        law_of_sample=draws.form_of_sample(),
        chosen=(float(np.exp(chosen) * limits.sparsity), chosen_tokens),
        loss_at_chosen=np.exp(loss_at(at_chosen)),
    )


def effect_of_fitted_size(draws: LossDraws, group: str, n_params: float) -> Array:
    """(sample,) what all cells of a size that was fitted share beside the law (`LossDraws.size_effect`); else 0."""
    source, arch, _ = group.split("/")
    name = size_label(source, arch, n_params)
    return draws.size_effect(name) if name in draws.table.cells.labels("size") else np.zeros(draws.n_samples)


def allocation_exponent(draws: LossDraws, group: str, flops: float) -> Array:
    """d log n_active* / d log flops at a budget, (sample,): Chinchilla's a."""
    step = 1.5
    up, down = allocate(draws, group, flops * step), allocate(draws, group, flops / step)
    return np.asarray(np.log(up.n_active / down.n_active) / (2 * np.log(step)))


def share_of_form(values: Array, law_of_sample: NDArray[np.str_]) -> float:
    """How much of the variance of draws is between the forms' means: 0 to 1."""
    names, at = np.unique(law_of_sample, return_inverse=True)
    mean = np.array([values[at == k].mean() for k in range(len(names))])
    total = float(values.var())
    # A size that was given has no variance but rounding.
    return float(((mean[at] - values.mean()) ** 2).mean() / total) if total > 1e-16 else 0.0


def check_loss(loss: float) -> None:
    """Refuse what no loss can be that is to be reached.

    Raises
    ------
    UserError
        It is not positive and finite.
    """
    if not 0 < loss < np.inf:
        raise UserError(f"a loss to reach must be positive, not {loss:g}")


def tokens_to_reach(
    draws: LossDraws, cells: Cells, loss: float, *, most: float = MOST_TOKENS, unique_tokens: float | None = None,
    batch_tokens: float | None = None, size_effects: bool = False,
) -> Array:
    """Training tokens at which each target's expected loss comes down to `loss`: (sample, target).

    inf where `most` tokens do not reach it; `FIRST_TOKENS` where these do: there it takes at most as many. Of the
    tokens `unique_tokens` are distinct, as in `Limits`; the rest are repeats. `batch_tokens` per step matter to laws
    that ask for the batch; left out, it is the best one. `size_effects` adds what sizes that were fitted have beside
    the law: not for a size that was chosen, whose luck is to come.

    Raises
    ------
    UserError
        A loss that is not positive and finite.
    """
    check_loss(loss)
    out = np.full((draws.n_samples, len(cells)), np.inf)
    ref, counted = draws.reference, tokens_that_count(draws)
    distinct = np.inf if unique_tokens is None else np.log(unique_tokens / ref.n_tokens)
    batch = np.nan if batch_tokens is None else np.log(batch_tokens / ref.batch_tokens)
    first = np.log(min(FIRST_TOKENS, most))
    for t in range(len(cells)):
        group = f"{cells.source[t]}/{cells.arch[t]}/{cells.data[t]}"
        law, goal = draws.law_log_loss(group), np.full(draws.n_samples, np.log(loss))
        if size_effects:
            goal -= effect_of_fitted_size(draws, group, cells.n_params[t])
        n = np.log(cells.n_active[t] / ref.n_active)
        s = np.log(cells.n_params[t] / cells.n_active[t])

        def above(log_tokens: Array, law=law, n=n, s=s, goal=goal) -> NDArray[np.bool_]:  # type: ignore[no-untyped-def]
            d = log_tokens - np.log(ref.n_tokens)
            u = np.minimum(d, distinct)
            return np.asarray(law(Covariates(n, counted(d, u), s, batch, u)) > goal)

        low, high = np.full(draws.n_samples, first), np.full(draws.n_samples, np.log(most))
        never = above(high)
        for _ in range(50):
            middle = (low + high) / 2
            more = above(middle)
            low, high = np.where(more, middle, low), np.where(more, high, middle)
        out[:, t] = np.where(never, np.inf, np.exp(high))
    return out
