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

Pointer: TypeAlias = Tensor | TensorDescriptor | None
_compiled: dict[tuple[Any, ...], tuple[CompiledKernel, tuple[None, ...]]] = {}


def launch(
    kernel: Any,
    programs: int,
    like: Tensor,
    pointers: tuple[Pointer, ...],
    sizes: tuple[int, ...],
    constants: dict[str, Any],
) -> None:
    """Runs `programs` programs of a kernel on the current stream of a tensor's device.

    Nothing here waits for the device, and a launch of a variant that ran before can be captured in a CUDA graph.

    Args:
        kernel: a function of set_kernels.py or conv_kernels.py.
        programs: the size of the grid.
        like: a tensor on the device.
        pointers: the kernel's first arguments.
        sizes: its integers, which follow. The kernel must exclude them from specialisation.
        constants: the rest, and Triton's options; always in the same order for the same kernel.
    """
    kinds = [x if x is None else (x.dtype, x.data_ptr() % 16 == 0) for x in map(_memory, pointers)]
    key = (id(kernel), like.device, max(sizes) > INT32_MAX, *kinds, *constants.values())
    found = _compiled.get(key)
    with torch.cuda.device_of(like):
        if found is not None:
            compiled, no_constants = found
            compiled[programs, 1, 1](*pointers, *sizes, *no_constants)
            return
        compiled = kernel[(programs,)](*pointers, *sizes, **constants)
    if isinstance(compiled, CompiledKernel):  # not in the interpreter
        no_constants = (None,) * (len(kernel.params) - len(pointers) - len(sizes))  # constants are compiled in
        _compiled[key] = compiled, no_constants


def _memory(pointer: Pointer) -> Tensor | None:
    return pointer.base if isinstance(pointer, TensorDescriptor) else pointer
