"""`ik.tune` over the recording driver, up to the values: whatever it launches was compiled ahead, in parallel."""

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheel for this platform")
import triton
from test_launches import never_compiled  # noqa: F401

import interconv_kernels as ik
from interconv_kernels import _accuracy, tuning
from interconv_kernels._backends.triton import fused, tuned


@pytest.mark.usefixtures("never_compiled")
@pytest.mark.parametrize(("index", "candidates"), [(0, 5), (1, 8)], ids=["sm_80", "sm_90"])
def test_nothing_is_compiled_while_candidates_are_timed(gpus, index, candidates, monkeypatch, tmp_path):
    names = []
    real = fused.compile_ahead
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", lambda *, fn, **more: names.append(fn.name))

    def compile_ahead(calls):
        number = real(calls)
        assert len(names) >= number >= candidates
        names.clear()
        return number

    monkeypatch.setattr(fused, "compile_ahead", compile_ahead)
    monkeypatch.setattr(tuning, "milliseconds", lambda run, device: run() and 1.0)
    for module in (_accuracy, tuning.reference):  # this GPU computes nothing
        monkeypatch.setattr(module, "relative_error", lambda got, want: 0.0)
    monkeypatch.setattr(tuning, "DIRECTIONS", ("backward",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuned.table.cache_clear()
    device = torch.device("cuda", index)
    model = ik.InterConv2d(64, 64).to(torch.bfloat16).to(memory_format=torch.channels_last)
    model.weight, model.bias = (torch.nn.Parameter(x.detach().to(device)) for x in (model.weight, model.bias))
    u = torch.randn(3, 64, 12, 16, dtype=torch.bfloat16, device=device).contiguous(memory_format=torch.channels_last)
    [record] = ik.tune(model, u, ik.Sets.from_lengths([2, 1], device), lengths=[2, 1]).values()
    tuned.table.cache_clear()
    assert len(record["milliseconds"]) == candidates
    assert names == []
