"""The paper's four families of networks: baselines, and with InterConv in its two placements."""

from .base import Body, SetNetwork
from .nnunet import NnUNet
from .registry import FAMILIES, SIZES, build
from .simpleunet import SimpleUNet
from .swinunet import SwinUNet

__all__ = ["FAMILIES", "SIZES", "Body", "NnUNet", "SetNetwork", "SimpleUNet", "SwinUNet", "build"]
