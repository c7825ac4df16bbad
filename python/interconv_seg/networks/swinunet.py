"""SwinUNet: a U-Net of shifted-window attention, on tokens held as channels_last images.

Tokens [N, H, W, C] in order of rows, seen as [N, C, H, W], are a channels_last image. So a linear layer on tokens is a
1x1 convolution, InterConv2d with kernel 1 takes them as they are, and going between the two views copies nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.layers import DropPath
from torch import Tensor, nn

import interconv_kernels as ik

from .base import Body, check_count

PATCH = 4
WINDOW = 7
STAGES = 4
DEPTH = 2  # blocks in each stage
HEADS = 3  # in the first stage; twice as many in each that follows, as there are channels
MLP_RATIO = 4
DROP_PATH = 0.2  # stochastic depth of the deepest block, as in the authors' configuration


class SwinUNet(Body):
    """Swin-Unet (Cao et al., 2021): patches of 4, windows of 7, four stages of two blocks, 3-6-12-24 heads, MLP ratio
    4, patch-expanding decoder (paper, section 4.2 and Table 6). Every block and the last expansion normalise for
    themselves; Swin-Unet's published code has a layer norm after the embedding and one before that expansion beside
    (4C parameters more).

    Args:
        in_channels: of the images. classes: output channels, background included.
        features: the embedding's dimension C, a multiple of 3; stage i has 2^i C.

    Input [N, in_channels, H, W] with H and W multiples of 32; output [N, classes, H, W] (logits). Where a stage's
    tokens do not fill whole windows, they attend to each other alone, and not to the padding.

    Raises:
        ValueError, TypeError: arguments that are no int of at least 1, features that the heads do not divide; images
            that do not fit.
    """

    def __init__(self, in_channels: int = 1, classes: int = 21, features: int = 96):
        super().__init__()
        self.in_channels, self.classes = check_count("in_channels", in_channels), check_count("classes", classes)
        if check_count("features", features) % HEADS:
            raise ValueError(f"features = {features}: expected a multiple of {HEADS}, the number of heads")
        self.stride = self.smallest = PATCH * 2 ** (STAGES - 1)
        widths = [features * 2**i for i in range(STAGES)]
        drops = torch.linspace(0, DROP_PATH, STAGES * DEPTH, device="cpu").unflatten(0, (STAGES, DEPTH)).tolist()

        self.embed = nn.Conv2d(in_channels, features, PATCH, stride=PATCH)
        self.encoder = nn.ModuleList(_stage(widths[i], HEADS * 2**i, drops[i]) for i in range(STAGES))
        self.merges = nn.ModuleList(_PatchMerging(width) for width in widths[:-1])
        self.bottom_norm = LayerNorm2d(widths[-1])
        rising = range(STAGES - 2, -1, -1)
        self.expands = nn.ModuleList(_PatchExpanding(widths[i + 1], widths[i], 2) for i in rising)
        self.fuses = nn.ModuleList(TokenLinear(2 * widths[i], widths[i]) for i in rising)
        self.decoder = nn.ModuleList(_stage(widths[i], HEADS * 2**i, drops[i]) for i in rising)
        self.expand_patches = _PatchExpanding(features, features, PATCH)
        self.head = nn.Conv2d(features, classes, 1, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Linear layers and position biases from a normal distribution of deviation 0.02, no biases at first, as
        Swin-Unet begins."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, TokenLinear, ik.InterConv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.position_bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        x = self.embed(x).contiguous(memory_format=torch.channels_last)  # and so is all after it
        skips = []
        for stage, merge in zip(self.encoder, [*self.merges, self.bottom_norm], strict=True):
            skips.append(x)
            x = merge(stage(x))
        for expand, fuse, stage, skip in zip(self.expands, self.fuses, self.decoder, skips[-2::-1], strict=True):
            x = stage(fuse(torch.cat([expand(x), skip], dim=1)))
        return self.head(self.expand_patches(x))


class TokenLinear(nn.Conv2d):
    """A linear layer on tokens [N, C, H, W]."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, kernel_size=1, bias=bias)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of tokens [N, C, H, W]; the result is channels_last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each with stochastic depth."""

    def __init__(self, channels: int, heads: int, shifted: bool, drop_path: float):
        super().__init__()
        self.attention_norm = LayerNorm2d(channels)
        self.attention = WindowAttention(channels, heads, shifted)
        self.mlp_norm = LayerNorm2d(channels)
        self.mlp = nn.Sequential()
        self.mlp.expand = TokenLinear(channels, MLP_RATIO * channels)
        self.mlp.gelu = nn.GELU()
        self.mlp.reduce = TokenLinear(MLP_RATIO * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.attention_norm(x)))
        return x + self.drop_path(self.mlp(self.mlp_norm(x)))


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows of 7 x 7 tokens, with a learned bias for each relative position.

    softmax(q k^T / sqrt(d) + bias) v. `shifted` windows begin 3 rows and columns earlier, where there is more than one
    window along that side. Tokens [N, C, H, W] of any H and W; the result is channels_last.
    """

    position_index: Tensor

    def __init__(self, channels: int, heads: int, shifted: bool):
        super().__init__()
        self.out_channels = channels  # what an InterConv appended to this takes
        self.heads, self.shifted = heads, shifted
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.position_bias = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("position_index", _relative_positions(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = [-(-size // WINDOW) * WINDOW for size in (height, width)]
        shift = [WINDOW // 2 if self.shifted and size > WINDOW else 0 for size in padded]
        tokens = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, padded[1] - width, 0, padded[0] - height))
        windows = _to_windows(tokens.roll([-s for s in shift], (1, 2)))
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)  # [N,windows,heads,..]
        bias = self.position_bias[self.position_index].permute(2, 0, 1)
        if any(shift) or padded != [height, width]:
            bias = bias.masked_fill(~_may_attend((height, width), padded, shift, x.device), -torch.inf)
        windows = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)).transpose(2, 3).flatten(3)
        tokens = _from_windows(windows, padded).roll(shift, (1, 2))[:, :height, :width]
        return self.project(tokens).permute(0, 3, 1, 2)


def _stage(channels: int, heads: int, drops: list[float]) -> nn.Sequential:
    return nn.Sequential(*(SwinBlock(channels, heads, bool(i % 2), drop) for i, drop in enumerate(drops)))


class _PatchMerging(nn.Module):
    """2 x 2 tokens of C become one of 2C."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = LayerNorm2d(4 * channels)
        self.reduce = TokenLinear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.norm(F.pixel_unshuffle(x, 2)))


class _PatchExpanding(nn.Module):
    """Each token becomes scale x scale tokens."""

    def __init__(self, channels: int, out_channels: int, scale: int):
        super().__init__()
        self.scale = scale
        self.expand = TokenLinear(channels, scale**2 * out_channels, bias=False)
        self.norm = LayerNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.pixel_shuffle(self.expand(x), self.scale))


def _to_windows(tokens: Tensor) -> Tensor:
    """[N, H, W, ...] -> [N, windows, 49, ...]."""
    tokens = tokens.unflatten(2, (-1, WINDOW)).unflatten(1, (-1, WINDOW))  # [N, H/7, 7, W/7, 7, ...]
    return tokens.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _from_windows(windows: Tensor, size: list[int]) -> Tensor:
    """[N, windows, 49, C] -> [N, H, W, C]."""
    rows, columns = size[0] // WINDOW, size[1] // WINDOW
    windows = windows.unflatten(2, (WINDOW, WINDOW)).unflatten(1, (rows, columns))
    return windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _relative_positions() -> Tensor:
    """int64 [49, 49]: the number of the relative position of two tokens in a window."""
    row, column = torch.arange(WINDOW**2) // WINDOW, torch.arange(WINDOW**2) % WINDOW
    down, right = (x[:, None] - x[None, :] + WINDOW - 1 for x in (row, column))
    return down * (2 * WINDOW - 1) + right


def _may_attend(size: tuple[int, int], padded: list[int], shift: list[int], device: torch.device) -> Tensor:
    """bool [windows, 1, 49, 49]: whether two tokens of a shifted window belong together. Those that the shift brought
    around the border do not belong to those they meet there, nor does padding to any."""
    parts = []
    for side in (0, 1):
        part = torch.zeros(padded[side], dtype=torch.int64, device=device)
        part[: shift[side]] = 1
        part[size[side] :] = 2
        parts.append(part.roll(-shift[side]))
    region = _to_windows((3 * parts[0][:, None] + parts[1])[None])[0]
    return (region[:, :, None] == region[:, None, :])[:, None]
