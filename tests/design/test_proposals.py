"""Proposals travel as JSON and come back the same."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from scaleband.design import Proposal, Proposals, Verdict, proposals_from_json
from scaleband.errors import UserError

RUN = Proposal(
    "sb-1", {"source": "us", "n_params": 1e8, "lr_peak": 1e-3}, 1e18, 0.02, 0.001, "b1", replicate=True
)
VERDICT = Verdict("continue", "worth it", 0.1, 0.02, 0.001, 1e18, 2e18, 1e19, 3)
ANSWER = Proposals((RUN,), VERDICT, 1e19, 9e18, "abc", 7, {"n_params": 1e9, "source": "us"}, ("p1",))


def test_round_trip() -> None:
    assert proposals_from_json(json.loads(json.dumps(ANSWER.to_json()))) == ANSWER


def test_numbers_that_json_does_not_know() -> None:
    verdict = Verdict("stop", "", 0.1, float("nan"), 0.0, 0.0, 0.0, float("inf"))
    text = json.dumps(Proposals((), verdict, 0, 0, "", 0, {}).to_json(), allow_nan=False)
    assert json.loads(text)["verdict"]["evsi"] is None
    assert verdict.stop


def test_what_does_not_weigh_is_worthwhile_when_it_is_read_back() -> None:
    nan = float("nan")
    run = replace(RUN, evsi=nan, evsi_error=nan)
    verdict = Verdict("continue", "random", nan, nan, nan, 1e18, nan, nan)
    found = proposals_from_json(json.loads(json.dumps(Proposals((run,), verdict, 1e19, nan, "", 1, {}).to_json())))
    assert [p.run_id for p in found.worthwhile()] == ["sb-1"]
    assert all(math.isnan(v) for v in (found.proposals[0].evsi, found.verdict.evpi, found.budget_left_flops))


@pytest.mark.parametrize("damage", [{}, {"verdict": {}}, {"proposals": [{"id": 1}]}, {"seed": "x"}])
def test_damaged_proposals_are_refused(damage: dict[str, object]) -> None:
    plain = {} if not damage else ANSWER.to_json() | damage
    with pytest.raises(UserError, match="not proposals that scaleband wrote"):
        proposals_from_json(plain)


def test_what_is_worth_its_price_is_a_beginning_of_the_path() -> None:
    def run(name: str, bundle: str) -> Proposal:
        return Proposal(name, {}, 1e18, 0.1, 0.01, bundle)

    runs = (run("a", "one"), run("b", "one"), run("c", "two"), run("d", "three"))
    verdict = Verdict("continue", "", 0.1, 0.02, 0.001, 3e18, 5e18, 1e19)
    found = Proposals(runs, verdict, 1e19, 6e18, "", 1, {})
    assert [p.run_id for p in found.worthwhile()] == ["a", "b", "c"]
    assert replace(found, verdict=replace(verdict, action="stop")).worthwhile() == ()
    assert replace(found, verdict=replace(verdict, cost_flops=4e18)).worthwhile() == runs
    blind = replace(verdict, cost_flops=1.0, saving_flops=float("nan"))
    assert replace(found, verdict=blind).worthwhile() == runs
