"""Implementations to test and to measure against.

* `interconv`, `interconv2d_numpy`: the paper's equations, one set after the other. Results are tested against these,
  in float64. They share no code with the kernels.
* `concat_interconv`, `ConcatInterConv2d`: the layer as its authors publish it, in plain torch for a whole batch.
  Benchmarks measure against these.
* `relative_error`: how far a result is from a reference result.
"""

from .concat import ConcatInterConv2d, concat_interconv
from .error import relative_error
from .naive import interconv, interconv2d_numpy

__all__ = ["ConcatInterConv2d", "concat_interconv", "interconv", "interconv2d_numpy", "relative_error"]


def __dir__() -> list[str]:
    return __all__
