"""Prompts that a user drew, as files named as the images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import nifti
from .errors import DataError
from .files import ENDINGS, read_mask
from .nifti import is_nifti
from .outputs import mask_file
from .scans import Scan

SHOWN = 3  # names in a message


def prompt_files(folder: Path, scans: Iterable[Scan]) -> list[Path]:
    """The files in a folder of prompts.

    Args:
        folder: as in `read_prompts`.
        scans: all that may have prompts.

    Raises:
        DataError: there is no such folder, it holds no image file, or one that is named as none of the scans.
    """
    _check_folder(folder)
    found = sorted(file for file in folder.rglob("*") if file.name.lower().endswith(ENDINGS))
    expected = sorted({mask_file(folder, scan) for scan in scans})
    wrong = [file for file in found if file not in expected]
    if wrong or not found:
        names = ", ".join(str(file.relative_to(folder)) for file in expected[:SHOWN])
        more = f" and {len(expected) - SHOWN} more" if len(expected) > SHOWN else ""
        held = f"{wrong[0]}: is named as none of the images" if wrong else f"{folder}: holds no prompts"
        raise DataError(f"{held}, expected some of {names}{more}")
    return found


def read_prompts(folder: Path | str, scan: Scan, boxes: bool = False) -> Tensor | None:
    """Reads the prompts that a user drew for a scan.

    Args:
        folder: holds a file for each case, named as the image (NIfTI for NIfTI, else PNG) and of its size: 1 at
            positive prompts, 2 at negative ones, 3 at pixels of a box, such as two opposite corners or all on its
            border, else 0.
        scan: the scan.
        boxes: whether the network takes boxes.

    Returns:
        float32 [2,H,W], 1 at positive (channel 0) and negative (channel 1) prompts; with `boxes` [3,H,W], 1 in the
        smallest rectangle around the pixels of the box (channel 2). None if there is no file.

    Raises:
        DataError: there is no such folder, or the file is broken, holds other values (or a box that the network does
            not take), or lies elsewhere than the image.
    """
    folder = Path(folder)
    _check_folder(folder)
    file = mask_file(folder, scan)
    if not file.exists():
        return None
    if is_nifti(file):
        nifti.check_same_grid(scan.source, file)
    values = torch.from_numpy(read_mask(file, scan.index, scan.axis, scan.source if is_nifti(file) else None))
    if values.max() > 2 + boxes:
        expected = "0, 1 (positive prompt)"
        expected += ", 2 (negative prompt) and 3 (box)" if boxes else " and 2 (negative prompt)"
        takes = "; the network takes no boxes" if values.max() == 3 else ""
        raise DataError(f"{file}: holds {values.max()}, expected {expected}{takes}")
    prompts = torch.stack([values == 1, values == 2, values == 3][: 2 + boxes]).float()
    if boxes:
        rows, columns = prompts[2].nonzero(as_tuple=True)
        if len(rows):
            prompts[2, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
    return prompts


def resize_prompts(prompts: Tensor, size: tuple[int, int]) -> Tensor:
    """Prompts [C,H,W] at another size (H, W). Every prompt keeps at least one pixel.

    Args:
        prompts: as from `read_prompts`.
        size: of the input of a network.
    """
    return F.adaptive_max_pool2d(prompts.float(), size)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected the prompts")
