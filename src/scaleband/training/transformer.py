"""A decoder-only transformer, dense or mixture of experts, for one run or several at once.

RMSNorm before each block, SwiGLU, rotary positions, no biases, an untied head. Every tensor has a leading `run`
dim, also for one run: several runs of one shape (other rates, other seeds) are one batched matrix product where
each alone would leave a GPU idle. Runs never mix: row r of the loss depends on row r of the parameters only.

Dims: run R, batch B (sequences), time T, model C, head H, token M = B T, expert E, choice K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from scaleband.training.shapes import Shape, layout

ROTARY_BASE = 10_000.0  # Su et al. 2021, arXiv:2104.09864
NORM_EPS = 1e-6  # assumption, as in Llama 2
INIT_STD = 0.02  # embedding and head, as in nanoGPT; other matrices 1/sqrt(fan in)
#: Weight of the load-balancing loss of Fedus et al. (2021, arXiv:2101.03961), who add it for every layer. Ours is the
#: mean over layers, so by their count it is 0.01 / layers. An assumption: the released sweep was trained so.
BALANCE = 0.01

Parameters = dict[str, Tensor]


def initial(shape: Shape, seeds: Sequence[int]) -> Tensor:
    """All parameters of one model per seed, flat: (run, parameter) float32 on the CPU, in `layout`'s order.

    What writes into the residual stream is scaled by 1/sqrt(2 layers) (Radford et al. 2019). A run's numbers
    depend on its own seed only.
    """
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for name, (group, dims) in layout(shape).items():
            if group == "norms":
                parts.append(torch.ones(dims))
                continue
            std = INIT_STD if group in ("embedding", "head") else dims[-2] ** -0.5
            if name.endswith(("out", "down")):
                std *= (2 * shape.n_layers) ** -0.5
            parts.append(torch.randn(dims, generator=generator) * std)
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def views(flat: Tensor, shape: Shape) -> Parameters:
    """The named tensors inside a flat one, (run, parameter) -> name -> (run, *dims). No copy."""
    found, start = {}, 0
    for name, (_, dims) in layout(shape).items():
        size = torch.Size(dims).numel()
        found[name] = flat[:, start : start + size].unflatten(1, dims)
        start += size
    return found


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """(R, M, in) times (R, in, out), in the precision of `x`."""
    weight = weight.to(x.dtype)
    # squeeze, not [0]: the gradient of an index is a copy into zeros
    return (x.squeeze(0) @ weight.squeeze(0)).unsqueeze(0) if len(x) == 1 else torch.bmm(x, weight)


def norm(x: Tensor, gain: Tensor) -> Tensor:
    """RMSNorm of (R, M, C), in float32 inside."""
    y = F.rms_norm(x.float(), x.shape[-1:], eps=NORM_EPS)
    return (y * gain[:, None]).to(x.dtype)


def rotary(seq_len: int, d_head: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of the positions, (T, d_head) each: for both halves of a head."""
    power = torch.arange(0, d_head, 2, device=device) / d_head
    angle = torch.arange(seq_len, device=device)[:, None] / ROTARY_BASE**power
    return angle.cos().repeat(1, 2), torch.cat([-angle.sin(), angle.sin()], 1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves (a, b) of each head into (a cos - b sin, b cos + a sin); x is (..., T, d_head)."""
    y = x.float()
    a, b = y.chunk(2, -1)
    return torch.addcmul(y * cos, torch.cat([b, a], -1), sin).to(x.dtype)


def attention(
    x: Tensor, qkv: Tensor, out: Tensor, batch: int, n_heads: int, turn: tuple[Tensor, Tensor]
) -> Tensor:
    """Causal self-attention of (R, M, C), through SDPA: flash attention where the device has it."""
    runs, tokens, width = x.shape
    heads = linear(x, qkv).view(runs * batch, tokens // batch, 3, n_heads, width // n_heads)
    turned, v = heads.permute(2, 0, 3, 1, 4).split((2, 1))  # queries and keys, values: (..., R B, H, T, d_head)
    q, k = rotate(turned, *turn)
    y = F.scaled_dot_product_attention(q, k, v.squeeze(0), is_causal=True)
    return linear(y.transpose(1, 2).reshape(runs, tokens, width), out)


def swiglu(x: Tensor, into: Tensor, down: Tensor) -> Tensor:
    """Shazeer 2020, arXiv:2002.05202; `into` holds gate and value side by side."""
    gate, value = linear(x, into).chunk(2, -1)
    return linear(F.silu(gate) * value, down)


def experts(x: Tensor, router: Tensor, into: Tensor, down: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Each token through its `top_k` experts, weighted by the router, none dropped.

    Tokens are sorted by (run, expert), so that all experts of all runs are one product.

    Returns
    -------
    (R, M, C), and the load-balancing loss, (R,): 1 when balanced (Fedus et al. 2021, eq. 4).
    """
    runs, tokens, width = x.shape
    n_experts = router.shape[-1]
    share = linear(x, router).float().softmax(-1)  # (R, M, E)
    weight, chosen = share.topk(top_k, -1)  # (R, M, K)
    weight = weight / weight.sum(-1, keepdim=True)
    group = (chosen + n_experts * torch.arange(runs, device=x.device)[:, None, None]).flatten()
    group = group.to(torch.int16 if runs * n_experts < 2**15 else torch.int32)  # short numbers are sorted faster
    group, order = group.sort(stable=True)
    # where each group ends, by search: counting would make a GPU answer before it goes on
    groups = torch.arange(runs * n_experts, dtype=group.dtype, device=x.device)
    ends = torch.searchsorted(group, groups, right=True)
    # repeated, then permuted: both directions are sums in a fixed order, the same on every run of a GPU
    visits = x.flatten(0, 1).repeat_interleave(top_k, 0).index_select(0, order)
    product = ragged if _grouped(x.device.type, x.dtype, runs * n_experts, width, down.shape[-2]) else padded
    y = product(visits, into.flatten(0, 1), down.flatten(0, 1), group, ends)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
    y = y.index_select(0, back)
    y = (y.view(runs, tokens, top_k, width) * weight[..., None].to(y.dtype)).sum(2)
    frequency = loads(ends).view(runs, n_experts) / (tokens * top_k)
    return y, n_experts * (frequency * share.mean(1)).sum(-1)


def _grouped(device: str, dtype: torch.dtype, groups: int, width: int, d_ff: int) -> bool:
    """Whether `ragged` may be used: rows are of whole 16 bytes, and on a GPU in bfloat16, of 1,023 groups at most."""
    suits = not any(size * dtype.itemsize % 16 for size in (width, 2 * d_ff))
    return suits and (device == "cpu" or (dtype == torch.bfloat16 and groups < 1024))


def asks_nothing(shape: Shape, runs: int, dtype: torch.dtype) -> bool:
    """Whether a GPU can be told a whole step at once: only `padded` has to know how full an expert is."""
    return not shape.n_experts or _grouped("cuda", dtype, runs * shape.n_experts, shape.d_model, shape.d_ff)


def loads(ends: Tensor) -> Tensor:
    """How many visits each group has, from where it ends among the sorted ones."""
    return ends.diff(prepend=ends.new_zeros(1))


def ragged(visits: Tensor, into: Tensor, down: Tensor, group: Tensor, ends: Tensor) -> Tensor:
    """Sorted visits (V, C) through the experts (R E, ...) that `group` (V,) names; the visits of each end at `ends`.

    Nothing is multiplied in vain: the fullest expert often has two or three times the mean.
    """
    ends = ends.to(torch.int32)
    gate, value = F.grouped_mm(visits, into.to(visits.dtype), offs=ends).chunk(2, -1)
    hidden, down = F.silu(gate) * value, down.to(visits.dtype)
    spare = -down.shape[1] % (16 // visits.element_size())
    if spare:  # columns of zeros, for rows of whole 16 bytes
        hidden, down = F.pad(hidden, (0, spare)), F.pad(down, (0, 0, 0, spare))
    return F.grouped_mm(hidden, down, offs=ends)


def padded(visits: Tensor, into: Tensor, down: Tensor, group: Tensor, ends: Tensor) -> Tensor:
    """The same as `ragged`, padded to the fullest expert: one batched product, for what has no grouped one."""
    load = loads(ends)
    fullest = int(load.max())
    group = group.long()
    rank = torch.arange(len(group), device=visits.device) - (ends - load)[group]
    slot = group * fullest + rank
    filled = visits.new_zeros(len(load) * fullest, visits.shape[1]).index_copy(0, slot, visits)
    return swiglu(filled.view(len(load), fullest, -1), into, down).flatten(0, 1)[slot]


def losses(
    parameters: Parameters, shape: Shape, sequences: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of next tokens.

    Parameters
    ----------
    parameters
        From `views`, float32, (R, ...).
    sequences
        Token ids, (R, B, T + 1).
    dtype
        Of the matrix products: float32 or bfloat16.

    Returns
    -------
    Nats per token of each sequence, (R, B), and the load-balancing loss averaged over layers, (R,).
    """
    runs, batch, length = sequences.shape
    inputs, targets = sequences[..., :-1].int(), sequences[..., 1:]  # the embedding's gradient sorts its indices
    width = shape.d_model
    turn = rotary(length - 1, width // shape.n_heads, sequences.device)
    offset = shape.vocab_size * torch.arange(runs, dtype=torch.int32, device=sequences.device)[:, None, None]
    table = parameters["embedding"].reshape(-1, width)
    x = F.embedding(inputs + offset, table).reshape(runs, -1, width).to(dtype)  # (R, M, C)
    balance = torch.zeros(runs, device=x.device)
    for i in range(shape.n_layers):
        p = {name.split(".")[1]: t for name, t in parameters.items() if name.startswith(f"{i}.")}
        x = x + attention(norm(x, p["norm_attention"]), p["qkv"], p["out"], batch, shape.n_heads, turn)
        y = norm(x, p["norm_ff"])
        if "ff_in" in p:
            x = x + swiglu(y, p["ff_in"], p["ff_down"])
        if "router" in p:
            routed, uneven = experts(y, p["router"], p["experts_in"], p["experts_down"], shape.top_k)
            x, balance = x + routed, balance + uneven / shape.n_layers
    logits = linear(norm(x, parameters["norm_final"]), parameters["head"]).float()
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return each.view(runs, batch, -1).mean(-1), balance
