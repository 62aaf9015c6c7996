"""A stack's runs shared out among the threads of a CPU.

Small products gain little from a second thread of their own, and a stack has several runs that never mix. So each
thread trains some of them, with products of one thread. The state is one, as of any stack: a thread sees its rows of
it, and a checkpoint does not know how many threads there were.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from scaleband.training.protocol import RunSpec
from scaleband.training.shapes import Shape
from scaleband.training.steps import State, Steps
from scaleband.training.tokens import TokenData


class SharedSteps:
    """As `Steps`, in several threads; see `steps_of`, which makes it and ends its threads."""

    def __init__(self, state: State, parts: Sequence[Steps], pool: ThreadPoolExecutor) -> None:
        self._state, self._parts, self._pool = state, parts, pool
        self.longest = min(part.longest for part in parts)

    def advance(self, n: int) -> tuple[list[list[float]], list[list[float]]]:
        """Do `n` steps, at most `longest`; the losses and rates of each, (step, run)."""
        # all are waited for before any error is raised: none may still be writing into the state then
        asked = [self._pool.submit(part.advance, n) for part in self._parts]
        errors = [error for each in asked if (error := each.exception()) is not None]
        if errors:
            raise errors[0]
        found = [each.result() for each in asked]
        self._state.step += n
        losses, rates = (
            [[number for part in found for number in part[kind][step]] for step in range(n)] for kind in (0, 1)
        )
        return losses, rates


@contextmanager
def steps_of(
    state: State, shape: Shape, specs: Sequence[RunSpec], data: Sequence[TokenData], seq_len: int, **how: Any
) -> Iterator[Steps | SharedSteps]:
    """`Steps` of these runs, on a CPU with several threads in as many shares as it has; parameters as of `Steps`."""
    threads = torch.get_num_threads()
    n = min(threads, len(specs)) if state.weights.device.type == "cpu" else 1
    if n == 1:
        yield Steps(state, shape, specs, data, seq_len, **how)
        return
    bounds = [len(specs) * k // n for k in range(n + 1)]
    rows = [slice(*pair) for pair in itertools.pairwise(bounds)]
    parts = [Steps(_rows_of(state, own), shape, specs[own], data[own], seq_len, **how) for own in rows]
    with ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(threads // n,)) as pool:
        try:
            yield SharedSteps(state, parts, pool)
        finally:
            torch.set_num_threads(threads)  # what the pool's threads said holds for every thread begun after them


def _rows_of(state: State, rows: slice) -> State:
    """The same tensors, seen by some of the runs: what is changed in place is changed in `state`."""
    own: dict[str, Any] = {
        f.name: getattr(state, f.name)[rows]
        for f in dataclasses.fields(state)
        if isinstance(getattr(state, f.name), Tensor)
    }
    return dataclasses.replace(state, **own, curve=[])
