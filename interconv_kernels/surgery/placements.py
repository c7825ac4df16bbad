"""The paper's two placements of InterConv, for a network that already exists.

* append (the paper's text and Fig. 3, the authors' layer): an InterConv F -> F follows each layer with F output
features.
* replace (the paper's parameter counts): each Conv(C -> Co) becomes an InterConv C -> Co.

Both change the network in place and report what they did. What they cannot preserve exactly they leave alone. The
changed network gets its sets through `SetModel` or `use_sets`.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..modules import ACTIVATIONS, InterLinear, SetLayer
from ..typing import Algorithm, BackendName
from .checkpoints import identity_interconv, load_appended, load_merged
from .checks import LAZY, SCRIPTED, changed_object, dimensions, is_convolution, why_not
from .exchange import Renewal, conflict, describe, exchange, format_of, hand_over, nothing_changed
from .kinds import BY_AXES, CONVOLUTIONS, PLAIN, interconv_like, kind_of
from .report import SurgeryReport
from .selection import Where, predicate


def replace_with_interconv(
    model: nn.Module,
    where: Where | None = None,
    *,
    keep_outputs: bool = True,
    merge_activations: bool = False,
    algorithm: Algorithm = "auto",
    backend: BackendName = "auto",
) -> SurgeryReport:
    """Replaces every selected nn.Conv2d(C, Co) by an InterConv2d(C, Co) of the same kernel, stride and so on.

    Likewise nn.Conv1d and nn.Conv3d, and nn.Linear(C, Co) by InterLinear(C, Co) where `where` selects it.

    The weight [Co,2C,kh,kw] is a new parameter; it stays frozen or tied as it was. The bias, and what a user added to
    the layer (attributes, buffers), are the same objects as before. A layer stays as it is where this would not
    preserve the network exactly: other kinds of convolution, subclasses with methods of their own, parametrizations,
    hooks of any kind, weights that something else uses too, groups, padding modes other than zeros.

    Args:
        model: any network; changed in place.
        where: which modules: types, name patterns (as in fnmatch), a predicate (name, module) -> bool, `every(n)` or
            `deepest(levels, images)`. By default every convolution. A module that stands in several places is changed
            in all of them.
        keep_outputs: start with Wu = W, Ws = 0 and the same bias, so that the outputs of a trained network are
            unchanged at first, for any set size. False: new weights and biases, to train from scratch.
        merge_activations: in an nn.Sequential, move an nn.ReLU, nn.LeakyReLU or nn.PReLU that directly follows a
            replaced layer into that layer (`InterConv2d(activation=...)`), which makes inference faster; nn.Identity
            takes its place. Only for networks that run such an nn.Sequential as a whole.
        algorithm: of the new layers.
        backend: of the new layers.

    Returns:
        SurgeryReport, with the layers that stay, and the reasons, in `skipped`.

    Raises:
        ValueError: nothing was changed; the message says what was selected and why it stayed.
    """
    wanted = predicate(where, model) if where is not None else lambda _, module: is_convolution(module)
    renewed = ("weight",) if keep_outputs else ("weight", "bias")
    renew = Renewal()

    def reason(module: nn.Module) -> str | None:
        kind = kind_of(module, PLAIN)
        return why_not(module, PLAIN, renewed) or _unlike_interconv(module) or conflict(module, kind, PLAIN[kind])

    def build(module: nn.Module) -> nn.Module:
        weight, bias = module._parameters["weight"], module._parameters.get("bias")
        assert weight is not None
        layer = interconv_like(module, algorithm, backend)
        layer.weight = renew(weight, _widened)
        if keep_outputs:
            layer.bias = bias
        else:
            layer.bias = None if bias is None else renew(bias, torch.empty_like)
            layer.reset_parameters()
        hand_over(module, layer, kind_of(module, PLAIN))
        layer.training = module.training
        return layer

    report = exchange(model, lambda name, module: _is_free(module) and wanted(name, module), reason, build, renewed)
    if not report.changed:
        raise nothing_changed(report, where or "every convolution")
    if merge_activations:
        _merge_activations(report)
    return report


def append_interconv(
    model: nn.Module,
    where: Where = tuple(CONVOLUTIONS),
    kernel_size: int | tuple[int, ...] = 3,
    *,
    keep_outputs: bool = True,
    algorithm: Algorithm = "auto",
    backend: BackendName = "auto",
) -> SurgeryReport:
    """Adds an InterConv2d(F, F) after every selected layer: nn.Sequential(layer, InterConv2d) replaces the layer.

    After layers for signals or volumes it is an InterConv1d or InterConv3d, after an nn.Linear an InterLinear.

    Args:
        model: any network; changed in place.
        where: which modules, as in `replace_with_interconv`; by default every nn.Conv1d, nn.Conv2d and nn.Conv3d. F of
            a module is its `out_channels`, `num_features` or `out_features`, or that of the last child that has one.
        kernel_size: odd, an int or one for each axis; the paper uses 3 in convolutional networks and 1 in transformers.
        keep_outputs: start with Wu = identity, Ws = 0 and zero bias, so that the outputs of a trained network are
            unchanged at first, for any set size. False: new weights, to train from scratch.
        algorithm: of the new layers.
        backend: of the new layers.

    Returns:
        SurgeryReport, with layers of unknown F in `skipped`.

    Raises:
        ValueError: nothing was changed, or an even kernel.
    """

    def reason(module: nn.Module) -> str | None:
        if isinstance(module, torch.jit.ScriptModule):
            return SCRIPTED
        if any(is_lazy(parameter) for parameter in module.parameters()):
            return LAZY
        features = _features(module)
        if features is None:
            return f"{type(module).__name__} does not tell its number of features (out_channels or num_features)"
        return "it is quantized" if hasattr(features[1], "_packed_params") else None

    def build(module: nn.Module) -> nn.Module:
        features = _features(module)
        assert features is not None
        like = next(module.parameters(), None)
        settings: dict[str, Any] = {"algorithm": algorithm, "backend": backend, "device": "meta"}
        settings["dtype"] = None if like is None else like.dtype
        if isinstance(features[1], nn.Linear):
            layer: SetLayer = InterLinear(features[0], **settings)
        else:
            layer = BY_AXES[dimensions(features[1]) or 2](features[0], kernel_size=kernel_size, **settings)
        device = torch.get_default_device() if like is None else like.device
        if keep_outputs:
            layer.load_state_dict(identity_interconv(layer, device), assign=True)
        else:
            layer.to_empty(device=device)
            layer.reset_parameters()
        if like is not None:
            layer.weight = nn.Parameter(layer.weight.contiguous(memory_format=format_of(like)))
        pair = nn.Sequential(module, layer)
        pair.training = layer.training = module.training
        pair.register_load_state_dict_pre_hook(load_appended)
        return pair

    wanted = predicate(where, model)
    report = exchange(model, lambda name, module: _is_free(module) and wanted(name, module), reason, build)
    if not report.changed:
        raise nothing_changed(report, where)
    return report


def _is_free(module: nn.Module) -> bool:
    """Whether it is no layer of this library already."""
    return not isinstance(module, SetLayer)


def _unlike_interconv(module: nn.Module) -> str | None:
    """Why no layer of this library computes what a plain one does, or None."""
    if isinstance(module, nn.Linear):
        return None
    assert isinstance(module, nn.modules.conv._ConvNd)
    if module.groups != 1:
        return f"it has groups={module.groups}, and InterConv mixes all channels"
    if module.padding_mode != "zeros":
        return f"it has padding_mode={module.padding_mode!r}, and InterConv pads with zeros"
    kernel_size = tuple(module.weight.shape[2:])
    if module.padding == "same" and any(k % 2 == 0 for k in kernel_size):
        return f'it has kernel {kernel_size} with padding "same", which is uneven'
    return None


def _widened(weight: Tensor) -> Tensor:
    """[W | 0]."""
    return torch.cat([weight, torch.zeros_like(weight)], dim=1)


def _merge_activations(report: SurgeryReport) -> None:
    """Moves activations that directly follow a changed layer in an nn.Sequential into that layer."""
    entries = {change.name: i for i, change in enumerate(report.changed)}
    places = Counter(id(module) for _, module in report.model.named_modules(remove_duplicate=False))
    merged: dict[nn.Module, None] = {}
    for name, parent in list(report.model.named_modules()):
        children = list(parent.named_children()) if type(parent) is nn.Sequential else []
        for (key, layer), (next_key, activation) in pairwise(children):
            entry = entries.get(f"{name}.{key}" if name else key)
            if entry is None or type(activation) not in ACTIVATIONS or changed_object(activation):
                continue
            if places[id(layer)] > 1:  # elsewhere another activation, or none, may follow it
                continue
            assert isinstance(layer, SetLayer)
            layer.activation = activation
            parent._modules[next_key] = nn.Identity()
            merged[parent] = None
            change = report.changed[entry]
            report.changed[entry] = change._replace(
                before=f"{change.before} + {describe(activation)}", after=describe(layer)
            )
    for parent in merged:
        parent.register_load_state_dict_pre_hook(load_merged)


def _features(module: nn.Module) -> tuple[int, nn.Module] | None:
    """How many features a module returns, and which module tells: it or its last descendant that does."""
    for attribute in ("out_channels", "num_features", "out_features"):
        if isinstance(number := getattr(module, attribute, None), int):
            return number, module
    found = (_features(child) for child in reversed(list(module.children())))
    return next((features for features in found if features is not None), None)
