"""What torch's own operators compute and move, recorded on meta tensors: for predictions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from .offline import Chip, Launch, record

aten: Any = torch.ops.aten
CONVOLUTIONS = (aten.convolution, aten.convolution_backward)
# They fill no memory, or only once.
FREE = (
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten.detach,
    aten.lift_fresh,
)


class Op(NamedTuple):
    """A call of an operator.

    Attributes:
        name: such as "aten::convolution".
        flops: of convolutions and matrix products, else 0.
        bytes: each input read once, each output written once.
    """

    name: str
    flops: float
    bytes: float


class Recorder(TorchDispatchMode):
    """Within it, the operators that are called are listed in `ops`. Views cost nothing and are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.overloadpacket in CONVOLUTIONS and args[0].is_contiguous(memory_format=torch.channels_last):
            # A GPU's convolution keeps the memory format, which the operator on meta tensors does not know.
            out = tree_map(lambda x: x.to(memory_format=torch.channels_last) if _bytes(x) and x.dim() == 4 else x, out)
        if func.namespace == "aten" and not func.is_view and func.overloadpacket not in FREE:
            formula = flop_registry.get(func.overloadpacket)
            flops = formula(*args, **kwargs, out_val=out) if formula else 0
            if func.overloadpacket is aten.convolution_backward:
                moved = _backward_bytes(args, out)
            else:
                moved = sum(map(_bytes, {id(x): x for x in tree_leaves((args, kwargs))}.values()))
                moved += sum(map(_bytes, tree_leaves(out)))
            self.ops.append(Op(func.name(), float(flops), moved))
        return out


def _backward_bytes(args: tuple[Any, ...], out: tuple[Tensor | None, ...]) -> float:
    """Of a convolution's gradients: dgrad reads g and the weight, wgrad reads g and x."""
    g, x, weight = map(_bytes, args[:3])
    grad_input, grad_weight, grad_bias = (_bytes(grad) for grad in out)
    return (
        (g + weight + grad_input if grad_input else 0)
        + (g + x + grad_weight if grad_weight else 0)
        + (g if grad_bias else 0)
    )


def _bytes(x: object) -> float:
    """Of the values of a tensor that are in memory: an expanded dimension counts once."""
    if not isinstance(x, Tensor):
        return 0
    return math.prod(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride) * x.element_size()


class Recorded(NamedTuple):
    """What some code does on a GPU."""

    ops: list[Op]
    launches: list[Launch]  # of Triton kernels


def record_all(chip: Chip, work: Callable[[], object]) -> Recorded:
    """The operators that `work` calls and the Triton kernels that it launches. Its tensors must be meta tensors."""
    with Recorder() as recorder:
        launches = record(chip, work)
    return Recorded(recorder.ops, launches)
