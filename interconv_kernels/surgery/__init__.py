"""InterConv in a network that already exists, and out of it again."""

from .placements import append_interconv, replace_with_interconv
from .report import Change, SurgeryReport
from .revert import revert
from .selection import Where, deepest, every

__all__ = [
    "Change",
    "SurgeryReport",
    "Where",
    "append_interconv",
    "deepest",
    "every",
    "replace_with_interconv",
    "revert",
]
