"""Sets of images: read from files, grouped by subject or task, sampled, transformed, and packed into batches."""

from .files import DataError
from .readers import read, read_folder, read_nnunet, read_npz, read_prompts
from .scans import Collection, Sample, Scan, unit_range, write_masks
from .sets import Batch, Group, SetBatches, by_subject, by_task, collate
from .transforms import Augmentation, geometry, intensity

__all__ = [
    "Augmentation",
    "Batch",
    "Collection",
    "DataError",
    "Group",
    "Sample",
    "Scan",
    "SetBatches",
    "by_subject",
    "by_task",
    "collate",
    "geometry",
    "intensity",
    "read",
    "read_folder",
    "read_nnunet",
    "read_npz",
    "read_prompts",
    "unit_range",
    "write_masks",
]
