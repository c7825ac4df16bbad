"""For MONAI: sets of its samples as a data set, batches of sets for its engines, and sliding windows over sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import list_data_collate
from monai.engines.utils import default_prepare_batch
from monai.inferers.inferer import SlidingWindowInferer
from monai.transforms.transform import Randomizable, apply_transform
from monai.utils.misc import MAX_SEED
from monai.utils.type_conversion import convert_to_dst_type
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset

import interconv_kernels as ik
from interconv_kernels.as_sets import as_sets
from interconv_kernels.typing import SetsLike

__all__ = ["SetDataset", "SetSlidingWindowInferer", "collate", "prepare_batch"]


class SetSlidingWindowInferer(SlidingWindowInferer):
    """MONAI's `SlidingWindowInferer` for networks that take sets: one window is cut from all images of a set at once.

    The windows, their weights (`mode="gaussian"`), padding and stitching are MONAI's, and so are the arguments, except:
    `sw_batch_size` counts images, so that a set of K images contributes sw_batch_size // K windows to a call, at least
    one; `with_coord=True` is refused. The windows of a call belong to one set of the batch, so its sets can be ragged.

    Raises:
        ValueError: `with_coord=True`.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if self.with_coord:
            raise ValueError("with_coord=True: expected False, a window of a set has one place in several images")

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], sets: SetsLike, *args: Any, **kwargs: Any
    ) -> Tensor | tuple[Tensor, ...] | dict[Any, Tensor]:
        """Applies `network(windows, *args, sets=..., **kwargs)`, such as an `ik.SetModel`, window by window.

        Args:
            inputs: images [N,C,H,W], N at least 1.
            network: called with n windows of the K images of one set, [nK,C,h,w] and n equal sets.
            sets: of the images, as in `ik.interconv2d`.
            *args: for the network.
            **kwargs: for the network, or one of MONAI's: `device`, `buffer_steps`, `buffer_dim`.

        Returns:
            As the network: a tensor [N,Co,H,W], a tuple or a dict of such. A MetaTensor if `inputs` is one.

        Raises:
            ValueError: no images, or sets that do not fit them; and as MONAI's.
        """
        sets = as_sets(sets, inputs.shape[0], inputs.device)
        if not sets.num_samples:
            raise ValueError(f"inputs have shape {tuple(inputs.shape)}: expected at least one image")
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        found = [self._infer_set(part, network, args, kwargs) for part in images.split(sets.lengths) if len(part)]
        leaves, structures = zip(*(pytree.tree_flatten(outputs) for outputs in found), strict=True)
        packed = [
            convert_to_dst_type(torch.cat(parts), inputs, device=parts[0].device)[0]
            for parts in zip(*leaves, strict=True)
        ]
        return pytree.tree_unflatten(packed, structures[0])

    def _infer_set(self, images: Tensor, network: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The outputs for the images [K,C,H,W] of one set, which are the channels of one image to MONAI."""
        size, channels = images.shape[:2]

        def on_windows(windows: Tensor, *args: Any, **kwargs: Any) -> Any:
            count = windows.shape[0]
            samples = windows.unflatten(1, (size, channels)).flatten(0, 1)
            outputs = network(samples, *args, sets=ik.Sets.from_size(size, count * size, samples.device), **kwargs)
            return pytree.tree_map(lambda y: y.unflatten(0, (count, size)).flatten(1, 2), outputs)

        inferer = copy(self)
        inferer.sw_batch_size = max(1, self.sw_batch_size // size)
        outputs = super(SetSlidingWindowInferer, inferer).__call__(
            images.flatten(0, 1)[None], on_windows, *args, **kwargs
        )
        return pytree.tree_map(lambda y: y[0].unflatten(0, (size, -1)), outputs)


class SetDataset(Randomizable, Dataset[list[Any]]):
    """Sets of MONAI's samples: item b is the list of the transformed samples of set b, which `collate` packs.

    Args:
        data: samples, such as from `monai.data.load_decathlon_datalist`, or a data set of them that is quick to read,
            such as a `CacheDataset`.
        transform: for one sample.
        by: the key of a sample's set. The samples of a set need not be neighbours; the sets are in the order of their
            first samples.
        set_sizes: (min, max) of the random number of samples that are drawn, without replacement, each time a set is
            read; of a smaller set all. None: all samples of each set.
        aligned: the samples of a set are aligned with each other, so random transforms do the same to all of them.

    Raises:
        ValueError: no samples, a sample without the key, or `set_sizes` that are not 1 <= min <= max.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[..., Any] | None = None,
        *,
        by: str = "set",
        set_sizes: tuple[int, int] | None = None,
        aligned: bool = False,
    ):
        if set_sizes is not None and not 1 <= set_sizes[0] <= set_sizes[1]:
            raise ValueError(f"set_sizes = {set_sizes!r}: expected (min, max) with 1 <= min <= max, or None")
        members: dict[Any, list[int]] = {}
        for i in range(len(data)):
            if by not in data[i]:
                raise ValueError(f"sample {i} has the keys {sorted(data[i])}: expected {by!r}, the name of its set")
            members.setdefault(data[i][by], []).append(i)
        if not members:
            raise ValueError("no samples: expected at least one set")
        self.data, self.transform, self.set_sizes, self.aligned = data, transform, set_sizes, aligned
        self.names, self.members = list(members), list(members.values())

    def __len__(self) -> int:
        """B, the number of sets."""
        return len(self.members)

    def __getitem__(self, b: int) -> list[Any]:
        """The samples of set b, transformed."""
        drawn = self._draw(self.members[b])
        seed = self.R.randint(MAX_SEED) if self.aligned else None
        return [self._transformed(i, seed) for i in drawn]

    def set_random_state(self, seed: int | None = None, state: Any = None) -> SetDataset:
        """Seeds the draws and the random transforms; MONAI's `DataLoader` calls it in each worker."""
        super().set_random_state(seed, state)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(self.R.randint(MAX_SEED))
        return self

    def _draw(self, members: list[int]) -> list[int]:
        if self.set_sizes is None:
            return members
        low, high = (min(size, len(members)) for size in self.set_sizes)
        chosen = self.R.choice(len(members), self.R.randint(low, high + 1), replace=False)
        return [members[i] for i in sorted(chosen)]

    def _transformed(self, i: int, seed: int | None) -> Any:
        if self.transform is None:
            return self.data[i]
        if seed is not None and isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed)
        return apply_transform(self.transform, self.data[i])


def collate(items: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Packs sets into a batch: `monai.data.DataLoader(SetDataset(...), batch_size=B, collate_fn=collate)`.

    `ik.collate` does so for tensors; this one keeps the metadata of each MetaTensor, which concatenation would lose.

    Args:
        items: B sets, each a list of samples, mappings with the same keys in all.

    Returns:
        The samples of all sets, one after the other, as MONAI's `list_data_collate` packs them, and "sets".

    Raises:
        ValueError: no samples.
    """
    samples = [sample for item in items for sample in item]
    if not samples:
        raise ValueError(f"{len(items)} sets without samples: expected at least one sample")
    return {**list_data_collate(samples), "sets": ik.Sets.from_lengths([len(item) for item in items])}


def prepare_batch(
    batch: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor | None, tuple[Any, ...], dict[str, Any]]:
    """For MONAI's trainers and evaluators: `SupervisedTrainer(prepare_batch=interconv_seg.monai.prepare_batch, ...)`.

    Args:
        batch: with "image", "sets" and, unless for inference, "label"; such as from `collate`.
        device: where to.
        non_blocking: as in `Tensor.to`.
        **kwargs: likewise.

    Returns:
        The images, the labels or None, no positional arguments, and the sets as the keyword argument "sets" of the
        inferer, which passes them to the network.
    """
    images, labels = default_prepare_batch(dict(batch), device, non_blocking, **kwargs)
    return images, labels, (), {"sets": batch["sets"].to(images.device, non_blocking)}
