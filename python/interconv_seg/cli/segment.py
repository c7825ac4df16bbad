"""`interconv segment`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    add_command,
    add_device,
    add_grouping,
    add_inference,
    add_runs,
    add_sets_of,
    device_of,
    positive_int,
)

if TYPE_CHECKING:
    from ..config import Config
    from ..data import Scan

EXAMPLE = """\
  interconv segment runs/interconv/seed* --data new_patient/ --out masks/
  interconv segment runs/clicks/seed0 --data slides/ --prompts slides/prompts/ --out masks/
  interconv segment runs/interconv/seed* --data slides/ --window 256x256 --tta --save uncertainty --out masks/"""
NAMES_FILE = "labels.json"
MAX_SET_SIZE = 64  # where training took all scans of a subject: the slices of a volume can be hundreds


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
        help=f"divide larger sets (default: the largest set in training; {MAX_SET_SIZE} if it took all of a subject)",
    )
    add_inference(parser)
    parser.add_argument(
        "--save",
        metavar="MAP",
        nargs="+",
        choices=("probabilities", "uncertainty"),
        default=[],
        help="also write maps, in folders of their own: probabilities of classes, uncertainty (their entropy, 0 to 1)",
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

    from interconv_kernels._files import write_text

    from ..data import check_outputs, prompt_files, read, read_prompts, select_slices, write_segmentations
    from ..inference import Ensemble, check_mode, segment

    ensemble = Ensemble.open(args.runs, device_of(args), args.window, args.tta)
    check_mode(ensemble.config, args.prompts is not None)
    config = ensemble.config
    collection = select_slices(read(args.data, config.axis, args.group_regex or config.group_regex), args.slices)
    rule = args.sets_of or config.rule
    sets = collection.sets(rule)
    max_set_size = args.max_set_size or (config.set_sizes[1] if config.set_sizes else MAX_SET_SIZE)
    if args.out.resolve() == Path(args.data).resolve():
        raise ValueError(f"--out {args.out}: is the folder of the images, expected another for the masks")
    drawn = [] if args.prompts is None else prompt_files(args.prompts, collection.scans)
    check_outputs(args.out, collection.scans, args.overwrite, drawn, args.save)
    names = {0: "background", **(dict(sorted(config.labels.items())) or {1: "label"})}
    about, text = args.out / NAMES_FILE, json.dumps(names, indent=2, ensure_ascii=False) + "\n"
    if about.exists() and not args.overwrite and about.read_text(encoding="utf-8") != text:
        raise ValueError(f"{about}: names other labels than the run, expected a new folder (or --overwrite)")
    for scan in tqdm(collection.scans, desc="reading", unit="image", disable=None, leave=False):
        _check_readable(scan, config, args.prompts)
    write_text(about, text)
    files = []
    for scans in tqdm(sets, desc="segmenting", unit="set", disable=None, leave=False):
        prompts = (
            None if args.prompts is None else [read_prompts(args.prompts, scan, config.boxes > 0) for scan in scans]
        )
        found = segment(ensemble, scans, prompts, max_set_size)
        files += write_segmentations(args.out, found, args.save, list(names.values()), overwrite=True)  # checked above
    sets_of = f"{len(sets)} set{'s' * (len(sets) != 1)} ({rule})"
    limit = f", at most {max_set_size} together" if max(map(len, sets)) > max_set_size else ""
    print(f"{len(collection.scans)} images in {sets_of}{limit}: {len(files)} masks in {args.out}")
    return 0


def _check_readable(scan: Scan, config: Config, prompts: Path | None) -> None:
    """Reads what will be segmented, so that a broken file is reported before masks are written."""
    from ..data import read_prompts
    from ..inference import check_prompts

    sample = replace(scan, mask_reader=None).load(None, config.channels)
    drawn = None if prompts is None else read_prompts(prompts, scan, config.boxes > 0)
    if drawn is not None:
        check_prompts(drawn, sample, config.prompt_channels)
