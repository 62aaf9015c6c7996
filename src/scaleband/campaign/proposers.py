"""Strategies by name: the simple ones, and the one that weighs what runs would teach against their price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scaleband.campaign.settings import INPUTS, TARGET, setting_key
from scaleband.campaign.strategies import STRATEGIES, Proposer, Request, in_order, settings_in, settings_made
from scaleband.errors import UserError
from scaleband.laws import Cells, LawDraws

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from scaleband.design import Candidates, Limits, Proposal, Proposals

def target_of(target: Mapping[str, str | float]) -> Cells:
    """A campaign's target as one cell."""
    from scaleband.predict import target_cells

    group = {k: str(target[k]) for k in ("source", "arch", "data")}
    return target_cells(
        float(target["n_params"]), float(target["n_tokens"]), n_active=float(target["n_active"]), **group
    )


def limits_of(plain: Mapping[str, Any]) -> Limits:
    """Limits as the design room takes them.

    Raises
    ------
    UserError
        A name that it does not know, or no sizes.
    """
    from scaleband.design import Limits

    try:
        sizes = tuple((float(n), float(a)) for n, a in plain["sizes"])
        tokens = tuple(float(d) for d in plain["tokens"])
        return Limits(**{**plain, "sizes": sizes, "tokens": tokens})
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the limits cannot be read ({error}); they are sizes (pairs of n_params and n_active), "
                        "tokens, flops_max, and what else scaleband.design.Limits has") from None  # fmt: skip


def grid_in_limits(
    draws: LawDraws, target: Mapping[str, str | float], limits: Mapping[str, Any]
) -> pd.DataFrame:
    """Every run inside the limits and near the expected optimum of its cell, as a candidate table."""
    import pandas as pd

    from scaleband.design import grid_candidates

    found = grid_candidates(draws, target_of(target), limits_of(limits), mini_sweeps=False)
    frame = pd.DataFrame([found.inputs(k) for k in range(len(found.flops))])
    return frame.assign(flops=found.flops)


def candidates_for(request: Request, draws: LawDraws) -> Candidates | None:
    """What may be proposed, None if nothing: the table without what was given up (and, where replicates are not wanted,
    without what was made), mini-sweeps added where it has no bundles."""
    from scaleband.design import candidates_from_table, thinned, with_mini_sweeps
    from scaleband.predict import basins
    from scaleband.runs import without_level

    # A grid follows the expected optimum as that becomes known.
    frame = grid_in_limits(draws, request.target, request.limits) if request.limits else request.candidates
    keys = [setting_key(row) for row in frame[list(INPUTS)].to_dict("records")]
    # What came out as another setting would do so again, and teach nothing about the one that was asked for.
    closed = request.given_up | (request.made - settings_in(request.history))
    if request.history is not None:
        # That a setting diverged is known; another seed would say no more before its group has a loss to compare with.
        closed |= settings_made(frame, without_level(request.history))
    if not request.options.get("replicates", True):
        closed |= settings_made(frame, request.history)
    open_ = frame[[key not in closed for key in keys]].reset_index(drop=True)
    if not len(open_):
        return None
    found = candidates_from_table(open_)
    if request.options.get("mini_sweeps", True) and "bundle" not in frame:
        found = with_mini_sweeps(found, basins(thinned(draws), found.cells))
    return found


AHEAD = 9
"""Runs that are looked ahead, at least: a mini-sweep has up to nine, and whether to go on may not depend on how many
runs somebody asks for at once."""


def evsi_runs(request: Request, n: int) -> Proposals:
    """The runs whose results are expected to lower the regret at the target the most per FLOP; there may be more than
    `n` (`AHEAD`), in the order in which they are worth making."""
    import pandas as pd

    from scaleband.design import candidates_from_table, propose

    if not len(request.candidates) or request.prices.min() > request.budget_flops:
        return in_order(request, _none(), n, "evsi")
    draws = request.draws()
    pending = None
    if request.pending is not None:
        pending = candidates_from_table(request.pending[[*INPUTS, "flops", "run_id"]])
    candidates = candidates_for(request, draws)
    if candidates is None:
        return in_order(request, _none(), n, "evsi")
    answer = propose(
        draws,
        target_of({k: request.target[k] for k in TARGET}),
        candidates,
        price=candidates.flops + request.overhead_flops,
        budget_flops=request.budget_flops,
        n_runs=max(n, AHEAD),
        pending=pending,
        made=request.history,
        seed=request.seed,
        target_runs=request.target_runs,
        replicates=bool(request.options.get("replicates", True)),
    )
    # A setting that was made already is a replicate too.
    offered = pd.DataFrame([p.inputs for p in answer.proposals])
    known = settings_made(offered, request.history) | settings_made(offered, request.pending)
    return replace(
        answer,
        proposals=tuple(
            replace(p, replicate=p.replicate or setting_key(p.inputs) in known) for p in answer.proposals
        ),
    )


def whole_bundles(proposals: Sequence[Proposal], n: int) -> tuple[Proposal, ...]:
    """The first bundles that hold `n` runs or more together; the rest is thought over again when more is known."""
    kept: list[Proposal] = []
    for k, p in enumerate(proposals):
        same = k > 0 and p.bundle and p.bundle == proposals[k - 1].bundle
        if len(kept) >= n and not same:
            break
        kept.append(p)
    return tuple(kept)


def _none() -> Any:
    import numpy as np

    return np.zeros(0, dtype=np.int64)


PROPOSERS: dict[str, Proposer] = {"evsi": evsi_runs, **STRATEGIES}
