"""`ik.tune`: measure, on the GPU at hand, which algorithm and which tiles are fastest for a network's layers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._backends import get as get_backend
from ._backends import triton as triton_backend
from .convolution import Conv
from .functional import cast_for_autocast
from .layout import common_format
from .modules import InterConv2d
from .sets import Sets

logger = logging.getLogger("interconv_kernels")
Record = dict[str, Any]


class _Layer(NamedTuple):
    """What a layer was seen to do: all that its speed depends on."""

    conv: Conv
    size: tuple[int, int]
    weight: Tensor
    dtype: torch.dtype


def tune(model: nn.Module, *inputs: Any, lengths: Sequence[int] = (4, 1, 8, 3)) -> dict[str, Record]:
    """Measures every InterConv2d of `model` and keeps what was fastest for `algorithm="auto"`, now and in later runs.

    The model is called once, `model(*inputs)`, to see its layers' image sizes and dtypes (autocast as it is then).
    For each kind of layer the vendor's convolution with our set kernels and every tile of the fused kernels are timed,
    forward and backward, on random sets of `lengths`. The result is kept in `tuned.json` (interconv_kernels in
    $XDG_CACHE_HOME or ~/.cache), by device and triton version, and by C, Co, kernel, stride, dilation, dtype, format
    and the power of two nearest to H W: never by N, B or set sizes, so a ragged stream of batches is tuned once.

    Returns:
        {"forward C64 Co64 k3x3 ...": {"algorithm": "fused" or "vendor", "tiles", "milliseconds": {candidate: median}}}

    Raises:
        ValueError: backend "triton" cannot run on the model's device, with the reason; or the model has no InterConv2d.
    """
    layers = _seen(model, inputs)
    if not layers:
        raise ValueError(f"{type(model).__name__} called no InterConv2d on packed input: nothing to tune")
    device = layers[0].weight.device
    if (reason := triton_backend.can_run(device)) is not None:
        raise ValueError(f"nothing to tune on {device}: {reason}")
    ops = get_backend("triton", device)
    sets = Sets.from_lengths(lengths, device)
    found: dict[str, Record] = {}
    for layer in layers:
        for direction in ("forward", "backward"):
            found.update(_tune_layer(ops, layer, direction, sets, known=found))
    return found


def _seen(model: nn.Module, inputs: tuple[Any, ...]) -> list[_Layer]:
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
    ops: ModuleType, layer: _Layer, direction: str, sets: Sets, known: dict[str, Record]
) -> dict[str, Record]:
    """{key: record} of one layer in one direction; empty where its kind is known or the kernels cannot serve it."""
    conv, weight = layer.conv, layer.weight.contiguous(memory_format=layer.conv.fmt)
    shape = (sets.num_samples, weight.shape[1] // 2, *layer.size)
    u = torch.randn(shape, device=weight.device, dtype=layer.dtype).contiguous(memory_format=conv.fmt)
    key = ops.layer_key(direction, conv, u, weight)
    if key in known or ops.can_fuse(conv, u, weight) is not None:
        return {}
    run = _call(direction, conv, u, weight, sets)
    times: dict[str, float] = {}
    tried: dict[str, Record] = {}

    def fastest() -> Record:
        return tried[min(times, key=lambda name: times[name])]

    for name, candidate in ops.candidates(direction, conv, u, weight, fastest):
        with ops.trying(u.device, key, candidate):
            time = milliseconds(run, u.device)
        if time is None:
            logger.info("%s: %s does not fit this GPU", key, name)
            continue
        tried[name], times[name] = candidate, time
    record = {**fastest(), "milliseconds": times}
    ops.save(u.device, {key: record})
    return {key: record}


def _call(direction: str, conv: Conv, u: Tensor, weight: Tensor, sets: Sets) -> Callable[[], Any]:
    """The layer's op in one direction, on its own choice of algorithm."""
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
    """The median time of a call on the GPU; None where a kernel does not fit it."""
    import triton

    try:
        return float(triton.testing.do_bench(run, return_mode="median"))
    except triton.runtime.errors.OutOfResources:
        return None
