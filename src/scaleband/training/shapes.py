"""The shape of a transformer: one rule from 50 thousand to a billion parameters, and its parameters by group."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from scaleband.errors import UserError

SMALLEST, LARGEST = 50_000, 1_000_000_000


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer, dense (`n_experts = 0`) or mixture of experts.

    Attributes
    ----------
    vocab_size, d_model, n_layers, n_heads
        As usual; `d_model` is a multiple of `n_heads`, and the quotient is even (rotary positions).
    d_ff
        Width of the SwiGLU; in a mixture of experts that of each expert.
    n_experts, top_k
        Experts in a layer, and how many of them each token visits.
    d_shared
        Width of the expert that every token visits, 0 for none.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    n_experts: int = 0
    top_k: int = 0
    d_shared: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"shape: {name} = {getattr(self, name)}: at least 1 is needed"
            for name in ("vocab_size", "d_model", "n_layers", "n_heads", "d_ff")
            if getattr(self, name) < 1
        ]
        if not problems and (self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2):
            problems.append(
                f"shape: d_model = {self.d_model} is not n_heads = {self.n_heads} times an even number"
            )
        if self.n_experts and not 2 <= self.top_k <= self.n_experts:
            # with one expert a token the normalised weight is 1: the router would learn nothing from the loss
            problems.append(
                f"shape: top_k = {self.top_k} must lie between 2 and n_experts = {self.n_experts}"
            )
        if not self.n_experts and (self.top_k or self.d_shared):
            problems.append("shape: top_k and d_shared need n_experts")
        if problems:
            raise UserError(problems)


@dataclass(frozen=True)
class Counts:
    """Parameters of a shape; `by_group` sums to `total`.

    `n_params` leaves out the embedding and the head; `n_active` also the experts that a token does not visit.
    """

    by_group: dict[str, int]
    total: int
    n_params: int
    n_active: int


def layout(shape: Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor of one model: name -> (group, dims). Matrices are (in, out); norm gains come last."""
    c, v = shape.d_model, shape.vocab_size
    found: dict[str, tuple[str, tuple[int, ...]]] = {
        "embedding": ("embedding", (v, c)),
        "head": ("head", (c, v)),
    }
    for i in range(shape.n_layers):
        found[f"{i}.qkv"] = ("attention", (c, 3 * c))
        found[f"{i}.out"] = ("attention", (c, c))
        if shape.n_experts:
            found[f"{i}.router"] = ("router", (c, shape.n_experts))
            found[f"{i}.experts_in"] = ("experts", (shape.n_experts, c, 2 * shape.d_ff))
            found[f"{i}.experts_down"] = ("experts", (shape.n_experts, shape.d_ff, c))
        shared = shape.d_shared if shape.n_experts else shape.d_ff
        if shared:
            found[f"{i}.ff_in"] = ("feed-forward", (c, 2 * shared))
            found[f"{i}.ff_down"] = ("feed-forward", (shared, c))
    for i in range(shape.n_layers):
        found[f"{i}.norm_attention"] = ("norms", (c,))
        found[f"{i}.norm_ff"] = ("norms", (c,))
    found["norm_final"] = ("norms", (c,))
    return found


def count(shape: Shape) -> Counts:
    """Count the parameters, group by group, and check the sum against the closed form."""
    by_group: dict[str, int] = {}
    for group, dims in layout(shape).values():
        by_group[group] = by_group.get(group, 0) + math.prod(dims)
    c, layers, e = shape.d_model, shape.n_layers, shape.n_experts
    width = shape.d_shared + e * shape.d_ff if e else shape.d_ff
    n_params = layers * (4 * c * c + 3 * c * width + c * e + 2 * c) + c
    total = n_params + 2 * shape.vocab_size * c
    if sum(by_group.values()) != total:
        raise AssertionError(f"{by_group} do not sum to {total}")
    idle = layers * 3 * c * shape.d_ff * (e - shape.top_k) if e else 0
    return Counts(by_group, total, n_params, n_params - idle)


def dense_shape(n_params: int, vocab_size: int, multiple: int = 4) -> Shape:
    """The dense shape nearest to `n_params` non-embedding parameters (within 2 %).

    Layers grow as n^0.1625, from 4 at 50 thousand to 20 at a billion, so that width over depth goes from 8 to
    about 100 (assumption, between the sweeps of Kaplan et al. 2020 and common practice at 1 B). The width is a
    whole number of heads of 16, 32, 64 or 128; the feed-forward width (a multiple of `multiple`, near 8/3 of
    the model's) takes up the rest.

    Raises
    ------
    UserError
        Outside `SMALLEST` to `LARGEST` (2 % of slack).
    """
    if not 0.98 * SMALLEST <= n_params <= 1.02 * LARGEST:
        raise UserError(
            f"n_params = {n_params}: the shape rule goes from {SMALLEST:,} to {LARGEST:,}; give a shape"
        )
    layers = max(2, round(4 * (n_params / 5e4) ** 0.1625))
    width = math.sqrt(n_params / (12 * layers))
    head = 16 if width < 128 else 32 if width < 320 else 64 if width < 1024 else 128
    c = max(1, round(width / head)) * head
    d_ff = multiple * max(1, round(((n_params - c) / layers - 4 * c * c - 2 * c) / (3 * c) / multiple))
    return Shape(vocab_size, c, layers, c // head, d_ff)


def moe_shape(n_active: int, vocab_size: int, n_experts: int, top_k: int) -> Shape:
    """The mixture of experts of which each token uses about `n_active` parameters.

    What a token uses has the dense rule's shape; its feed-forward width is split evenly over the shared expert
    and the `top_k` experts. The router comes on top. The width comes in steps of 4 (`top_k` + 1), so a small model is
    further from `n_active` than a dense one.
    """
    dense = dense_shape(n_active, vocab_size, multiple=4 * (top_k + 1))
    part = dense.d_ff // (top_k + 1)
    return Shape(
        vocab_size, dense.d_model, dense.n_layers, dense.n_heads, part, n_experts, top_k, part
    )  # fmt: skip


def moe_shape_of_total(n_params: int, vocab_size: int, n_experts: int, top_k: int) -> Shape:
    """The mixture nearest to `n_params` in total. Raises UserError outside the rule's range.

    Widths come in steps, and every expert takes each: the worst of 160 sizes up to a billion was 5.9 % off with 8
    experts of which 2 are visited (at 121 thousand), 5.2 % with 16 and 2 (213 thousand), 17 % with 64 and 8 (277
    thousand). A run's result says what was built.
    """
    smallest = count(moe_shape(SMALLEST, vocab_size, n_experts, top_k)).n_params
    if not 0.98 * smallest <= n_params <= LARGEST:
        raise UserError(
            f"n_params = {n_params}: with {n_experts} experts the shape rule goes from {smallest:,} to {LARGEST:,}"
        )
    # total is monotone in active only up to rounding, so the nearest of a fine grid is taken
    sizes = [round(SMALLEST * (n_params / SMALLEST) ** (k / 400)) for k in range(401)]
    shapes = [moe_shape(size, vocab_size, n_experts, top_k) for size in sizes]
    return min(shapes, key=lambda shape: abs(math.log(count(shape).n_params / n_params)))


def shape_for(arch: str, n_params: int, vocab_size: int, given: dict[str, Any] | None = None) -> Shape:
    """The shape that a specification means: the numbers given, or the rule for its architecture.

    Parameters
    ----------
    arch
        `dense`, or `moe-eE-kK`: E experts, of which each token visits K.
    n_params
        Non-embedding parameters; for a mixture of experts the total.
    vocab_size
        Tokens that the tokenizer knows.
    given
        A shape as in `RunSpec.shape`; if not empty it is taken as it is.
    """
    if given:
        try:
            return Shape(**({"vocab_size": vocab_size} | given))
        except TypeError as error:
            text = str(error).replace("Shape.__init__() ", "")
            raise UserError(f"shape: {text}") from None
    if arch == "dense":
        return dense_shape(n_params, vocab_size)
    found = re.fullmatch(r"moe-e(\d{1,4})-k(\d{1,3})", arch)
    if not found:
        raise UserError(
            f"arch = {arch!r} is not one this trainer builds: dense, or moe-eE-kK as in moe-e8-k2"
        )
    return moe_shape_of_total(n_params, vocab_size, int(found[1]), int(found[2]))
