import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "kernels"))  # for planted_layer.py

# What Triton compiled is there for the next run.
os.environ["TRITON_CACHE_DIR"] = str(Path(__file__).parents[2] / "build" / "gpu_without_gpu" / "triton")


@pytest.fixture
def gpus():
    """The GPUs of gpu.py. At the end, nothing was done that a real one would refuse."""
    if sys.platform != "linux":
        pytest.skip("the recording driver stands in for libcuda.so.1, which is Linux's")
    pytest.importorskip("triton")
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        pytest.skip("no C compiler (gcc or clang) to build the recording driver with")
    from gpu import Gpus

    with Gpus().believed() as made:
        yield made
    made.check()
