"""SwinUNet: a U-Net of shifted-window attention, on tokens in the memory of channels_last images.

Tokens [N,H,W,C], row by row, viewed as [N,C,H,W], are a channels_last image. So a linear layer on tokens is a 1x1
convolution, an InterConv2d with kernel 1 takes tokens directly, and changing between the two views copies nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.layers import DropPath
from torch import Tensor, nn

import interconv_kernels as ik

from .base import Body, LayerFactory, check_positive_int, followed, round_up

PATCH = 4
WINDOW = 7
STAGES = 4
DEPTH = 2  # blocks in each stage
HEADS = 3  # in the first stage; doubled in each following stage, as the channels are
MLP_RATIO = 4
DROP_PATH = 0.2  # stochastic depth of the deepest block, as in the authors' configuration


class TokenLinear(nn.Conv2d):
    """A linear layer on tokens [N,C,H,W].

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        bias: whether to learn a bias.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, kernel_size=1, bias=bias)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of tokens [N,C,H,W]; the result is channels_last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows of 7x7 tokens, with a learned bias for each relative position.

    softmax(q k^T / sqrt(d) + bias) v, for tokens [N,C,H,W] of any H and W. The result is channels_last.

    Args:
        channels: C.
        heads: number of heads; divides C.
        shifted: whether windows start 3 rows and columns earlier, along sides with more than one window.
    """

    position_index: Tensor

    def __init__(self, channels: int, heads: int, shifted: bool):
        super().__init__()
        self.out_channels = channels
        self.heads, self.shifted = heads, shifted
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.position_bias = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("position_index", _relative_positions(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = [round_up(size, WINDOW) for size in (height, width)]
        shift = [WINDOW // 2 if self.shifted and size > WINDOW else 0 for size in padded]
        tokens = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, padded[1] - width, 0, padded[0] - height))
        windows = _to_windows(tokens.roll([-s for s in shift], (1, 2)))
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        bias = self.position_bias[self.position_index].permute(2, 0, 1).expand(windows.shape[1], -1, -1, -1)
        if any(shift) or padded != [height, width]:
            bias = bias.masked_fill(~_may_attend((height, width), padded, shift, x.device), -torch.inf)
        # Windows and heads are one dimension of q, k and v, which ONNX takes with four dimensions only.
        windows = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(0, 1)[None].to(q.dtype))
        windows = windows.unflatten(1, (-1, self.heads)).transpose(2, 3).flatten(3)
        tokens = _from_windows(windows, padded).roll(shift, (1, 2))[:, :height, :width]
        return self.project(tokens).permute(0, 3, 1, 2)


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each with stochastic depth.

    Args:
        channels: of the tokens.
        heads: of the attention.
        shifted: as in `WindowAttention`.
        drop_path: the probability that a sample skips a residual branch in training.
        mlp_conv: makes the first layer of the MLP; called as `TokenLinear`.
        appended: makes a layer F -> F after the attention; called with F.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        shifted: bool,
        drop_path: float,
        mlp_conv: LayerFactory = TokenLinear,
        appended: LayerFactory | None = None,
    ):
        super().__init__()
        self.attention_norm = LayerNorm2d(channels)
        self.attention = followed(WindowAttention(channels, heads, shifted), appended, channels)
        self.mlp_norm = LayerNorm2d(channels)
        self.mlp = nn.Sequential()
        self.mlp.expand = mlp_conv(channels, MLP_RATIO * channels)
        self.mlp.gelu = nn.GELU()
        self.mlp.reduce = TokenLinear(MLP_RATIO * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.attention_norm(x)))
        return x + self.drop_path(self.mlp(self.mlp_norm(x)))


class SwinUNet(Body):
    """Swin-Unet (Cao et al., 2021), as in section 4.2 and Table 6 of the paper.

    Patches of 4x4 pixels, windows of 7x7 tokens, four stages of two blocks, 3-6-12-24 heads, MLP ratio 4,
    patch-expanding decoder, and the layer norms of the published code (github.com/HuCaoFighting/Swin-Unet), one after
    the embedding and one before the last expansion among them. Where the tokens of a stage do not fill whole windows,
    the padding is masked out of the attention.

    Input x [N,in_channels,H,W] with H and W multiples of 32; output logits [N,classes,H,W].

    Args:
        in_channels: channels of the images.
        classes: output channels, background included.
        features: C, the dimension of the embedding, a multiple of 3; stage i has 2^i C channels.
        mlp_conv: makes the first linear layer of each MLP; called as `TokenLinear`.
        appended: makes a layer F -> F after the attention of each block; called with F.

    Raises:
        TypeError: a number is not an int.
        ValueError: a number is below 1, or `features` is not a multiple of 3; in `forward`, H or W is not a multiple
            of 32.
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 21,
        features: int = 96,
        mlp_conv: LayerFactory = TokenLinear,
        appended: LayerFactory | None = None,
    ):
        super().__init__()
        self.in_channels = check_positive_int("in_channels", in_channels)
        self.classes = check_positive_int("classes", classes)
        if check_positive_int("features", features) % HEADS:
            raise ValueError(f"features = {features}: expected a multiple of {HEADS}, the number of heads")
        self.stride = self.min_size = PATCH * 2 ** (STAGES - 1)
        widths = [features * 2**i for i in range(STAGES)]
        drop_paths = torch.linspace(0, DROP_PATH, STAGES * DEPTH, device="cpu").unflatten(0, (STAGES, DEPTH)).tolist()

        def stage(i: int) -> nn.Sequential:
            blocks = enumerate(drop_paths[i])
            return nn.Sequential(
                *(SwinBlock(widths[i], HEADS * 2**i, bool(b % 2), drop, mlp_conv, appended) for b, drop in blocks)
            )

        self.embed = nn.Conv2d(in_channels, features, PATCH, stride=PATCH)
        self.embed_norm = LayerNorm2d(features)
        self.encoder = nn.ModuleList(stage(i) for i in range(STAGES))
        self.merges = nn.ModuleList(_PatchMerging(width) for width in widths[:-1])
        self.bottom_norm = LayerNorm2d(widths[-1])
        decoder_stages = range(STAGES - 2, -1, -1)
        self.expands = nn.ModuleList(_PatchExpanding(widths[i + 1], widths[i], 2) for i in decoder_stages)
        self.fuses = nn.ModuleList(TokenLinear(2 * widths[i], widths[i]) for i in decoder_stages)
        self.decoder = nn.ModuleList(stage(i) for i in decoder_stages)
        self.decoder_norm = LayerNorm2d(features)
        self.expand_patches = _PatchExpanding(features, features, PATCH)
        self.head = nn.Conv2d(features, classes, 1, bias=False)
        for module in self.modules():  # as in the published code of Swin-Unet
            if isinstance(module, (nn.Linear, TokenLinear, ik.InterConv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.position_bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        x = self.embed(x).contiguous(memory_format=torch.channels_last)  # all later tensors are channels_last, too
        x = self.embed_norm(x)
        skips = []
        for stage, merge in zip(self.encoder, [*self.merges, self.bottom_norm], strict=True):
            skips.append(x)
            x = merge(stage(x))
        for expand, fuse, stage, skip in zip(self.expands, self.fuses, self.decoder, skips[-2::-1], strict=True):
            x = stage(fuse(torch.cat([expand(x), skip], dim=1)))
        return self.head(self.expand_patches(self.decoder_norm(x)))


class _PatchMerging(nn.Module):
    """Merges 2x2 tokens of C channels into one of 2C."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = LayerNorm2d(4 * channels)
        self.reduce = TokenLinear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.norm(F.pixel_unshuffle(x, 2)))


class _PatchExpanding(nn.Module):
    """Expands each token into scale x scale tokens."""

    def __init__(self, channels: int, out_channels: int, scale: int):
        super().__init__()
        self.scale = scale
        self.expand = TokenLinear(channels, scale**2 * out_channels, bias=False)
        self.norm = LayerNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.pixel_shuffle(self.expand(x), self.scale))


def _to_windows(tokens: Tensor) -> Tensor:
    """[N,H,W,...] -> [N,windows,49,...]."""
    tokens = tokens.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))  # [N,H/7,7,W/7,7,...]
    return tokens.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _from_windows(windows: Tensor, size: list[int]) -> Tensor:
    """[N,windows,49,C] -> [N,H,W,C]."""
    rows, columns = size[0] // WINDOW, size[1] // WINDOW
    windows = windows.unflatten(2, (WINDOW, WINDOW)).unflatten(1, (rows, columns))
    return windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _relative_positions() -> Tensor:
    """The index of the relative position of each two tokens of a window, int64 [49,49]."""
    row, column = torch.arange(WINDOW**2) // WINDOW, torch.arange(WINDOW**2) % WINDOW
    down, right = (x[:, None] - x[None, :] + WINDOW - 1 for x in (row, column))
    return down * (2 * WINDOW - 1) + right


def _may_attend(size: tuple[int, int], padded: list[int], shift: list[int], device: torch.device) -> Tensor:
    """Whether two tokens of a shifted window may attend to each other, bool [windows,1,49,49].

    Not tokens that the shift moved around the border with those they meet there, and nothing with the padding.
    """
    parts = []
    for side in (0, 1):
        part = torch.zeros(padded[side], dtype=torch.int64, device=device)
        part[: shift[side]] = 1
        part[size[side] :] = 2
        parts.append(part.roll(-shift[side]))
    region = _to_windows((3 * parts[0][:, None] + parts[1])[None])[0]
    return (region[:, :, None] == region[:, None, :])[:, None]
