"""The roofline: the time that a layer takes at best on this machine, given its peak rates.

It is the roofline of a *direct* convolution. With h = 2 k^2 C Co H'W' FLOPs for the half-convolution (C -> Co) of one
sample:

    forward     N h FLOPs; u is read and y written
    backward    2 N h FLOPs; u and the gradient of y are read, the gradient of u is written
    both        the sum of the two
    roofline    max(FLOPs / rate of a large matrix product, bytes / bandwidth of a large copy)

N h is what the layer takes when the set mean costs nothing; `centered` takes exactly that. Weights are not counted. An
algorithm with fewer multiplications than a direct convolution, such as Winograd's, can exceed 100 % of this roofline.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from .suites import Case, Direction
from .timing import interleave


class Work(NamedTuple):
    """What any direct implementation of a case has to compute and to move."""

    flops: int
    bytes: int


class Machine(NamedTuple):
    """Measured rates per second."""

    flops: float  # of a large matrix product in the benchmark's dtype
    bandwidth: float  # bytes read and written by a large copy


def min_work(case: Case, direction: Direction, itemsize: int) -> Work:
    """FLOPs and bytes of a case.

    Args:
        case: the layer and its batch.
        direction: "fwd", "bwd" or "both".
        itemsize: bytes of a value.
    """
    layer, n = case.layer, case.samples
    out_area = math.prod(layer.out_size)
    half = 2 * layer.taps * layer.in_channels * layer.out_channels * out_area
    u = layer.in_channels * math.prod(layer.size) * itemsize
    y = layer.out_channels * out_area * itemsize
    forward, backward = Work(n * half, n * (u + y)), Work(2 * n * half, n * (2 * u + y))
    both = Work(forward.flops + backward.flops, forward.bytes + backward.bytes)
    return {"fwd": forward, "bwd": backward, "both": both}[direction]


def roofline_seconds(flops: float, moved: float, machine: Machine) -> float:
    """The time that so many FLOPs and so many bytes moved take at best."""
    return max(flops / machine.flops, moved / machine.bandwidth)


def measure_machine(device: torch.device, dtype: torch.dtype, repeats: int = 7) -> Machine:
    """Median rates of a large matrix product and a large copy, interleaved."""
    on_gpu = device.type == "cuda"
    side, size = (8192, 2**30) if on_gpu else (2048, 2**28)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.zeros_like(source)
    calls = {"product": lambda: torch.mm(a, b), "copy": lambda: target.copy_(source)}
    times = interleave(calls, repeats, device)
    return Machine(2 * side**3 / times["product"].p50, 2 * size / times["copy"].p50)


def max_rates(one: Machine, other: Machine) -> Machine:
    """The higher of two measurements of each rate: disturbances only ever slow a machine down."""
    return Machine(max(one.flops, other.flops), max(one.bandwidth, other.bandwidth))
