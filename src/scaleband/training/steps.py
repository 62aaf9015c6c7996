"""The steps of a training: AdamW, early divergence, accumulation; done one by one, or replayed as a CUDA graph.

A small model leaves a GPU waiting for the next operation to be sent. So a step is written without any question that
the GPU would have to answer: it reads its sequences and rates from buffers that a chunk of steps fills, at a
position that the device itself counts up. Such a step is recorded once and replayed with one call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw as torch_adamw

from scaleband.training.conventions import BETAS, CLIP, EPS, WEIGHT_DECAY, weight_decay_of
from scaleband.training.protocol import RunSpec
from scaleband.training.schedules import rate, schedule_for
from scaleband.training.shapes import Shape, layout
from scaleband.training.tokens import TokenData, batch, known
from scaleband.training.transformer import BALANCE, asks_nothing, initial, losses, views

#: A run diverged when its smoothed loss stands this far above its own lowest, nats per token, or, after a tenth of the
#: run, when it is clearly worse than uniform guessing: by this much, and by as much above its own lowest. The latter
#: because a model that has hardly moved is no divergence, and one of ours that is untrained stands 0.0 (widths to 32)
#: to 0.3 (2,048) above guessing. Smoothed over ten steps, or more where batches are small: sixteen tokens of source
#: code are a nat above or below the mean by chance. Assumptions.
DIVERGED_ABOVE, WORSE_THAN_GUESSING, SMOOTHING_STEPS, SMOOTHING_TOKENS = 1.0, 0.1, 10, 2048
#: Steps whose sequences are sent at a time, at most. Where steps are not recorded nothing is gained by more than one.
CHUNK_STEPS, CHUNK_BYTES = {"cpu": 1, "cuda": 256}, 2**24
WARM_STEPS = 3  # before recording: libraries set themselves up in the first ones
_RECORDING = threading.Lock()  # several trainings may share a GPU, each in its own thread


@dataclass
class State:
    """What changes during training; all tensors (run, parameter) or (run,), all saved in a checkpoint."""

    weights: Tensor
    mean: Tensor
    square: Tensor
    alive: Tensor
    smooth: Tensor
    lowest: Tensor
    ended: Tensor  # steps that a run did, the one in which it diverged included; the number of steps until it does
    step: int = 0
    seconds: float = 0.0
    curve: list[list[float]] = dataclasses.field(default_factory=list)


def own_stream(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A stream for one training, so that several in threads of one process share a GPU; nothing elsewhere."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))


def fresh(shape: Shape, specs: Sequence[RunSpec], device: torch.device) -> State:
    """Before the first step."""
    weights = initial(shape, [spec.seed for spec in specs]).to(device)
    runs = len(specs)
    return State(
        weights=weights,
        mean=torch.zeros_like(weights),
        square=torch.zeros_like(weights),
        alive=torch.ones(runs, dtype=torch.bool, device=device),
        smooth=torch.full((runs,), math.inf, device=device),
        lowest=torch.full((runs,), math.inf, device=device),
        ended=torch.full((runs,), specs[0].steps, device=device),
    )


def adamw(
    state: State,
    gradient: Tensor,
    rates: Sequence[float] | Tensor,
    decayed: int,
    done: Tensor,
    alive: Sequence[bool] | None = None,
    decay: float = WEIGHT_DECAY,
) -> None:
    """One AdamW step in place (Loshchilov & Hutter 2019, arXiv:1711.05101): torch's fused kernel, run by run.

    One pass over memory, where the separate operations of `stacked_adamw` take a dozen: a mixture of experts has many
    more parameters than it multiplies.

    Parameters
    ----------
    gradient
        (run, parameter).
    rates
        Learning rate of each run; on a GPU a tensor there.
    decayed
        The first so many parameters are decayed (matrices); the others (gains) are not.
    done
        Steps before this one, a tensor on the device.
    alive
        Of each run: the others stay as they are. None updates all: runs never mix, and a GPU would have to be asked.
    decay
        Weight decay, of all runs.
    """
    rows = (state.weights, gradient, state.mean, state.square)
    counts = done.float().repeat(2 * len(gradient))  # torch counts up in place, so each call has its own
    for row in range(len(gradient)):
        if alive is not None and not alive[row]:
            continue
        for k, (part, own) in enumerate(((slice(decayed), decay), (slice(decayed, None), 0.0))):
            torch_adamw(
                *([tensor[row, part]] for tensor in rows), max_exp_avg_sqs=[], state_steps=[counts[2 * row + k]],
                fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1], lr=rates[row], weight_decay=own, eps=EPS,
                maximize=False,
            )  # fmt: skip


def stacked_adamw(
    state: State, gradient: Tensor, rates: Tensor, decayed: int, done: Tensor, decay: float = WEIGHT_DECAY
) -> None:
    """The same for all runs at once: what a stack of small ones wants on a GPU, where each call is dear.

    Parameters as in `adamw`; `rates` is (run,).
    """
    step = (done + 1).double()
    state.mean.lerp_(gradient, 1 - BETAS[0])
    state.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    root = (state.square / (1 - BETAS[1] ** step).float()).sqrt_().add_(EPS)
    state.weights[:, :decayed].mul_(1 - decay * rates[:, None])
    state.weights.addcdiv_(state.mean * (-rates / (1 - BETAS[0] ** step).float())[:, None], root)


def watch(state: State, loss: Tensor, step: Tensor | int, guessing: float, steps: int, window: int) -> None:
    """Smooth the loss over `window` steps, and mark the runs that diverged; in place, without asking the device.

    What a run that diverged was smoothed to stays as it was then: `why_lost` reads it.
    """
    step = torch.as_tensor(step, device=loss.device)
    begun = state.smooth.isfinite()
    smooth = torch.where(begun, state.smooth + (loss - state.smooth) / window, loss)
    state.smooth.copy_(torch.where(state.alive, smooth, state.smooth))
    state.lowest.copy_(torch.fmin(state.lowest, state.smooth))
    lost = ~loss.isfinite() | (state.smooth > state.lowest + DIVERGED_ABOVE)
    worse = state.smooth > state.lowest.clamp(min=guessing) + WORSE_THAN_GUESSING
    lost |= (step >= max(2 * window, steps // 10)) & worse
    state.ended.copy_(torch.where(state.alive & lost, step + 1, state.ended))  # steps count from 0
    state.alive.logical_and_(~lost)


def why_lost(state: State, row: int, guessing: float) -> str:
    """The rule by which `watch` marked a run, in words."""
    smooth, lowest = float(state.smooth[row]), float(state.lowest[row])
    if not math.isfinite(smooth):
        return "the training loss was not finite"
    if smooth > lowest + DIVERGED_ABOVE:
        return (
            f"the training loss, smoothed, was {smooth:.4g}, more than {DIVERGED_ABOVE:g} above its own lowest "
            f"({lowest:.4g})"
        )
    return (
        f"the training loss, smoothed, was {smooth:.4g}, more than {WORSE_THAN_GUESSING:g} above that of guessing "
        f"({guessing:.4g}) and its own lowest ({lowest:.4g})"
    )


class Steps:
    """The steps of one stack, in chunks.

    Parameters
    ----------
    state
        Changed in place.
    shape, specs, data, seq_len
        What is trained, on which tokens.
    micro
        Sequences of one forward pass; a batch is accumulated over them.
    dtype
        Of the matrix products.
    compiled, recorded
        Whether to use torch.compile, and a CUDA graph where the step suits.
    """

    def __init__(
        self,
        state: State,
        shape: Shape,
        specs: Sequence[RunSpec],
        data: Sequence[TokenData],
        seq_len: int,
        *,
        micro: int,
        dtype: torch.dtype,
        compiled: bool = False,
        recorded: bool = True,
    ) -> None:
        first, runs, self._device = specs[0], len(specs), state.weights.device
        self.state, self._shape, self._dtype, self._micro = state, shape, dtype, micro
        self._plans, self._decay = [schedule_for(spec) for spec in specs], weight_decay_of(first)
        self._total, self._n_sequences = first.steps, first.batch_tokens // seq_len
        self._seq_len = seq_len
        self._window = max(SMOOTHING_STEPS, SMOOTHING_TOKENS // first.batch_tokens)
        self._decayed = sum(math.prod(dims) for group, dims in layout(shape).values() if group != "norms")
        # runs of one text and one seed see the same sequences, which are cut and sent once
        drawn = [(id(tokens), spec.seed) for tokens, spec in zip(data, specs, strict=True)]
        distinct = {key: tokens for key, tokens in zip(drawn, data, strict=True)}
        self._sources = [(tokens.train, seed) for (_, seed), tokens in distinct.items()]
        self._which = torch.tensor([list(distinct).index(key) for key in drawn], device=self._device)

        self._gradient = torch.zeros_like(state.weights)
        #: What the matrix products see: the weights, or their copy in lower precision, made once a step.
        self._low = state.weights if dtype == state.weights.dtype else state.weights.to(dtype)
        low = views(self._low.detach(), shape)
        exact = {name for name, (group, _) in layout(shape).items() if group in ("embedding", "norms")}
        self._leaves = {
            name: (each if name in exact else low[name]).requires_grad_()
            for name, each in views(state.weights.detach(), shape).items()
        }
        self._loss_of = torch.compile(losses) if compiled else losses

        kind = self._device.type
        size = (len(self._sources), self._n_sequences, seq_len + 1)
        #: Steps of a chunk at most.
        self.longest = max(1, min(CHUNK_STEPS.get(kind, 1), CHUNK_BYTES // (8 * math.prod(size))))
        self._rows = torch.zeros(self.longest, *size, dtype=torch.int64, device=self._device)
        rate_dtype = torch.float64 if kind == "cpu" else torch.float32
        self._rates = torch.zeros(self.longest, runs, dtype=rate_dtype, device=self._device)
        self._losses = torch.zeros(self.longest, runs, device=self._device)
        self._position = torch.zeros(1, dtype=torch.int64, device=self._device)
        self._done = torch.tensor(state.step, device=self._device)
        self._recorded = recorded and kind == "cuda" and asks_nothing(shape, runs, dtype)
        self._warm, self._graph = 0, None

    def advance(self, n: int) -> tuple[list[list[float]], list[list[float]]]:
        """Do `n` steps, at most `longest`; the losses and rates of each, (step, run)."""
        begin = self.state.step
        rates = [[rate(plan, begin + k) for plan in self._plans] for k in range(n)]
        rows = np.stack([
            [batch(tokens, seed, begin + k, self._n_sequences, self._seq_len) for tokens, seed in self._sources]
            for k in range(n)
        ])  # fmt: skip
        self._rows[:n].copy_(torch.from_numpy(known(rows, self._shape.vocab_size)))
        self._rates[:n].copy_(torch.tensor(rates, dtype=torch.float64))
        self._position.zero_()
        for _ in range(n):
            self._step()
        self.state.step += n
        return self._losses[:n].tolist(), rates

    def _step(self) -> None:
        if self._graph is not None:
            self._graph.replay()
            return
        self._once()
        self._warm += 1
        if self._recorded and self._warm == WARM_STEPS:
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
            with _RECORDING, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._once()  # told, not done
            self._graph = graph

    def _once(self) -> None:
        state, at = self.state, self._position
        sequences = self._rows.index_select(0, at).squeeze(0).index_select(0, self._which)
        rates = self._rates.index_select(0, at).squeeze(0)
        total = torch.zeros(len(sequences), device=self._device)
        if self._low is not state.weights:
            self._low.copy_(state.weights)
        for k, part in enumerate(sequences.split(self._micro, dim=1)):
            each, balance = self._loss_of(self._leaves, self._shape, part, self._dtype)
            share = part.shape[1] / self._n_sequences
            objective = share * (each.mean(1) + BALANCE * balance).sum()
            self._collect(torch.autograd.grad(objective, list(self._leaves.values())), add=k > 0)
            total += each.detach().mean(1) * share
        watch(state, total, self._done, math.log(self._shape.vocab_size), self._total, self._window)
        size = torch.linalg.vector_norm(self._gradient, dim=1, keepdim=True)
        on_cpu = self._device.type == "cpu"
        if not on_cpu or bool((size > CLIP).any()):  # a GPU would have to be waited for
            self._gradient.mul_((CLIP / (size + 1e-6)).clamp(max=1.0))
        if on_cpu:
            alive = state.alive.tolist()
            adamw(state, self._gradient, rates.tolist(), self._decayed, self._done, alive, self._decay)
        elif len(rates) == 1:
            adamw(state, self._gradient, rates, self._decayed, self._done, decay=self._decay)
        else:
            stacked_adamw(state, self._gradient, rates, self._decayed, self._done, self._decay)
        self._losses.index_copy_(0, at, total[None])
        at.add_(1)
        self._done.add_(1)

    def _collect(self, found: Sequence[Tensor], *, add: bool) -> None:
        """Lay the gradients of the leaves side by side; on a GPU neighbours of one precision in one go."""
        start = 0
        if self._device.type == "cpu":  # calls are cheap there, and memory in between is not
            for each in found:
                into = self._gradient[:, start : start + each[0].numel()].view_as(each)
                (into.add_ if add else into.copy_)(each)
                start += each[0].numel()
            return
        for _, some in itertools.groupby(found, key=lambda each: each.dtype):
            joined = torch.cat([each.flatten(1) for each in some], 1)
            into = self._gradient[:, start : start + joined.shape[1]]
            (into.add_ if add else into.copy_)(joined)
            start += joined.shape[1]
