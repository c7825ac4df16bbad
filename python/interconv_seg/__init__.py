"""interconv_seg: the paper's segmentation system on InterConv layers: networks, losses, data, training, evaluation."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .losses import automatic_loss, interactive_loss
    from .networks import build

__all__ = ["automatic_loss", "build", "interactive_loss"]


def __getattr__(name: str) -> Any:
    """The names above, imported when they are first used: `interconv doctor` also runs where MONAI is missing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".networks" if name == "build" else ".losses", __name__), name)
