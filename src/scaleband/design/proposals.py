"""What a proposer answers: runs, what each bundle is expected to teach, and whether to pay for them.

Plain frozen values that travel as JSON, so that a campaign can keep them, audit them and replay them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scaleband.errors import UserError

INPUTS = ("source", "arch", "data", "n_params", "n_active", "n_tokens", "lr_peak", "batch_tokens")
"""Columns of the run table that a proposal fills, and that make two runs the same setting."""


@dataclass(frozen=True)
class Proposal:
    """One run to make.

    Attributes
    ----------
    run_id
        Unique; the result is matched to the proposal by it.
    inputs
        Columns of the run table (`INPUTS`): counts, `lr_peak`, `batch_tokens` in tokens per step.
    flops
        Of the training.
    evsi, evsi_error
        Expected drop of the target's regret from this run's *bundle*, percent of the loss, on top of the runs
        that are pending and of the bundles before it, and its Monte-Carlo standard error. The runs of one
        bundle carry the same figure: add it up over bundles, not over runs.
    bundle
        Runs that teach only together (a mini-sweep in one cell) share it.
    replicate
        True where the same setting is made, pending or proposed already: another seed.
    p_diverged
        Probability that it ends above the threshold at which a loss says only "at least that high".
    overhead_flops
        What it costs besides (start-up, evaluation, ...), as FLOP that the device would have done in that time.
    """

    run_id: str
    inputs: Mapping[str, str | float]
    flops: float
    evsi: float
    evsi_error: float
    bundle: str
    replicate: bool = False
    p_diverged: float = 0.0
    overhead_flops: float = 0.0

    @property
    def price_flops(self) -> float:
        """All that it costs, FLOP."""
        return self.flops + self.overhead_flops


@dataclass(frozen=True)
class Verdict:
    """Whether the next runs are worth their price.

    Attributes
    ----------
    action
        "continue" or "stop".
    why
        One sentence with the figures.
    evpi
        Expected value of perfect information: the target's expected regret, percent of the loss (walls straight above
        3 % a direction, see `design.setting_decision`); now, or once the pending runs are in, where there are any.
    evsi, evsi_error
        Expected drop of it from the bundles that are weighed here, and its Monte-Carlo error; percent.
    cost_flops
        Price of those bundles, FLOP.
    saving_flops
        What they are expected to save as compute at the target, for all `target_runs`, FLOP; see `design.share_lost`.
    evpi_flops
        The same for `evpi`: no sweep can be worth more.
    target_runs
        Final runs that the decision will serve.
    """

    action: Literal["continue", "stop"]
    why: str
    evpi: float
    evsi: float
    evsi_error: float
    cost_flops: float
    saving_flops: float
    evpi_flops: float
    target_runs: float = 1.0

    @property
    def stop(self) -> bool:
        """Whether it says stop."""
        return self.action == "stop"


@dataclass(frozen=True)
class Proposals:
    """An answer of the proposer and everything it was based on.

    Attributes
    ----------
    proposals
        In the order in which they were chosen; empty where nothing affordable teaches anything.
    verdict
        On the whole.
    budget_flops, budget_left_flops
        What might be spent, and what is left of it after these proposals.
    draws_digest
        SHA-256 of the posterior draws.
    seed
        Of the noise in the outcome draws.
    target
        The decision: kind, group, counts.
    pending
        Ids of the runs that were taken as under way.
    """

    proposals: tuple[Proposal, ...]
    verdict: Verdict
    budget_flops: float
    budget_left_flops: float
    draws_digest: str
    seed: int
    target: Mapping[str, str | float]
    pending: tuple[str, ...] = ()

    def worthwhile(self) -> tuple[Proposal, ...]:
        """The beginning that the verdict speaks of: what comes after it is not expected to be worth its price.

        Everything, where the verdict does not weigh (`saving_flops` is NaN) and says to go on.
        """
        if not self.verdict.stop and math.isnan(self.verdict.saving_flops):
            return self.proposals
        prices: dict[str, float] = {}
        for p in () if self.verdict.stop else self.proposals:
            prices[p.bundle or p.run_id] = prices.get(p.bundle or p.run_id, 0.0) + p.price_flops
        kept: set[str] = set()
        spent = 0.0
        for bundle, price in prices.items():
            spent += price
            if spent > self.verdict.cost_flops * (1 + 1e-9):
                break
            kept.add(bundle)
        return tuple(p for p in self.proposals if (p.bundle or p.run_id) in kept)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; a number that is not finite becomes None."""
        plain = asdict(self)
        plain["proposals"] = [asdict(p) for p in self.proposals]
        plain["pending"] = list(self.pending)
        return _finite(plain)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def proposals_from_json(plain: Mapping[str, Any]) -> Proposals:
    """The inverse of `Proposals.to_json`, for a campaign that is read back; a number that was not finite is NaN.

    Raises
    ------
    UserError
        Something is missing or not of its kind.
    """

    def numbers(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: math.nan if value is None else value for name, value in fields.items()}

    try:
        budget = numbers({name: plain[name] for name in ("budget_flops", "budget_left_flops")})
        return Proposals(
            proposals=tuple(Proposal(**numbers(p)) for p in plain["proposals"]),
            verdict=Verdict(**numbers(plain["verdict"])),
            budget_flops=float(budget["budget_flops"]),
            budget_left_flops=float(budget["budget_left_flops"]),
            draws_digest=str(plain["draws_digest"]),
            seed=int(plain["seed"]),
            target=dict(plain["target"]),
            pending=tuple(plain["pending"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"these are not proposals that scaleband wrote ({type(error).__name__}: {error}); ask again"
        ) from None
