"""Backend "cpp" where the extension is missing or broken, and builds without torch, a compiler or nvcc."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import interconv_kernels as ik
from interconv_kernels._backends import cpp, registry

ROOT = Path(__file__).parent.parent.parent
CPU = torch.device("cpu")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An empty folder in place of the installed package's, so that the extension is missing."""
    monkeypatch.setattr(cpp, "_FOLDER", tmp_path)
    for cached in (cpp.load_error, cpp.build_report):
        cached.cache_clear()
    yield tmp_path
    for cached in (cpp.load_error, cpp.build_report):
        cached.cache_clear()


def test_a_missing_extension_says_what_to_do(installed):
    with pytest.raises(ValueError, match=r"backend 'cpp' cannot run on cpu.*was not built.*pip install \."):
        registry.get("cpp", CPU)
    assert "was not built" in ik.backends()["cpp"]["cpu"]
    assert registry.get("auto", CPU).name == "torch"


def test_a_broken_extension_shows_the_original_error(installed):
    (installed / "_cpp.abi3.so").write_text("no library")
    with pytest.raises(ValueError, match=r"_cpp\.abi3\.so does not load: .*(too short|invalid|ELF)"):
        registry.get("cpp", CPU)


@pytest.fixture
def sources(tmp_path):
    """A copy of what a build reads."""
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("csrc", "interconv_kernels", "python"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("_cpp*.*", "__pycache__"))
    return tmp_path


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The Python of an environment without torch."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def run(folder, code, **env):
    """Runs Python in a folder, without what chooses a build in the environment of the tests."""
    inherited = {name: value for name, value in os.environ.items() if name not in CHOICES}
    command = [sys.executable, "-c", "import sys, setuptools\n" + code]
    return subprocess.run(command, cwd=folder, env={**inherited, **env}, capture_output=True, text=True, check=False)


BUILD = "from runpy import run_path; sys.argv = ['setup.py', 'build_ext', '--build-lib', 'built']; run_path('setup.py')"
CHOICES = ("CXX", "NVCC", "TORCH_CUDA_ARCH_LIST", "INTERCONV_NO_CUDA", "INTERCONV_NO_EXTENSION")


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"CXX": "/nonexistent/c++"}, ["/nonexistent/c++"]),
        ({"TORCH_CUDA_ARCH_LIST": "8.0", "NVCC": "/nonexistent/nvcc"}, ["/nonexistent/nvcc"]),
        ({"TORCH_CUDA_ARCH_LIST": "volta"}, ["'volta'", "'all'"]),
    ],
)
def test_a_build_that_cannot_do_what_was_asked_fails(sources, env, words):
    result = run(sources, BUILD, **env)
    assert result.returncode == 1
    *_, message = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for word in (*words, "INTERCONV_NO_EXTENSION=1"):
        assert word in message
    assert "Traceback" not in result.stderr
    assert not list(sources.glob("built/**/_cpp*"))


def test_a_build_without_torch_asks_pip_for_it_and_fails_if_there_is_none(sources, bare):
    needs = "from setuptools import build_meta; print(build_meta.get_requires_for_build_wheel())"
    assert run(sources, needs).stdout.splitlines()[-1] == "[]"
    elsewhere = f"sys.executable = {str(bare)!r}\n"
    assert run(sources, elsewhere + needs).stdout.splitlines()[-1] == "['torch>=2.13']"
    assert run(sources, elsewhere + needs, INTERCONV_NO_EXTENSION="1").stdout.splitlines()[-1] == "[]"
    result = run(sources, elsewhere + "from setuptools import build_meta; build_meta.build_wheel('.')")
    assert result.returncode == 1
    assert "torch 2.13 or newer is not installed" in result.stderr.splitlines()[-1]
    assert not list(sources.glob("*.whl"))


def test_torch_of_the_environment_is_found_from_the_environment_of_the_build(sources, tmp_path):
    """pip sets PYTHONPATH, to a folder whose sitecustomize.py hides what is installed."""
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay/sitecustomize.py").write_text(
        "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]"
    )
    code = """
setuptools.setup = lambda **_: None
from runpy import run_path
functions = run_path("setup.py")
print(functions["installed_torch"]())
"""
    found = run(sources, code).stdout.strip()
    assert found == str(Path(torch.__file__).parent)
    hidden = "import os, subprocess; os.environ['PYTHONPATH'] = " + repr(str(tmp_path / "overlay"))
    check = "; assert subprocess.run([sys.executable, '-c', 'import torch'], capture_output=True).returncode"
    assert run(sources, hidden + check + code).stdout.strip() == found


@pytest.mark.parametrize(
    ("gpus", "env", "names", "why"),
    [
        ("9.0\n8.0\n9.0\n6.1\n", {"NVCC": "/bin/sh"}, ["8.0", "9.0"], "the GPUs that are visible"),
        ("9.0\n", {"NVCC": "/bin/sh", "INTERCONV_NO_CUDA": "1"}, [], "INTERCONV_NO_CUDA=1"),
        (
            "9.0\n",
            {"NVCC": "/bin/sh", "TORCH_CUDA_ARCH_LIST": "8.6;9.0+PTX"},
            ["8.6", "9.0+PTX"],
            "TORCH_CUDA_ARCH_LIST",
        ),
        ("", {"TORCH_CUDA_ARCH_LIST": "all"}, ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"], "TORCH_"),
        ("", {"NVCC": "/bin/sh"}, [], "no GPU is visible"),
        ("9.0\n", {}, [], "none of nvcc is on PATH"),
    ],
)
def test_the_architectures_are_chosen_or_those_of_the_visible_gpus(tmp_path, sources, gpus, env, names, why):
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\nprintf '{gpus}'\n")
    tool.chmod(0o755)
    code = """
setuptools.setup = lambda **_: None
from runpy import run_path
print(*run_path("setup.py")["gpu_architectures"](), sep="|")
"""
    found, _, reason = run(sources, code, PATH=f"{tmp_path}/bin", **env).stdout.strip().partition("|")
    assert found == str(names)
    assert why in reason


def test_a_build_says_what_it_builds(sources):
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    result = run(sources, BUILD, INTERCONV_NO_CUDA="1")
    assert result.returncode == 0, result.stderr
    report = json.loads((sources / "built/interconv_kernels/_cpp_build.json").read_text())
    assert report == {"architectures": [], "halo_architectures": [], "no_cuda": "INTERCONV_NO_CUDA=1"}
    assert len(list(sources.glob("built/interconv_kernels/*.so"))) == 1
    assert (
        f"building for the CPU alone (INTERCONV_NO_CUDA=1), with torch in {Path(torch.__file__).parent}"
        in result.stderr
    )
