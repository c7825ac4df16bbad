"""nnU-Net's predictor, predicting the images of a set together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.utilities.helpers import empty_cache
from torch import Tensor, nn

import interconv_kernels as ik

from .alignment import starts_of
from .case_sets import CaseSets
from .exporting import Exports


class SetPredictor(nnUNetPredictor):  # type: ignore[misc]
    """Predicts sets: the network gets the same window of all images of a set at a time, mirrored together.

    It is used as nnUNetPredictor, whose sliding window, Gaussian weights, mirroring and averaging over folds stay. A
    set with more than `max_set_size` images is divided into parts of nearly equal size, each spread over the whole set.
    """

    _set_lengths: Sequence[int] | None = None  # of the cases that predict_from_data_iterator gets next
    _cases_per_slice = 1  # of the volume that is predicted

    def case_sets(self, folder: Path | None = None) -> CaseSets:
        """The model's sets.

        Args:
            folder: of the images, where a sets.csv may be.
        """
        return CaseSets.of_model(self.dataset_json, folder)

    def predict_set(self, volumes: Sequence[Tensor], starts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Predicts cases of one set.

        Args:
            volumes: preprocessed cases [C, D, H, W].
            starts: where each begins on their common grid (`starts_of`).

        Returns:
            Logits [classes, D, H, W] of each, on the CPU.
        """
        low = [min(start[d] for start in starts) for d in range(3)]
        regions = [
            tuple(slice(at - lo, at - lo + n) for at, lo, n in zip(start, low, volume.shape[1:], strict=True))
            for start, volume in zip(starts, volumes, strict=True)
        ]
        depth, height, width = (max(region[d].stop for region in regions) for d in range(3))
        grid = torch.zeros(len(volumes[0]), depth, len(volumes), height, width)
        for k, (volume, (z, y, x)) in enumerate(zip(volumes, regions, strict=True)):
            grid[:, z, k, y, x] = volume
        self._cases_per_slice = len(volumes)
        try:
            # Without parameters, the network has its weights already: that is the validation after training.
            predict = (
                self.predict_logits_from_preprocessed_data
                if self.list_of_parameters is not None
                else self.predict_sliding_window_return_logits
            )
            logits = predict(grid.flatten(1, 2)).cpu().unflatten(1, (depth, len(volumes)))
        finally:
            self._cases_per_slice = 1
        return [logits[:, z, k, y, x] for k, (z, y, x) in enumerate(regions)]

    def predict_from_data_iterator(
        self,
        data_iterator: Iterable[dict[str, Any]],
        save_probabilities: bool = False,
        num_processes_segmentation_export: int = default_num_processes,
    ) -> list[Any]:
        """As in nnU-Net, for preprocessed cases that come set by set."""
        lengths, self._set_lengths = self._set_lengths, None
        by_slices = self.case_sets().kind == "slices"
        if lengths is None and not by_slices:
            print("WARNING: no sets are known for these cases; each is a set of one image")
        items = iter(data_iterator)
        with Exports(self, num_processes_segmentation_export, save_probabilities) as exports:
            for length in repeat(1) if lengths is None else lengths:
                members = list(islice(items, length))
                if not members:
                    break
                names = [Path(item["ofile"] or f"image of shape {tuple(item['data'].shape)}").name for item in members]
                print(f"\nPredicting {' + '.join(names)}")
                volumes = [item["data"] for item in members]
                if by_slices and volumes[0].shape[1] == 1:
                    print(f"WARNING: {names[0]} has one slice; it is a set of one image")
                properties = [item["data_properties"] for item in members]
                starts = starts_of(names, [volume.shape[1:] for volume in volumes], properties)
                for item, logits in zip(members, self.predict_set(volumes, starts), strict=True):
                    exports.add(logits, item["data_properties"], item["ofile"])
            results = exports.results()
        compute_gaussian.cache_clear()
        empty_cache(self.device)
        return results

    def predict_from_files_sequential(self, *args: Any, **kwargs: Any) -> Any:
        """As in nnU-Net, for sets of slices.

        Raises:
            ValueError: the sets are of several cases.
        """
        if self.case_sets().kind == "cases":
            raise ValueError("predict_from_files_sequential goes case by case: expected predict_from_files for sets")
        return super().predict_from_files_sequential(*args, **kwargs)

    def _manage_input_and_output_lists(
        self,
        list_of_lists_or_source_folder: Any,
        output_folder_or_list_of_truncated_output_files: Any,
        folder_with_segs_from_prev_stage: str | None = None,
        overwrite: bool = True,
        part_id: int = 0,
        num_parts: int = 1,
        save_probabilities: bool = False,
    ) -> tuple[list[Any], list[str] | None, list[Any]]:
        """nnU-Net's lists, ordered by set; parts and what is left to do are counted in sets, which stay whole."""
        given = (
            list_of_lists_or_source_folder,
            output_folder_or_list_of_truncated_output_files,
            folder_with_segs_from_prev_stage,
        )
        lists = super()._manage_input_and_output_lists(*given)
        inputs, outputs, previous = lists
        ending = self.dataset_json["file_ending"]
        cases = [Path(files[0]).name[: -len(f"_0000{ending}")] for files in inputs]
        folder = Path(inputs[0][0]).parent if inputs else Path()
        sets = self.case_sets(folder)
        warning = sets.warning(cases, str(folder))
        if warning:
            print(warning)
        number = {case: i for i, case in enumerate(cases)}
        groups = [[number[case] for case in group] for group in sets.group(cases)][part_id::num_parts]
        if not overwrite and outputs is not None:
            endings = [ending, ".npz"] if save_probabilities else [ending]
            done = [all(Path(output + end).is_file() for end in endings) for output in outputs]
            groups = [group for group in groups if not all(done[i] for i in group)]
        print(f"{sum(map(len, groups))} cases in {len(groups)} sets are predicted (part {part_id} of {num_parts})")
        self._set_lengths = [len(group) for group in groups]
        order = [i for group in groups for i in group]
        chosen = [None if values is None else [values[i] for i in order] for values in (inputs, outputs, previous)]
        return chosen[0] or [], chosen[1], chosen[2] or []

    def _internal_get_sliding_window_slicers(self, image_size: Sequence[int]) -> list[tuple[slice, ...]]:
        """(channels, images of a set, rows, columns) of each window of (N, H, W)."""
        tile = self.configuration_manager.patch_size
        rows, columns = compute_steps_for_sliding_window(tuple(image_size[1:]), tile, self.tile_step_size)
        return [
            (slice(None), images, slice(y, y + tile[0]), slice(x, x + tile[1]))
            for images in self._sets_of_images(image_size[0])
            for y in rows
            for x in columns
        ]

    def _sets_of_images(self, num_images: int) -> list[slice]:
        """The sets of the images of a volume: all its slices, or those of the cases at each slice; divided if large."""
        sets = self.case_sets()
        size = num_images if sets.kind == "slices" else self._cases_per_slice
        parts = -(-size // sets.max_size)
        return [slice(first + j, first + size, parts) for first in range(0, num_images, size) for j in range(parts)]

    @torch.inference_mode()
    def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
        """Logits [1, classes, K, h, w] of a window x [1, C, K, h, w] of the K images of a set."""
        images = x[0].transpose(0, 1)
        with ik.use_sets(ik.Sets.from_lengths([len(images)], x.device)):
            return super()._internal_maybe_mirror_and_predict(images).transpose(0, 1)[None]


def predict_sets_in_nnunet() -> None:
    """Makes nnU-Net's own commands predict sets: the predictor of a network with InterConv layers is a SetPredictor.

    nnU-Net makes its predictor before it knows the trainer, and has no place to name another class; but it assigns the
    trainer's network to the predictor. Predictors of other networks stay as they are.
    """

    def assign(predictor: nnUNetPredictor, network: nn.Module | None) -> None:
        vars(predictor)["network"] = network
        has_sets = network is not None and any(isinstance(module, ik.InterConv2d) for module in network.modules())
        if has_sets and type(predictor) is nnUNetPredictor:
            predictor.__class__ = SetPredictor

    nnUNetPredictor.network = property(lambda predictor: vars(predictor)["network"], assign)
