"""Which algorithm computes a layer: the one place that decides what `algorithm="auto"` means.

Under torch.compile and torch.export on a GPU, the layer is traced as `split` in torch operations (`traceable.py`), so
that Inductor can fuse the addition of the set term, and the bias, norm and activation that follow, into one pass. The
set sizes are not known then, nor does a graph depend on them, so single samples cost two half-convolutions. What
`ik.tune` found is for calls that are not compiled; `algorithm="fused"` asks for the fused layer in compiled code too.

Everywhere else the layer is one operator, which chooses when it runs. The rules use shapes alone, so that nothing is
read from the device. For each call, the first rule that applies:

1. `ik.tune` timed this kind of layer on this GPU: "fused" if that was fastest.
2. "fused" of backend "cpp": float32 on a CPU with AVX-512, 1x1 or 3x3 kernels of stride 1. A 3x3 kernel needs at least
   MIN_FUSED_CHANNELS input channels; fewer leave most lanes of a vector empty.
3. "concat": one input channel on a CPU. This is the first layer of a network: u is small beside y, and its convolution
   takes two channels as fast as one.
4. "centered": mean set size N / B of at most min(MAX_CENTERED_SIZE, k^2 C / CENTERED_WORK), or at most 1
   (channels_last) or 2 (NCHW). "split" costs one half-convolution more per set, "centered" more passes over memory. So
   "centered" wins for small sets and much arithmetic per value, and sooner in NCHW, where convolutions cost more.
5. "split".

If all sets have one sample, "centered" is one plain convolution with Wu + Ws.

A fused layer decides per set, not per batch: sets of up to `max_centered` samples are computed as `centered`, larger
ones as `split`.

* 1x1 on the CPU: C Co / (CENTERED_PASSES (C + Co)), at least 1. `centered` saves one product per set, C Co per pixel,
  and adds passes over all samples, C + Co per pixel each.
* 3x3 on the CPU (Winograd): WINOGRAD_MAX_CENTERED. The samples of such a set are packed once for the mean and the
  differences, which takes memory in the cache, and larger sets save little.
* GPUs: 1. The fused layer of backend "triton" has one form for the whole batch.

The constants were measured on an AMD EPYC (Zen 4) with 2 threads and torch 2.13 (docs/performance).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .convolution import Conv
from .layout import memory_format
from .sets import SetIndex

if TYPE_CHECKING:
    from ._backends.contract import Backend, Direction

MIN_FUSED_CHANNELS = {"forward": 8, "backward": 4}  # of 3x3 kernels
MAX_CENTERED_SIZE = 8.0
CENTERED_WORK = 72
CENTERED_PASSES = 8
TRACED_DEVICES = ("cuda",)  # of torch: CUDA and ROCm
WINOGRAD_MAX_CENTERED = 8


class Choice(NamedTuple):
    """An algorithm; for "fused", up to which set size it computes as `centered`."""

    algorithm: str
    max_centered: int = 1


def is_traced(u: Tensor, algorithm: str) -> bool:
    """Whether a call is traced as torch operations (`traceable.py`), not as one operator."""
    return algorithm == "auto" and u.device.type in TRACED_DEVICES and torch.compiler.is_compiling()


def choose(
    backend: Backend, algorithm: str, direction: Direction, conv: Conv, u: Tensor, weight: Tensor, sets: SetIndex
) -> Choice:
    """The algorithm for one call of the layer: the table above for "auto", else the one that was asked for.

    Raises:
        ValueError: "fused" was asked for and the backend cannot compute this layer, with the reason.
    """
    if algorithm == "fused" and (reason := backend.can_fuse(conv, u, weight)) is not None:
        raise ValueError(f"algorithm 'fused' cannot run here: {reason}")
    if algorithm == "auto":
        algorithm = _fastest(backend, direction, conv, u, weight, sets)
    return Choice(algorithm, _max_centered(conv, u, weight) if algorithm == "fused" else 1)


def _fastest(backend: Backend, direction: Direction, conv: Conv, u: Tensor, weight: Tensor, sets: SetIndex) -> str:
    if backend.can_fuse(conv, u, weight) is None and _fused_is_fastest(backend, direction, conv, u, weight):
        return "fused"
    if u.shape[1] == 1 and u.device.type == "cpu":
        return "concat"
    limit = min(MAX_CENTERED_SIZE, weight.shape[2] * weight.shape[3] * u.shape[1] / CENTERED_WORK)
    always = 1 if memory_format(u) == torch.channels_last else 2
    return "centered" if sets.num_rows / sets.num_sets <= max(always, limit) else "split"


def _fused_is_fastest(backend: Backend, direction: Direction, conv: Conv, u: Tensor, weight: Tensor) -> bool:
    if backend.tunable is not None:
        record = backend.tunable.measured(direction, conv, u, weight)
        return record is not None and record["algorithm"] == "fused"
    if u.device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return conv.is_pointwise(weight) or u.shape[1] >= MIN_FUSED_CHANNELS[direction]


def _max_centered(conv: Conv, u: Tensor, weight: Tensor) -> int:
    if u.device.type != "cpu":
        return 1
    if conv.is_pointwise(weight):
        channels, out_channels = u.shape[1], weight.shape[0]
        return max(1, channels * out_channels // (CENTERED_PASSES * (channels + out_channels)))
    return WINOGRAD_MAX_CENTERED
