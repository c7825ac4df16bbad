"""Which layers of torch.nn and of this library stand for each other."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..modules import InterConv1d, InterConv2d, InterConv3d, InterConvNd, InterLinear, SetLayer
from ..typing import Algorithm, BackendName

CONVOLUTIONS: dict[type[nn.Module], type[InterConvNd]] = {
    nn.Conv1d: InterConv1d,
    nn.Conv2d: InterConv2d,
    nn.Conv3d: InterConv3d,
}
PLAIN: dict[type[nn.Module], type[SetLayer]] = {**CONVOLUTIONS, nn.Linear: InterLinear}
BY_AXES = {kind.axes: kind for kind in CONVOLUTIONS.values()}
PLAIN_OF = {kind: plain for plain, kind in PLAIN.items()}


def kind_of(module: nn.Module, kinds: Any) -> Any:
    """The first of `kinds` that the module is an instance of, or None."""
    return next((kind for kind in kinds if isinstance(module, kind)), None)


def interconv_like(module: nn.Module, algorithm: Algorithm, backend: BackendName) -> SetLayer:
    """A layer of this library, on the meta device, with the sizes and settings of a plain layer."""
    weight = module._parameters["weight"]
    assert weight is not None
    out_channels, in_channels, *kernel_size = weight.shape  # what the attributes say may be out of date
    settings: dict[str, Any] = {"bias": module._parameters.get("bias") is not None, "device": "meta"}
    settings |= {"algorithm": algorithm, "backend": backend}
    if isinstance(module, nn.Linear):
        return InterLinear(in_channels, out_channels, **settings)
    settings |= {name: getattr(module, name) for name in ("stride", "padding", "dilation")}
    if module.padding == "valid":
        settings["padding"] = 0
    return CONVOLUTIONS[kind_of(module, CONVOLUTIONS)](in_channels, out_channels, tuple(kernel_size), **settings)


def plain_like(layer: SetLayer) -> nn.Module:
    """The layer of torch.nn, on the meta device and without a bias, with the sizes and settings of `layer`."""
    kind: Any = PLAIN_OF[kind_of(layer, PLAIN_OF)]
    if isinstance(layer, InterLinear):
        return nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    assert isinstance(layer, InterConvNd)
    sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    made: nn.Module = kind(*sizes, bias=False, device="meta")
    return made
