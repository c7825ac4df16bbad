"""A small data set to start from: simulated scans, two for each subject, as NIfTI volumes with masks."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from interconv_kernels._files import replacing, write_text

from .seeding import random_of

SHAPE = (48, 48, 6)
SPACING = (2.0, 2.0, 5.0)  # mm
LABELS = {1: "organ", 2: "lesion"}
SUBJECTS = 12
SETTINGS = """\
# For `interconv train --config`. Options of the command line go before these.
mode: automatic
labels: {1: organ, 2: lesion}
network: simpleunet-60K
interconv: replace
size: [48, 48]
set_sizes: [1, 8]
sets_per_batch: 4
steps: 200
interval: 50
learning_rate: 0.003
schedule: cosine
"""


def write_example(folder: Path) -> None:
    """Writes scans/ (images and masks of twelve subjects, and sets.csv), new_patient/ (two images) and train.yaml.

    Each subject has two scans of other contrasts; in each the lesion is hard to see.

    Args:
        folder: new or empty.

    Raises:
        ValueError: it holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: exists, expected a new folder")
    rows = ["set,image,mask"]
    for subject in range(SUBJECTS + 1):
        name = f"p{subject + 1:02d}" if subject < SUBJECTS else "new"
        images, mask = _simulated(subject)
        target = folder / ("scans" if subject < SUBJECTS else "new_patient")
        for contrast, image in zip(("t1", "t2"), images, strict=True):
            _save(target / f"{name}_{contrast}.nii.gz", image)
            rows.append(f"{name},{name}_{contrast}.nii.gz,{name}_mask.nii.gz")
        if subject < SUBJECTS:
            _save(target / f"{name}_mask.nii.gz", mask)
    write_text(folder / "scans/sets.csv", "\n".join(rows[:-2]) + "\n")
    write_text(folder / "train.yaml", SETTINGS)


def _simulated(subject: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Two scans and the mask of a subject: an ellipsoid with a ball in it."""
    random = random_of("example", subject)
    positions = np.moveaxis(np.indices(SHAPE).astype(float), 0, -1) - (np.array(SHAPE) - 1) / 2
    positions *= SPACING
    centre, radii = random.uniform(-6, 6, 3), random.uniform((24, 18, 12), (34, 26, 18))
    organ = (((positions - centre) / radii) ** 2).sum(-1) < 1
    inside = positions[organ]
    lesion = np.linalg.norm(positions - inside[random.integers(len(inside))], axis=-1) < random.uniform(7, 11)
    mask = np.where(organ & lesion, 2, organ.astype(np.uint8)).astype(np.uint8)
    brightness = [np.array([0.2, 0.6, 0.75]), np.array([0.5, 0.3, 0.45])]
    noise = random.standard_normal((2, *SHAPE)) * 0.12
    return [(1000 * (levels[mask] + n)).astype(np.int16) for levels, n in zip(brightness, noise, strict=True)], mask


def _save(path: Path, values: np.ndarray) -> None:
    with replacing(path) as partial:
        nib.save(nib.Nifti1Image(values, np.diag([*SPACING, 1.0])), partial)
