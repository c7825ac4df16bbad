"""nnU-Net's data loader, drawing sets: one box and one spatial transform for all images of a set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.spatial.transpose import TransposeAxesTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from threadpoolctl import threadpool_limits

from .alignment import starts_of

SPATIAL_TRANSFORMS = (SpatialTransform, MirrorTransform, Rot90Transform, TransposeAxesTransform)


class SetDataLoader(nnUNetDataLoader):  # type: ignore[misc]
    """Batches of ragged sets: `batch_size` images in all, and their set sizes as "lengths" in the batch.

    Sets are drawn one after the other, each from a group that is sampled uniformly, with K sampled uniformly from 1 to
    what the group, `max_set_size` and the rest of the batch allow. nnU-Net chooses a box in one case, with its rules of
    foreground oversampling (by chance, so that the expected share of images is nnU-Net's); all images of the set get
    this box.

    Args:
        data: nnU-Net's dataset.
        groups: the cases of each set.
        slices: whether the images of a set are different slices of one case, instead of one slice of different cases.
        max_set_size: the largest K.
        args: of nnUNetDataLoader, after `data`.
        kwargs: likewise.
    """

    def __init__(
        self,
        data: Any,
        groups: Sequence[Sequence[str]],
        slices: bool,
        max_set_size: int,
        *args: Any,
        **kwargs: Any,
    ):
        super().__init__(data, *args, probabilistic_oversampling=True, **kwargs)
        self.groups, self.slices, self.max_set_size = groups, slices, max_set_size

    def generate_train_batch(self) -> dict[str, Any]:
        samples: list[dict[str, Any]] = []
        keys: list[str] = []
        lengths: list[int] = []
        with torch.no_grad(), threadpool_limits(limits=1, user_api=None):
            while len(samples) < self.batch_size:
                cases, images = self._draw(min(self.max_set_size, self.batch_size - len(samples)))
                keys += cases
                lengths.append(len(images))
                samples += images if self.transforms is None else transform_set(self.transforms, images)
        targets = [sample["segmentation"] for sample in samples]
        return {
            "data": torch.stack([sample["image"] for sample in samples]),
            "target": [torch.stack(level) for level in zip(*targets, strict=True)]
            if isinstance(targets[0], list)
            else torch.stack(targets),
            "keys": keys,
            "lengths": lengths,
        }

    def _draw(self, max_size: int) -> tuple[list[str], list[dict[str, Any]]]:
        """(case, image and segmentation) of each image of one set, of at most `max_size`."""
        group = self.groups[np.random.randint(len(self.groups))]
        if self.slices:
            [case] = group
            data, segmentation, _, properties = self._data.load_case(case)
            box = self._box(data.shape[1:], properties)
            depth = data.shape[1]
            size = np.random.randint(1, min(max_size, depth) + 1)
            others = np.random.permutation([z for z in range(depth) if z != box[0][0]])
            slices = [box[0][0], *map(int, others[: size - 1])]
            return [case] * size, [_crop(data, segmentation, [[z, z + 1], *box[1:]]) for z in slices]
        size = np.random.randint(1, min(max_size, len(group)) + 1)
        cases = [group[i] for i in np.random.permutation(len(group))[:size]]
        loaded = [self._data.load_case(case) for case in cases]
        shapes = [data.shape[1:] for data, *_ in loaded]
        starts = starts_of(cases, shapes, [properties for *_, properties in loaded])
        box = self._box(shapes[0], loaded[0][3])  # the first case is as random as any
        images = []
        for (data, segmentation, *_), start in zip(loaded, starts, strict=True):
            shift = [own - other for own, other in zip(starts[0], start, strict=True)]
            moved = [[low + by, high + by] for (low, high), by in zip(box, shift, strict=True)]
            images.append(_crop(data, segmentation, moved))
        return cases, images

    def _box(self, shape: Sequence[int], properties: dict[str, Any]) -> list[list[int]]:
        """A box [[z, z + 1], [y, ...], [x, ...]] in one case, as nnU-Net chooses it."""
        lows, highs = self.get_bbox(np.asarray(shape), self.get_do_oversample(0), properties["class_locations"])
        return [[int(low), int(high)] for low, high in zip(lows, highs, strict=True)]


def transform_set(transforms: Any, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Applies nnU-Net's transforms to the images of a set: spatial ones the same for all, others random for each image.

    Args:
        transforms: nnU-Net's ComposeTransforms.
        samples: {"image": [C,H,W], "segmentation": [1,H,W]} of each image, of one size.
    """
    for transform in transforms.transforms:
        if not _is_spatial(transform):
            samples = [transform(**sample) for sample in samples]
            continue
        numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()
        transformed = []
        for sample in samples:
            np.random.set_state(numpy_state)
            torch.set_rng_state(torch_state)
            transformed.append(transform(**sample))
        samples = transformed
    return list(samples)


def _is_spatial(transform: BasicTransform) -> bool:
    """Whether it moves pixels, itself or through a transform inside it."""
    inner = [getattr(transform, "transform", None)]
    for name in ("transforms", "list_of_transforms"):
        inner += getattr(transform, name, [])
    return isinstance(transform, SPATIAL_TRANSFORMS) or any(_is_spatial(t) for t in inner if t is not None)


def _crop(data: Any, segmentation: Any, box: list[list[int]]) -> dict[str, Any]:
    """One slice of a case, padded where the box leaves it as nnU-Net pads."""
    image = torch.from_numpy(crop_and_pad_nd(data, box, 0)).float()
    labels = torch.from_numpy(crop_and_pad_nd(segmentation, box, -1, cast_cropped_to=np.int16)).to(torch.int16)
    return {"image": image[:, 0], "segmentation": labels[:, 0]}
