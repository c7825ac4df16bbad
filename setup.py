"""Builds the C++/CUDA extension `interconv_kernels/_cpp.*.so`. Everything else is in pyproject.toml.

The extension is optional. Without torch or a C++ compiler the package is pure Python; without nvcc the extension runs
on the CPU only. `_cpp_build.json`, next to the extension, records what was built or why it was not, and `ik.backends()`
shows it.

Environment variables:
    CXX: C++ compiler (default: c++, g++ or clang++ on PATH).
    NVCC: CUDA compiler (default: nvcc on PATH).
    TORCH_CUDA_ARCH_LIST: GPU architectures (default: 7.5 to 12.0; no GPU is needed to build).
    INTERCONV_NO_EXTENSION: 1 to build no extension. An editable install uses one that was built before.
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
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
ARCHITECTURES = "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"
# The stable ABI of torch 2.13: one library works with every later torch.
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


class BuildError(Exception):
    """The extension, or its CUDA part, cannot be built."""


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
        return shlex.split(os.environ[variable])
    for name in names:
        if path := shutil.which(name):
            return [path]
    raise BuildError(f"none of {', '.join(names)} is on PATH; set {variable}")


def architectures() -> list[str]:
    """Return the GPU architectures to build for, for example ["8.0", "12.0+PTX"]."""
    names = re.split(r"[ ;,]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip() or ARCHITECTURES)
    for name in names:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name):
            raise BuildError(f"TORCH_CUDA_ARCH_LIST contains {name!r}: expected names such as 8.0 or 9.0+PTX")
    return names


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
            built = {"error": str(error)}
            print(f"interconv_kernels: no C++/CUDA extension, the package is pure Python: {error}", file=sys.stderr)
        self.report_path(library).write_text(json.dumps(built))

    def compile(self, library: Path) -> dict[str, object]:
        spec = find_spec("torch")
        if spec is None or spec.origin is None:
            raise BuildError("torch is not in the build's environment: install it and build with --no-build-isolation")
        torch = Path(spec.origin).parent
        cxx = compiler("CXX", "c++", "g++", "clang++")
        objects = Path(self.build_temp)
        objects.mkdir(parents=True, exist_ok=True)
        flags = [*FLAGS, f"-I{torch / 'include'}"]

        def compiled(source: str, command: list[str]) -> str:
            target = str(objects / f"{source.replace('/', '_')}.o")
            run([*command, "-c", str(ROOT / "csrc" / source), "-o", target])
            return target

        def cuda_part() -> tuple[list[str], list[str] | None, str]:
            """Return the objects, the linker, and the reason if there are none."""
            try:
                nvcc, names = compiler("NVCC", "nvcc"), architectures()
                command = [*nvcc, *flags, "--threads=0", "-Xcompiler", ",".join(HOST_FLAGS), "-ccbin", cxx[0]]
                cuda_objects = [compiled("cuda.cu", [*command, "-fmad=false", *gencode(names)])]
                if halo := tensor_core_architectures(names):
                    macro = ["-DIK_SM_90A"] if for_warpgroups(names) else []
                    for source in ("halo/ops.cu", "halo/weight_gradient_ops.cu"):
                        cuda_objects.append(compiled(source, [*command, *macro, *gencode(halo)]))
                if for_warpgroups(names):
                    sm_90a = [*command, *gencode(["9.0a"])]
                    cuda_objects.append(compiled("halo/warpgroup_kernels.cu", sm_90a))
                return cuda_objects, [*nvcc, "-ccbin", cxx[0]], ""
            except BuildError as error:
                return [], None, str(error)

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            cuda = pool.submit(cuda_part)
            command = [*cxx, *flags, *HOST_FLAGS]
            set_ops = pool.map(lambda source: compiled(source, command), SET_OPS_SOURCES)
            fused = pool.map(lambda source: compiled(source, [*command, *FUSED_FLAGS]), FUSED_SOURCES)
            host_objects = [*set_ops, *fused]
            cuda_objects, nvcc, no_cuda = cuda.result()
        if no_cuda:
            print(f"interconv_kernels: no CUDA part in the extension: {no_cuda}", file=sys.stderr)
        libraries = [f"-L{torch / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
        # nvcc, if there is one, links the CUDA runtime statically.
        run([*(nvcc or cxx), "-shared", *FLAGS, *host_objects, *cuda_objects, "-o", str(library), *libraries])
        names = architectures() if cuda_objects else []
        halo = tensor_core_architectures(names)
        if for_warpgroups(names) and "9.0a" not in halo:
            halo.append("9.0a")
        return {"architectures": names, "halo_architectures": halo, "no_cuda": no_cuda}

    def report_path(self, library: Path) -> Path:
        return library.parent / "_cpp_build.json"

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        for ext in self.extensions:
            built = self.report_path(Path(self.build_lib) / self.get_ext_filename(ext.name))
            target = ROOT / "interconv_kernels"
            if not (built.parent / Path(self.get_ext_filename(ext.name)).name).exists():
                (target / Path(self.get_ext_filename(ext.name)).name).unlink(missing_ok=True)
            shutil.copy2(built, target / built.name)


EXTENSION = Extension("interconv_kernels._cpp", sources=[], py_limited_api=True, optional=True)

setup(
    ext_modules=[] if os.environ.get("INTERCONV_NO_EXTENSION") == "1" else [EXTENSION],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
