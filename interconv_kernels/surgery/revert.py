"""The plain network of an InterConv network, for export and comparison."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..modules import InterConv2d
from .checkpoints import identity_interconv, load_appended
from .checks import why_not
from .exchange import Renewal, conflict, exchange, finish, hand_over, nothing_changed
from .report import SurgeryReport

LOAD_HOOKS = "_load_state_dict_pre_hooks"


def revert(model: nn.Module, *, single_images: bool = False) -> SurgeryReport:
    """Replaces InterConv2d layers by nn.Conv2d layers with the same outputs.

    A layer whose Ws is exactly zero becomes an nn.Conv2d with weight Wu: the outputs are the same for all sets. Others
    stay, unless `single_images`: the mean of a set of one sample is that sample, so they become an nn.Conv2d with
    weight Wu + Ws, which is right for sets of one image only.

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
        why = why_not(module, InterConv2d, ("weight",)) or conflict(module, InterConv2d, nn.Conv2d)
        if why or single_images:
            return why
        assert isinstance(module, InterConv2d)
        if module.weight.is_meta:
            return "it is on the meta device, so it is unknown whether its weights for the set mean are zero"
        if torch.count_nonzero(module.weight[:, module.in_channels :]):
            return "its weights for the set mean are not zero; for sets of one image: revert(model, single_images=True)"
        return None

    def plain_weight(weight: Tensor) -> Tensor:
        own, other = weight.chunk(2, dim=1)
        return own + other if single_images else own.clone()

    def build(module: nn.Module) -> nn.Module:
        assert isinstance(module, InterConv2d)
        sizes = (module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding)
        conv = nn.Conv2d(*sizes, module.dilation, bias=False, device="meta")
        conv.weight, conv.bias = renew(module.weight, plain_weight), module.bias
        hand_over(module, conv, InterConv2d)
        conv.training = module.training
        if module.activation is None:
            return conv
        activated.append(nn.Sequential(conv, module.activation))
        return activated[-1]

    def note(module: nn.Module) -> str:
        return "Wu + Ws, for sets of one image" if single_images else "Wu; Ws is zero"

    before, activated = list(model.parameters()), list[nn.Sequential]()
    removed = exchange(
        model,
        wanted=lambda _, module: _changes_nothing(module),
        reason=lambda _: None,
        build=lambda pair: pair.get_submodule("0"),
        note=lambda _: "the InterConv2d changed nothing",
    )
    report = exchange(
        removed.model,
        wanted=lambda _, module: isinstance(module, InterConv2d),
        reason=reason,
        build=build,
        renewed=("weight",),
        note=note,
    )
    report.changed = removed.changed + report.changed
    if not report.changed:
        raise nothing_changed(report, "InterConv2d")
    _separate(report.model, activated)
    finish(report, before)
    return report


def _changes_nothing(pair: nn.Module) -> bool:
    """Whether it is what `append_interconv` made and the InterConv2d returns its input for any set."""
    hooks = [getattr(hook, "hook", None) for hook in pair._load_state_dict_pre_hooks.values()]
    if hooks != [load_appended] or vars(pair).keys() != vars(nn.Sequential()).keys() or len(list(pair.children())) != 2:
        return False
    if any(value for name, value in vars(pair).items() if name.endswith("_hooks") and name != LOAD_HOOKS):
        return False
    layer = list(pair.children())[1]
    if not isinstance(layer, InterConv2d) or layer.activation is not None or why_not(layer, InterConv2d, ("weight",)):
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
