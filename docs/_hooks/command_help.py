"""Replaces `<!-- help: COMMAND -->` in a page by what `COMMAND --help` prints, when the site is built.

COMMAND is `interconv`, or a module as `python -m NAME`, with a subcommand or without.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from typing import Any

from mkdocs.exceptions import PluginError

MARKER = re.compile(r"^<!-- help: (.+) -->$", re.MULTILINE)
INTERCONV = [sys.executable, "-c", "import sys; from interconv_seg.cli import main; sys.exit(main())"]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return MARKER.sub(lambda match: f"```text\n{help_of(match[1])}```", markdown)


@cache
def help_of(command: str) -> str:
    """The text of `command --help`, 96 columns wide and without colours."""
    words = command.split()
    start = [*INTERCONV, *words[1:]] if words[0] == "interconv" else [sys.executable, *words[1:]]
    environment = {**os.environ, "COLUMNS": "96", "NO_COLOR": "1"}
    done = subprocess.run([*start, "--help"], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PluginError(f"{command} --help: exit status {done.returncode}\n{done.stderr}")
    return done.stdout
