"""A value that a gradient takes for a constant.

PyTensor's own `disconnected_grad` is taken out of the graph before JAX, which works the gradients out, sees it.
"""

from __future__ import annotations

from typing import Any

from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op


class StopGradient(Op):
    """Its input, as it is; `translate` tells JAX to take no gradient of it."""

    __props__ = ()

    def make_node(self, x: Any) -> Apply[Any, Any]:
        return Apply(self, [x], [x.type()])

    def perform(self, node: Any, inputs: Any, output_storage: Any) -> None:
        output_storage[0][0] = inputs[0].copy()

    def infer_shape(self, node: Any, input_shapes: Any) -> Any:
        return input_shapes


def stop_gradient(x: Variable[Any, Any]) -> Variable[Any, Any]:
    """`x` without a gradient, in a model that JAX compiles; call `translate` before it does."""
    return StopGradient()(x)


def translate() -> None:
    """Register with PyTensor what the operation is in JAX. JAX is imported here, and not with the models."""
    import jax
    from pytensor.link.jax.dispatch import jax_funcify

    @jax_funcify.register(StopGradient)
    def _(op: StopGradient, **_: Any) -> Any:
        return jax.lax.stop_gradient
