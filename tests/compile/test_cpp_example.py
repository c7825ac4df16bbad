"""examples/cpp: an AOTInductor package and a TorchScript file run in a C++ program without Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import interconv_kernels as ik
from interconv_kernels._backends import cpp

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
LIBRARY = ROOT / "interconv_kernels" / "_cpp.abi3.so"

sys.path.insert(0, str(EXAMPLE))
import export  # noqa: E402


def run(*command):
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, built by the command of docs/guide/cpp.md."""
    folder = tmp_path_factory.mktemp("program")
    assert cpp.load_error() is None
    torch_folder = Path(torch.__file__).parent
    includes = [torch_folder / "include", torch_folder / "include/torch/csrc/api/include"]
    libraries = torch_folder / "lib"
    linked = [LIBRARY, f"-L{libraries}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{libraries}"]
    compiler = [os.environ.get("CXX", "g++"), "-std=c++20", "-O0", *(f"-I{x}" for x in includes)]
    run(*compiler, EXAMPLE / "segment.cpp", *linked, "-o", folder / "segment")
    return folder / "segment"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    torch.use_deterministic_algorithms(False)
    run(sys.executable, EXAMPLE / "export.py", folder)
    return folder


@pytest.mark.drop_in("C++", "program without Python, with libtorch: {model}")
@pytest.mark.parametrize("model", ["model.pt2", "model.pt"])
def test_the_program_segments(program, files, model, tmp_path):
    run(program, files / model, files / "inputs.pt", tmp_path / "logits.pt")
    inputs = torch.load(files / "inputs.pt")
    with torch.no_grad():
        want = export.network()(inputs["images"], ik.Sets.from_lengths(inputs["lengths"]))
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), want, rtol=1e-4, atol=1e-5)
