"""Sets of images: read from files, grouped by subject or task, sampled, transformed, and packed into batches."""

from .augmentation import AUGMENTATIONS, Augmentation
from .errors import DataError
from .memory import TensorStore
from .outputs import check_outputs, write_masks, write_segmentations
from .prompt_files import prompt_files, read_prompts
from .readers import read, read_folder, read_nnunet, read_npz
from .scans import Collection, Sample, Scan, unit_range
from .set_augmentation import SetAugmentation
from .sets import Batch, Group, SetBatches, SetRule, collate, group_samples
from .slices import select_slices
from .subjects import Part, Split
from .synthetic import SyntheticTasks

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Batch",
    "Collection",
    "DataError",
    "Group",
    "Part",
    "Sample",
    "Scan",
    "SetAugmentation",
    "SetBatches",
    "SetRule",
    "Split",
    "SyntheticTasks",
    "TensorStore",
    "check_outputs",
    "collate",
    "group_samples",
    "prompt_files",
    "read",
    "read_folder",
    "read_nnunet",
    "read_npz",
    "read_prompts",
    "select_slices",
    "unit_range",
    "write_masks",
    "write_segmentations",
]
