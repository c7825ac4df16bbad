"""The paper's two placements of InterConv, for a network that already exists.

* append (the paper's text and Fig. 3, the authors' layer): an InterConv F -> F follows each layer with F output
features.
* replace (the paper's parameter counts): each Conv(C -> Co) becomes an InterConv C -> Co.

Both change the network in place and report what they did. The changed network gets its sets through `SetModel` or
`use_sets`.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from .functional import int_pair
from .modules import ACTIVATIONS, InterConv2d
from .typing import Algorithm, BackendName

# Module types, a name pattern such as "encoder.*.conv", a predicate on (name, module), or several of the first two.
Selector = (
    type[nn.Module]
    | str
    | Callable[[str, nn.Module], bool]
    | tuple[type[nn.Module] | str, ...]
    | list[type[nn.Module] | str]
)


@dataclass
class SurgeryReport:
    """What a placement changed.

    Attributes:
        model: the changed network: the object that was given, unless that itself was a layer to change.
        changed: (name, before, after) of each changed layer.
        skipped: (name, reason) of each selected layer that was left as it is.
        parameters: the number of parameters of the network, (before, after).
    """

    model: nn.Module
    changed: list[tuple[str, str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    parameters: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        lines = [f"{len(self.changed)} layers changed, parameters {self.parameters[0]:,} -> {self.parameters[1]:,}"]
        lines += [f"  {name or '(the model)'}: {before} -> {after}" for name, before, after in self.changed]
        lines += [f"  {name or '(the model)'}: left as it is, {reason}" for name, reason in self.skipped]
        return "\n".join(lines)


def replace_with_interconv(
    model: nn.Module,
    select: Selector = nn.Conv2d,
    *,
    keep_outputs: bool = True,
    merge_activations: bool = False,
    algorithm: Algorithm = "auto",
    backend: BackendName = "auto",
) -> SurgeryReport:
    """Replaces every selected nn.Conv2d(C, Co) by an InterConv2d(C, Co) of the same kernel, stride and so on.

    Args:
        model: any network; changed in place.
        select: which modules: types, name patterns (as in fnmatch) or a predicate (name, module) -> bool. By default
            every nn.Conv2d.
        keep_outputs: start with Wu = W, Ws = 0 and the same bias, so that the outputs of a trained network are
            unchanged at first, for any set size. False: new weights, to train from scratch.
        merge_activations: in an nn.Sequential, move an nn.ReLU, nn.LeakyReLU or nn.PReLU that directly follows a
            replaced layer into that layer (`InterConv2d(activation=...)`), which makes inference faster; nn.Identity
            takes its place. Only for networks that run such an nn.Sequential as a whole.
        algorithm: of the new layers.
        backend: of the new layers.

    Returns:
        SurgeryReport. Grouped convolutions and padding modes other than zeros stay, with the reason in `skipped`.

    Raises:
        ValueError: nothing was changed; the message says what was selected and why it stayed.
    """

    def build(name: str, module: nn.Module) -> nn.Module | str:
        if not isinstance(module, nn.Conv2d):
            return f"{type(module).__name__} is no nn.Conv2d"
        if module.groups != 1:
            return f"it has groups={module.groups}, and InterConv mixes all channels"
        if module.padding_mode != "zeros":
            return f"it has padding_mode={module.padding_mode!r}, and InterConv pads with zeros"
        padding: Any = 0 if module.padding == "valid" else module.padding
        if padding == "same" and any(k % 2 == 0 for k in module.kernel_size):
            return f'it has kernel {module.kernel_size} with padding "same", which is uneven'
        layer = InterConv2d(
            module.in_channels,
            module.out_channels,
            _pair(module.kernel_size),
            _pair(module.stride),
            padding,
            _pair(module.dilation),
            bias=module.bias is not None,
            algorithm=algorithm,
            backend=backend,
            device=module.weight.device,
            dtype=module.weight.dtype,
        )
        if keep_outputs:
            with torch.no_grad():
                layer.weight.zero_()
                layer.weight[:, : module.in_channels] = module.weight
                if layer.bias is not None and module.bias is not None:
                    layer.bias.copy_(module.bias)
        return layer

    report = _operate(model, select, build)
    if merge_activations:
        _merge_activations(report)
    return report


def append_interconv(
    model: nn.Module,
    after: Selector = nn.Conv2d,
    kernel_size: int | tuple[int, int] = 3,
    *,
    keep_outputs: bool = True,
    algorithm: Algorithm = "auto",
    backend: BackendName = "auto",
) -> SurgeryReport:
    """Adds an InterConv2d(F, F) after every selected layer: nn.Sequential(layer, InterConv2d) replaces the layer.

    Args:
        model: any network; changed in place.
        after: which modules, as `select` in `replace_with_interconv`. F of a module is its `out_channels` or
            `num_features`, or that of the last child that has one.
        kernel_size: odd; the paper uses 3 in convolutional networks and 1 in transformers.
        keep_outputs: start with Wu = identity, Ws = 0 and zero bias, so that the outputs of a trained network are
            unchanged at first, for any set size. False: new weights, to train from scratch.
        algorithm: of the new layers.
        backend: of the new layers.

    Returns:
        SurgeryReport, with layers of unknown F in `skipped`.

    Raises:
        ValueError: nothing was changed, or an even kernel.
    """
    int_pair("kernel_size", kernel_size, minimum=1)

    def build(name: str, module: nn.Module) -> nn.Module | str:
        features = _features(module)
        if features is None:
            return f"{type(module).__name__} does not tell its number of features (out_channels or num_features)"
        like = next(module.parameters(), None)
        layer = InterConv2d(
            features,
            kernel_size=kernel_size,
            algorithm=algorithm,
            backend=backend,
            device=None if like is None else like.device,
            dtype=None if like is None else like.dtype,
        )
        if keep_outputs:
            with torch.no_grad():
                layer.weight.zero_()
                nn.init.dirac_(layer.weight[:, :features])
                if layer.bias is not None:
                    layer.bias.zero_()
        return nn.Sequential(module, layer)

    return _operate(model, after, build)


def _operate(model: nn.Module, select: Selector, build: Callable[[str, nn.Module], nn.Module | str]) -> SurgeryReport:
    """Replaces each selected module by build(name, module); a string is the reason why it stays."""
    report = SurgeryReport(model, parameters=(_count(model), 0))
    wanted = _predicate(select)
    built: dict[int, nn.Module | str] = {}  # a module in several places is changed once, in all of them
    for name, parent, key, module in list(_places(model)):
        if not wanted(name, module):
            continue
        first = id(module) not in built
        new = built[id(module)] = build(name, module) if first else built[id(module)]
        if isinstance(new, str):
            report.skipped += [(name, new)] if first else []
            continue
        if first:
            new.train(module.training)
            report.changed.append((name, _brief(module), _brief(new)))
        if parent is None:
            report.model = new
        else:
            parent._modules[key] = new
    report.parameters = (report.parameters[0], _count(report.model))
    if not report.changed:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in report.skipped)
        raise ValueError(
            f"nothing to change in {type(model).__name__}: {select!r} selects {len(report.skipped)} layers{reasons}"
        )
    return report


def _merge_activations(report: SurgeryReport) -> None:
    """Moves activations that directly follow a changed layer in an nn.Sequential into that layer."""
    entries = {name: i for i, (name, _, _) in enumerate(report.changed)}
    places = Counter(id(module) for _, module in report.model.named_modules(remove_duplicate=False))
    for name, parent in list(report.model.named_modules()):
        children = list(parent.named_children()) if type(parent) is nn.Sequential else []
        for (key, layer), (next_key, activation) in pairwise(children):
            entry = entries.get(f"{name}.{key}" if name else key)
            if entry is None or type(activation) not in ACTIVATIONS or _has_hooks(activation):
                continue
            if places[id(layer)] > 1:  # elsewhere another activation, or none, may follow it
                continue
            assert isinstance(layer, InterConv2d)
            layer.activation = activation
            parent._modules[next_key] = nn.Identity()
            full_name, before, _ = report.changed[entry]
            report.changed[entry] = (full_name, f"{before} + {_brief(activation)}", _brief(layer))


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _places(
    module: nn.Module, name: str = "", parent: nn.Module | None = None, key: str = ""
) -> Iterator[tuple[str, nn.Module | None, str, nn.Module]]:
    """(full name, parent, key in the parent, module) of every place in the tree, InterConv2d layers left out."""
    if isinstance(module, InterConv2d):
        return
    yield name, parent, key, module
    for child_key, child in module._modules.items():
        if child is not None:
            yield from _places(child, f"{name}.{child_key}" if name else child_key, module, child_key)


def _predicate(select: Selector) -> Callable[[str, nn.Module], bool]:
    parts = tuple(select) if isinstance(select, (tuple, list)) else (select,)
    types = tuple(part for part in parts if isinstance(part, type))
    patterns = [part for part in parts if isinstance(part, str)]
    tests = [part for part in parts if callable(part) and not isinstance(part, type)]
    if len(types) + len(patterns) + len(tests) != len(parts):
        raise TypeError(f"{select!r}: expected module types, name patterns or a predicate (name, module) -> bool")

    def wanted(name: str, module: nn.Module) -> bool:
        if isinstance(module, types) or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return True
        return any(test(name, module) for test in tests)

    return wanted


def _features(module: nn.Module) -> int | None:
    for attribute in ("out_channels", "num_features"):
        if isinstance(getattr(module, attribute, None), int):
            return getattr(module, attribute)
    for child in reversed(list(module.children())):
        features = _features(child)
        if features is not None:
            return features
    return None


def _brief(module: nn.Module) -> str:
    if isinstance(module, nn.Sequential):
        return " + ".join(_brief(child) for child in module)
    activation = getattr(module, "activation", None)
    merged = f", activation={_brief(activation)}" if isinstance(activation, ACTIVATIONS) else ""
    return f"{type(module).__name__}({module.extra_repr()}{merged})"


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[1])


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
