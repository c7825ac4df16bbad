"""Backend "cpp": what the comparisons with reference values in test_ops.py do not show.

Memory around the tensors, same bits, large addresses, sanitizers, and machine code for GPUs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import test_ops
import torch
from common import DTYPES, worst
from test_ops import LENGTHS, make_index, naive_center, naive_reduce, naive_spread

from interconv_kernels._backends import registry
from interconv_kernels._backends.cpp import set_ops as cpp_ops

ROOT = Path(__file__).parent.parent.parent
CPU = torch.device("cpu")
INCLUDE = Path(torch.__file__).parent / "include"
FLAGS = ["-std=c++20", "-DTORCH_TARGET_VERSION=0x020d000000000000", f"-I{INCLUDE}"]
SHAPES = {"ragged": [3, 1, 4, 2], "in chunks": [2, 150, 64, 65, 1], "one set": [200]}

reason = registry.BACKENDS["cpp"].can_run(CPU)
needs_extension = pytest.mark.skipif(reason is not None, reason=str(reason))


# --- memory -----------------------------------------------------------------------------------------------------------


class Guarded:
    """Rows inside a larger buffer of NaN. They start `offset` elements in, so at addresses of any alignment."""

    def __init__(self, rows, columns, dtype, offset, filled=None):
        guard = 64 + offset
        self.buffer = torch.full((rows * columns + guard + 64,), torch.nan, dtype=dtype)
        self.inside = slice(guard, guard + rows * columns)
        self.rows = self.buffer[self.inside].view(rows, columns)
        if filled is not None:
            self.rows.copy_(filled)

    def check(self):
        around = self.buffer.clone()
        assert not around[self.inside].isnan().any(), "not all elements were written"
        around[self.inside] = torch.nan
        assert around.isnan().all(), "elements outside were written"


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("pixels", "offset"), [(4, 0), (5, 1), (700, 3)])
def test_nothing_around_the_tensors_is_read_or_written(dtype, lengths, pixels, offset):
    raw, channels = torch.ops.interconv_cpp, 3
    m, n, num_sets = channels * pixels, sum(lengths), len(lengths)
    sets = make_index(lengths)
    index = (sets.offsets, sets.set_ids)
    random = torch.Generator().manual_seed(0)

    def given(rows, columns=m):
        values = torch.randn(rows, columns, generator=random, dtype=torch.float64)
        return Guarded(rows, columns, dtype, offset, values)

    def made(rows, columns=m):
        return Guarded(rows, columns, dtype, offset)

    def compare(got, want):
        got.check()
        scale = max(1.0, float(want.abs().max()))  # of the samples: means of long sets are far smaller
        assert float((got.rows.double() - want).abs().max()) <= 4 * torch.finfo(dtype).eps * scale

    x, t, wide = given(n), given(num_sets), given(n, 2 * m)
    mean = naive_reduce(x.rows, lengths, True)
    out = made(num_sets)
    raw.set_reduce(x.rows, *index, True, out.rows)
    compare(out, mean)

    out = made(n - 1)
    raw.set_add(x.rows[1:], t.rows, *index, True, 1, out.rows)
    compare(out, (x.rows.double() + naive_spread(t.rows, lengths, True))[1:])

    spread = naive_spread(mean, lengths, False)
    for inner in (m, channels):
        out = made(n, 2 * m)
        raw.concat_set_mean(x.rows, *index, inner, out.rows)
        halves = [part.view(n, -1, 1, inner) for part in (x.rows.double(), spread)]
        compare(out, torch.cat(halves, dim=2).view(n, -1))

        out = made(n)
        raw.concat_set_mean_backward(wide.rows, *index, inner, out.rows)
        own, from_set = wide.rows.double().view(n, -1, 2, inner).unbind(2)
        sums = naive_reduce(from_set.reshape(n, m), lengths, True)
        compare(out, own.reshape(n, m) + naive_spread(sums, lengths, False))

    for from_mean in (True, False):
        out, dev = made(num_sets), made(n - num_sets)
        raw.center(x.rows, *index, from_mean, out.rows, dev.rows)
        for got, want in zip((out, dev), naive_center(x.rows, lengths, from_mean), strict=True):
            compare(got, want)

    centre, dev = (Guarded(*part.shape, dtype, offset, part) for part in naive_center(x.rows, lengths, from_mean=False))
    out = made(n)
    raw.uncenter(centre.rows, dev.rows, *index, out.rows)
    # The rounding errors of K-1 differences add up.
    out.check()
    assert worst(out.rows, x.rows) <= 16 * torch.finfo(dtype).eps


@needs_extension
def test_more_than_two_to_the_31_elements(monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # gigabytes of it
    columns = 2**29 + 2**15
    u = torch.zeros(4, columns, dtype=torch.bfloat16)
    u[3, -1], u[2, -1], u[0, 5] = 6.0, 2.0, 8.0
    s = cpp_ops.set_reduce(u, make_index([2, 2]), mean=True)
    assert (s[1, -1], s[0, 5], s[0, -1]) == (4.0, 4.0, 0.0)


# --- bits -------------------------------------------------------------------------------------------------------------


def everything(u, lengths):
    """The results of each op, with one row per set or sample."""
    sets = make_index(lengths)
    mean, dev = cpp_ops.center(u, sets, from_mean=False)
    return {
        "set_reduce": cpp_ops.set_reduce(u, sets, mean=False),
        "mean": mean,
        "set_add": cpp_ops.set_add(u, mean, sets, mean=True, out=torch.empty_like(u)),
        "concat": cpp_ops.concat_set_mean(u, sets),
        "concat backward": cpp_ops.concat_set_mean_backward(torch.cat([u, u], dim=1), sets),
        "uncenter": cpp_ops.uncenter(mean, dev, sets),
    }


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_any_number_of_threads(dtype):
    u = torch.randn(282, 7, 31, 11).to(dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = everything(u, SHAPES["in chunks"])
        torch.set_num_threads(3)
        three = everything(u, SHAPES["in chunks"])
    finally:
        torch.set_num_threads(threads)
    for name, got in one.items():
        assert torch.equal(got, three[name]), name


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_sets_are_independent(dtype, bad):
    """A set alone, and among sets of NaN at various distances from a chunk's border: the same bits."""
    for length in (1, 3, 65, 150):
        u = torch.randn(length, 2, 5, 3).to(dtype)
        alone = everything(u, [length])
        for before in (0, 1, 63, 64, 100):
            lengths = [before, length, 70]
            among = torch.full((sum(lengths), 2, 5, 3), bad, dtype=dtype)
            among[before : before + length] = u
            lengths, b = (lengths, 1) if before else (lengths[1:], 0)
            for name, got in everything(among, lengths).items():
                per_set = name in ("set_reduce", "mean")
                part = got[b : b + 1] if per_set else got[before : before + length]
                assert torch.equal(part, alone[name]), (name, length, before)


# --- the ops of torch.library -----------------------------------------------------------------------------------------


def cpp_calls():
    for name, op, arguments in test_ops.calls():
        if not name.startswith("interconv"):
            yield name, op, (*arguments[:-1], "cpp")


@needs_extension
@pytest.mark.parametrize("call", [pytest.param(c, id=f"{c[0]}-{i}") for i, c in enumerate(cpp_calls())])
def test_opcheck(call, monkeypatch):
    test_ops.test_opcheck(call, monkeypatch)


@needs_extension
def test_what_does_not_fit_is_refused():
    sets = make_index(LENGTHS)
    raw, index = torch.ops.interconv_cpp, (sets.offsets, sets.set_ids)
    x, out = torch.ones(10, 6), torch.ones(4, 6)
    with pytest.raises(RuntimeError, match=r"out is \[3, 6\]: expected \[4, 6\]"):
        raw.set_reduce(x, *index, True, out[:3])
    with pytest.raises(RuntimeError, match="expected contiguous rows"):
        raw.set_reduce(torch.ones(6, 10).t(), *index, True, out)
    with pytest.raises(RuntimeError, match="expected float64, float32, bfloat16 or float16"):
        raw.set_reduce(x.int(), *index, True, out.int())
    with pytest.raises(RuntimeError, match="int32"):
        raw.set_reduce(x, sets.offsets.long(), sets.set_ids, True, out)
    with pytest.raises(RuntimeError, match=r"the samples 8 \.\.\. 12 - 1"):
        raw.set_add(None, out, *index, True, 8, out)


# --- sanitizers -------------------------------------------------------------------------------------------------------

SANITIZED = """
import sys, torch
torch.ops.load_library(sys.argv[1])
raw = torch.ops.interconv_cpp
for lengths in ([3, 1, 4, 2], [2, 150, 64, 65, 1], [200]):
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for m, inner in ((1, 1), (15, 3), (2100, 3), (2100, 2100)):
            n, b = sum(lengths), len(lengths)
            sizes = torch.tensor(lengths)
            offsets = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]).int()
            index = (offsets, torch.repeat_interleave(torch.arange(b), sizes).int())
            def rows(k, columns=m):
                return torch.randn(k, columns).to(dtype)
            raw.set_reduce(rows(n), *index, True, rows(b))
            raw.set_add(rows(n - 1), rows(b), *index, True, 1, rows(n - 1))
            raw.concat_set_mean(rows(n), *index, inner, rows(n, 2 * m))
            raw.concat_set_mean_backward(rows(n, 2 * m), *index, inner, rows(n))
            for from_mean in (True, False):
                raw.center(rows(n), *index, from_mean, rows(b), rows(n - b))
            raw.uncenter(rows(b), rows(n - b), *index, rows(n))
    for c, co, last in ((1, 3, True), (23, 17, True), (16, 33, False), (5, 64, False)):
        u, g, weight = torch.randn(n, c * 77), torch.randn(n, co * 77), torch.randn(co, 2 * c)
        grads = torch.empty_like(u), torch.empty_like(weight), torch.empty(1, co)
        for max_centered in (1, 2, 8, 64):
            settings = (*index, last, max_centered)
            raw.pointwise_forward(u, weight, torch.randn(1, co), torch.randn(1, co), *settings, torch.empty_like(g))
            raw.pointwise_backward(g, u, weight, *settings, *grads)
        weight = torch.randn(co, 18 * c)
        for pad in (0, 1, 2):
            shape, g = (7, 11, pad, 2 - pad), torch.randn(n, co * (5 + 2 * pad) * (13 - 2 * pad))
            grads = torch.empty_like(u), torch.empty_like(weight), torch.empty(1, co)
            for max_centered in (1, 2, 8, 64):
                settings = (*index, last, *shape, max_centered)
                raw.winograd_forward(u, weight, torch.randn(1, co), torch.randn(1, co), *settings, torch.empty_like(g))
                raw.winograd_backward(g, u, weight, *settings, *grads)
print("clean")
"""


def test_address_and_undefined_behaviour_sanitizers(tmp_path):
    gxx = shutil.which("g++")
    if gxx is None or sys.platform != "linux":
        pytest.skip("needs g++ on Linux")
    asan = subprocess.run([gxx, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not os.path.isabs(asan.stdout.strip()):
        pytest.skip("g++ has no libasan")
    library = str(tmp_path / "sanitized.so")
    sources = map(str, (ROOT / "csrc").glob("*.cpp"))
    sanitize = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    link = [f"-L{INCLUDE.parent / 'lib'}", "-ltorch_cpu", "-lc10"]
    subprocess.run([gxx, "-shared", "-fPIC", *sanitize, *FLAGS, *sources, "-o", library, *link], check=True)
    # Leaks are not checked: Python and torch leak on purpose.
    env = dict(os.environ, LD_PRELOAD=asan.stdout.strip(), ASAN_OPTIONS="detect_leaks=0", OMP_NUM_THREADS="2")
    result = subprocess.run(
        [sys.executable, "-c", SANITIZED, library], env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "clean" in result.stdout


# --- machine code -----------------------------------------------------------------------------------------------------


def cuda_tool(name):
    """A CUDA tool on PATH, or the one in triton's wheel."""
    found = shutil.which(name)
    if found is None:
        for folder in map(Path, sys.path):
            candidate = folder / "triton" / "backends" / "nvidia" / "bin" / name
            if candidate.exists():
                return str(candidate)
    return found


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_gpu_kernels_are_lean(arch, tmp_path):
    """No kernel spills or uses many registers, and the vectorized ones load and store 16 bytes at once."""
    nvcc, cuobjdump = shutil.which("nvcc"), cuda_tool("cuobjdump")
    if nvcc is None:
        pytest.skip("nvcc is not on PATH")
    if cuobjdump is None:
        pytest.skip("cuobjdump is neither on PATH nor in triton's wheel")
    cubin = tmp_path / "cuda.cubin"
    command = [nvcc, "-O3", "-fmad=false", f"-arch={arch}", "-cubin", "-Xptxas=-v", *FLAGS]
    built = subprocess.run(
        [*command, str(ROOT / "csrc" / "cuda.cu"), "-o", str(cubin)], capture_output=True, text=True, check=True
    )
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", built.stderr)
    kernels = 4 * (5 * 4 + 1) * 2  # dtypes x (5 operations in 4 phases, set_add) x (vectorized or not)
    assert len(spills) == kernels
    assert set(spills) == {("0", "0", "0")}
    usage = subprocess.run([cuobjdump, "-res-usage", str(cubin)], capture_output=True, text=True, check=True).stdout
    registers = [int(r) for r in re.findall(r"REG:(\d+)", usage)]
    assert len(registers) == kernels
    assert max(registers) <= 128  # at least two blocks of 256 threads per multiprocessor

    # cuobjdump calls nvdisasm, which is in the same folder.
    path = f"{Path(cuobjdump).parent}{os.pathsep}{os.environ['PATH']}"
    sass = subprocess.run(
        [cuobjdump, "-sass", str(cubin)], env=dict(os.environ, PATH=path), capture_output=True, text=True, check=True
    ).stdout
    functions = {part.split(None, 1)[0]: part for part in sass.split("Function : ")[1:]}
    assert len(functions) == kernels
    vectors = {name: code for name, code in functions.items() if "run_vectorsILi1E" not in name}
    assert len(vectors) == kernels // 2
    for name, code in vectors.items():
        assert re.search(r"LDG\.E[.\w]*\.128", code), name
        assert re.search(r"STG\.E[.\w]*\.128", code), name
