"""Fixes for two errors of Triton's interpreter (3.7 to 3.9), so that bfloat16 can be tested in it.

It multiplies bfloat16 matrices as the integers that hold their bits, and rounds float32 to bfloat16 towards zero where
GPUs round to nearest, ties to even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def fix_bfloat16() -> None:
    """Replaces the two functions of the interpreter; does nothing on the second call."""
    if InterpreterBuilder.create_dot is not _dot:
        InterpreterBuilder.create_dot = _dot
        InterpreterBuilder.cast_impl = _cast
        InterpreterBuilder.create_fp_to_fp = lambda self, src, dst_type, rounding: _cast(self, src, dst_type)


_interpreters_dot, _interpreters_cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl


def _dot(self: Any, a: Any, b: Any, d: Any, *settings: Any) -> Any:
    # float16 too: its products are exact in float32, where numpy multiplies a hundred times faster.
    low = (tl.bfloat16, tl.float16)
    a, b = (_cast(self, x, tl.float32) if x.dtype.scalar in low else x for x in (a, b))
    return _interpreters_dot(self, a, b, d, *settings)


def _cast(self: Any, src: Any, dst_type: Any) -> Any:
    """Casts from and to bfloat16 with torch."""
    source, target = src.dtype.scalar, dst_type.scalar
    if source == tl.float32 and target == tl.bfloat16:
        bits = torch.from_numpy(np.ascontiguousarray(src.data)).to(torch.bfloat16).view(torch.int16)
        return TensorHandle(bits.numpy().view(np.uint16), target)
    if source == tl.bfloat16 and target == tl.float32:
        widened = np.ascontiguousarray(src.data).astype(np.uint32) << 16
        return TensorHandle(widened.view(np.float32), target)
    return _interpreters_cast(self, src, dst_type)
