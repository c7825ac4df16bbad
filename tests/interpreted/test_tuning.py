"""`ik.tune` in Triton's interpreter, with a clock that the tests set: what is measured, checked, saved and used."""

import itertools
import json
import subprocess
import sys

import pytest
import torch
from test_triton_layer import layer, make_case, oracle, with_grads, worst

import interconv_kernels as ik
from interconv_kernels import tuned, tuning
from interconv_kernels._backends.triton import conv_launch, fused
from interconv_kernels.convolution import Conv, precision

CPU = torch.device("cpu")


class Clock:
    """Stands in for the stopwatch: runs the layer, and calls the tile named `fastest` the fastest."""

    def __init__(self, fastest, monkeypatch):
        self.fastest, self.tiles = fastest, []
        real = fused.tile_named
        monkeypatch.setattr(fused, "tile_named", lambda name: self.see(real(name)))
        monkeypatch.setattr(tuning, "milliseconds", self.time)

    def see(self, tile):
        self.tiles.append(tile.name if tile else None)
        return tile

    def time(self, run, device):
        self.tiles.clear()
        run()
        return 1.0 if self.fastest in self.tiles else 2.0


def test_tune_keeps_the_fastest_and_auto_takes_it(cache, monkeypatch, capsys):
    clock = Clock("conv-32-64x32x16-odd", monkeypatch)
    model = ik.InterConv2d(4, 6, kernel_size=3)
    u = torch.randn(3, 4, 6, 6)
    found = ik.tune(model, u, [2, 1], lengths=[2, 1])
    assert sorted(key.split()[0] for key in found) == ["backward", "forward"]
    record = found["forward C4 Co6 k3x3 stride1x1 padding1x1 dilation1x1 float32 tf32 contiguous_format HW2^5"]
    assert record["fastest"] == "triton"
    assert record["best"] == {"triton": {"algorithm": "fused", "tiles": {"conv": "conv-32-64x32x16-odd"}}}
    assert record["milliseconds"]["triton vendor"] == 2.0
    assert record["milliseconds"]["triton conv-32-64x32x16-odd"] == 1.0
    assert json.loads(cache.read_text()) == {tuned.machine(CPU): found}
    progress = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert [line.split()[1].rstrip(",") for line in progress] == [f"{i}/8" for i in range(1, 9)]
    assert progress[2].endswith("conv-32-64x32x16-odd 1.000 ms")

    tuned.table.cache_clear()  # as in a new process
    clock.tiles.clear()
    want = with_grads(oracle, make_case([2, 1], 4, 6, (6, 6), 3, torch.float64), torch.ones(3, 6, 6, 6))
    case = make_case([2, 1], 4, 6, (6, 6), 3, torch.float64).to(torch.float32)
    got = with_grads(lambda c: layer(c, "auto"), case, torch.ones(3, 6, 6, 6))
    assert clock.tiles[0] == "conv-32-64x32x16-odd"
    assert all(worst(a, b) < 1e-6 for a, b in zip(got, want, strict=True))
    clock.tiles.clear()
    layer(make_case([2, 1], 4, 7, (6, 6), 3, torch.float32), "auto")  # another layer: not measured
    assert clock.tiles == []


def test_tune_keeps_the_vendor_where_that_is_fastest(cache, monkeypatch, capsys):
    times = itertools.count(1)
    monkeypatch.setattr(tuning, "milliseconds", lambda run, device: float(next(times)))
    found = ik.tune(ik.InterConv2d(4, 6, kernel_size=1), torch.randn(3, 4, 4, 4), [2, 1])
    assert [record["best"] for record in found.values()] == 2 * [{"triton": {"algorithm": "vendor", "tiles": {}}}]
    assert {name for record in found.values() for name in record["milliseconds"]} > {
        "triton vendor",
        "triton pointwise-32-64x32x16-odd",
    }
    assert "no wgrad tiles of triton, since vendor is faster" in capsys.readouterr().err


def planted(monkeypatch, fault, name="conv-32-64x64x32-odd"):
    """The layer's result is off by a factor, or an error is raised, where a tile is used."""
    real = fused.convolve

    def convolve(x, geometry, weight, y, epilogue, tile):
        real(x, geometry, weight, y, epilogue, tile)
        if tile is not None and tile.name == name:
            if isinstance(fault, Exception):
                raise fault
            y *= fault

    monkeypatch.setattr(fused, "convolve", convolve)


@pytest.mark.parametrize("fault", [1.05, float("nan")])
def test_a_wrong_candidate_is_refused(cache, monkeypatch, caplog, fault):
    planted(monkeypatch, fault)
    Clock("conv-32-64x64x32-odd", monkeypatch)
    found = ik.tune(ik.InterConv2d(4, 6), torch.randn(3, 4, 4, 4), [2, 1], lengths=[2, 1])
    for record in found.values():
        assert "conv-32-64x64x32-odd" not in record["best"]["triton"]["tiles"].values()
        assert not any("conv-32-64x64x32-odd" in name for name in record["milliseconds"])
        assert "triton conv-32-64x32x16-odd" in record["milliseconds"]
    refusals = [
        line for line in caplog.messages if "triton conv-32-64x64x32-odd is WRONG and not used: error (allowed)" in line
    ]
    assert len(refusals) == 2


def test_if_every_candidate_is_wrong_nothing_is_kept(cache, monkeypatch, caplog):
    monkeypatch.setattr(tuning, "allowed_errors", lambda torchs, exact: [-1.0] * len(exact))
    assert ik.tune(ik.InterConv2d(2, 2), torch.randn(1, 2, 4, 4), [1], lengths=[1]) == {}
    assert "no candidate is right; run python -m interconv_kernels.selftest" in caplog.text
    assert not cache.exists()


def test_a_tile_that_does_not_fit_is_left_out(cache, monkeypatch, caplog):
    from triton.runtime.errors import OutOfResources

    planted(monkeypatch, OutOfResources(200_000, 100_000, "shared memory"))
    monkeypatch.setattr(tuning, "milliseconds", lambda run, device: 1.0)
    found = ik.tune(ik.InterConv2d(4, 6), torch.randn(3, 4, 4, 4), [2, 1], lengths=[2, 1])
    forward = next(record for key, record in found.items() if key.startswith("forward"))
    assert sorted(forward["milliseconds"]) == ["triton conv-32-64x32x16-odd", "triton vendor"]
    assert "does not run on this GPU: out of resource: shared memory" in caplog.text


def test_an_interrupted_run_keeps_what_it_measured(cache, monkeypatch, capsys):
    calls = itertools.count()

    def milliseconds(run, device):
        if next(calls) == 3:  # after the vendor and two tiles of the forward
            raise KeyboardInterrupt
        return 1.0

    monkeypatch.setattr(tuning, "milliseconds", milliseconds)
    with pytest.raises(KeyboardInterrupt):
        ik.tune(ik.InterConv2d(4, 6), torch.randn(3, 4, 4, 4), [2, 1], lengths=[2, 1])
    [records] = json.loads(cache.read_text()).values()
    assert [key.split()[0] for key in records] == ["forward"]
    assert "interrupted: 1 of 2 kinds of layer are measured and saved" in capsys.readouterr().err


def test_keys_hold_no_batch(cache):
    def key(n, size, dtype=torch.bfloat16, padding=1):
        u, weight = torch.empty(n, 4, *size, dtype=dtype), torch.empty(6, 8, 3, 3, dtype=dtype)
        return tuned.layer_key("forward", Conv((1, 1), (padding, padding), (1, 1)), u, weight)

    assert key(1, (64, 64)) == key(9, (64, 64)) == key(9, (60, 70))
    assert key(1, (64, 64)) != key(1, (128, 64)) != key(1, (128, 64), torch.float16)
    assert key(1, (64, 64)) != key(1, (64, 64), padding=0)


def test_nothing_to_tune(cache, monkeypatch):
    with pytest.raises(ValueError, match="called no InterConv2d"):
        ik.tune(torch.nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"nothing to tune: triton: it computes in .* not in torch\.float64"):
        ik.tune(ik.InterConv2d(1, dtype=torch.float64), torch.ones(1, 1, 2, 2, dtype=torch.float64), [1])
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    reasons = (
        "no backend can be tuned on cpu: triton: it runs on GPUs .*; cpp: .*; torch: it has no tiles to choose from"
    )
    with pytest.raises(ValueError, match=reasons):
        ik.tune(ik.InterConv2d(1), torch.ones(1, 1, 2, 2), [1])


# --- GPUs that the tiles are not for ----------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """Makes tensors on the CPU look as if they were on a GPU of this kind."""

    def pretend(capability=(8, 0), architecture=None):
        for module in (fused, conv_launch):
            monkeypatch.setattr(module, "interpreted", lambda: False)
        monkeypatch.setattr(torch.version, "hip", architecture and "7.0")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        properties = type("Properties", (), {"gcnArchName": f"{architecture}:sramecc+"})
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    return pretend


def refusal():
    conv = Conv((1, 1), (1, 1), (1, 1), torch.channels_last)
    return fused.can_fuse(conv, torch.empty(1, 8, 4, 4), torch.empty(8, 16, 3, 3))


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (12, 0)])
def test_gpus_that_are_supported(gpu, capability):
    gpu(capability)
    assert refusal() is None


def test_older_gpus_are_refused_with_the_reason(gpu, cache):
    gpu((7, 5))
    assert refusal().startswith("the GPU has compute capability (7, 5): expected at least (8, 0)")
    with pytest.raises(ValueError, match=r"nothing to tune: triton: the GPU has compute capability \(7, 5\)"):
        ik.tune(ik.InterConv2d(4, backend="torch"), torch.randn(1, 4, 4, 4), [1])
    with pytest.raises(ValueError, match=r"'fused' cannot run here: the GPU has compute capability \(7, 5\)"):
        layer(make_case([1], dtype=torch.float32))
    assert layer(make_case([2, 1], dtype=torch.float32), "split").shape == (3, 4, 9, 7)  # the set operations run


def test_amd_architectures(gpu):
    gpu(architecture="gfx90a")
    assert refusal() is None
    assert precision(torch.empty(1)) == "ieee"  # Triton has TF32 for gfx942 alone, MIOpen not at all
    gpu(architecture="gfx1100")
    assert refusal() == "its tiles are for gfx90a, gfx942, gfx950, not for gfx1100"


# --- the file ---------------------------------------------------------------------------------------------------------


def write(path, content):
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def write_record(path, **changes):
    write(path, json.dumps({"gpu": {"forward": RECORD | changes}}).encode())


RECORD = {
    "fastest": "triton",
    "best": {"triton": {"algorithm": "fused", "tiles": {}}},
    "milliseconds": {"triton conv": 1.0},
}
BROKEN = {
    "half": lambda path: write(path, b'{"half'),
    "not text": lambda path: write(path, b"\xff\xfe\x00"),
    "a list": lambda path: write(path, b"[1, 2]"),
    "no layers": lambda path: write(path, b'{"cpu | triton 3": 3}'),
    "of the first version": lambda path: write(path, b'{"gpu": {"forward": {"algorithm": "fused", "tiles": {}}}}'),
    "no candidate": lambda path: write_record(path, fastest="cpp"),
    "no algorithm": lambda path: write_record(path, best={"triton": {"algorithm": "quick", "tiles": {}}}),
    "no tiles": lambda path: write_record(path, best={"triton": {"algorithm": "fused"}}),
    "no backend": lambda path: write_record(path, fastest="x", best={"x": {"algorithm": "fused", "tiles": {}}}),
    "not a name": lambda path: write_record(path, fastest=["triton"]),
    "nested": lambda path: write(path, b"[" * 100_000),
    "a folder": lambda path: path.mkdir(parents=True),
    "a file for a folder": lambda path: path.parent.write_text(""),
}


@pytest.mark.parametrize("breaking", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_logged_once_and_ignored(cache, caplog, breaking):
    breaking(cache)
    for _ in range(2):
        assert layer(make_case([2, 1], dtype=torch.float32), "auto").shape == (3, 4, 9, 7)
    [line] = caplog.messages
    assert "measurements of ik.tune() are not used" in line
    assert str(cache) in line


def fail_to(action, monkeypatch, error):
    def fail(self, *arguments, **options):
        raise error

    monkeypatch.setattr(type(tuned.path()), action, fail)


def test_a_file_that_may_not_be_read(cache, caplog, monkeypatch):
    fail_to("read_text", monkeypatch, PermissionError(13, "Permission denied"))
    layer(make_case([2, 1], dtype=torch.float32), "auto")
    [line] = caplog.messages
    assert "not used ([Errno 13] Permission denied)" in line


@pytest.mark.parametrize(
    ("action", "error"), [("write_text", OSError(28, "No space left on device")), ("mkdir", PermissionError(13, "no"))]
)
def test_what_cannot_be_saved_holds_for_the_process(cache, caplog, monkeypatch, action, error):
    tuned.save(CPU, {"before": RECORD})
    content = cache.read_text()
    fail_to(action, monkeypatch, error)
    for key in "ab":
        tuned.save(CPU, {key: RECORD})
    assert cache.read_text() == content
    assert tuned.table()[tuned.machine(CPU)] == dict.fromkeys(["before", "a", "b"], RECORD)
    [line] = caplog.messages
    assert "they hold for this process only" in line
    assert [path.name for path in cache.parent.iterdir() if "partial" in path.name] == []


def test_no_home_directory(monkeypatch, caplog, cache):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", fail)
    layer(make_case([2, 1], dtype=torch.float32), "auto")
    tuned.save(CPU, {"a": RECORD})
    assert len(caplog.messages) == 2


SAVE = f"""
import sys, torch
from interconv_kernels import tuned
sys.stdin.read(1)
for i in range(40):
    tuned.save(torch.device("cpu"), {{f"{{sys.argv[1]}} {{i}}": {RECORD}}})
"""


def test_processes_that_save_at_once_lose_nothing(cache):
    workers = [
        subprocess.Popen([sys.executable, "-c", SAVE, name], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("one", "two", "three")
    ]
    for worker in workers:
        worker.stdin.write("x")
        worker.stdin.flush()
    for worker in workers:
        assert worker.communicate() == (None, "")
    [records] = json.loads(cache.read_text()).values()
    assert sorted(records) == sorted(f"{name} {i}" for name in ("one", "two", "three") for i in range(40))
