"""The fused layer of backend "cpp" on NVIDIA GPUs: 3x3 and 1x1 kernels in one launch (csrc/halo).

grad_u is, for stride 1, the layer itself on g with flipped, transposed weights: the sum over a set of dgrad(.; Ws) / K
is dgrad of the *mean* of g. The kernels are channels_last; NCHW input is converted, and the result converted back.
Which of the configurations in csrc/halo/configs.h can compute a layer, and which is the default, is decided here.
Contract: `TunableLayer` in ../contract.py.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...convolution import Conv, precision
from ...layout import sum_pixels
from ...sets import SetIndex
from .. import gpu
from ..contract import Direction, Gradients, Needs
from . import set_ops

_ops: Any = torch.ops.interconv_cpp

MIN_CAPABILITY = (8, 0)
MAX_PADDED = 4 / 3  # of the products of the configuration that pads the fewest channels: what `ik.tune` tries
MAX_ON_CHIP = 16  # samples in an average set: more, and too few threads of the weight gradient's kernel sum them


class Config(NamedTuple):
    """A row of csrc/halo/configs.h or warpgroup_configs.h."""

    row: int
    kernel: int
    stride: int
    channels: int  # that a program keeps in shared memory at a time
    columns: int  # output channels of a program
    tile_h: int
    tile_w: int
    warps: int
    mt: int  # of 16 pixels that a warp computes (wgmma: of 64, a warpgroup)
    nt: int  # of 8 output channels that a warp computes
    value_bytes: int  # 2, or 4 for float32 in TF32
    shared: int  # bytes of shared memory
    products_in_loop: int  # tensor-core instructions of a warp for 32 bytes of channels
    engine: str  # "mma.sync", or "wgmma" (compute capability 9.0 alone)
    weights: str  # "resident", "alternating" or "streamed"
    term: str  # the set term is kept in "registers" or in "memory"
    reason: str

    @property
    def name(self) -> str:
        layer = f"{self.kernel}x{self.kernel}" + ("-stride2" if self.stride == 2 else "")
        prefix = "wgmma" if self.engine == "wgmma" else "halo" if self.value_bytes == 2 else "halo-tf32"
        return f"{prefix}-{layer}-{self.channels}x{self.columns}-{self.tile_h}x{self.tile_w}"

    def padded_products(self, channels: int, out_channels: int) -> int:
        """C Co with both padded, for one pixel and tap."""
        depth = _padded(channels, 32 // self.value_bytes if self.weights == "streamed" else self.channels)
        return depth * _padded(out_channels, self.columns)

    def padded_pixels(self, size: tuple[int, ...]) -> int:
        """H' W' padded to tiles; for 1x1 kernels an image is a line of pixels."""
        if self.kernel == 1:
            return _padded(size[0] * size[1], self.tile_h * self.tile_w)
        return _padded(size[0], self.tile_h) * _padded(size[1], self.tile_w)

    def fits(self, kernel: int, stride: int, channels: int, shared_limit: int, value_bytes: int = 2) -> bool:
        layer = (self.kernel, self.stride, self.value_bytes) == (kernel, stride, value_bytes)
        return layer and self.shared <= shared_limit and (self.weights == "streamed" or channels <= self.channels)


def _padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@functools.cache
def configs() -> tuple[Config, ...]:
    """All rows, in the order of the table."""
    return tuple(Config(row=i, **fields) for i, fields in enumerate(json.loads(_ops.halo_configs())))


@functools.cache
def candidates_for(
    kernel: int,
    stride: int,
    channels: int,
    out_channels: int,
    shared_limit: int,
    engine: str = "mma.sync",
    value_bytes: int = 2,
) -> tuple[Config, ...]:
    """The configurations for a kind of layer, on a GPU whose blocks have so much shared memory.

    Those are left out that pad the channels to more than MAX_PADDED times the products of another one.
    """
    rows = [config for config in configs() if config.engine == engine]
    fitting = [config for config in rows if config.fits(kernel, stride, channels, shared_limit, value_bytes)]
    fewest = min((config.padded_products(channels, out_channels) for config in fitting), default=0)
    return tuple(c for c in fitting if c.padded_products(channels, out_channels) <= MAX_PADDED * fewest)


def pick(candidates: tuple[Config, ...], channels: int, out_channels: int, size: tuple[int, ...]) -> Config:
    """The configuration with the fewest products for results of this size, then with the fewest column tiles."""

    def cost(config: Config) -> tuple[int, int]:
        products = config.padded_pixels(size) * config.padded_products(channels, out_channels)
        return products, -(-out_channels // config.columns)

    return min(candidates, key=cost)


def can_fuse(conv: Conv, u: Tensor, weight: Tensor) -> str | None:
    """The reason why these kernels cannot compute this layer, or None."""
    if u.dtype not in (torch.bfloat16, torch.float16) and precision(u) != "tf32":
        return (
            "the fused layer of backend 'cpp' on GPUs is for bfloat16, float16, and float32 where torch's switch for"
            f" convolutions allows TF32, not for {u.dtype}"
        )
    kernel, stride = weight.shape[2:], conv.stride
    is_3x3 = kernel == (3, 3) and stride in ((1, 1), (2, 2)) and conv.dilation == (1, 1) and max(conv.padding) <= 2
    if not (is_3x3 or conv.is_pointwise(weight)):
        settings = f"kernel {tuple(kernel)}, stride {stride}, padding {conv.padding}, dilation {conv.dilation}"
        return (
            "the fused layer of backend 'cpp' on GPUs is for 3x3 kernels with stride 1 or 2 and padding 0 to 2, and for"
            f" 1x1 kernels with stride 1 and padding 0, not for {settings}"
        )
    return _unsuitable_gpu(u.device)


@functools.cache
def _unsuitable_gpu(device: torch.device) -> str | None:
    """Why the kernels are not for this GPU, or None. The set operations are for more GPUs."""
    from . import build_report, supports

    capability, names = gpu.capability(device), build_report().get("halo_architectures", [])
    if capability < MIN_CAPABILITY:
        return f"the GPU has compute capability {capability}: expected at least {MIN_CAPABILITY}, for its tensor cores"
    if not any(supports(name, capability) for name in names):
        return f"its kernels were built for {', '.join(names) or 'no GPU'}, the GPU has compute capability {capability}"
    return None


@functools.cache
def _shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block can have: 163 KB on an A100, 227 KB on an H100, 99 KB on an RTX 30 or 40."""
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)  # type: ignore[attr-defined]


@functools.cache
def _has_wgmma(device: torch.device) -> bool:
    """Whether the kernels for warpgroups were built, and run on this GPU: sm_90a runs on 9.0 alone."""
    from . import build_report

    built = "9.0a" in build_report().get("halo_architectures", [])
    return built and torch.cuda.get_device_capability(device) == (9, 0)


def _all_candidates(kernel: int, stride: int, channels: int, out_channels: int, u: Tensor) -> tuple[Config, ...]:
    """Those of both engines, as far as they run on the GPU."""
    layer = (kernel, stride, channels, out_channels, _shared_limit(u.device))
    of_warpgroups = candidates_for(*layer, "wgmma", u.itemsize) if _has_wgmma(u.device) else ()
    return candidates_for(*layer, value_bytes=u.itemsize) + of_warpgroups


def candidates(direction: Direction, conv: Conv, u: Tensor, weight: Tensor) -> dict[str, list[str]]:
    """The configurations to choose from: of the layer, or backward of grad_u."""
    channels, out_channels = u.shape[1], weight.shape[0]
    if direction == "backward":
        if conv.stride != (1, 1):
            return {}
        channels, out_channels = out_channels, channels
    found = _all_candidates(weight.shape[2], conv.stride[0], channels, out_channels, u)
    return {"layer": [config.name for config in found]}


def forward(
    conv: Conv,
    u: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sets: SetIndex,
    max_centered: int,
    slope: Tensor | None,
    tiles: Mapping[str, str],
) -> Tensor:
    size = conv.output_size(u.shape[2:], weight.shape[2:])
    return _layer(conv, u, weight, bias, slope, sets, conv.padding, False, weight.shape[0], size, tiles)


def backward(
    conv: Conv,
    g: Tensor,
    u: Tensor,
    weight: Tensor,
    sets: SetIndex,
    need: Needs,
    max_centered: int,
    tiles: Mapping[str, str],
) -> Gradients:
    grad_u = grad_weight = grad_bias = None
    if need[0] and conv.stride == (1, 1):
        k = weight.shape[2]
        padding, size = (k - 1 - conv.padding[0], k - 1 - conv.padding[1]), (u.shape[2], u.shape[3])
        grad_u = _layer(conv, g, weight, None, None, sets, padding, True, u.shape[1], size, tiles)
    elif need[0]:
        grad_u = _grad_input(conv, g, u, weight, sets)
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
    padding: tuple[int, ...],
    transposed: bool,
    out_channels: int,
    size: tuple[int, ...],
    tiles: Mapping[str, str],
) -> Tensor:
    y = torch.empty(
        (u.shape[0], out_channels, *size), dtype=u.dtype, device=u.device, memory_format=torch.channels_last
    )
    u = u.contiguous(memory_format=torch.channels_last)
    layer = (weight.shape[2], conv.stride[0], u.shape[1], out_channels)
    named = (config for config in _all_candidates(*layer, u) if config.name == tiles.get("layer"))
    defaults = candidates_for(*layer, _shared_limit(u.device), value_bytes=u.itemsize)
    chosen = next(named, None) or pick(defaults, u.shape[1], out_channels, size)
    index = (sets.offsets, sets.set_ids)
    _ops.halo_layer(u, weight, bias, slope, *index, chosen.row, *padding, transposed, sets.all_single, y)
    return y.contiguous(memory_format=conv.fmt)


def _grad_input(conv: Conv, g: Tensor, u: Tensor, weight: Tensor, sets: SetIndex) -> Tensor:
    """grad_u_i = dgrad(g_i; Wu) + dgrad(G; Ws) / K, by the vendor's convolution."""
    w_own, w_set = weight.split(u.shape[1], dim=1)
    grad_u = conv.grad_input(g, u, w_own)
    t = conv.grad_input(set_ops.set_reduce(g, sets, mean=False), u[: sets.num_sets], w_set)
    return set_ops.set_add(grad_u, t, sets, mean=True, out=grad_u)


def _weight_gradients(
    conv: Conv, g: Tensor, u: Tensor, weight: Tensor, sets: SetIndex, need_weight: bool, need_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """grad_Wu = sum_i corr(u_i, g_i), grad_Ws = sum_b corr(s_b, G_b) and grad_b = sum_b G_b, G the sum over a set.

    csrc/halo/weight_gradient.h computes kernels of stride 1 in 2-byte dtypes, the vendor's convolution the others.
    """
    if not need_weight:
        return None, sum_pixels(g) if need_bias else None
    on_chip = conv.stride == (1, 1) and u.itemsize == 2
    s = g_sum = None
    if not sets.all_single and not (on_chip and sets.num_rows <= MAX_ON_CHIP * sets.num_sets):
        s, g_sum = set_ops.set_reduce(u, sets, mean=True), set_ops.set_reduce(g, sets, mean=False)
    if on_chip:
        images = [None if x is None else x.contiguous(memory_format=torch.channels_last) for x in (u, g, s, g_sum)]
        grad_weight = torch.empty_like(weight)
        grad_bias = weight.new_empty(weight.shape[0]) if need_bias else None
        index = (sets.offsets, sets.set_ids, *conv.padding, sets.all_single)
        _ops.halo_weight_gradient(*images, *index, grad_weight, grad_bias)
        return grad_weight, grad_bias
    grad_bias = sum_pixels(g) if need_bias else None
    w_own, w_set = weight.split(u.shape[1], dim=1)
    own = conv.grad_weight(g, u, w_own)
    from_set = own if s is None or g_sum is None else conv.grad_weight(g_sum, s, w_set)
    return torch.cat([own, from_set], dim=1), grad_bias
