"""What computes a layer: the one place that decides what `backend="auto"` and `algorithm="auto"` mean.

Under torch.compile and torch.export on a GPU, the layer is traced as `split` in torch operations (`traceable.py`), so
that Inductor can fuse the addition of the set term, and the bias, norm and activation that follow, into one pass. The
set sizes are not known then, nor does a graph depend on them, so single samples cost two half-convolutions. What
`ik.tune` found is for calls that are not compiled; `algorithm="fused"` asks for the fused layer in compiled code too.

With `algorithm="decomposed"` this holds on every device, compiled or not, and the set means are aten operations as
well: for exporters to runtimes that do not know this library's operators. torch.onnx.export always gets this form.

Everywhere else the layer is one operator, which chooses when it runs. The rules use shapes alone, so that nothing is
read from the device. For each call, the first rule that applies:

1. `ik.tune` timed this kind of layer on this GPU: the backend that was fastest, with its fused layer and tiles if those
   were, else by rule 4 or 5. If a backend is asked for by name, only what was timed of that backend counts.
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
* GPUs: 1. The fused layers there have one form for the whole batch.

The constants were measured on an AMD EPYC (Zen 4) with 2 threads and torch 2.13 (docs/performance).
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from . import tuned
from ._backends.contract import Backend, Direction, Tiles
from ._backends.registry import get as get_backend
from .convolution import Conv
from .layout import is_channels_last, memory_format
from .sets import SetIndex

MIN_FUSED_CHANNELS = {"forward": 8, "backward": 4}  # of 3x3 kernels
MAX_CENTERED_SIZE = 8.0
CENTERED_WORK = 72
CENTERED_PASSES = 8
TRACED_DEVICES = ("cuda",)  # of torch: CUDA and ROCm
WINOGRAD_MAX_CENTERED = 8
DEFAULT_TILES: Tiles = MappingProxyType({})


class Choice(NamedTuple):
    """What computes one call of the layer.

    Attributes:
        backend: whose set operations or fused layer.
        algorithm: its name, not "auto".
        max_centered: for "fused", up to which set size it computes as `centered`.
        tiles: for "fused", those that `ik.tune` measured as fastest.
    """

    backend: Backend
    algorithm: str
    max_centered: int = 1
    tiles: Tiles = DEFAULT_TILES


def is_traced(u: Tensor, algorithm: str) -> bool:
    """Whether a call is traced as torch operations (`traceable.py`), not as one operator."""
    if algorithm == "auto" and u.device.type in TRACED_DEVICES and torch.compiler.is_compiling():
        return True
    return is_decomposed(algorithm)


def is_decomposed(algorithm: str) -> bool:
    """Whether a call is traced without any operator of this library."""
    return algorithm == "decomposed" or (torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export())


def choose(
    backend: str, algorithm: str, direction: Direction, conv: Conv, u: Tensor, weight: Tensor, sets: SetIndex
) -> Choice:
    """What computes one call of the layer: the table above for "auto", else what was asked for.

    Raises:
        ValueError: the backend cannot run on the device, or "fused" was asked for and it cannot compute this layer,
            with the reason.
    """
    record = tuned.measured(direction, conv, u, weight) if algorithm in ("auto", "fused") else None
    chosen = get_backend(record["fastest"] if record is not None and backend == "auto" else backend, u.device)
    best = None if record is None else record["best"].get(chosen.name)
    if algorithm == "fused" and (reason := chosen.can_fuse(conv, u, weight)) is not None:
        raise ValueError(f"algorithm 'fused' cannot run here: {reason}")
    if algorithm == "auto":
        fused = best["algorithm"] == "fused" if best else _is_fused_by_default(chosen, direction, conv, u, weight)
        algorithm = "fused" if fused and chosen.can_fuse(conv, u, weight) is None else _unfused(u, weight, sets)
    if algorithm != "fused":
        return Choice(chosen, algorithm)
    return Choice(chosen, algorithm, _max_centered(conv, u, weight), DEFAULT_TILES if best is None else best["tiles"])


def _is_fused_by_default(backend: Backend, direction: Direction, conv: Conv, u: Tensor, weight: Tensor) -> bool:
    """Whether the fused layer is the fastest, if the backend can compute it, where `ik.tune` measured nothing."""
    if u.device.type != "cpu" or backend.tunable(u.device) is not None:
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return conv.is_pointwise(weight) or u.shape[1] >= MIN_FUSED_CHANNELS[direction]


def _unfused(u: Tensor, weight: Tensor, sets: SetIndex) -> str:
    """The fastest of the algorithms over the vendor's convolution."""
    if u.shape[1] == 1 and u.device.type == "cpu":
        return "concat"
    limit = min(MAX_CENTERED_SIZE, math.prod(weight.shape[2:]) * u.shape[1] / CENTERED_WORK)
    always = 1 if is_channels_last(memory_format(u)) else 2
    return "centered" if sets.num_rows / sets.num_sets <= max(always, limit) else "split"


def _max_centered(conv: Conv, u: Tensor, weight: Tensor) -> int:
    if u.device.type != "cpu":
        return 1
    if conv.is_pointwise(weight):
        channels, out_channels = u.shape[1], weight.shape[0]
        return max(1, channels * out_channels // (CENTERED_PASSES * (channels + out_channels)))
    return WINOGRAD_MAX_CENTERED
