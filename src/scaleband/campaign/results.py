"""What may be told about a run: checked before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from scaleband.campaign.records import Result, Run
from scaleband.campaign.settings import UNIT, Settings
from scaleband.errors import UserError
from scaleband.nearest import nearest
from scaleband.slips import LOSS_RANGE

STATUSES = ("completed", "diverged", "failed")

JUMP = 0.5
"""A loss below this share of the smallest told so far is taken for another unit (bits per byte are about a third).
A first run that hardly learnt may lie half as high again as the next."""

CONFIRM = "if it is right all the same, confirm it (--sure)"
"""The last words about a doubtful loss, for who tells it by hand."""

_FACTS_AT_MOST = 20_000


def checked_result(
    run: Run,
    settings: Settings,
    others: Sequence[Run],
    *,
    loss: float | None,
    status: str,
    loss_se: float,
    flops: float | None,
    unit: str | None,
    loss_kind: str | None,
    sure: bool,
    facts: Mapping[str, Any],
    order: int,
) -> Result:
    """What was told, as it will be written down.

    Raises
    ------
    UserError
        Anything that cannot be, or is probably a slip and was not confirmed by `sure`.
    """
    what = f"run {run.run_id}"
    if status not in STATUSES:
        raise UserError(f"{what}: status {status!r} is not known; tell one of {', '.join(STATUSES)}")
    if status == "completed" and loss is None:
        raise UserError(
            f"{what}: a completed run has a loss; give it, or tell that the run diverged or failed"
        )
    if status == "failed" and loss is not None:
        raise UserError(f"{what}: a failed run has no final loss; leave it out, or tell the run as completed")
    if unit is not None and unit.strip().lower() not in (UNIT, "nats", "nat"):
        raise UserError(f"{what}: the loss is in {unit!r} and this campaign counts {UNIT}; convert it (bits per token "
                        "times 0.6931; bits per byte times 0.6931 and times the bytes of a token), then tell it "
                        "again")  # fmt: skip
    stated = settings.stated.get("loss_kind", "")
    if loss_kind is not None and stated and loss_kind != stated:
        raise UserError(f"{what}: this loss is {loss_kind!r}, and the campaign's losses are {stated!r}; they cannot be "
                        "compared, so measure the same one")  # fmt: skip
    if loss is not None:
        _check_loss(what, float(loss), status, [r for r in others if r.run_id != run.run_id], settings, sure)
    if not (math.isfinite(loss_se) and loss_se >= 0):
        raise UserError(
            f"{what}: loss_se = {loss_se:g} is no standard error; give zero or a positive number, in nats per token"
        )
    cost = run.flops if flops is None else float(flops)
    if not (math.isfinite(cost) and cost >= 0):
        raise UserError(
            f"{what}: flops = {cost:g} is no cost; give zero or a positive number, or leave it out"
        )
    kept = None if loss is None or not math.isfinite(loss) else float(loss)
    return Result(status, kept, float(loss_se), cost, order, _plain_facts(what, facts))


def unknown_run(run_id: str, known: Sequence[str]) -> UserError:
    """What is said of an id that no run has."""
    near = nearest(run_id, known)
    hint = f" (did you mean {near}?)" if near else ""
    count = f"this campaign proposed {len(known)} runs"
    return UserError(
        f"there is no run {run_id!r}{hint}; {count}, `scaleband campaign status --runs-out` writes them (runs "
        "that it did not propose are for a new campaign, init --runs)"
    )


def told_already(run: Run) -> UserError:
    """What is said of a second tell."""
    r = run.result
    said = run.state if r is None or r.loss is None else f"{run.state}, loss {r.loss:g}"
    return UserError(
        f"run {run.run_id} was told already ({said}); a result is told once: if another setting was meant check the "
        "id, if the first tell was wrong start a new campaign with the corrected table (--runs)"
    )


def _check_loss(
    what: str, loss: float, status: str, others: Sequence[Run], settings: Settings, sure: bool
) -> None:
    if status == "diverged":
        return  # many trainers write inf or NaN for it
    if math.isnan(loss):
        raise UserError(
            f"{what}: the loss is NaN; if the run blew up, tell it as diverged, else find the loss in its log"
        )
    if math.isinf(loss) or loss <= 0:
        raise UserError(
            f"{what}: a loss of {loss:g} cannot be; if the run blew up, tell it as diverged, else correct it"
        )
    if sure:
        return
    low, high = LOSS_RANGE
    if not low <= loss <= high:
        raise UserError(f"{what}: a loss of {loss:g} is outside {low:g} to {high:g} {UNIT}; perplexity is not loss "
                        f"(take its natural log), bits are not nats; {CONFIRM}")  # fmt: skip
    told = [
        r.result.loss for r in others if r.state == "completed" and r.result is not None and r.result.loss
    ]
    given = settings.given.get("loss", ())
    known = [float(v) for v in (*told, *given) if v is not None and math.isfinite(v)]
    if known and loss < JUMP * min(known):
        raise UserError(f"{what}: a loss of {loss:g} is far below every other of this campaign (the least is "
                        f"{min(known):g}); is it in another unit, bits per byte perhaps? {CONFIRM}")  # fmt: skip


def _plain_facts(what: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(dict(facts), allow_nan=False, default=str)
    except (TypeError, ValueError):
        raise UserError(
            f"{what}: what came with the result is not plain text and finite numbers; leave it out"
        ) from None
    if len(text) > _FACTS_AT_MOST:
        raise UserError(
            f"{what}: what came with the result is {len(text):,} characters long; keep logs and curves in files"
        )
    return json.loads(text)
