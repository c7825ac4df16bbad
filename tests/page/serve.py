"""Serves the page with the test double: python serve.py STORE PORT EXAMPLE."""

import sys
from pathlib import Path

from interconv_seg.page import server
from interconv_seg.page.workspace import Source, Workspace
from page_common import follower

store, port, name = sys.argv[1:]
workspace = Workspace(Path(store), follower)
source = Source("example", name, (name,)) if name != "-" else None
server.run(workspace, source, server.Address(port=int(port)), browser=False, say=lambda text: print(text, flush=True))
