"""The checks of `interconv_kernels.selftest`: what is checked, and how one check runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from . import _set_checks, reference, tuned
from ._accuracy import allowed_errors, float32_as, with_gradients
from ._backends.contract import DIRECTIONS, Direction, TunableLayer
from ._backends.registry import get as get_backend
from .convolution import Conv
from .functional import interconv2d
from .sets import SetIndex, Sets
from .typing import Algorithm, BackendName

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LENGTHS = [3, 1, 0, 8, 2]


class Case(NamedTuple):
    """A layer and the size of its input."""

    channels: int
    out_channels: int
    kernel: int
    stride: int
    dilation: int
    size: tuple[int, int]
    fmt: torch.memory_format


CASES = (
    Case(16, 16, 3, 1, 1, (12, 9), torch.channels_last),
    Case(32, 16, 1, 1, 1, (10, 9), torch.channels_last),
    Case(16, 16, 3, 1, 1, (12, 9), torch.contiguous_format),
    Case(23, 20, 3, 2, 1, (9, 11), torch.channels_last),
    Case(8, 24, 5, 1, 2, (11, 10), torch.channels_last),
    Case(5, 7, 1, 1, 1, (10, 9), torch.contiguous_format),
    Case(8, 8, 7, 1, 1, (8, 9), torch.channels_last),
)
# Every tile can be used in one of these. In the first, the depth of a tile divides C and not Co, and there are more
# output channels than the widest tile has columns. The others have few channels, or odd numbers of them.
TILE_CASES = (
    Case(64, 136, 3, 1, 1, (9, 10), torch.channels_last),
    Case(23, 37, 3, 1, 1, (9, 10), torch.channels_last),
    Case(64, 136, 1, 1, 1, (9, 10), torch.channels_last),
    Case(23, 37, 1, 1, 1, (9, 10), torch.channels_last),
    *(Case(channels, channels, 3, 1, 1, (9, 10), torch.channels_last) for channels in (56, 24, 16)),
)


class Check(NamedTuple):
    """The result of one check: the largest error of each quantity, taken relative to its bound over all layers.

    Attributes:
        backend: its name.
        algorithm: its name; "" for a set operation.
        dtype: of all tensors.
        errors: the relative error of y, grad_u, grad_weight and grad_bias (a set operation has one error); empty if
            nothing was run.
        allowed: the largest error allowed of each.
        skipped: "", or the reason why nothing was run.
        case: what was forced: the name of a tile, of a set operation, or "tf32"; "" if nothing was.
        failed: "", or the error that was raised.
    """

    backend: BackendName
    algorithm: str
    dtype: torch.dtype
    errors: tuple[float, ...]
    allowed: tuple[float, ...]
    skipped: str = ""
    case: str = ""
    failed: str = ""

    @property
    def title(self) -> str:
        """What is checked, on one line."""
        parts = (self.backend, self.algorithm, self.case, str(self.dtype).removeprefix("torch."))
        return " ".join(part for part in parts if part)

    @property
    def passed(self) -> bool:
        """Whether it ran and every error is allowed; NaN is not."""
        return not self.failed and all(
            error <= allowed for error, allowed in zip(self.errors, self.allowed, strict=True)
        )

    @property
    def error(self) -> float:
        """The largest of the errors."""
        return max(self.errors, default=0.0)


class Planned(NamedTuple):
    """A check that is to be run.

    Attributes:
        check: what it checks, without results.
        results: for a device, the check with its results.
        launching: for a device, a call that launches its fused kernels, on this thread; None if it has none.
    """

    check: Check
    results: Callable[[torch.device], Check]
    launching: Callable[[torch.device], Callable[[], None]] | None = None

    def run(self, device: torch.device) -> Check:
        """The results; an error, such as a kernel that does not run on the GPU, is one of them."""
        try:
            return self.results(device)
        except Exception as error:
            lines = f"{type(error).__name__}: {error}".splitlines()
            return self.check._replace(failed=lines[0])


class LayerCheck(NamedTuple):
    """One backend, algorithm and dtype, on several layers.

    Attributes:
        backend: its name.
        algorithm: its name.
        dtype: of all tensors.
        cases: the layers.
        precision: "ieee" or "tf32", how float32 is multiplied.
        tile: (part of the layer, the tile that it is forced to use), if any.
    """

    backend: BackendName
    algorithm: Algorithm
    dtype: torch.dtype
    cases: Sequence[Case]
    precision: str = "ieee"
    tile: tuple[tuple[str, str], ...] = ()

    @property
    def case(self) -> str:
        return " ".join([*dict(self.tile).values(), *["tf32"] * (self.precision == "tf32")])

    def planned(self) -> Planned:
        check = Check(self.backend, self.algorithm, self.dtype, (), (), "", self.case)
        return Planned(check, self.run, self.launching if self.algorithm == "fused" else None)

    def run(self, device: torch.device) -> Check:
        worst: list[tuple[float, float]] = []
        skipped = ""
        for case in self.cases:
            tensors, g = _inputs(case, self.dtype)
            options = {"stride": case.stride, "dilation": case.dilation}
            on_device = [x.to(device) for x in tensors]
            settings = {"algorithm": self.algorithm, "backend": self.backend, **options}
            with self._forced(case, device):
                try:
                    got = _results(interconv2d, on_device, g, settings)
                except ValueError as refusal:  # the backend has no such algorithm here: fused in float64, for example
                    skipped = str(refusal)
                    continue
                torchs = _results(reference.concat_interconv, on_device, g, options)
                exact = _results(reference.interconv, [x.double() for x in tensors], g, options)
                allowed = allowed_errors(torchs, exact)
            errors = map(reference.relative_error, got, exact)
            found = list(zip(errors, allowed, strict=True))
            worst = list(map(_worse, worst, found)) if worst else found
        errors_found, bounds = zip(*worst, strict=True) if worst else ((), ())
        reason = "" if worst else skipped
        return Check(self.backend, self.algorithm, self.dtype, errors_found, bounds, reason, self.case)

    def launching(self, device: torch.device) -> Callable[[], None]:
        """A call that launches the fused kernels of the check, forward and backward, on this thread."""
        fused = get_backend(self.backend, device).fused(device)

        def launch() -> None:
            sets = Sets.from_lengths([size for size in LENGTHS if size], device)
            index = SetIndex(sets.offsets, sets.set_ids)
            for case in self.cases:
                tensors, g = _inputs(case, self.dtype)
                u, weight, bias = (x.to(device) for x in tensors)
                conv = _conv(case)
                with float32_as(self.precision):
                    if fused is None or fused.can_fuse(conv, u, weight) is not None:
                        continue
                    weight = weight.contiguous(memory_format=case.fmt)
                    g = g.to(device).contiguous(memory_format=case.fmt)
                    tiles = {direction: self._tiles(direction, case, device) for direction in DIRECTIONS}
                    fused.forward(conv, u, weight, bias, index, 1, None, tiles["forward"])
                    fused.backward(conv, g, u, weight, index, (True, True, True), 1, tiles["backward"])

        return launch

    @contextlib.contextmanager
    def _forced(self, case: Case, device: torch.device) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(float32_as(self.precision))
            for direction in DIRECTIONS:
                if tiles := self._tiles(direction, case, device):
                    key = tuned.layer_key(direction, _conv(case), *_empty(case, self.dtype, device))
                    stack.enter_context(
                        tuned.override(device, key, self.backend, {"algorithm": "fused", "tiles": tiles})
                    )
            yield

    def _tiles(self, direction: Direction, case: Case, device: torch.device) -> dict[str, str]:
        """The tiles that the layer is given in a direction; none where they are not for it."""
        fused = get_backend(self.backend, device).tunable(device) if self.tile else None
        if fused is None:
            return {}
        candidates = fused.candidates(direction, _conv(case), *_empty(case, self.dtype, device))
        fits = all(name in candidates.get(part, ()) for part, name in self.tile)
        return dict(self.tile) if fits else {}


def quick(backend: BackendName) -> list[Planned]:
    """Algorithm "auto" in float32 on two layers."""
    return [LayerCheck(backend, "auto", torch.float32, CASES[:2]).planned()]


def plan(backend: BackendName, device: torch.device) -> list[Planned]:
    """Every check of a backend that is ready on the device."""
    layers = [
        LayerCheck(backend, algorithm, dtype, CASES, precision)
        for algorithm in ALGORITHMS
        for dtype in DTYPES
        for precision in _precisions(dtype, device)
    ]
    tunable = get_backend(backend, device).tunable(device)
    if tunable is not None:
        layers += tile_checks(backend, tunable, device)
    set_checks = [set_check(backend, name, dtype) for name in _set_checks.OPERATIONS for dtype in DTYPES]
    return set_checks + [layer.planned() for layer in layers]


def tile_checks(backend: BackendName, fused: TunableLayer, device: torch.device) -> list[LayerCheck]:
    """Checks of every tile and dtype that `fused` can be given on the device, forward and backward."""
    seen: set[tuple[Direction, LayerCheck]] = set()
    found: list[LayerCheck] = []
    for case, dtype in product(TILE_CASES, DTYPES):
        for precision, direction in product(_precisions(dtype, device), DIRECTIONS):
            with float32_as(precision):
                layer = (_conv(case), *_empty(case, dtype, device))
                if fused.can_fuse(*layer) is not None:
                    continue
                tiles = fused.candidates(direction, *layer)
            for part, name in ((part, name) for part, names in tiles.items() for name in names):
                check = LayerCheck(backend, "fused", dtype, (case,), precision, ((part, name),))
                kind = (direction, check._replace(cases=()))
                if kind not in seen and check not in found:
                    found.append(check)
                seen.add(kind)
    return found


def set_check(backend: BackendName, name: str, dtype: torch.dtype) -> Planned:
    """A set operation of a backend."""
    check = Check(backend, "", dtype, (), (), "", name)

    def results(device: torch.device) -> Check:
        ops = get_backend(backend, device).set_ops
        error, allowed = _set_checks.worst_error(ops, name, dtype, device)
        return check._replace(errors=(error,), allowed=(allowed,))

    return Planned(check, results)


def _precisions(dtype: torch.dtype, device: torch.device) -> tuple[str, ...]:
    """How float32 can be multiplied: on NVIDIA's GPUs also as TF32."""
    has_tf32 = dtype == torch.float32 and device.type != "cpu" and torch.version.hip is None
    return ("ieee", "tf32") if has_tf32 else ("ieee",)


def _conv(case: Case) -> Conv:
    pad = case.dilation * (case.kernel // 2)
    return Conv((case.stride,) * 2, (pad, pad), (case.dilation,) * 2, case.fmt)


def _empty(case: Case, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """u of one sample, and weight, uninitialised."""
    u = torch.empty(1, case.channels, *case.size, dtype=dtype, device=device, memory_format=case.fmt)
    weight = torch.empty(case.out_channels, 2 * case.channels, case.kernel, case.kernel, dtype=dtype, device=device)
    return u, weight


def _inputs(case: Case, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """u, weight and bias, and a gradient for y, on the CPU."""
    random = torch.Generator().manual_seed(0)

    def values(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    k, depth = case.kernel, 2 * case.channels * case.kernel**2
    u = values(sum(LENGTHS), case.channels, *case.size).to(dtype).contiguous(memory_format=case.fmt)
    weight = (values(case.out_channels, 2 * case.channels, k, k) / depth**0.5).to(dtype)
    size = [(n - 1) // case.stride + 1 for n in case.size]
    return [u, weight, values(case.out_channels).to(dtype)], values(sum(LENGTHS), case.out_channels, *size).to(dtype)


def _results(
    layer: Callable[..., Tensor], tensors: list[Tensor], g: Tensor, options: Mapping[str, object]
) -> list[Tensor]:
    """y and the gradients of u, weight and bias."""
    return with_gradients(lambda *x: layer(*x, LENGTHS, **options), tensors, g.to(tensors[0]))


def _worse(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The pair (error, allowed) whose error is larger relative to what is allowed; NaN is the largest."""
    return one if not one[0] / one[1] <= other[0] / other[1] else other
