"""Triton kernels compiled for GPUs that are not here, as the launchers launch them.

`record` runs code that launches kernels, on meta tensors (shapes without memory), and keeps each launch instead of
making it; `compile_for` compiles a recorded launch as triton would on that GPU. So what is examined is what the
launchers launch: there is no second list of their arguments.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from interconv_kernels.sets import SetIndex

META = torch.device("meta")


class Chip(NamedTuple):
    """What a multiprocessor (SM; AMD: compute unit) holds at once."""

    name: str
    backend: str
    arch: int | str
    lanes: int  # threads a warp
    warps: int
    programs: int  # resident thread blocks
    shared: int  # bytes
    program_shared: int  # bytes, of one program at most
    reserved_shared: int  # bytes that the system takes for each program
    tensor_core: str  # the instruction of INSTRUCTIONS that its matrix products are made of

    @property
    def target(self) -> GPUTarget:
        return GPUTarget(self.backend, self.arch, self.lanes)

    @property
    def has_tma(self) -> bool:
        return self.backend == "cuda" and int(self.arch) >= 90


# NVIDIA: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability" (8.0, 9.0, 10.0, 12.0).
# AMD: CDNA3 ISA reference and LLVM's AMDGPU backend (8 waves on each of 4 SIMDs; 16 workgroups of more than one wave).
KB = 1024
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("sm_80", "cuda", 80, 32, 64, 32, 164 * KB, 163 * KB, KB, "mma"),
        Chip("sm_90", "cuda", 90, 32, 64, 32, 228 * KB, 227 * KB, KB, "wgmma"),
        Chip("sm_100", "cuda", 100, 32, 64, 32, 228 * KB, 227 * KB, KB, "tcgen05"),
        Chip("sm_120", "cuda", 120, 32, 48, 24, 100 * KB, 99 * KB, KB, "mma"),
        Chip("gfx942", "hip", "gfx942", 64, 32, 16, 64 * KB, 64 * KB, 0, "mfma"),
    )
}
# Both makers: four partitions with 512 registers for each lane, given to warps in steps of 8 registers a lane.
PARTITIONS, PARTITION_REGISTERS, REGISTER_STEP = 4, 512, 8
TENSOR_MEMORY_COLUMNS = 512  # of a multiprocessor of sm_100

# As they are spelled in PTX and in AMD's assembly.
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
    """A compiled kernel."""

    registers: int  # of a thread
    spills: str  # what is kept in memory for want of registers; "" if nothing is
    shared: int  # bytes of a program
    tensor_memory: int  # columns of a program (sm_100)
    warps: int
    instructions: dict[str, int]  # how often each of INSTRUCTIONS stands in the code


class Launch(NamedTuple):
    """A launch that was recorded instead of made."""

    function: Any  # the triton.jit function
    programs: int
    positional: tuple[Any, ...]
    named: dict[str, Any]  # constants, and triton's options

    @property
    def kernel(self) -> str:
        return self.function.__name__

    @property
    def arguments(self) -> dict[str, Any]:
        """By name: tensors, integers, constants and options."""
        return dict(zip(self.function.arg_names, self.positional, strict=False)) | self.named


class _Driver:
    """What triton asks of a driver before it compiles, answered for a chip that is not here."""

    def __init__(self, chip: Chip):
        self.chip = chip

    def get_current_target(self) -> GPUTarget:
        return self.chip.target

    def get_current_device(self) -> str:
        return self.chip.name

    def get_current_stream(self, device: str) -> int:
        return 0


def record(chip: Chip, work: Callable[[], object]) -> list[Launch]:
    """The launches that `work` would make on the chip, in order. Its tensors are meta tensors."""
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
    """The machine code that the launch would run: triton's own choice of specialisation and options."""
    driver.set_active(_Driver(chip))
    try:
        return read(chip, launch.function.run(*launch.positional, grid=None, warmup=True, **launch.named))
    finally:
        driver._active = None  # triton looks for a GPU again when it next needs one


@contextmanager
def float32_as(precision: str) -> Iterator[None]:
    """float32 multiplied as "ieee" or "tf32" by torch's own switch, which the launchers read."""
    switch = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = switch.fp32_precision
    switch.fp32_precision = precision
    try:
        yield
    finally:
        switch.fp32_precision = before


def maps(rows: int, channels: int, height: int, width: int, dtype: torch.dtype, channels_last: bool = True) -> Tensor:
    """[rows, channels, height, width] on no memory."""
    fmt = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(rows, channels, height, width, dtype=dtype, device=META, memory_format=fmt)


def index(lengths: Sequence[int]) -> SetIndex:
    """Sets of these sizes, without memory."""
    offsets, ids = (torch.empty(n, dtype=torch.int32, device=META) for n in (len(lengths) + 1, sum(lengths)))
    return SetIndex(offsets, ids)


# --- reading the code -------------------------------------------------------------------------------------------------


def read(chip: Chip, compiled: Any) -> Code:
    """What a kernel that triton compiled needs, and what stands in it."""
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
    """The resources that NVIDIA's tool (it comes with triton) reads from machine code."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout


def parse_cuobjdump(text: str) -> tuple[int, str]:
    """(registers, spills) of `REG:96 STACK:0 SHARED:0 LOCAL:0 ...`. Stack and local memory are bytes of a thread."""
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    spills = [f"{usage[name]} bytes of {name.lower()} memory" for name in ("STACK", "LOCAL") if usage[name]]
    return usage["REG"], ", ".join(spills)


def parse_amdgcn(text: str) -> tuple[int, str]:
    """(vector registers, spills) of the metadata at the end of AMD's assembly.

    Scalar registers spill to lanes of vector registers, which are counted with the others: no memory is needed.
    """
    what_spills = {"vgpr_spill_count": "vector registers", "private_segment_fixed_size": "bytes of scratch memory"}
    usage = {name: int(re.findall(rf"\.{name}:\s+(\d+)", text)[-1]) for name in ("vgpr_count", *what_spills)}
    spills = [f"{usage[name]} {what}" for name, what in what_spills.items() if usage[name]]
    return usage["vgpr_count"], ", ".join(spills)


def resident_programs(chip: Chip, code: Code) -> int:
    """How many programs a multiprocessor holds at once."""
    registers = -(-max(code.registers, 1) // REGISTER_STEP) * REGISTER_STEP
    warps = min(chip.warps, PARTITIONS * (PARTITION_REGISTERS // registers))
    limits = [chip.programs, warps // code.warps]
    if taken := code.shared + chip.reserved_shared:
        limits.append(chip.shared // taken)
    if code.tensor_memory:
        limits.append(TENSOR_MEMORY_COLUMNS // code.tensor_memory)
    return min(limits)


def occupancy(chip: Chip, code: Code) -> float:
    """Resident warps as a share of those that a multiprocessor can hold."""
    return resident_programs(chip, code) * code.warps / chip.warps
