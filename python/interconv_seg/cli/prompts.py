"""`interconv prompts`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_command, positive_int

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLE = """\
  interconv prompts --out prompts.png
  interconv prompts --data scans/ --label 2 --numbers 1 4 --out prompts.png"""
SHOWN_IMAGES = 4
# title; kind, scribbles and boxes of `draw_prompts`; size of the markers in points
KINDS = (
    ("{0} + {0} strokes", "scribble", "stroke", None, 1.6),
    ("{0} + {0} lines", "scribble", "line", None, 1.6),
    ("centerlines", "scribble", "centerline", None, 1.6),
    ("contours", "scribble", "contour", None, 1.6),
    ("{0} + {0} clicks, box", "click", "stroke", 1.0, 4.0),
)


def add(subparsers: Any) -> None:
    """Adds the command and its options."""
    parser = add_command(subparsers, "prompts", run, "draw a picture of simulated scribbles, clicks and boxes", EXAMPLE)
    parser.add_argument("--data", metavar="PATH", help="images with masks (default: simulated brain scans)")
    parser.add_argument("--label", help="name of the label (default: the first in the data)")
    parser.add_argument(
        "--size",
        type=positive_int,
        nargs=2,
        metavar=("H", "W"),
        default=(128, 128),
        help="size of the images (default: 128 128)",
    )
    parser.add_argument(
        "--numbers",
        metavar="N",
        type=positive_int,
        nargs="+",
        default=[3],
        help="numbers of positive prompts, and of negative ones (default: 3)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")


def run(args: argparse.Namespace) -> int:
    """Writes the picture."""
    from .. import plots
    from ..prompts import draw_prompts
    from ..seeding import seed_of

    images, masks = _simulate(args.seed) if args.data is None else _read(args)
    rows = []
    seeds = [seed_of(args.seed, i) for i in range(len(masks))]
    for title, kind, scribbles, boxes, marker_size in KINDS:
        for number in args.numbers if "{0}" in title else args.numbers[:1]:
            drawn = draw_prompts(masks, seeds, number, number, kind, scribbles, boxes)  # type: ignore[arg-type]
            rows.append((title.format(number), drawn, marker_size))
    plots.prompts(args.out, images, masks, rows)
    print(f"Wrote {args.out}")
    return 0


def _simulate(seed: int) -> tuple[Tensor, Tensor]:
    """Images [N,H,W] and the masks of their white matter, bool [N,H,W]."""
    import torch

    from ..anatomy import HELD_OUT_SLICES, Template, simulate_subject

    template = Template.load()
    images, masks = [], []
    for i in range(SHOWN_IMAGES):
        random = torch.Generator().manual_seed(seed + i)
        scans, tissues = simulate_subject(template, HELD_OUT_SLICES[2 * i], 1, random)
        images.append(scans[0, 0])
        masks.append(tissues == 2)
    return torch.stack(images), torch.stack(masks)


def _read(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The first images with the label, [N,H,W], and its masks, bool [N,H,W]."""
    import torch

    from ..data import group_samples, read

    collection = read(args.data)
    labels = {value: name for value, name in collection.labels.items() if args.label in (None, name)}
    first_label = dict(list(labels.items())[:1])
    tasks = group_samples(collection.load(tuple(args.size)), "task", first_label, one_per_subject=True)
    if not tasks:
        names = ", ".join(collection.labels.values())
        raise ValueError(f"{args.data}: no mask with label {args.label}, expected one of: {names}")
    shown = tasks[0].samples[:SHOWN_IMAGES]
    masks = [sample.mask.eq(tasks[0].label or 0) for sample in shown if sample.mask is not None]
    return torch.stack([sample.image.mean(0) for sample in shown]), torch.stack(masks)
