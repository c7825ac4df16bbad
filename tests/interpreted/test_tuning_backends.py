"""`ik.tune` with two backends, of which the second is planted: each has candidates for the same layer."""

import json

import pytest
import torch
from planted_layer import FAST, SLOW, PlantedLayer
from test_triton_layer import make_case, oracle, with_grads, worst

import interconv_kernels as ik
from interconv_kernels import tuned, tuning
from interconv_kernels._backends import cpp
from interconv_kernels._backends.registry import BACKENDS
from interconv_kernels._backends.triton import fused as triton_fused
from interconv_kernels.choice import choose
from interconv_kernels.convolution import Conv
from interconv_kernels.sets import SetIndex

CPU = torch.device("cpu")
KEY = "{} C4 Co6 k3x3 stride1x1 padding1x1 dilation1x1 float32 tf32 contiguous_format HW2^4"


@pytest.fixture
def second(cache, monkeypatch):
    """The fused layer of the second backend, which is tunable on the CPU."""
    made = PlantedLayer()
    for name in ("fused", "tunable"):
        monkeypatch.setattr(cpp.CppBackend, name, lambda self, device: made)
    return made


@pytest.fixture
def clock(second, monkeypatch):
    """Sets the time of candidates, by a part of what they launch; 3 ms if nothing fits."""
    times, launched = {}, []
    real = triton_fused.tile_named

    def tile_named(name):
        launched.append(name)
        return real(name)

    def milliseconds(run, device):
        launched.clear()
        second.calls.clear()
        run()
        names = [name for name in launched if name] + [name for tiles in second.calls for name in tiles.values()]
        return min((times[name] for name in names if name in times), default=3.0)

    monkeypatch.setattr(triton_fused, "tile_named", tile_named)
    monkeypatch.setattr(tuning, "milliseconds", milliseconds)
    return times


def tune(channels=4):
    return ik.tune(ik.InterConv2d(channels, 6), torch.randn(3, channels, 4, 4), [2, 1], lengths=[2, 1])


def layer(case, backend="auto", algorithm="auto"):
    return ik.interconv2d(case.u, case.weight, case.bias, case.sets, algorithm=algorithm, backend=backend)


def case():
    return make_case([2, 1], 4, 6, (4, 4), dtype=torch.float32)


def test_the_fastest_of_both_is_chosen_and_each_is_kept(second, clock, cache):
    clock |= {FAST: 1.0, "two": 0.5, "conv-32-64x32x16-odd": 2.0}
    found = tune()
    record = found[KEY.format("forward")]
    assert record == {
        "fastest": "cpp",
        "best": {
            "triton": {"algorithm": "fused", "tiles": {"conv": "conv-32-64x32x16-odd"}},
            "cpp": {"algorithm": "fused", "tiles": {"tile": FAST}},
        },
        "milliseconds": {
            "triton vendor": 3.0,
            "triton conv-32-64x64x32-odd": 3.0,
            "triton conv-32-64x32x16-odd": 2.0,
            "cpp vendor": 3.0,
            f"cpp {SLOW}": 3.0,
            f"cpp {FAST}": 1.0,
        },
    }
    assert found[KEY.format("backward")]["best"]["cpp"]["tiles"] == {"tile": FAST, "grad_W": "two"}
    [(machine, records)] = json.loads(cache.read_text()).items()
    assert records == found
    assert machine == f"cpu | triton {BACKENDS['triton'].version()} | cpp {BACKENDS['cpp'].version()}"


def test_auto_runs_the_fastest_and_a_name_is_respected(second, clock):
    clock |= {FAST: 1.0, "two": 0.5, "conv-32-64x32x16-odd": 2.0}
    tune()
    tuned.table.cache_clear()  # as in a new process
    want = with_grads(oracle, case().to(torch.float64), torch.ones(3, 6, 4, 4))
    for backend, expected in (
        ("auto", [{"tile": FAST}, {"tile": FAST, "grad_W": "two"}]),
        ("triton", []),
        ("torch", []),
    ):
        second.calls.clear()
        got = with_grads(lambda c, backend=backend: layer(c, backend), case(), torch.ones(3, 6, 4, 4))
        assert second.calls == expected
        assert all(worst(a, b) < 1e-5 for a, b in zip(got, want, strict=True))
    conv, u, weight = Conv((1, 1), (1, 1), (1, 1)), case().u, case().weight
    sets = SetIndex(case().sets.offsets, case().sets.set_ids)
    chosen = choose("triton", "auto", "forward", conv, u, weight, sets)
    assert (chosen.backend.name, chosen.algorithm, chosen.tiles) == (
        "triton",
        "fused",
        {"conv": "conv-32-64x32x16-odd"},
    )
    assert choose("torch", "auto", "forward", conv, u, weight, sets).algorithm in ("split", "centered")


def test_a_backend_by_name_keeps_to_the_vendor_where_that_is_its_fastest(second, clock):
    clock |= {FAST: 1.0, "conv-32-64x64x32-odd": 4.0, "conv-32-64x32x16-odd": 4.0}
    record = tune()[KEY.format("forward")]
    assert record["best"]["triton"] == {"algorithm": "vendor", "tiles": {}}
    assert record["best"]["cpp"]["algorithm"] == "fused"


def test_another_vendor_candidate_can_be_the_fastest(second, clock):
    """The second backend's fused layer is its fastest, and still slower than the other's set operations."""
    clock |= {SLOW: 5.0, FAST: 5.0, "conv-32-64x64x32-odd": 4.0, "conv-32-64x32x16-odd": 4.0}
    assert tune()[KEY.format("forward")]["fastest"] == "triton"
    second.calls.clear()
    layer(case())
    assert second.calls == []


@pytest.mark.parametrize("fault", [1.05, float("nan")])
def test_a_wrong_candidate_is_refused_however_fast(second, clock, caplog, fault):
    clock[FAST] = 1.0
    second.fault[FAST] = fault
    for record in tune().values():
        assert record["best"]["cpp"]["tiles"].get("tile") != FAST
        assert not any(FAST in name for name in record["milliseconds"])
    refusals = [line for line in caplog.messages if f"cpp {FAST} is WRONG and not used" in line]
    assert len(refusals) == 2  # forward and backward


def test_a_backend_of_wrong_candidates_is_left_out(second, clock, monkeypatch):
    """Its set operations are wrong too: only the other backend is in the record."""
    clock |= {FAST: 1.0, SLOW: 1.0}
    second.fault |= {FAST: 2.0, SLOW: 2.0}
    real = cpp.set_ops.center
    monkeypatch.setattr(cpp.set_ops, "center", lambda *a, **k: (real(*a, **k)[0] * 2, real(*a, **k)[1]))
    for record in tune().values():
        assert record["fastest"] == "triton"
        assert list(record["best"]) == ["triton"]


def test_a_candidate_that_raises_an_error_is_left_out(second, clock, caplog):
    real = second.forward

    def forward(*arguments):
        if arguments[-1].get("tile") == FAST:
            raise RuntimeError("too many resources requested for launch")
        return real(*arguments)

    second.forward = forward
    record = tune()[KEY.format("forward")]
    assert f"cpp {SLOW}" in record["milliseconds"]
    assert f"cpp {FAST}" not in record["milliseconds"]
    assert "does not run on this GPU: too many resources requested for launch" in caplog.text


def test_a_layer_that_one_backend_cannot_compute(second, clock, monkeypatch):
    clock |= {FAST: 1.0}
    for record in tune(channels=5).values():
        assert record["best"]["cpp"] == {"algorithm": "vendor", "tiles": {}}
        assert record["best"]["triton"]
    monkeypatch.setattr(triton_fused, "can_fuse", lambda *layer: "no")
    with pytest.raises(ValueError, match="nothing to tune: triton: no; cpp: C = 5: expected a multiple of 4"):
        tune(channels=5)
    for record in tune().values():
        assert record["best"]["triton"] == {"algorithm": "vendor", "tiles": {}}


def test_no_fused_layer_is_a_default(second):
    for backend in ("auto", "triton", "cpp"):
        layer(case(), backend)
        assert second.calls == []
    layer(case(), "cpp", "fused")
    assert second.calls == [{}]  # its own default


def test_fused_takes_the_measured_tiles_and_backend(second, clock):
    clock |= {SLOW: 1.0}
    tune()
    for backend in ("auto", "cpp"):
        second.calls.clear()
        layer(case(), backend, "fused")
        assert second.calls == [{"tile": SLOW}]
    second.calls.clear()
    layer(case(), "triton", "fused")
    assert second.calls == []


def test_records_of_other_versions_do_not_count(second, clock, monkeypatch):
    clock |= {FAST: 1.0}
    tune()
    tuned.machine.cache_clear()
    monkeypatch.setattr(cpp.CppBackend, "version", lambda self: "0.2.0")
    second.calls.clear()
    layer(case())
    assert second.calls == []
