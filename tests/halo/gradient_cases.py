"""Layers whose weight gradient the kernels of csrc/halo compute on the emulator, and what they should compute."""

from typing import NamedTuple

import torch
from emulated import GUARD, guarded
from emulated_weight_gradient import Options, launch
from halo_cases import DTYPES, RAGGED, TIMES_TORCH  # it may skip
from torch import Tensor

from interconv_kernels import reference

__all__ = ["DTYPES", "RAGGED", "GradientCase"]


class Result(NamedTuple):
    weight: Tensor
    bias: Tensor
    counts: dict[str, dict[str, int]]  # of each launch
    errors: list[str]
    was_left_out: bool


def _reduce(x: Tensor, lengths: list[int], mean: bool) -> Tensor:
    """The sets' means or sums, in float32; NaN for empty sets, which no kernel may read."""
    parts = x.float().split(lengths)
    sums = [part.sum(0) / (len(part) if mean else min(len(part), 1)) for part in parts]
    return torch.stack(sums).to(x.dtype).contiguous(memory_format=torch.channels_last)


class GradientCase:
    """u, and a gradient g of the layer's result, with random values in a 2-byte dtype."""

    def __init__(
        self,
        channels,
        out_channels,
        size,
        lengths,
        dtype=torch.bfloat16,
        padding=None,
        kernel=3,
        memory_format=torch.contiguous_format,
    ):
        random = torch.Generator().manual_seed(0)

        def values(n, *size):
            x = torch.randn((sum(lengths), n, *size), generator=random).to(dtype)
            return x.contiguous(memory_format=torch.channels_last)

        self.lengths, self.padding = list(lengths), (kernel // 2, kernel // 2) if padding is None else padding
        self.u = values(channels, *size)
        self.g = values(out_channels, *(n + 2 * p - kernel + 1 for n, p in zip(size, self.padding, strict=True)))
        shape = (out_channels, 2 * channels, kernel, kernel)
        self.weight = torch.zeros(shape, dtype=dtype).contiguous(memory_format=memory_format)

    def run(self, library, config=None, on_chip=True, **options) -> Result:
        """`on_chip`: the kernels compute the sets' means of u and sums of g; without, they are given."""
        offsets = torch.tensor([0, *self.lengths]).cumsum(0).to(torch.int32)
        set_ids = torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths)).to(torch.int32)
        sums = (None, None) if on_chip else (_reduce(self.u, self.lengths, True), _reduce(self.g, self.lengths, False))
        (weight, weight_memory), (bias, bias_memory) = (
            guarded((1, n, 1, 1), self.u.dtype) for n in (self.weight.numel(), len(self.weight))
        )
        weight, bias = torch.as_strided(weight, self.weight.shape, self.weight.stride()), bias.flatten()
        index = (offsets, set_ids, *self.padding, set(self.lengths) == {1})
        report = launch(library, Options(**options), self.u, self.g, *sums, *index, weight, bias, config)
        for memory in (weight_memory, bias_memory):
            assert memory[:GUARD].isnan().all()
            assert memory[-GUARD:].isnan().all()
        return Result(weight, bias, *report)

    def in_torch(self, layer, dtype) -> list[Tensor]:
        """The gradients of the halves of the weight and of the bias."""
        weight = self.weight.to(dtype).requires_grad_()
        bias = torch.zeros(len(weight), dtype=dtype, requires_grad=True)
        y = layer(self.u.to(dtype), weight, bias, self.lengths, padding=self.padding)
        grad_weight, grad_bias = torch.autograd.grad(y, (weight, bias), self.g.to(dtype))
        return [*grad_weight.split(self.u.shape[1], dim=1), grad_bias]

    def errors(self, result: Result) -> list[tuple[float, float]]:
        """(error, what is allowed) of each half and of the bias: a multiple of the error of torch in the same dtype."""
        got = [*result.weight.split(self.u.shape[1], dim=1), result.bias]
        exact = self.in_torch(reference.interconv, torch.float64)
        plain = self.in_torch(reference.concat_interconv, self.u.dtype)
        rounding = torch.finfo(self.u.dtype).eps / 2  # that of the exact result, which torch sometimes returns
        return [
            (reference.relative_error(x, want), max(TIMES_TORCH * reference.relative_error(other, want), rounding))
            for x, other, want in zip(got, plain, exact, strict=True)
        ]

    def check(self, library, config=None, **options) -> Result:
        result = self.run(library, config, **options)
        assert result.errors == []
        for error, allowed in self.errors(result):
            assert error <= allowed
        return result
