"""Compiles the weight gradient's CUDA kernels for every GPU and checks them: `python -m benchmarks gradient-code`.

The code of a kernel is lean if nothing is spilled to memory, if every GPU has as much shared memory as it takes, if
each multiprocessor holds as many programs as the table of configurations asks for where memory allows it, and if it has
one tensor-core instruction for each product of its inner loop, so that no loop is there twice. nvcc is needed, a GPU is
not. Nothing is timed.

    python -m benchmarks gradient-code                 prints the table
    python -m benchmarks gradient-code --write FILE    replaces the file's section
    python -m benchmarks gradient-code --check FILE    fails if that section differs

The exit status is 1 if a kernel is not lean.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ..document import add_options, write_or_compare
from .native_code import MACHINE_CODE, count, entries, functions, nvcc, occupancy_cell, parse_ptxas
from .offline import CHIPS, Chip, Code, resident_programs

SECTION = "machine code of the weight gradient"
DTYPES = ("Bfloat16", "Float16")
CODE = """#include <cstdio>
#include "weight_gradient_kernels.h"
using namespace interconv::halo;
template <int I>
void row() {
  constexpr WeightGradientConfig X = kWeightGradientConfigs[I].config;
  using Kernel = WeightGradient<Bfloat16, X>;
  printf("%s[\\"%dx%d: %dx%d, %dx%d pixels\\", %d, %d, %d, %d]", I ? ", " : "", X.kernel, X.kernel, X.channels,
         X.columns, X.tile_h(), X.tile_w(), Kernel::kWarps, Kernel::kShared, X.programs,
         Kernel::kTaps * Kernel::NT * X.rows);
}
template <int... I>
void rows(std::integer_sequence<int, I...>) {
  (row<I>(), ...);
}
template <class T, int... I>
void kernels(std::integer_sequence<int, I...>) {
  const void* all[] = {(const void*)weight_gradient_kernel<T, I>..., (const void*)add_partials_kernel<T>};
  (void)all;
}
int main() {
  constexpr auto every = std::make_integer_sequence<int, kNumWeightGradientConfigs>();
  printf("["), rows(every), printf("]");
  kernels<Bfloat16>(every), kernels<Float16>(every);
}
"""


class Row(NamedTuple):
    """A row of csrc/halo/weight_gradient_configs.h."""

    name: str
    warps: int
    shared: int  # bytes of shared memory
    programs: int  # of a multiprocessor
    products: int  # of a warp in its inner loop


def rows_of(source: Path) -> list[Row]:
    """The table, from the kernels' own constants."""
    program = source.with_suffix("")
    nvcc("-arch=sm_80", source, "-o", program)
    found = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return [Row(*fields) for fields in json.loads(found)]


def compile_for(chip: Chip, source: Path, rows: list[Row]) -> dict[tuple[str, int], Code]:
    """The code of each (dtype, row), for a GPU; the kernel that adds up comes after the last row."""
    cubin = source.with_name(f"{chip.name}.cubin")
    log = nvcc(f"-arch={chip.name}", "-cubin", source, "-o", cubin)
    instructions = {_key(part): count(part, "HMMA") for part in functions(cubin)}
    code = {}
    for part in entries(log):
        key = _key(part)
        row = rows[key[1]] if key[1] >= 0 else Row("addition", 8, 1024, 1, 0)
        code[key] = parse_ptxas(part, row, instructions[key])
    return code


def _key(text: str) -> tuple[str, int]:
    """(dtype, row of the table) from the mangled name of a kernel; -1: the one that adds up."""
    found = re.search(r"(?:weight_gradient|add_partials)_kernelI\w*?\d(Bfloat16|Float16)E(?:Li(\d+)E)?", text)
    assert found is not None, text[:200]
    return found[1], int(found[2] or -1)


def faults(chip: Chip, row: Row | None, code: Code) -> list[str]:
    """What is not lean."""
    found = [f"spills: {code.spills}"] if code.spills else []
    if row is None:
        return found
    if code.instructions["mma"] != row.products:
        found.append(f"{code.instructions['mma']} products, expected {row.products}")
    if row.shared > chip.program_shared:
        found.append(f"{row.shared} bytes of shared memory, a program has {chip.program_shared}")
    expected = min(row.programs, chip.shared // (row.shared + chip.reserved_shared))
    if resident_programs(chip, code) < expected:
        found.append(f"{resident_programs(chip, code)} programs, expected {expected}")
    return found


def table(rows: list[Row], compiled: dict[str, dict[tuple[str, int], Code]]) -> str:
    """Registers a thread, and programs that a multiprocessor holds at once with the share of its warps."""
    lines = ["| tiles | shared memory, KB | " + " | ".join(MACHINE_CODE) + " |"]
    lines.append("|---|---:|" + "---|" * len(MACHINE_CODE))
    for i, row in enumerate(rows):
        cells = [row.name, f"{row.shared / 1024:.0f}"]
        for gpu, arch in MACHINE_CODE.items():
            cells.append(occupancy_cell(CHIPS[gpu], [compiled[arch][dtype, i] for dtype in DTYPES]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    """The command; the exit status."""
    parser = argparse.ArgumentParser("python -m benchmarks gradient-code", description=(__doc__ or "").split("\n")[0])
    add_options(parser)
    options = parser.parse_args(argv)
    names = list(dict.fromkeys(MACHINE_CODE.values()))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        source = Path(folder) / "kernels.cu"
        source.write_text(CODE)
        rows = rows_of(source)
        found = pool.map(lambda name: compile_for(CHIPS[name], source, rows), names)
        compiled = dict(zip(names, found, strict=True))
    wrong = 0
    for gpu, arch in MACHINE_CODE.items():
        for (dtype, i), code in compiled[arch].items():
            for fault in faults(CHIPS[gpu], rows[i] if i >= 0 else None, code):
                wrong = 1
                print(f"row {i}, {dtype}, {gpu}: {fault}", file=sys.stderr)
    content = table(rows, compiled)
    if options.write or options.check:
        changes = write_or_compare(options, {SECTION: content})
        print(changes, end="", file=sys.stderr)
        wrong |= bool(changes)
    else:
        print(content, end="")
    return wrong
