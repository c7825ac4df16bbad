"""interconv_kernels: the InterConv layer over ragged sets of images, fused and without padding."""

from . import reference
from ._backends import backends
from .functional import concat_set_mean, interconv2d, set_mean
from .modules import InterConv2d, SetModel, use_sets
from .sets import Sets
from .surgery import append_interconv, replace_with_interconv
from .tuning import tune

__version__ = "0.1.0"

__all__ = [
    "InterConv2d",
    "SetModel",
    "Sets",
    "append_interconv",
    "backends",
    "concat_set_mean",
    "interconv2d",
    "reference",
    "replace_with_interconv",
    "set_mean",
    "tune",
    "use_sets",
]
