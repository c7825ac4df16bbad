"""The implementations that are compared: this library's layer, and baselines in plain torch that do the same work.

An implementation maps u [N,C,H,W], weight [Co,2C,k,k] and bias [Co] to y [N,Co,H',W'], for the sets of one case; or the
same for volumes.

The baselines are as fast as we can write them in each memory format. In channels_last, torch's mean, cat and broadcast
add are slow on [B,K,C,H,W], and their result is contiguous, so that the convolution reorders it again. They therefore
work on [B,K,H,W,C], which is contiguous there: 45 instead of 62 ms for the authors' layer on one shape, forward and
backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

import interconv_kernels as ik
from interconv_kernels.reference import concat_interconv

from .suites import Case, is_ragged

if TYPE_CHECKING:  # older revisions, which `compare` measures, do not have it
    from interconv_kernels.typing import Algorithm

Implementation: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
MemoryFormat: TypeAlias = Literal["contiguous", "channels_last"]
MEMORY_FORMATS: dict[MemoryFormat, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}

# The baselines by algorithm: the authors' layer (mean, concatenation, convolution), and what `split` computes here.
CONCAT = ("concat", "compiled-concat", "loop-concat", "padded-concat")
SPLIT = ("eager-split", "loop-split")
FOR_EQUAL_SETS = ("concat", "compiled-concat", "eager-split")
FOR_RAGGED_SETS = ("loop-concat", "loop-split", "padded-concat")
OURS = "ours"
OUR_ALGORITHMS: dict[str, Algorithm] = {
    "ours-split": "split",
    "ours-centered": "centered",
    "ours-fused": "fused",
    "ours-concat": "concat",
}
DEFAULT_IMPLEMENTATIONS = (OURS, *FOR_EQUAL_SETS, *FOR_RAGGED_SETS)
ALL_IMPLEMENTATIONS = (*DEFAULT_IMPLEMENTATIONS, *OUR_ALGORITHMS)


def is_ours(name: str) -> bool:
    """Whether an implementation is this library's: "ours", "ours-split", "compiled-ours" and so on."""
    return OURS in name.split("-")


def make_implementations(
    case: Case, memory_format: MemoryFormat, device: torch.device, names: Sequence[str]
) -> dict[str, Implementation]:
    """The named implementations, without those that are not for sets like the case's.

    Args:
        case: the layer and its sets.
        memory_format: of the tensors that they will be called with.
        device: of the tensors that they will be called with.
        names: of ALL_IMPLEMENTATIONS.
    """
    torch.compiler.reset()  # otherwise torch stops compiling after eight shapes
    baselines = FOR_RAGGED_SETS if is_ragged(case.lengths) else FOR_EQUAL_SETS
    return {
        name: _make(name, case, memory_format == "channels_last", device)
        for name in names
        if name in baselines or is_ours(name)
    }


def _make(name: str, case: Case, channels_last: bool, device: torch.device) -> Implementation:
    lengths, stride = case.lengths, case.layer.stride
    if name == "concat":
        return partial(concat_interconv, lengths=lengths, stride=stride)
    if name == "compiled-concat":
        concat = partial(concat_interconv, lengths=lengths, stride=stride)
        return torch.compile(concat, fullgraph=True, dynamic=False)
    if name == "eager-split":
        return partial(eager_split, size=lengths[0], stride=stride, channels_last=channels_last)
    if name == "loop-concat":
        return partial(loop, lambda u, w, b: concat_interconv(u, w, b, [len(u)], stride), lengths=lengths)
    if name == "loop-split":
        return partial(loop, lambda u, w, b: eager_split(u, w, b, len(u), stride, channels_last), lengths=lengths)
    if name == "padded-concat":
        return padded_concat(lengths, stride, channels_last, device)
    sets = ik.Sets.from_lengths(lengths, device=device)  # made once, as a network does for each batch
    layer = ik.interconv3d if case.layer.depth else ik.interconv2d
    return partial(layer, sets=sets, stride=stride, algorithm=OUR_ALGORITHMS.get(name, "auto"))


def eager_split(u: Tensor, weight: Tensor, bias: Tensor, size: int, stride: int, channels_last: bool) -> Tensor:
    """conv(u; Wu) + [conv(s; Ws) + b] in plain torch, on sets of `size` samples."""
    channels = u.shape[1]
    mean = _as_stored(u, channels_last).unflatten(0, (-1, size)).mean(1)
    set_term = _as_stored(_conv(_as_images(mean, channels_last), weight[:, channels:], bias, stride), channels_last)
    own = _as_stored(_conv(u, weight[:, :channels], None, stride), channels_last)
    return _as_images((own.unflatten(0, (-1, size)) + set_term.unsqueeze(1)).flatten(0, 1), channels_last)


def loop(each: Implementation, u: Tensor, weight: Tensor, bias: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """An implementation for one set, applied to one set after the other."""
    return torch.cat([each(samples, weight, bias) for samples in u.split(lengths)])


def padded_concat(lengths: tuple[int, ...], stride: int, channels_last: bool, device: torch.device) -> Implementation:
    """The authors' layer on sets that are padded to the largest one, [B,K,...].

    Padding is 0 in the sum of the mean, and is removed from the result.
    """
    largest = max(lengths)
    is_sample = torch.arange(largest, device=device) < torch.tensor(lengths, device=device)[:, None]  # bool [B,K]
    rows = is_sample.flatten().nonzero().flatten()
    sizes = torch.tensor(lengths, device=device)

    def implementation(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        samples = _as_stored(u, channels_last)
        padded = samples.new_zeros(is_sample.numel(), *samples.shape[1:]).index_copy(0, rows, samples)
        x = padded.unflatten(0, (-1, largest))
        mean = x.sum(1, keepdim=True) / sizes.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        c = torch.cat([x, mean.expand_as(x)], dim=-1 if channels_last else 2).flatten(0, 1)
        y = _as_stored(_conv(_as_images(c, channels_last), weight, bias, stride), channels_last)
        return _as_images(y.index_select(0, rows), channels_last)

    return implementation


def _as_stored(images: Tensor, channels_last: bool) -> Tensor:
    """[N,C,...] as the view that is contiguous: [N,...,C] for channels_last."""
    return images.movedim(1, -1) if channels_last else images


def _as_images(rows: Tensor, channels_last: bool) -> Tensor:
    """The inverse of `_as_stored`: a view [N,C,...]."""
    return rows.movedim(-1, 1) if channels_last else rows


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    convolve = F.conv2d if x.dim() == 4 else F.conv3d
    return convolve(x, weight, bias, stride, padding=weight.shape[2] // 2)
