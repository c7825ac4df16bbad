"""The networks by name: families, the paper's sizes, and the two placements of InterConv in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import interconv_kernels as ik
from interconv_kernels.errors import unknown_name
from interconv_kernels.typing import Algorithm, BackendName

from .base import Body, SetNetwork
from .nnunet import NnUNet
from .simpleunet import SimpleUNet
from .swinunet import SwinUNet

Placement: TypeAlias = Literal["replace", "append"]
Features: TypeAlias = int | Sequence[int]


@dataclass(frozen=True)
class Family:
    """A kind of network, and where InterConv goes in it.

    Attributes:
        body: the network's layers.
        features: the default of its argument `features`.
        kernel_size: the kernel of its InterConv layers.
        replaced: the arguments of `body` that make the layers which "replace" turns into InterConv layers. The layers
            of "append" are made by the argument `appended`.
    """

    body: type[Body]
    features: Features
    kernel_size: int
    replaced: tuple[str, ...]


FAMILIES = {
    "simpleunet": Family(SimpleUNet, 24, 3, ("first_conv", "conv")),
    "nnunet": Family(NnUNet, (32, 64, 128, 256, 512, 512), 3, ("conv",)),
    "swinunet": Family(SwinUNet, 96, 1, ("mlp_conv",)),
    "scribbleprompt": Family(SimpleUNet, 192, 3, ("first_conv", "conv")),
}

# The paper's networks (Tables 4 to 6; ScribblePrompt: section 4.1): family, features of the baseline, and features in
# "replace" for about the same number of parameters.
SIZES: dict[str, tuple[str, Features, Features]] = {
    "simpleunet-60K": ("simpleunet", 24, 16),
    "simpleunet-120K": ("simpleunet", 34, 23),
    "simpleunet-240K": ("simpleunet", 48, 33),
    "simpleunet-500K": ("simpleunet", 70, 49),
    "simpleunet-1M": ("simpleunet", 100, 70),
    "simpleunet-2M": ("simpleunet", 142, 100),
    "simpleunet-4M": ("simpleunet", 200, 141),
    "simpleunet-8M": ("simpleunet", 284, 200),
    "simpleunet-16M": ("simpleunet", 400, 282),
    "nnunet-20M": ("nnunet", (32, 64, 128, 256, 512, 512), (23, 46, 92, 184, 368, 368)),
    "swinunet-27M": ("swinunet", 96, 84),
    "scribbleprompt-3.6M": ("scribbleprompt", 192, 137),
}


def build(
    name: str,
    interconv: Placement | None = None,
    *,
    in_channels: int = 1,
    classes: int = 21,
    features: Features | None = None,
    algorithm: Algorithm = "auto",
    backend: BackendName = "auto",
) -> SetNetwork:
    """A network of the paper with fresh weights: `build("simpleunet-2M", "replace")(x, sets) -> logits`.

    Args:
        name: a family ("simpleunet", "nnunet", "swinunet", "scribbleprompt"), or one of the paper's sizes
            ("simpleunet-60K" to "simpleunet-16M", "nnunet-20M", "swinunet-27M", "scribbleprompt-3.6M"). A size has
            about the same number of parameters with InterConv and without: "simpleunet-2M" has 142 features in the
            baseline, 100 in "replace".
        interconv: the placement. None: the baseline. "replace": convolutions become InterConv layers (in SwinUNet the
            first linear layer after each attention), as in the paper's parameter counts. "append": an additional
            InterConv layer F -> F follows each of these layers and its activation, as in the authors' code (in SwinUNet
            each attention; in SimpleUNet not the first convolution).
        in_channels: channels of the images, prompts included.
        classes: output channels; 1 for interactive segmentation.
        features: only for a family: channels of its layers, an int (nnunet: one for each stage). Default: those of the
            paper's baseline.
        algorithm: of the InterConv layers; see `ik.interconv2d`.
        backend: of the InterConv layers; see `ik.interconv2d`.

    Returns:
        A network that is called as `network(x, sets)`, x [N,in_channels,H,W] -> logits [N,classes,H,W].

    Raises:
        ValueError: an unknown name, placement, algorithm or backend; features given with a size; "append" for a size
            (the paper has none); a number that is out of range.
        TypeError: a number that is not an int.
    """
    if name in SIZES:
        if features is not None:
            raise ValueError(f"{name!r} and features = {features!r}: expected one, or {SIZES[name][0]!r} with features")
        name, *by_placement = SIZES[name]
        if interconv == "append":
            raise ValueError(
                f"the paper has no sizes for interconv='append': expected features, as in"
                f" build({name!r}, 'append', features={by_placement[1]!r})"
            )
        features = by_placement[0 if interconv is None else 1]
    elif name not in FAMILIES:
        raise unknown_name("network", name, [*FAMILIES, *SIZES])
    family = FAMILIES[name]
    layers = _layers(family, interconv, algorithm, backend)
    return SetNetwork(family.body(in_channels, classes, family.features if features is None else features, **layers))


def _layers(family: Family, interconv: Placement | None, algorithm: Algorithm, backend: BackendName) -> dict[str, Any]:
    """The arguments of the family's body that put InterConv layers in their places."""
    if interconv is None:
        return {}
    layer = partial(ik.InterConv2d, kernel_size=family.kernel_size, algorithm=algorithm, backend=backend)
    if interconv == "replace":
        return dict.fromkeys(family.replaced, layer)
    if interconv == "append":
        return {"appended": layer}
    raise unknown_name("interconv", interconv, ["replace", "append"])
