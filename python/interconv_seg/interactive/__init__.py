"""Interactive segmentation of sets: scribbles on some images give the masks of all. `interconv page` is built on it."""

from .model import Model, default_model
from .operations import History, Operation, State, Stroke
from .session import Session

__all__ = ["History", "Model", "Operation", "Session", "State", "Stroke", "default_model"]
