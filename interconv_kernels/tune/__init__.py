"""`python -m interconv_kernels.tune`: `ik.tune` as a command.

A submodule of this name is an attribute of the package too. This one holds the function, and the package imports it
from here, so `ik.tune` is the function whatever is imported afterwards.
"""

from ..tuning import tune

__all__ = ["tune"]
