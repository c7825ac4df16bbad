"""The 2-D network of nnU-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import interconv_kernels as ik

from .base import Body, LayerFactory, check_positive_int, followed


class NnUNet(Body):
    """nnU-Net's plain convolutional U-Net in 2-D, with deep supervision (section 4.2 and Table 5).

    A stage is two 3x3 convolutions, each with affine instance norm and leaky ReLU; every encoder stage but the first
    begins with stride 2. A decoder level is a 2x2 transposed convolution, a concatenation, a stage and a 1x1
    segmentation head. (MONAI's DynUNet leaves out the biases of the convolutions: 20,632,041 parameters where nnU-Net
    has 20,638,025.)

    Input x [N,in_channels,H,W] with H and W multiples of 2^(stages - 1), and more than one pixel at the lowest level
    (instance norm). Output logits [N,classes,H,W]; in training a list of them, the finest first, level i of
    H / 2^i x W / 2^i pixels.

    Args:
        in_channels: channels of the images.
        classes: output channels, background included.
        features: channels of each stage, the finest first; at least two stages.
        conv: makes the convolutions of the stages; called as `nn.Conv2d`.
        appended: makes a layer F -> F after each convolution with its norm and activation; called with F.

    Raises:
        TypeError: a number is not an int, or `features` is not a list of at least two.
        ValueError: a number is below 1; in `forward`, H or W is not a multiple of the stride.
    """

    cpu_format = torch.contiguous_format  # of instance norm's results, so that no layer has to copy its input

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 21,
        features: Sequence[int] = (32, 64, 128, 256, 512, 512),
        conv: LayerFactory = nn.Conv2d,
        appended: LayerFactory | None = None,
    ):
        super().__init__()
        self.in_channels = check_positive_int("in_channels", in_channels)
        self.classes = check_positive_int("classes", classes)
        if not isinstance(features, (tuple, list)) or len(features) < 2:
            raise TypeError(f"features = {features!r}: expected the features of each stage, two stages or more")
        for i, f in enumerate(features):
            check_positive_int(f"features[{i}]", f)
        self.stride = 2 ** (len(features) - 1)
        self.min_size = 2 * self.stride

        def stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                followed(_ConvNormReLU(in_channels, out_channels, stride, conv), appended, out_channels),
                followed(_ConvNormReLU(out_channels, out_channels, 1, conv), appended, out_channels),
            )

        inputs = [in_channels, *features[:-1]]
        self.encoder = nn.ModuleList(stage(inputs[i], f, stride=1 if i == 0 else 2) for i, f in enumerate(features))
        levels = list(zip(features[:0:-1], features[-2::-1], strict=True))  # (features below, features), lowest first
        self.ups = nn.ModuleList(nn.ConvTranspose2d(below, f, 2, stride=2) for below, f in levels)
        self.decoder = nn.ModuleList(stage(2 * f, f, stride=1) for _, f in levels)
        self.heads = nn.ModuleList(nn.Conv2d(f, classes, 1) for _, f in levels)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, ik.InterConv2d)):
                nn.init.kaiming_normal_(module.weight, a=0.01)  # He's for leaky ReLU, and zero biases, as in nnU-Net
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
    def __init__(self, in_channels: int, out_channels: int, stride: int, conv: LayerFactory):
        super().__init__()
        self.conv = conv(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)
        self.norm = nn.InstanceNorm2d(out_channels, affine=True)
        self.relu = nn.LeakyReLU(0.01, inplace=True)
