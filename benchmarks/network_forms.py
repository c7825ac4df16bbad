"""The networks that `networks` measures, each in several forms, and whether their results are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from interconv_seg import automatic_loss, build, interactive_loss
from interconv_seg.networks import SetNetwork
from interconv_seg.networks.registry import Features, Placement
from torch import Tensor, nn

import interconv_kernels as ik

from .peers import LAYOUTS, as_image, as_it_lies

# Relative errors in float32. A unit near zero that another order of sums puts on the other side of its leaky ReLU
# changes gradients far more than rounding does: 4e-3 in nnunet-20M, whose forms agree to 4e-14 in float64.
ALLOWED = {"train": (1e-4, 1e-2), "infer": (1e-4,)}


class Network(NamedTuple):
    """A network of the paper: its features without InterConv and with it."""

    name: str
    family: str
    baseline: Features
    interconv: Features


class Form(NamedTuple):
    """One way to run a network. `placement` is None in the baseline."""

    placement: Placement | None
    layer: str  # "baseline", "ours" or "concat"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.placement or ''} {self.layer}{', compiled' if self.compiled else ''}".lstrip()

    @property
    def plain(self) -> Form:
        """The form that this one's results are held to."""
        return Form(self.placement, "concat" if self.placement else "baseline")


class Work(NamedTuple):
    """What all forms of a network do."""

    network: Network
    direction: str
    layout: str
    lengths: tuple[int, ...]
    size: tuple[int, int]
    device: str
    precision: str  # "bfloat16": under autocast


class EagerConcat(nn.Module):
    """The layer as the paper's authors publish it, for ragged sets, on the view that is contiguous (see `peers`)."""

    def __init__(self, layer: ik.InterConv2d, lengths: Sequence[int]):
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.stride, self.padding = layer.stride, layer.padding
        self.lengths = list(lengths)

    def forward(self, u: Tensor) -> Tensor:
        last = u.is_contiguous(memory_format=torch.channels_last)
        sets = as_it_lies(u, last).split(self.lengths)
        means = [samples.mean(0, keepdim=True).expand_as(samples) for samples in sets]
        pairs = [torch.cat(pair, dim=-1 if last else 1) for pair in zip(sets, means, strict=True)]
        return F.conv2d(as_image(torch.cat(pairs), last), self.weight, self.bias, self.stride, self.padding)


class Step:
    """One training step or inference of a form on fixed values: the same every time."""

    def __init__(self, work: Work, form: Form):
        network, self.work = work.network, work
        interactive = network.family == "scribbleprompt"
        channels, classes = (3, 1) if interactive else (1, 21)  # interactive: two channels of prompts beside the image
        self.loss = interactive_loss if interactive else automatic_loss
        self.features = network.interconv if form.placement else network.baseline
        torch.manual_seed(0)  # all forms of a placement have the same weights
        made = build(network.family, form.placement, in_channels=channels, classes=classes, features=self.features)
        if form.layer == "concat":
            _use_concat(made, work.lengths)
        device, fmt = torch.device(work.device), LAYOUTS[work.layout]
        self.network: SetNetwork = made.train(work.direction == "train").to(device).to(memory_format=fmt)  # type: ignore[call-overload]
        self.run: Callable[..., Any] = self.network
        if form.compiled:  # "fallback_random": stochastic depth drops the same samples as it does uncompiled
            options: dict[str, Any] = {"fallback_random": True}
            self.run = torch.compile(self.network, fullgraph=True, dynamic=False, options=options)
        random, n = torch.Generator().manual_seed(1), sum(work.lengths)
        self.x = torch.randn((n, channels, *work.size), generator=random).to(device, memory_format=fmt)
        self.masks = torch.randint(max(2, classes), (n, *work.size), generator=random).to(device)
        self.sets = ik.Sets.from_lengths(work.lengths, device)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def __call__(self) -> Tensor:
        """The loss, with new gradients in the network; or logits."""
        torch.manual_seed(0)  # of stochastic depth
        with torch.autocast(self.work.device, torch.bfloat16, enabled=self.work.precision == "bfloat16"):
            if self.work.direction == "infer":
                with torch.no_grad():
                    return self.run(self.x, self.sets)
            self.network.zero_grad()
            loss = self.loss(self.run(self.x, self.sets), self.masks, self.sets)
        loss.backward()
        return loss.detach()

    def results(self) -> dict[str, Tensor]:
        """What is compared."""
        made = self()
        if self.work.direction == "infer":
            return {"logits": made}
        # nnUNet's coarsest head has weight 0 in the loss: no gradient, or zeros under torch.compile
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.network.parameters()]
        return {"loss": made, "gradients": torch.cat([grad.flatten() for grad in grads])}


def _use_concat(network: nn.Module, lengths: Sequence[int]) -> None:
    for parent in list(network.modules()):
        for key, child in parent.named_children():
            if isinstance(child, ik.InterConv2d):
                setattr(parent, key, EagerConcat(child, lengths))


class Standard(NamedTuple):
    """What a placement's results are held to, and the relative errors that are allowed."""

    want: dict[str, Tensor]
    allowed: list[float]

    @classmethod
    def of(cls, work: Work, plain: Form) -> Standard:
        """`plain` in float32, with twice its own error in the precision that is measured."""
        want = Step(work._replace(precision="float32"), plain).results()
        own = [0.0] * len(want)
        if work.precision != "float32":
            own = _errors(Step(work, plain).results(), want)
        return cls(want, [least + 2 * error for least, error in zip(ALLOWED[work.direction], own, strict=True)])

    def complaint(self, step: Step) -> str:
        """What is wrong with the step's results, or "". A step that fails is wrong too."""
        try:
            errors = _errors(step.results(), self.want)
        except Exception as failure:  # of any kind, from any library: it is shown, and the others are still measured
            return f"{type(failure).__name__}: {(str(failure) or 'no message').splitlines()[0]}"
        wrong = [
            f"{name} differ by {error:.1e} ({allowed:.0e} allowed)"
            for name, error, allowed in zip(self.want, errors, self.allowed, strict=True)
            if not error <= allowed
        ]
        return ", ".join(wrong)


def _errors(got: dict[str, Tensor], want: dict[str, Tensor]) -> list[float]:
    return [float((got[name].double() - x.double()).norm() / x.double().norm()) for name, x in want.items()]
