"""Why a layer stays as it is: everything that a new layer in its place would not preserve exactly."""

from __future__ import annotations

import functools
import types
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from .kinds import kind_of

SCRIPTED = "it is scripted: change the network before torch.jit.script or trace"
LAZY = "it does not know its sizes yet: run the network once first"

# What a subclass may define without computing anything else than its base class.
HARMLESS = {"__init__", "__constants__", "__repr__", "extra_repr", "reset_parameters"}
# What Python itself puts into a class.
PYTHONS = set(vars(type("Empty", (), {"__annotations__": {}}))) | {
    *("__annotate__", "__annotate_func__", "__annotations_cache__", "__orig_bases__", "__parameters__"),
    *("__static_attributes__", "__firstlineno__", "__classcell__", "__abstractmethods__", "_abc_impl"),
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Wrappers that keep the parameters that they were given.
HOLDERS = ("DistributedDataParallel", "FullyShardedDataParallel")
# Modules that compute with the weights of their layers themselves, without calling these.
READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution of any kind, or says so by its name: 3-D, quantized, scripted, ..."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return True
    name = getattr(module, "original_name", type(module).__name__)
    return "conv" in name.lower() and not list(module.children())


def why_not(module: nn.Module, kinds: Iterable[type[nn.Module]], renewed: Sequence[str]) -> str | None:
    """Why another layer cannot stand for a module, or None.

    Args:
        module: the module.
        kinds: the layers that it may be; and nothing else.
        renewed: the names of the parameters that the new layer does not share with it.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return SCRIPTED
    kind = kind_of(module, kinds)
    if kind is None:
        return f"{type(module).__name__} is none of {', '.join(f'nn.{kind.__name__}' for kind in kinds)}"
    if any(is_lazy(parameter) for parameter in module.parameters()):
        return LAZY
    if parametrize.is_parametrized(module):
        lists = module.get_submodule("parametrizations").named_children()
        used = [f"{tensor} by {' and '.join(type(p).__name__ for p in by.children())}" for tensor, by in lists]
        return f"it is parametrized: {', '.join(used)}"
    reasons = [_changed_class(module, kind), changed_object(module)]
    reasons += [_no_parameter(module, name) for name in ("weight", "bias")]
    reasons += [_not_renewable(module, name) for name in renewed]
    return next((reason for reason in reasons if reason), None)


def _changed_class(module: nn.Module, kind: type[nn.Module]) -> str | None:
    """What the subclasses of `kind` define themselves."""
    own = [base for base in type(module).__mro__ if base not in kind.__mro__]
    defined = [name for base in own for name in vars(base) if name not in HARMLESS | PYTHONS]
    if not defined:
        return None
    first = "forward" if "forward" in defined else defined[0]
    return f"{type(module).__name__} is a {kind.__name__} with its own {first}"


def changed_object(module: nn.Module) -> str | None:
    """Hooks, and methods that were set on the object."""
    if module._compiled_call_impl is not None:
        return "it was compiled by itself"
    for attribute, value in vars(module).items():
        if attribute.endswith("_hooks") and value:
            hooks = [getattr(hook, "__name__", type(hook).__name__) for hook in value.values()]
            return f"it has {attribute.strip('_').replace('_', ' ')} ({', '.join(hooks)})"
        if hasattr(type(module), attribute) and callable(value):
            return f"its {attribute} was replaced on the object"
    return None


def _no_parameter(module: nn.Module, name: str) -> str | None:
    """Why `module.name` is no plain parameter, or None."""
    held = getattr(module, name, None)
    if held is None or type(module._parameters.get(name)) is nn.Parameter:
        return None
    return f"its {name} is a {type(held).__name__} and no plain parameter"


def _not_renewable(module: nn.Module, name: str) -> str | None:
    """Why a new parameter cannot stand for `module.name`, or None."""
    held = module._parameters.get(name)
    if held is None:
        return None
    if held.dtype not in DTYPES:
        return f"its {name} is {str(held.dtype).removeprefix('torch.')}"
    if held._backward_hooks or getattr(held, "_post_accumulate_grad_hooks", None):
        return f"its {name} has hooks"
    return None


def dimensions(module: nn.Module) -> int | None:
    """1, 2 or 3 for a convolution or a norm that is made for so many dimensions, else None."""
    names = [base.__name__ for base in type(module).__mro__ if base.__module__.startswith("torch.")]
    numbers = [int(name[-2]) for name in names if name[-2:] in ("1d", "2d", "3d")]
    return numbers[0] if numbers else None


def wrapper_of_parameters(module: nn.Module) -> str | None:
    """Why nothing inside `module` can be changed, or None."""
    if isinstance(module, READERS):
        return f"it is inside {type(module).__name__}, which reads its weight without calling it"
    for base in type(module).__mro__:
        if base.__name__ in HOLDERS:
            return (
                f"it is inside {base.__name__}, which keeps the old parameters: change the network before wrapping it"
            )
    return None


def plain_references(model: nn.Module) -> dict[int, str]:
    """id(module or parameter) -> the attribute that refers to it as a plain value, in a list or a bound method, say.

    Such an attribute would go on using the old layer.
    """
    found: dict[int, str] = {}
    for owner_name, owner in model.named_modules():
        if isinstance(owner, torch.jit.ScriptModule):
            continue
        for attribute, value in vars(owner).items():
            if attribute in ("_modules", "_parameters", "_buffers") or attribute.endswith("_hooks"):
                continue
            for held in _contained(value, set()):
                found.setdefault(id(held), f"{owner_name}.{attribute}".lstrip("."))
    return found


def _contained(value: Any, seen: set[int]) -> Iterator[nn.Module | nn.Parameter]:
    """Modules and parameters in a value, through containers, bound methods and functools.partial."""
    if id(value) in seen:
        return
    seen.add(id(value))
    inside: tuple[Any, ...] = ()
    if isinstance(value, (nn.Module, nn.Parameter)):
        yield value
    elif isinstance(value, dict):
        inside = (*value.keys(), *value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        inside = tuple(value)
    elif isinstance(value, types.MethodType):
        inside = (value.__self__,)
    elif isinstance(value, functools.partial):
        inside = (value.func, value.args, value.keywords)
    for part in inside:
        yield from _contained(part, seen)


class SharedMemory:
    """Which tensors of a network use the same memory: tied weights.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module):
        self.holders: defaultdict[object, list[tuple[str, nn.Module, str, Tensor]]] = defaultdict(list)
        for owner_name, owner in model.named_modules():
            for name, tensor in _tensors(owner):
                self.holders[_memory(tensor)].append((f"{owner_name}.{name}".lstrip("."), owner, name, tensor))

    def untied(self, module: nn.Module, name: str, changed: Sequence[nn.Module]) -> str | None:
        """Why `module.name` would lose its tie if the modules in `changed` got new tensors, or None."""
        tensor = module._parameters[name]
        if tensor is None:
            return None
        for full_name, owner, other, held in self.holders[_memory(tensor)]:
            if not (held is tensor and other == name and owner in changed):
                return f"its {name} shares its memory with {full_name}, which stays"
        return None


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for tensors in (module._parameters, module._buffers):
        yield from ((name, tensor) for name, tensor in tensors.items() if tensor is not None)


def _memory(tensor: Tensor) -> object:
    """The same for tensors that use the same memory; on meta tensors, too."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    return tensor.untyped_storage()._cdata if plain else id(tensor)
