"""`python -m reproduce.pictures FILE`: a contact sheet of synthetic tasks, for docs/segmentation/synthetic.md."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from interconv_seg.data.synthetic import draw_tasks

from interconv_kernels._files import replacing

TASKS, SUBJECTS, COLUMNS = 20, 5, 2
SIZE, ENLARGED, GAP = 48, 2, 4
COLOUR = (230, 80, 60)  # of the border of the first target


def main() -> None:
    """Draws images of 20 tasks, 5 subjects in a row, with the border of the first target, two tasks side by side."""
    from PIL import Image

    images, masks = draw_tasks(TASKS, SUBJECTS, SIZE, seed=0)
    target = (masks == 1).repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
    image = images.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
    inside = torch.nn.functional.avg_pool2d(target.float(), 3, stride=1, padding=1, count_include_pad=False)
    border = target & (inside < 1)
    coloured = torch.where(border[..., None], torch.tensor(COLOUR, dtype=torch.uint8), image[..., None])
    side = SIZE * ENLARGED
    rows, columns = TASKS // COLUMNS, COLUMNS * SUBJECTS
    sheet = torch.full(
        (rows * (side + GAP), columns * (side + GAP) + 4 * GAP * (COLUMNS - 1), 3), 255, dtype=torch.uint8
    )
    for task in range(TASKS):
        row, column = divmod(task, COLUMNS)
        for subject in range(SUBJECTS):
            y = row * (side + GAP)
            x = (column * SUBJECTS + subject) * (side + GAP) + column * 4 * GAP
            sheet[y : y + side, x : x + side] = coloured[task, subject]
    with replacing(Path(sys.argv[1])) as file:
        Image.fromarray(sheet[: 1 - GAP, : 1 - GAP].numpy()).save(file, optimize=True)


if __name__ == "__main__":
    main()
