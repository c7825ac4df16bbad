"""PREDICTED training steps and inference of whole networks; nothing is measured on a GPU.

The networks of interconv_seg run on meta tensors in bfloat16. Their InterConv2d layers are listed by shape, and all
other operators, forward and backward, are recorded (torch_ops.py). Each layer is then predicted by each implementation
(predict_layers.py). A step takes the longer of

    device   the sum over layers and other operators, each at its roofline or as predicted
    host     calls of layers and launches, one after the other, by HOST

Left out: the loss, the optimiser, casts of autocast (weights are bfloat16 here), activations merged into layers. Native
layers count without overlap of the mean's pass; layers that the native kernels do not compute (stride 2) run as by
default, and so does grad_W.

Memory is what the layers save for the backward pass or allocate at once beside u and y: concat's input of 2 C channels.
"""

from __future__ import annotations

import functools
from collections import Counter
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import interconv_kernels as ik
from interconv_kernels import algorithms
from interconv_kernels._backends.registry import BACKENDS
from interconv_kernels.choice import Choice
from interconv_kernels.convolution import Conv

from .native import Layer
from .offline import CHIPS, META, index, maps
from .predict import DTYPE, PASSES, SETS, Gpu, Pass
from .predict_layers import Way, best_native, cost_of, vendor_call
from .torch_ops import Op, Recorded, Recorder, record_all

# (image, input channels, classes)
NETWORKS = {
    "simpleunet-60K": ((160, 192), 1, 21),
    "simpleunet-500K": ((160, 192), 1, 21),
    "nnunet-20M": ((160, 192), 1, 21),
    "scribbleprompt-3.6M": ((128, 128), 3, 1),
}
IMPLEMENTATIONS = ("default", "fused triton", "fused native", "concat")
# Seconds. Measured on an AMD EPYC (Zen 4), minima: a call of a layer with an empty batch; a launch of a Triton kernel
# over the recording driver of tests/gpu_without_gpu. Assumed: an operator or a kernel that C++ launches.
HOST = {"forward": 63e-6, "backward": 145e-6, "triton launch": 12e-6, "operator": 5e-6}


class Kind(NamedTuple):
    """An InterConv2d as it was called."""

    layer: Layer
    kernel: int
    stride: int
    needs_u: bool  # whether its input needs a gradient


class Step(NamedTuple):
    """What one network does.

    Attributes:
        kinds: how often each kind of layer is called.
        others: all other operators, forward and, in training, backward.
    """

    kinds: Counter[Kind]
    others: list[Op]


class Total(NamedTuple):
    """A PREDICTED step; times in seconds."""

    device: float
    host: float
    launches: int
    bytes: float
    memory: float

    @property
    def seconds(self) -> float:
        return max(self.device, self.host)


class _Stub(torch.autograd.Function):
    """An InterConv2d that is only recorded."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.shapes = u, weight
        return u.new_empty(shape).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        u, weight = ctx.shapes
        return torch.empty_like(u) if ctx.needs_input_grad[0] else None, torch.empty_like(weight), None


@functools.cache
def step_of(name: str, training: bool) -> Step:
    """Runs a network on meta tensors."""
    import interconv_seg

    size, in_channels, classes = NETWORKS[name]
    lengths = tuple(SETS["ragged"])
    kinds: Counter[Kind] = Counter()

    def stub(self: ik.InterConv2d, u: Tensor, *arguments: Any, **more: Any) -> Tensor:
        stride, (k, _) = self.stride[0], self.weight.shape[2:]
        out = Conv(self.stride, (k // 2, k // 2), (1, 1)).output_size(u.shape[2:], (k, k))
        layer = Layer(u.shape[1], self.weight.shape[0], u.shape[2], u.shape[3], lengths)
        kinds[Kind(layer, k, stride, u.requires_grad)] += 1
        y: Tensor = _Stub.apply(u, self.weight, (u.shape[0], self.weight.shape[0], *out))
        return y

    with torch.device(META):
        network = interconv_seg.build(name, "replace", in_channels=in_channels, classes=classes)
    network = network.to(DTYPE).train(training)
    x = maps(sum(lengths), in_channels, *size, DTYPE)
    sets = ik.Sets.from_lengths(lengths, META)
    with mock.patch.object(ik.InterConv2d, "forward", stub), torch.set_grad_enabled(training), Recorder() as recorder:
        outputs = tree_leaves(network(x, sets))
        if training:
            torch.autograd.backward(outputs, [torch.empty_like(y) for y in outputs])
    return Step(kinds, recorder.ops)


@functools.cache
def layer_way(gpu: Gpu, kind: Kind, direction: Pass, implementation: str) -> tuple[Way, float]:
    """(a layer in one direction, its host time)."""
    if implementation == "fused native" and kind.kernel == 3 and kind.stride == 1:
        return _native(gpu, kind, direction)
    chip = CHIPS[gpu.chip]
    if implementation == "fused triton":
        call = _fused_call(kind, direction)
    else:
        algorithm = "concat" if implementation == "concat" else "default"
        call = vendor_call(kind.layer, algorithm, direction, kind.kernel, kind.stride, kind.needs_u)
    recorded = record_all(chip, call)
    host = HOST[direction] + HOST["triton launch"] * len(recorded.launches) + HOST["operator"] * len(recorded.ops)
    return cost_of(gpu, recorded), host


def _fused_call(kind: Kind, direction: Pass) -> Any:
    """The Triton layer with its default tiles."""
    layer, k = kind.layer, kind.kernel
    conv = Conv((kind.stride,) * 2, (k // 2,) * 2, (1, 1), torch.channels_last)
    sets, choice = index(layer.lengths), Choice(BACKENDS["triton"], "fused")
    u = maps(sets.num_rows, layer.channels, layer.height, layer.width, DTYPE)
    weight = torch.empty(layer.out_channels, 2 * layer.channels, k, k, dtype=DTYPE, device=META)
    if direction == "forward":
        return partial(algorithms.forward, choice, conv, u, weight, weight[:, 0, 0, 0].contiguous(), sets)
    height, width = conv.output_size(u.shape[2:], (k, k))
    g = maps(sets.num_rows, layer.out_channels, height, width, DTYPE)
    return partial(algorithms.backward, choice, conv, g, u, weight, sets, (kind.needs_u, True, True))


def _native(gpu: Gpu, kind: Kind, direction: Pass) -> tuple[Way, float]:
    """The native layer; backward, grad_u is the layer on g, and grad_W is computed as by default."""
    layer = kind.layer
    ways = []
    if direction == "forward" or kind.needs_u:
        transposed = layer._replace(channels=layer.out_channels, out_channels=layer.channels)
        found = best_native(gpu, layer if direction == "forward" else transposed, overlapped=False)
        ways.append(found[1])
    host = HOST[direction] + 2 * HOST["operator"] * len(ways)
    if direction == "backward":
        rest, host_of_rest = layer_way(gpu, kind._replace(needs_u=False), direction, "default")
        ways.append(rest)
        host += host_of_rest - HOST[direction]
    return Way(
        sum(way.seconds for way in ways),
        max(ways, key=lambda way: way.seconds).bound,
        sum(way.launches for way in ways),
        sum(way.bytes for way in ways),
    ), host


def predict_step(gpu: Gpu, name: str, training: bool, implementation: str) -> Total:
    """The PREDICTED step of a network."""
    step = step_of(name, training)
    others = cost_of(gpu, Recorded(step.others, []))
    device, host = others.seconds, HOST["operator"] * len(step.others)
    launches, moved, memory = others.launches, others.bytes, 0.0
    for kind, times in step.kinds.items():
        for direction in PASSES[: 2 if training else 1]:
            way, host_of_layer = layer_way(gpu, kind, direction, implementation)
            device, host = device + times * way.seconds, host + times * host_of_layer
            launches, moved = launches + times * way.launches, moved + times * way.bytes
        if implementation == "concat":
            layer = kind.layer
            concatenated = 2 * layer.samples * layer.channels * layer.height * layer.width * DTYPE.itemsize
            memory = memory + times * concatenated if training else max(memory, concatenated)
    return Total(device, host, launches, moved, memory)


def table(gpu: Gpu) -> str:
    """Every network, as Markdown."""
    lines = [
        f"PREDICTED, not measured: {gpu.title}, bfloat16, {sum(SETS['ragged'])} images in ragged sets"
        f" ({', '.join(map(str, SETS['ragged']))}). The time is the longer of device and host; in parentheses, the"
        " speedup over concat.",
        "",
        "| network | | implementation | PREDICTED time | device | host | launches | GB moved | memory beside u and y |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in NETWORKS:
        for training in (True, False):
            totals = {which: predict_step(gpu, name, training, which) for which in IMPLEMENTATIONS}
            for which, total in totals.items():
                speedup = totals["concat"].seconds / total.seconds
                cells = [name, "training" if training else "inference", which]
                cells += [f"{total.seconds * 1e3:.3g} ms ({speedup:.2f}x)"]
                cells += [f"{seconds * 1e3:.3g} ms" for seconds in (total.device, total.host)]
                cells += [str(total.launches), f"{total.bytes / 1e9:.3g}", f"{total.memory / 2**30:.2g} GiB"]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
