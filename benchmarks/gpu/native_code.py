"""Compiles the CUDA kernels of csrc/halo for every GPU and checks their code: `python -m benchmarks native-code`.

On each GPU, the kernels are looked at whose shared memory fits there. Their code is lean if nothing is spilled to
memory, and if the inner loop has one tensor-core instruction for each product (so it is there once) and few moves
between registers. nvcc is needed, a GPU is not. Nothing is timed.

    python -m benchmarks native-code                 prints the table
    python -m benchmarks native-code --write FILE    replaces the file's section
    python -m benchmarks native-code --check FILE    fails if that section differs

The exit status is 1 if a kernel is not lean.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

from interconv_kernels._backends.cpp import load_error
from interconv_kernels._backends.cpp.halo import Config, configs

from ..document import add_options, write_or_compare
from .offline import CHIPS, NVIDIA_TOOLS, Chip, Code, occupancy, resident_programs

SOURCE = Path(__file__).parents[2] / "csrc" / "halo"
SECTION = "machine code of csrc/halo"
# Each GPU, and the machine code that runs there, as setup.py builds it.
MACHINE_CODE = {"sm_80": "sm_80", "sm_86": "sm_80", "sm_90": "sm_90", "sm_100": "sm_100", "sm_120": "sm_120"}
DTYPES = ("Bfloat16", "Float16", "Tf32")
VALUE_BYTES = {"Bfloat16": 2, "Float16": 2, "Tf32": 4}
MAX_MOVES = 1  # between registers, for each product


class Engine(NamedTuple):
    """Kernels with one kind of tensor-core instruction."""

    header: str
    kernel: str
    layer: str  # the type that the kernel takes, of (dtype, row of its table)
    instruction: str
    suffix: str  # of the architecture that it is compiled for


ENGINES = {
    "mma.sync": Engine("kernels.h", "halo_layer_kernel", "HaloLayer<{}, kConfigs[{}].config>", "HMMA", ""),
    "wgmma": Engine(
        "warpgroup_kernels.h",
        "warpgroup_layer_kernel",
        "WarpgroupLayer<{}, kWarpgroupConfigs[{}].config>",
        "HGMMA",
        "a",
    ),
}


class Kernel(NamedTuple):
    """A configuration for one dtype on one GPU."""

    chip: Chip
    config: Config
    dtype: str
    code: Code


def compile_for(chip: Chip, name: str) -> list[Kernel]:
    """All kernels of an engine, compiled for a GPU."""
    engine, rows = ENGINES[name], [config for config in configs() if config.engine == name]
    every = "".join(
        f"template __global__ void {engine.kernel}<{dtype}, {row}>({engine.layer.format(dtype, row)});\n"
        for dtype in DTYPES
        for row, config in enumerate(rows)
        if config.value_bytes == VALUE_BYTES[dtype]
    )
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
        source.write_text(f'#include "{engine.header}"\nnamespace interconv::halo {{\n{every}}}\n')
        log = nvcc(f"-arch={chip.name}{engine.suffix}", "-cubin", source, "-o", cubin)
        instructions = {_key(part): count(part, engine.instruction) for part in functions(cubin)}
    kernels = []
    for part in entries(log):
        dtype, row = _key(part)
        kernels.append(Kernel(chip, rows[row], dtype, parse_ptxas(part, rows[row], instructions[dtype, row])))
    return sorted(kernels, key=lambda kernel: (DTYPES.index(kernel.dtype), kernel.config.row))


def nvcc(*arguments: str | Path) -> str:
    """Runs nvcc on code that includes csrc/halo.

    Returns:
        What it and ptxas print.

    Raises:
        RuntimeError: the code does not compile.
    """
    command = ["nvcc", "-O3", "-std=c++20", f"-I{SOURCE}", "-Xptxas", "-v", *arguments]
    log = subprocess.run(command, capture_output=True, text=True, check=False)
    if log.returncode:
        raise RuntimeError(log.stderr)
    return log.stderr


def entries(log: str) -> list[str]:
    """What ptxas printed of each kernel."""
    return log.split("Compiling entry function ")[1:]


def functions(cubin: Path) -> list[str]:
    """The machine code of each kernel."""
    command = [str(NVIDIA_TOOLS / "cuobjdump"), "-sass", str(cubin)]
    sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sass.split("Function : ")[1:]


def _key(text: str) -> tuple[str, int]:
    """(dtype, row of its table) from the mangled name of a kernel."""
    found = re.search(r"_layer_kernelI\w*?\d(Bfloat16|Float16|Tf32)ELi(\d+)E", text)
    assert found is not None, text[:200]
    return found[1], int(found[2])


def count(sass: str, instruction: str) -> dict[str, int]:
    """Tensor-core instructions, moves between registers from the first to the last of them, and between warps."""
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", sass, re.MULTILINE)
    products = [i for i, name in enumerate(names) if name.startswith(f"{instruction}.")]
    inner = names[products[0] : products[-1]] if products else []
    return {
        "mma": len(products),
        "moves": sum(name.startswith(("MOV", "IMAD.MOV")) for name in inner),
        "setmaxnreg": sum(name.startswith("USETMAXREG") for name in names),
    }


class Resources(Protocol):
    """What a row of a table of configurations says of its kernel."""

    @property
    def shared(self) -> int: ...
    @property
    def warps(self) -> int: ...


def parse_ptxas(text: str, config: Resources, instructions: dict[str, int]) -> Code:
    """The resources of a kernel, as ptxas prints them."""
    numbers = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text)
    registers = re.search(r"Used (\d+) registers", text)
    assert numbers is not None
    assert registers is not None
    spills = "" if numbers[1] == numbers[2] == numbers[3] == "0" else numbers[0]
    return Code(int(registers[1]), spills, config.shared, 0, config.warps, instructions)


def faults(kernel: Kernel) -> list[str]:
    """What is not lean."""
    found = [f"spills: {kernel.code.spills}"] if kernel.code.spills else []
    expected = kernel.config.products_in_loop
    if kernel.config.engine == "wgmma":  # all channels of a chunk are unrolled
        expected *= kernel.config.channels // 16
    if kernel.code.instructions["mma"] != expected:
        found.append(f"{kernel.code.instructions['mma']} products, expected {expected}")
    if kernel.code.instructions["moves"] > MAX_MOVES * expected:
        found.append(f"{kernel.code.instructions['moves']} moves between registers in the inner loop")
    if kernel.code.instructions["setmaxnreg"] and kernel.code.registers * kernel.code.warps * 32 != 65536:
        found.append(
            f"moves registers between warps, and starts with {kernel.code.registers} a thread: some would wait"
        )
    return found


def table(kernels: list[Kernel]) -> str:
    """Registers a thread, and programs that a multiprocessor holds at once with the share of its warps."""
    chips = list(dict.fromkeys(kernel.chip for kernel in kernels))
    lines = ["| configuration | shared memory, KB | " + " | ".join(chip.name for chip in chips) + " |"]
    lines.append("|---|---:|" + "---|" * len(chips))
    for config in configs():
        cells = [config.name, f"{config.shared / 1024:.0f}"]
        for chip in chips:
            codes = [kernel.code for kernel in kernels if (kernel.chip, kernel.config) == (chip, config)]
            cells.append(occupancy_cell(chip, codes) if codes else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def occupancy_cell(chip: Chip, codes: Sequence[Code]) -> str:
    """For the dtype that takes most registers: these, and how many programs a multiprocessor holds."""
    code = max(codes, key=lambda code: code.registers)
    programs = resident_programs(chip, code)
    return f"{code.registers}, {programs} x {code.warps} warps ({occupancy(chip, code):.0%})"


def main(argv: list[str]) -> int:
    """The command; the exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks native-code", description=(__doc__ or "").split("\n")[0])
    add_options(parser)
    options = parser.parse_args(argv)
    if (reason := load_error()) is not None:
        parser.error(reason)
    names = list(dict.fromkeys(MACHINE_CODE.values()))
    with ThreadPoolExecutor(2) as pool:
        warpgroups = pool.submit(compile_for, CHIPS["sm_90"], "wgmma")
        found = pool.map(lambda name: compile_for(CHIPS[name], "mma.sync"), names)
        compiled = dict(zip(names, found, strict=True))
    compiled["sm_90"] += warpgroups.result()
    every = [k._replace(chip=CHIPS[gpu]) for gpu, code in MACHINE_CODE.items() for k in compiled[code]]
    kernels = [kernel for kernel in every if kernel.config.shared <= kernel.chip.program_shared]
    wrong = 0
    for kernel in kernels:
        for fault in faults(kernel):
            wrong = 1
            print(f"{kernel.config.name}, {kernel.dtype}, {kernel.chip.name}: {fault}", file=sys.stderr)
    content = table(kernels)
    if options.write or options.check:
        changes = write_or_compare(options, {SECTION: content})
        print(changes, end="", file=sys.stderr)
        wrong |= bool(changes)
    else:
        print(content, end="")
    return wrong
