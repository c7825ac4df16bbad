"""A small nnU-Net in plans, for the tests of its parts."""

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

PATCH = (32, 32)
DATASET = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}
PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


def plans(network=PLAIN, patch_size=PATCH):
    arguments = {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * 3,
        "strides": [[1, 1], [2, 2], [2, 2]],
        "n_blocks_per_stage" if network == RESIDUAL else "n_conv_per_stage": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    imported = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    architecture = {"network_class_name": network, "arch_kwargs": arguments, "_kw_requires_import": imported}
    configuration = {"batch_size": 6, "patch_size": list(patch_size), "architecture": architecture, "spacing": [1, 1]}
    return PlansManager({"dataset_name": "Dataset501_X", "plans_name": "p", "configurations": {"2d": configuration}})


def build(trainer, manager):
    torch.manual_seed(0)
    return trainer.build_network_architecture(manager, manager.get_configuration("2d"), 1, 3, False)
