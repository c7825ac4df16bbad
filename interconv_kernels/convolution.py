"""The vendor's convolution (oneDNN, cuDNN, MIOpen) and its two gradients, on dense tensors of one memory format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CONVOLUTIONS = {4: F.conv2d, 5: F.conv3d}  # by the rank of the input


class Conv(NamedTuple):
    """Stride, padding and dilation of each axis, and the memory format of inputs and results.

    The axes are (height, width) of images [N,C,H,W], or (depth, height, width) of volumes [N,C,D,H,W].

    (By itself torch may return another format: for float64, for dilation, or where a size of 1 hides that of an input.)
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    fmt: torch.memory_format = torch.contiguous_format

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """floor((size + 2 padding - dilation (k - 1) - 1) / stride) + 1 along each axis."""
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, kernel, self.stride, self.padding, self.dilation, strict=True)
        )

    def is_pointwise(self, weight: Tensor) -> bool:
        """Whether it is a matrix product for each pixel: kernels of size 1, stride 1, no padding."""
        return max(*weight.shape[2:], *self.stride) == 1 and not any(self.padding)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if _is_special(x):
            return self.forward(torch.cat([x, x]), weight, bias)[:1]
        y = CONVOLUTIONS[x.dim()](x, weight, bias, self.stride, self.padding, self.dilation)
        return y.contiguous(memory_format=self.fmt)

    def grad_input(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """dgrad: the gradient with respect to x, of which only shape and format are used."""
        if _is_special(x):
            return self.grad_input(torch.cat([g, g]), torch.cat([x, x]), weight)[:1]
        return self._backward(g, x, weight, [True, False, False])[0].contiguous(memory_format=self.fmt)

    def grad_weight(self, g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """wgrad: the gradient with respect to weight, of which only shape and format are used."""
        if self.is_pointwise(weight) and g.is_contiguous() and x.is_contiguous():
            # In NCHW one matrix product a sample needs none of the reorders that oneDNN makes (3x faster at 64
            # channels).
            return torch.bmm(g.flatten(2), x.flatten(2).transpose(1, 2)).sum(0).view(weight.shape)
        return self._backward(g, x, weight, [False, True, False])[1]

    def _backward(self, g: Tensor, x: Tensor, weight: Tensor, mask: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ops.aten.convolution_backward(
            g, x, weight, None, self.stride, self.padding, self.dilation, False, [0] * len(self.stride), 1, mask
        )


def precision(x: Tensor) -> str:
    """How convolutions multiply float32: "ieee" or "tf32", by torch's own switch; never as TF32 on AMD's GPUs.

    AMD's convolutions do not use it, and Triton has it for gfx942 alone.
    """
    if x.dtype != torch.float32 or torch.version.hip is not None:
        return "ieee"
    switch: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if switch == "tf32" else "ieee"


def _is_special(x: Tensor) -> bool:
    """Whether torch uses another convolution for x than for the same sample within a batch.

    It does so for a single small float32 image on the CPU (at most 20,480 values), whose result may then differ in the
    last bit; but the result of a sample must not depend on how many others come with it.
    """
    return x.shape[0] == 1 and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() <= 20480
