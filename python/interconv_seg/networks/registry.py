"""The networks by name: families, the paper's sizes, and the two placements of InterConv in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

import interconv_kernels as ik
from interconv_kernels.errors import unknown_name
from interconv_kernels.surgery import Selector

from .base import Body, SetNetwork
from .nnunet import NnUNet
from .simpleunet import SimpleUNet
from .swinunet import SwinUNet

Placement = Literal["replace", "append"]
Features = int | Sequence[int]


@dataclass(frozen=True)
class Family:
    """A kind of network: its body, its features by default, and where InterConv goes.

    Attributes:
        replaced: the layers that become InterConv ("replace").
        appended_to: the layers that an InterConv of `kernel_size` follows ("append"): a convolution before its norm
            and activation, or a whole attention layer.
    """

    body: type[Body]
    features: Features
    replaced: Selector
    appended_to: Selector
    kernel_size: int


# SimpleUNet's first convolution only lifts the image to features: "append" begins after it.
_SIMPLE = (nn.Conv2d, ("encoder.*.0", "bottom.0", "decoder.*.0", "last"), 3)
FAMILIES = {
    "simpleunet": Family(SimpleUNet, 24, *_SIMPLE),
    "nnunet": Family(NnUNet, (32, 64, 128, 256, 512, 512), "*.conv", "*.conv", 3),
    "swinunet": Family(SwinUNet, 96, "*.mlp.expand", "*.attention", 1),
    "scribbleprompt": Family(SimpleUNet, 192, *_SIMPLE),
}

# The paper's networks (Tables 4 to 6; ScribblePrompt: section 4.1): family, features as baseline, and features in
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
    algorithm: str = "auto",
    backend: str = "auto",
) -> SetNetwork:
    """A network of the paper with fresh weights: `build("simpleunet-2M", "replace")(x, sets) -> logits`.

    Args:
        name: a family ("simpleunet", "nnunet", "swinunet", "scribbleprompt"), or one of the paper's sizes
            ("simpleunet-60K" to "simpleunet-16M", "nnunet-20M", "swinunet-27M", "scribbleprompt-3.6M"). A size means
            about so many parameters with `interconv` or without: "simpleunet-2M" has 142 features, its "replace" 100.
        interconv: None, the baseline; "replace", in which convolutions become InterConv (in SwinUNet the first linear
            layer after each attention), as the paper's parameter counts have it; "append", in which an extra InterConv
            F -> F follows each layer, as its text has it.
        in_channels: of the images, prompts included. classes: output channels (1 for interactive segmentation).
        features: for a family: of its layers, a number (nnunet: one for each stage). Default: the paper's baseline.
        algorithm, backend: of the InterConv layers; see `ik.interconv2d`.

    Returns:
        SetNetwork, whose call is network(x [N, in_channels, H, W], sets) -> logits [N, classes, H, W].

    Raises:
        ValueError: an unknown name, placement, algorithm or backend; features beside a size; "append" for a size (the
            paper has none). ValueError, TypeError: numbers that do not fit.
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
    body = family.body(in_channels, classes, family.features if features is None else features)
    layers: dict[str, Any] = {"keep_outputs": False, "algorithm": algorithm, "backend": backend}
    if interconv == "replace":
        ik.replace_with_interconv(body, family.replaced, **layers)
    elif interconv == "append":
        ik.append_interconv(body, family.appended_to, family.kernel_size, **layers)
    elif interconv is not None:
        raise unknown_name("interconv", interconv, ["replace", "append"])
    if interconv is not None:
        body.init_weights()
    return SetNetwork(body)
