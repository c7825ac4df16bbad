import os
from importlib.util import find_spec

import torch

pytest_plugins = ["drop_in"]

# Uninitialised memory is filled with NaN, so that a result that was never written cannot look right by chance.
torch.use_deterministic_algorithms(True)
torch.utils.deterministic.fill_uninitialized_memory = True

# Two groups of tests change Triton for the whole process, so each runs in a process of its own (see the Makefile).
collect_ignore = []
if os.environ.get("RECORDING_DRIVER") != "1":
    collect_ignore.append("gpu_without_gpu")
if os.environ.get("TRITON_INTERPRET") == "1":
    from interconv_kernels._backends.triton.interpreter import fix_bfloat16

    fix_bfloat16()
else:
    collect_ignore.append("interpreted")
if find_spec("timm") is None:  # these need libraries beyond requirements-dev.txt
    collect_ignore.append("integrations")
