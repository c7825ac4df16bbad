"""What a backend must do: the set operations, and, if it has one, a fused layer.

Tensors are dense in one memory format (contiguous or channels_last), and results come in the format of the first
tensor. `sets` holds `offsets` [B+1] and `set_ids` [N] (`SetIndex`). K_b is the size of set b, b(i) the set of sample i.
Results are new tensors, sums are float32 for bfloat16 and float16, addresses are int64, and nothing is read back from a
GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Literal, Protocol, TypeAlias, get_args

import torch
from torch import Tensor

from ..convolution import Conv
from ..sets import SetIndex
from ..typing import BackendName

Direction: TypeAlias = Literal["forward", "backward"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
Gradients: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]  # of u, weight and bias
Needs: TypeAlias = Sequence[bool]  # which of them are to be computed
Tiles: TypeAlias = Mapping[str, str]  # {part of a fused layer: tile}


class SetOps(Protocol):
    """The set operations, on tensors of any rank >= 2. Every backend has all of them."""

    def set_reduce(self, x: Tensor, sets: SetIndex, mean: bool) -> Tensor:
        """x [N,...] -> [B,...], the sum over each set, or its mean; zero for an empty set."""
        ...

    def set_add(
        self,
        y: Tensor | None,
        t: Tensor,
        sets: SetIndex,
        mean: bool,
        out: Tensor,
        first: int = 0,
        slope: Tensor | None = None,
    ) -> Tensor:
        """out_i = act(y_i + t_b(i)), with t_b / K_b in place of t_b if `mean`; y [R,...] or None (zero), t [B,...].

        `y` and `out`, which may be the same tensor, hold the samples first ... first+R-1 of the batch. act is the
        identity; with `slope` [Co] it is x where x >= 0, else slope * x. Returns `out`.
        """
        ...

    def concat_set_mean(self, u: Tensor, sets: SetIndex) -> Tensor:
        """u [N,C,...] -> [N,2C,...], [u_i | mean of set b(i)] (paper, Eq. 1-2)."""
        ...

    def concat_set_mean_backward(self, g: Tensor, sets: SetIndex) -> Tensor:
        """The adjoint of `concat_set_mean`: g [N,2C,...] -> [N,C,...], g_own_i + (sum of g_set over the set) / K."""
        ...

    def center(self, x: Tensor, sets: SetIndex, from_mean: bool) -> tuple[Tensor, Tensor]:
        """x [N,...] -> (mean [B,...], dev [N-B,...]).

        `dev` holds each sample but the last of its set, minus that last sample, or minus the mean if `from_mean`. No
        set is empty.
        """
        ...

    def uncenter(self, mean: Tensor, dev: Tensor, sets: SetIndex, out: Tensor | None = None) -> Tensor:
        """The inverse of `center(x, sets, from_mean=False)`: x_K = mean - (sum of dev) / K, x_i = x_K + dev_i."""
        ...


class FusedLayer(Protocol):
    """A backend's own kernels for the whole layer (algorithm "fused")."""

    def can_fuse(self, conv: Conv, u: Tensor, weight: Tensor) -> str | None:
        """The reason why these kernels cannot compute this layer, or None."""
        ...

    def forward(
        self,
        conv: Conv,
        u: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        sets: SetIndex,
        max_centered: int,
        slope: Tensor | None,
        tiles: Tiles,
    ) -> Tensor:
        """The layer for u [N,C,H,W] and weight [Co,2C,kh,kw], both dense in conv.fmt; no set is empty and N > 0.

        `max_centered` >= 1 is decided in `choice.py`: sets of at most that many samples are computed as `centered` (one
        sample: a plain convolution with Wu + Ws), larger sets as `split`. A fused layer that has one form for the whole
        batch takes `centered` only where all sets are that small. `slope`: as in `SetOps.set_add`.

        `tiles`: what `ik.tune` measured as fastest (`TunableLayer.candidates`). For a part that is missing, or a tile
        that does not exist, the fused layer takes its default.
        """
        ...

    def backward(
        self,
        conv: Conv,
        g: Tensor,
        u: Tensor,
        weight: Tensor,
        sets: SetIndex,
        need: Needs,
        max_centered: int,
        tiles: Tiles,
    ) -> Gradients:
        """The gradients of u, weight and bias for g [N,Co,H',W'], each only if `need` says so."""
        ...


class TunableLayer(FusedLayer, Protocol):
    """A fused layer with several tiles, of which `ik.tune` finds the fastest on the GPU at hand."""

    def candidates(self, direction: Direction, conv: Conv, u: Tensor, weight: Tensor) -> dict[str, list[str]]:
        """{part of the layer: the tiles to choose from}; a part is chosen after those before it.

        Only for layers for which `can_fuse` has no reason. Depends on nothing that `tuned.layer_key` does not hold.
        """
        ...


class Backend(ABC):
    """One backend. Its optional packages are imported when `set_ops` or `fused` is first used."""

    name: ClassVar[BackendName]

    @abstractmethod
    def can_run(self, device: torch.device) -> str | None:
        """The reason why it cannot run on the device, or None."""

    @abstractmethod
    def version(self) -> str:
        """As `ik.backends()` shows it."""

    @property
    @abstractmethod
    def set_ops(self) -> SetOps:
        """The set operations."""

    def fused(self, device: torch.device) -> FusedLayer | None:
        """The fused layer for tensors on the device, or None if it has none."""
        return None

    def tunable(self, device: torch.device) -> TunableLayer | None:
        """The fused layer, if `ik.tune` can time its tiles on the device."""
        return None

    def compile_ahead(self, calls: Iterable[Callable[[], object]]) -> int:
        """Compiles what the calls launch in parallel, without running it; returns the number of kernels.

        There is nothing to do where the package is built with all of its kernels.
        """
        return 0

    def can_fuse(self, conv: Conv, u: Tensor, weight: Tensor) -> str | None:
        """The reason why algorithm "fused" cannot compute this layer, or None."""
        fused = self.fused(u.device)
        return f"backend {self.name!r} has no fused layer" if fused is None else fused.can_fuse(conv, u, weight)
