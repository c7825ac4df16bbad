import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "kernels"))  # for planted_layer.py

# What Triton compiled is there for the next run.
os.environ["TRITON_CACHE_DIR"] = str(Path(__file__).parents[2] / "build" / "gpu_without_gpu" / "triton")


@pytest.fixture
def gpus(monkeypatch):
    """The GPUs of gpu.py. At the end, nothing was done that a real one would refuse.

    They run Triton alone: the extension launches through CUDA's runtime, which has no such GPU, even where it was built
    with its CUDA part.
    """
    if sys.platform != "linux":
        pytest.skip("the recording driver stands in for libcuda.so.1, which is Linux's")
    pytest.importorskip("triton")
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        pytest.skip("no C compiler (gcc or clang) to build the recording driver with")
    from gpu import Gpus

    from interconv_kernels._backends.cpp import CppBackend

    monkeypatch.setattr(CppBackend, "can_run", lambda self, device: "the recording driver runs Triton alone")
    with Gpus().believed() as made:
        yield made
    made.check()
