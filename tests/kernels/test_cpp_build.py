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


def test_a_missing_extension_says_why(installed):
    (installed / "_cpp_build.json").write_text(json.dumps({"error": "no compiler today"}))
    with pytest.raises(ValueError, match=r"backend 'cpp' cannot run on cpu.*not built: no compiler today"):
        registry.get("cpp", CPU)
    assert "no compiler today" in ik.backends()["cpp"]["cpu"]
    assert registry.get("auto", CPU).name == "torch"


def test_a_broken_extension_shows_the_original_error(installed):
    (installed / "_cpp.abi3.so").write_text("no library")
    with pytest.raises(ValueError, match=r"_cpp\.abi3\.so does not load: .*(too short|invalid|ELF)"):
        registry.get("cpp", CPU)


def build(tmp_path, code="pass", **env):
    """What `setup.py build_ext` leaves in a copy of the sources: (report, libraries, stderr)."""
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    (tmp_path / "README.md").touch()
    (tmp_path / "interconv_kernels").mkdir()
    shutil.copy(ROOT / "interconv_kernels" / "_version.py", tmp_path / "interconv_kernels")
    script = f"import sys, runpy; {code}; sys.argv = ['setup.py', 'build_ext', '--build-lib', 'built']; "
    result = subprocess.run(
        [sys.executable, "-c", script + "runpy.run_path('setup.py', run_name='__main__')"],
        cwd=tmp_path,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "built" / "interconv_kernels"
    return json.loads((folder / "_cpp_build.json").read_text()), list(folder.glob("*.so")), result.stderr


def test_a_build_without_a_compiler_is_pure_python(tmp_path):
    report, libraries, stderr = build(tmp_path, CXX="/nonexistent/c++", NVCC="/nonexistent/nvcc")
    assert "/nonexistent/c++" in report["error"]
    assert libraries == []
    assert stderr.count("the package is pure Python") == 1


def test_a_build_without_torch_is_pure_python(tmp_path):
    report, libraries, stderr = build(tmp_path, code="sys.modules['torch'] = None")
    assert "torch is not in the build's environment" in report["error"]
    assert libraries == []
    assert "Traceback" not in stderr


def test_a_build_without_nvcc_is_for_the_cpu(tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    report, libraries, _ = build(tmp_path, NVCC="/nonexistent/nvcc")
    assert report["architectures"] == []
    assert "/nonexistent/nvcc" in report["no_cuda"]
    assert len(libraries) == 1
