"""`ik.tune`: measures on the GPU at hand which backend, algorithm and tiles are fastest for the layers of a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import reference, tuned
from ._accuracy import allowed_errors, with_gradients
from ._backends import registry
from ._backends.contract import DIRECTIONS, Direction, TunableLayer
from ._device_time import milliseconds
from ._progress import Progress
from .arguments import cast_for_autocast
from .convolution import Conv
from .layout import common_format
from .modules import InterConv2d
from .sets import Sets
from .tuned import Candidate, Record

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
    tiles: dict[str, dict[str, list[str]]]  # by backend: `TunableLayer.candidates`; {} if it cannot compute the layer

    @property
    def num_candidates(self) -> int:
        return sum(1 + sum(map(len, parts.values())) for parts in self.tiles.values())


def tune(model: nn.Module, *inputs: Any, lengths: Sequence[int] = (4, 1, 8, 3)) -> dict[str, Record]:
    """Measures every InterConv2d of `model` and keeps what was fastest for `algorithm="auto"`, now and in later runs.

    The model is called once, `model(*inputs)`, to see the image sizes and dtypes of its layers (under autocast as it is
    then). For each kind of layer and each backend that has tiles to choose from, the vendor's convolution with that
    backend's set operations, and every tile of its fused layer, are checked against the reference implementation and
    timed on the device, forward and backward, on random sets of `lengths`. A candidate whose result is wrong, or that
    raises an error, is logged and not used. Progress is printed to stderr.

    Each result is saved as soon as it is known, so an interrupted run keeps what it measured. The file is `tuned.json`
    (in interconv_kernels in $XDG_CACHE_HOME or ~/.cache). Its keys are the device and the versions of the backends,
    and C, Co, kernel, stride, padding, dilation, dtype, format and the power of two nearest to H W: never N, B or set
    sizes, so a stream of ragged batches is tuned once.

    Args:
        model: a network on the GPU with InterConv2d layers.
        *inputs: what it is called with.
        lengths: the set sizes that layers are timed on.

    Returns:
        {"forward C64 Co64 k3x3 ...": {
            "fastest": the backend of the fastest candidate,
            "best": {backend: {"algorithm": "fused" or "vendor", "tiles": {part of the layer: tile}}},
            "milliseconds": {"triton vendor": median, "triton conv-16-128x64x64": median, ...}}}

    Raises:
        ValueError: no backend has tiles for the device of the model, or none can compute any of its layers, with the
            reasons; or the model has no InterConv2d.
    """
    layers = _layers_of(model, inputs)
    if not layers:
        raise ValueError(f"{type(model).__name__} called no InterConv2d on packed input: nothing to tune")
    device = layers[0].weight.device
    kinds = _kinds_of(tunable_backends(device), layers)
    sets = Sets.from_lengths(lengths, device)
    progress = Progress(sum(kind.num_candidates for kind in kinds))
    found: dict[str, Record] = {}
    try:
        for kind in kinds:
            record = _tune_kind(kind, sets, progress)
            if record is not None:
                tuned.save(device, {kind.key: record})
                found[kind.key] = record
    except KeyboardInterrupt:
        progress.note(f"interrupted: {len(found)} of {len(kinds)} kinds of layer are measured and saved")
        raise
    return found


def tunable_backends(device: torch.device) -> dict[str, TunableLayer]:
    """{backend: its fused layer} of those with tiles to choose from on the device.

    Raises:
        ValueError: there are none, with the reasons.
    """
    backends = registry.tunable(device)
    if not backends:
        reasons = (
            f"{name}: {backend.can_run(device) or 'it has no tiles to choose from there'}"
            for name, backend in registry.BACKENDS.items()
        )
        raise ValueError(f"no backend can be tuned on {device}: {'; '.join(reasons)}")
    return backends


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


def _kinds_of(backends: dict[str, TunableLayer], layers: list[_Layer]) -> list[_Kind]:
    """The different kinds of layers that a backend's kernels can compute.

    Raises:
        ValueError: none can compute any of the layers, with the reasons.
    """
    kinds: dict[str, _Kind] = {}
    reasons: dict[str, None] = {}
    for conv, size, weight, dtype in layers:
        u = _Layer(conv, size, weight, dtype).random(1)
        found = {name: fused.can_fuse(conv, u, weight) for name, fused in backends.items()}
        if None not in found.values():
            reasons |= dict.fromkeys(f"{name}: {reason}" for name, reason in found.items())
            continue
        for direction in DIRECTIONS:
            key = tuned.layer_key(direction, conv, u, weight)
            tiles = {
                name: {} if found[name] else fused.candidates(direction, conv, u, weight)
                for name, fused in backends.items()
            }
            kinds.setdefault(key, _Kind(key, direction, _Layer(conv, size, weight, dtype), tiles))
    if not kinds:
        raise ValueError(f"nothing to tune: {'; '.join(reasons)}")
    for reason in reasons:
        logger.warning("some layers are not tuned: %s", reason)
    return list(kinds.values())


def _tune_kind(kind: _Kind, sets: Sets, progress: Progress) -> Record | None:
    """What was measured; None if every candidate is wrong."""
    checked, u = _Checked(kind), kind.layer.random(sets.num_samples)
    times: dict[str, float] = {}
    best: dict[str, tuple[float, Candidate]] = {}
    for backend in kind.tiles:
        found = _tune_backend(kind, backend, checked, u, sets, progress)
        times |= {f"{backend} {name}": time for name, (time, _) in found.items()}
        if found:
            best[backend] = min(found.values(), key=lambda pair: pair[0])
    if not best:
        logger.warning("%s: no candidate is right; run python -m interconv_kernels.selftest", kind.key)
        return None
    return {
        "fastest": min(best, key=lambda backend: best[backend][0]),
        "best": {backend: candidate for backend, (_, candidate) in best.items()},
        "milliseconds": times,
    }


def _tune_backend(
    kind: _Kind, backend: str, checked: _Checked, u: Tensor, sets: Sets, progress: Progress
) -> dict[str, tuple[float, Candidate]]:
    """{name: (milliseconds, candidate)} of those candidates of a backend that are right."""
    device, parts = kind.layer.weight.device, kind.tiles[backend]
    check, call = checked.call(backend), _call(kind, backend, u, sets)
    found: dict[str, tuple[float, Candidate]] = {}

    def attempt(name: str, candidate: Candidate) -> None:
        with tuned.override(device, kind.key, backend, candidate):
            time = checked.time(f"{backend} {name}", check, call, device)
        if time is not None:
            found[name] = time, candidate
        progress.step(f"{kind.key}: {backend} {name} {'not used' if time is None else f'{time:.3f} ms'}")

    def compiling(candidate: Candidate) -> Callable[[], None]:
        def launch() -> None:
            with tuned.override(device, kind.key, backend, candidate):
                check()
                call()

        return launch

    vendor: Candidate = {"algorithm": "vendor", "tiles": {}}
    every = [vendor, *(_fused({part: name}) for part, names in parts.items() for name in names)]
    compiled = registry.BACKENDS[backend].compile_ahead(map(compiling, every))
    progress.note(f"{kind.key}: {compiled} kernels compiled for {len(every)} candidates of {backend}")
    attempt(VENDOR, vendor)
    best: dict[str, str] = {}
    for part, names in parts.items():
        if part != next(iter(parts)) and not best:  # the vendor's convolution is faster: the rest is not tried
            progress.step(f"{kind.key}: no {part} tiles of {backend}, since {VENDOR} is faster", len(names))
            continue
        for name in names:
            attempt(" ".join([*best.values(), name]), _fused({**best, part: name}))
        best = min(found.values(), key=lambda pair: pair[0])[1]["tiles"] if found else {}
    return found


def _fused(tiles: dict[str, str]) -> Candidate:
    return {"algorithm": "fused", "tiles": tiles}


class _Checked:
    """A small call of a layer whose exact results and allowed errors are known."""

    def __init__(self, kind: _Kind):
        layer = kind.layer
        sets = Sets.from_lengths(CHECKED_LENGTHS, layer.weight.device)
        u, weight, conv = layer.random(sets.num_samples), layer.weight, layer.conv
        bias = torch.zeros_like(weight[:, 0, 0, 0])
        options = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        self.g = torch.randn_like(reference.concat_interconv(u, weight, bias, CHECKED_LENGTHS, **options))

        def results(layer: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
            tensors = [x.to(dtype) for x in (u, weight, bias)]
            y, *gradients = with_gradients(lambda *x: layer(*x, CHECKED_LENGTHS, **options), tensors, self.g.to(dtype))
            return [y] if kind.direction == "forward" else gradients

        self.name = kind.key
        self.exact = results(reference.interconv, torch.float64)
        self.allowed = allowed_errors(results(reference.concat_interconv, layer.dtype), self.exact)
        self.call = lambda backend: _call(kind, backend, u, sets, self.g)

    def time(
        self, name: str, check: Callable[[], list[Tensor]], call: Callable[[], object], device: torch.device
    ) -> float | None:
        """Milliseconds of `call`; None, and a line in the log, if it raises an error or `check` has wrong results."""
        try:
            errors = map(reference.relative_error, check(), self.exact)
            wrong = [pair for pair in zip(errors, self.allowed, strict=True) if not pair[0] <= pair[1]]  # or NaN
            if wrong:
                found = ", ".join(f"{error:.1e} ({allowed:.0e})" for error, allowed in wrong)
                logger.warning("%s: %s is WRONG and not used: error (allowed) %s", self.name, name, found)
                return None
            return milliseconds(call, device)
        except Exception as error:  # it does not compile, needs more memory than the GPU has, ...
            logger.warning("%s: %s does not run on this GPU: %s", self.name, name, error)
            return None


def _call(kind: _Kind, backend: str, u: Tensor, sets: Sets, g: Tensor | None = None) -> Callable[[], list[Tensor]]:
    """A call of the layer in one direction, with algorithm "auto"; `g` is random by default."""
    conv, weight = kind.layer.conv, kind.layer.weight
    settings = (
        sets.live_offsets,
        sets.live_ids,
        [*conv.stride],
        [*conv.padding],
        [*conv.dilation],
        "auto",
        backend,
    )
    if kind.direction == "forward":
        return lambda: [torch.ops.interconv.interconv(u, weight, None, *settings)]
    if g is None:
        size = conv.output_size(u.shape[2:], weight.shape[2:])
        g = torch.randn(u.shape[0], weight.shape[0], *size, device=u.device, dtype=u.dtype)
        g = g.contiguous(memory_format=conv.fmt)
    return lambda: list(torch.ops.interconv.interconv_backward(g, u, weight, *settings, [True, True, True]))
