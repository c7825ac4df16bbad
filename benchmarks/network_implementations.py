"""The networks that `networks` measures: with this library's layers, with the authors', and without InterConv."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from interconv_seg import automatic_loss, build, interactive_loss
from interconv_seg.networks import SetNetwork
from interconv_seg.networks.registry import Features, Placement
from torch import Tensor, nn

import interconv_kernels as ik
from interconv_kernels.reference import ConcatInterConv2d, relative_error

from .baselines import MEMORY_FORMATS, MemoryFormat
from .check import Expected

# A training step (forward, loss, backward); the forward in eval mode without autograd.
NetworkDirection: TypeAlias = Literal["train", "infer"]
# Relative errors (max difference / max value) allowed in float32. Between ours and concat we have seen 1e-7 for the
# loss, 9e-6 for logits and 1e-3 for gradients, both in nnunet-20M; gradients of the other networks differ by at most
# 1e-4. Rounding can change the sign of an activation near zero, and with it the slope of its leaky ReLU. That changes
# gradients by far more than rounding itself: in float64 they agree to 4e-14.
ALLOWED = {"loss": 1e-4, "gradients": 3e-3, "logits": 1e-4}


class Network(NamedTuple):
    """A network of the paper: its features without InterConv and with it."""

    name: str
    family: str
    baseline: Features
    interconv: Features


class NetworkImplementation(NamedTuple):
    """One implementation of a network.

    Attributes:
        placement: of InterConv; None for the network without it.
        layers: "ours" (`InterConv2d`), "ours-unmerged" (the same, with activations as modules of their own), "concat"
            (`ConcatInterConv2d`), or "baseline" without InterConv.
        compiled: whether it runs under torch.compile.
    """

    placement: Placement | None
    layers: Literal["ours", "ours-unmerged", "concat", "baseline"]
    compiled: bool = False

    @property
    def name(self) -> str:
        return f"compiled-{self.layers}" if self.compiled else self.layers

    @property
    def reference(self) -> NetworkImplementation:
        """The implementation whose results this one must have."""
        return NetworkImplementation(self.placement, "concat" if self.placement else "baseline")


class Workload(NamedTuple):
    """What all implementations of a network compute.

    Attributes:
        network: which network.
        direction: "train" or "infer".
        memory_format: of images and weights.
        lengths: the set sizes.
        size: height and width of the images.
        device: "cpu" or "cuda".
        precision: "float32", or "bfloat16" for autocast.
    """

    network: Network
    direction: NetworkDirection
    memory_format: MemoryFormat
    lengths: tuple[int, ...]
    size: tuple[int, int]
    device: str
    precision: str

    def case(self, placement: Placement | None) -> str:
        """The name of a measurement's case."""
        sets, (height, width) = "+".join(map(str, self.lengths)), self.size
        return f"{self.network.name} {placement or 'without InterConv'} {sets} {height}x{width}"


class Step:
    """A training step or an inference of an implementation, on the same values each time."""

    def __init__(self, workload: Workload, implementation: NetworkImplementation):
        network, placement = workload.network, implementation.placement
        self.workload = workload
        interactive = network.family == "scribbleprompt"
        channels, classes = (3, 1) if interactive else (1, 21)  # interactive: the image and two channels of prompts
        self.loss = interactive_loss if interactive else automatic_loss
        self.features = network.interconv if placement else network.baseline
        torch.manual_seed(0)  # all implementations with the same placement have the same weights
        built = build(network.family, placement, in_channels=channels, classes=classes, features=self.features)
        if implementation.layers == "concat":
            _use_concat(built)
        elif implementation.layers == "ours-unmerged":
            _unmerge_activations(built)
        device, memory_format = torch.device(workload.device), MEMORY_FORMATS[workload.memory_format]
        self.network: SetNetwork = built.train(workload.direction == "train").to(device)
        self.network.to(memory_format=memory_format)  # type: ignore[call-overload]
        self.forward: Callable[..., Any] = self.network
        if implementation.compiled:  # "fallback_random": stochastic depth drops the same samples as in eager mode
            options: dict[str, Any] = {"fallback_random": True}
            self.forward = torch.compile(self.network, fullgraph=True, dynamic=False, options=options)
        random, n = torch.Generator().manual_seed(1), sum(workload.lengths)
        self.x = torch.randn((n, channels, *workload.size), generator=random).to(device, memory_format=memory_format)
        self.masks = torch.randint(max(2, classes), (n, *workload.size), generator=random).to(device)
        self.sets = ik.Sets.from_lengths(workload.lengths, device)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def __call__(self) -> Tensor:
        """The loss, with new gradients in the network; or the logits."""
        torch.manual_seed(0)  # for stochastic depth
        with torch.autocast(self.workload.device, torch.bfloat16, enabled=self.workload.precision == "bfloat16"):
            if self.workload.direction == "infer":
                with torch.no_grad():
                    return self.forward(self.x, self.sets)
            self.network.zero_grad()
            loss = self.loss(self.forward(self.x, self.sets), self.masks, self.sets)
        loss.backward()
        return loss.detach()

    def results(self) -> dict[str, Tensor]:
        """What is checked: the logits; or the loss and the gradients of all parameters as one vector."""
        result = self()
        if self.workload.direction == "infer":
            return {"logits": result}
        # The coarsest head of nnUNet has weight 0 in the loss: its gradients are None, or 0 under torch.compile.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.network.parameters()]
        return {"loss": result, "gradients": torch.cat([gradient.flatten() for gradient in gradients])}


def _use_concat(network: nn.Module) -> None:
    """Replaces this library's layers by the authors' layers with the same parameters."""
    for parent in list(network.modules()):
        for key, child in parent.named_children():
            if isinstance(child, ik.InterConv2d):
                setattr(parent, key, ConcatInterConv2d.from_layer(child))


def _unmerge_activations(network: nn.Module) -> None:
    """Moves the activations of this library's layers back into the module that follows."""
    for parent in list(network.modules()):
        layer = parent[0] if isinstance(parent, nn.Sequential) else None
        if isinstance(layer, ik.InterConv2d) and layer.activation is not None:
            assert isinstance(parent, nn.Sequential)
            parent[1], layer.activation = layer.activation, None


def expect(workload: Workload, reference: NetworkImplementation) -> Expected:
    """The reference's results in float32, and the allowed errors.

    In a lower precision, twice the error that the reference makes in it is allowed in addition to ALLOWED.
    """
    values = Step(workload._replace(precision="float32"), reference).results()
    allowed = {name: ALLOWED[name] for name in values}
    if workload.precision != "float32":
        for name, rounded in Step(workload, reference).results().items():
            allowed[name] += 2 * relative_error(rounded, values[name])
    return Expected(values, allowed)
