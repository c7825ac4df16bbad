"""Backend "cpp": the set operations as C++ and CUDA kernels (csrc/), for tensors on the CPU and on NVIDIA GPUs.

The extension is optional: it is loaded on first use, and where it is missing or does not load, `can_run` gives the
original error. Each function's contract is that of the op of the same name in `interconv_kernels/ops.py`; inputs are
dense.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from ..activation import NONE, Activation
from ..convolution import Conv
from ..layout import empty_rows, flat, memory_format, set_add_rows
from ..sets import SetIndex

HAS_EPILOGUE = False
_FOLDER = Path(__file__).parent.parent
_ops: Any = torch.ops.interconv_cpp


@functools.cache
def load_error() -> str | None:
    """Loads the extension; the reason why it cannot be loaded, or None."""
    libraries = sorted(_FOLDER.glob("_cpp.*"))
    if not libraries:
        return f"the extension was not built: {build().get('error', 'run `pip install .` in the source folder')}"
    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError as error:
        # torch wraps the loader's own words
        return f"the extension {libraries[0].name} does not load: {error.__cause__ or error}"
    return None


@functools.cache
def build() -> dict[str, Any]:
    """What setup.py left: {"architectures", "no_cuda"} or {"error"}; empty where it never ran."""
    try:
        made: dict[str, Any] = json.loads((_FOLDER / "_cpp_build.json").read_text())
    except FileNotFoundError:
        return {}
    return made


def can_run(device: torch.device) -> str | None:
    if device.type not in ("cpu", "cuda"):
        return f"it runs on cpu and cuda, not on {device.type}"
    if (reason := load_error()) is not None or device.type == "cpu":
        return reason
    if torch.version.hip is not None:
        return "its GPU kernels are for NVIDIA, and this torch is built for ROCm"
    names = build()["architectures"]
    if not names:
        return f"the extension was built without CUDA: {build()['no_cuda']}"
    capability = torch.cuda.get_device_capability(device)
    if not any(_serves(name, capability) for name in names):
        return f"the extension was built for {', '.join(names)}, the GPU has compute capability {capability}"
    return None


def _serves(name: str, capability: tuple[int, int]) -> bool:
    """Machine code runs on later minor versions of its major one, PTX ("9.0+PTX") on all later ones."""
    major, minor = map(int, name.removesuffix("+PTX").rstrip("af").split("."))
    return (major == capability[0] and minor <= capability[1]) or (
        name.endswith("+PTX") and (major, minor) <= capability
    )


def version() -> str:
    """The package's version and what was built, as `ik.backends()` shows it."""
    made = build()
    if "architectures" not in made:
        return f"{__version__}, not built"
    parts = f"CUDA {' '.join(made['architectures'])}" if made["architectures"] else "no CUDA"
    return f"{__version__}, CPU, {parts}"


def set_reduce(x: Tensor, sets: SetIndex, mean: bool) -> Tensor:
    fmt = memory_format(x)
    out = empty_rows(x, sets.num_sets)
    _ops.set_reduce(flat(x, fmt), sets.offsets, sets.set_ids, mean, flat(out, fmt))
    return out


def set_add(
    y: Tensor | None,
    t: Tensor,
    sets: SetIndex,
    mean: bool,
    out: Tensor | None = None,
    block: tuple[int, int] | None = None,
) -> Tensor:
    """`out` may be `y`. With block = (lo, hi), `y` and `out` hold the samples lo ... hi-1 alone."""
    lo, _, out, fmt = set_add_rows(y, t, sets.num_rows, out, block)
    y_rows = None if y is None else flat(y, fmt)
    _ops.set_add(y_rows, flat(t, fmt), sets.offsets, sets.set_ids, mean, lo, flat(out, fmt))
    return out


def concat_set_mean(u: Tensor, sets: SetIndex) -> Tensor:
    fmt = memory_format(u)
    out = empty_rows(u, u.shape[0], 2 * u.shape[1])
    _ops.concat_set_mean(flat(u, fmt), sets.offsets, sets.set_ids, _inner(u, fmt), flat(out, fmt))
    return out


def concat_set_mean_backward(g: Tensor, sets: SetIndex) -> Tensor:
    fmt = memory_format(g)
    out = empty_rows(g, g.shape[0], g.shape[1] // 2)
    _ops.concat_set_mean_backward(flat(g, fmt), sets.offsets, sets.set_ids, _inner(out, fmt), flat(out, fmt))
    return out


def _inner(x: Tensor, fmt: torch.memory_format) -> int:
    """How many of x's values lie side by side before the set's half begins: a pixel's channels, or the whole sample."""
    return max(1, x.shape[1] if fmt == torch.channels_last else math.prod(x.shape[1:]))


def center(x: Tensor, sets: SetIndex, from_mean: bool) -> tuple[Tensor, Tensor]:
    fmt = memory_format(x)
    mean, dev = empty_rows(x, sets.num_sets), empty_rows(x, sets.num_rows - sets.num_sets)
    _ops.center(flat(x, fmt), sets.offsets, sets.set_ids, from_mean, flat(mean, fmt), flat(dev, fmt))
    return mean, dev


def uncenter(mean: Tensor, dev: Tensor, sets: SetIndex, out: Tensor | None = None) -> Tensor:
    fmt = memory_format(mean)
    if out is None:
        out = empty_rows(mean, sets.num_rows)
    _ops.uncenter(flat(mean, fmt), flat(dev, fmt), sets.offsets, sets.set_ids, flat(out, fmt))
    return out


# --- the layer, fused: kernel 1 (csrc/pointwise.cpp) and kernel 3 (csrc/winograd.cpp), stride 1 -----------------------


def can_fuse(conv: Conv, u: Tensor, weight: Tensor) -> str | None:
    """The reason why the fused layer cannot serve, or None."""
    if u.device.type != "cpu" or u.dtype != torch.float32:
        return f"backend 'cpp' fuses float32 on the CPU alone, not {u.dtype} on {u.device.type}"
    if not (conv.is_pointwise(weight) or _is_winograd(conv, weight)):
        return (
            "backend 'cpp' fuses kernel 1 with padding 0 and kernel 3 with padding 0 to 2, of stride and dilation 1,"
            f" not kernel {tuple(weight.shape[2:])}, stride {conv.stride}, padding {conv.padding}, dilation"
            f" {conv.dilation}"
        )
    return None


def _is_winograd(conv: Conv, weight: Tensor) -> bool:
    return weight.shape[2:] == (3, 3) and conv.stride == conv.dilation == (1, 1) and max(conv.padding) <= 2


def fused_is_fastest(direction: str, conv: Conv, u: Tensor, weight: Tensor) -> bool:
    """Measured so with AVX-512 (docs/performance.md), but for 3x3 kernels on a few channels, which fill no vector."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return conv.is_pointwise(weight) or u.shape[1] >= (8 if direction == "forward" else 4)


def fused_forward(
    conv: Conv, u: Tensor, weight: Tensor, bias: Tensor | None, sets: SetIndex, activation: Activation = NONE
) -> Tensor:
    """The layer, for u [N,C,H,W] and weight [Co,2C,k,k], dense in conv.fmt."""
    size = conv.output_size(u.shape[2:], weight.shape[2:])
    out = torch.empty((u.shape[0], weight.shape[0], *size), memory_format=conv.fmt)
    bias_row = None if bias is None else bias.unsqueeze(0)
    inputs = (flat(u, conv.fmt), flat(weight, conv.fmt), bias_row, sets.offsets, sets.set_ids)
    op = _ops.pointwise_forward if conv.is_pointwise(weight) else _ops.winograd_forward
    op(*inputs, *_layer(conv, u, weight), flat(out, conv.fmt))
    return activation(out)


def fused_backward(
    conv: Conv, g: Tensor, u: Tensor, weight: Tensor, sets: SetIndex, need: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of u, weight and bias for g [N,Co,H',W'], each only where `need` says so; all in conv.fmt."""
    grad_u = torch.empty_like(u, memory_format=conv.fmt) if need[0] else None
    grad_weight = torch.empty_like(weight, memory_format=conv.fmt) if need[1] else None
    grad_bias = weight.new_empty(1, weight.shape[0]) if need[2] else None
    inputs = (flat(g, conv.fmt), flat(u, conv.fmt), flat(weight, conv.fmt), sets.offsets, sets.set_ids)
    op = _ops.pointwise_backward if conv.is_pointwise(weight) else _ops.winograd_backward
    op(
        *inputs,
        *_layer(conv, u, weight),
        None if grad_u is None else flat(grad_u, conv.fmt),
        None if grad_weight is None else flat(grad_weight, conv.fmt),
        grad_bias,
    )
    return grad_u, grad_weight, None if grad_bias is None else grad_bias[0]


def _layer(conv: Conv, u: Tensor, weight: Tensor) -> tuple[bool | int, ...]:
    """Arguments of the raw ops: channels_last; for 3x3 kernels image size and padding; max_centered."""
    last = conv.fmt == torch.channels_last
    if not conv.is_pointwise(weight):
        return last, *u.shape[2:], *conv.padding, 8
    c, co = u.shape[1], weight.shape[0]
    return last, max(1, c * co // (8 * (c + co)))
