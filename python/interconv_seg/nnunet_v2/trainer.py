"""nnU-Net's trainer with InterConv layers and sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgenerators.utilities.file_and_folder_operations import load_json, save_json
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.paths import nnUNet_raw
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

import interconv_kernels as ik

from .alignment import starts_of
from .case_sets import SECTION, CaseSets, check_folds
from .exporting import Exports
from .loading import SetDataLoader
from .prediction import SetPredictor, predict_sets_in_nnunet

NUM_FOLDS = 5


class nnUNetTrainerInterConv(nnUNetTrainer):  # type: ignore[misc]  # noqa: N801  (named as nnU-Net names trainers)
    """Trains the network of the plans with InterConv layers on sets, validates and predicts sets; 2-D configurations.

    Every convolution larger than 1x1 becomes an InterConv layer, as in the paper (placement "replace"); transposed
    convolutions, the heads and the 1x1 convolutions of residual encoders stay. Which images are a set: `CaseSets`.

    Args:
        plans: as in nnU-Net.
        configuration: likewise; a 2-D one.
        fold: likewise.
        dataset_json: likewise; see `CaseSets.of_dataset` for what it may say about sets.
        device: likewise.

    Raises:
        ValueError: the configuration is 3-D, or the sets cannot be used.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net's signature)
    ):
        _check_2d(PlansManager(plans).get_configuration(configuration))
        super().__init__(plans, configuration, fold, dataset_json, device)
        name = self.plans_manager.dataset_name
        folders = [Path(self.preprocessed_dataset_folder_base or ".")]
        folders += [Path(str(nnUNet_raw), name)] if nnUNet_raw.is_set() else []
        self.case_sets = CaseSets.of_dataset(dataset_json, folders)
        self.dataset_json[SECTION] = self.case_sets.settings()  # saved with the model, for prediction
        if self.case_sets.kind == "slices":
            self._check_slices()
            self.print_to_log_file("InterConv: a set is slices of one case (there is no sets.csv and no set_pattern)")
        else:
            self.print_to_log_file("InterConv: a set is one slice of several cases")

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """nnU-Net's network with InterConv layers, initialised as nnU-Net initialises convolutions."""
        _check_2d(configuration_manager)
        predict_sets_in_nnunet()
        network = nnUNetTrainer.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        ik.replace_with_interconv(
            network,
            lambda _, module: isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1,
            keep_outputs=False,
        )
        for module in network.modules():
            if isinstance(module, ik.InterConv2d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        return network

    def do_split(self) -> tuple[list[str], list[str]]:
        """The cases of training and validation, as nnU-Net has them, except that folds keep sets together."""
        if self.case_sets.kind == "cases" and self.fold != "all":
            file = Path(self.preprocessed_dataset_folder_base, "splits_final.json")
            dataset_class = self.dataset_class or infer_dataset_class(self.preprocessed_dataset_folder)
            cases = sorted(dataset_class.get_identifiers(self.preprocessed_dataset_folder))
            warning = self.case_sets.warning(cases, str(file.parent))
            if warning:
                self.print_to_log_file(warning)
            groups = self.case_sets.group(cases)
            if not file.exists() and self.local_rank == 0:
                self.print_to_log_file("Creating folds that keep sets together...")
                save_json(_folds(groups), str(file), sort_keys=False)
            if self.is_ddp:
                dist.barrier()
            folds = load_json(str(file))
            check_folds(folds, groups, str(file))
            if self.fold >= len(folds):
                raise ValueError(
                    f"fold {self.fold}: {file} has {len(folds)} folds, expected one of them or all (for other folds,"
                    " nnU-Net would divide the cases at random, and sets with them)"
                )
        train, val = super().do_split()
        return list(train), list(val)

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """As in nnU-Net; and checks that the cases of each set are on one grid."""
        datasets = super().get_tr_and_val_datasets()
        for dataset in datasets:
            for group in self.case_sets.group(dataset.identifiers):
                if len(group) > 1:
                    self._load_set(dataset, group)
        return datasets

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's, with loaders that draw sets."""
        patch_size = self.configuration_manager.patch_size
        scales = self._get_deep_supervision_scales()
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        labels = {
            "is_cascaded": self.is_cascaded,
            "foreground_labels": self.label_manager.foreground_labels,
            "regions": self.label_manager.foreground_regions if self.label_manager.has_regions else None,
            "ignore_label": self.label_manager.ignore_label,
        }
        mask = self.configuration_manager.use_mask_for_norm
        transforms = (
            self.get_training_transforms(
                patch_size, rotation, scales, mirror_axes, dummy_2d, use_mask_for_norm=mask, **labels
            ),
            self.get_validation_transforms(scales, **labels),
        )
        loaders = [
            SetDataLoader(
                dataset,
                self.case_sets.group(dataset.identifiers),
                self.case_sets.kind == "slices",
                self.case_sets.max_size,
                self.batch_size,
                size,
                patch_size,
                self.label_manager,
                oversample_foreground_percent=self.oversample_foreground_percent,
                transforms=transform,
            )
            for dataset, size, transform in zip(
                self.get_tr_and_val_datasets(), (initial_patch_size, patch_size), transforms, strict=True
            )
        ]
        processes = get_allowed_n_proc_DA()
        if processes == 0:
            generators: list[Any] = [SingleThreadedAugmenter(loader, None) for loader in loaders]
        else:
            generators = [
                NonDetMultiThreadedAugmenter(
                    loader,
                    None,
                    number,
                    num_cached=max(least, number // 2),
                    pin_memory=self.device.type == "cuda",
                    wait_time=0.002,
                )
                for loader, number, least in zip(loaders, (processes, max(1, processes // 2)), (6, 3), strict=True)
            ]
        for generator in generators:
            next(generator)
        return generators[0], generators[1]

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        with self._sets_of(batch):
            return super().train_step(batch)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        with self._sets_of(batch):
            return super().validation_step(batch)

    def load_checkpoint(self, filename_or_checkpoint: str | dict[str, Any]) -> None:
        """As in nnU-Net.

        Raises:
            ValueError: the checkpoint was trained with the other kind of sets.
        """
        super().load_checkpoint(filename_or_checkpoint)
        trained = self.my_init_kwargs["dataset_json"].get(SECTION, {}).get("sets")
        if trained != self.case_sets.kind:
            raise ValueError(
                f"the checkpoint was trained on sets of {trained}, but the dataset has sets of {self.case_sets.kind}:"
                " expected the same sets.csv and set_pattern as at the start"
            )

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predicts the validation cases, each set together, and evaluates them as nnU-Net does."""
        self.set_deep_supervision_enabled(False)
        self.network.eval()
        predictor = SetPredictor(device=self.device, allow_tqdm=False)
        predictor.manual_initialization(
            self.network,
            self.plans_manager,
            self.configuration_manager,
            None,
            self.dataset_json,
            type(self).__name__,
            self.inference_allowed_mirroring_axes,
        )
        world_size = dist.get_world_size() if self.is_ddp else 1
        output = Path(self.output_folder, "validation")
        output.mkdir(parents=True, exist_ok=True)
        _, cases = self.do_split()
        groups = self.case_sets.group(sorted(cases))
        dataset = self.dataset_class(self.preprocessed_dataset_folder, cases)
        with Exports(predictor, default_num_processes, save_probabilities) as exports:
            for i, group in enumerate(groups[self.local_rank :: world_size]):
                self.print_to_log_file(f"predicting {' + '.join(group)}")
                volumes, properties, starts = self._load_set(dataset, group)
                tensors = [torch.from_numpy(np.array(volume[:])) for volume in volumes]
                for case, about, logits in zip(group, properties, predictor.predict_set(tensors, starts), strict=True):
                    exports.add(logits, about, str(output / case))
                if self.is_ddp and (i + 1) % 20 == 0 and i + 1 < len(groups) // world_size:
                    dist.barrier()  # as nnU-Net does: a GPU that waits too long for another one fails
            exports.results()
        if self.is_ddp:
            dist.barrier()
        if self.local_rank == 0:
            self._evaluate(output, default_num_processes * world_size)
        self.set_deep_supervision_enabled(True)
        compute_gaussian.cache_clear()

    def _evaluate(self, predictions: Path, num_processes: int) -> None:
        """Writes summary.json of the predicted validation cases and logs its Dice."""
        labels = self.label_manager
        metrics = compute_metrics_on_folder(
            str(Path(self.preprocessed_dataset_folder_base, "gt_segmentations")),
            str(predictions),
            str(predictions / "summary.json"),
            self.plans_manager.image_reader_writer_class(),
            self.dataset_json["file_ending"],
            labels.foreground_regions if labels.has_regions else labels.foreground_labels,
            labels.ignore_label,
            chill=True,
            num_processes=num_processes,
        )
        for label, values in metrics["mean"].items():
            self.logger.log_summary(f"final_val/class_{label}_dice", values["Dice"])
        self.logger.log_summary("final_val/foreground_dice", metrics["foreground_mean"]["Dice"])
        self.print_to_log_file("Validation complete")
        self.print_to_log_file("Mean Validation Dice: ", metrics["foreground_mean"]["Dice"])

    def _set_batch_size_and_oversample(self) -> None:
        super()._set_batch_size_and_oversample()
        if self.batch_size < 2:
            raise ValueError(
                f"{self.batch_size} image per GPU: expected at least 2, since a set lies within one GPU's part of the"
                f" batch (the plans have a batch size of {self.configuration_manager.batch_size}: use fewer GPUs)"
            )
        if self.batch_size < self.case_sets.max_size:
            self.print_to_log_file(
                f"InterConv: sets have up to {self.batch_size} images in training, the size of a batch, instead of"
                f" {self.case_sets.max_size}"
            )

    def _sets_of(self, batch: dict[str, Any]) -> ik.use_sets:
        return ik.use_sets(ik.Sets.from_lengths(batch["lengths"], self.device))

    @staticmethod
    def _load_set(dataset: Any, group: tuple[str, ...]) -> tuple[list[Any], list[dict[str, Any]], list[Any]]:
        """Images (not yet read), properties and starts of the cases of a set."""
        loaded = [dataset.load_case(case) for case in group]
        images, properties = [data for data, *_ in loaded], [about for *_, about in loaded]
        return images, properties, starts_of(group, [data.shape[1:] for data in images], properties)

    def _check_slices(self) -> None:
        """Refuses a dataset of single 2-D images, whose sets would all have one image."""
        file = Path(self.preprocessed_dataset_folder_base or ".", "dataset_fingerprint.json")
        axis = self.plans_manager.transpose_forward[0]
        if file.exists() and all(shape[axis] == 1 for shape in load_json(str(file))["shapes_after_crop"]):
            raise ValueError(
                f"every case of {self.plans_manager.dataset_name} is one 2-D image, and nothing says which belong"
                f" together: expected a sets.csv with the columns set and case, beside dataset.json, or"
                f' "{SECTION}": {{"set_pattern": ...}} in dataset.json'
            )


def _check_2d(configuration: ConfigurationManager) -> None:
    if len(configuration.patch_size) != 2:
        raise ValueError(
            f"patch size {tuple(configuration.patch_size)}: nnUNetTrainerInterConv trains 2-D configurations only"
            " (InterConv layers are 2-D), expected the configuration 2d"
        )


def _folds(groups: list[tuple[str, ...]]) -> list[dict[str, list[str]]]:
    """Folds of nnU-Net's cross-validation, over sets."""
    if len(groups) < 2:
        raise ValueError(
            f"{len(groups)} set: expected at least 2, to train on some and validate on others (or fold all)"
        )
    names = [f"{i:06d}" for i in range(len(groups))]
    folds = generate_crossval_split(names, seed=12345, n_splits=min(NUM_FOLDS, len(groups)))
    return [{part: sorted(case for i in fold[part] for case in groups[int(i)]) for part in fold} for fold in folds]
