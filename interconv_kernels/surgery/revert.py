"""The plain network of an InterConv network, for export and comparison."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..modules import SetLayer
from .checkpoints import identity_interconv, load_appended
from .checks import why_not
from .exchange import Renewal, conflict, exchange, finish, hand_over, nothing_changed
from .kinds import PLAIN_OF, kind_of, plain_like
from .report import SurgeryReport

LOAD_HOOKS = "_load_state_dict_pre_hooks"


def revert(model: nn.Module, *, single_images: bool = False) -> SurgeryReport:
    """Replaces layers of this library by those of torch.nn with the same outputs: InterConv2d by nn.Conv2d, and so on.

    A layer whose Ws is exactly zero becomes a plain one with weight Wu: the outputs are the same for all sets. Others
    stay, unless `single_images`: the mean of a set of one sample is that sample, so they become plain ones with weight
    Wu + Ws, which is right for sets of one image only.

    What `append_interconv` added is removed where it changes nothing, and merged activations are modules of their own
    again, so the state dict has the keys that it had before surgery.

    Args:
        model: the network, changed in place. To keep it, pass `copy.deepcopy(model)`.
        single_images: the plain network is to give the outputs for sets of one image.

    Returns:
        SurgeryReport, with the layers that stay, and the reasons, in `skipped`.

    Raises:
        ValueError: nothing was changed; the message says why.
    """
    renew = Renewal()

    def reason(module: nn.Module) -> str | None:
        kind = kind_of(module, PLAIN_OF)
        why = why_not(module, PLAIN_OF, ("weight",)) or conflict(module, kind, PLAIN_OF[kind])
        if why or single_images:
            return why
        assert isinstance(module, SetLayer)
        if module.weight.is_meta:
            return "it is on the meta device, so it is unknown whether its weights for the set mean are zero"
        if torch.count_nonzero(module.weight.chunk(2, dim=1)[1]):
            return "its weights for the set mean are not zero; for sets of one image: revert(model, single_images=True)"
        return None

    def plain_weight(weight: Tensor) -> Tensor:
        own, other = weight.chunk(2, dim=1)
        return own + other if single_images else own.clone()

    def build(module: nn.Module) -> nn.Module:
        assert isinstance(module, SetLayer)
        plain = plain_like(module)
        plain.weight, plain.bias = renew(module.weight, plain_weight), module.bias  # type: ignore[assignment]
        hand_over(module, plain, kind_of(module, PLAIN_OF))
        plain.training = module.training
        if module.activation is None:
            return plain
        activated.append(nn.Sequential(plain, module.activation))
        return activated[-1]

    def note(module: nn.Module) -> str:
        return "Wu + Ws, for sets of one image" if single_images else "Wu; Ws is zero"

    before, activated = list(model.parameters()), list[nn.Sequential]()
    removed = exchange(
        model,
        wanted=lambda _, module: _changes_nothing(module),
        reason=lambda _: None,
        build=lambda pair: pair.get_submodule("0"),
        note=lambda pair: f"the {type(pair.get_submodule('1')).__name__} changed nothing",
    )
    report = exchange(
        removed.model,
        wanted=lambda _, module: isinstance(module, SetLayer),
        reason=reason,
        build=build,
        renewed=("weight",),
        note=note,
    )
    report.changed = removed.changed + report.changed
    if not report.changed:
        raise nothing_changed(report, "InterConv")
    _separate(report.model, activated)
    finish(report, before)
    return report


def _changes_nothing(pair: nn.Module) -> bool:
    """Whether it is what `append_interconv` made and its layer returns its input for any set."""
    hooks = [getattr(hook, "hook", None) for hook in pair._load_state_dict_pre_hooks.values()]
    if hooks != [load_appended] or vars(pair).keys() != vars(nn.Sequential()).keys() or len(list(pair.children())) != 2:
        return False
    if any(value for name, value in vars(pair).items() if name.endswith("_hooks") and name != LOAD_HOOKS):
        return False
    layer = list(pair.children())[1]
    if not isinstance(layer, SetLayer) or layer.activation is not None or why_not(layer, PLAIN_OF, ("weight",)):
        return False
    identity = identity_interconv(layer, layer.weight.device)
    return not layer.weight.is_meta and all(torch.equal(x, identity[name]) for name, x in layer.state_dict().items())


def _separate(model: nn.Module, activated: list[nn.Sequential]) -> None:
    """Puts activations into the place of the nn.Identity that `merge_activations` left after the layer."""
    for parent in list(model.modules()):
        children = list(parent.named_children()) if type(parent) is nn.Sequential else []
        for (key, layer), (next_key, follower) in pairwise(children):
            if type(follower) is nn.Identity and any(layer is pair for pair in activated):
                parent._modules[key], parent._modules[next_key] = layer.children()
