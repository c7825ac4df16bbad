"""What backend "triton" offers, under the names that `interconv_kernels/ops.py` and `algorithms.py` ask for."""

from .fused import can_fuse, fused_backward, fused_forward
from .set_ops import HAS_EPILOGUE, center, concat_set_mean, concat_set_mean_backward, set_add, set_reduce, uncenter
from .tuned import fused_is_fastest

__all__ = [
    "HAS_EPILOGUE",
    "can_fuse",
    "center",
    "concat_set_mean",
    "concat_set_mean_backward",
    "fused_backward",
    "fused_forward",
    "fused_is_fastest",
    "set_add",
    "set_reduce",
    "uncenter",
]
