"""The operators that the C++ library registers for programs without Python, in a process without this package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from common import FORMATS, FORMATS_3D, RAGGED, eager_concat, make_case, oracle, worst

from interconv_kernels import choice
from interconv_kernels._backends import cpp

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "interconv_kernels" / "_cpp.abi3.so"
OPERATORS = ("set_reduce", "concat_set_mean", "interconv", "interconv_leaky_relu")
PROGRAM = """
import ctypes, sys, torch
library, calls, results = sys.argv[1:]
torch.ops.load_library(library)
for _ in range(2):  # twice is no error
    ctypes.CDLL(library).interconv_register_operators()
assert "interconv_kernels" not in sys.modules
torch.set_grad_enabled(False)
made = {name: getattr(torch.ops.interconv, op)(*arguments) for name, (op, *arguments) in torch.load(calls).items()}
schemas = {op: str(getattr(torch.ops.interconv, op).default._schema) for op in OPERATORS}
torch.save((made, schemas), results)
""".replace("OPERATORS", str(OPERATORS))

pytestmark = pytest.mark.skipif(cpp.load_error() is not None, reason=f"no extension: {cpp.load_error()}")


def layers():
    """Cases of the layer by name: each form of the C++ code, formats, ragged sets, settings, dtypes."""
    cases = {}
    for fmt in FORMATS:
        for name, lengths in RAGGED.items():
            for kernel in (1, 3):
                cases[f"{kernel}x{kernel}, {name}, {fmt}"] = make_case(
                    lengths, 16, 12, kernel=kernel, padding=kernel // 2, dtype=torch.float32, fmt=fmt
                )
        for conv in (
            {"stride": 2},
            {"dilation": (1, 2), "padding": (1, 2)},
            {"padding": (0, 2)},
            {"padding": 3},
            {"bias": False},
        ):
            cases[f"{conv}, {fmt}"] = make_case([2, 1, 3], 16, 12, dtype=torch.float32, fmt=fmt, **conv)
        cases[f"few channels, {fmt}"] = make_case([2, 3], 2, 3, dtype=torch.float32, fmt=fmt)
        cases[f"float64, {fmt}"] = make_case([2, 3], fmt=fmt)
        cases[f"bfloat16, {fmt}"] = make_case([2, 3], 16, 16, dtype=torch.bfloat16, fmt=fmt)
        volumes = {"lengths": [2, 1, 3], "channels": 9, "out_channels": 4, "size": (4, 5, 6), "fmt": fmt}
        conv = {"stride": [1] * 3, "padding": [1] * 3, "dilation": [1] * 3}
        cases[f"volumes, {fmt}"] = make_case(**volumes, dtype=torch.float32, **conv)
        conv = {"stride": [1, 2, 1], "padding": [0] * 3, "dilation": [1] * 3}
        cases[f"volumes, 1x1x1 kernel, {fmt}"] = make_case(**volumes, kernel=1, **conv)
    cases["no samples"] = make_case([], 16, 12, dtype=torch.float32)
    return cases


LAYERS = layers()


def arguments(case, slope=None):
    pairs = {"stride": 1, "padding": 1, "dilation": 1, **case.conv}
    conv = [[x, x] if isinstance(x, int) else [*x] for x in pairs.values()]
    slopes = [] if slope is None else [slope]
    sets = case.sets
    return case.u, case.weight, case.bias, *slopes, sets.live_offsets, sets.live_ids, *conv, "auto", "auto"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{name: result} of all calls, and the schemas."""
    calls = {}
    for name, case in LAYERS.items():
        slope = torch.linspace(-1, 2, case.weight.shape[0], dtype=case.u.dtype)
        calls[name] = ("interconv", *arguments(case))
        calls[name, "act"] = ("interconv_leaky_relu", *arguments(case, slope))
    for fmt in FORMATS:
        case = make_case([0, 2, 3], fmt=fmt)
        sets = (case.sets.offsets, case.sets.set_ids)
        calls["mean", fmt] = ("set_reduce", case.u, *sets, True, "auto")
        calls["sum", fmt] = ("set_reduce", case.u, *sets, False, "auto")
        calls["concat", fmt] = ("concat_set_mean", case.u, *sets, "auto")
    folder = tmp_path_factory.mktemp("operators")
    torch.save(calls, folder / "calls.pt")
    command = [sys.executable, "-c", PROGRAM, str(LIBRARY), str(folder / "calls.pt"), str(folder / "results.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("name", LAYERS)
def test_layer(results, name):
    case = LAYERS[name]
    want = oracle(case) if case.lengths else torch.zeros(0, 12, 9, 7)
    slope = torch.linspace(-1, 2, case.weight.shape[0], dtype=case.u.dtype)
    bound = 4 * worst(eager_concat(case), want) + 8 * torch.finfo(case.u.dtype).eps if case.lengths else 0
    for got, expected in (
        (results[0][name], want),
        (
            results[0][name, "act"],
            torch.where(want >= 0, want, want * slope.double().view(-1, *[1] * (want.dim() - 2))),
        ),
    ):
        assert got.shape == want.shape
        assert got.dtype == case.u.dtype
        formats = FORMATS_3D if got.dim() == 5 else FORMATS
        assert got.is_contiguous(memory_format=formats["channels_last" if "channels_last" in name else "nchw"])
        assert worst(got, expected) <= bound


@pytest.mark.drop_in("C++", "operators without Python: set operations")
@pytest.mark.parametrize("fmt", FORMATS)
def test_set_operations(results, fmt):
    case = make_case([0, 2, 3], fmt=fmt)
    zero, *parts = case.u.new_zeros(1, *case.u.shape[1:]), *case.u.split([2, 3])
    means = torch.cat([zero, *(x.mean(0, keepdim=True) for x in parts)])
    torch.testing.assert_close(results[0]["mean", fmt], means)
    torch.testing.assert_close(results[0]["sum", fmt], torch.cat([zero, *(x.sum(0, keepdim=True) for x in parts)]))
    torch.testing.assert_close(results[0]["concat", fmt], torch.cat([case.u, means[case.sets.set_ids.long()]], 1))


@pytest.mark.drop_in("C++", "operators without Python: schema of {name}")
@pytest.mark.parametrize("name", OPERATORS)
def test_the_schemas_are_those_of_python(results, name):
    assert results[1][name] == str(getattr(torch.ops.interconv, name).default._schema)


def test_the_constants_are_those_of_choice():
    text = (ROOT / "csrc" / "choice.h").read_text()
    constants = {name: int(value) for name, value in re.findall(r"constexpr int64_t k(\w+) = (\d+);", text)}
    assert constants == {
        "MinFusedChannels": choice.MIN_FUSED_CHANNELS["forward"],
        "CenteredPasses": choice.CENTERED_PASSES,
        "WinogradMaxCentered": choice.WINOGRAD_MAX_CENTERED,
    }
