"""SimpleUNet, which is also ScribblePrompt-UNet."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import interconv_kernels as ik

from .base import Body, LayerFactory, check_positive_int, followed

STEPS = 4  # levels of max-pooling


class SimpleUNet(Body):
    """A U-Net with one 3x3 convolution per step and the same number of features throughout (section 4, Table 4).

    With 192 features, and prompts among the input channels, it is ScribblePrompt-UNet (section 4.1).

    A first convolution, four encoder convolutions each before a 2x2 max-pool, one convolution at the bottom, and four
    decoder steps: bilinear upsampling with aligned corners, concatenation of the encoder's features with it,
    convolution. A PReLU with one parameter follows each convolution but the last. So is the code of the paper's authors
    (github.com/Catherine0505/InterConv, models.py).

    Input x [N,in_channels,H,W] with H and W multiples of 16; output logits [N,classes,H,W].

    Args:
        in_channels: channels of the images.
        classes: output channels, background included.
        features: channels of every hidden layer.
        conv: makes every convolution but the first; called as `nn.Conv2d`.
        first_conv: makes the first convolution, from the images to features; called as `nn.Conv2d`.
        appended: makes a layer F -> F after each convolution but the first, and its activation; called with F.

    Raises:
        TypeError: a number is not an int.
        ValueError: a number is below 1; in `forward`, H or W is not a multiple of 16.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 21,
        features: int = 24,
        conv: LayerFactory = nn.Conv2d,
        first_conv: LayerFactory = nn.Conv2d,
        appended: LayerFactory | None = None,
    ):
        super().__init__()
        self.in_channels = check_positive_int("in_channels", in_channels)
        self.classes = check_positive_int("classes", classes)
        self.stride = self.min_size = 2**STEPS
        check_positive_int("features", features)

        def step(in_channels: int, make: LayerFactory = conv) -> nn.Sequential:
            layer, activation = make(in_channels, features, kernel_size=3, padding=1), nn.PReLU()
            if not isinstance(layer, ik.InterConv2d):
                return nn.Sequential(layer, activation)
            layer.activation = activation  # applied by the layer's own kernels
            return nn.Sequential(layer, nn.Identity())

        self.first = step(in_channels, first_conv)
        self.encoder = nn.ModuleList(followed(step(features), appended, features) for _ in range(STEPS))
        self.bottom = followed(step(features), appended, features)
        self.decoder = nn.ModuleList(followed(step(2 * features), appended, features) for _ in range(STEPS - 1))
        self.last = followed(conv(2 * features, classes, kernel_size=3, padding=1), appended, classes)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Accepts checkpoints in which each PReLU is a module of its own beside its InterConv layer."""
        for name, _ in self.named_parameters():
            separate = prefix + name.replace(".0.activation.", ".1.")
            if prefix + name != separate and separate in state_dict:
                state_dict[prefix + name] = state_dict.pop(separate)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        x = self.first(x)
        skips = []
        for step in self.encoder:
            x = step(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for step, skip in zip([*self.decoder, self.last], reversed(skips), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = step(torch.cat([skip, x], dim=1))
        return x
