"""The shape rule, the parameter counts, the schedules."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scaleband.errors import UserError
from scaleband.training import Shape, count, shape_for
from scaleband.training.schedules import rate, schedule_for
from scaleband.training.shapes import SMALLEST, layout, moe_shape


@pytest.mark.parametrize("n_params", np.geomspace(5e4, 1e9, 60).round().astype(int).tolist())
def test_one_rule_from_small_to_large(n_params) -> None:
    shape = shape_for("dense", n_params, 256)
    assert abs(count(shape).n_params / n_params - 1) < 0.02
    assert 1.5 <= shape.d_ff / shape.d_model <= 4.5
    assert 4 <= shape.n_layers <= 20
    assert (shape.d_model // shape.n_heads) in (16, 32, 64, 128)


@pytest.mark.parametrize("arch", ["moe-e8-k2", "moe-e16-k2", "moe-e64-k4"])
@pytest.mark.parametrize("n_params", [1_000_000, 30_000_000, 900_000_000])
def test_mixtures_hit_their_total(arch, n_params) -> None:
    shape = shape_for(arch, n_params, 256)
    found = count(shape)
    assert abs(found.n_params / n_params - 1) < 0.04
    assert found.n_active < 0.6 * found.n_params
    assert f"e{shape.n_experts}-k{shape.top_k}" in arch


@pytest.mark.parametrize(("arch", "off"), [("moe-e8-k2", 0.06), ("moe-e64-k8", 0.18)])
def test_small_mixtures_are_within_the_stated_tolerance(arch, off) -> None:
    experts, top_k = (int(part[1:]) for part in arch.split("-")[1:])
    smallest = count(moe_shape(SMALLEST, 256, experts, top_k)).n_params
    for n_params in np.geomspace(smallest, 20 * smallest, 8).round().astype(int).tolist():
        assert abs(count(shape_for(arch, n_params, 256)).n_params / n_params - 1) < off


def test_counts_by_hand() -> None:
    found = count(Shape(100, 8, 2, 2, 12, n_experts=4, top_k=2, d_shared=6))
    assert found.by_group == {
        "embedding": 800,
        "head": 800,
        "attention": 2 * 4 * 64,
        "router": 2 * 32,
        "experts": 2 * 4 * 3 * 8 * 12,
        "feed-forward": 2 * 3 * 8 * 6,
        "norms": 5 * 8,
    }
    assert found.total == sum(found.by_group.values()) == found.n_params + 1600
    assert found.n_active == found.n_params - 2 * 2 * 3 * 8 * 12
    assert len(layout(Shape(100, 8, 2, 2, 12))) == 2 + 2 * 6 + 1


@pytest.mark.parametrize(
    ("arch", "n_params", "given", "sentence"),
    [
        ("dense", 10_000, {}, "the shape rule goes from"),
        ("dense", 5e9, {}, "the shape rule goes from"),
        ("mamba", 10**6, {}, "is not one this trainer builds"),
        ("moe-e8-k1", 10**6, {}, "between 2 and n_experts"),
        ("dense", 10**6, {"d_model": 64}, "missing"),
        ("dense", 10**6, {"d_model": 64, "n_layers": 1, "n_heads": 3, "d_ff": 8}, "times an even number"),
        ("dense", 10**6, {"d_model": 64, "n_layers": 1, "n_heads": 2, "d_ff": 8, "x": 1}, "unexpected"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(arch, n_params, given, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        shape_for(arch, n_params, 256, given)


def test_cosine_against_its_formula(spec_of) -> None:
    spec = spec_of(n_tokens=100 * 1024, warmup="10", lr_final="1e-5", lr_peak=1e-2)
    plan = schedule_for(spec)
    rates = [rate(plan, step) for step in range(100)]
    assert rates[:10] == pytest.approx([1e-2 * k / 10 for k in range(1, 11)])
    for step in range(10, 100):
        cosine = math.cos(math.pi * (step - 9) / 90)
        assert rates[step] == pytest.approx(1e-5 + (1e-2 - 1e-5) / 2 * (1 + cosine))
    assert rates[-1] == pytest.approx(1e-5)
    assert max(rates) == rates[9] == 1e-2


def test_wsd_is_stable_and_then_decays(spec_of) -> None:
    plan = schedule_for(
        spec_of(n_tokens=100 * 1024, schedule="wsd", warmup="5%", lr_final="10%", lr_peak=1.0)
    )
    rates = [rate(plan, step) for step in range(100)]
    assert rates[4:80] == [1.0] * 76
    assert np.diff(rates[79:]) == pytest.approx([-0.9 / 20] * 20)
    assert rates[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("changes", [{"schedule": "linear"}, {"lr_final": "low"}, {"warmup": "200%"}])
def test_conventions_it_does_not_know_are_refused(spec_of, changes) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        schedule_for(spec_of(**changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lr_final": "0.1"}, "lr_final = '0.1' is above lr_peak = 0.01; a share of the peak is written 10%"),
        ({"warmup": "0.05"}, "no whole number of steps; for a share of the steps write 5%"),
        ({"warmup": "10.5"}, "warmup = '10.5' is no whole number of steps"),
        ({"warmup": "101"}, "is 101 steps, and of 100 the first 100 are before the end; write a share"),
        ({"schedule": "wsd", "warmup": "95%"}, "is 95 steps, and of 100 the first 80 are before the decay"),
        ({"schedule": "wsd", "warmup": "81"}, "is 81 steps, and of 100 the first 80 are before the decay"),
    ],
)
def test_schedules_that_would_not_be_as_stated_are_refused(spec_of, changes, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        schedule_for(spec_of(n_tokens=100 * 1024, lr_peak=1e-2, **changes))


def test_the_ends_of_what_a_schedule_may_be(spec_of) -> None:
    def rates(**changes: str) -> list[float]:
        plan = schedule_for(spec_of(n_tokens=100 * 1024, **({"lr_peak": 1e-2} | changes)))
        return [rate(plan, step) for step in range(100)]

    assert rates(lr_final="100%", warmup="0") == rates(lr_final="0.01", warmup="0.0") == [1e-2] * 100
    assert rates(lr_peak=1e-6, warmup="0") == [1e-6] * 100  # no final rate is stated
    assert rates(schedule="wsd", warmup="80%")[79] == 1e-2
    assert rates(warmup="100")[-1] == 1e-2
