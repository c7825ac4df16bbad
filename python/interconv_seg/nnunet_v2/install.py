"""The file through which nnU-Net finds the trainer."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from interconv_kernels._files import write_text

FILE_NAME = "interconv_trainer.py"
IMPORT = "from interconv_seg.nnunet_v2 import nnUNetTrainerInterConv  # noqa: F401\n"
MIN_VERSION = (2, 8)  # the first that reads nnUNet_extTrainer


def install(folder: Path) -> Path:
    """Writes a file that imports the trainer into a folder of external trainers (variable nnUNet_extTrainer).

    Args:
        folder: created if needed. nnU-Net imports every module in it.

    Returns:
        The file.

    Raises:
        ValueError: nnunetv2 is not installed, or too old to have such folders.
    """
    wanted = f"{MIN_VERSION[0]}.{MIN_VERSION[1]}"
    try:
        version = metadata.version("nnunetv2")
    except metadata.PackageNotFoundError:
        raise ValueError(
            f"nnunetv2 is not installed, expected {wanted} or newer: pip install 'interconv-kernels[nnunet]'"
        ) from None
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < MIN_VERSION:
        raise ValueError(f"nnunetv2 {version}: expected {wanted} or newer, which finds external trainers")
    file = folder.resolve() / FILE_NAME
    write_text(file, IMPORT)
    return file
