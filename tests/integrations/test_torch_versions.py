"""The extension is built for torch 2.13, and this environment has a later one."""

import pytest
import torch
from packaging.version import Version

import interconv_kernels as ik


@pytest.mark.drop_in("PyTorch", "the extension that was built for torch 2.13 loads with a later torch")
def test_the_extension_of_another_torch_loads():
    assert Version(torch.__version__) >= Version("2.14")
    assert ik.backends()["cpp"]["cpu"] == "ready", ik.backends()["cpp"]
