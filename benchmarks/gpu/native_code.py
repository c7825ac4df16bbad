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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from interconv_kernels._backends.cpp import load_error
from interconv_kernels._backends.cpp.halo import Config, configs

from ..document import difference, write_section
from .offline import CHIPS, NVIDIA_TOOLS, Chip, Code, occupancy, resident_programs

SOURCE = Path(__file__).parents[2] / "csrc" / "halo"
SECTION = "machine code of csrc/halo"
# Each GPU, and the machine code that runs there, as setup.py builds it.
MACHINE_CODE = {"sm_80": "sm_80", "sm_86": "sm_80", "sm_90": "sm_90", "sm_100": "sm_100", "sm_120": "sm_120"}
DTYPES = ("Bfloat16", "Float16")
MAX_MOVES = 1  # between registers, for each product


class Kernel(NamedTuple):
    """A configuration for one dtype on one GPU."""

    chip: Chip
    config: Config
    dtype: str
    code: Code


def compile_for(chip: Chip) -> list[Kernel]:
    """All kernels, compiled for a GPU."""
    names = [f"halo_layer_kernel<{dtype}, {config.row}>" for dtype in DTYPES for config in configs()]
    types = [f"HaloLayer<{dtype}, kConfigs[{config.row}].config>" for dtype in DTYPES for config in configs()]
    every = "".join(f"template __global__ void {n}({t});\n" for n, t in zip(names, types, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
        source.write_text(f'#include "kernels.h"\nnamespace interconv::halo {{\n{every}}}\n')
        command = ["nvcc", "-O3", "-std=c++20", f"-I{SOURCE}", f"-arch={chip.name}", "-cubin", "-Xptxas", "-v"]
        log = subprocess.run([*command, source, "-o", cubin], capture_output=True, text=True, check=False)
        if log.returncode:
            raise RuntimeError(log.stderr)
        sass = subprocess.run(
            [NVIDIA_TOOLS / "cuobjdump", "-sass", cubin], capture_output=True, text=True, check=True
        ).stdout
    instructions = {_key(part): count(part) for part in sass.split("Function : ")[1:]}
    kernels = []
    for part in re.split(r"Compiling entry function ", log.stderr)[1:]:
        dtype, row = _key(part)
        config = configs()[row]
        kernels.append(Kernel(chip, config, dtype, parse_ptxas(part, config, instructions[dtype, row])))
    return sorted(kernels, key=lambda kernel: (DTYPES.index(kernel.dtype), kernel.config.row))


def _key(text: str) -> tuple[str, int]:
    """(dtype, row of the table) from the mangled name of a kernel."""
    found = re.search(r"halo_layer_kernelI\w*?\d(Bfloat16|Float16)ELi(\d+)E", text)
    assert found is not None, text[:200]
    return found[1], int(found[2])


def count(sass: str) -> dict[str, int]:
    """Tensor-core instructions, and moves between registers from the first to the last of them."""
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", sass, re.MULTILINE)
    products = [i for i, name in enumerate(names) if name.startswith("HMMA.")]
    inner = names[products[0] : products[-1]] if products else []
    return {"mma": len(products), "moves": sum(name.startswith(("MOV", "IMAD.MOV")) for name in inner)}


def parse_ptxas(text: str, config: Config, instructions: dict[str, int]) -> Code:
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
    if kernel.code.instructions["mma"] != kernel.config.products_in_loop:
        found.append(f"{kernel.code.instructions['mma']} products, expected {kernel.config.products_in_loop}")
    if kernel.code.instructions["moves"] > MAX_MOVES * kernel.config.products_in_loop:
        found.append(f"{kernel.code.instructions['moves']} moves between registers in the inner loop")
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
            code = max(codes, key=lambda code: code.registers, default=None)
            if code is None:
                cells.append("-")
            else:
                programs = resident_programs(chip, code)
                cells.append(f"{code.registers}, {programs} x {code.warps} warps ({occupancy(chip, code):.0%})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    """The command; the exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks native-code", description=(__doc__ or "").split("\n")[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--write", metavar="FILE", type=Path, help="replace the section of a document")
    group.add_argument("--check", metavar="FILE", type=Path, help="fail if the section of a document differs")
    options = parser.parse_args(argv)
    if (reason := load_error()) is not None:
        parser.error(reason)
    names = list(dict.fromkeys(MACHINE_CODE.values()))
    with ThreadPoolExecutor(2) as pool:
        compiled = dict(zip(names, pool.map(compile_for, map(CHIPS.__getitem__, names)), strict=True))
    every = [k._replace(chip=CHIPS[gpu]) for gpu, code in MACHINE_CODE.items() for k in compiled[code]]
    kernels = [kernel for kernel in every if kernel.config.shared <= kernel.chip.program_shared]
    wrong = 0
    for kernel in kernels:
        for fault in faults(kernel):
            wrong = 1
            print(f"{kernel.config.name}, {kernel.dtype}, {kernel.chip.name}: {fault}", file=sys.stderr)
    content = table(kernels)
    if options.write:
        write_section(options.write, SECTION, content)
    elif options.check:
        changes = difference(options.check, SECTION, content)
        print(changes, end="", file=sys.stderr)
        wrong |= bool(changes)
    else:
        print(content, end="")
    return wrong
