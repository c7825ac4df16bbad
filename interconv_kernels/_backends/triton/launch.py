"""Launches a kernel without Triton's own dispatch, which takes longer than everything else that a launch does.

Triton binds the arguments of each launch to the kernel's signature, decides what it would specialise on, and looks up
what it compiled for that. Here this happens once for each variant of a kernel, and later launches find the compiled
kernel by a short key.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.tools.tensor_descriptor import TensorDescriptor

from ...sets import INT32_MAX

Argument: TypeAlias = Tensor | TensorDescriptor | int | None
_compiled: dict[tuple[Any, ...], tuple[CompiledKernel, tuple[None, ...]]] = {}


def launch(
    kernel: Any, programs: int, like: Tensor, arguments: tuple[Argument, ...], constants: dict[str, Any]
) -> None:
    """Runs `programs` programs of a kernel on the current stream of a tensor's device.

    Nothing here waits for the device, and a launch of a variant that ran before can be captured in a CUDA graph.

    Args:
        kernel: a function of set_kernels.py or conv_kernels.py. Its integers must be excluded from specialisation.
        programs: the size of the grid.
        like: a tensor on the device.
        arguments: the kernel's pointers, tensor descriptors and sizes, in order.
        constants: its constants and Triton's options; always in the same order for the same kernel.
    """
    key = (kernel, like.device, *constants.values(), *map(_kind, arguments))
    found = _compiled.get(key)
    with torch.cuda.device_of(like):
        if found is not None:
            compiled, no_constants = found
            compiled[(programs,)](*arguments, *no_constants)
            return
        compiled = kernel[(programs,)](*arguments, **constants)
    if isinstance(compiled, CompiledKernel):  # not in the interpreter
        _compiled[key] = compiled, (None,) * (len(kernel.params) - len(arguments))  # constants are compiled in


def _kind(argument: Argument) -> Any:
    """All that Triton compiles for in an argument that is not a constant."""
    if isinstance(argument, int):
        return argument > INT32_MAX
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if argument is None:
        return None
    return argument.base.dtype, *argument.block_shape
