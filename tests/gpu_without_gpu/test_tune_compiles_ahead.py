"""`ik.tune` over the recording driver, up to the values: whatever it launches was compiled ahead, in parallel."""

import pytest
import torch

pytest.importorskip("triton", reason="triton has no wheel for this platform")
import triton
from planted_layer import FAST, PlantedLayer
from test_launches import never_compiled  # noqa: F401

import interconv_kernels as ik
from interconv_kernels import _accuracy, tuned, tuning
from interconv_kernels._backends import cpp
from interconv_kernels._backends.triton import TritonBackend


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    """Nothing was measured before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for function in (tuned.table, tuned.machine):
        function.cache_clear()
    yield
    for function in (tuned.table, tuned.machine):
        function.cache_clear()


@pytest.fixture
def nothing_computed(monkeypatch):
    """Every result is right, and takes a millisecond: this GPU computes nothing."""
    for module in (_accuracy, tuning.reference):
        monkeypatch.setattr(module, "relative_error", lambda got, want: 0.0)
    monkeypatch.setattr(tuning, "milliseconds", lambda run, device: run() and 1.0)


def batch(index):
    """(layer, u, sets) in bfloat16 on GPU `index`."""
    device = torch.device("cuda", index)
    model = ik.InterConv2d(64, 64).to(torch.bfloat16).to(memory_format=torch.channels_last)
    model.weight, model.bias = (torch.nn.Parameter(x.detach().to(device)) for x in (model.weight, model.bias))
    u = torch.randn(3, 64, 12, 16, dtype=torch.bfloat16, device=device).contiguous(memory_format=torch.channels_last)
    return model, u, ik.Sets.from_lengths([2, 1], device)


@pytest.mark.usefixtures("never_compiled", "no_cache", "nothing_computed")
@pytest.mark.parametrize(("index", "candidates"), [(0, 5), (1, 8)], ids=["sm_80", "sm_90"])
def test_nothing_is_compiled_while_candidates_are_timed(gpus, index, candidates, monkeypatch):
    names = []
    real = TritonBackend.compile_ahead
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", lambda *, fn, **more: names.append(fn.name))

    def compile_ahead(self, calls):
        number = real(self, calls)
        assert len(names) >= number >= candidates
        names.clear()
        return number

    monkeypatch.setattr(TritonBackend, "compile_ahead", compile_ahead)
    monkeypatch.setattr(tuning, "DIRECTIONS", ("backward",))
    [record] = ik.tune(*batch(index), lengths=[2, 1]).values()
    assert len(record["milliseconds"]) == candidates
    assert names == []


@pytest.mark.usefixtures("no_cache", "nothing_computed")
def test_the_fastest_of_two_backends_runs_and_is_found_without_asking_the_gpu(gpus, monkeypatch):
    second = PlantedLayer()
    monkeypatch.setattr(cpp.CppBackend, "can_run", lambda self, device: None)
    monkeypatch.setattr(cpp.CppBackend, "set_ops", ik._backends.torch.set_ops)  # the extension knows no such tensors
    for name in ("fused", "tunable"):
        monkeypatch.setattr(cpp.CppBackend, name, lambda self, device: second)

    def milliseconds(run, device):
        second.calls.clear()
        run()
        return 1.0 if {"tile": FAST} in second.calls else 2.0

    monkeypatch.setattr(tuning, "milliseconds", milliseconds)
    monkeypatch.setattr(tuning, "DIRECTIONS", ("forward",))
    model, u, sets = batch(1)
    [record] = ik.tune(model, u, sets, lengths=[2, 1]).values()
    assert record["fastest"] == "cpp"
    assert record["best"]["cpp"] == {"algorithm": "fused", "tiles": {"tile": FAST}}
    gpus.launches()
    second.calls.clear()

    def asked(device=None):
        raise AssertionError("the compute capability was asked for again")

    monkeypatch.setattr(torch.cuda, "get_device_capability", asked)
    model(u, sets)
    assert second.calls == [{"tile": FAST}]
    assert gpus.launches() == []
    model.backend = "triton"
    model(u, sets)
    assert second.calls == [{"tile": FAST}]
    assert len(gpus.launches()) >= 1
