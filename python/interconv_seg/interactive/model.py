"""The network under a session: from runs, or the default one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import interconv_kernels as ik

from .operations import Size

MAX_SET = 8  # of networks that do not say the size of the sets in their training
SIZE = (128, 128)  # of networks that do not say theirs


@dataclass(frozen=True)
class Model:
    """A network that segments sets of images from prompts.

    Attributes:
        name: for people.
        network: (inputs float32 [N,channels+2,H,W], sets) -> logits [N,1,H,W]. The channels of the inputs are those of
            the image, in [0, 1], positive prompts and negative prompts.
        size: (H, W) of the inputs.
        channels: of the images.
        max_set: the maximum number of images in a set.
        device: where the network is.
    """

    name: str
    network: Callable[[Tensor, ik.Sets], Tensor]
    size: Size = SIZE
    channels: int = 1
    max_set: int = MAX_SET
    device: torch.device | str = "cpu"

    @torch.inference_mode()
    def probabilities(self, inputs: Tensor, lengths: Sequence[int]) -> Tensor:
        """Probabilities of the structure.

        Args:
            inputs: a packed batch, as in `network`.
            lengths: the number of images in each set.

        Returns:
            float32 [N,H,W], on the CPU.
        """
        sets = ik.Sets.from_lengths(lengths, device=self.device)
        return self.network(inputs.to(self.device), sets)[:, 0].float().sigmoid().cpu()

    @classmethod
    def open(cls, folders: Sequence[Path], device: torch.device | str = "cpu") -> Model:
        """Loads runs in interactive mode. The probabilities of several are averaged.

        Args:
            folders: of the runs.
            device: where the networks go.

        Raises:
            ValueError: as in `Ensemble.open`, or the runs are not in interactive mode.
        """
        from ..inference import Ensemble, check_mode

        ensemble = Ensemble.open(folders, device)
        config = ensemble.config
        check_mode(config, prompts=True)
        networks = ensemble.networks

        def mean_logits(inputs: Tensor, sets: ik.Sets) -> Tensor:
            if len(networks) == 1:
                return networks[0](inputs, sets)
            return torch.stack([network(inputs, sets).float().sigmoid() for network in networks]).mean(0).logit()

        weights = sum(weight.numel() for network in networks for weight in network.parameters())
        name = f"{config.network}{'' if config.interconv is None else ' with InterConv'}, {weights:,} parameters"
        max_set = config.set_sizes[1] if config.set_sizes else MAX_SET
        return cls(name, mean_logits, config.size or SIZE, config.channels, max(2, max_set), device)


def default_model(device: torch.device | str = "cpu") -> Model | None:
    """The network that comes with the package.

    Args:
        device: where it goes.

    Returns:
        None: no such network comes with this version.
    """
    del device
    return None
