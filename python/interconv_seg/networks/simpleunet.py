"""SimpleUNet, and with it ScribblePrompt-UNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Body, check_count


class SimpleUNet(Body):
    """A U-Net with one 3x3 convolution a step and the same number of features throughout (paper, section 4 and Table
    4). With 192 features, and prompts among the input's channels, it is ScribblePrompt-UNet (paper, section 4.1).

    A first convolution, four encoder convolutions each before a 2x2 max-pool, one at the bottom, and four decoder
    steps: bilinear upsampling, concatenation with the encoder's features, convolution. A one-parameter PReLU follows
    each convolution but the last.

    Args:
        in_channels: of the images. classes: output channels, background included. features: F, of every hidden layer.

    Input [N, in_channels, H, W] with H and W multiples of 16; output [N, classes, H, W] (logits).

    Raises:
        ValueError, TypeError: arguments that are no int of at least 1; images that do not fit.
    """

    STEPS = 4

    def __init__(self, in_channels: int = 1, classes: int = 21, features: int = 24):
        super().__init__()
        self.in_channels, self.classes = check_count("in_channels", in_channels), check_count("classes", classes)
        self.stride = self.smallest = 2**self.STEPS
        check_count("features", features)
        self.first = _conv(in_channels, features)
        self.encoder = nn.ModuleList(_conv(features, features) for _ in range(self.STEPS))
        self.bottom = _conv(features, features)
        self.decoder = nn.ModuleList(_conv(2 * features, features) for _ in range(self.STEPS - 1))
        self.last = nn.Conv2d(2 * features, classes, 3, padding=1)

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
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = step(torch.cat([x, skip], dim=1))
        return x


def _conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.PReLU())
