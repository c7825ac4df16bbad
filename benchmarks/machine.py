"""What a layer needs at least, and how fast this machine does that: the floor.

The floor is that of a *direct* convolution, with h = 2 k^2 C Co H'W' FLOPs for one sample's half-convolution (C -> Co):

    forward    N h FLOPs; u read and y written
    backward   2 N h FLOPs; u and g read, grad_u written (both: forward and backward together)
    floor      max(FLOPs / rate of a large matrix product, bytes / bandwidth of a large copy)

N h is what the layer takes when the set's mean costs nothing (`centered` takes just that). Weights are not counted. An
algorithm with fewer multiplications than a direct convolution (Winograd's) can be above 100 % of this floor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from .suites import Case
from .timing import take_turns


class Needed(NamedTuple):
    """What a case cannot do without."""

    flops: int
    bytes: int


class Machine(NamedTuple):
    """Measured rates a second."""

    flops: float  # of a large matrix product in the dtype
    bandwidth: float  # bytes read and written by a large copy


def needed(case: Case, direction: str, itemsize: int) -> Needed:
    """FLOPs and bytes of a case in direction "fwd", "bwd" or "both"."""
    layer, n = case.layer, case.samples
    out_area = layer.out_height * layer.out_width
    half = 2 * layer.kernel**2 * layer.in_channels * layer.out_channels * out_area
    u = layer.in_channels * layer.height * layer.width * itemsize
    y = layer.out_channels * out_area * itemsize
    forward, backward = Needed(n * half, n * (u + y)), Needed(2 * n * half, n * (2 * u + y))
    both = Needed(forward.flops + backward.flops, forward.bytes + backward.bytes)
    return {"fwd": forward, "bwd": backward, "both": both}[direction]


def floor_seconds(flops: float, moved: float, machine: Machine) -> float:
    """The least time for so much work."""
    return max(flops / machine.flops, moved / machine.bandwidth)


def measure_machine(device: torch.device, dtype: torch.dtype, repeats: int = 7) -> Machine:
    """Medians of a large matrix product and a large copy, in turns."""
    on_gpu = device.type == "cuda"
    side, size = (8192, 2**30) if on_gpu else (2048, 2**28)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.zeros_like(source)
    forms = {"product": lambda: torch.mm(a, b), "copy": lambda: target.copy_(source)}
    seconds = {name: timing.p50 for name, timing in take_turns(forms, repeats, device).items()}
    return Machine(2 * side**3 / seconds["product"], 2 * size / seconds["copy"])


def better(one: Machine, other: Machine) -> Machine:
    """The better of two measurements, rate by rate: what disturbs them only ever slows them down."""
    return Machine(max(one.flops, other.flops), max(one.bandwidth, other.bandwidth))
