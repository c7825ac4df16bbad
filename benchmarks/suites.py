"""What is measured: layers of the paper's networks, each on batches of sets, in named suites.

paper       the networks' InterConv layers in placement "replace", on sets of K = 1, 2, 4 and 8 samples
ragged      some of them on sets of 1 to 8 samples
large-sets  single sets of 16, 64 and 256 samples
k1          1x1 kernels only
volumes     layers over volumes, of the sizes that a 3-D U-Net has on patches of 64 voxels a side
tokens      layers over tokens: 1x1 kernels on images one pixel wide, which is what `InterLinear` computes
smoke       tiny shapes, to check that the benchmarks work; their times mean nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

# The forward without autograd; the gradients of u, weight and bias; the forward with autograd and the backward.
Direction: TypeAlias = Literal["fwd", "bwd", "both"]
DIRECTIONS: tuple[Direction, ...] = ("fwd", "bwd", "both")
SQUARE = "square"  # the "network" of layers C -> C that are in none of the paper's


def is_ragged(lengths: Sequence[int]) -> bool:
    """Whether sets have different sizes."""
    return len(set(lengths)) > 1


def mean_set_size(lengths: Sequence[int]) -> float:
    """N / B: K for equal sets."""
    return sum(lengths) / len(lengths)


class Layer(NamedTuple):
    """An InterConv layer of a network of `interconv_seg.networks.SIZES`, or of `SQUARE`."""

    network: str
    in_channels: int
    out_channels: int
    height: int  # of the input
    width: int
    kernel: int = 3
    stride: int = 1
    depth: int = 0  # 0: images, not volumes

    @property
    def size(self) -> tuple[int, ...]:
        """Of the input, along each axis."""
        return (self.depth, self.height, self.width) if self.depth else (self.height, self.width)

    @property
    def out_size(self) -> tuple[int, ...]:
        return tuple(-(-length // self.stride) for length in self.size)

    @property
    def taps(self) -> int:
        """Of the kernel."""
        return self.kernel ** len(self.size)

    def __str__(self) -> str:
        stride = f" s{self.stride}" if self.stride > 1 else ""
        size = f"{self.in_channels}-{self.out_channels} {'x'.join(map(str, self.size))}"
        return f"{self.network} {size} k{self.kernel}{stride}"


class Case(NamedTuple):
    """A layer and its batch: sets of `lengths` samples."""

    layer: Layer
    lengths: tuple[int, ...]

    @property
    def samples(self) -> int:
        return sum(self.lengths)

    def __str__(self) -> str:
        ragged = is_ragged(self.lengths)
        sets = "+".join(map(str, self.lengths)) if ragged else f"K{self.lengths[0]} N{self.samples}"
        return f"{self.layer} {sets}"


# At the paper's image sizes: 160x192 (automatic segmentation), 128x128 for ScribblePrompt (interactive).
NETWORK_LAYERS = (
    Layer("simpleunet-60K", 1, 16, 160, 192),
    Layer("simpleunet-60K", 16, 16, 160, 192),
    Layer("simpleunet-60K", 32, 21, 160, 192),
    Layer("simpleunet-500K", 49, 49, 80, 96),
    Layer("simpleunet-2M", 100, 100, 40, 48),
    Layer("simpleunet-16M", 282, 282, 20, 24),
    Layer("nnunet-20M", 46, 46, 80, 96),
    Layer("nnunet-20M", 46, 92, 80, 96, stride=2),
    Layer("nnunet-20M", 184, 184, 20, 24),
    Layer("nnunet-20M", 368, 368, 10, 12),
    Layer("scribbleprompt-3.6M", 137, 137, 64, 64),
)
TOKEN_LAYERS = (
    Layer("swinunet-27M", 84, 336, 40, 48, kernel=1),
    Layer("swinunet-27M", 168, 672, 20, 24, kernel=1),
    Layer("swinunet-27M", 336, 1344, 10, 12, kernel=1),
)
SQUARES = (Layer(SQUARE, 64, 64, 128, 128), Layer(SQUARE, 192, 192, 64, 64))
POINTWISE_SQUARES = (
    Layer(SQUARE, 16, 16, 160, 192, kernel=1),
    Layer(SQUARE, 64, 64, 80, 96, kernel=1),
    Layer(SQUARE, 192, 192, 64, 64, kernel=1),
)
VOLUME_LAYERS = (
    Layer(SQUARE, 16, 16, 64, 64, depth=64),
    Layer(SQUARE, 32, 32, 32, 32, depth=32),
    Layer(SQUARE, 64, 64, 16, 16, depth=16),
    Layer(SQUARE, 128, 128, 8, 8, depth=8),
    Layer(SQUARE, 32, 32, 32, 32, kernel=1, depth=32),
    Layer(SQUARE, 128, 128, 8, 8, kernel=1, depth=8),
)
# The layers of a transformer block of width 384 on 14x14 patches, and of one of width 96 on 56x56.
SEQUENCE_LAYERS = (
    Layer(SQUARE, 384, 384, 196, 1, kernel=1),
    Layer(SQUARE, 384, 1536, 196, 1, kernel=1),
    Layer(SQUARE, 96, 96, 3136, 1, kernel=1),
)
MIXES = ((3, 1, 8, 4), (1, 2, 3, 4, 5, 6, 7, 8), (1, 1, 1, 1, 1, 1, 1, 1, 8))
RAGGED_LAYERS = (
    Layer("simpleunet-60K", 16, 16, 160, 192),
    Layer("simpleunet-500K", 49, 49, 80, 96),
    Layer("simpleunet-2M", 100, 100, 40, 48),
    Layer("nnunet-20M", 46, 92, 80, 96, stride=2),
    Layer("nnunet-20M", 184, 184, 20, 24),
    Layer("swinunet-27M", 168, 672, 20, 24, kernel=1),
    Layer(SQUARE, 64, 64, 80, 96, kernel=1),
)
LARGE_SETS = {
    16: (
        Layer("simpleunet-60K", 16, 16, 160, 192),
        Layer("nnunet-20M", 46, 46, 80, 96),
        Layer("swinunet-27M", 84, 336, 40, 48, kernel=1),
    ),
    64: (
        Layer("simpleunet-60K", 16, 16, 80, 96),
        Layer("simpleunet-2M", 100, 100, 40, 48),
        Layer("swinunet-27M", 168, 672, 20, 24, kernel=1),
    ),
    256: (
        Layer("simpleunet-60K", 16, 16, 40, 48),
        Layer("simpleunet-2M", 100, 100, 10, 12),
        Layer("swinunet-27M", 336, 1344, 10, 12, kernel=1),
    ),
}


def _equal_sets(layers: Iterable[Layer], samples: int) -> list[Case]:
    return [Case(layer, (size,) * (samples // size)) for layer in layers for size in (1, 2, 4, 8)]


SUITES = {
    "paper": _equal_sets(NETWORK_LAYERS + TOKEN_LAYERS, 16) + _equal_sets(SQUARES, 8),
    "ragged": [Case(layer, mix) for layer in RAGGED_LAYERS for mix in MIXES],
    "large-sets": [Case(layer, (size,)) for size, layers in LARGE_SETS.items() for layer in layers],
    "k1": _equal_sets(TOKEN_LAYERS + POINTWISE_SQUARES, 16),
    "volumes": _equal_sets(VOLUME_LAYERS, 8),
    "tokens": _equal_sets(SEQUENCE_LAYERS, 16),
    "smoke": [
        Case(Layer(SQUARE, 4, 6, 9, 8, stride=2), (2, 2)),
        Case(Layer(SQUARE, 8, 8, 7, 6, kernel=1), (1, 1, 1)),
        Case(Layer(SQUARE, 4, 4, 8, 9), (3, 1, 2)),
        Case(Layer(SQUARE, 8, 4, 6, 6, kernel=1), (1, 4)),
    ],
}
