"""Exchanges layers of a network for others, and reports it: what the placements and `revert` share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..layout import CHANNELS_LAST
from ..modules import ACTIVATIONS, SetLayer
from .checks import SharedMemory, plain_references, wrapper_of_parameters
from .report import Change, SurgeryReport


class Place(NamedTuple):
    """Where a module stands in a network.

    Attributes:
        name: its full name there.
        parent: the module that holds it, None for the network itself.
        key: its name in the parent.
        module: the module.
        blocked: why nothing can be changed there, or None.
    """

    name: str
    parent: nn.Module | None
    key: str
    module: nn.Module
    blocked: str | None


class Renewal:
    """Makes the new parameters of a network: tied ones stay tied, frozen ones frozen."""

    def __init__(self) -> None:
        self.made: dict[nn.Parameter, nn.Parameter] = {}

    def __call__(self, old: nn.Parameter, make: Callable[[torch.Tensor], torch.Tensor]) -> nn.Parameter:
        """make(old) as a parameter with `requires_grad` and the attributes of the old one."""
        if old not in self.made:
            new = nn.Parameter(make(old.detach()), old.requires_grad)
            new.__dict__.update(old.__dict__)
            self.made[old] = new
        return self.made[old]


def format_of(tensor: torch.Tensor) -> torch.memory_format:
    """The memory format of a parameter."""
    fmt = CHANNELS_LAST.get(tensor.dim(), torch.contiguous_format)
    return fmt if tensor.is_contiguous(memory_format=fmt) and not tensor.is_contiguous() else torch.contiguous_format


def exchange(
    model: nn.Module,
    wanted: Callable[[str, nn.Module], bool],
    reason: Callable[[nn.Module], str | None],
    build: Callable[[nn.Module], nn.Module],
    renewed: Sequence[str] = (),
    note: Callable[[nn.Module], str] = lambda _: "",
) -> SurgeryReport:
    """Puts build(module) in the place of every wanted module that nothing speaks against.

    Args:
        model: the network, changed in place.
        wanted: which modules.
        reason: why a module must stay, or None.
        build: makes what stands in its place.
        renewed: the names of the parameters that are replaced by new ones, so that ties have to be kept.
        note: what the report adds to a change.
    """
    before = list(model.parameters())
    report = SurgeryReport(model, counts=(_count(before), 0))
    all_places: defaultdict[nn.Module, list[Place]] = defaultdict(list)
    for place in _places(model):
        all_places[place.module].append(place)
    # A module in several places is changed once, in all of them, whatever the name that selects it.
    selected = {module: places for module, places in all_places.items() if any(wanted(p.name, module) for p in places)}
    reasons = _reasons(model, selected, reason, renewed)
    with torch.inference_mode(False), torch.no_grad():
        built = {module: build(module) for module in selected if module not in reasons}  # an error changes nothing
    for module, places in selected.items():
        name = places[0].name
        if module in reasons:
            report.skipped.append((name, reasons[module]))
            continue
        notes = [note(module), *_frozen(module, renewed), _others(places)]
        change = Change(name, describe(module), describe(built[module]), "; ".join(filter(None, notes)))
        report.changed.append(change)
        for place in places:
            if place.parent is None:
                report.model = built[module]
            else:
                place.parent._modules[place.key] = built[module]
    finish(report, before)
    return report


def finish(report: SurgeryReport, before: list[nn.Parameter]) -> None:
    """Fills in what the report says about parameters, of which the network had `before`."""
    after = list(report.model.parameters())
    report.parameters = [parameter for parameter in after if parameter not in set(before)]
    report.dead = len(set(before) - set(after))
    report.counts = (_count(before), _count(after))


def nothing_changed(report: SurgeryReport, where: object) -> ValueError:
    """The error when there was nothing to change."""
    reasons = "".join(f"\n  {name or '(the model)'}: {reason}" for name, reason in report.skipped)
    return ValueError(
        f"nothing to change in {type(report.model).__name__}: {where!r} selects {len(report.skipped)} layers{reasons}"
    )


def conflict(module: nn.Module, kind: type[nn.Module], other: type[nn.Module]) -> str | None:
    """Why what a user added to a `kind` cannot be given to an `other`, or None."""
    taken = [name for name in _added(module, kind) if hasattr(_prototype(other), name)]
    return f"it has an attribute {taken[0]!r} of its own, and so has {other.__name__}" if taken else None


def hand_over(old: nn.Module, new: nn.Module, kind: type[nn.Module]) -> None:
    """Gives the new layer what a user added to the old one, a `kind`: attributes, buffers, parameters, modules."""
    added = _added(old, kind)
    for there, here in zip(_stores(new), _stores(old), strict=True):
        there.update((name, here[name]) for name in added if name in here)
    new._non_persistent_buffers_set |= old._non_persistent_buffers_set


def describe(module: nn.Module) -> str:
    """A layer on one line."""
    if isinstance(module, nn.Sequential):
        return " + ".join(describe(child) for child in module)
    activation = getattr(module, "activation", None)
    merged = f", activation={describe(activation)}" if isinstance(activation, ACTIVATIONS) else ""
    try:
        return f"{type(module).__name__}({module.extra_repr()}{merged})"
    except TypeError:  # its own, where a user has set an int for a pair
        return f"{type(module).__name__}(...{merged})"


def _added(module: nn.Module, kind: type[nn.Module]) -> list[str]:
    """The names of what a module has and a fresh `kind` has not."""
    plain = _prototype(kind)
    return [name for store in _stores(module) for name in store if not hasattr(plain, name)]


def _stores(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return vars(module), module._parameters, module._buffers, module._modules


def _prototype(kind: type[nn.Module]) -> nn.Module:
    return kind(1, 1, 1, device="meta")


def _places(
    module: nn.Module, name: str = "", parent: nn.Module | None = None, key: str = "", blocked: str | None = None
) -> Iterator[Place]:
    """Every place in the tree, without what is inside layers of this library."""
    yield Place(name, parent, key, module, blocked)
    if isinstance(module, SetLayer):
        return
    blocked = blocked or wrapper_of_parameters(module)
    for child_key, child in module._modules.items():
        if child is not None:
            yield from _places(child, f"{name}.{child_key}" if name else child_key, module, child_key, blocked)


def _reasons(
    model: nn.Module,
    selected: dict[nn.Module, list[Place]],
    reason: Callable[[nn.Module], str | None],
    renewed: Sequence[str],
) -> dict[nn.Module, str]:
    """Why modules stay."""
    references, memory = plain_references(model), SharedMemory(model)

    def first_reason(module: nn.Module, places: list[Place]) -> str | None:
        for why in (*(place.blocked for place in places), reason(module)):
            if why:
                return why
        held = {"it": module, **{f"its {name}": module._parameters.get(name) for name in renewed}}
        found = (
            f"{references[id(x)]} refers to {what} as a plain attribute"
            for what, x in held.items()
            if id(x) in references
        )
        return next(found, None)

    found = {module: first_reason(module, places) for module, places in selected.items()}
    reasons = {module: why for module, why in found.items() if why}
    while True:  # a layer that stays because of a tie may hold back others
        changed = [module for module in selected if module not in reasons]
        ties = [(module, memory.untied(module, name, changed)) for module in changed for name in renewed]
        held_back = {module: why for module, why in ties if why}
        if not held_back:
            return reasons
        reasons |= held_back


def _others(places: list[Place]) -> str:
    """Where else a module stands."""
    if len(places) == 1:
        return ""
    return f"also {places[1].name}" + (f" and {len(places) - 2} more places" if len(places) > 2 else "")


def _frozen(module: nn.Module, renewed: Sequence[str]) -> list[str]:
    parameters = [(name, module._parameters[name]) for name in renewed]
    return [f"its {name} stays frozen" for name, value in parameters if value is not None and not value.requires_grad]


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters if not is_lazy(parameter))
