"""nnU-Net v2 with InterConv: a trainer that draws, validates and predicts sets. It needs the extra "nnunet".

nnU-Net finds the trainer through a folder of external trainers; `interconv nnunet install` writes the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .prediction import SetPredictor
    from .trainer import nnUNetTrainerInterConv

__all__ = ["SetPredictor", "nnUNetTrainerInterConv"]


def __getattr__(name: str) -> Any:
    """Imports nnunetv2 when a name that needs it is first used."""
    if name == "SetPredictor":
        from .prediction import SetPredictor

        return SetPredictor
    if name == "nnUNetTrainerInterConv":
        from .trainer import nnUNetTrainerInterConv

        return nnUNetTrainerInterConv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
