"""Columns of the law: names, values, missing levels, forms, and invariance to where the logs are centred."""

from __future__ import annotations

import numpy as np
import pytest

from scaleband.laws import FEATURES, FORMS, Cells, design_for, published_optimum
from scaleband.laws import design as design_module

CELLS = Cells(
    source=("a", "a", "b", "b"),
    arch=("dense", "moe-1in8", "dense", "moe"),
    data=("web", "web", "code", "web"),
    n_params=np.array([1e8, 4e8, 5e8, 4e8]),
    n_active=np.array([1e8, 1e8, 5e8, 2e8]),
    n_tokens=np.array([2e10, 5e9, 4e10, 5e9]),
)


def test_columns_are_the_features_then_every_level_once() -> None:
    design = design_for(CELLS)
    assert design.columns[: len(FEATURES)] == FEATURES
    assert len(set(design.columns)) == len(design.columns) == len(design.roles)
    named = list(zip(design.columns, design.roles, strict=True))
    by_role = {role: [c for c, r in named if r == role] for role in design.roles}
    assert by_role["source"] == ["source:a", "source:b"]
    assert by_role["family"] == ["family:dense", "family:moe"]
    assert by_role["variant"] == ["variant:moe-1in8"]
    assert by_role["data"] == ["data:code", "data:web"]
    assert by_role["size"] == [
        "size:a/dense/1e+08", "size:a/moe-1in8/4e+08", "size:b/dense/5e+08", "size:b/moe/4e+08"
    ]  # fmt: skip
    assert by_role["exponent"] == [
        f"exponent:{f}:{role}"
        for role in ("source:a", "source:b", "family:dense", "family:moe")
        for f in (("n", "d", "d2") if role.startswith("family") else ("n", "d"))
    ]
    assert design.deviating("source") == ("n", "d")
    assert design.deviating("family") == ("n", "d", "d2")


def test_matrix_by_hand() -> None:
    design = design_for(CELLS)
    x = design.matrix(CELLS)
    value = {name: x[:, k] for k, name in enumerate(design.columns)}
    n, d = np.log(CELLS.n_params / 5e8), np.log(CELLS.n_tokens / 2e10)
    np.testing.assert_allclose(value["intercept"], 1.0)
    np.testing.assert_allclose(value["n"], n)
    np.testing.assert_allclose(value["d"], d)
    np.testing.assert_allclose(value["n2"], n * n)
    np.testing.assert_allclose(value["d2"], d * d)
    np.testing.assert_allclose(value["nd"], n * d)
    np.testing.assert_allclose(value["sparsity"], np.log([1.0, 4.0, 1.0, 2.0]))
    np.testing.assert_array_equal(value["source:b"], [0, 0, 1, 1])
    np.testing.assert_array_equal(value["family:moe"], [0, 1, 0, 1])
    np.testing.assert_array_equal(value["variant:moe-1in8"], [0, 1, 0, 0])
    np.testing.assert_allclose(value["exponent:n:source:a"], [n[0], n[1], 0, 0])
    np.testing.assert_allclose(value["exponent:d:family:moe"], [0, d[1], 0, d[3]])
    np.testing.assert_allclose(value["exponent:d2:family:moe"], [0, d[1] ** 2, 0, d[3] ** 2])


def test_every_fitted_cell_has_one_level_of_each_role_and_nothing_missing() -> None:
    design = design_for(CELLS)
    x, roles = design.matrix(CELLS), np.array(design.roles)
    for role in ("source", "family", "data", "size"):
        np.testing.assert_array_equal(x[:, roles == role].sum(1), 1.0)
        assert design.missing(CELLS, role) == ["", "", "", ""]


def test_missing_levels_are_named_and_contribute_nothing() -> None:
    design = design_for(CELLS)
    other = Cells(("c", "a"), ("ssm-2", "moe-1in64"), ("web", "books"), np.array([1e9, 4e8]), np.array([1e9, 1e8]),
                  np.array([1e10, 5e9]))  # fmt: skip
    assert design.missing(other, "source") == ["c", ""]
    assert design.missing(other, "family") == ["ssm", ""]
    assert design.missing(other, "variant") == ["ssm-2", "moe-1in64"]
    assert design.missing(other, "data") == ["", "books"]
    assert design.missing(other, "size") == ["c/ssm-2/1e+09", "a/moe-1in64/4e+08"]
    x, roles = design.matrix(other), np.array(design.roles)
    assert not x[0, (roles != "shared") & (roles != "data")].any()
    assert x[1, design.columns.index("source:a")] == 1.0


@pytest.mark.parametrize("name", sorted(FORMS))
def test_forms_name_features_only(name: str) -> None:
    form = FORMS[name]
    allowed = set(FEATURES) | {"exponent", "bend"}
    for part in (form.lr, form.batch):
        assert {"intercept", "d", "sparsity"} <= part <= allowed
    assert "n" in form.lr
    assert ("n" in form.batch) == (name != "linear-batch-d")


def test_moving_the_reference_moves_no_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The span of the shared columns does not depend on the units that the logs are centred at."""
    rng = np.random.default_rng(3)
    n, d = 10 ** rng.uniform(8, 10, 12), 10 ** rng.uniform(9, 12, 12)
    cells = Cells(("a",) * 12, ("dense",) * 12, ("web",) * 12, n, n / rng.uniform(1, 8, 12), d)
    before = design_module.features(cells)
    response = before @ rng.normal(size=len(FEATURES))
    monkeypatch.setattr(design_module, "REFERENCE", dict(design_module.REFERENCE) | {"n_params": 3.0, "n_tokens": 7e3})
    after = design_module.features(cells)
    assert not np.allclose(before, after)
    fitted = after @ np.linalg.lstsq(after, response, rcond=None)[0]
    np.testing.assert_allclose(fitted, response, rtol=1e-6)


def test_published_step_law_by_hand() -> None:
    # 10^(log10 1.79 - 0.713 * 9 + 0.307 * 10.30103) and 10^(log10 0.58 + 0.571 * 10.30103)
    lr, batch = published_optimum(1e9, 2e10)
    np.testing.assert_allclose(lr, 10 ** (np.log10(1.79) - 6.417 + 0.307 * (10 + np.log10(2))), rtol=1e-12)
    np.testing.assert_allclose([lr, batch], [9.95e-4, 4.41e5], rtol=5e-3)
    more_lr, more_batch = published_optimum(1e9, 4e10)
    np.testing.assert_allclose([more_lr / lr, more_batch / batch], [2**0.307, 2**0.571], rtol=1e-12)
