"""The layer as a module, and a wrapper that passes sets to networks that only pass x."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ._backends.registry import check_name
from .algorithms import NAMES
from .as_sets import as_sets
from .errors import unknown_name
from .functional import int_pair, interconv2d, resolve_padding
from .set_context import current_sets, use_sets
from .typing import Algorithm, BackendName, Padding, SetsLike

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU)


class InterConv2d(nn.Module):
    """The InterConv layer: y_i = act(conv(concat(u_i, s); weight) + bias), s the mean of the sample's set (Eq. 1-3).

    Channels are counted per sample. The weight [Co,2C,kh,kw] has the half for u_i first, then the half for s; it is
    initialised as that of nn.Conv2d(2C, Co). State dicts of the authors' layer (`conv.weight`, `conv.bias`) load as
    they are; those of an nn.Conv2d(C, Co), with weight W [Co,C,kh,kw], load as [W | 0].

    Args:
        in_channels: C.
        out_channels: Co, by default C.
        kernel_size: an int or (height, width).
        stride: as in `interconv2d`.
        padding: as in `interconv2d`.
        dilation: as in `interconv2d`.
        bias: whether to learn a bias.
        activation: nn.ReLU, nn.LeakyReLU or nn.PReLU, applied to the result; without gradients by the kernels
            themselves. None: no activation.
        algorithm: as in `interconv2d`.
        backend: as in `interconv2d`.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: sizes below 1, an even kernel with padding "same", or unknown names.
        TypeError: types that do not fit, or another activation.
    """

    _version = 2  # of its entry in a state dict; that of an nn.Conv2d is 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: Padding = "same",
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        activation: nn.Module | None = None,
        algorithm: Algorithm = "auto",
        backend: BackendName = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        channels = int_pair("(in_channels, out_channels)", (in_channels, out_channels), minimum=1)
        self.in_channels, self.out_channels = channels
        self.kernel_size = int_pair("kernel_size", kernel_size, minimum=1)
        self.stride, self.dilation = int_pair("stride", stride, minimum=1), int_pair("dilation", dilation, minimum=1)
        self.padding = resolve_padding(padding, self.kernel_size, self.dilation)
        if algorithm not in NAMES:
            raise unknown_name("algorithm", algorithm, NAMES)
        check_name(backend)
        self.algorithm, self.backend = algorithm, backend
        shape = (self.out_channels, 2 * self.in_channels, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        if activation is not None and type(activation) not in ACTIVATIONS:
            raise TypeError(f"activation = {activation!r}: expected nn.ReLU, nn.LeakyReLU, nn.PReLU or None")
        self.activation = activation
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Samples weight and bias uniformly from +-1/sqrt(2C kh kw), as nn.Conv2d(2C, Co) does."""
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, u: Tensor, sets: SetsLike | None = None) -> Tensor:
        """Applies the layer.

        Args:
            u: packed [N,C,H,W], dense [B,K,C,H,W] or jagged, as in `interconv2d`.
            sets: as in `interconv2d`. Packed u without `sets` uses those of the enclosing `use_sets` or `SetModel`.

        Returns:
            y of the same form, with Co channels.

        Raises:
            ValueError: no sets; and as in `interconv2d`.
            TypeError: as in `interconv2d`.
        """
        if isinstance(u, Proxy):  # torch.fx traces the network: this layer is one node, as those of torch.nn are
            given = () if sets is None else (sets,)
            return u.tracer.create_proxy("call_module", u.tracer.path_of_module(self), (u, *given), {})
        if sets is None and u.dim() == 4 and not u.is_nested:
            sets = current_sets()
            if sets is None:
                raise ValueError(
                    f"InterConv2d got packed u {tuple(u.shape)} and no sets. Pass them, layer(u, sets); or, where a"
                    " network only passes x, call ik.SetModel(network)(x, sets) or use `with ik.use_sets(sets):`"
                )
        return interconv2d(
            u,
            self.weight,
            self.bias,
            sets,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            negative_slope=_slope_of(self.activation),
            algorithm=self.algorithm,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, padding={self.padding}"
        text += "" if self.stride == (1, 1) else f", stride={self.stride}"
        text += "" if self.dilation == (1, 1) else f", dilation={self.dilation}"
        text += ", bias=False" if self.bias is None else ""
        text += "" if self.algorithm == "auto" else f", algorithm={self.algorithm!r}"
        return text + ("" if self.backend == "auto" else f", backend={self.backend!r}")

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """Accepts the authors' names (their layer has its convolution as `conv`) and the weight of an nn.Conv2d."""
        is_interconv = local_metadata.get("version") == self._version  # if the shape is W's: of half as many channels
        for name in ("weight", "bias"):
            if f"{prefix}conv.{name}" in state_dict and f"{prefix}{name}" not in state_dict:
                state_dict[f"{prefix}{name}"] = state_dict.pop(f"{prefix}conv.{name}")
                is_interconv = True
        weight = state_dict.get(f"{prefix}weight")
        plain_shape = (self.out_channels, self.in_channels, *self.kernel_size)
        if isinstance(weight, Tensor) and weight.shape == plain_shape and not is_interconv:
            state_dict[f"{prefix}weight"] = torch.cat([weight, torch.zeros_like(weight)], dim=1)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def _slope_of(activation: nn.Module | None) -> float | Tensor | None:
    """`negative_slope` of `interconv2d`."""
    if isinstance(activation, nn.PReLU):
        return activation.weight
    if isinstance(activation, nn.LeakyReLU):
        return activation.negative_slope
    return None if activation is None else 0.0


class SetModel(nn.Module):
    """Wraps a network that only passes x, so that it takes sets: `SetModel(network)(x, sets)`.

    Args:
        network: any network with InterConv2d layers.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sets: SetsLike, *args: Any, **kwargs: Any) -> Any:
        """network(x, *args, **kwargs), where every InterConv2d that is given no sets uses these.

        Args:
            x: [N, ...].
            sets: as in `interconv2d`, for the first dimension of x.
            *args: passed on.
            **kwargs: passed on.

        Raises:
            TypeError: torch.fx traces this module; it can trace the network inside.
        """
        if isinstance(x, Proxy):
            raise TypeError(
                "torch.fx cannot trace SetModel, which converts the sets: expected its network alone, and a SetModel"
                " around the result, ik.SetModel(torch.fx.symbolic_trace(model.network))"
            )
        with use_sets(as_sets(sets, x.shape[0], x.device)):
            return self.network(x, *args, **kwargs)
