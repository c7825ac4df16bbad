"""`interconv segment`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_command, add_device, add_runs, device_of, positive

if TYPE_CHECKING:
    from ..evaluation import Ensemble

EXAMPLE = """\
  interconv segment runs/interconv/seed* --data new_patient/ --out masks/
  interconv segment runs/clicks/seed0 --data slides/ --prompts slides/prompts/ --out masks/"""


def add(subparsers: Any) -> None:
    """The command's options."""
    parser = add_command(subparsers, "segment", "segment the images of a folder, a set together", EXAMPLE)
    add_runs(parser)
    parser.add_argument(
        "--data",
        metavar="PATH",
        required=True,
        help="images: one joint set, or the sets that a sets.csv in it says",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder for the masks, named as the images")
    parser.add_argument("--max-set", type=positive, help="images together at most (default: all of a set)")
    parser.add_argument(
        "--prompts",
        metavar="FOLDER",
        type=Path,
        help="for runs in interactive mode: files named as the images, of their size, 1 where a positive prompt is, 2"
        " where a negative one is; an image without a file has no prompts",
    )
    add_device(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segment set by set."""
    from tqdm import tqdm

    from ..data import read, write_masks
    from ..evaluation import Ensemble

    ensemble = Ensemble.open(args.runs, device_of(args))
    config = ensemble.config
    if (config.mode == "interactive") != (args.prompts is not None):
        wanted = "--prompts" if config.mode == "interactive" else "no --prompts"
        raise ValueError(f"{args.runs[0]}: a run in {config.mode} mode, expected {wanted}")
    collection = read(args.data, config.axis)
    scans = sorted((replace(scan, truth=None) for scan in collection.scans), key=lambda scan: scan.subject)
    sets = [list(members) for _, members in groupby(scans, key=lambda scan: scan.subject)]
    written = []
    for members in tqdm(sets, desc="segmenting", unit="set", disable=None, leave=False):
        written += write_masks(args.out, members, _segment(ensemble, members, args))
    print(f"{len(scans)} images in {len(sets)} sets: {len(written)} masks in {args.out}")
    return 0


def _segment(ensemble: Ensemble, scans: list[Any], args: argparse.Namespace) -> list[Any]:
    """The masks [H, W] of one set's scans, in the values that the labels have, each of its scan's stored size."""
    import torch
    import torch.nn.functional as F

    from ..data import Group, collate

    config = ensemble.config
    values = torch.tensor([0, *sorted(config.labels)] if config.labels else [0, 1])
    samples = [scan.load(config.size, config.channels) for scan in scans]
    most = args.max_set or len(samples)
    masks = []
    for first in range(0, len(samples), most):
        own = samples[first : first + most]
        batch = collate([Group(own[0].subject, tuple(own))])
        if args.prompts is not None:
            sizes = [(scan, sample.stored_size) for scan, sample in zip(scans[first : first + most], own, strict=True)]
            fitting = [
                F.adaptive_max_pool2d(_prompts(args.prompts, scan, size), batch.images.shape[2:])
                for scan, size in sizes
            ]
            batch = replace(batch, prompts=torch.stack(fitting))
        probabilities = ensemble.probabilities(batch).cpu()
        for sample, own_probabilities in zip(own, probabilities, strict=True):
            stored = F.interpolate(own_probabilities[None], sample.stored_size, mode="bilinear", antialias=True)
            masks.append(values[stored[0].argmax(0)])
    return masks


def _prompts(folder: Path, scan: Any, size: tuple[int, int]) -> Any:
    """The prompts of a scan, float32 [2, H, W], as they are in its file; without a file, none.

    Raises:
        DataError: another size than the image's, or other values than 0, 1, 2.
    """
    import torch

    from ..data import DataError
    from ..data.files import ending_of, is_nifti, read_mask

    file = folder / (scan.case + (ending_of(scan.source) if is_nifti(scan.source) else ".png"))
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected the prompts")
    if not file.exists():
        return torch.zeros(2, *size)
    drawn = torch.from_numpy(read_mask(file, scan.index, scan.axis))
    if drawn.shape != size or drawn.max() > 2:
        raise DataError(
            f"{file}: prompts of shape {tuple(drawn.shape)} with values up to {drawn.max()}, expected {size} as the"
            " image, and 0, 1 (positive), 2 (negative)"
        )
    return torch.stack([drawn == 1, drawn == 2]).float()
