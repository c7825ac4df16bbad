"""What backend "triton" offers, under the names that `interconv_kernels/ops.py` and `algorithms.py` ask for."""

from .fused import can_fuse, candidates, fused_backward, fused_forward
from .set_ops import HAS_EPILOGUE, center, concat_set_mean, concat_set_mean_backward, set_add, set_reduce, uncenter
from .tuned import fused_is_fastest, layer_key, save, trying

__all__ = [
    "HAS_EPILOGUE",
    "can_fuse",
    "candidates",
    "center",
    "concat_set_mean",
    "concat_set_mean_backward",
    "fused_backward",
    "fused_forward",
    "fused_is_fastest",
    "layer_key",
    "save",
    "set_add",
    "set_reduce",
    "trying",
    "uncenter",
]
