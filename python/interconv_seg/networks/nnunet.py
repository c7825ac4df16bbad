"""The 2-D network of nnU-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import interconv_kernels as ik

from .base import Body, check_count


class NnUNet(Body):
    """nnU-Net's plain convolutional U-Net in 2-D, with deep supervision (paper, section 4.2 and Table 5).

    A stage is two 3x3 convolutions, each with affine instance norm and leaky ReLU; every encoder stage but the first
    begins with stride 2. The decoder goes up by 2x2 transposed convolutions, concatenates, and has a stage and a 1x1
    segmentation head at each level. (MONAI's DynUNet leaves out the convolutions' biases: 20,632,041 parameters where
    nnU-Net has 20,638,025.)

    Args:
        in_channels: of the images. classes: output channels, background included.
        features: of each stage, the finest first; at least two stages.

    Input [N, in_channels, H, W] with H and W multiples of 2^(stages - 1), and more than one pixel at the lowest level
    (instance norm). Output [N, classes, H, W] (logits); in training a list of them, the finest first, level i of
    H / 2^i x W / 2^i pixels.

    Raises:
        ValueError, TypeError: arguments that are no ints of at least 1; images that do not fit.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 21,
        features: Sequence[int] = (32, 64, 128, 256, 512, 512),
    ):
        super().__init__()
        self.in_channels, self.classes = check_count("in_channels", in_channels), check_count("classes", classes)
        if not isinstance(features, (tuple, list)) or len(features) < 2:
            raise TypeError(f"features = {features!r}: expected the features of each stage, two stages or more")
        for i, f in enumerate(features):
            check_count(f"features[{i}]", f)
        self.stride = 2 ** (len(features) - 1)
        self.smallest = 2 * self.stride
        inputs = [in_channels, *features[:-1]]
        self.encoder = nn.ModuleList(_stage(inputs[i], f, stride=1 if i == 0 else 2) for i, f in enumerate(features))
        rising = list(zip(features[::-1][:-1], features[::-1][1:], strict=True))  # (from below, here), lowest first
        self.ups = nn.ModuleList(nn.ConvTranspose2d(below, f, 2, stride=2) for below, f in rising)
        self.decoder = nn.ModuleList(_stage(2 * f, f, stride=1) for _, f in rising)
        self.heads = nn.ModuleList(nn.Conv2d(f, classes, 1) for _, f in rising)
        self.init_weights()

    def init_weights(self) -> None:
        """He's normal weights for leaky ReLU, no biases at first, as nnU-Net begins."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, ik.InterConv2d)):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        self.check_size(x)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        logits: list[Tensor] = []
        for up, stage, head, skip in zip(self.ups, self.decoder, self.heads, skips[-2::-1], strict=True):
            x = stage(torch.cat([up(x), skip], dim=1))
            if self.training or stage is self.decoder[-1]:
                logits.insert(0, head(x))
        return logits if self.training else logits[0]


class _ConvNormReLU(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm = nn.InstanceNorm2d(out_channels, affine=True)
        self.relu = nn.LeakyReLU(0.01, inplace=True)


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_ConvNormReLU(in_channels, out_channels, stride), _ConvNormReLU(out_channels, out_channels, 1))
