"""`interconv segment`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_command, add_device, add_grouping, add_runs, add_sets_of, device_of, positive_int

EXAMPLE = """\
  interconv segment runs/interconv/seed* --data new_patient/ --out masks/
  interconv segment runs/clicks/seed0 --data slides/ --prompts slides/prompts/ --out masks/"""


def add(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = add_command(subparsers, "segment", run, "segment the images of a folder, each set together", EXAMPLE)
    add_runs(parser)
    parser.add_argument(
        "--data",
        metavar="PATH",
        required=True,
        help="images as for `interconv train`",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the masks, which are named as the images")
    parser.add_argument("--overwrite", action="store_true", help="replace masks of an earlier call in OUT")
    parser.add_argument(
        "--max-set-size",
        metavar="K",
        type=positive_int,
        help="divide larger sets (default: the largest set in training)",
    )
    add_sets_of(parser, "as in training")
    parser.add_argument(
        "--slices", metavar="WHICH", default="all", help="slices of volumes, as for `interconv train` (default: all)"
    )
    parser.add_argument(
        "--prompts",
        metavar="FOLDER",
        type=Path,
        help="for runs in interactive mode: folder of files named as the images and of their size, 1 at positive"
        " prompts, 2 at negative ones and, if the network takes boxes, 3 at pixels of a box; an image without a file"
        " has no prompts",
    )
    add_grouping(parser)
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Segments set by set."""
    from tqdm import tqdm

    from ..data import check_outputs, prompt_files, read, read_prompts, select_slices, write_masks
    from ..inference import Ensemble, check_mode, segment

    ensemble = Ensemble.open(args.runs, device_of(args))
    check_mode(ensemble.config, args.prompts is not None)
    config = ensemble.config
    collection = select_slices(read(args.data, config.axis, args.group_regex or config.group_regex), args.slices)
    rule = args.sets_of or config.rule
    sets = collection.sets(rule)
    max_set_size = args.max_set_size or (config.set_sizes and config.set_sizes[1])
    if args.out.resolve() == Path(args.data).resolve():
        raise ValueError(f"--out {args.out}: is the folder of the images, expected another for the masks")
    drawn = [] if args.prompts is None else prompt_files(args.prompts, collection.scans)
    check_outputs(args.out, collection.scans, args.overwrite, drawn)
    files = []
    for scans in tqdm(sets, desc="segmenting", unit="set", disable=None, leave=False):
        prompts = (
            None if args.prompts is None else [read_prompts(args.prompts, scan, config.boxes > 0) for scan in scans]
        )
        masks = [found.mask for found in segment(ensemble, scans, prompts, max_set_size)]
        files += write_masks(args.out, scans, masks, overwrite=True)  # checked above
    sets_of = f"{len(sets)} set{'s' * (len(sets) != 1)} ({rule})"
    limit = "" if max_set_size is None else f", at most {max_set_size} together"
    print(f"{len(collection.scans)} images in {sets_of}{limit}: {len(files)} masks in {args.out}")
    return 0
