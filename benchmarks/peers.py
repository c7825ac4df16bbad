"""The forms that are compared: this library's, and eager torch's on the same work.

A form takes u [N,C,H,W], weight [Co,2C,k,k] and bias [Co] to y [N,Co,H',W'] for the sets of one case. Peers are written
as well as we know how in each layout: in channels_last, torch's mean, cat and broadcast add are slow on [B,K,C,H,W] and
give a contiguous result, which the convolution reorders again, so they work on the view that is contiguous there,
[B,K,H,W,C]. That took the authors' layer from 62 to 45 ms for one shape, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import interconv_kernels as ik

from .suites import Case

Form = Callable[[Tensor, Tensor, Tensor], Tensor]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}

# By what they are: the authors' layer (mean, repeat, concatenation, convolution), and the same algebra as `split` here.
CONCAT = ("concat", "compiled-concat", "loop-concat", "padded-concat")
SPLIT = ("eager-split", "loop-split")
FOR_EQUAL_SETS = ("concat", "compiled-concat", "eager-split")
FOR_RAGGED_SETS = ("loop-concat", "loop-split", "padded-concat")
OURS = "ours"
ALGORITHMS = tuple(f"{OURS}-{name}" for name in ("split", "centered", "fused", "concat"))
DEFAULT_FORMS = (OURS, *FOR_EQUAL_SETS, *FOR_RAGGED_SETS)
ALL_FORMS = (*DEFAULT_FORMS, *ALGORITHMS)


def make_forms(case: Case, layout: str, device: torch.device, names: Sequence[str]) -> dict[str, Form]:
    """Those of the named forms that are for such sets."""
    torch.compiler.reset()  # else the ninth shape would no longer be compiled
    peers = FOR_RAGGED_SETS if case.is_ragged else FOR_EQUAL_SETS
    return {
        name: _make(name, case, layout, device) for name in names if name in peers or name == OURS or name in ALGORITHMS
    }


def _make(name: str, case: Case, layout: str, device: torch.device) -> Form:
    last, stride = layout == "channels_last", case.layer.stride
    if name == "concat":
        return partial(concat, size=case.lengths[0], stride=stride, last=last)
    if name == "compiled-concat":
        form = partial(concat, size=case.lengths[0], stride=stride, last=last)
        return torch.compile(form, fullgraph=True, dynamic=False)
    if name == "eager-split":
        return partial(eager_split, size=case.lengths[0], stride=stride, last=last)
    if name in ("loop-concat", "loop-split"):
        each = concat if name == "loop-concat" else eager_split
        return partial(loop, each, lengths=case.lengths, stride=stride, last=last)
    if name == "padded-concat":
        return padded_concat(case.lengths, stride, last, device)
    sets = ik.Sets.from_lengths(case.lengths, device=device)  # once, as a network makes them once a batch
    algorithm = "auto" if name == OURS else name.removeprefix(f"{OURS}-")
    return partial(ik.interconv2d, sets=sets, stride=stride, algorithm=algorithm)  # type: ignore[arg-type]


def plain(case: Case) -> Form:
    """The authors' layer for sets of any sizes, written for no speed at all."""

    def form(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        means = [samples.mean(0, keepdim=True).expand_as(samples) for samples in u.split(case.lengths)]
        return _conv(torch.cat([u, torch.cat(means)], dim=1), weight, bias, case.layer.stride)

    return form


def concat(u: Tensor, weight: Tensor, bias: Tensor, size: int, stride: int, last: bool) -> Tensor:
    """The authors' layer on sets of `size` samples: conv(cat(u, mean))."""
    x = as_it_lies(u, last).unflatten(0, (-1, size))
    mean = x.mean(1, keepdim=True)
    c = torch.cat([x, mean.expand_as(x)], dim=-1 if last else 2).flatten(0, 1)
    return _conv(as_image(c, last), weight, bias, stride)


def eager_split(u: Tensor, weight: Tensor, bias: Tensor, size: int, stride: int, last: bool) -> Tensor:
    """conv(u; Wu) + [conv(s; Ws) + b] in plain torch."""
    channels = u.shape[1]
    mean = as_it_lies(u, last).unflatten(0, (-1, size)).mean(1)
    from_set = as_it_lies(_conv(as_image(mean, last), weight[:, channels:], bias, stride), last)
    own = as_it_lies(_conv(u, weight[:, :channels], None, stride), last)
    return as_image((own.unflatten(0, (-1, size)) + from_set.unsqueeze(1)).flatten(0, 1), last)


def loop(
    each: Callable[..., Tensor],
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    lengths: tuple[int, ...],
    stride: int,
    last: bool,
) -> Tensor:
    """A form for equal sets, one set after the other."""
    return torch.cat([each(samples, weight, bias, len(samples), stride, last) for samples in u.split(lengths)])


def padded_concat(lengths: tuple[int, ...], stride: int, last: bool, device: torch.device) -> Form:
    """The authors' layer on [B, largest set, ...], where what pads a set is masked: zeros in the mean's sum, and left
    out of the result."""
    largest = max(lengths)
    real = torch.arange(largest, device=device) < torch.tensor(lengths, device=device)[:, None]  # bool [B, largest]
    rows = real.flatten().nonzero().flatten()
    sizes = torch.tensor(lengths, device=device).view(-1, 1, 1, 1, 1)

    def form(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        samples = as_it_lies(u, last)
        padded = samples.new_zeros(real.numel(), *samples.shape[1:]).index_copy(0, rows, samples)
        x = padded.unflatten(0, (-1, largest))
        mean = x.sum(1, keepdim=True) / sizes.to(x.dtype)
        c = torch.cat([x, mean.expand_as(x)], dim=-1 if last else 2).flatten(0, 1)
        y = as_it_lies(_conv(as_image(c, last), weight, bias, stride), last)
        return as_image(y.index_select(0, rows), last)

    return form


def as_it_lies(image: Tensor, last: bool) -> Tensor:
    """[N,C,H,W] as its memory lies: [N,H,W,C] for channels_last."""
    return image.permute(0, 2, 3, 1) if last else image


def as_image(rows: Tensor, last: bool) -> Tensor:
    """Back from `as_it_lies` to [N,C,H,W]."""
    return rows.permute(0, 3, 1, 2) if last else rows


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    return F.conv2d(x, weight, bias, stride, padding=weight.shape[2] // 2)
