"""`interconv page`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_command, add_device, device_of, positive_int

if TYPE_CHECKING:
    from ..interactive import Model

EXAMPLE = """\
  interconv page --example cine
  interconv page scans/ --run runs/clicks/seed0 --out masks/"""


def add(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = add_command(
        subparsers, "page", run, "scribble on one image in the browser, and see the masks of the whole set", EXAMPLE
    )
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        type=Path,
        help="image files, a folder of them, NIfTI volumes, or data as for `interconv train` (default: the page asks)",
    )
    parser.add_argument("--example", choices=("cine", "subjects", "brain"), help="open simulated images instead")
    parser.add_argument(
        "--run",
        dest="runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        default=[],
        help="folders of runs in interactive mode; the probabilities of several are averaged (default: the network of"
        " the package, if it has one; else masks are what is painted)",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for session.json and exports (default: exports are downloaded as a zip)"
    )
    parser.add_argument(
        "--axis",
        choices=("sagittal", "coronal", "axial"),
        default="axial",
        help="plane of the slices of volumes (default: axial)",
    )
    add_device(parser)
    serving = parser.add_argument_group("serving")
    serving.add_argument("--port", type=int, default=0, help="port (default: a free one)")
    serving.add_argument("--host", default="127.0.0.1", help="address to bind to (default: 127.0.0.1)")
    serving.add_argument("--allow-remote", action="store_true", help="allow a --host that other machines can reach")
    serving.add_argument("--no-browser", action="store_true", help="only print the address")
    serving.add_argument("--max-upload", metavar="MB", type=positive_int, default=512, help="default: 512")
    serving.add_argument("--max-images", metavar="N", type=positive_int, default=2000, help="default: 2000")


def run(args: argparse.Namespace) -> int:
    """Serves the page."""
    try:
        from ..page import server
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed: pip install 'interconv-kernels[page,seg]'") from None
    from ..page.workspace import Limits, Source, Workspace, default_store, source_of

    if args.paths and args.example:
        raise ValueError(f"--example {args.example} and {args.paths[0]}: expected one of them")
    for path in args.paths:
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder")
    address = server.Address(args.host, args.port, args.allow_remote)
    source: Source | None = source_of(args.paths) if args.paths else None
    if args.example:
        from ..page.examples import EXAMPLES

        source = Source("example", EXAMPLES[args.example].title, (args.example,))

    def load_model() -> Model | None:
        from ..interactive import Model, default_model

        return Model.open(args.runs, device_of(args)) if args.runs else default_model(device_of(args))

    limits = Limits(args.max_upload * 2**20, args.max_images)
    workspace = Workspace(default_store(), load_model, limits, args.out, args.axis)
    server.run(workspace, source, address, browser=not args.no_browser)
    return 0
