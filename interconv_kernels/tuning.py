"""`ik.tune`: measures on the GPU at hand which algorithm and which tiles are fastest for the layers of a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._backends.contract import Direction, Record, TunableLayer
from ._backends.registry import get as get_backend
from .convolution import Conv
from .functional import cast_for_autocast
from .layout import common_format
from .modules import InterConv2d
from .sets import Sets

logger = logging.getLogger("interconv_kernels")
DIRECTIONS: tuple[Direction, Direction] = ("forward", "backward")


class _Layer(NamedTuple):
    """What a layer was called with: all that its speed depends on."""

    conv: Conv
    size: tuple[int, int]
    weight: Tensor
    dtype: torch.dtype


def tune(model: nn.Module, *inputs: Any, lengths: Sequence[int] = (4, 1, 8, 3)) -> dict[str, Record]:
    """Measures every InterConv2d of `model` and keeps what was fastest for `algorithm="auto"`, now and in later runs.

    The model is called once, `model(*inputs)`, to see the image sizes and dtypes of its layers (under autocast as it is
    then). For each kind of layer, the vendor's convolution with our set kernels and every tile of the fused kernels are
    timed, forward and backward, on random sets of `lengths`. The result is kept in `tuned.json` (in interconv_kernels
    in $XDG_CACHE_HOME or ~/.cache), by device and triton version, and by C, Co, kernel, stride, dilation, dtype, format
    and the power of two nearest to H W: never by N, B or set sizes, so a stream of ragged batches is tuned once.

    Args:
        model: a network on the GPU with InterConv2d layers.
        *inputs: what it is called with.
        lengths: the set sizes that layers are timed on.

    Returns:
        {"forward C64 Co64 k3x3 ...": {"algorithm": "fused" or "vendor", "tiles", "milliseconds": {candidate: median}}}

    Raises:
        ValueError: backend "triton" cannot run on the device of the model, with the reason; or the model has no
            InterConv2d.
    """
    layers = _layers_of(model, inputs)
    if not layers:
        raise ValueError(f"{type(model).__name__} called no InterConv2d on packed input: nothing to tune")
    device = layers[0].weight.device
    fused = get_backend("triton", device).tunable
    assert fused is not None
    sets = Sets.from_lengths(lengths, device)
    found: dict[str, Record] = {}
    for layer in layers:
        for direction in DIRECTIONS:
            found.update(_tune_layer(fused, layer, direction, sets, known=found))
    return found


def _layers_of(model: nn.Module, inputs: tuple[Any, ...]) -> list[_Layer]:
    layers: list[_Layer] = []

    def look(module: InterConv2d, arguments: tuple[Any, ...]) -> None:
        u = arguments[0]
        if u.is_nested:
            u = u.values()
        cast_u, weight, _ = cast_for_autocast(u[:1], module.weight.detach(), None)
        fmt = common_format(u.flatten(0, 1) if u.dim() == 5 else u, weight)
        conv = Conv(module.stride, module.padding, module.dilation, fmt)
        layers.append(_Layer(conv, (u.shape[-2], u.shape[-1]), weight, cast_u.dtype))

    hooks = [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, InterConv2d)]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return layers


def _tune_layer(
    fused: TunableLayer, layer: _Layer, direction: Direction, sets: Sets, known: dict[str, Record]
) -> dict[str, Record]:
    """{key: record} of one layer in one direction; empty if its kind is known or the kernels cannot compute it."""
    conv, weight = layer.conv, layer.weight.contiguous(memory_format=layer.conv.fmt)
    shape = (sets.num_samples, weight.shape[1] // 2, *layer.size)
    u = torch.randn(shape, device=weight.device, dtype=layer.dtype).contiguous(memory_format=conv.fmt)
    key = fused.layer_key(direction, conv, u, weight)
    if key in known or fused.can_fuse(conv, u, weight) is not None:
        return {}
    run = _call(direction, conv, u, weight, sets)
    times: dict[str, float] = {}
    tried: dict[str, Record] = {}

    def fastest() -> Record:
        return tried[min(times, key=lambda name: times[name])]

    for name, candidate in fused.candidates(direction, conv, u, weight, fastest):
        with fused.override(u.device, key, candidate):
            time = milliseconds(run, u.device)
        if time is None:
            logger.info("%s: %s does not fit this GPU", key, name)
            continue
        tried[name], times[name] = candidate, time
    record = {**fastest(), "milliseconds": times}
    fused.save(u.device, {key: record})
    return {key: record}


def _call(direction: Direction, conv: Conv, u: Tensor, weight: Tensor, sets: Sets) -> Callable[[], Any]:
    """A call of the layer in one direction, with algorithm "auto"."""
    settings = (
        sets.live_offsets,
        sets.live_ids,
        [*conv.stride],
        [*conv.padding],
        [*conv.dilation],
        "auto",
        "triton",
    )
    if direction == "forward":
        return lambda: torch.ops.interconv.interconv2d(u, weight, None, *settings)
    g = torch.ops.interconv.interconv2d(u, weight, None, *settings)
    return lambda: torch.ops.interconv.interconv2d_backward(g, u, weight, *settings, [True, True, True])


def milliseconds(run: Callable[[], Any], device: torch.device) -> float | None:
    """The median time of a call on the GPU; None if a kernel does not fit the GPU."""
    import triton

    try:
        return float(triton.testing.do_bench(run, return_mode="median"))
    except triton.runtime.errors.OutOfResources:
        return None
