"""Who chooses the next runs: the protocol of a proposer, and the simple ones, which need no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scaleband.campaign.records import pays
from scaleband.campaign.settings import INPUTS, setting_key
from scaleband.design import Proposal, Proposals, Verdict
from scaleband.labels import flops_label
from scaleband.laws import LawDraws

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Request:
    """Everything a proposer may look at. The same request gives the same answer.

    Attributes
    ----------
    target
        The decision's cell: source, arch, data, n_params, n_active, n_tokens.
    candidates
        Runs that could be made: `settings.INPUTS`, `flops`, perhaps `bundle`.
    limits
        Of the grid that the candidates were made in; empty where they came from a table.
    history
        Run table of what was told, and of runs that were there before; None if empty.
    pending
        Run table of what is out or waiting to be handed out; None if empty.
    given_up
        Settings whose runs failed for good, as `settings.setting_key` writes them.
    budget_flops
        What is left to spend, FLOP.
    target_runs
        Final runs that the decision will serve.
    draws
        The posterior given the history; asked for only by proposers that need it (the first call may sample).
    seed
        Of this request alone.
    options
        Of the strategy.
    overhead_flops
        What every run costs beside its training, FLOP.
    made
        Settings that were asked for and told, as `setting_key` writes them: the history may have another, where other
        tokens or another size were trained.
    """

    target: Mapping[str, str | float]
    candidates: pd.DataFrame
    limits: Mapping[str, Any]
    history: pd.DataFrame | None
    pending: pd.DataFrame | None
    given_up: frozenset[str]
    budget_flops: float
    target_runs: float
    draws: Callable[[], LawDraws]
    seed: int
    options: Mapping[str, Any]
    overhead_flops: float = 0.0
    made: frozenset[str] = frozenset()

    @property
    def prices(self) -> NDArray[np.float64]:
        """Of the candidates, FLOP."""
        return self.candidates["flops"].to_numpy(float) + self.overhead_flops


class Proposer(Protocol):
    """Anything that chooses runs."""

    def __call__(self, request: Request, n: int) -> Proposals:
        """At most `n` runs (a bundle is never cut, so a few more where bundles are on offer), best first."""
        ...


def settings_in(frame: pd.DataFrame | None) -> set[str]:
    """The settings of a table's rows."""
    if frame is None or not len(frame):
        return set()
    return {setting_key(row) for row in frame[list(INPUTS)].to_dict("records")}


def settings_made(rows: pd.DataFrame, table: pd.DataFrame | None) -> set[str]:
    """The settings among `rows` that a table has runs of; not to the last digit, but as the run table tells cells."""
    from scaleband.runs import rows_of_settings

    if table is None or not len(table) or not len(rows):
        return set()
    found = rows_of_settings(rows, table)
    return {setting_key(row) for row, at in zip(rows[list(INPUTS)].to_dict("records"), found, strict=True) if len(at)}


def open_candidates(request: Request) -> NDArray[np.int64]:
    """Positions of the candidates that were neither made, nor are out, nor were given up."""
    made = (settings_made(request.candidates, table) for table in (request.history, request.pending))
    closed = set().union(*made, request.given_up, request.made)
    keys = [setting_key(row) for row in request.candidates[list(INPUTS)].to_dict("records")]
    return np.array([i for i, key in enumerate(keys) if key not in closed], dtype=np.int64)


def in_order(request: Request, order: NDArray[np.int64], n: int, name: str) -> Proposals:
    """The first `n` candidates of `order` that the budget pays for, one after another."""
    prices = request.prices
    left = request.budget_flops
    chosen: list[int] = []
    for i in order:
        if len(chosen) == n:
            break
        if pays(left, prices[i]):
            chosen.append(int(i))
            left -= prices[i]
    rows = request.candidates[list(INPUTS)].to_dict("records")
    proposals = tuple(
        Proposal(
            f"{name}-{i}",
            {k: _plain(rows[i][k]) for k in INPUTS},
            float(request.candidates["flops"].iloc[i]),
            math.nan,
            math.nan,
            f"{name}-{i}",
            overhead_flops=request.overhead_flops,
        )
        for i in chosen
    )
    cost = float(sum(p.price_flops for p in proposals))
    why = (
        f"{len(proposals)} runs for {flops_label(cost, 3)} FLOP, {name}: this strategy does not weigh what they teach"
        if proposals
        else (
            f"no candidate costs as little as the {flops_label(request.budget_flops, 3)} FLOP that are left"
            if len(order) or (prices > request.budget_flops).all()
            else "every candidate was made, is out, or was given up"
        )
    )
    unknown = math.nan
    verdict = Verdict(
        "continue" if proposals else "stop",
        why,
        unknown,
        unknown,
        unknown,
        cost,
        unknown,
        unknown,
        request.target_runs,
    )
    pending = () if request.pending is None else tuple(request.pending["run_id"])
    return Proposals(
        proposals, verdict, request.budget_flops, left, "", request.seed, dict(request.target), pending
    )


def _plain(value: Any) -> str | float:
    return value if isinstance(value, str) else float(value)


def random_runs(request: Request, n: int) -> Proposals:
    """Candidates at random, each as likely as any other."""
    rng = np.random.default_rng(request.seed)
    return in_order(request, rng.permutation(open_candidates(request)), n, "random")


def cost_weighted_runs(request: Request, n: int) -> Proposals:
    """Candidates at random, cheap ones more often: with probability proportional to 1 / FLOP."""
    rng = np.random.default_rng(request.seed)
    left = open_candidates(request)
    # Exponential clocks: the order in which they ring is a draw without replacement with these weights.
    rings = rng.exponential(size=len(left)) * request.prices[left]
    return in_order(request, left[np.argsort(rings, kind="stable")], n, "cost-weighted")


def cheapest_runs(request: Request, n: int) -> Proposals:
    """The cheapest candidates first; of equal price, at random."""
    rng = np.random.default_rng(request.seed)
    left = rng.permutation(open_candidates(request))
    return in_order(
        request,
        left[np.argsort(request.prices[left], kind="stable")],
        n,
        "cheapest-first",
    )


STRATEGIES: dict[str, Proposer] = {
    "random": random_runs,
    "cost-weighted": cost_weighted_runs,
    "cheapest-first": cheapest_runs,
}
"""The simple strategies by name; `proposers` adds the one that uses the posterior."""
