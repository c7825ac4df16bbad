"""The paper's four families of networks: the baselines, and the two placements of InterConv in each."""

from .base import Body, LayerFactory, SetNetwork
from .nnunet import NnUNet
from .registry import FAMILIES, SIZES, build
from .simpleunet import SimpleUNet
from .swinunet import SwinUNet

__all__ = ["FAMILIES", "SIZES", "Body", "LayerFactory", "NnUNet", "SetNetwork", "SimpleUNet", "SwinUNet", "build"]
