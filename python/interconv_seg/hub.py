"""The paper's networks as models of the Hugging Face Hub. Needs huggingface_hub and safetensors (the extra "hub")."""

from __future__ import annotations

from huggingface_hub import PyTorchModelHubMixin

from .networks import build
from .networks.base import SetNetwork
from .networks.registry import Features, Placement

__all__ = ["HubNetwork"]


class HubNetwork(
    SetNetwork,
    PyTorchModelHubMixin,
    library_name="interconv_seg",
    license="apache-2.0",
    pipeline_tag="image-segmentation",
    tags=["interconv", "medical-imaging"],
):
    """A network of `interconv_seg.build` with `save_pretrained`, `from_pretrained` and `push_to_hub`.

    Its state dict is that of the network from `build`. `save_pretrained(folder)` writes the arguments as config.json
    and the weights as model.safetensors; `from_pretrained(folder or "owner/name")` gives it in evaluation mode.

    Args:
        name: as in `build`, and so are the others.
        interconv: the placement.
        in_channels: channels of the images.
        classes: output channels.
        features: only for a family.

    Raises:
        ValueError: as in `build`.
        TypeError: likewise.
    """

    def __init__(
        self,
        name: str,
        interconv: Placement | None = None,
        in_channels: int = 1,
        classes: int = 21,
        features: Features | None = None,
    ):
        super().__init__(build(name, interconv, in_channels=in_channels, classes=classes, features=features).body)
