"""Builds the C++/CUDA extension `interconv_kernels/_cpp.*.so`. Everything else is in pyproject.toml.

It needs a C++ compiler and the headers of torch: of the torch that is installed in the environment that is installed
into, or else of one that pip fetches for the build. If it cannot be built, the installation fails and says why. What is
built is printed (`pip install -v`) and recorded in `_cpp_build.json`, next to the extension; `ik.backends()` shows it.

Environment variables:
    INTERCONV_NO_EXTENSION: 1 to build no extension (pure Python). An editable install uses one that was built before.
    INTERCONV_NO_CUDA: 1 to build for the CPU alone.
    TORCH_CUDA_ARCH_LIST: GPU architectures, such as "8.0 9.0+PTX", or "all": 7.5 to 12.0, which takes minutes. No GPU
        is needed to build. Default: those of the GPUs that are visible, if nvcc is there; without one, the CPU alone.
    CXX: C++ compiler (default: c++, g++ or clang++ on PATH).
    NVCC: CUDA compiler (default: nvcc on PATH).
    MAX_JOBS: number of files that are compiled at once (default: number of CPUs).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent
ARCHITECTURES = "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"
OLDEST = (7, 5)  # GPU architecture
# The stable ABI of torch 2.13: one library works with every later torch.
TORCH = (2, 13)
FLAGS = ["-O3", "-std=c++20", "-DTORCH_TARGET_VERSION=0x020d000000000000"]
# No contraction to fused multiply-adds: the set operations give the same bits on every machine.
HOST_FLAGS = ["-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
# Except in the fused layers: a matrix product needs fused multiply-adds for its speed.
FUSED_FLAGS = ["-ffp-contract=fast"]
SET_OPS_SOURCES = ["cpu.cpp", "operators.cpp", "register.cpp", "halo/configs.cpp"]
FUSED_SOURCES = [
    "gemm.cpp",
    "pointwise_layer.cpp",
    "pointwise_ops.cpp",
    "pointwise_weight_gradient.cpp",
    "winograd_layer.cpp",
    "winograd_ops.cpp",
    "winograd_transforms.cpp",
    "winograd_weight_gradient.cpp",
]


class BuildError(CompileError):
    """The extension cannot be built. setuptools prints the message and ends with an exit status."""


def say(text: str) -> None:
    """Print what is done (`pip install -v` shows it)."""
    print(f"interconv_kernels: {text}", file=sys.stderr, flush=True)


def run(command: list[str]) -> None:
    """Run a command.

    Raises:
        BuildError: It failed. The message is its output.
    """
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if result.returncode:
        raise BuildError(f"{shlex.join(command)}\n{(result.stderr or result.stdout).strip()[-2000:]}")


def compiler(variable: str, *names: str) -> list[str]:
    """Return the command in the environment variable `variable`, or else the first of `names` on PATH."""
    if os.environ.get(variable):
        command = shlex.split(os.environ[variable])
        if shutil.which(command[0]) is None:
            raise BuildError(f"{variable} is {command[0]}, and there is no such program")
        return command
    for name in names:
        if path := shutil.which(name):
            return [path]
    raise BuildError(f"none of {', '.join(names)} is on PATH; set {variable}")


def installed_torch() -> Path | None:
    """Return the folder of torch: in the build's environment, or else in the one that is installed into.

    pip builds in an environment of its own, which it enters through PYTHONPATH: without that, Python sees the other.
    """
    code = """
from importlib import metadata, util
found = util.find_spec("torch")
if found is not None:
    print(metadata.version("torch"), found.submodule_search_locations[0])
"""
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    for environment in (os.environ, outside):
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout
        version, _, folder = found.strip().partition(" ")
        if folder and tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= TORCH:
            return Path(folder)
    return None


def gpu_architectures() -> tuple[list[str], str]:
    """Return the GPU architectures to build for, for example ["8.0", "12.0+PTX"], and why these or none."""
    if os.environ.get("INTERCONV_NO_CUDA") == "1":
        return [], "INTERCONV_NO_CUDA=1"
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if listed:
        names = re.split(r"[ ;,]+", ARCHITECTURES if listed.lower() == "all" else listed)
        for name in names:
            if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
                raise BuildError(f"TORCH_CUDA_ARCH_LIST contains {name!r}: expected 'all', or names as 8.0 or 9.0+PTX")
        return names, "TORCH_CUDA_ARCH_LIST"
    names = visible_architectures()
    if not names:
        return [], "no GPU is visible; TORCH_CUDA_ARCH_LIST chooses architectures to build for"
    try:
        compiler("NVCC", "nvcc")
    except BuildError as error:
        return [], str(error)
    return names, "the GPUs that are visible"


def visible_architectures() -> list[str]:
    """Return the architectures of the GPUs of this machine that the kernels can run on."""
    try:
        shown = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = {(int(major), int(minor)) for major, minor in re.findall(r"^(\d+)\.(\d+)$", shown, re.MULTILINE)}
    return [f"{major}.{minor}" for major, minor in sorted(found) if (major, minor) >= OLDEST]


def tensor_core_architectures(names: list[str]) -> list[str]:
    """Return the architectures that the layer's kernels (csrc/halo) are built for: the first of each major from 8 on.

    Their machine code runs on later minor versions too and is no slower there, so "8.0 8.6 8.9" needs one copy.
    """
    chosen: list[str] = []
    for name in sorted(names, key=lambda name: [int(part) for part in re.findall(r"\d+", name)]):
        major = name.split(".")[0]
        is_first = all(other.split(".")[0] != major for other in chosen)
        if int(major) >= 8 and (is_first or name.endswith("+PTX")):
            chosen.append(name)
    return chosen


def for_warpgroups(names: list[str]) -> bool:
    """Return whether to build the kernels for warpgroups: their machine code, sm_90a, runs on 9.0 and nothing else."""
    return any(name.removesuffix("+PTX").rstrip("a") == "9.0" for name in names)


def gencode(names: list[str]) -> list[str]:
    """Return the nvcc flags: machine code for each architecture, and PTX where it is requested."""
    flags = []
    for name in names:
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class BuildExtension(build_ext):
    """Calls the compilers directly."""

    def build_extension(self, ext: Extension) -> None:
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        library.unlink(missing_ok=True)  # so that no older build remains if this one fails
        try:
            built = self.compile(library)
        except BuildError as error:
            ways = "INTERCONV_NO_CUDA=1 builds for the CPU alone, INTERCONV_NO_EXTENSION=1 installs pure Python"
            raise BuildError(f"the extension of interconv_kernels cannot be built: {error} ({ways})") from None
        self.report_path(library).write_text(json.dumps(built))

    def compile(self, library: Path) -> dict[str, object]:
        torch = installed_torch()
        if torch is None:
            raise BuildError(f"torch {TORCH[0]}.{TORCH[1]} or newer is not installed")
        cxx = compiler("CXX", "c++", "g++", "clang++")
        names, reason = gpu_architectures()
        nvcc = compiler("NVCC", "nvcc") if names else None
        targets = f"the CPU and GPUs of {', '.join(names)}" if names else "the CPU alone"
        say(f"building for {targets} ({reason}), with torch in {torch}")
        objects = Path(self.build_temp)
        objects.mkdir(parents=True, exist_ok=True)
        flags = [*FLAGS, f"-I{torch / 'include'}"]

        def compiled(source: str, command: list[str]) -> str:
            target = str(objects / f"{source.replace('/', '_')}.o")
            run([*command, "-c", str(ROOT / "csrc" / source), "-o", target])
            say(f"compiled {source}")
            return target

        def cuda_part() -> list[str]:
            """Return the objects."""
            if nvcc is None:
                return []
            command = [*nvcc, *flags, "--threads=0", "-Xcompiler", ",".join(HOST_FLAGS), "-ccbin", cxx[0]]
            cuda_objects = [compiled("cuda.cu", [*command, "-fmad=false", *gencode(names)])]
            if halo := tensor_core_architectures(names):
                macro = ["-DIK_SM_90A"] if for_warpgroups(names) else []
                for source in ("halo/ops.cu", "halo/weight_gradient_ops.cu"):
                    cuda_objects.append(compiled(source, [*command, *macro, *gencode(halo)]))
            if for_warpgroups(names):
                cuda_objects.append(compiled("halo/warpgroup_kernels.cu", [*command, *gencode(["9.0a"])]))
            return cuda_objects

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            cuda = pool.submit(cuda_part)
            command = [*cxx, *flags, *HOST_FLAGS]
            set_ops = pool.map(lambda source: compiled(source, command), SET_OPS_SOURCES)
            fused = pool.map(lambda source: compiled(source, [*command, *FUSED_FLAGS]), FUSED_SOURCES)
            host_objects = [*set_ops, *fused]
            cuda_objects = cuda.result()
        libraries = [f"-L{torch / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
        # nvcc, if there is one, links the CUDA runtime statically.
        linker = cxx if nvcc is None else [*nvcc, "-ccbin", cxx[0]]
        run([*linker, "-shared", *FLAGS, *host_objects, *cuda_objects, "-o", str(library), *libraries])
        halo = tensor_core_architectures(names)
        if for_warpgroups(names) and "9.0a" not in halo:
            halo.append("9.0a")
        return {"architectures": names, "halo_architectures": halo, "no_cuda": "" if names else reason}

    def report_path(self, library: Path) -> Path:
        return library.parent / "_cpp_build.json"

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        for ext in self.extensions:
            built = self.report_path(Path(self.build_lib) / self.get_ext_filename(ext.name))
            shutil.copy2(built, ROOT / "interconv_kernels" / built.name)


NO_EXTENSION = os.environ.get("INTERCONV_NO_EXTENSION") == "1" or sys.platform == "win32"

setup(
    ext_modules=[] if NO_EXTENSION else [Extension("interconv_kernels._cpp", sources=[], py_limited_api=True)],
    # What pip fetches for the build: torch, unless one is there.
    setup_requires=[] if NO_EXTENSION or installed_torch() else [f"torch>={TORCH[0]}.{TORCH[1]}"],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
