"""Compiles Triton kernels for GPUs that are not present, with the arguments that the launchers pass.

`record` runs code that launches kernels on meta tensors (shapes without memory), and records each launch instead of
making it. `compile_for` compiles a recorded launch as Triton would on that GPU. There is no second list of arguments
that could differ from the launchers'.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from interconv_kernels.sets import SetIndex

META = torch.device("meta")


class Chip(NamedTuple):
    """A GPU architecture, and the limits of its multiprocessors (SM; AMD: compute unit).

    Attributes:
        name: such as "sm_90".
        backend: Triton's: "cuda" or "hip".
        arch: as Triton names it.
        lanes: threads per warp.
        warps: resident warps.
        programs: resident programs (thread blocks).
        shared: bytes of shared memory.
        program_shared: bytes of shared memory that one program can have.
        reserved_shared: bytes of shared memory that the system takes for each program.
        tensor_core: the instruction in INSTRUCTIONS that computes matrix products.
    """

    name: str
    backend: Literal["cuda", "hip"]
    arch: int | str
    lanes: int
    warps: int
    programs: int
    shared: int
    program_shared: int
    reserved_shared: int
    tensor_core: str

    @property
    def target(self) -> GPUTarget:
        return GPUTarget(self.backend, self.arch, self.lanes)

    @property
    def has_tma(self) -> bool:
        return self.backend == "cuda" and int(self.arch) >= 90


# NVIDIA: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
# AMD: CDNA 2 to 4 ISA references and LLVM's AMDGPU backend (8 waves on each of 4 SIMDs; 16 workgroups of more than one
# wave).
KB = 1024
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("sm_80", "cuda", 80, 32, 64, 32, 164 * KB, 163 * KB, KB, "mma"),
        Chip("sm_86", "cuda", 86, 32, 48, 16, 100 * KB, 99 * KB, KB, "mma"),  # sm_89: the same code
        Chip("sm_90", "cuda", 90, 32, 64, 32, 228 * KB, 227 * KB, KB, "wgmma"),
        Chip("sm_100", "cuda", 100, 32, 64, 32, 228 * KB, 227 * KB, KB, "tcgen05"),
        Chip("sm_110", "cuda", 110, 32, 48, 24, 228 * KB, 227 * KB, KB, "tcgen05"),
        Chip("sm_120", "cuda", 120, 32, 48, 24, 100 * KB, 99 * KB, KB, "mma"),  # sm_121: the same code
        Chip("gfx90a", "hip", "gfx90a", 64, 32, 16, 64 * KB, 64 * KB, 0, "mfma"),
        Chip("gfx942", "hip", "gfx942", 64, 32, 16, 64 * KB, 64 * KB, 0, "mfma"),
        Chip("gfx950", "hip", "gfx950", 64, 32, 16, 160 * KB, 160 * KB, 0, "mfma"),
    )
}
# Both vendors: four partitions with 512 registers per lane, allocated to warps in steps of 8 registers per lane.
PARTITIONS, PARTITION_REGISTERS, REGISTER_STEP = 4, 512, 8
NVIDIA_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"  # cuobjdump, as a part of Triton
TENSOR_MEMORY_COLUMNS = 512  # per multiprocessor of sm_100

# Regular expressions for PTX and for AMD's assembly.
INSTRUCTIONS = {
    "cuda": {
        "mma": r"\bmma\.sync",
        "wgmma": r"\bwgmma\.mma_async",
        "tcgen05": r"\btcgen05\.mma",
        "bulk": r"\bcp\.async\.bulk\.tensor",
        "async": r"\bcp\.async\.c[ag]",
        "load128": r"\bld\.global[.\w:]*\.(?:v4\.\w32|v2\.\w64|v8\.\w32|v4\.\w64)",
        "store128": r"\bst\.global[.\w:]*\.(?:v4\.\w32|v2\.\w64|v8\.\w32|v4\.\w64)",
    },
    "hip": {
        "mfma": r"\bv_mfma",
        "writelane": r"\bv_writelane_b32",
        "load128": r"\b(?:global|buffer|flat)_load_dwordx4",
        "store128": r"\b(?:global|buffer|flat)_store_dwordx4",
    },
}


class Code(NamedTuple):
    """The machine code of a kernel.

    Attributes:
        registers: per thread.
        spills: a description of what is spilled to memory, "" if nothing is.
        shared: bytes of shared memory per program.
        tensor_memory: columns of tensor memory per program (sm_100).
        warps: per program.
        instructions: how often each of INSTRUCTIONS occurs in the code.
    """

    registers: int
    spills: str
    shared: int
    tensor_memory: int
    warps: int
    instructions: dict[str, int]


class Launch(NamedTuple):
    """A recorded launch."""

    function: Any  # the triton.jit function
    programs: int
    positional: tuple[Any, ...]
    named: dict[str, Any]  # constants and Triton's options

    @property
    def kernel(self) -> str:
        return self.function.__name__

    @property
    def arguments(self) -> dict[str, Any]:
        """Tensors, integers, constants and options by name."""
        return dict(zip(self.function.arg_names, self.positional, strict=False)) | self.named


class _Driver:
    """Answers what Triton asks a driver before it compiles, for a chip that is not present."""

    def __init__(self, chip: Chip):
        self.chip = chip

    def get_current_target(self) -> GPUTarget:
        return self.chip.target

    def get_current_device(self) -> str:
        return self.chip.name

    def get_current_stream(self, device: str) -> int:
        return 0


def record(chip: Chip, work: Callable[[], object]) -> list[Launch]:
    """The launches that `work` makes on a chip, in order. Its tensors must be meta tensors."""
    launches: list[Launch] = []

    def keep(function: Any, *positional: Any, grid: tuple[int, ...], warmup: bool, **named: Any) -> None:
        launches.append(Launch(function, math.prod(grid), positional, named))

    capability = divmod(int(chip.arch), 10) if chip.backend == "cuda" else (9, 4)
    with (
        mock.patch.object(JITFunction, "run", keep),
        mock.patch.object(torch.version, "hip", None if chip.backend == "cuda" else "recorded"),
        mock.patch.object(torch.cuda, "get_device_capability", return_value=capability),
    ):
        work()
    return launches


def compile_for(chip: Chip, launch: Launch) -> Code:
    """The machine code that a launch runs, with the specialisation and options that Triton chooses."""
    driver.set_active(_Driver(chip))
    try:
        return read(chip, launch.function.run(*launch.positional, grid=None, warmup=True, **launch.named))
    finally:
        driver._active = None  # Triton looks for a GPU again when it needs one


def maps(rows: int, channels: int, height: int, width: int, dtype: torch.dtype, channels_last: bool = True) -> Tensor:
    """A meta tensor [rows, channels, height, width]."""
    fmt = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(rows, channels, height, width, dtype=dtype, device=META, memory_format=fmt)


def index(lengths: Sequence[int]) -> SetIndex:
    """Sets of these sizes on the meta device."""
    offsets, ids = (torch.empty(n, dtype=torch.int32, device=META) for n in (len(lengths) + 1, sum(lengths)))
    return SetIndex(offsets, ids)


# --- reading the code -------------------------------------------------------------------------------------------------


def read(chip: Chip, compiled: Any) -> Code:
    """Reads the resources and instructions of a compiled kernel."""
    registers, spills = (
        parse_cuobjdump(_cuobjdump(compiled.asm["cubin"]))
        if chip.backend == "cuda"
        else parse_amdgcn(compiled.asm["amdgcn"])
    )
    text = compiled.asm["ptx" if chip.backend == "cuda" else "amdgcn"]
    found = {name: len(re.findall(pattern, text)) for name, pattern in INSTRUCTIONS[chip.backend].items()}
    metadata = compiled.metadata
    tensor_memory = getattr(metadata, "tmem_size", None) or 0
    return Code(registers, spills, metadata.shared, tensor_memory, metadata.num_warps, found)


def _cuobjdump(cubin: bytes) -> str:
    """The resources that NVIDIA's tool, which is part of Triton, reads from machine code."""
    tool = NVIDIA_TOOLS / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout


def parse_cuobjdump(text: str) -> tuple[int, str]:
    """(registers, spills) from `REG:96 STACK:0 SHARED:0 LOCAL:0 ...`. Stack and local memory are bytes per thread."""
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    spills = [f"{usage[name]} bytes of {name.lower()} memory" for name in ("STACK", "LOCAL") if usage[name]]
    return usage["REG"], ", ".join(spills)


def parse_amdgcn(text: str) -> tuple[int, str]:
    """(vector registers, spills) from the metadata at the end of AMD's assembly.

    Scalar registers spill to lanes of vector registers, not to memory. Those are counted as vector registers.
    """
    memory_spills = {"vgpr_spill_count": "vector registers", "private_segment_fixed_size": "bytes of scratch memory"}
    usage = {name: int(re.findall(rf"\.{name}:\s+(\d+)", text)[-1]) for name in ("vgpr_count", *memory_spills)}
    spills = [f"{usage[name]} {what}" for name, what in memory_spills.items() if usage[name]]
    return usage["vgpr_count"], ", ".join(spills)


def resident_programs(chip: Chip, code: Code) -> int:
    """The number of programs that a multiprocessor holds at once."""
    registers = -(-max(code.registers, 1) // REGISTER_STEP) * REGISTER_STEP
    warps = min(chip.warps, PARTITIONS * (PARTITION_REGISTERS // registers))
    limits = [chip.programs, warps // code.warps]
    if taken := code.shared + chip.reserved_shared:
        limits.append(chip.shared // taken)
    if code.tensor_memory:
        limits.append(TENSOR_MEMORY_COLUMNS // code.tensor_memory)
    return min(limits)


def occupancy(chip: Chip, code: Code) -> float:
    """Resident warps as a fraction of those that a multiprocessor can hold."""
    return resident_programs(chip, code) * code.warps / chip.warps
