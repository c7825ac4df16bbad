"""The fused layer of backend "cpp" on NVIDIA GPUs: 3x3 kernels of stride 1 in one launch (csrc/halo).

grad_u is the layer itself on g with flipped, transposed weights: the sum over a set of dgrad(.; Ws) / K is dgrad of the
*mean* of g. The kernels are channels_last; NCHW input is converted, and the result converted back. Which of the
configurations in csrc/halo/configs.h can compute a layer, and which is the default, is decided here. Contract:
`TunableLayer` in ../contract.py.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...convolution import Conv
from ...layout import sum_pixels
from ...sets import SetIndex
from ..contract import Direction, Gradients, Needs
from . import set_ops

_ops: Any = torch.ops.interconv_cpp

DTYPES = (torch.bfloat16, torch.float16)
MIN_CAPABILITY = (8, 0)
MAX_PADDED = 4 / 3  # of the products of the configuration that pads the fewest channels: what `ik.tune` tries
MAX_ON_CHIP = 16  # samples in an average set: more, and too few threads of the weight gradient's kernel sum them
DEFAULT: Mapping[str, str] = MappingProxyType({})


class Config(NamedTuple):
    """A row of csrc/halo/configs.h."""

    row: int
    channels: int  # that a program keeps in shared memory at a time
    columns: int  # output channels of a program
    tile_h: int
    tile_w: int
    warps: int
    shared: int  # bytes of shared memory
    products_in_loop: int  # tensor-core instructions of a warp for 16 channels
    weights: str  # "resident", "by turns" or "streamed"
    reason: str

    @property
    def name(self) -> str:
        return f"halo-{self.channels}x{self.columns}-{self.tile_h}x{self.tile_w}"

    def padded_products(self, channels: int, out_channels: int) -> int:
        """C Co with both padded, for one pixel and tap."""
        depth = _padded(channels, 16 if self.weights == "streamed" else self.channels)
        return depth * _padded(out_channels, self.columns)

    def fits(self, channels: int, shared_limit: int) -> bool:
        return self.shared <= shared_limit and (self.weights == "streamed" or channels <= self.channels)


def _padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@functools.cache
def configs() -> tuple[Config, ...]:
    """All rows, in the order of the table."""
    return tuple(Config(row=i, **fields) for i, fields in enumerate(json.loads(_ops.halo_configs())))


@functools.cache
def candidates_for(channels: int, out_channels: int, shared_limit: int) -> tuple[Config, ...]:
    """The configurations for a layer of so many channels, on a GPU whose blocks have so much shared memory.

    Those are left out that pad the channels to more than MAX_PADDED times the products of another one.
    """
    fitting = [config for config in configs() if config.fits(channels, shared_limit)]
    fewest = min((config.padded_products(channels, out_channels) for config in fitting), default=0)
    return tuple(c for c in fitting if c.padded_products(channels, out_channels) <= MAX_PADDED * fewest)


def pick(channels: int, out_channels: int, size: tuple[int, int], shared_limit: int) -> Config:
    """The configuration with the fewest products, images padded to tiles; then with the fewest column tiles."""

    def cost(config: Config) -> tuple[int, int]:
        pixels = _padded(size[0], config.tile_h) * _padded(size[1], config.tile_w)
        return pixels * config.padded_products(channels, out_channels), -(-out_channels // config.columns)

    return min(candidates_for(channels, out_channels, shared_limit), key=cost)


def can_fuse(conv: Conv, u: Tensor, weight: Tensor) -> str | None:
    """The reason why these kernels cannot compute this layer, or None."""
    if u.dtype not in DTYPES:
        return f"the fused layer of backend 'cpp' on GPUs is for bfloat16 and float16, not for {u.dtype}"
    if weight.shape[2:] != (3, 3) or conv.stride != (1, 1) or conv.dilation != (1, 1) or max(conv.padding) > 2:
        settings = f"kernel {tuple(weight.shape[2:])}, stride {conv.stride}, padding {conv.padding}"
        return (
            "the fused layer of backend 'cpp' on GPUs is for 3x3 kernels with padding 0 to 2, stride and dilation 1,"
            f" not for {settings}, dilation {conv.dilation}"
        )
    return _unsuitable_gpu(u.device)


@functools.cache
def _unsuitable_gpu(device: torch.device) -> str | None:
    """Why the kernels are not for this GPU, or None. The set operations are for more GPUs."""
    from . import build_report, supports

    capability, names = torch.cuda.get_device_capability(device), build_report().get("halo_architectures", [])
    if capability < MIN_CAPABILITY:
        return f"the GPU has compute capability {capability}: expected at least {MIN_CAPABILITY}, for its tensor cores"
    if not any(supports(name, capability) for name in names):
        return f"its kernels were built for {', '.join(names) or 'no GPU'}, the GPU has compute capability {capability}"
    return None


@functools.cache
def _shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block can have: 163 KB on an A100, 227 KB on an H100, 99 KB on an RTX 30 or 40."""
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)  # type: ignore[attr-defined]


def candidates(direction: Direction, conv: Conv, u: Tensor, weight: Tensor) -> dict[str, list[str]]:
    """The configurations to choose from: of the layer, or backward of grad_u."""
    channels, out_channels = u.shape[1], weight.shape[0]
    if direction == "backward":
        channels, out_channels = out_channels, channels
    return {"layer": [config.name for config in candidates_for(channels, out_channels, _shared_limit(u.device))]}


def forward(
    conv: Conv,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    max_centered: int,
    slope: Tensor | None,
    tiles: Mapping[str, str] = DEFAULT,
) -> Tensor:
    return _layer(conv, u, weight, bias, slope, sets, conv.padding, False, tiles)


def backward(
    conv: Conv,
    g: Tensor,
    u: Tensor,
    weight: Tensor,
    sets: SetIndex,
    need: Needs,
    max_centered: int,
    tiles: Mapping[str, str] = DEFAULT,
) -> Gradients:
    grad_u = grad_weight = grad_bias = None
    if need[0]:
        padding = (2 - conv.padding[0], 2 - conv.padding[1])
        grad_u = _layer(conv, g, weight, None, None, sets, padding, True, tiles)
    if need[1] or need[2]:
        grad_weight, grad_bias = _weight_gradients(conv, g, u, weight, sets, need[1], need[2])
    return grad_u, grad_weight, grad_bias


def _layer(
    conv: Conv,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: Tensor | None,
    sets: SetIndex,
    padding: tuple[int, int],
    transposed: bool,
    tiles: Mapping[str, str],
) -> Tensor:
    out_channels = weight.shape[1] // 2 if transposed else weight.shape[0]
    size = (u.shape[2] + 2 * padding[0] - 2, u.shape[3] + 2 * padding[1] - 2)
    y = torch.empty(
        (u.shape[0], out_channels, *size), dtype=u.dtype, device=u.device, memory_format=torch.channels_last
    )
    u = u.contiguous(memory_format=torch.channels_last)
    candidates = candidates_for(u.shape[1], out_channels, _shared_limit(u.device))
    chosen = next((config for config in candidates if config.name == tiles.get("layer")), None)
    if chosen is None:
        chosen = pick(u.shape[1], out_channels, size, _shared_limit(u.device))
    _ops.halo_layer(u, weight, bias, slope, sets.offsets, chosen.row, *padding, transposed, sets.all_single, y)
    return y.contiguous(memory_format=conv.fmt)


def _weight_gradients(
    conv: Conv, g: Tensor, u: Tensor, weight: Tensor, sets: SetIndex, need_weight: bool, need_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """grad_Wu = sum_i corr(u_i, g_i), grad_Ws = sum_b corr(s_b, G_b) and grad_b = sum_b G_b, G the sum over a set."""
    if not need_weight:
        return None, sum_pixels(g) if need_bias else None
    g, u = (x.contiguous(memory_format=torch.channels_last) for x in (g, u))
    means = totals = None
    if sets.num_rows > MAX_ON_CHIP * sets.num_sets and not sets.all_single:
        means, totals = set_ops.set_reduce(u, sets, mean=True), set_ops.set_reduce(g, sets, mean=False)
    grad_weight = torch.empty_like(weight)
    grad_bias = weight.new_empty(weight.shape[0]) if need_bias else None
    index = (sets.offsets, sets.set_ids)
    _ops.halo_weight_gradient(u, g, means, totals, *index, *conv.padding, sets.all_single, grad_weight, grad_bias)
    return grad_weight, grad_bias
