"""The layers as modules, and a wrapper that passes sets to networks that only pass x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ._backends.registry import check_name
from .algorithms import NAMES
from .arguments import ints, resolve_padding
from .as_sets import as_sets
from .errors import unknown_name
from .functional import interconv1d, interconv2d, interconv3d, interlinear
from .set_context import current_sets, use_sets
from .typing import Algorithm, BackendName, Padding, SetsLike

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU)


class SetLayer(nn.Module):
    """What the layers over sets share: y_i = act(f(concat(u_i, s); weight) + bias) with a linear map f.

    The weight [Co,2C,...] has the half for u_i first, then the half for s. State dicts of the authors' layer
    (`conv.weight`, `conv.bias`) load as they are; those of the plain layer, with weight W [Co,C,...], load as [W | 0].
    """

    _version = 2  # of its entry in a state dict; that of a layer of torch.nn is 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        bias: bool,
        activation: nn.Module | None,
        algorithm: Algorithm,
        backend: BackendName,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ):
        super().__init__()
        if algorithm not in NAMES:
            raise unknown_name("algorithm", algorithm, NAMES)
        check_name(backend)
        self.algorithm, self.backend = algorithm, backend
        shape = (out_channels, 2 * in_channels, *kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        if activation is not None and type(activation) not in ACTIVATIONS:
            raise TypeError(f"activation = {activation!r}: expected nn.ReLU, nn.LeakyReLU, nn.PReLU or None")
        self.activation = activation
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Samples weight and bias uniformly from +-1/sqrt(fan in), as the layers of torch.nn with 2C channels do."""
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, u: Tensor, sets: SetsLike | None = None) -> Tensor:
        """Applies the layer.

        Args:
            u: packed samples [N,...], or another form that the function of the layer takes.
            sets: as in `interconv2d`. Packed u without `sets` uses those of the enclosing `use_sets` or `SetModel`.

        Returns:
            y of the same form, with Co channels.

        Raises:
            ValueError: no sets; and as in the function of the layer.
            TypeError: as in the function of the layer.
        """
        if isinstance(u, Proxy):  # torch.fx traces the network: this layer is one node, as those of torch.nn are
            given = () if sets is None else (sets,)
            return u.tracer.create_proxy("call_module", u.tracer.path_of_module(self), (u, *given), {})
        if sets is None and self._is_packed(u):
            sets = current_sets()
            if sets is None:
                raise ValueError(
                    f"{type(self).__name__} got packed u {tuple(u.shape)} and no sets. Pass them, layer(u, sets); or,"
                    " where a network only passes x, call ik.SetModel(network)(x, sets) or use"
                    " `with ik.use_sets(sets):`"
                )
        return self._compute(u, sets, _slope_of(self.activation))

    def _is_packed(self, u: Tensor) -> bool:
        """Whether u needs sets."""
        raise NotImplementedError

    def _compute(self, u: Tensor, sets: SetsLike | None, negative_slope: float | Tensor | None) -> Tensor:
        """The function of the layer."""
        raise NotImplementedError

    def _choice_repr(self) -> str:
        """The end of `extra_repr`."""
        text = ", bias=False" if self.bias is None else ""
        text += "" if self.algorithm == "auto" else f", algorithm={self.algorithm!r}"
        return text + ("" if self.backend == "auto" else f", backend={self.backend!r}")

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        """Accepts the authors' names (their layer has its convolution as `conv`) and the weight of the plain layer."""
        is_interconv = local_metadata.get("version") == self._version  # if the shape is W's: of half as many channels
        for name in ("weight", "bias"):
            if f"{prefix}conv.{name}" in state_dict and f"{prefix}{name}" not in state_dict:
                state_dict[f"{prefix}{name}"] = state_dict.pop(f"{prefix}conv.{name}")
                is_interconv = True
        weight = state_dict.get(f"{prefix}weight")
        out_channels, channels, *kernel_size = self.weight.shape
        plain_shape = (out_channels, channels // 2, *kernel_size)
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


class InterConvNd(SetLayer):
    """What `InterConv1d`, `InterConv2d` and `InterConv3d` share; their arguments are those of `InterConv2d`."""

    axes: ClassVar[int]
    _function: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | tuple[int, ...] = 3,
        stride: int | tuple[int, ...] = 1,
        padding: Padding = "same",
        dilation: int | tuple[int, ...] = 1,
        bias: bool = True,
        activation: nn.Module | None = None,
        algorithm: Algorithm = "auto",
        backend: BackendName = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        in_channels, out_channels = _sizes("channels", in_channels, out_channels)
        kernel_size = ints("kernel_size", kernel_size, self.axes, minimum=1)
        stride, dilation = (
            ints(name, value, self.axes, minimum=1) for name, value in (("stride", stride), ("dilation", dilation))
        )
        padding = resolve_padding(padding, kernel_size, dilation)
        super().__init__(in_channels, out_channels, kernel_size, bias, activation, algorithm, backend, device, dtype)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def _is_packed(self, u: Tensor) -> bool:
        return u.dim() == self.axes + 2 and not u.is_nested

    def _compute(self, u: Tensor, sets: SetsLike | None, negative_slope: float | Tensor | None) -> Tensor:
        return type(self)._function(
            u,
            self.weight,
            self.bias,
            sets,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            negative_slope=negative_slope,
            algorithm=self.algorithm,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, padding={self.padding}"
        text += "" if max(self.stride) == 1 else f", stride={self.stride}"
        text += "" if max(self.dilation) == 1 else f", dilation={self.dilation}"
        return text + self._choice_repr()


class InterConv2d(InterConvNd):
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

    axes = 2
    _function = staticmethod(interconv2d)


class InterConv1d(InterConvNd):
    """`InterConv2d` for signals [N,C,L], with weight [Co,2C,k]; its arguments are ints or (length,)."""

    axes = 1
    _function = staticmethod(interconv1d)


class InterConv3d(InterConvNd):
    """`InterConv2d` for volumes [N,C,D,H,W], with weight [Co,2C,kd,kh,kw]; ints or (depth, height, width)."""

    axes = 3
    _function = staticmethod(interconv3d)


class InterLinear(SetLayer):
    """The layer for tokens [N,...,C]: y_i = act(linear(concat(u_i, s); weight) + bias), s the mean of the set's tokens.

    The paper uses it in transformers, as InterConv of kernel size 1. The weight [Co,2C] has the half for u_i first; it
    is initialised as that of nn.Linear(2C, Co).

    Args:
        in_features: C.
        out_features: Co, by default C.
        bias: whether to learn a bias.
        activation: as in `InterConv2d`.
        algorithm: as in `interconv2d`.
        backend: as in `interconv2d`.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: sizes below 1, or unknown names.
        TypeError: types that do not fit, or another activation.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        bias: bool = True,
        activation: nn.Module | None = None,
        algorithm: Algorithm = "auto",
        backend: BackendName = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        in_features, out_features = _sizes("features", in_features, out_features)
        super().__init__(in_features, out_features, (), bias, activation, algorithm, backend, device, dtype)
        self.in_features, self.out_features = in_features, out_features

    def _is_packed(self, u: Tensor) -> bool:
        return True

    def _compute(self, u: Tensor, sets: SetsLike | None, negative_slope: float | Tensor | None) -> Tensor:
        settings: dict[str, Any] = {"algorithm": self.algorithm, "backend": self.backend}
        return interlinear(u, self.weight, self.bias, sets, negative_slope=negative_slope, **settings)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}{self._choice_repr()}"


def _sizes(of: str, number_in: int, number_out: int | None) -> tuple[int, int]:
    """(in, out), where the latter is the former by default."""
    pair = (number_in, number_in if number_out is None else number_out)
    if any(isinstance(x, bool) or not isinstance(x, int) for x in pair):
        raise TypeError(f"(in_{of}, out_{of}) = {pair!r}: expected two ints")
    if min(pair) < 1:
        raise ValueError(f"(in_{of}, out_{of}) = {pair!r}: expected at least 1")
    return pair


class SetModel(nn.Module):
    """Wraps a network that only passes x, so that it takes sets: `SetModel(network)(x, sets)`.

    Args:
        network: any network with layers of this library.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sets: SetsLike, *args: Any, **kwargs: Any) -> Any:
        """network(x, *args, **kwargs), where every layer that is given no sets uses these.

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
