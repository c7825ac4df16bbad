"""interconv_seg: the paper's segmentation system on InterConv layers: networks and losses."""

from .losses import automatic_loss, interactive_loss
from .networks import build

__all__ = ["automatic_loss", "build", "interactive_loss"]
