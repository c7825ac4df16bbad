"""Reads PTX: functions, their basic blocks, and an analysis of all paths through them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

LABEL = re.compile(r"([$\w]+):\s*")
REGISTER = re.compile(r"%\w+")
ENTRY = re.compile(r"\.(?:entry|func)\b[^;{]*?([\w$.]+)\s*\(")
# The first operand of every other instruction is its result.
NO_RESULT: tuple[str, ...] = (
    "st.",
    "stmatrix",
    "bar",
    "bra",
    "brx",
    "ret",
    "exit",
    "cp.",
    "red.",
    "fence",
    "membar",
    "wgmma.",
    "call",
)
NO_RESULT += (
    "mbarrier.init",
    "mbarrier.inval",
    "mbarrier.expect_tx",
    "prefetch",
    "trap",
    "griddepcontrol",
    "setmaxnreg",
)
State = TypeVar("State")


class Instruction(NamedTuple):
    """One instruction.

    Attributes:
        line: in the file.
        guard: the predicate register, or "".
        opcode: such as "wgmma.wait_group.sync.aligned".
        operands: separated at the commas outside of brackets.
    """

    line: int
    guard: str
    opcode: str
    operands: tuple[str, ...]

    @property
    def writes(self) -> frozenset[str]:
        """The registers of the result."""
        if not self.operands or self.opcode.startswith(NO_RESULT):
            return frozenset()
        return frozenset(REGISTER.findall(self.operands[0]))

    @property
    def reads(self) -> frozenset[str]:
        """The registers that are read."""
        first = 0 if self.opcode.startswith(NO_RESULT) else 1
        found = [register for operand in self.operands[first:] for register in REGISTER.findall(operand)]
        return frozenset([*found, *[self.guard] * bool(self.guard)])


class Block(NamedTuple):
    """Instructions without a branch before the last, and the blocks that may follow, by index."""

    instructions: list[Instruction]
    successors: list[int]


class Function(NamedTuple):
    """A kernel or a device function."""

    name: str
    blocks: list[Block]

    @property
    def instructions(self) -> Iterator[Instruction]:
        for block in self.blocks:
            yield from block.instructions


def parse(text: str) -> list[Function]:
    """The functions of a PTX file that have a body."""
    text = re.sub(r"/\*.*?\*/", lambda comment: re.sub(r"[^\n]", "", comment[0]), text, flags=re.DOTALL)
    text = re.sub(r"//[^\n]*|^\s*\.(?:loc|file)\b[^\n]*", "", text, flags=re.MULTILINE)
    functions = []
    for match in ENTRY.finditer(text):
        end_of_parameters = _closing(text, match.end() - 1, "()")
        begin = text.find("{", end_of_parameters)
        if begin >= 0 and ";" not in text[end_of_parameters:begin]:
            end = _closing(text, begin, "{}")
            functions.append(Function(match[1], _blocks(text[begin + 1 : end], text.count("\n", 0, begin) + 1)))
    return functions


def _closing(text: str, begin: int, brackets: str) -> int:
    """The position of the bracket that closes the one at `begin`."""
    depth = 0
    for match in re.finditer(f"[{re.escape(brackets)}]", text[begin:]):
        depth += 1 if match[0] == brackets[0] else -1
        if depth == 0:
            return begin + match.start()
    raise ValueError(f"a bracket {brackets[0]} is never closed: expected PTX")


def _blocks(body: str, line: int) -> list[Block]:
    """The basic blocks of a function's body, which begins in that line."""
    parts: list[list[Instruction]] = [[]]
    labels: dict[str, int] = {}
    targets: dict[str, list[str]] = {}  # of indirect branches
    for statement in body.split(";"):
        text, number = (
            statement.lstrip("{} \t\n"),
            line + statement.count("\n", 0, len(statement) - len(statement.lstrip("{} \t\n"))),
        )
        line += statement.count("\n")
        names = []
        while label := LABEL.match(text):
            names.append(label[1])
            text = text[label.end() :].lstrip("{} \t\n")
        if text.startswith(".branchtargets"):
            targets |= {name: [x.strip() for x in text.split(None, 1)[1].split(",")] for name in names}
            continue
        if names:
            if parts[-1]:
                parts.append([])
            labels |= dict.fromkeys(names, len(parts) - 1)
        if not text.strip() or text.startswith("."):
            continue
        instruction = _instruction(text.strip(), number)
        parts[-1].append(instruction)
        if instruction.opcode.startswith(("bra", "brx", "ret", "exit")):
            parts.append([])
    return [Block(part, list(_successors(part, i, len(parts), labels, targets))) for i, part in enumerate(parts)]


def _instruction(text: str, line: int) -> Instruction:
    guard = ""
    if text.startswith("@"):
        guard, text = text[1:].lstrip("!").split(None, 1)
    opcode, _, rest = text.partition(" ") if " " in text.split("\t")[0] else text.partition("\t")
    operands, depth, begin = [], 0, 0
    for i, character in enumerate(rest):
        depth += (character in "{[(") - (character in "}])")
        if character == "," and depth == 0:
            operands.append(rest[begin:i].strip())
            begin = i + 1
    if rest.strip():
        operands.append(rest[begin:].strip())
    return Instruction(line, guard, opcode.strip(), tuple(operands))


def _successors(
    part: list[Instruction], index: int, count: int, labels: dict[str, int], targets: dict[str, list[str]]
) -> Iterator[int]:
    last = part[-1] if part else None
    opcode = last.opcode if last else ""
    if last and opcode.startswith("brx"):
        yield from (labels[name] for name in targets[last.operands[1]])
    elif last and opcode.startswith("bra"):
        yield labels[last.operands[0]]
    falls_through = not opcode.startswith(("bra", "brx", "ret", "exit")) or (last is not None and last.guard)
    if falls_through and index + 1 < count:
        yield index + 1


def states(
    function: Function, start: State, step: Callable[[State, Instruction], State], join: Callable[[State, State], State]
) -> Iterator[tuple[State, Instruction]]:
    """Each reachable instruction with the state before it, joined over all paths that lead there."""
    before: dict[int, State] = {0: start}
    pending = [0]
    while pending:
        index = pending.pop()
        state = before[index]
        for instruction in function.blocks[index].instructions:
            state = step(state, instruction)
        for following in function.blocks[index].successors:
            joined = join(before[following], state) if following in before else state
            if following not in before or joined != before[following]:
                before[following] = joined
                pending.append(following)
    for index, state in sorted(before.items()):
        for instruction in function.blocks[index].instructions:
            yield state, instruction
            state = step(state, instruction)
