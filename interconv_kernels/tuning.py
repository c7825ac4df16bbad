"""`ik.tune`: measures on the GPU at hand which algorithm and which tiles are fastest for the layers of a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import reference
from ._accuracy import allowed_errors, with_gradients
from ._backends.contract import DIRECTIONS, Direction, Record, TunableLayer
from ._backends.registry import get as get_backend
from ._device_time import milliseconds
from ._progress import Progress
from .convolution import Conv
from .functional import cast_for_autocast
from .layout import common_format
from .modules import InterConv2d
from .sets import Sets

logger = logging.getLogger("interconv_kernels")
CHECKED_LENGTHS = (2, 1)  # results are checked in float64, which takes too much memory for whole batches
VENDOR = "vendor"


class _Layer(NamedTuple):
    """What a layer was called with: all that its speed depends on."""

    conv: Conv
    size: tuple[int, int]
    weight: Tensor
    dtype: torch.dtype

    def random(self, num_samples: int) -> Tensor:
        """u [N,C,H,W]."""
        shape = (num_samples, self.weight.shape[1] // 2, *self.size)
        u = torch.randn(shape, device=self.weight.device, dtype=self.dtype)
        return u.contiguous(memory_format=self.conv.fmt)


class _Kind(NamedTuple):
    """A kind of layer, in one direction."""

    key: str
    direction: Direction
    layer: _Layer
    tiles: dict[str, list[str]]  # `TunableLayer.candidates`


def tune(model: nn.Module, *inputs: Any, lengths: Sequence[int] = (4, 1, 8, 3)) -> dict[str, Record]:
    """Measures every InterConv2d of `model` and keeps what was fastest for `algorithm="auto"`, now and in later runs.

    The model is called once, `model(*inputs)`, to see the image sizes and dtypes of its layers (under autocast as it is
    then). For each kind of layer, the vendor's convolution with our set kernels and every tile of the fused kernels are
    checked against the reference implementation and timed on the device, forward and backward, on random sets of
    `lengths`. A candidate whose result is wrong is logged and not used. Progress is printed to stderr.

    Each result is saved as soon as it is known, so an interrupted run keeps what it measured. The file is `tuned.json`
    (in interconv_kernels in $XDG_CACHE_HOME or ~/.cache). Its keys are the device and triton version, and C, Co,
    kernel, stride, dilation, dtype, format and the power of two nearest to H W: never N, B or set sizes, so a stream of
    ragged batches is tuned once.

    Args:
        model: a network on the GPU with InterConv2d layers.
        *inputs: what it is called with.
        lengths: the set sizes that layers are timed on.

    Returns:
        {"forward C64 Co64 k3x3 ...": {"algorithm": "fused" or "vendor", "tiles", "milliseconds": {candidate: median}}}

    Raises:
        ValueError: backend "triton" cannot run on the device of the model, or cannot compute any of its layers, with
            the reason; or the model has no InterConv2d.
    """
    layers = _layers_of(model, inputs)
    if not layers:
        raise ValueError(f"{type(model).__name__} called no InterConv2d on packed input: nothing to tune")
    device = layers[0].weight.device
    fused = get_backend("triton", device).tunable
    assert fused is not None
    kinds = _kinds_of(fused, layers)
    sets = Sets.from_lengths(lengths, device)
    progress = Progress(sum(1 + sum(map(len, kind.tiles.values())) for kind in kinds))
    found: dict[str, Record] = {}
    try:
        for kind in kinds:
            record = _tune_kind(fused, kind, sets, progress)
            if record is not None:
                fused.save(device, {kind.key: record})
                found[kind.key] = record
    except KeyboardInterrupt:
        progress.note(f"interrupted: {len(found)} of {len(kinds)} kinds of layer are measured and saved")
        raise
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
        layers.append(_Layer(conv, (u.shape[-2], u.shape[-1]), weight.contiguous(memory_format=fmt), cast_u.dtype))

    hooks = [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, InterConv2d)]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return layers


def _kinds_of(fused: TunableLayer, layers: list[_Layer]) -> list[_Kind]:
    """The different kinds of layers that the kernels can compute.

    Raises:
        ValueError: they can compute none of the layers, with the reason.
    """
    kinds: dict[str, _Kind] = {}
    reasons: dict[str, None] = {}
    for layer in layers:
        u = layer.random(1)
        if (reason := fused.can_fuse(layer.conv, u, layer.weight)) is not None:
            reasons[reason] = None
            continue
        for direction in DIRECTIONS:
            key = fused.layer_key(direction, layer.conv, u, layer.weight)
            tiles = fused.candidates(direction, layer.conv, u, layer.weight)
            kinds.setdefault(key, _Kind(key, direction, layer, tiles))
    if not kinds:
        raise ValueError(f"nothing to tune: {'; '.join(reasons)}")
    for reason in reasons:
        logger.warning("some layers are not tuned: %s", reason)
    return list(kinds.values())


def _tune_kind(fused: TunableLayer, kind: _Kind, sets: Sets, progress: Progress) -> Record | None:
    """What was fastest; None if every candidate is wrong."""
    layer, device = kind.layer, kind.layer.weight.device
    u, checked = layer.random(sets.num_samples), _Checked(kind)
    call = _call(kind, u, sets)
    times: dict[str, float] = {}
    tried: dict[str, Record] = {}

    def fastest() -> Record:
        return tried[min(times, key=lambda name: times[name])]

    def attempt(name: str, candidate: Record) -> None:
        with fused.override(device, kind.key, candidate):
            time = checked.time(name, call, device)
        if time is not None:
            tried[name], times[name] = candidate, time
        progress.step(f"{kind.key}: {name} {'not used' if time is None else f'{time:.3f} ms'}")

    def compiling(candidate: Record) -> Callable[[], None]:
        def launch() -> None:
            with fused.override(device, kind.key, candidate):
                checked.call()
                call()

        return launch

    vendor: Record = {"algorithm": "vendor", "tiles": {}}
    every = [{"algorithm": "fused", "tiles": {part: name}} for part, names in kind.tiles.items() for name in names]
    compiled = fused.compile_ahead(map(compiling, [vendor, *every]))
    progress.note(f"{kind.key}: {compiled} kernels compiled for {1 + len(every)} candidates")
    attempt(VENDOR, vendor)
    best: dict[str, str] = {}
    for part, names in kind.tiles.items():
        if part != next(iter(kind.tiles)) and not best:  # the vendor's convolution is faster: the rest is not tried
            progress.step(f"{kind.key}: no {part} tiles, since {VENDOR} is faster", len(names))
            continue
        for name in names:
            attempt(" ".join([*best.values(), name]), {"algorithm": "fused", "tiles": {**best, part: name}})
        best = fastest()["tiles"] if times else {}
    if not times:
        logger.warning("%s: no candidate is right; run python -m interconv_kernels.selftest", kind.key)
        return None
    return {**fastest(), "milliseconds": times}


class _Checked:
    """A small call of a layer whose exact results and allowed errors are known."""

    def __init__(self, kind: _Kind):
        layer = kind.layer
        sets = Sets.from_lengths(CHECKED_LENGTHS, layer.weight.device)
        u, weight, conv = layer.random(sets.num_samples), layer.weight, layer.conv
        bias = torch.zeros_like(weight[:, 0, 0, 0])
        options = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        self.g = torch.randn_like(reference.concat_interconv2d(u, weight, bias, CHECKED_LENGTHS, **options))

        def results(layer: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
            tensors = [x.to(dtype) for x in (u, weight, bias)]
            y, *gradients = with_gradients(lambda *x: layer(*x, CHECKED_LENGTHS, **options), tensors, self.g.to(dtype))
            return [y] if kind.direction == "forward" else gradients

        self.name = kind.key
        self.exact = results(reference.interconv2d, torch.float64)
        self.allowed = allowed_errors(results(reference.concat_interconv2d, layer.dtype), self.exact)
        self.call = _call(kind, u, sets, self.g)

    def time(self, name: str, call: Callable[[], object], device: torch.device) -> float | None:
        """Milliseconds of `call`; None, and a line in the log, if it does not run or this one's results are wrong."""
        from triton.errors import TritonError

        try:
            errors = map(reference.relative_error, self.call(), self.exact)
            wrong = [pair for pair in zip(errors, self.allowed, strict=True) if not pair[0] <= pair[1]]  # or NaN
            if wrong:
                found = ", ".join(f"{error:.1e} ({allowed:.0e})" for error, allowed in wrong)
                logger.warning("%s: %s is WRONG and not used: error (allowed) %s", self.name, name, found)
                return None
            return milliseconds(call, device)
        except TritonError as error:  # it does not compile, or needs more shared memory than the GPU has
            logger.warning("%s: %s does not run on this GPU: %s", self.name, name, error)
            return None


def _call(kind: _Kind, u: Tensor, sets: Sets, g: Tensor | None = None) -> Callable[[], list[Tensor]]:
    """A call of the layer in one direction, with algorithm "auto"; `g` is random by default."""
    conv, weight = kind.layer.conv, kind.layer.weight
    settings = (
        sets.live_offsets,
        sets.live_ids,
        [*conv.stride],
        [*conv.padding],
        [*conv.dilation],
        "auto",
        "triton",
    )
    if kind.direction == "forward":
        return lambda: [torch.ops.interconv.interconv2d(u, weight, None, *settings)]
    if g is None:
        size = conv.output_size(u.shape[2:], weight.shape[2:])
        g = torch.randn(u.shape[0], weight.shape[0], *size, device=u.device, dtype=u.dtype)
        g = g.contiguous(memory_format=conv.fmt)
    return lambda: list(torch.ops.interconv.interconv2d_backward(g, u, weight, *settings, [True, True, True]))
