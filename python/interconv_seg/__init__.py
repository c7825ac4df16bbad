"""The segmentation system of the paper on InterConv layers: networks, losses, data, training, evaluation, inference.

Modules are imported when they are first used, so that `import interconv_seg` works without the packages of the extra
"seg".
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (
        data,
        evaluation,
        inference,
        interactive,
        losses,
        metrics,
        monai,
        networks,
        nnunet_v2,
        plots,
        preparation,
        prompts,
        reports,
        runs,
        training,
    )
    from .losses import automatic_loss, interactive_loss
    from .networks import build

__all__ = [
    "automatic_loss",
    "build",
    "data",
    "evaluation",
    "inference",
    "interactive",
    "interactive_loss",
    "losses",
    "metrics",
    "monai",
    "networks",
    "nnunet_v2",
    "plots",
    "preparation",
    "prompts",
    "reports",
    "runs",
    "training",
]

_FUNCTIONS = {"automatic_loss": "losses", "build": "networks", "interactive_loss": "losses"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_FUNCTIONS.get(name, name)}", __name__)
    return getattr(module, name) if name in _FUNCTIONS else module


def __dir__() -> list[str]:
    return __all__
