"""Checks the machine code of CUDA kernels for what tests on the CPU cannot see: `python -m benchmarks native-lint`.

    python -m benchmarks native-lint csrc/halo/ops.cu            compiles for sm_80, sm_90a and sm_120, and checks
    python -m benchmarks native-lint kernel.cu --arch sm_90a
    python -m benchmarks native-lint kernel.ptx                  checks PTX, and what ptxas makes of it

In the PTX, on every path through the kernel:

* wgmma: a fence before the first, and after each write to its registers; each committed and waited for before its
  accumulators, or its operands in registers, are touched, and before the kernel ends.
* cp.async: each copy committed and waited for before the kernel ends. After a wait, a barrier before shared memory is
  read. No read of shared memory (ld, ldmatrix, wgmma) after copies of which no path waits for any.
* The async proxy: what was written to shared memory (st, stmatrix, cp.async when it is waited for) and then published
  by a barrier is fenced (fence.proxy.async), and a barrier follows the fence, before wgmma or a bulk copy reads it.
* Barriers: one number of threads for each id, a multiple of 32, at most the block; an arrive has a sync. An mbarrier is
  initialised, then fenced and published by a barrier before it is used; the result of a wait decides a branch.

Addresses are not followed: which stage of a ring is read while another is written is for the emulator and for
compute-sanitizer. In the machine code: no spills, wgmma not serialised, copies and waits still there.

The exit status is 1 if something is found.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import triton

from .offline import parse_cuobjdump
from .ptx import REGISTER, Function, Instruction, parse, states

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"  # of NVIDIA, in Triton's wheel
ARCHITECTURES = ("sm_80", "sm_90a", "sm_120")
MAX_GROUPS = 8  # older groups are joined
BARRIERS = ("bar.sync", "bar.red", "barrier.sync", "barrier.cta.sync", "barrier.cluster.wait")
WAITS = ("mbarrier.try_wait", "mbarrier.test_wait")
SHARED_WRITES = ("st.shared", "stmatrix", "red.shared", "atom.shared", "st.weak.shared", "st.volatile.shared")
SHARED_READS = ("ld.shared", "ldmatrix", "wgmma.mma_async", "ld.volatile.shared")
BULK_READS = ("cp.async.bulk.global.shared", "cp.async.bulk.tensor")  # the latter also writes: see _reads_async


class Paths(NamedTuple):
    """What may have happened, and what must have, on the paths to an instruction."""

    fenced: bool = False  # must: a wgmma.fence
    dirty: frozenset[str] = frozenset()  # registers of wgmma that were written after it
    open: frozenset[str] = frozenset()  # registers of wgmma that are not committed
    groups: tuple[frozenset[str], ...] = ()  # those of committed groups that were not waited for, the oldest first
    uncommitted: bool = False  # copies
    in_flight: bool = False  # committed copies that were not waited for
    copied: bool = False
    waited: bool = False  # copies were waited for
    landed: bool = False  # copies were waited for, and no barrier followed
    written: bool = False  # shared memory was written, and neither fence nor barrier followed
    unfenced: bool = False  # ... a barrier followed, no fence
    unpublished: bool = False  # ... a fence followed, and no barrier
    initialised: bool = False  # an mbarrier was, and neither a fence nor a barrier followed
    init_fenced: bool = False  # ... a fence followed, and no barrier

    @property
    def pending(self) -> frozenset[str]:
        return self.open.union(*self.groups)


def join(a: Paths, b: Paths) -> Paths:
    """Both paths are possible."""
    longest = max(len(a.groups), len(b.groups))
    first, second = ((frozenset[str](),) * (longest - len(x.groups)) + x.groups for x in (a, b))
    return Paths(
        fenced=a.fenced and b.fenced,
        dirty=a.dirty | b.dirty,
        open=a.open | b.open,
        groups=tuple(x | y for x, y in zip(first, second, strict=True)),
        **{name: getattr(a, name) or getattr(b, name) for name in MAY},
    )


MAY = (
    "uncommitted",
    "in_flight",
    "copied",
    "waited",
    "landed",
    "written",
    "unfenced",
    "unpublished",
    "initialised",
    "init_fenced",
)


def operands_of(instruction: Instruction) -> frozenset[str]:
    """The registers that a wgmma uses while it runs: accumulators, and A if it is in registers."""
    lists = [operand for operand in instruction.operands[:2] if operand.startswith("{")]
    return frozenset(register for operand in lists for register in REGISTER.findall(operand))


class Kernel:
    """The rules for one function."""

    def __init__(self, function: Function, max_threads: int | None = None):
        self.function, self.max_threads = function, max_threads
        multiplies = [i for i in function.instructions if i.opcode.startswith("wgmma.mma_async")]
        self.registers = frozenset[str]().union(*map(operands_of, multiplies))

    def faults(self) -> list[str]:
        """What is wrong, with the line."""
        lines: dict[str, list[int]] = {}
        for state, instruction in states(self.function, Paths(), self.step, join):
            for fault in self.check(state, instruction):
                lines.setdefault(fault, []).append(instruction.line)
        name = self.function.name
        return [
            f"{name}, line {numbers[0]}: {fault}{f' ({len(numbers)} times)' if len(numbers) > 1 else ''}"
            for fault, numbers in lines.items()
        ] + [f"{name}: {fault}" for fault in self.barrier_faults()]

    # --- one instruction ---

    def step(self, s: Paths, i: Instruction) -> Paths:
        """The state after an instruction."""
        if i.opcode.startswith("wgmma.fence"):
            return s._replace(fenced=True, dirty=frozenset())
        if i.opcode.startswith("wgmma.mma_async"):
            return s._replace(open=s.open | operands_of(i))
        if i.opcode.startswith("wgmma.commit_group"):
            groups = (*s.groups, s.open)
            if len(groups) > MAX_GROUPS:
                groups = (groups[0] | groups[1], *groups[2:])
            return s._replace(open=frozenset(), groups=groups)
        if i.opcode.startswith("wgmma.wait_group"):
            left = int(i.operands[0], 0)
            return s._replace(groups=s.groups[len(s.groups) - left :] if left < len(s.groups) else s.groups)
        if i.opcode.startswith("cp.async"):
            return self._copy(s, i)
        if i.opcode.startswith("fence.proxy.async"):
            fenced = s.written or s.unfenced or s.unpublished
            s = s._replace(written=False, unfenced=False, unpublished=fenced)
        if i.opcode.startswith(("fence.proxy.async", "fence.mbarrier_init")):
            return s._replace(init_fenced=s.init_fenced or s.initialised, initialised=False)
        if i.opcode.startswith((*BARRIERS, *WAITS)):
            return s._replace(
                landed=False, written=False, unfenced=s.unfenced or s.written, unpublished=False, init_fenced=False
            )
        if i.opcode.startswith("mbarrier.init"):
            return s._replace(initialised=True)
        if i.opcode.startswith(SHARED_WRITES):
            s = s._replace(written=True)
        touched = i.writes & self.registers
        return s._replace(dirty=s.dirty | touched) if touched else s

    def _copy(self, s: Paths, i: Instruction) -> Paths:
        if i.opcode.startswith("cp.async.commit_group"):
            return s._replace(uncommitted=False, in_flight=s.in_flight or s.uncommitted)
        if i.opcode.startswith(("cp.async.wait_group", "cp.async.wait_all")):
            everything = i.opcode.startswith("cp.async.wait_all")
            none_left = everything or int(i.operands[0], 0) == 0
            return s._replace(
                in_flight=s.in_flight and not none_left,
                uncommitted=s.uncommitted and not everything,
                waited=True,
                landed=s.copied,
                written=s.written or s.copied,
            )
        if i.opcode.startswith("cp.async.c"):  # .ca and .cg
            return s._replace(uncommitted=True, copied=True)
        return s

    def check(self, s: Paths, i: Instruction) -> Iterator[str]:
        """What is wrong with an instruction in a state."""
        if i.opcode.startswith("wgmma.mma_async"):
            if not s.fenced:
                yield "wgmma without a wgmma.fence before it"
            elif dirty := operands_of(i) & s.dirty:
                yield f"wgmma uses {min(dirty)}, which was written after the last wgmma.fence"
        elif touched := (i.reads | i.writes) & s.pending & self.registers:
            how = "committed" if touched & s.open else "waited for"
            yield f"{i.opcode} touches {min(touched)} of a wgmma that is not {how}"
        if _reads_async(i):
            if s.unfenced:
                yield f"{i.opcode} reads shared memory that was written without a fence.proxy.async"
            elif s.unpublished:
                yield f"{i.opcode} reads shared memory, and no barrier follows the fence.proxy.async"
        if i.opcode.startswith(SHARED_READS):
            if s.landed:
                yield f"{i.opcode} reads shared memory after a wait for copies, without a barrier"
            if s.copied and not s.waited:
                yield f"{i.opcode} reads shared memory, and no copy was ever waited for"
        if i.opcode.startswith(("mbarrier.arrive", "mbarrier.expect_tx", *WAITS, "cp.async.bulk")):
            if s.initialised:
                yield f"{i.opcode} after mbarrier.init without a fence"
            elif s.init_fenced:
                yield f"{i.opcode} after mbarrier.init without a barrier"
        if i.opcode.startswith(("ret", "exit")):
            yield from self._unfinished(s)

    def _unfinished(self, s: Paths) -> Iterator[str]:
        if s.pending:
            yield "the kernel can end before a wgmma is waited for"
        if s.uncommitted:
            yield "the kernel can end with copies (cp.async) that are not committed"
        if s.in_flight:
            yield "the kernel can end with copies (cp.async) in flight"

    # --- all barriers together ---

    def barrier_faults(self) -> Iterator[str]:
        """What is wrong with the barriers as a whole."""
        threads: dict[str, set[str]] = {}
        arrives: set[str] = set()
        syncs: set[str] = set()
        for i in self.function.instructions:
            if i.opcode.startswith(("bar.", "barrier.")) and "cluster" not in i.opcode and "warp" not in i.opcode:
                threads.setdefault(i.operands[0], set()).add(i.operands[1] if len(i.operands) > 1 else "all")
                (arrives if "arrive" in i.opcode else syncs).add(i.operands[0])
        for name, counts in threads.items():
            if len(counts) > 1:
                yield f"barrier {name} is used with {' and '.join(sorted(counts))} threads"
            for count in filter(str.isdigit, counts):
                if int(count) % 32 or (self.max_threads and int(count) > self.max_threads):
                    yield f"barrier {name} waits for {count} threads: expected warps of the block's {self.max_threads}"
            if name.isdigit() and int(name) > 15:
                yield f"barrier {name}: expected 0 to 15"
        for name in arrives - syncs:
            yield f"barrier {name}: an arrive without a sync"
        opcodes = Counter(
            i.opcode.split(".")[0] + "." + i.opcode.split(".")[1] for i in self.function.instructions if "." in i.opcode
        )
        if (opcodes["mbarrier.arrive"] or opcodes["mbarrier.try_wait"]) and not opcodes["mbarrier.init"]:
            yield "an mbarrier is used and never initialised"
        guards = {i.guard for i in self.function.instructions if i.opcode.startswith("bra")}
        used = guards | {
            r
            for i in self.function.instructions
            if i.opcode.startswith(("selp", "and", "or", "not", "xor"))
            for r in i.reads
        }
        for i in self.function.instructions:
            if (
                i.opcode.startswith(WAITS)
                and not i.writes & used
                and not any(name in guards for name in i.operands[:1])
            ):
                yield f"line {i.line}: the result of {i.opcode} decides no branch"


def _reads_async(i: Instruction) -> bool:
    """Whether it reads shared memory through the async proxy."""
    return i.opcode.startswith("wgmma.mma_async") or (i.opcode.startswith(BULK_READS) and ".global.shared" in i.opcode)


# --- files ------------------------------------------------------------------------------------------------------------


def ptx_faults(text: str) -> list[str]:
    """What is wrong in PTX."""
    sizes = {
        name: int(x) * int(y or 1) * int(z or 1)
        for name, x, y, z in re.findall(
            r"\.entry\s+([\w$]+)\([^{]*?\.(?:max|req)ntid\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?", text
        )
    }
    return [fault for function in parse(text) for fault in Kernel(function, sizes.get(function.name)).faults()]


def sass_faults(sass: str) -> list[str]:
    """What is wrong in machine code as `cuobjdump -sass` prints it."""
    found = []
    for part in re.split(r"Function : ", sass)[1:]:
        name = part.split()[0]
        opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.\w+)*)", part)
        count = Counter(opcode for opcode, _ in opcodes)
        groups = Counter(rest.split(".")[1] for opcode, rest in opcodes if opcode == "WARPGROUP" and rest)
        rules = {
            "spills to local memory": count["LDL"] or count["STL"],
            "HGMMA without WARPGROUP.ARRIVE": count["HGMMA"] and not groups["ARRIVE"],
            "HGMMA without WARPGROUP.DEPBAR": count["HGMMA"] and not groups["DEPBAR"],
            "every HGMMA is waited for: ptxas serialised them": count["HGMMA"] > 1
            and groups["DEPBAR"] >= count["HGMMA"],
            "LDGSTS without LDGDEPBAR": count["LDGSTS"] and not count["LDGDEPBAR"],
            "LDGSTS without DEPBAR": count["LDGSTS"] and not count["DEPBAR"],
            "HGMMA reads shared memory that is written, without FENCE.VIEW.ASYNC": count["HGMMA"]
            and (count["STS"] or count["LDGSTS"])
            and not count["FENCE"],
        }
        found += [f"{name}: {fault}" for fault, is_so in rules.items() if is_so]
    return found


def cubin_faults(cubin: Path) -> list[str]:
    """What is wrong in compiled machine code."""
    usage = _run(TOOLS / "cuobjdump", "-res-usage", cubin)
    found = sass_faults(_run(TOOLS / "cuobjdump", "-sass", cubin))
    for name, numbers in re.findall(r"Function (\S+):\s*\n\s*(.*)", usage):
        if spills := parse_cuobjdump(numbers)[1]:
            found.append(f"{name}: spills {spills}")
    return found


def check_file(source: Path, architectures: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    """What is wrong in a .cu or .ptx file, by architecture."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in architectures:
            ptx, cubin = Path(folder) / f"{name}.ptx", Path(folder) / f"{name}.cubin"
            if source.suffix == ".ptx":
                ptx.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
                log = _run(TOOLS / "ptxas", f"-arch={name}", ptx, "-o", cubin)
            else:
                _run("nvcc", "-std=c++20", "-O3", f"-arch={name}", *options, "-ptx", source, "-o", ptx)
                log = _run("ptxas", f"-arch={name}", "-O3", ptx, "-o", cubin)
            faults = ptx_faults(ptx.read_text(encoding="utf-8")) + cubin_faults(cubin)
            faults += [line for line in log.splitlines() if "serialized" in line]
            found += [f"{name}: {fault}" for fault in faults]
    return found


def _run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join(map(str, command))}\n{done.stderr or done.stdout}")
    return done.stdout + done.stderr


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles and checks; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks native-lint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".cu or .ptx")
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES, metavar="SM", help="default: %(default)s")
    parser.add_argument(
        "--option", action="append", default=[], metavar="TEXT", help="of nvcc, such as --option=-Ifolder"
    )
    arguments = parser.parse_args(argv)
    found = [fault for file in arguments.files for fault in check_file(file, arguments.arch, arguments.option)]
    print("\n".join(found) if found else f"nothing found in {', '.join(map(str, arguments.files))}")
    return 1 if found else 0
