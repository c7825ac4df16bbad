"""interconv_kernels: the InterConv layer over ragged sets of images, fused and without padding."""

from . import reference, typing
from ._backends.registry import backends
from ._version import __version__
from .collate import collate
from .functional import concat_set_mean, interconv1d, interconv2d, interconv3d, interlinear, set_mean
from .modules import InterConv1d, InterConv2d, InterConv3d, InterLinear, SetModel
from .set_context import use_sets
from .sets import Sets
from .surgery import append_interconv, deepest, every, replace_with_interconv, revert
from .tune import tune

__all__ = [
    "InterConv1d",
    "InterConv2d",
    "InterConv3d",
    "InterLinear",
    "SetModel",
    "Sets",
    "__version__",
    "append_interconv",
    "backends",
    "collate",
    "concat_set_mean",
    "deepest",
    "every",
    "interconv1d",
    "interconv2d",
    "interconv3d",
    "interlinear",
    "reference",
    "replace_with_interconv",
    "revert",
    "set_mean",
    "tune",
    "typing",
    "use_sets",
]


def __dir__() -> list[str]:
    return __all__
