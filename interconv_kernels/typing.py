"""Types for annotations, as in `numpy.typing`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import Tensor

from .sets import Sets

Algorithm: TypeAlias = Literal["auto", "concat", "split", "centered", "fused", "decomposed"]
BackendName: TypeAlias = Literal["auto", "triton", "cpp", "torch"]
Padding: TypeAlias = Literal["same"] | int | tuple[int, ...]
# `Sets`, a list of set sizes, a tensor of offsets, or one int for sets of equal size.
SetsLike: TypeAlias = Sets | Sequence[int] | Tensor | int

__all__ = ["Algorithm", "BackendName", "Padding", "SetsLike"]
