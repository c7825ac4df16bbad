"""Progress as lines of plain text, which a terminal and a log can show."""

from __future__ import annotations

import sys
import time

WIDTH = 20


class Progress:
    """Prints a line for each step to stderr: `[#####...............] 12/48, about 40 s left: what was done`.

    Args:
        total: the number of steps.
    """

    def __init__(self, total: int):
        self.total = total
        self.done = 0
        self.start = time.monotonic()

    def step(self, text: str, count: int = 1) -> None:
        """Counts `count` steps as done, and prints a line."""
        self.done += count
        bar = ("#" * (WIDTH * self.done // self.total)).ljust(WIDTH, ".")
        left = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        self.note(f"[{bar}] {self.done}/{self.total}, about {duration(left)} left: {text}")

    def note(self, text: str) -> None:
        """Prints a line that is not a step."""
        print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Such as "40 s" or "3 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
