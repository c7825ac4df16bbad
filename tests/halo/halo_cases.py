"""Layers for the kernels of csrc/halo on the emulator, and what they should compute."""

import shutil
import sys
from ctypes import CDLL
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interconv_kernels import reference
from interconv_kernels._backends.cpp import halo, load_error

if sys.platform != "linux" or load_error() is not None or shutil.which("g++") is None:
    pytest.skip("the emulator needs Linux and g++, the table of configurations the extension", allow_module_level=True)

import emulated
from emulated import Options, Report

DTYPES = (torch.bfloat16, torch.float16)
# The precision of what a kernel multiplies. TF32 has the 10 bits of float16.
PRECISION = {torch.bfloat16: torch.bfloat16, torch.float16: torch.float16, torch.float32: torch.float16}
RAGGED = [2, 0, 1, 3]
LIMITS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_120": 99 * 1024}  # bytes of shared memory that a block may have
CONFIGS = tuple(config for config in halo.configs() if config.engine == "mma.sync" and config.value_bytes == 2)
TF32_CONFIGS = tuple(config for config in halo.configs() if config.value_bytes == 4)
WARPGROUP_CONFIGS = tuple(config for config in halo.configs() if config.engine == "wgmma")
TIMES_TORCH = 2  # how many times the error of plain torch in the same dtype is allowed


def last_config(weights: str) -> halo.Config:
    """The last row for 3x3 kernels of stride 1 with its weights "resident", "alternating" or "streamed"."""
    return [c for c in CONFIGS if (c.kernel, c.stride, c.weights) == (3, 1, weights)][-1]


def pick(channels, out_channels, size, gpu="sm_80", kernel=3, stride=1, value_bytes=2) -> halo.Config:
    """The default for results of this size."""
    fitting = halo.candidates_for(kernel, stride, channels, out_channels, LIMITS[gpu], value_bytes=value_bytes)
    return halo.pick(fitting, channels, out_channels, size)


class Case:
    """A layer with random values; `transposed`: grad_u, as a layer from Co to C channels."""

    def __init__(
        self,
        channels,
        out_channels,
        size,
        lengths,
        dtype=torch.bfloat16,
        transposed=False,
        kernel=3,
        stride=1,
        padding=None,
        slope=False,
    ):
        random = torch.Generator().manual_seed(0)

        def values(*shape):
            return torch.randn(shape, generator=random).to(dtype)

        self.padding = (kernel // 2, kernel // 2) if padding is None else padding
        self.lengths, self.transposed, self.stride = list(lengths), transposed, stride
        self.u = values(sum(lengths), channels, *size).contiguous(memory_format=torch.channels_last)
        shape = (channels, 2 * out_channels) if transposed else (out_channels, 2 * channels)
        self.weight = values(*shape, kernel, kernel) / (2 * kernel**2 * channels) ** 0.5
        self.bias = None if transposed else values(out_channels)
        self.slope = values(out_channels) if slope else None
        self.out_channels = out_channels
        self.out_size = tuple((n + 2 * p - kernel) // stride + 1 for n, p in zip(size, self.padding, strict=True))

    def run(self, library, config: halo.Config, **options) -> tuple[Tensor, Report]:
        """y of one launch, and what the emulator saw."""
        shape = (sum(self.lengths), self.out_channels, *self.out_size)
        y, memory = emulated.guarded(shape, self.u.dtype)
        offsets = torch.tensor([0, *self.lengths]).cumsum(0).to(torch.int32)
        set_ids = torch.arange(len(self.lengths), dtype=torch.int32).repeat_interleave(torch.tensor(self.lengths))
        inputs = (self.u, self.weight, self.bias, self.slope, offsets, set_ids)
        single = set(self.lengths) == {1}
        report = emulated.launch(
            library, Options(**options), *inputs, config.row, *self.padding, self.transposed, single, y
        )
        assert memory[: emulated.GUARD].isnan().all()
        assert memory[-emulated.GUARD :].isnan().all()
        return y, report

    def in_torch(self, layer, dtype) -> Tensor:
        """y by a layer of `reference`."""
        weight = self.weight.to(dtype)
        if self.transposed:
            weight = torch.cat([half.flip(2, 3).transpose(0, 1) for half in weight.split(self.out_channels, 1)], 1)
        bias = None if self.bias is None else self.bias.to(dtype)
        y = layer(self.u.to(dtype), weight, bias, self.lengths, padding=self.padding, stride=self.stride)
        return y if self.slope is None else torch.where(y >= 0, y, y * self.slope.to(dtype).view(1, -1, 1, 1))

    def check(self, library, config: halo.Config, **options) -> Report:
        """Runs it, and compares y with the reference implementation."""
        y, report = self.run(library, config, **options)
        assert report.errors == []
        assert report.counts["written"] >= y.itemsize * y.numel()
        exact = self.in_torch(reference.interconv, torch.float64)
        allowed = TIMES_TORCH * reference.relative_error(
            self.in_torch(reference.concat_interconv, PRECISION[self.u.dtype]), exact
        )
        assert reference.relative_error(y, exact) <= allowed
        return report


def check_counts(library, pick, channels, wavefronts):
    """Checks what is counted of each pixel, for a set of seven on an image that tiles divide."""
    height, width = (32, 16) if channels == 128 else (64, 32)
    config = pick(channels, channels, (height, width))
    _y, report = Case(channels, channels, (height, width), [7]).run(library, config, programs=3, parts=1)
    assert report.errors == []
    count = {name: number / (7 * height * width) for name, number in report.counts.items()}
    assert count["copied_u"] <= 1.35 * 2 * channels
    assert count["wavefronts"] <= wavefronts
    ideal = 9 * channels * channels / (16 * 8 * 16) * 8 / 7  # the term: one more convolution for a set of seven
    assert count["products"] == pytest.approx(ideal, rel=0.05)


def mutated(folder: Path, pattern: str, replacement: str, table: str, row: int, flags: tuple[str, ...] = ()) -> CDLL:
    """The layer's kernels of one row of a table, with one change in their code."""
    files = ("layer.h", "layer_base.h", "warpgroup_layer.h", "weights.h")
    return emulated.build(emulated.mutate(folder, files, pattern, replacement, table, row), flags)
