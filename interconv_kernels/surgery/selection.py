"""The argument `where=`: which layers of a network to change."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..set_context import use_sets
from .checks import dimensions
from .kinds import CONVOLUTIONS

# What a type, a name pattern, a predicate or a sequence of these selects: see `replace_with_interconv`.
Where: TypeAlias = "type[nn.Module] | str | Callable[[str, nn.Module], bool] | Choice | Sequence[type[nn.Module] | str]"
Predicate: TypeAlias = Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Choice:
    """Some of the layers that `of` selects: what `every` and `deepest` return.

    Attributes:
        text: for messages.
        of: the layers to choose from.
        choose: (network, layers) -> the chosen ones.
    """

    text: str
    of: Where
    choose: Callable[[nn.Module, list[nn.Module]], list[nn.Module]]

    def __repr__(self) -> str:
        return self.text


def every(n: int, of: Where = tuple(CONVOLUTIONS)) -> Choice:
    """Selects the first layer and every n-th after it, in the order of `network.named_modules()`.

    Args:
        n: at least 1.
        of: the layers that are counted; as `where` in `replace_with_interconv`.

    Returns:
        A value for `where`.

    Raises:
        TypeError: n is no int.
        ValueError: n is below 1.
    """
    _check_count("n", n)
    return Choice(f"every({n}, of={of!r})", of, lambda network, layers: layers[::n])


def deepest(levels: int, images: Tensor, of: Where = tuple(CONVOLUTIONS)) -> Choice:
    """Selects the layers at the lowest resolutions of a network, such as the bottom of a U-Net.

    The network is run once on `images`, without gradients and in eval mode. A level is a size of output, in pixels;
    layers that are not called are not selected.

    Args:
        levels: how many levels, the lowest first; at least 1.
        images: an input of the network. Only its shape matters.
        of: the layers to choose from; as `where` in `replace_with_interconv`.

    Returns:
        A value for `where`.

    Raises:
        TypeError: levels is no int.
        ValueError: levels is below 1.
    """
    _check_count("levels", levels)

    def choose(network: nn.Module, layers: list[nn.Module]) -> list[nn.Module]:
        pixels = _output_pixels(network, layers, images)
        lowest = sorted(set(pixels.values()))[:levels]
        return [layer for layer in layers if pixels.get(layer) in lowest]

    return Choice(f"deepest({levels}, images {tuple(images.shape)}, of={of!r})", of, choose)


def predicate(where: Where, network: nn.Module) -> Predicate:
    """`where` as a function of name and module, for the layers of a network.

    Raises:
        TypeError: `where` is none of its types.
    """
    if isinstance(where, Choice):
        counted = predicate(where.of, network)
        layers = [module for name, module in network.named_modules() if counted(name, module)]
        chosen = set(where.choose(network, layers))
        return lambda name, module: module in chosen
    if callable(where) and not isinstance(where, type):
        return where
    parts = where if isinstance(where, (tuple, list)) else (where,)
    types = tuple(part for part in parts if isinstance(part, type))
    patterns = [part for part in parts if isinstance(part, str)]
    if len(types) + len(patterns) != len(parts):
        raise TypeError(
            f"where = {where!r}: expected module types, name patterns, a predicate (name, module) -> bool, ik.every or"
            " ik.deepest"
        )
    return lambda name, module: (
        isinstance(module, types) or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    )


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} = {value!r}: expected an int")
    if value < 1:
        raise ValueError(f"{name} = {value}: expected at least 1")


def _output_pixels(network: nn.Module, layers: list[nn.Module], images: Tensor) -> dict[nn.Module, int]:
    """The pixels, voxels or tokens of the last output of each layer that a run on `images` calls."""
    pixels: dict[nn.Module, int] = {}

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() >= 2:
            axes = output.shape[1:-1] if isinstance(module, nn.Linear) else output.shape[-(dimensions(module) or 2) :]
            pixels[module] = math.prod(axes)

    training = {module: module.training for module in network.modules()}
    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        network.eval()
        with torch.no_grad(), use_sets([images.shape[0]]):
            network(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return pixels
