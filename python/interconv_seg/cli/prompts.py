"""`interconv prompts`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_command, positive

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLE = """\
  interconv prompts --out prompts.png
  interconv prompts --data scans/ --label 2 --numbers 1 4 --out prompts.png"""
SHOWN = 4  # images in the picture


def add(subparsers: Any) -> None:
    """The command's options."""
    parser = add_command(subparsers, "prompts", "draw a picture of simulated scribbles and clicks", EXAMPLE)
    parser.add_argument("--data", metavar="PATH", help="images with masks (default: simulated brain scans)")
    parser.add_argument("--label", help="name of the label (default: the data's first)")
    parser.add_argument("--size", type=positive, nargs=2, metavar=("H", "W"), default=(128, 128), help="of the images")
    parser.add_argument(
        "--numbers", type=positive, nargs="+", default=[2, 8], help="of positive and negative prompts (default: 2 8)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the PNG file to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the picture."""
    from .. import plots
    from ..prompts import Kind, draw_prompts
    from ..seeding import seed_of

    images, masks = _simulated(args.seed) if args.data is None else _read(args)
    rows = []
    shown: tuple[tuple[Kind, float], ...] = (("scribble", 1.6), ("click", 4.0))
    for kind, marker_size in shown:
        for number in args.numbers:
            seeds = [seed_of(args.seed, i) for i in range(len(masks))]
            drawn = draw_prompts(masks, seeds, number, number, kind)
            rows.append((f"{number} + {number} {kind}s", drawn, marker_size))
    plots.prompts(args.out, images, masks, rows)
    print(f"Wrote {args.out}")
    return 0


def _simulated(seed: int) -> tuple[Tensor, Tensor]:
    """Images [N, H, W] and masks of their white matter, bool [N, H, W]."""
    import torch

    from ..anatomy import HELD_OUT_SLICES, Template, simulate_subject

    template = Template.load()
    images, masks = [], []
    for i in range(SHOWN):
        random = torch.Generator().manual_seed(seed + i)
        scans, tissues = simulate_subject(template, HELD_OUT_SLICES[2 * i], 1, random)
        images.append(scans[0, 0])
        masks.append(tissues == 2)
    return torch.stack(images), torch.stack(masks)


def _read(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """The first images that have the label, [N, H, W], and their masks."""
    import torch

    from ..data import by_task, read

    collection = read(args.data)
    labels = {value: name for value, name in collection.labels.items() if args.label in (None, name)}
    tasks = by_task(collection.load(tuple(args.size)), dict(list(labels.items())[:1]), least=1, one_per_subject=True)
    if not tasks:
        names = ", ".join(collection.labels.values())
        raise ValueError(f"{args.data}: no mask with label {args.label}, expected one of: {names}")
    shown = tasks[0].samples[:SHOWN]
    masks = [sample.mask.eq(tasks[0].label or 0) for sample in shown if sample.mask is not None]
    return torch.stack([sample.image.mean(0) for sample in shown]), torch.stack(masks)
