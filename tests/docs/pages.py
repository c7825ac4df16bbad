"""The examples of a page: its fenced blocks in `python` and `bash`, with what the comments before them say.

<!-- not run: REASON -->                         the next block is not run
<!-- run with: TEXT => OTHER; TEXT => OTHER -->  in the next block the test replaces TEXT, usually to do less
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "bash"}
# Blocks that are not run: output, diagrams, transcripts; "" is in the tables of `python -m benchmarks table`.
SHOWN = {"text", "console", ""}

_COMMENT = r"^<!-- (?:not run|run with): .* -->$"
_BLOCK = re.compile(
    r"(?:^<!-- (?P<kind>not run|run with): (?P<words>.*) -->\n)?^```(?P<language>.*)\n(?P<code>(?:.*\n)*?)^```$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word after the fence.
        code: its lines, with the replacements of `run with`.
        line: the number of its first line in the page.
        comment: "not run", "run with" or None.
        skipped: the reason of `not run`, or "".
    """

    language: str
    code: str
    line: int
    comment: str | None
    skipped: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page.

    Raises:
        ValueError: a replacement whose text is not in its block, so that a page cannot change without its test; or a
            comment that is not right before a block.
    """
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        kind, words, code = match["kind"], match["words"], match["code"]
        line = text.count("\n", 0, match.start("code")) + 1
        for pair in words.split("; ") if kind == "run with" else ():
            old, arrow, new = pair.partition(" => ")
            if not arrow or old not in code:
                raise ValueError(f"{page}:{line}: {pair!r}: expected TEXT => OTHER with TEXT in the block")
            code = code.replace(old, new)
        found.append(Block(match["language"], code, line, kind, words if kind == "not run" else ""))
    if len(re.findall(_COMMENT, text, re.MULTILINE)) != sum(block.comment is not None for block in found):
        raise ValueError(f"{page}: a comment `not run` or `run with` is not right before a block")
    return found


def examples(page: Path) -> list[Block]:
    """The blocks that are run."""
    return [block for block in blocks(page) if block.language in LANGUAGES and not block.skipped]
